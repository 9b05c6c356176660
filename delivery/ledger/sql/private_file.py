"""The mode of a SQLite file: its owner's alone.

Never does: open a file that exists.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)


def make_private(path: Path) -> None:
    """Create an empty database file with mode 600, or take the rights of others from the one that
    is there, with its journal files.

    A file that exists is never opened here: closing it would end the locks that this process holds
    on it. Source: sqlite.org/howtocorrupt.html, section 2.2.
    """
    with suppress(FileExistsError):
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileNotFoundError:
            return  # no such directory: SQLite says so
    for one in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))):
        try:
            mode = one.stat().st_mode
            if mode & 0o077:
                one.chmod(mode & 0o700)
                logger.info("%s could be read by others; its mode is 600 now", one)
        except FileNotFoundError:
            continue
        except OSError as error:  # the file of another user, or a file system without modes
            logger.warning("%s can be read by others: %s", one, error.strerror)
