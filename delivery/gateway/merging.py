"""Merging of ephemeral events that wait for a slow reader. Pure.

Two consecutive events of one type and run become one only when both carry nothing but one piece
of text under the same name (``delta`` or ``text``): then the text is concatenated.
"""

from __future__ import annotations

from delivery.domain.event import Event, EventClass

PIECES = ("delta", "text")


def merge_ephemeral(first: Event, second: Event) -> Event | None:
    """The event that says what both say, under the second's id; ``None`` if they must stay two."""
    if (
        first.event_class is not EventClass.EPHEMERAL
        or second.event_class is not EventClass.EPHEMERAL
        or first.type != second.type
        or first.run_id != second.run_id
        or first.thread_id != second.thread_id
        or first.meta != second.meta
    ):
        return None
    said, more = first.data, second.data
    if len(said) != 1 or len(more) != 1:
        return None
    for name in PIECES:
        before, after = said.get(name), more.get(name)
        if isinstance(before, str) and isinstance(after, str):
            return second.evolve(data={name: before + after})
    return None
