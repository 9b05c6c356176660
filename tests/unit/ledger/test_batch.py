"""A batch over its limit is cut without losing what refers to it."""

from __future__ import annotations

from delivery.domain.lifecycle import Confirmation
from delivery.ledger.batch import Batch
from delivery.testing import make_entry


def test_the_rest_keeps_order_and_everything_that_may_refer_to_it() -> None:
    batch = Batch()
    entries = [make_entry() for _ in range(5)]
    for entry in entries:
        batch.entries.append((entry, lambda answer: None))
        batch.by_id[entry.event.id] = entry
    last = entries[-1].event
    batch.proofs.append(Confirmation(last.id, last.user_id, "websocket", "ada", "c-1"))
    batch.hand_overs["nobody connected"] = [entries[3].event.id]

    rest = batch.split(2)

    assert [entry for entry, _ in batch.entries] == entries[:2]
    assert [entry for entry, _ in rest.entries] == entries[2:]
    assert rest.by_id == {entry.event.id: entry for entry in entries[2:]}
    assert [proof.event_id for proof in rest.proofs] == [last.id]
    assert rest.hand_overs == {"nobody connected": [entries[3].event.id]}
    assert not batch.proofs
    assert not batch.hand_overs
    assert not Batch()
