"""Django, Celery tasks and other blocking code: one connection per process, made when first used.

::

    delivery = ProcessDelivery("http://127.0.0.1:8080", token)     # in a module, before any fork

    @app.task
    def research(user_id, run_id):
        delivery.emitter(user_id, run_id).emit_agent_started("researcher")

``ProcessRecorder`` is the same for agents, whose events wait in a buffer: see ``recorder``.

Threads and sockets do not survive a fork, so a child that inherits the object connects anew. A call
returns when the event is durable: a worker that is killed afterwards loses nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, TypeVar

from delivery.adapters.agent_run import AgentRun
from delivery.adapters.recorder import CLOSE_TIMEOUT, Recorder
from delivery.client.http import parse_url
from delivery.client.sync import BlockingEmitter, BlockingRemote, connect_sync
from delivery.client.tokens import Token

T = TypeVar("T")

DISCONNECT_TIMEOUT = 0.2
DELIVERY_CLOSE = 5.0


class ProcessDelivery:
    """A source of blocking emitters that may be shared by threads and inherited by forks."""

    def __init__(
        self, url: str, token: Token, *, close_timeout: float = DELIVERY_CLOSE, **options: Any
    ) -> None:
        """
        Args:
            url: the service; ``token`` and ``options`` as of ``delivery.connect_sync``.
            close_timeout: seconds that the end of the process, or ``close``, waits at most for what
                is not sent yet.

        Raises:
            ConfigError: the URL is none.
        """
        parse_url(url)
        self._close_timeout = close_timeout
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
        return self.connection().emitter(user_id, run_id, thread_id, performance)

    def connection(self) -> BlockingRemote:
        """This process's connection."""
        with self._lock:
            if self._remote is None:
                self._remote = connect_sync(self._url, self._token, **self._options)
            return self._remote

    def close(self, timeout: float | None = None) -> None:
        """Send what waits, for at most ``timeout`` seconds (``close_timeout``, if none are given),
        and disconnect; the next use connects anew."""
        with self._lock:
            remote, self._remote = self._remote, None
        if remote is not None:
            remote.close(self._close_timeout if timeout is None else timeout)


class ProcessRecorder:
    """A ``Recorder`` in each process that uses it, shared by its threads, made when first used."""

    def __init__(
        self, url: str, token: Token, *, connect: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """
        Args:
            url: the service; ``token``, and ``connect``, as of ``delivery.connect_sync``.
            options: of ``Recorder``.

        Raises:
            ConfigError: the URL is none. Options are checked by the first use.
        """
        self._delivery = ProcessDelivery(url, token, **(connect or {}))
        self._options = options
        self._lock = threading.Lock()
        self._recorder: Recorder | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self.close)  # before the connection's: it was registered later

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.abandon()

    def recorder(self) -> Recorder:
        """This process's recorder."""
        with self._lock:
            if self._recorder is None:
                self._recorder = Recorder(self._delivery.connection(), **self._options)
            return self._recorder

    def run(self, user_id: str, run_id: str, thread_id: str | None = None) -> AgentRun:
        """See ``Recorder.run``."""
        return self.recorder().run(user_id, run_id, thread_id)

    async def keep(self, work: Coroutine[Any, Any, T], /) -> T:
        """See ``Recorder.keep``."""
        return await self.recorder().keep(work)

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """See ``Recorder.flush``."""
        return self.recorder().flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Send what waits and disconnect, as ``Recorder.close`` does; the next use begins anew."""
        with self._lock:
            recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close(timeout)
            self._delivery.close(DISCONNECT_TIMEOUT)  # the recorder has kept what was not sent

    def __enter__(self) -> ProcessRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> ProcessRecorder:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.recorder().until_kept_runs_end(self._options.get("close_timeout", CLOSE_TIMEOUT))
        await asyncio.to_thread(self.close)
