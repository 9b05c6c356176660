"""Why a server cannot be reached, in words for operators that everybody may read.

Owns: the causes that a connection's error tells apart, each in fixed words: an error's own text may
name hosts. Never does: connect.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "its certificate is not the one of its name, or not trusted"),
    (ssl.SSLError, "no TLS connection can be made with it"),
    (socket.gaierror, "its host's name is not found"),
    (ConnectionRefusedError, "nothing listens at its address"),
    (TimeoutError, "it does not answer in time"),
    (ConnectionError, "it closes the connection"),
)
_UNREACHED = "no way leads to its address"


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error and what is behind it, the outermost first."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = found.__cause__ or found.__context__


def unreachable(error: BaseException) -> str | None:
    """Why no connection came about, or why it broke; ``None`` where that cannot be told."""
    for one in chain_of(error):
        if isinstance(one, BlockingIOError):
            continue  # how a socket with a timeout begins to wait
        known = next((words for kind, words in _CAUSES if isinstance(one, kind)), None)
        if known is not None:
            return known
        if type(one) is OSError and one.errno is not None:
            return _UNREACHED
    return None
