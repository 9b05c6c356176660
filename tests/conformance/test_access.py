"""The ledger for the event loop: its answers and its timeouts."""

from __future__ import annotations

import asyncio
import threading

import pytest

from delivery.errors import LedgerUnavailable
from delivery.ledger import SqlLedger, access
from delivery.ledger.access import LedgerAccess
from delivery.testing import make_entry, make_event


async def test_a_snapshot_holds_figures_alerts_and_nodes(ledger: SqlLedger) -> None:
    reads = LedgerAccess(ledger)
    ledger.nodes.beat("n1", "gateway", 3, {})
    snapshot = await reads.snapshot()
    assert ([node.node for node in snapshot.nodes], snapshot.alerts) == (["n1"], [])


async def test_a_first_feed_tells_the_runs_numbers_beside_the_page(ledger: SqlLedger) -> None:
    reads = LedgerAccess(ledger)
    event = make_event(seq=None)
    ledger.recording.commit([make_entry(event)])
    seqs, page, _ = await reads.first_feed("u1", None, by="u1", runs_of=10, limit=10)
    assert (seqs, [owed.event.id for owed in page]) == ({"r1": 1}, [event.id])


async def test_reads_run_beside_the_loop(ledger: SqlLedger) -> None:
    reads = LedgerAccess(ledger, threads=1)
    assert await reads.call(threading.get_ident) != threading.get_ident()


async def test_a_ledger_that_does_not_answer_is_unavailable(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "CALL_TIMEOUT", 0.02)
    reads, answer = LedgerAccess(ledger, threads=1), threading.Event()
    try:
        with pytest.raises(LedgerUnavailable, match="did not answer"):
            await reads.call(answer.wait, 10.0)
    finally:
        answer.set()
        reads.close()


@pytest.mark.parametrize("turns", range(5))
async def test_a_call_that_is_cancelled_as_its_answer_comes_is_cancelled(
    ledger: SqlLedger, turns: int
) -> None:
    reads, answered = LedgerAccess(ledger, threads=1), threading.Event()
    call = asyncio.ensure_future(reads.call(answered.set))
    await asyncio.sleep(0)
    answered.wait(10.0)  # the loop stands still: the answer waits for it
    for _ in range(turns):
        await asyncio.sleep(0)
    if call.cancel():
        with pytest.raises(asyncio.CancelledError):
            await call
    reads.close()


async def test_calls_beyond_the_bound_are_refused_at_once(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_CALLS", 1)
    reads, answer = LedgerAccess(ledger, threads=1), threading.Event()
    first = asyncio.ensure_future(reads.call(answer.wait, 10.0))
    await asyncio.sleep(0)
    try:
        with pytest.raises(LedgerUnavailable, match="too many"):
            await reads.event("any")
    finally:
        answer.set()
        await first
        reads.close()
