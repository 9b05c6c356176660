"""Replies of an SMTP server, bounded in size and in time.

Owns: reading their lines. Never does: understand them; ``smtplib`` does. Its own reader takes lines
without end, and waits anew after every byte.
"""

from __future__ import annotations

import smtplib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

MAX_REPLY = 64 * 1024
"""Bytes of one reply; RFC 5321, section 4.5.3.1.5, allows 512 a line, and EHLO has a few dozen."""


class _Reader:
    """Reads lines, in place of the file that ``smtplib`` makes of its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._left = MAX_REPLY
        self._timeout = sock.gettimeout()
        self._ends = float("inf")

    def begin(self) -> None:
        """Begin a reply: all of it has the socket's timeout."""
        self._left = MAX_REPLY
        self._timeout = self._sock.gettimeout()
        self._ends = float("inf") if self._timeout is None else time.monotonic() + self._timeout

    def readline(self, limit: int = MAX_REPLY) -> bytes:
        """The next line; nothing at the end of the connection.

        Raises:
            OSError: the reply is too long, or not whole in time.
        """
        while (end := self._buffer.find(b"\n") + 1) == 0:
            if len(self._buffer) > min(limit, self._left):
                break
            found = self._receive()
            if not found:
                end = len(self._buffer)
                break
            self._buffer += found
        self._left -= end
        if self._left < 0 or (end == 0 and self._buffer):
            raise OSError("its reply does not end")
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def _receive(self) -> bytes:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(None if self._timeout is None else left)
        try:
            return self._sock.recv(4096)
        finally:
            self._sock.settimeout(self._timeout)

    def close(self) -> None:
        """Nothing: the socket is closed by its owner."""


class Smtp(smtplib.SMTP):
    """A client that reads bounded replies."""

    def getreply(self) -> tuple[int, bytes]:
        """See ``smtplib``."""
        if self.file is None and self.sock is not None:
            self.file = _Reader(self.sock)
        if self.file is not None:
            self.file.begin()
        return super().getreply()


class SmtpOverTls(smtplib.SMTP_SSL, Smtp):
    """The same, over TLS from the first byte."""
