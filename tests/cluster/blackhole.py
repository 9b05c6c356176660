"""A TCP proxy that can cut its two sides off from each other, as a lost network does.

Nothing is closed and nothing refused: what is sent stays on its way, and arrives when the line is
whole again. Threads, so that tests may block.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LOOK = 0.2
"""Seconds between two looks whether it is over."""


class Blackhole:
    """Forwards to one port of this machine while the line is whole."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [self._begin(self._accept)]

    def cut(self) -> None:
        """From now on nothing gets through, in either direction."""
        self._whole.clear()

    def mend(self) -> None:
        """What is on its way arrives, and what comes after it."""
        self._whole.set()

    def close(self) -> None:
        """End everything."""
        self._over.set()
        self._whole.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5.0)

    def _begin(self, work: object, *args: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target), 5.0)
            except OSError:
                continue  # closed, or no peer is there
            for one, other in ((near, far), (far, near)):
                one.settimeout(LOOK)
                self._threads.append(self._begin(self._pump, one, other))

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while not self._over.is_set():
                try:
                    data = source.recv(65_536)
                except TimeoutError:
                    continue
                self._whole.wait()
                if not data:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


@contextmanager
def blackhole(target: int) -> Iterator[Blackhole]:
    """A running proxy to ``127.0.0.1:target``."""
    proxy = Blackhole(target)
    try:
        yield proxy
    finally:
        proxy.close()
