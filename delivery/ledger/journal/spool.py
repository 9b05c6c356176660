"""The local spool: accepted events on disk while the ledger is away.

Owns: one locked file per process, fsynced before its entries count as accepted, drained in order
once the ledger is back. Draining twice is harmless: the ledger recognizes ids. A file whose process
has ended is an orphan; the process that gets its lock drains and removes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from delivery.domain.event import event_from_wire
from delivery.domain.lifecycle import Confirmation, Outcome
from delivery.domain.records import Entry
from delivery.errors import LedgerUnavailable, SpoolFull

logger = logging.getLogger(__name__)

SUFFIX = ".spool"
PAGE = 500
_UNSAFE = re.compile("[^A-Za-z0-9_.-]")  # in a file's name

Commit = Callable[[Sequence[Entry], Sequence[Confirmation]], object]
"""Records the entries first, then the confirmations."""


class Spool:
    """An append-only file of entries and confirmations, in the order in which they were accepted.

    Thread-safe. Lines are ``crc32 json``; a torn last line was never acknowledged and is dropped.
    """

    def __init__(self, directory: Path, node: str, max_bytes: int = 256 << 20) -> None:
        """Create and lock this process's file.

        Raises:
            LedgerUnavailable: the directory cannot be written; the message says which.
        """
        self.directory = directory
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        safe = _UNSAFE.sub("_", node)[:80]
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path = directory / f"{safe}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            self._file: IO[bytes] = open(self.path, "a+b", opener=_private)  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sync_directory(directory)
        except OSError as error:
            raise LedgerUnavailable(
                f"the spool directory {directory} cannot be used: {error.strerror}"
            ) from error
        self._size = 0
        self._drained = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes not drained yet; 0 when the spool is empty."""
        return self._size - self._drained

    def append(self, entries: Sequence[Entry], confirmations: Sequence[Confirmation] = ()) -> None:
        """Write and fsync; entries and confirmations survive ``kill -9`` once this returns.

        Raises:
            SpoolFull: the size limit would be exceeded; nothing was written.
            LedgerUnavailable: the write or fsync failed; nothing counts as written.
        """
        lines = b"".join(
            [_line(_entry_record(entry)) for entry in entries]
            + [_line(_confirmation_record(confirmation)) for confirmation in confirmations]
        )
        with self._lock:
            if self._size + len(lines) > self.max_bytes:
                raise SpoolFull(
                    f"the spool holds {self._size} of {self.max_bytes} bytes; bring the ledger back"
                )
            try:
                self._file.seek(0, os.SEEK_END)
                self._file.write(lines)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                # Cut a half-written tail, so that the next append starts on a line of its own.
                self._file.truncate(self._size)
                raise LedgerUnavailable(f"the spool cannot be written: {error.strerror}") from error
            self._size += len(lines)

    def drain(self, commit: Commit) -> int:
        """Commit everything to the ledger, in order, then empty the file.

        Raises:
            LedgerUnavailable: it is still away; pages not committed stay in the file.
        """
        with self._lock:
            if not self.pending_bytes:
                return 0
            count = 0
            for offset, entries, confirmations in _pages(self._file, self._drained, self.path):
                commit(entries, confirmations)
                self._drained = offset
                count += len(entries)
            self._file.truncate(0)
            os.fsync(self._file.fileno())
            self._size = self._drained = 0
            return count

    def set_aside(self, entries: Sequence[Entry]) -> None:
        """Move events that the ledger refuses for good to a file for an operator."""
        lines = b"".join(_line(_entry_record(entry)) for entry in entries)
        _append(self.path.with_suffix(".refused"), lines)
        logger.error(
            "ledger refused %d spooled events; they are kept in %s",
            len(entries),
            self.path.with_suffix(".refused"),
        )

    def adopt(self, commit: Commit) -> int:
        """Drain and remove the files of ended processes; returns the number of events."""
        return adopt_orphans(self.directory, commit, own=self.path)

    def close(self) -> None:
        """Release the lock; an empty file is removed, another one is left for adoption."""
        with self._lock:
            if not self.pending_bytes:
                self.path.unlink(missing_ok=True)
            self._file.close()


def adopt_orphans(directory: Path, commit: Commit, own: Path | None = None) -> int:
    """Drain every spool file in ``directory`` whose process has ended.

    Raises:
        LedgerUnavailable: the ledger became unavailable; the remaining files stay.
    """
    count = 0
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        if path == own:
            continue
        try:
            file = open(path, "r+b")  # noqa: SIM115 - closed below, after the lock
        except FileNotFoundError:
            continue  # another process adopted it between the listing and here
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process is alive
            for _, entries, confirmations in _pages(file, 0, path):
                for entry in entries:
                    # The sockets it was pushed on ended with the process: the chain starts now.
                    entry.hand_over = True
                commit(entries, confirmations)
                count += len(entries)
            path.unlink(missing_ok=True)
    if count:
        logger.warning("adopted %d events from spools of ended processes", count)
    return count


def _pages(
    file: IO[bytes], offset: int, path: Path
) -> Iterator[tuple[int, list[Entry], list[Confirmation]]]:
    """Pages of the file from ``offset`` on, each with the offset behind it."""
    file.seek(offset)
    entries: list[Entry] = []
    confirmations: list[Confirmation] = []
    for line in file:
        offset += len(line)
        record = _record(line)
        if record is None:
            _set_aside(line, path)
            continue
        if record["kind"] == "entry":
            entries.append(_entry(record))
        else:
            # Its entry comes before it; committing later entries first does no harm.
            confirmations.append(Confirmation(**record["proof"]))
        if len(entries) + len(confirmations) >= PAGE:
            yield offset, entries, confirmations
            entries, confirmations = [], []
    if entries or confirmations:
        yield offset, entries, confirmations


def _set_aside(line: bytes, path: Path) -> None:
    """Keep a line that cannot be read for an operator; drop a torn tail, never acknowledged."""
    if not line.endswith(b"\n"):
        logger.warning("dropped a torn last line of %s; it was never acknowledged", path.name)
        return
    aside = path.with_suffix(".corrupt")
    _append(aside, line)
    logger.error("damaged line in %s; it is kept in %s", path.name, aside)


def _private(path: str, flags: int) -> int:
    """Open a file, which only its owner may read when it is made here."""
    return os.open(path, flags, 0o600)


def _append(path: Path, lines: bytes) -> None:
    with open(path, "ab", opener=_private) as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _line(record: dict[str, Any]) -> bytes:
    body = msgspec.json.encode(record)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    body = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(body):
        return None
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
        "proofs": entry.confirmations,
        "pushes": entry.pushes,
    }


def _confirmation_record(confirmation: Confirmation) -> dict[str, Any]:
    return {"kind": "proof", "proof": confirmation}


def _entry(record: dict[str, Any]) -> Entry:
    return Entry(
        event=event_from_wire(record["event"]),
        ack_timeout=record["ack_timeout"],
        ttl=record["ttl"],
        sent=record["sent"],
        hand_over=record["hand_over"],
        confirmations=[Confirmation(**confirmation) for confirmation in record["proofs"]],
        pushes=[(Outcome(outcome), error) for outcome, error in record["pushes"]],
    )


def _sync_directory(directory: Path) -> None:
    """Make the new file's name durable. Source: fsync(2), notes on directories."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
