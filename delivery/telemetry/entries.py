"""Log entries: the bounded content of a log record, and its two formats.

Owns: the bounds of an entry, and the format of a line. Never does: write.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import reprlib
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from delivery.telemetry.log_events import name_of
from delivery.telemetry.redaction import AHEAD, Redactor, printable, printable_json
from delivery.telemetry.tracing import traced_event

MAX_MESSAGE = 4_096
MAX_EXTRA = 1_024
MAX_EXTRAS = 32
MAX_FRAMES = 30
MAX_TRACE_PARTS = 60
"""Parts of a traceback: frames, and lines of exceptions."""
_MAX_INT = 10**18
_MAX_TEMPLATE = 256
_EVENT_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.ASCII
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """The beginning of a text, and the length of the whole text."""

    text: str
    length: int


def _begin(text: str, limit: int) -> _Part:
    return _Part(text[: limit + AHEAD], len(text))


class _Argument:
    """An argument of a message, cut when the message is made. The cut lies beyond the end of any
    message that is shown."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return _text(self._value)[: MAX_MESSAGE + AHEAD]

    def __repr__(self) -> str:
        return _shown(self._value, _short_repr.repr)[: MAX_MESSAGE + AHEAD]


def _text(value: object) -> str:
    return value if isinstance(value, str) else _shown(value, str)


def _shown(value: object, show: Callable[[object], str]) -> str:
    # str() of bytes and containers is their repr, whose length has no bound.
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value[: MAX_MESSAGE + AHEAD]))
    if isinstance(value, list | tuple | dict | set | frozenset | deque):
        return _short_repr.repr(value)
    return show(value)


_short_repr = reprlib.Repr()
_short_repr.maxstring = _short_repr.maxother = 2 * (MAX_MESSAGE + AHEAD)
_short_repr.maxlist = _short_repr.maxtuple = _short_repr.maxdict = 100
_short_repr.maxset = _short_repr.maxfrozenset = _short_repr.maxdeque = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """The content of a log record: bounded texts, and no object of the code that logged.

    Attributes:
        template: the text of the call, which names its event.
    """

    created: float
    level: str
    logger: str
    message: _Part
    extras: tuple[tuple[str, _Part | bool | float | int | None], ...] = ()
    trace: tuple[_Part, ...] = ()
    left_out: int = 0
    template: str = ""

    @property
    def size(self) -> int:
        """Approximate size in characters."""
        extras = sum(len(value.text) for _, value in self.extras if isinstance(value, _Part))
        return 200 + len(self.message.text) + extras + sum(len(part.text) for part in self.trace)


def take(record: logging.LogRecord, left_out: int = 0) -> Entry:
    """Make an entry of a record, in bounded time.

    Args:
        left_out: records of the same place that were left out before this one.
    """
    extras = (
        (name, _plain(value))
        for name, value in vars(record).items()
        if name not in _STANDARD and not name.startswith("_")
    )
    return Entry(
        record.created,
        record.levelname,
        record.name,
        _begin(_message(record), MAX_MESSAGE),
        tuple(itertools.islice(extras, MAX_EXTRAS)),
        tuple(_trace(record)),
        left_out,
        record.msg[:_MAX_TEMPLATE] if isinstance(record.msg, str) else "",
    )


def _message(record: logging.LogRecord) -> str:
    template = _text(record.msg)
    if not record.args:
        return template
    arguments: Any
    if isinstance(record.args, Mapping):
        arguments = {name: _bounded(value) for name, value in record.args.items()}
    else:
        arguments = tuple(_bounded(value) for value in record.args)
    try:
        return str(template[: MAX_MESSAGE + AHEAD] % arguments)
    except (TypeError, ValueError, KeyError):
        return f"{template[:MAX_MESSAGE]} {_short_repr.repr(arguments)}"


def _bounded(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else _Argument(value)


def _plain(value: object) -> _Part | bool | float | int | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and value - value == 0:  # JSON has neither NaN nor infinity
        return value
    if isinstance(value, int) and -_MAX_INT < value < _MAX_INT:
        return value
    return _begin(hex(value) if isinstance(value, int) else _text(value), MAX_EXTRA)


def _trace(record: logging.LogRecord) -> Iterator[_Part]:
    kind, error, frames = record.exc_info or (None, None, None)
    if kind is not None and error is not None:
        summary = traceback.TracebackException(kind, error, frames, limit=-MAX_FRAMES, compact=True)
        head = list(itertools.islice(parts := summary.format(), MAX_TRACE_PARTS // 3))
        tail = deque(parts, maxlen=MAX_TRACE_PARTS - len(head))
        yield from (_begin(part.rstrip("\n"), MAX_EXTRA) for part in (*head, *tail))
    if record.stack_info:
        yield _begin(record.stack_info, MAX_MESSAGE)


class TextLine:
    """Formats an entry as a line of text; lines of a traceback are indented below it."""

    def __init__(self, redact: Redactor) -> None:
        self.redact = redact

    def __call__(self, entry: Entry) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.created))
        message = printable(self.redact.cut(entry.message.text, MAX_MESSAGE, entry.message.length))
        if entry.left_out:
            message += f" ({entry.left_out} records like this were left out before)"
        milliseconds = int(entry.created % 1 * 1000)
        line = f"{at},{milliseconds:03d} {entry.level:<7} {entry.logger}: {message}"
        return "\n".join([line, *self._trace(entry)])

    def _trace(self, entry: Entry) -> Iterator[str]:
        for part in entry.trace:
            for line in self.redact.cut(part.text, MAX_EXTRA, part.length).split("\n"):
                yield f"  {printable(line)}"


class JsonLine:
    """Formats an entry as a JSON object on one line."""

    def __init__(self, redact: Redactor) -> None:
        self.redact = redact

    def __call__(self, entry: Entry) -> str:
        at = datetime.fromtimestamp(entry.created, UTC)
        cut = self.redact.cut
        line: dict[str, Any] = {
            "at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": entry.level.lower(),
            "logger": entry.logger,
            "event": name_of(entry.logger, entry.template),
            "message": cut(entry.message.text, MAX_MESSAGE, entry.message.length),
        }
        if entry.left_out:
            line["left_out"] = entry.left_out
        if (trace := _trace_of(entry.message.text)) is not None:
            line["trace_id"] = trace
        for name, value in entry.extras:
            shown = cut(value.text, MAX_EXTRA, value.length) if isinstance(value, _Part) else value
            if name == "event":  # named by the call, since its text says too little
                line[name] = shown
            line.setdefault(name, shown)
        if entry.trace:
            line["error"] = "\n".join(cut(p.text, MAX_EXTRA, p.length) for p in entry.trace)
        return printable_json(json.dumps(line, ensure_ascii=False))


def _trace_of(message: str) -> str | None:
    """The trace of the first event that a message names, if it is traced."""
    found = _EVENT_ID.search(message)
    return None if found is None else traced_event(found[0])
