"""The promises of the ledger's small stores, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import Event, EventClass
from delivery.domain.health import RECOVERY, THRESHOLD, Breaker, BreakerState
from delivery.domain.users.contact import Contact
from delivery.errors import LedgerUnavailable
from delivery.ledger import SqlLedger
from delivery.testing import MemoryLedger, make_event

FULL = Contact(
    "ada",
    email="ada@example.org",
    phone="+491701234567",
    push=("ntfy://topic", "mailto://x"),
    locale="de-DE",
    time_zone="Europe/Berlin",
    quiet_hours=("22:00", "07:00"),
    opt_out=("sms",),
)


def event(user: str = "ada", **changes: Any) -> Event:
    made = make_event(
        id=str(uuid_utils.uuid7()),
        type="agent_completed",
        user_id=user,
        run_id="run-1",
        seq=3,
        at=datetime.now(UTC),
        event_class=EventClass.CRITICAL,
        data={"text": "grüße", "n": 1.5},
        thread_id="thread-1",
        meta={"flags": []},
    )
    return made.evolve(**changes)


# --- contacts --------------------------------------------------------------------------------


def test_a_contact_reads_back_as_it_was_put(ledger: SqlLedger) -> None:
    ledger.contacts.put(FULL)
    assert ledger.contacts.get("ada") == FULL
    assert ledger.contacts.get("eve") is None


def test_users_whose_names_look_the_same_are_two(ledger: SqlLedger) -> None:
    composed, decomposed = "Am\u00e9lie", "Ame\u0301lie"
    ledger.contacts.put(Contact(composed, email="a@example.org"))
    assert ledger.contacts.get(decomposed) is None
    assert ledger.contacts.get(composed.upper()) is None
    assert ledger.contacts.get(f"{composed} ") is None
    ledger.contacts.put(Contact(decomposed, email="b@example.org"))
    assert ledger.contacts.get(composed) == Contact(composed, email="a@example.org")


def test_a_put_replaces_everything(ledger: SqlLedger) -> None:
    ledger.contacts.put(FULL)
    ledger.contacts.put(Contact("ada", phone="+491701234568"))
    assert ledger.contacts.get("ada") == Contact("ada", phone="+491701234568")


def test_deleting_says_whether_there_was_one(ledger: SqlLedger) -> None:
    ledger.contacts.put(FULL)
    assert ledger.contacts.delete("ada")
    assert not ledger.contacts.delete("ada")
    assert ledger.contacts.get("ada") is None


def test_opting_out_keeps_the_rest_and_repeats_safely(ledger: SqlLedger) -> None:
    ledger.contacts.put(FULL)
    for _ in range(2):
        ledger.contacts.opt_out("ada", "email")
    assert ledger.contacts.get("ada") == replace(FULL, opt_out=("sms", "email"))


def test_a_user_without_contact_data_can_opt_out(ledger: SqlLedger) -> None:
    ledger.contacts.opt_out("eve", "email")
    assert ledger.contacts.get("eve") == Contact("eve", opt_out=("email",))


def test_an_error_of_the_database_shows_no_address(ledger: SqlLedger) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.text("drop table contacts"))
    with pytest.raises((sa.exc.DBAPIError, LedgerUnavailable)) as caught:
        ledger.contacts.put(FULL)
    shown = str(caught.value) + str(caught.value.__cause__)
    assert "ada@example.org" not in shown
    assert "ntfy://topic" not in shown


# --- breakers --------------------------------------------------------------------------------


@pytest.fixture
def wait_out(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ends the one-second cache of the breakers."""
    real, ahead = time.monotonic, 0.0

    def move() -> None:
        nonlocal ahead
        ahead += 1.1
        if isinstance(ledger, MemoryLedger):
            ledger.advance(1.1)

    monkeypatch.setattr("delivery.ledger.stores.breakers.time.monotonic", lambda: real() + ahead)
    return move


@pytest.fixture
def other(ledger: SqlLedger, open_ledger: Callable[[], SqlLedger]) -> SqlLedger:
    """The same ledger, opened by another process."""
    return open_ledger()


def trip(ledger: SqlLedger) -> Breaker:
    for _ in range(THRESHOLD):
        breaker = ledger.breakers.report("smtp", False)
    return breaker


def test_a_rate_is_shared_by_all_workers_and_has_room_again_in_time(
    ledger: SqlLedger, other: SqlLedger, advance: Callable[[float], None]
) -> None:
    assert [one.provider_rates.take("email/ses", 0.01) for one in (ledger, other)] == [
        0.0,
        pytest.approx(100.0, abs=30.0),
    ]
    assert other.provider_rates.take("email/postmark", 0.01) == 0.0
    advance(101.0)
    assert other.provider_rates.take("email/ses", 0.01) == 0.0


def test_a_seconds_messages_may_go_at_once_and_a_higher_rate_counts_at_once(
    ledger: SqlLedger,
) -> None:
    assert ledger.provider_rates.take("email/ses", 0.001) == 0.0
    pauses = [ledger.provider_rates.take("email/ses", 0.1) for _ in range(2)]
    assert pauses == [0.0, pytest.approx(10.0, abs=9.0)]
    pauses = [ledger.provider_rates.take("sms/texts", 1_000.0) for _ in range(20)]
    assert pauses == [0.0] * 20


def test_an_unknown_breaker_is_closed(ledger: SqlLedger) -> None:
    assert ledger.breakers.get("smtp") == Breaker()
    assert ledger.breakers.allows("smtp")
    assert ledger.breakers.all() == {}


def test_successes_of_a_closed_breaker_write_nothing(ledger: SqlLedger) -> None:
    ledger.breakers.report("smtp", True)
    assert ledger.breakers.all() == {}


def test_repeated_failures_open_it_for_every_worker(ledger: SqlLedger, other: SqlLedger) -> None:
    trip(ledger)
    assert ledger.breakers.get("smtp").state is BreakerState.OPEN
    assert not ledger.breakers.allows("smtp")
    assert not other.breakers.allows("smtp")
    assert other.breakers.allows("twilio")
    assert other.breakers.all().keys() == {"smtp"}


def test_a_success_between_failures_starts_the_count_anew(ledger: SqlLedger) -> None:
    for _ in range(THRESHOLD - 1):
        ledger.breakers.report("smtp", False)
    ledger.breakers.report("smtp", True)
    assert ledger.breakers.report("smtp", False) == replace(
        ledger.breakers.get("smtp"), state=BreakerState.CLOSED, failures=1
    )


def test_failures_of_workers_at_once_are_all_counted(ledger: SqlLedger) -> None:
    threads = [
        threading.Thread(target=ledger.breakers.report, args=("smtp", False)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ledger.breakers.get("smtp").failures == 4


def test_since_is_the_ledgers_clock_in_epoch_seconds(ledger: SqlLedger) -> None:
    since = trip(ledger).since
    assert abs(since - ledger.now().timestamp()) < 5
    assert ledger.breakers.get("smtp").since == pytest.approx(since, abs=1e-5)


def test_after_the_recovery_one_probe_passes_and_no_second(
    ledger: SqlLedger, other: SqlLedger, advance: Any, wait_out: Callable[[], None]
) -> None:
    trip(ledger)
    advance(RECOVERY + 1)
    wait_out()
    assert ledger.breakers.allows("smtp")
    assert not ledger.breakers.allows("smtp")
    assert not other.breakers.allows("smtp")
    wait_out()
    assert not ledger.breakers.allows("smtp")
    assert ledger.breakers.get("smtp").state is BreakerState.HALF_OPEN


def test_of_many_workers_at_once_one_probes(
    open_ledger: Callable[[], SqlLedger], ledger: SqlLedger, advance: Any
) -> None:
    trip(ledger)
    advance(RECOVERY + 1)
    ledgers = [open_ledger() for _ in range(4)]
    start, answers = threading.Barrier(4), []

    def probe(one: SqlLedger) -> None:
        start.wait(10)
        answers.append(one.breakers.allows("smtp"))

    threads = [threading.Thread(target=probe, args=(one,)) for one in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in ledgers:
        one.close()
    assert sorted(answers) == [False, False, False, True]


@pytest.mark.parametrize("ok", [True, False])
def test_the_probe_decides(
    ledger: SqlLedger, advance: Any, wait_out: Callable[[], None], ok: bool
) -> None:
    trip(ledger)
    advance(RECOVERY + 1)
    wait_out()
    assert ledger.breakers.allows("smtp")
    ledger.breakers.report("smtp", ok)
    assert ledger.breakers.allows("smtp") is ok
    wait_out()
    assert ledger.breakers.allows("smtp") is ok


def test_an_answer_may_be_a_second_old(
    ledger: SqlLedger, other: SqlLedger, wait_out: Callable[[], None]
) -> None:
    assert other.breakers.allows("smtp")
    trip(ledger)
    assert other.breakers.allows("smtp")
    wait_out()
    assert not other.breakers.allows("smtp")


def test_without_the_ledger_calls_pass(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'missing' / 'ledger.db'}")
    assert ledger.breakers.allows("smtp")
    with pytest.raises(LedgerUnavailable):
        ledger.breakers.get("smtp")
    ledger.close()


# --- queue copies ----------------------------------------------------------------------------


def test_copies_read_back_whole_and_in_order(ledger: SqlLedger) -> None:
    mine = [event(), event(), event(meta=None, thread_id=None)]
    ledger.queue_copies.put([*mine, event(user="eve")])
    ledger.queue_copies.put([])
    assert ledger.queue_copies.read("ada") == mine


def test_a_copy_that_is_there_already_stays_single(ledger: SqlLedger) -> None:
    one = event()
    ledger.queue_copies.put([one])
    ledger.queue_copies.put([one, event(user="eve")])
    assert ledger.queue_copies.read("ada") == [one]


def test_a_limited_read_gives_the_newest(ledger: SqlLedger) -> None:
    mine = [event() for _ in range(5)]
    ledger.queue_copies.put(mine)
    assert ledger.queue_copies.read("ada", limit=2) == mine[-2:]


def test_trimming_deletes_what_is_too_old(ledger: SqlLedger, advance: Any) -> None:
    ledger.queue_copies.put([event() for _ in range(3)])
    advance(100)
    kept = event()
    ledger.queue_copies.put([kept])
    assert ledger.queue_copies.trim(50.0) == 3
    assert ledger.queue_copies.read("ada") == [kept]
    assert ledger.queue_copies.trim(50.0) == 0


# --- nodes -----------------------------------------------------------------------------------


def test_nodes_show_their_last_beat(ledger: SqlLedger, advance: Any) -> None:
    ledger.nodes.beat("b", "worker", 0, {})
    ledger.nodes.beat("a", "gateway", 1, {"version": "1"})
    advance(1)
    ledger.nodes.beat("a", "gateway", 7, {"version": "2"})
    gateway, worker = ledger.nodes.all()
    assert (gateway.node, gateway.kind, gateway.connections) == ("a", "gateway", 7)
    assert gateway.info == {"version": "2"}
    assert worker.node == "b"
    assert gateway.started_at < gateway.seen_at


def test_silent_and_departed_nodes_are_not_shown(ledger: SqlLedger, advance: Any) -> None:
    ledger.nodes.beat("silent", "worker", 0, {})
    advance(61)
    ledger.nodes.beat("here", "worker", 0, {})
    ledger.nodes.beat("gone", "worker", 0, {})
    ledger.nodes.leave("gone")
    assert [node.node for node in ledger.nodes.all()] == ["here"]
    assert len(ledger.nodes.all(max_age=120.0)) == 2


def test_a_node_that_comes_back_after_silence_has_started_anew(
    ledger: SqlLedger, advance: Any
) -> None:
    ledger.nodes.beat("a", "worker", 0, {})
    advance(10)
    ledger.nodes.beat("a", "worker", 0, {})
    [before] = ledger.nodes.all()
    assert before.seen_at - before.started_at > timedelta(seconds=9)
    advance(3600)
    ledger.nodes.beat("a", "worker", 0, {})
    [after] = ledger.nodes.all()
    assert after.seen_at == after.started_at


def test_nodes_that_never_come_back_are_deleted(ledger: SqlLedger, advance: Any) -> None:
    ledger.nodes.beat("old", "worker", 0, {})
    advance(90_000)
    ledger.nodes.beat("new", "worker", 0, {})
    assert [node.node for node in ledger.nodes.all(max_age=1e6)] == ["new"]
