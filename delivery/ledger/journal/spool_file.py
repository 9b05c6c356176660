"""One file of the spool: lines that are whole and durable, or not there.

Owns: the form of a line, unbuffered writes with an exact undo, reading in pages, and the files of
lines that are set aside. Never does: choose a file, or talk to the ledger.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from delivery.domain.event import event_from_wire
from delivery.domain.inputs.foreign_text import storable
from delivery.domain.lifecycle import Confirmation, Outcome
from delivery.domain.options import Options
from delivery.domain.records import Entry

logger = logging.getLogger(__name__)

SUFFIX = ".spool"
REFUSED, DAMAGED = ".refused", ".corrupt"
PAGE = 500
_READ = 1 << 20


class SpoolFile:
    """An append-only file that its process holds locked.

    Attributes:
        size: offset behind the last line that counts; bytes after it do not.
        drained: offset behind the last line that is in the ledger.
        is_sound: ``False`` once a sync failed: the kernel then drops what it could not write and
            reports the next sync as a success, so nothing more is written here.
            Source: fsync(2), "EIO".
    """

    def __init__(self, path: Path) -> None:
        """Create, lock and make durable an empty file.

        Raises:
            OSError: it cannot be made.
        """
        self.path = path
        self.size = 0
        self.drained = 0
        self.is_sound = True
        # Unbuffered: a buffer would keep bytes of a failed write and write them later.
        self._file: IO[bytes] = open(path, "x+b", buffering=0, opener=_private)  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sync_directory(path.parent)
        except OSError:
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    @property
    def pending(self) -> int:
        """Bytes that are not drained."""
        return self.size - self.drained

    def append(self, lines: bytes) -> None:
        """Write and sync.

        Raises:
            OSError: nothing counts as written, and nothing of it stays in the file.
        """
        handle = self._file.fileno()
        try:
            _write(handle, lines, self.size)
            self._sync()
        except OSError:
            self._undo(lines)
            raise
        self.size += len(lines)

    def clear(self) -> None:
        """Remove all lines: they are in the ledger. A file that cannot be emptied is not used
        again; lines that are drained twice do no harm."""
        self.drained = self.size
        try:
            os.ftruncate(self._file.fileno(), 0)
            self._sync()
        except OSError as error:
            logger.error("spool file %s cannot be emptied: %s", self.path.name, error)
            self.is_sound = False
        else:
            self.size = self.drained = 0

    def pages(self) -> Iterator[Page]:
        """Pages of the lines that are not drained. ``OSError``: the file cannot be read."""
        with open(os.dup(self._file.fileno()), "rb") as file:
            yield from pages(file, self.drained, self.size)

    def close(self) -> None:
        """Release the lock; a file without pending lines is removed."""
        if not self.pending:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self.is_sound = False
            raise

    def _undo(self, lines: bytes) -> None:
        """Cut off a failed write, whose lines may be whole: they were refused, and a process that
        adopts the file would record them."""
        handle = self._file.fileno()
        try:
            os.ftruncate(handle, self.size)
            self._sync()
        except OSError as error:
            self.is_sound = False
            logger.error("spool file %s: a failed write stays: %s", self.path.name, error)
            _withdraw(handle, lines, self.size)


def _private(path: str, flags: int) -> int:
    """Open a file, which only its owner may read when it is made here."""
    return os.open(path, flags, 0o600)


def _write(handle: int, lines: bytes, offset: int) -> None:
    left = memoryview(lines)
    while left:
        count = os.pwrite(handle, left, offset)
        left, offset = left[count:], offset + count


def _withdraw(handle: int, lines: bytes, offset: int) -> None:
    """Mark lines that cannot be cut off: one byte each, in place, needs no room on the disk."""
    end = min(offset + len(lines), os.fstat(handle).st_size)
    try:
        for line in lines.splitlines(keepends=True):
            if offset < end:
                os.pwrite(handle, _WITHDRAWN, offset)
            offset += len(line)
    except OSError as error:
        logger.error("lines of a failed write cannot be withdrawn: %s", error)


_WITHDRAWN = b"-"


@dataclass(slots=True)
class Page:
    """Some lines of a file, decoded.

    Attributes:
        end: offset behind them.
        damaged: lines that cannot be read, for an operator.
    """

    end: int
    entries: list[Entry] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries) + len(self.confirmations) + len(self.damaged)


def pages(file: IO[bytes], offset: int, end: int | None = None) -> Iterator[Page]:
    """Pages of a file from ``offset`` to ``end``. A torn last line was never acknowledged, and
    withdrawn ones were refused: both are left out."""
    file.seek(offset)
    page = Page(offset)
    for line in file:
        if end is not None and page.end >= end:
            break
        page.end += len(line)
        if not line.endswith(b"\n"):
            logger.warning("dropped a torn last line of a spool; it was never acknowledged")
        elif not line.startswith(_WITHDRAWN):
            _take(line, page)
        if len(page) >= PAGE:
            yield page
            page = Page(page.end)
    if len(page):
        yield page


def _take(line: bytes, page: Page) -> None:
    try:
        record = _record(line)
        if record["kind"] == "entry":
            page.entries.append(_entry(record))
        else:
            # Its entry comes before it; committing later entries first does no harm.
            page.confirmations.append(msgspec.convert(record["proof"], Confirmation))
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, RecursionError) as error:
        logger.error("a damaged line in a spool: %s", error)
        page.damaged.append(line)


def lines_of(entries: Sequence[Entry], confirmations: Sequence[Confirmation] = ()) -> bytes:
    """The lines of entries and confirmations: ``crc32 json``."""
    return b"".join(
        [_line(_entry_record(entry)) for entry in entries]
        + [_line({"kind": "proof", "proof": _confirmation(one)}) for one in confirmations]
    )


def set_aside(path: Path, lines: bytes) -> None:
    """Append lines to a file for an operator, durable.

    Raises:
        OSError: nothing was appended.
    """
    with open(path, "ab", buffering=0, opener=_private) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            _write(file.fileno(), lines, size)
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


@dataclass(frozen=True, slots=True)
class SetAside:
    """Lines that no process will commit by itself: ``.refused`` ones by the ledger, ``.corrupt``
    ones by the spool."""

    lines: int = 0
    files: tuple[Path, ...] = ()


def look_aside(directory: Path) -> SetAside:
    """Count the lines that are set aside in a spool's directory."""
    found = sorted(path for end in (REFUSED, DAMAGED) for path in directory.glob(f"*{end}"))
    return SetAside(sum(map(_count_lines, found)), tuple(found)) if found else SetAside()


def _count_lines(path: Path) -> int:
    count = 0
    try:
        with open(path, "rb") as file:
            while piece := file.read(_READ):
                count += piece.count(b"\n")
    except FileNotFoundError:
        return 0  # an operator has moved it meanwhile
    return count


def _line(record: dict[str, Any]) -> bytes:
    body = msgspec.json.encode(record)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _record(line: bytes) -> dict[str, Any]:
    body = line[9:-1]
    if line[:9] != b"%08x " % zlib.crc32(body):
        raise ValueError("its checksum is wrong")
    record: dict[str, Any] = msgspec.json.decode(body)
    return record


def _entry_record(entry: Entry) -> dict[str, Any]:
    return {
        "kind": "entry",
        "event": entry.event,
        "ack_timeout": entry.ack_timeout,
        "ttl": entry.ttl,
        "sent": entry.sent,
        "hand_over": entry.hand_over,
        "proofs": [_confirmation(one) for one in entry.confirmations],
        "pushes": [(outcome, error and storable(error)) for outcome, error in entry.pushes],
        # Without it, a line is as the first release wrote and reads it.
        **({} if entry.options is None else {"options": entry.options}),
    }


def _confirmation(one: Confirmation) -> Confirmation:
    return msgspec.structs.replace(one, by=storable(one.by), evidence=storable(one.evidence))


def _entry(record: dict[str, Any]) -> Entry:
    return Entry(
        event=event_from_wire(record["event"]),
        ack_timeout=record["ack_timeout"],
        ttl=record["ttl"],
        sent=record["sent"],
        hand_over=record["hand_over"],
        confirmations=msgspec.convert(record["proofs"], list[Confirmation]),
        pushes=[(Outcome(outcome), error) for outcome, error in record["pushes"]],
        options=msgspec.convert(record["options"], Options) if "options" in record else None,
    )


def _sync_directory(directory: Path) -> None:
    """Make the new file's name durable. Source: fsync(2), notes on directories."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
