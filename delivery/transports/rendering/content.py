"""The content of a message: runs with their lines, in order, in the user's time zone.

Owns: what becomes one line, what is the agent's answer, what of an event's data is shown, and the
limits of a message. Pure. Never does: choose words; a function that phrases an event is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from html import escape
from typing import Any

from delivery.domain.event import AGENT_TYPES, AUTH_TYPES, Event
from delivery.domain.messages.brand import Brand
from delivery.domain.messages.conventions import Action, Shown, read_conventions
from delivery.transports.rendering.markdown import Written, markdown_source, write_markdown
from delivery.transports.text import direction, one_line

MAX_LINES = 80  # Gmail cuts off a mail after 102 KB, and with it the button
MAX_ANSWER = 2_000
MAX_ANSWER_LINES = 40
MAX_FULL_ANSWERS = 5  # with more answers each has a tenth of the length
MAX_ANSWERS_HTML = 50_000  # of all answers together, in bytes; beyond it they are plain
MAX_FACT = 200

_ANSWERS = ("result", "answer", "output", "summary", "message", "text")
_TITLED = ("agent_started", "agent_completed")
_OWN_WORDS = frozenset({*AGENT_TYPES, *AUTH_TYPES})
"""Types whose line says what happened; ``title`` is not the event's, but its run's or a tool's."""
_FACTS = ("location", "ip", "device")


@dataclass(frozen=True, slots=True)
class Line:
    """One event, or several in a row with the same text.

    Attributes:
        first / last: instants of the first and the last of them.
        count: their number.
        answer: lines of the agent's answer; empty unless the run ended with one.
        html: the answer as HTML without foreign markup.
        title / summary: of an event of the application's own type.
        url / image / actions: checked addresses.
        facts: where a sign-in came from: pairs of ``location``, ``ip`` or ``device`` and its value.
        event: the first of them.
    """

    text: str
    type: str
    first: datetime
    last: datetime
    count: int
    event: Event
    answer: tuple[str, ...] = ()
    html: str = ""
    title: str = ""
    summary: tuple[str, ...] = ()
    url: str | None = None
    image: str | None = None
    actions: tuple[Action, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


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


def runs_of(
    events: Sequence[Event],
    phrase: Callable[[Event], str],
    zone: tzinfo,
    brand: Brand = Brand(),  # noqa: B008 - frozen
) -> tuple[list[Run], list[str]]:
    """The runs of events, in the order of their first events; equal lines in a row become one.

    Returns:
        The runs, and what of the events' data is left out, each with the reason.
    """
    answers = [_answer(event) for event in events]
    number = sum(map(bool, answers))
    length = MAX_ANSWER if number <= MAX_FULL_ANSWERS else MAX_ANSWER // 10
    by_run: dict[str, list[Line]] = {}
    titles: dict[str, str] = {}
    faults: list[str] = []
    for event, answer in zip(events, answers, strict=True):
        run_id = one_line(event.run_id)
        shown = read_conventions(event.data, brand)
        faults += [f"event {event.id}: {fault}" for fault in shown.faults]
        written = _written(answer, length, MAX_ANSWERS_HTML // max(1, number), brand)
        line = _line(event, one_line(phrase(event), 300), zone, shown, written)
        _append(by_run.setdefault(run_id, []), line)
        title = event.data.get("title")
        if event.type in _TITLED and isinstance(title, str) and title.strip():
            titles[run_id] = one_line(title)
    runs = [Run(run_id, titles.get(run_id), tuple(lines)) for run_id, lines in by_run.items()]
    return runs, faults


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


def _line(event: Event, text: str, zone: tzinfo, shown: Shown, written: Written | None) -> Line:
    at = event.at.astimezone(zone)
    is_own = event.type not in _OWN_WORDS
    return Line(
        text=text,
        type=event.type,
        first=at,
        last=at,
        count=1,
        event=event,
        answer=written.lines if written else (),
        html=written.html if written else "",
        title=one_line(shown.title, 200) if is_own else "",
        summary=paragraphs(shown.summary, MAX_ANSWER) if is_own else (),
        url=shown.url,
        image=shown.image,
        actions=tuple(Action(one_line(one.label), one.url) for one in shown.actions),
        facts=_facts(event) if event.type in AUTH_TYPES else (),
    )


def _written(answer: str, length: int, most: int, brand: Brand) -> Written | None:
    """An answer in both forms; as plain text where its markup would cost more than ``most``
    bytes."""
    source = markdown_source(answer, length, MAX_ANSWER_LINES)
    if not source:
        return None

    def is_listed(url: str) -> bool:
        return not read_conventions({"url": url}, brand).faults

    written = write_markdown(source, is_listed)
    if len(written.html.encode()) <= most:
        return written
    way = direction(source)
    plain = "<br>".join(escape(line) for line in written.lines)
    return Written(f'<p dir="{way}" style="margin:0;">{plain}</p>', written.lines)


def _facts(event: Event) -> tuple[tuple[str, str], ...]:
    """Where a sign-in came from; each value a text, or an object or list of texts."""
    found = ((name, _fact(event.data.get(name))) for name in _FACTS)
    return tuple((name, value) for name, value in found if value)


def _fact(value: Any) -> str:
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(parts, str):
        parts = [parts]
    try:
        texts = [part for part in parts if isinstance(part, str) and part.strip()]
    except TypeError:
        return ""
    return one_line(", ".join(texts[:6]), MAX_FACT)


def _append(lines: list[Line], line: Line) -> None:
    before = lines[-1] if lines else None
    if before is not None and _alike(before) == _alike(line):
        lines[-1] = replace(before, last=line.last, count=before.count + 1)
    else:
        lines.append(line)


def _alike(line: Line) -> tuple[object, ...]:
    return line.text, line.answer, line.url, line.image, line.actions, line.facts, line.summary


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
