"""Logging of a process: one line per record, as text or JSON, with secrets taken out.

Owns: the root handler, its two formats, and the redaction of every line, tracebacks included.
Never does: decide what is logged, or read settings.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

REDACTED = "***"
_MIN_SECRET = 6  # shorter values would blank out ordinary words

# What a secret looks like when nobody told us its value.
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+(?=@)"), rf"\1:{REDACTED}"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*"), REDACTED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {REDACTED}"),
    (re.compile(r"(/(?:confirm|unsubscribe)/)[\w.~=-]{6,}"), rf"\1{REDACTED}"),
    (
        re.compile(r"(?i)([\w-]*(?:token|secret|password|passwd|api_?key)[\"']?\s*[=:]\s*[\"']?)"
                   r"[^\s\"'&,;]{6,}"),
        rf"\1{REDACTED}",
    ),
)  # fmt: skip
# One line per request, mail, task and beat says nothing that the ledger does not know.
_NOISY = (
    "aiohttp.access", "alembic", "amqp", "celery.app.trace", "celery.beat",
    "celery.bootsteps", "celery.pool", "celery.utils.functional",
    "celery.worker.consumer.connection", "celery.worker.consumer.mingle", "celery.worker.request",
    "celery.worker.strategy", "httpcore", "httpx", "kombu", "mail.log", "asyncio",
)  # fmt: skip
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}


class Redactor:
    """Takes known secrets, and what looks like one, out of a text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= _MIN_SECRET}
        # Longest first: a secret that contains another must not leave its rest behind.
        ordered = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
        return text

    def __repr__(self) -> str:
        return "Redactor()"


class _TextFormatter(logging.Formatter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class _JsonFormatter(logging.Formatter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and not name.startswith("_"):
                line[name] = self._value(value)
        if record.exc_info:
            line["error"] = self._redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)

    def _value(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redact(str(value))


def setup_logging(
    log_format: str = "text",
    level: str = "INFO",
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send this process's log to ``stream`` (standard error) and nowhere else.

    Args:
        log_format: ``text`` or ``json``.
        level: a level's name.
        secrets: values that no line may show, whoever logs it.
    """
    redact = Redactor(secrets)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(redact) if log_format == "json" else _TextFormatter(redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
