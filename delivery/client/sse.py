"""Server-sent events out of bytes, however a network cut them. Pure.

Source: WHATWG HTML, section 9.2, Server-sent events.
"""

from __future__ import annotations

from collections.abc import Iterator

from delivery.errors import InvalidFrame
from delivery.protocol import MAX_FRAME_BYTES

_DEFAULT_NAME = "message"


class SseParser:
    """``feed`` it what comes; each message is yielded once, as a name and its data."""

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        """
        Args:
            limit: bytes that one message may have.
        """
        self._limit = limit
        self._rest = b""
        self._size = 0
        self._name = _DEFAULT_NAME
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """The messages that this chunk completes.

        Raises:
            InvalidFrame: a message is larger than the limit.
        """
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            message = self._take(line.removesuffix(b"\r"))
            if message is not None:
                yield message
        if self._size + len(self._rest) > self._limit:
            raise InvalidFrame(f"the stream sent a message of over {self._limit} bytes")

    def _take(self, line: bytes) -> tuple[str, bytes] | None:
        if not line:
            name, data = self._name, self._data
            self._name, self._data, self._size = _DEFAULT_NAME, [], 0
            return (name, b"\n".join(data)) if data else None
        self._size += len(line)
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode(errors="replace")
        elif field == b"data":
            self._data.append(value)
        # `id` stands in the event as well, `retry` in the reconnect frame; a comment is a ping.
        return None
