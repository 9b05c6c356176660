"""The log of a process: the handler, its rate limit, and the queue of its writer.

Owns: the root handler, and that logging never blocks an event loop: records that do not fit into
the queue are dropped, counted and reported. Never does: decide what is logged, or read settings.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TextIO

from delivery.telemetry.entries import Entry, JsonLine, TextLine, take
from delivery.telemetry.redaction import Redactor

MAX_RECORDS = 4_096
MAX_CHARACTERS = 4 * 1024 * 1024
"""Bounds of the queue: records, and characters of all of them."""
BURST = 50
RATE = 10.0
"""Records at once and per second from one place in the code."""
FLUSH_TIMEOUT = 5.0
_MAX_PLACES = 4_096
_IDLE = 60.0

# Loggers with one line per request, mail, task or beat: the ledger has the same facts.
_NOISY = (
    "aiohttp.access",
    "alembic",
    "amqp",
    "asyncio",
    "celery.app.trace",
    "celery.beat",
    "celery.bootsteps",
    "celery.pool",
    "celery.utils.functional",
    "celery.worker.consumer.connection",
    "celery.worker.consumer.mingle",
    "celery.worker.request",
    "celery.worker.strategy",
    "httpcore",
    "httpx",
    "kombu",
    "mail.log",
)


class Pace:
    """Rate limit per place in the code: foreign requests must not fill a disk with log lines.

    Args:
        burst: records at once.
        rate: records per second in the long run.
    """

    def __init__(
        self,
        burst: int = BURST,
        rate: float = RATE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = float(burst)
        self._rate = rate
        self._clock = clock
        self._places: dict[tuple[str, int], tuple[float, float, int]] = {}

    def admit(self, pathname: str, line: int) -> int | None:
        """Count a record of a place.

        Returns:
            Records of the place that were left out since the last admitted one; ``None`` to leave
            this one out too.
        """
        now = self._clock()
        if len(self._places) > _MAX_PLACES:
            self._places.clear()
        tokens, then, left_out = self._places.get((pathname, line), (self._burst, now, 0))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        if tokens < 1.0:
            self._places[pathname, line] = tokens, now, left_out + 1
            return None
        self._places[pathname, line] = tokens - 1.0, now, 0
        return left_out

    def unreported(self) -> int:
        """Records that were left out and not reported yet; counts as their report."""
        count = sum(left_out for _, _, left_out in self._places.values())
        self._places.clear()
        return count


class Backlog:
    """The queue of entries before the thread that writes them, bounded in number and size.

    Safe to use after a fork: the child has an empty queue, since the entries are the parent's, and
    starts its own thread with its first entry.
    """

    def __init__(self, write: Callable[[Entry], None]) -> None:
        self._write = write
        self.lost = 0
        self._reset()
        _backlogs.add(self)

    def _reset(self) -> None:
        # Reentrant: a signal handler or a finalizer may log while its thread holds the lock.
        self._changed = threading.Condition(threading.RLock())
        self.writing = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._characters = 0
        self._unreported = 0
        self._is_busy = False
        self._is_closed = False
        self._writer: threading.Thread | None = None

    def put(self, entry: Entry) -> None:
        """Queue an entry, or count it as lost when the queue is full."""
        with self._changed:
            full = len(self._waiting) >= MAX_RECORDS
            if full or self._characters + entry.size > MAX_CHARACTERS:
                self.lost += 1
                self._unreported += 1
                return
            self._waiting.append(entry)
            self._characters += entry.size
            if self._writer is None or not self._writer.is_alive():
                self._start()
            self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until the queue is written, at most ``timeout`` seconds; returns whether it is."""
        if threading.current_thread() is self._writer:
            return False
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout)

    def close(self, timeout: float) -> None:
        """Write the queue within ``timeout`` seconds, and end the thread."""
        self.drain(timeout)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def after_fork(self) -> None:
        """Reset in a child process."""
        self._reset()

    def _start(self) -> None:
        self._is_closed = False
        self._writer = threading.Thread(target=self._run, name="log-writer", daemon=True)
        try:
            self._writer.start()
        except RuntimeError:  # the interpreter is about to end
            self._writer = None
            while self._waiting:
                self._write(self._next())

    def _is_idle(self) -> bool:
        return not self._waiting and not self._is_busy

    def _next(self) -> Entry:
        entry = self._waiting.popleft()
        self._characters -= entry.size
        return entry

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._is_busy = False
                    self._changed.notify_all()
                    if self._is_closed:
                        self._writer = None
                        return
                    self._changed.wait(_IDLE)
                self._is_busy = True
                entry = self._next()
                unreported, self._unreported = self._unreported, 0
            with self.writing:
                if unreported:
                    self._write(_notice("%d log records lost: queue was full", unreported))
                self._write(entry)


_backlogs: weakref.WeakSet[Backlog] = weakref.WeakSet()
_held: list[threading.Lock] = []


def _before_fork() -> None:
    # A child must not inherit a stream whose buffer a writer has locked. A writer that blocks on a
    # full pipe is not waited for.
    _held.extend(one.writing for one in _backlogs if one.writing.acquire(timeout=1.0))


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    _held.clear()
    for backlog in _backlogs:
        backlog.after_fork()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


def _notice(message: str, *args: object) -> Entry:
    return take(
        logging.makeLogRecord(
            {
                "name": __name__,
                "msg": message,
                "args": args,
                "levelname": "WARNING",
                "levelno": logging.WARNING,
            }
        )
    )


class LogHandler(logging.Handler):
    """Makes an entry of each record, and writes it or queues it for a thread.

    Args:
        line: formats an entry.
        queued: write in a thread, for a process with an event loop: neither a slow reader of the
            log nor a long line blocks the loop. A killed process loses the records in its queue.
    """

    def __init__(
        self, stream: TextIO, line: Callable[[Entry], str], *, queued: bool, pace: Pace
    ) -> None:
        super().__init__()
        self._stream = stream
        self._line = line
        self._pace = pace
        self._unwritten = 0
        self._backlog = Backlog(self._write) if queued else None

    def hide(self, secrets: Iterable[str]) -> None:
        """Show these values in no further line either."""
        if isinstance(self._line, TextLine | JsonLine):
            self._line.redact.add(secrets)

    @property
    def is_json(self) -> bool:
        """Whether its lines are JSON."""
        return isinstance(self._line, JsonLine)

    @property
    def lost(self) -> int:
        """Records that were not written: no room in the queue, or the stream refused them."""
        return self._unwritten + (self._backlog.lost if self._backlog is not None else 0)

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        left_out: int | None = 0
        if record.levelno > logging.DEBUG:
            left_out = self._pace.admit(record.pathname, record.lineno)
        if left_out is None:
            return
        try:
            entry = take(record, left_out)
        except Exception:  # an argument's own __str__ may raise anything
            entry = _notice(
                "a log record of %s cannot be shown: line %d", record.name, record.lineno
            )
        self._put(entry)

    def flush(self) -> None:
        """Wait until all records are written, at most ``FLUSH_TIMEOUT`` seconds."""
        if self._backlog is not None:
            self._backlog.drain(FLUSH_TIMEOUT)

    def close(self) -> None:
        """Write the queue, and the number of records left out."""
        if count := self._pace.unreported():
            self._put(_notice("%d log records left out: too many from one place", count))
        if self._backlog is not None:
            self._backlog.close(FLUSH_TIMEOUT)
        super().close()

    def _put(self, entry: Entry) -> None:
        if self._backlog is not None:
            self._backlog.put(entry)
        else:
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        try:
            self._stream.write(self._line(entry) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a closed stream or full disk: there is nowhere to report it
            self._unwritten += 1


def setup_logging(
    log_format: str = "text",
    level: str = "INFO",
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    queued: bool = False,
) -> None:
    """Send this process's log to ``stream`` (standard error) and nowhere else.

    Args:
        log_format: ``text`` or ``json``.
        level: a level's name.
        secrets: values that no line may show.
        queued: format and write in a thread, as a process with an event loop must.
    """
    redact = Redactor(secrets)
    line = JsonLine(redact) if log_format == "json" else TextLine(redact)
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old, LogHandler):
            old.close()
    root.handlers[:] = [LogHandler(stream or sys.stderr, line, queued=queued, pace=Pace())]
    root.setLevel(level.upper())
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    if log_format == "json":
        # Python's own reports would be a line of plain text each, or many.
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


def hide(secrets: Iterable[str]) -> None:
    """Show these values in no further line either."""
    given = list(secrets)
    for one in logging.getLogger().handlers:
        if isinstance(one, LogHandler):
            one.hide(given)


def logs_json() -> bool:
    """Whether this process's log is JSON: a program reads it, line by line."""
    return any(one.is_json for one in logging.getLogger().handlers if isinstance(one, LogHandler))


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(__name__).critical("the process ends", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        name = args.thread.name if args.thread is not None else "unknown"
        logging.getLogger(__name__).critical(
            "thread %s ended", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
        )


def records_lost() -> int:
    """Log records of this process that were not written, since its log was set up."""
    return sum(one.lost for one in logging.getLogger().handlers if isinstance(one, LogHandler))
