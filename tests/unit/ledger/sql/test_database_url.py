"""URLs of databases that a ledger takes, and the errors for others."""

from __future__ import annotations

import pytest

from delivery.errors import ConfigError
from delivery.ledger.sql.url import parse_url


@pytest.mark.parametrize(
    ("given", "driver"),
    [("postgresql://u:p@h/d", "postgresql+psycopg"), ("sqlite:////tmp/x.db", "sqlite")],
)
def test_each_database_gets_its_driver(given: str, driver: str) -> None:
    assert parse_url(given).drivername == driver


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("postgresql://u:p@h1:5433,h2:5434/d", "h1,h2", "5433,5434"),
        ("postgresql+psycopg://h1,h2:5434/d", "h1,h2", "5432,5434"),
        ("postgres://u@[::1]:5433,[fe80::2]/d", "::1,fe80::2", "5433,5432"),
        ("postgresql://u@/d?host=h1:5433&host=h2", "h1,h2", "5433,5432"),
        ("postgresql://u@/d?host=h1,h2&port=5433", "h1,h2", "5433,5433"),
        ("postgresql://u@/d?host=h1&host=h2&port=5433&port=5434", "h1,h2", "5433,5434"),
    ],
)
def test_several_servers_can_be_named_and_the_one_that_takes_writes_is_asked_for(
    given: str, host: str, port: str
) -> None:
    url = parse_url(given.replace("postgres://", "postgresql://"))
    assert (url.query["host"], url.query["port"]) == (host, port)
    assert url.query["target_session_attrs"] == "read-write"
    assert url.database == "d"


def test_a_password_with_a_comma_and_options_are_kept() -> None:
    url = parse_url("postgresql://u:p%2C%40,w@h1,h2/d?sslmode=require&target_session_attrs=primary")
    assert url.password == "p,@,w"
    assert (url.query["sslmode"], url.query["target_session_attrs"]) == ("require", "primary")
    assert parse_url("postgresql://u:p/x,y@h1,h2/d").password == "p/x,y"
    single = parse_url("postgresql://u:a,b@h/d")
    assert (single.host, single.password, dict(single.query)) == ("h", "a,b", {})


def test_the_folder_of_a_socket_is_no_list() -> None:
    assert parse_url("postgresql://u@/d?host=/run/postgresql").query["host"] == "/run/postgresql"


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://u:secret@h1:x,h2/d",
        "postgresql://u:secret@h1:0,h2/d",
        "postgresql://u:secret@h1,,h2/d",
        "postgresql://u:secret@::1,h2/d",
        "postgresql://u:secret@h1:70000,h2/d",
        "postgresql://u:secret@/d?host=h1,h2&port=1,2,3",
        "postgresql://u:secret@/d?host=h1:1,h2&port=1,2",
        "postgresql://u:secret@h0/d?host=h1,h2",
    ],
)
def test_servers_that_cannot_be_read_are_refused_with_what_to_write(given: str) -> None:
    with pytest.raises(ConfigError, match="hosts") as caught:
        parse_url(given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("not a url", "not a database URL"),
        ("sqlite://", "memory is not durable"),
        ("sqlite:///:memory:", "memory is not durable"),
        ("mysql://u:secret@h/d", "use postgresql or sqlite"),
    ],
)
def test_anything_else_is_refused_with_what_to_write(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_url(given)
    assert "secret" not in str(caught.value)
