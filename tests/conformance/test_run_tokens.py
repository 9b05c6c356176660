"""Tokens and cost of runs: what events report is added to the run's columns, on every database."""

from __future__ import annotations

from typing import Any

import pytest

from delivery.domain.run_tokens import MAX_COST, MAX_TOKENS, RunTokens
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event, make_id


def record(ledger: SqlLedger, number: int, data: dict[str, Any], **fields: Any) -> None:
    event = make_event(
        **({"id": make_id(number), "type": "token_metrics", "seq": None, "data": data} | fields)
    )
    ledger.recording.commit([make_entry(event)])


def tokens(ledger: SqlLedger, user_id: str = "u1", run_id: str = "r1") -> RunTokens | None:
    found = ledger.runs.get(user_id, run_id)
    assert found is not None
    return found.tokens


FIGURES = {"input_tokens": 10, "output_tokens": 5, "cost": 0.25, "operation": "plan"}


def test_events_add_to_their_run_once_each(ledger: SqlLedger) -> None:
    assert ledger.runs.get("u1", "r1") is None
    record(ledger, 1, {}, type="note")
    assert tokens(ledger) is None
    record(ledger, 2, FIGURES)
    record(ledger, 2, FIGURES)  # the same event, sent again
    record(ledger, 3, FIGURES, user_id="u2")
    record(ledger, 4, FIGURES, run_id="r2")
    batch = [
        make_entry(make_event(id=make_id(n), type="token_metrics", seq=None, data=FIGURES))
        for n in (5, 6)
    ]
    ledger.recording.commit(batch)
    assert tokens(ledger) == RunTokens(30, 15, 750_000)
    assert tokens(ledger, "u2") == tokens(ledger, "u1", "r2") == RunTokens(10, 5, 250_000)
    found = ledger.runs.get("u1", "r1")
    assert found is not None
    assert found.last_seq == 4


def test_the_largest_figures_add_up(ledger: SqlLedger) -> None:
    most = {"input_tokens": MAX_TOKENS, "output_tokens": MAX_TOKENS, "cost": MAX_COST}
    for number in (1, 2):
        record(ledger, number, most)
    assert tokens(ledger) == RunTokens(2 * MAX_TOKENS, 2 * MAX_TOKENS, 2 * MAX_COST * 1_000_000)


@pytest.mark.parametrize(
    "data",
    [
        {"input_tokens": "ten"},
        {"input_tokens": -1},
        {"output_tokens": MAX_TOKENS + 1},
        {"output_tokens": 10**30},
        {"cost": MAX_COST * 2},
        {"cost": 1e308},
        {"cost": None},
    ],
)
def test_an_event_of_another_shape_is_recorded_and_counts_nothing(
    ledger: SqlLedger, data: dict[str, Any]
) -> None:
    record(ledger, 1, data)
    assert tokens(ledger) is None
    assert len(ledger.events.read([make_id(1)])) == 1
