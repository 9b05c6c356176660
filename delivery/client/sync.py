"""The blocking twin of the remote emitter, for code without an event loop.

Owns: one background loop per connection. Never does: anything of the protocol; every call runs the
asynchronous client there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any, TypeVar, Unpack

from delivery.client.contacts import RemoteContacts
from delivery.client.events import RemoteEvents
from delivery.client.remote import Remote, connect
from delivery.client.tokens import Token
from delivery.domain.emission import Data, Emission, EventOptions, Receipt
from delivery.errors import Unreachable

T = TypeVar("T")
STOP_TIMEOUT = 5.0


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin to run ``work`` on the loop."""
        if not self._thread.is_alive():
            work.close()
            raise Unreachable("the connection is closed, or was made before a fork")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run ``work`` to its end.

        Raises:
            Unreachable: it took over ``timeout`` seconds, and was cancelled.
        """
        future = self.start(work)
        try:
            return future.result(timeout)
        except FutureTimeout as error:
            if future.done():
                raise  # the work's own timeout
            raise Unreachable(f"no answer within {timeout:g} s") from error
        finally:
            future.cancel()

    def stop(self) -> None:
        """Cancel what runs, end the thread, close the loop. Safe to repeat."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self.run(_cancel_all(), STOP_TIMEOUT)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_TIMEOUT)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT / 2)
    await asyncio.get_running_loop().shutdown_asyncgens()


class BlockingReceipt:
    """A ``Receipt`` whose waits block."""

    def __init__(self, receipt: Receipt, thread: LoopThread, timeout: float) -> None:
        self._receipt = receipt
        self._thread = thread
        self._timeout = timeout

    @property
    def id(self) -> str:
        """See ``Receipt``; so for the others."""
        return self._receipt.id

    @property
    def seq(self) -> int | None:
        """The position in the run."""
        return self._receipt.seq

    @property
    def duplicate(self) -> bool:
        """Whether the id was known."""
        return self._receipt.duplicate

    @property
    def durable(self) -> bool:
        """Whether it is recorded."""
        return self._receipt.durable

    def accepted(self) -> BlockingReceipt:
        """Wait until the event is durable. Raises what ``Receipt.accepted`` raises."""
        self._thread.run(self._receipt.accepted(), self._timeout)
        return self

    def confirmed(self, timeout: float = 5.0) -> bool:
        """Wait for the user's confirmation; see ``Receipt.confirmed``."""
        return self._thread.run(self._receipt.confirmed(timeout), timeout + self._timeout)

    def __repr__(self) -> str:
        return repr(self._receipt)


class BlockingEmitter:
    """An emitter whose calls return when the event is durable. Safe to share between threads."""

    def __init__(self, emitter: Emission, thread: LoopThread, timeout: float) -> None:
        self._emitter = emitter
        self._thread = thread
        self._timeout = timeout

    def _run(self, work: Coroutine[Any, Any, Receipt]) -> BlockingReceipt:
        receipt = self._thread.run(work, self._timeout)
        return BlockingReceipt(receipt, self._thread, self._timeout)

    def emit(
        self,
        type: str,
        data: Data | None = None,
        *,
        id: str | None = None,
        meta: Data | None = None,
        **options: Unpack[EventOptions],
    ) -> BlockingReceipt:
        """See ``Emission.emit``."""
        return self._run(self._emitter.emit(type, data, id=id, meta=meta, **options))

    def emit_nowait(
        self,
        type: str,
        data: Data | None = None,
        *,
        id: str | None = None,
        meta: Data | None = None,
        **options: Unpack[EventOptions],
    ) -> BlockingReceipt:
        """See ``Emission.emit_nowait``; returns when the event is queued, not sent."""

        async def queue() -> Receipt:
            return self._emitter.emit_nowait(type, data, id=id, meta=meta, **options)

        return self._run(queue())

    def emit_agent_started(self, agent: str, **data: Any) -> BlockingReceipt:
        """See ``Emission``; so for the others."""
        return self._run(self._emitter.emit_agent_started(agent, **data))

    def emit_agent_thinking(self, thought: str, **data: Any) -> BlockingReceipt:
        """What the agent considers now."""
        return self._run(self._emitter.emit_agent_thinking(thought, **data))

    def emit_tool_executing(
        self, tool: str, args: Data | None = None, **data: Any
    ) -> BlockingReceipt:
        """The agent calls a tool."""
        return self._run(self._emitter.emit_tool_executing(tool, args, **data))

    def emit_tool_completed(self, tool: str, result: Any = None, **data: Any) -> BlockingReceipt:
        """The tool answered."""
        return self._run(self._emitter.emit_tool_completed(tool, result, **data))

    def emit_agent_completed(self, result: Any = None, **data: Any) -> BlockingReceipt:
        """The agent is done."""
        return self._run(self._emitter.emit_agent_completed(result, **data))

    def emit_auth(self, stage: str, data: Data | None = None) -> BlockingReceipt:
        """A step of a sign-in."""
        return self._run(self._emitter.emit_auth(stage, data))


def connect_sync(
    url: str,
    token: Token,
    *,
    timeout: float = 10.0,
    deadline: float = 30.0,
    max_buffered: int = 10_000,
) -> BlockingRemote:
    """The blocking twin of ``connect``: ``with delivery.connect_sync(url, token) as d``.

    Args: as of ``connect``. A token function is called on the background thread.

    Raises:
        ConfigError: the URL is none.
    """
    remote = connect(url, token, timeout=timeout, deadline=deadline, max_buffered=max_buffered)
    return BlockingRemote(remote, deadline + 2 * timeout)


class BlockingContacts:
    """``RemoteContacts`` whose calls block."""

    def __init__(
        self, contacts: RemoteContacts, run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._contacts = contacts
        self._run = run

    def put(
        self, user_id: str, contact: Mapping[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """See ``RemoteContacts.put``."""
        found: dict[str, Any] = self._run(self._contacts.put(user_id, contact, **fields))
        return found

    def get(self, user_id: str) -> dict[str, Any] | None:
        """See ``RemoteContacts.get``."""
        found: dict[str, Any] | None = self._run(self._contacts.get(user_id))
        return found

    def delete(self, user_id: str) -> None:
        """See ``RemoteContacts.delete``."""
        self._run(self._contacts.delete(user_id))


class BlockingEvents:
    """``RemoteEvents`` whose calls block."""

    def __init__(
        self, events: RemoteEvents, run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._events = events
        self._run = run

    def list(self, **wanted: Any) -> dict[str, Any]:
        """See ``RemoteEvents.list``."""
        found: dict[str, Any] = self._run(self._events.list(**wanted))
        return found

    def show(self, event_id: str) -> dict[str, Any] | None:
        """See ``RemoteEvents.show``."""
        found: dict[str, Any] | None = self._run(self._events.show(event_id))
        return found

    def replay(self, event_id: str) -> dict[str, Any]:
        """See ``RemoteEvents.replay``."""
        found: dict[str, Any] = self._run(self._events.replay(event_id))
        return found


class BlockingRemote:
    """A connection to the service's HTTP API. Made by ``connect_sync``; opened by the first use or
    by ``with``; ``close`` it in the end."""

    def __init__(self, remote: Remote, timeout: float) -> None:
        self._remote = remote
        self._timeout = timeout
        self._thread: LoopThread | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> BlockingRemote:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> LoopThread:
        with self._lock:
            if self._is_closed:
                raise Unreachable("the connection is closed")
            if self._thread is None:
                self._thread = LoopThread("delivery-remote")
                self._thread.run(self._remote.__aenter__(), self._timeout)
            return self._thread

    def start(self, work: Callable[[Remote], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin to run ``work`` on the background loop, with the connection as it is there.

        Raises:
            Unreachable: the connection is closed, or was made before a fork.
        """
        thread = self._open()
        return thread.start(work(self._remote))

    def emitter(
        self,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> BlockingEmitter:
        """See ``Remote.emitter``."""
        emitter = self._remote.emitter(user_id, run_id, thread_id, performance)
        return BlockingEmitter(emitter, self._open(), self._timeout)

    @property
    def contacts(self) -> BlockingContacts:
        """Addresses and preferences of users."""
        return BlockingContacts(self._remote.contacts, self._run)

    @property
    def events(self) -> BlockingEvents:
        """What the ledger knows: list, show, replay."""
        return BlockingEvents(self._remote.events, self._run)

    def stats(self) -> dict[str, Any]:
        """See ``Remote.stats``."""
        return self._run(self._remote.stats())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            thread = self._open()
        except BaseException:
            work.close()
            raise
        return thread.run(work, self._timeout)

    def event(self, event_id: str) -> dict[str, Any] | None:
        """See ``Remote.event``."""
        return self._open().run(self._remote.event(event_id), self._timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Send what waits, then end the thread. Safe to repeat."""
        with self._lock:
            self._is_closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._remote.close(timeout), timeout + STOP_TIMEOUT)
            finally:
                thread.stop()
