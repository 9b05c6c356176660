"""Server-sent events out of bytes, however a network cut them. Pure.

Source: WHATWG HTML, section 9.2.6, Interpreting an event stream.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from delivery.errors import InvalidFrame
from delivery.protocol import MAX_FRAME_BYTES

_DEFAULT_NAME = "message"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseParser:
    """``feed`` it what comes; each message is yielded once, as a name and its data.

    A line may end with LF, CRLF or CR, whatever the server wrote: proxies change it.
    """

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        """
        Args:
            limit: bytes that one message may have.
        """
        self._limit = limit
        self._line = bytearray()
        self._is_after_cr = False
        self._is_at_start = True
        self._size = 0
        self._name = _DEFAULT_NAME
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """The messages that this chunk completes.

        Raises:
            InvalidFrame: a message is larger than the limit.
        """
        if not chunk:
            return
        if self._is_after_cr:
            # The line ended with the CR, without waiting for what follows.
            chunk = chunk.removeprefix(b"\n")
        self._is_after_cr = chunk.endswith(b"\r")
        first, *others = _LINE_END.split(chunk)
        self._line += first
        for following in others:
            message = self._take(bytes(self._line))
            self._line = bytearray(following)
            if message is not None:
                yield message
        if self._size + len(self._line) > self._limit:
            raise InvalidFrame(f"the stream sent a message of over {self._limit} bytes")

    def _take(self, line: bytes) -> tuple[str, str] | None:
        if self._is_at_start:
            self._is_at_start = False
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line:
            name, data = self._name, self._data
            self._name, self._data, self._size = _DEFAULT_NAME, [], 0
            return (name, b"\n".join(data).decode(errors="replace")) if data else None
        self._size += len(line)
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode(errors="replace") or _DEFAULT_NAME
        elif field == b"data":
            self._data.append(value)
        # `id` stands in the event as well, `retry` in the reconnect frame; a comment says nothing.
        return None
