"""What a message tells: runs with their lines, in order, in the user's time zone.

Owns: what becomes one line, what is the agent's answer, and how much goes into a message. Pure.
Never does: choose words; it is given a function that has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from delivery.domain.event import Event
from delivery.transports.text import one_line

MAX_LINES = 80  # a mail of over 102 KB is cut by Gmail, and its button with it
MAX_ANSWER = 2_000
MAX_ANSWER_LINES = 40
FEW_ANSWERS = 5  # that many go in at full length, more of them at a tenth of it

_ANSWERS = ("result", "answer", "output", "summary", "message", "text")
_TITLED = ("agent_started", "agent_completed")


@dataclass(frozen=True, slots=True)
class Line:
    """What happened once, or several times in a row; ``last`` equals ``first`` for once.

    Attributes:
        answer: the lines of what the agent answered; empty unless this is its end.
    """

    text: str
    type: str
    first: datetime
    last: datetime
    count: int
    answer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One run's lines, in order; ``title`` is what its agent called it, if it did."""

    run_id: str
    title: str | None
    lines: tuple[Line, ...]


def paragraphs(value: str, length: int) -> tuple[str, ...]:
    """A text as printable lines, never two empty ones in a row, cut after ``length`` characters."""
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


def story(events: Sequence[Event], phrase: Callable[[Event], str], zone: tzinfo) -> list[Run]:
    """Every run in the order of its first event; lines in a row that say the same become one."""
    answers = [_answer(event) for event in events]
    length = MAX_ANSWER if sum(map(bool, answers)) <= FEW_ANSWERS else MAX_ANSWER // 10
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
    """The last ``limit`` lines, still in their runs."""
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
    """What the agent says at its end; nothing for one that failed, whose line tells why."""
    data = event.data
    if event.type != "agent_completed" or data.get("error") or data.get("reason"):
        return ""
    return _text(data) or _text(data.get("result"))


def _text(data: Any) -> str:
    if not isinstance(data, Mapping):
        return ""
    found = (data.get(name) for name in _ANSWERS)
    return next((text for text in found if isinstance(text, str) and text.strip()), "")
