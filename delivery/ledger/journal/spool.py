"""The local spool: accepted events on disk while the ledger is away.

Owns: one locked file per process, fsynced before its entries count as accepted, drained in order
once the ledger is back; a second file where the first can no longer be trusted. Draining twice is
harmless: the ledger recognizes ids. A file whose process has ended is an orphan; the process that
gets its lock drains and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry
from delivery.errors import LedgerError, LedgerUnavailable, SpoolFull
from delivery.ledger.journal.spool_file import (
    DAMAGED,
    REFUSED,
    SUFFIX,
    Page,
    SpoolFile,
    lines_of,
    pages,
    set_aside,
)

logger = logging.getLogger(__name__)

_UNSAFE = re.compile("[^A-Za-z0-9_.-]")  # in a file's name
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Commit = Callable[[Sequence[Entry], Sequence[Confirmation]], Sequence[Entry] | None]
"""Records the entries first, then the confirmations. Returns the entries that the ledger refuses
for good, which are set aside."""


class Spool:
    """An append-only log of entries and confirmations, in the order in which they were accepted.

    Thread-safe. It is one file, and another one behind it after a failed fsync.
    """

    def __init__(self, directory: Path, node: str, max_bytes: int = 256 << 20) -> None:
        """Create and lock this process's file.

        Raises:
            LedgerUnavailable: the directory cannot be written; the message says which.
        """
        self.directory = directory
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._name = f"{_UNSAFE.sub('_', node)[:80]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._made = 0
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._new_file()
        except OSError as error:
            raise LedgerUnavailable(
                f"the spool directory {directory} cannot be used: {error.strerror}"
            ) from error
        self._older: list[SpoolFile] = []

    @property
    def path(self) -> Path:
        """The file that the next entry goes to."""
        return self._file.path

    @property
    def pending_bytes(self) -> int:
        """Bytes not drained yet; 0 when the spool is empty."""
        return sum(file.pending for file in (*self._older, self._file))

    def append(self, entries: Sequence[Entry], confirmations: Sequence[Confirmation] = ()) -> None:
        """Write and fsync; entries and confirmations survive ``kill -9`` once this returns.

        Raises:
            SpoolFull: the size limit would be exceeded, or the disk is full; nothing was written.
            LedgerUnavailable: the write or fsync failed; nothing counts as written.
        """
        lines = lines_of(entries, confirmations)
        with self._lock:
            size = sum(file.size for file in (*self._older, self._file))
            if size + len(lines) > self.max_bytes:
                raise SpoolFull(
                    f"the spool holds {size} of {self.max_bytes} bytes; bring the ledger back"
                )
            try:
                if not self._file.is_sound:
                    self._replace_file()
                self._file.append(lines)
            except OSError as error:
                raise _refusal(error) from error

    def drain(self, commit: Commit) -> int:
        """Commit everything to the ledger, in order, then empty the file.

        Raises:
            LedgerUnavailable: it is still away; pages not committed stay in the file.
        """
        with self._lock:
            if not self.pending_bytes:
                return 0
            count = 0
            while self._older:
                count += _drain(self._older[0], commit)
                self._older.pop(0).close()
            count += _drain(self._file, commit)
            self._file.clear()
            return count

    def adopt(self, commit: Commit) -> int:
        """Drain and remove the files of ended processes; returns the number of events."""
        own = {file.path for file in (*self._older, self._file)}
        return adopt_orphans(self.directory, commit, own=own)

    def close(self) -> None:
        """Release the locks; empty files are removed, others are left for adoption."""
        with self._lock:
            for file in (*self._older, self._file):
                file.close()

    def _new_file(self) -> SpoolFile:
        # Numbered: files of one process are adopted in the order of their names.
        file = SpoolFile(self.directory / f"{self._name}-{self._made:06d}{SUFFIX}")
        self._made += 1
        return file

    def _replace_file(self) -> None:
        fresh, unsound = self._new_file(), self._file
        self._file = fresh
        if unsound.pending:
            self._older.append(unsound)
        else:
            unsound.close()
        logger.warning("spool file %s takes the place of %s", fresh.path.name, unsound.path.name)


def adopt_orphans(directory: Path, commit: Commit, own: Iterable[Path] = ()) -> int:
    """Drain every spool file in ``directory`` whose process has ended.

    Raises:
        LedgerUnavailable: the ledger became unavailable; the remaining files stay.
    """
    count = 0
    for path in sorted({*directory.glob(f"*{SUFFIX}")} - {*own}):
        try:
            file = open(path, "r+b")  # noqa: SIM115 - closed below, after the lock
        except FileNotFoundError:
            continue  # another process adopted it between the listing and here
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process is alive
            for page in pages(file, 0):
                for entry in page.entries:
                    # The sockets it was pushed on ended with the process: the chain starts now.
                    entry.hand_over = True
                _commit(page, commit, path)
                count += len(page.entries)
            path.unlink(missing_ok=True)
    if count:
        logger.warning("adopted %d events from spools of ended processes", count)
    return count


def _drain(file: SpoolFile, commit: Commit) -> int:
    count = 0
    try:
        for page in file.pages():
            _commit(page, commit, file.path)
            file.drained = page.end
            count += len(page.entries)
    except OSError as error:
        raise LedgerUnavailable(f"the spool cannot be read: {error.strerror}") from error
    file.drained = file.size
    return count


def _commit(page: Page, commit: Commit, path: Path) -> None:
    """Commit a page, then set aside what no ledger takes: an accepted event is never dropped."""
    refused = commit(page.entries, page.confirmations) or ()
    # A name of its own: an operator renames it to ``.spool``, beside the file that it came from.
    aside = path.with_name(f"{path.stem}-aside")
    _keep(aside.with_suffix(REFUSED), lines_of(refused), len(refused), "refused by the ledger")
    damaged = b"".join(page.damaged)
    _keep(aside.with_suffix(DAMAGED), damaged, len(page.damaged), "damaged")


def _keep(path: Path, lines: bytes, count: int, why: str) -> None:
    if not lines:
        return
    try:
        set_aside(path, lines)
    except OSError as error:
        raise LedgerUnavailable(f"{path.name} cannot be written: {error.strerror}") from error
    logger.error("%d spooled records, %s, are set aside in %s", count, why, path)


def _refusal(error: OSError) -> LedgerError:
    if error.errno in _NO_ROOM:
        return SpoolFull(f"no room on the spool's disk ({error.strerror}); bring the ledger back")
    return LedgerUnavailable(f"the spool cannot be written: {error.strerror}")
