"""Events on disk for the time in which the service cannot take them.

Owns: one locked file per process, its bound, and files of processes that have ended. An event is
written without waiting for the disk, so that it survives the process and not the machine. Never
does: know what an event means, or send one. Sending twice is harmless: each has its id.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from pathlib import Path

from uuid_utils import uuid7

from delivery.errors import ConfigError

logger = logging.getLogger(__name__)

SUFFIX = ".events.jsonl"
MAX_PAGE = 500
MAX_LINE = 1 << 18


class SpoolFile:
    """Lines in the order in which they were added, read from the front. Thread-safe."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """
        Raises:
            OSError: it cannot be opened.
            BlockingIOError: another process has it.
        """
        self.path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = os.fstat(self._file).st_size
        except OSError:
            os.close(self._file)
            raise
        self._start = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything was taken."""
        return self._start >= self._end

    def add(self, line: bytes) -> bool:
        """Append one event; ``False`` if there is no room, in the file or on the disk."""
        with self._lock:
            if self._end + len(line) + 1 > self._max_bytes:
                return False
            try:
                written = os.write(self._file, line + b"\n")
            except OSError as error:
                logger.warning("spool %s cannot be written: %s", self.path, error.strerror)
                return False
            if written <= len(line):  # a full disk: the torn line must not precede a whole one
                os.ftruncate(self._file, self._end)
                return False
            self._end += written
            return True

    def page(self) -> tuple[list[bytes], int]:
        """The first lines that were not taken, and where they end in the file."""
        with self._lock:
            raw = os.pread(self._file, MAX_PAGE * 4_096 + MAX_LINE, self._start)
            lines, at = [], self._start
            for line in raw.splitlines(keepends=True)[:MAX_PAGE]:
                if not line.endswith(b"\n"):
                    break
                at += len(line)
                lines.append(line)
            if not lines:
                at = self._end  # the end of a file that its process could not finish
            return lines, at

    def take(self, end: int) -> None:
        """Forget what stands before ``end``; an emptied file begins anew."""
        with self._lock:
            self._start = end
            if self._start >= self._end:
                os.ftruncate(self._file, 0)
                self._start = self._end = 0

    def abandon(self) -> None:
        """Close this process's copy of the file; the lock stays where it was taken."""
        os.close(self._file)

    def close(self) -> None:
        """Let go of the file; it is removed if nothing is left in it."""
        with self._lock:
            if self.is_empty:
                self.path.unlink(missing_ok=True)
            os.close(self._file)


class Spool:
    """The files of one directory that this process may send from."""

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        """
        Raises:
            ConfigError: the directory cannot be used.
        """
        self._directory = directory
        self._max_bytes = max_bytes
        # Files sort by age: what waited in memory at the end is older than what went to disk.
        self._stamp = f"{uuid7()}-{os.getpid()}"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.own = self._file(1)
        except OSError as error:
            raise ConfigError(f"spool: {directory} cannot be used: {error.strerror}") from error

    def _file(self, part: int) -> SpoolFile:
        path = self._directory / f"{self._stamp}-{part}{SUFFIX}"
        return SpoolFile(path, max_bytes=self._max_bytes)

    def earlier(self) -> SpoolFile | None:
        """A file that is read before this process's own; ``None`` if it cannot be made."""
        try:
            return self._file(0)
        except OSError as error:
            logger.error("spool %s cannot be used: %s", self._directory, error.strerror)
            return None

    def orphan(self) -> SpoolFile | None:
        """A file that a process left behind, now this one's; ``None`` when there is none."""
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            if path == self.own.path:
                continue
            try:
                file = SpoolFile(path, max_bytes=self._max_bytes)
            except OSError:
                continue  # its process lives, or another one was faster
            if not file.is_empty:
                return file
            file.close()
        return None

    def close(self) -> None:
        """Let go of this process's file."""
        self.own.close()

    def abandon(self) -> None:
        """In a forked child: let go of the file, which is the parent's."""
        self.own.abandon()
