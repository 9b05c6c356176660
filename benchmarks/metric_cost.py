"""What metrics cost an event: all that is counted of it, from the commit to the acknowledgement.

    $ python -m benchmarks.metric_cost --help

Owns: one thread's processor time for it. Never does: commit, push, or scrape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click
import msgspec
import uuid_utils

from delivery.cli.options import json_option
from delivery.cli.output import say_json
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation
from delivery.domain.ports import Answered
from delivery.domain.records import Entry, Receipted, Recorded
from delivery.ledger import counting
from delivery.telemetry import metrics
from delivery.telemetry.id_ages import observe_ages


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as journal, ledger and gateway hold it, with or without metrics."""

    submitted: list[tuple[Entry, Answered]]
    answers: list[Receipted]
    entries: list[Entry]
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of processor time an event, the least of several rounds.

    Attributes:
        reference: for one pass over the same events that reads each event's id, as a measure of
            the machine and of what else runs on it.
    """

    metrics: float
    reference: float


def measure(*, batch: int = 100, batches: int = 100, rounds: int = 7) -> Cost:
    """Count batches of confirmed events, again and again."""
    made = [_batch(batch) for _ in range(batches)]
    events = batch * batches
    return Cost(
        metrics=_least(_count, made, rounds) * 1e6 / events,
        reference=_least(_ids, made, rounds) * 1e6 / events,
    )


def _least(work: Callable[[Batch], object], made: Sequence[Batch], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        begun = time.thread_time()
        for one in made:
            work(one)
        found.append(time.thread_time() - begun)
    return min(found)


def _batch(size: int) -> Batch:
    entries: list[tuple[Entry, Answered]] = []
    for number in range(size):
        event = Event(
            id=str(uuid_utils.uuid7()),
            type="agent_thinking",
            user_id="u-1",
            run_id="r-1",
            thread_id=None,
            seq=number + 1,
            at=datetime.now(UTC),
            event_class=EventClass.CRITICAL,
            raw_data=msgspec.Raw(b"{}"),
            meta=None,
        )
        entry = Entry(event, 5.0, 3_600.0, sent=True)
        entry.confirmations = [Confirmation(event.id, "u-1", "websocket", "u-1", "c-1")]
        entries.append((entry, lambda entry, answer: None))
    answers = [Receipted(pair[0].event.id, Recorded.NEW, 1) for pair in entries]
    made = [pair[0] for pair in entries]
    return Batch(entries, answers, made, [entry.event.id for entry in made])


def _count(batch: Batch) -> None:
    """All that journal, ledger and gateway count of a batch."""
    counting.committed(batch.submitted, batch.answers, 0.004)
    counting.inserted(batch.entries)
    observe_ages(metrics.time_to_ack, [(time.time(), batch.ids)])


def _ids(batch: Batch) -> Sequence[str]:
    return [pair[0].event.id for pair in batch.submitted]


@click.command()
@click.option("--batch", default=100, show_default=True, help="Events in a commit.")
@json_option
def main(batch: int, as_json: bool) -> None:
    """Measure what metrics cost an event."""
    cost = measure(batch=batch)
    if as_json:
        say_json({"metrics_us": cost.metrics, "reference_us": cost.reference})
    else:
        click.echo(f"{cost.metrics:.3f} µs an event, at {batch} events in a commit")


if __name__ == "__main__":
    main()
