"""One suite for every store of queue copies: SQL, memory and Redis streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from delivery.bus.user_streams import RedisStreams
from delivery.domain.event import EventClass
from delivery.domain.stores.chain import QueueCopyStore
from delivery.ledger import SqlLedger, migrate
from delivery.testing import MemoryLedger
from tests.messages import make_event

HOUR = 3_600.0


def _of_ledger(url: str, stack: ExitStack) -> QueueCopyStore:
    migrate.upgrade(url)
    ledger = SqlLedger(url)
    stack.callback(ledger.close)
    return ledger.queue_copies


@pytest.fixture(params=["sqlite", "postgresql", "memory", "redis"])
def copies(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QueueCopyStore]:
    with ExitStack() as stack:
        if request.param == "redis":
            streams = RedisStreams(request.getfixturevalue("redis_url"), HOUR)
            stack.callback(streams.close)
            yield streams
        elif request.param == "memory":
            ledger = MemoryLedger()
            stack.callback(ledger.close)
            yield ledger.queue_copies
        elif request.param == "sqlite":
            yield _of_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", stack)
        else:
            yield _of_ledger(request.getfixturevalue("postgres_url"), stack)


def test_copies_come_back_whole_and_in_order(copies: QueueCopyStore) -> None:
    events = [
        make_event(1, "agent_started"),
        make_event(2, "note", {"ü": [1, 2.5, None, {"x": "é\n"}]}, thread_id="t-1"),
        make_event(
            3, "auth_failed", meta={"flags": ["placeholder:run_id"]}, event_class=EventClass.AUTH
        ),
        make_event(4, seq=None, run_id="run-8"),
    ]
    copies.put(events[:2])
    copies.put(events[2:])
    assert copies.read("ada") == events


def test_a_user_sees_only_their_own_copies(copies: QueueCopyStore) -> None:
    mine, theirs = make_event(1), make_event(2, user_id="bob")
    copies.put([mine, theirs])
    assert copies.read("ada") == [mine]
    assert copies.read("bob") == [theirs]
    assert copies.read("eve") == []


@pytest.mark.parametrize("user_id", ["a:b*[c]?", "ü ñ", "ada ", "x" * 128])
def test_any_user_id_has_copies_of_its_own(copies: QueueCopyStore, user_id: str) -> None:
    copies.put([make_event(1), make_event(2, user_id=user_id)])
    assert [event.user_id for event in copies.read(user_id)] == [user_id]
    assert len(copies.read("ada")) == 1


def test_a_copy_put_twice_is_read_once_in_its_first_place(copies: QueueCopyStore) -> None:
    first, second = make_event(1), make_event(2)
    copies.put([first, second])
    copies.put([first])
    assert copies.read("ada") == [first, second]


def test_a_limit_keeps_the_newest(copies: QueueCopyStore) -> None:
    events = [make_event(number) for number in range(10)]
    copies.put(events)
    assert copies.read("ada", 3) == events[-3:]


def test_putting_nothing_is_fine(copies: QueueCopyStore) -> None:
    copies.put([])
    assert copies.read("ada") == []


def test_old_copies_are_trimmed_and_young_ones_stay(copies: QueueCopyStore) -> None:
    events = [make_event(1), make_event(2).evolve(user_id="bob")]
    copies.put(events)
    assert copies.trim(HOUR) == 0
    assert copies.read("ada") == events[:1]
    assert copies.trim(-1.0) == 2
    assert copies.read("ada") == []
    assert copies.read("bob") == []
