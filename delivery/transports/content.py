"""The content of a message: runs with their lines, in order, in the user's time zone.

Owns: what becomes one line, what is the agent's answer, and the limits of a message. Pure. Never
does: choose words; a function that phrases an event is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from delivery.domain.event import Event
from delivery.transports.text import one_line

MAX_LINES = 80  # Gmail cuts off a mail after 102 KB, and with it the button
MAX_ANSWER = 2_000
MAX_ANSWER_LINES = 40
MAX_FULL_ANSWERS = 5  # with more answers each has a tenth of the length

_ANSWERS = ("result", "answer", "output", "summary", "message", "text")
_TITLED = ("agent_started", "agent_completed")


@dataclass(frozen=True, slots=True)
class Line:
    """One event, or several in a row with the same text.

    Attributes:
        first / last: instants of the first and the last of them.
        count: their number.
        answer: lines of the agent's answer; empty unless the run ended with one.
    """

    text: str
    type: str
    first: datetime
    last: datetime
    count: int
    answer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One run's lines, in order; ``title`` as its agent gave it, if it did."""

    run_id: str
    title: str | None
    lines: tuple[Line, ...]


def paragraphs(value: str, length: int) -> tuple[str, ...]:
    """A text as printable lines without consecutive empty ones, cut after ``length`` characters."""
    kept: list[str] = []
    for raw in value.splitlines():
        line = one_line(raw, max(1, length))
        if not line and not (kept and kept[-1]):
            continue
        if length <= 0 or len(kept) == MAX_ANSWER_LINES:
            kept.append("…")
            break
        kept.append(line)
        length -= len(line)
    return tuple(kept[:-1] if kept and not kept[-1] else kept)


def runs_of(events: Sequence[Event], phrase: Callable[[Event], str], zone: tzinfo) -> list[Run]:
    """The runs of events, in the order of their first events; equal lines in a row become one."""
    answers = [_answer(event) for event in events]
    length = MAX_ANSWER if sum(map(bool, answers)) <= MAX_FULL_ANSWERS else MAX_ANSWER // 10
    by_run: dict[str, list[Line]] = {}
    titles: dict[str, str] = {}
    for event, answer in zip(events, answers, strict=True):
        run_id = one_line(event.run_id)
        at = event.at.astimezone(zone)
        text, said = one_line(phrase(event), 300), paragraphs(answer, length)
        _append(by_run.setdefault(run_id, []), Line(text, event.type, at, at, 1, said))
        title = event.data.get("title")
        if event.type in _TITLED and isinstance(title, str) and title.strip():
            titles[run_id] = one_line(title)
    return [Run(run_id, titles.get(run_id), tuple(lines)) for run_id, lines in by_run.items()]


def newest(runs: Sequence[Run], limit: int) -> list[Run]:
    """The last ``limit`` lines, by run."""
    kept: list[Run] = []
    for run in reversed(runs):
        if limit <= 0:
            break
        lines = run.lines[-limit:]
        kept.append(Run(run.run_id, run.title, lines))
        limit -= len(lines)
    return kept[::-1]


def zone_name(at: datetime) -> str:
    """``CET``; ``UTC-03`` where the zone has only a number."""
    name = at.tzname() or "UTC"
    return name if name[0].isalpha() else f"UTC{name}"


def _append(lines: list[Line], line: Line) -> None:
    before = lines[-1] if lines else None
    if before is not None and (before.text, before.answer) == (line.text, line.answer):
        lines[-1] = Line(
            line.text, line.type, before.first, line.last, before.count + 1, line.answer
        )
    else:
        lines.append(line)


def _answer(event: Event) -> str:
    """The agent's answer at the end of its run; empty for a failure, whose line has the reason."""
    data = event.data
    if event.type != "agent_completed" or data.get("error") or data.get("reason"):
        return ""
    return _text(data) or _text(data.get("result"))


def _text(data: Any) -> str:
    if not isinstance(data, Mapping):
        return ""
    found = (data.get(name) for name in _ANSWERS)
    return next((text for text in found if isinstance(text, str) and text.strip()), "")
