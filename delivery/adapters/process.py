"""Django, Celery tasks and other blocking code: one connection per process, made when first used.

::

    delivery = ProcessDelivery("http://127.0.0.1:8080", token)     # in a module, before any fork

    @app.task
    def research(user_id, run_id):
        delivery.emitter(user_id, run_id).emit_agent_started("researcher")

Threads and sockets do not survive a fork, so a child that inherits the object connects anew. A call
returns when the event is durable: a worker that is killed afterwards loses nothing.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from delivery.client.http import parse_url
from delivery.client.sync import BlockingEmitter, BlockingRemote, connect_sync
from delivery.client.tokens import Token


class ProcessDelivery:
    """A source of blocking emitters that may be shared by threads and inherited by forks."""

    def __init__(self, url: str, token: Token, **options: Any) -> None:
        """
        Args:
            url: the service; ``token`` and ``options`` as of ``delivery.connect_sync``.

        Raises:
            ConfigError: the URL is none.
        """
        parse_url(url)
        self._url = url
        self._token = token
        self._options = options
        self._lock = threading.Lock()
        self._remote: BlockingRemote | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self.close)

    def _after_fork(self) -> None:
        # A thread that does not exist here may hold the lock; the connection is the parent's.
        self._lock = threading.Lock()
        self._remote = None

    def emitter(
        self,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> BlockingEmitter:
        """An emitter for one run of one user; keep it no longer than the process.

        Raises:
            InvalidContext: an id cannot address anybody.
        """
        with self._lock:
            if self._remote is None:
                self._remote = connect_sync(self._url, self._token, **self._options)
            remote = self._remote
        return remote.emitter(user_id, run_id, thread_id, performance)

    def close(self) -> None:
        """Send what waits and disconnect; the next use connects anew."""
        with self._lock:
            remote, self._remote = self._remote, None
        if remote is not None:
            remote.close()
