"""The relay: a publish never waits, never grows without bound, never kills the thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from delivery.domain.policy import Priority
from delivery.tasks.broker import relay as relay_module
from delivery.tasks.broker.app import make_app
from delivery.tasks.broker.relay import Relay
from tests.waiting import until_blocking


class Gate(Relay):
    """A relay whose broker is a list behind a gate."""

    def __init__(self, max_pending: int = 10_000) -> None:
        super().__init__(make_app("memory://"), max_pending=max_pending)
        self.delivered: list[tuple[str, list[str]]] = []
        self.opened = threading.Event()
        self.opened.set()
        self.waiting = threading.Event()
        self.faults: list[Exception] = []

    def _warm_up(self) -> None:
        pass

    def _check(self) -> None:
        if self.faults:
            raise self.faults[0]

    def _send_task(self, channel: str, ids: Sequence[str], priority: object = None) -> None:
        self.waiting.set()
        assert self.opened.wait(10.0)
        if self.faults:
            raise self.faults.pop(0)
        self.delivered.append((channel, list(ids)))


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    monkeypatch.setattr(relay_module, "PAUSE", 0.0)
    made = Gate()
    yield made
    made.opened.set()
    made.stop(5.0)


def test_what_is_published_is_sent(relay: Gate) -> None:
    relay.start()
    relay.publish("email", ["a", "b"])
    until_blocking(lambda: relay.sent == 2)
    assert relay.delivered == [("email", ["a", "b"])]


def test_what_is_published_before_the_start_is_sent_after_it(relay: Gate) -> None:
    relay.publish("email", ["a"])
    relay.start()
    until_blocking(lambda: relay.delivered)


def test_a_publish_does_not_wait_for_a_broker_that_hangs(relay: Gate) -> None:
    relay.opened.clear()
    relay.start()
    relay.publish("queue", ["a"])
    assert relay.waiting.wait(5.0)
    for number in range(1_000):  # returns although the thread is stuck in its first send
        relay.publish("queue", [f"id{number}"])
    assert relay.delivered == []
    assert relay.backlog == 1_000


def test_what_gathers_meanwhile_leaves_in_batches_each_id_once(relay: Gate) -> None:
    relay.opened.clear()
    relay.start()
    relay.publish("queue", ["first"])
    assert relay.waiting.wait(5.0)
    for number in range(150):
        relay.publish("queue", [f"id{number}"])
        relay.publish("queue", [f"id{number}"])
    relay.opened.set()
    until_blocking(lambda: relay.sent == 151)
    assert [len(batch) for _, batch in relay.delivered] == [1, 100, 50]


def test_what_has_a_higher_priority_leaves_first(relay: Gate) -> None:
    relay.publish("email", ["low"], Priority.LOW)
    relay.publish("email", ["normal"], Priority.NORMAL)
    relay.publish("email", ["high"], Priority.HIGH)
    relay.start()
    until_blocking(lambda: len(relay.delivered) == 3)
    assert [ids for _, ids in relay.delivered] == [["high"], ["normal"], ["low"]]


def test_a_full_buffer_drops_the_oldest_and_counts_it(relay: Gate) -> None:
    small = Gate(max_pending=2)
    small.publish("queue", ["a", "b"])
    small.publish("queue", ["c"])
    small.publish("queue", ["d"])
    assert (small.dropped, small.backlog) == (2, 2)
    small.start()
    small.stop(5.0)
    assert small.delivered == [("queue", ["c", "d"])]


def test_an_outage_is_logged_once_and_the_thread_outlives_it(
    relay: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    relay.faults = [OSError("redis://user:secret@host"), OSError("again"), OSError("again")]
    with caplog.at_level(logging.INFO):
        relay.start()
        for number in range(4):
            relay.publish("queue", [f"id{number}"])
            until_blocking(lambda: relay.failed + relay.sent == relay.published)
    assert (relay.failed, relay.sent) == (3, 1)
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "broker is back" in caplog.text
    assert "secret" not in caplog.text


def test_stopping_sends_what_is_pending(relay: Gate) -> None:
    relay.start()
    for number in range(50):
        relay.publish("queue", [f"id{number}"])
    relay.stop(5.0)
    assert relay.sent == 50


def test_stopping_does_not_wait_longer_than_told(
    relay: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    relay.opened.clear()
    relay.start()
    relay.publish("queue", ["a"])
    assert relay.waiting.wait(5.0)
    began = time.monotonic()
    relay.stop(0.05)
    assert time.monotonic() - began < 2.0
    assert "does not answer" in caplog.text


def test_nothing_is_published_for_no_ids(relay: Gate) -> None:
    relay.publish("queue", [])
    assert relay.backlog == 0


def test_an_unknown_channel_is_refused(relay: Gate) -> None:
    with pytest.raises(ValueError, match="pigeon"):
        relay.publish("pigeon", ["a"])


def test_a_relay_starts_once(relay: Gate) -> None:
    relay.start()
    with pytest.raises(RuntimeError, match="already"):
        relay.start()
