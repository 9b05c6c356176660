"""URLs of a Redis behind Sentinel: what they may say, and what is said about the others."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from delivery.config import load_settings
from delivery.errors import ConfigError
from delivery.redis_servers.url import SentinelUrl, is_sentinel, parse_sentinel
from delivery.tasks.broker.app import make_app


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("sentinel://h1/events", SentinelUrl((("h1", 26379),), "events")),
        (
            "sentinel://h1:1,h2,[::1]:3/events/7",
            SentinelUrl((("h1", 1), ("h2", 26379), ("::1", 3)), "events", 7),
        ),
        (
            "sentinel+ssl://ada:p%40%2C%2F@h1,h2/events/0",
            SentinelUrl(
                (("h1", 26379), ("h2", 26379)),
                "events",
                username="ada",
                password="p@,/",
                tls=True,
            ),
        ),
        (
            "SENTINEL://:word@h1/events?sentinel_username=s&sentinel_password=t%26",
            SentinelUrl(
                (("h1", 26379),),
                "events",
                password="word",
                sentinel_username="s",
                sentinel_password="t&",
            ),
        ),
    ],
)
def test_a_url_names_sentinels_the_primary_and_a_database(url: str, means: SentinelUrl) -> None:
    assert is_sentinel(url)
    assert parse_sentinel(url) == means


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://", "host"),
        ("sentinel://:hunter22@/events", "host"),
        ("sentinel://h1", "name"),
        ("sentinel://:hunter22@h1/", "name"),
        ("sentinel://h1//0", "name"),
        ("sentinel://h1/two words/0", "name"),
        ("sentinel://h1/events/zero", "database"),
        ("sentinel://h1/events/0/1", "database"),
        ("sentinel://h1/events/99999", "database"),
        ("sentinel://h1:0/events", "host"),
        ("sentinel://h1:70000/events", "host"),
        ("sentinel://h1,,h2/events", "host"),
        ("sentinel://h1;h2/events", "host"),
        ("sentinel://hunter22@h1/events", "colon"),
        ("sentinel://:hunter22@h1/events?db=3", "options"),
    ],
)
@pytest.mark.parametrize("name", ["redis_url", "broker_url"])
def test_a_url_that_cannot_be_read_is_refused_with_what_to_write(
    url: str, says: str, name: str
) -> None:
    with pytest.raises(ConfigError, match="sentinel://:password@host1") as caught:
        load_settings(**{name: url})
    assert says in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_celery_gets_the_password_of_the_servers_and_that_of_the_sentinels() -> None:
    app = make_app("sentinel+ssl://ada:p%40ss@h1:1,h2/events/3?sentinel_password=word")
    with app.connection_for_write() as connection:
        assert (connection.userid, connection.password) == ("ada", "p@ss")
        assert connection.virtual_host == "3"
        options: Any = connection.transport_options
        assert options["sentinels"] == (("h1", 1), ("h2", 26379))
        assert options["master_name"] == "events"
        assert options["sentinel_kwargs"]["password"] == "word"
        assert options["sentinel_kwargs"]["ssl"] is True
        assert connection.ssl
        assert connection.transport.driver_type == "redis"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:word@h:1/2", "redis://:**@h:1/2"),
        ("sentinel://:word@h1:1,h2/events/2", "sentinel://:**@h1:1/2"),
        ("amqp://ada:word@h:1//", "amqp://ada:**@h:1//"),
    ],
)
def test_logs_and_flower_know_the_broker_by_its_scheme(url: str, shown: str) -> None:
    with make_app(url).connection_for_write() as connection:
        assert connection.as_uri() == shown
        assert connection.clone().as_uri() == shown


def test_a_broker_over_tls_is_checked_unless_its_url_says_otherwise() -> None:
    for url, wanted in (
        ("rediss://h", ssl.CERT_REQUIRED),
        ("rediss://h?ssl_cert_reqs=none", ssl.CERT_NONE),
    ):
        with make_app(url).connection_for_write() as connection:
            found: Any = connection.ssl
            assert found["ssl_cert_reqs"] == wanted


def test_no_password_of_a_sentinel_reaches_the_log() -> None:
    settings = load_settings(redis_url="sentinel://:word1@h/events?sentinel_password=word2")
    assert {"word1", "word2"} <= set(settings.secret_values())
