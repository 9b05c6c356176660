"""The Redis streams' own duties: bounds, age, and a Redis that is away."""

from __future__ import annotations

import time

import pytest
import redis

from delivery.bus.user_streams import PREFIX, RedisStreams
from delivery.errors import ChannelUnavailable, ConfigError
from tests import servers
from tests.messages import make_event


def test_a_stream_is_capped_at_about_its_length(redis_url: str) -> None:
    streams = RedisStreams(redis_url, 3_600.0, max_length=200)
    for start in range(0, 2_000, 100):
        streams.put([make_event(number) for number in range(start, start + 100)])
    with redis.Redis.from_url(redis_url) as client:
        assert 200 <= client.xlen(f"{PREFIX}ada") < 500
    assert streams.read("ada")[-1] == make_event(1_999)


def test_a_stream_without_writes_vanishes_after_its_age(redis_url: str) -> None:
    streams = RedisStreams(redis_url, 100.0)
    streams.put([make_event(1)])
    with redis.Redis.from_url(redis_url) as client:
        assert 90 < client.ttl(f"{PREFIX}ada") <= 100


def test_copies_past_their_age_are_not_read_although_newer_ones_keep_the_stream(
    redis_url: str,
) -> None:
    streams = RedisStreams(redis_url, 60.0)
    with redis.Redis.from_url(redis_url) as client:
        seconds, _ = client.time()
        client.xadd(f"{PREFIX}ada", {"event": b"{}"}, id=f"{(seconds - 61) * 1000}-0")
    streams.put([make_event(1)])
    assert streams.read("ada") == [make_event(1)]


@pytest.mark.parametrize(
    "fields", [{"event": b"not json"}, {"event": b"{}"}, {"other": b"x"}, {"event": b"[]"}]
)
def test_an_entry_that_is_not_ours_is_skipped_and_logged(
    redis_url: str, fields: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    streams = RedisStreams(redis_url, 60.0)
    with redis.Redis.from_url(redis_url) as client:
        client.xadd(f"{PREFIX}ada", fields)
    streams.put([make_event(1)])
    assert streams.read("ada") == [make_event(1)]
    assert "queue copy skipped, malformed" in caplog.text


def test_an_event_of_another_user_in_the_stream_is_never_handed_out(redis_url: str) -> None:
    streams = RedisStreams(redis_url, 60.0)
    streams.put([make_event(1, user_id="bob")])
    with redis.Redis.from_url(redis_url) as client:
        client.rename(f"{PREFIX}bob", f"{PREFIX}ada")
    assert streams.read("ada") == []


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_redis_that_is_away_or_frozen_is_unavailable_in_time(fault: str) -> None:
    with servers.redis_server() as server:
        streams = RedisStreams(server.url, 60.0, timeout=0.3)
        streams.put([make_event(1)])
        getattr(server, fault)()
        begun = time.monotonic()
        for call in (
            lambda: streams.put([make_event(2)]),
            lambda: streams.read("ada"),
            lambda: streams.trim(60.0),
            streams.ping,
        ):
            with pytest.raises(ChannelUnavailable):
                call()
        assert time.monotonic() - begun < 5.0


def test_it_works_again_once_redis_is_back() -> None:
    with servers.redis_server() as server:
        streams = RedisStreams(server.url, 60.0, timeout=0.5)
        server.kill()
        with pytest.raises(ChannelUnavailable):
            streams.ping()
        server.restart()
        streams.put([make_event(1)])
        assert streams.read("ada") == [make_event(1)]


def test_a_url_that_cannot_be_read_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="DELIVERY_REDIS_URL") as caught:
        RedisStreams("http://user:sesame@h", 60.0)
    assert "sesame" not in str(caught.value)
