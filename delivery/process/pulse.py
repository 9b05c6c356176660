"""A file whose age says whether a process without a port does its work.

Owns: touching it. Never does: decide what counts as work; the process calls ``beat`` after it. The
check that reads the file is in ``docker-compose.yml``.
"""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two beats; the check allows four times as long."""


class Pulse:
    """Touches a file; without one, does nothing.

    Args:
        path: ``DELIVERY_PULSE_FILE``. Its folder must exist.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._is_failing = False

    def beat(self) -> None:
        """Say that work was just done. Never raises: the check sees the file's age."""
        if self._path is None:
            return
        try:
            self._path.touch()
        except OSError as error:
            if not self._is_failing:
                logger.error(
                    "the pulse file %s cannot be written: %s; set DELIVERY_PULSE_FILE",
                    self._path,
                    error.strerror,
                )
            self._is_failing = True
            return
        self._is_failing = False

    def end(self) -> None:
        """Remove the file: nothing works any more."""
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("the pulse file %s stays: %s", self._path, error.strerror)
