"""Memory that this process has freed, given back to the system.

Owns: the call of the C library. Never does: decide when.
"""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)


def give_back() -> None:
    """Give freed memory back. glibc keeps most of it for itself once it was taken in small pieces;
    other C libraries give it back themselves. Source: malloc_trim(3)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError) as error:
        logger.debug("memory is not given back: %s", error)
        return
    trim(0)
