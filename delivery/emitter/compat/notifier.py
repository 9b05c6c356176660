"""The earlier notifier: its class, and its functions after ``bind``.

Owns: the mapping of names and argument order. Never does: anything else; every call ends in
``Emission.emit``, with the same validation, ledger and chain.

Call ``bind`` once at start, before the functions of this module.
"""

from __future__ import annotations

from typing import Any

from delivery.domain.emission import Data, Emission, Emitters, Receipt, auth_type
from delivery.emitter.compat.redirect import source_of, warn_once
from delivery.errors import ConfigError


class WebSocketNotifier:
    """The notifier's methods on top of ``Emitters``.

    Args:
        emitters: an embedded delivery, a remote connection, or the process's ``EmitterCore``.
    """

    def __init__(self, emitters: Emitters) -> None:
        self._emitters = source_of("emitters", emitters)

    def _emitter(
        self, old: str, new: str, user_id: str, run_id: str, thread_id: str | None = None
    ) -> Emission:
        warn_once(f"WebSocketNotifier.{old}", f"emitter(user_id, run_id).{new}")
        return self._emitters.emitter(user_id, run_id, thread_id)

    async def send_agent_event(
        self,
        user_id: str,
        run_id: str,
        event_type: str,
        data: Data | None = None,
        *,
        thread_id: str | None = None,
    ) -> Receipt:
        """Emit an event of any type; durable when it returns."""
        emitter = self._emitter("send_agent_event", "emit(type, data)", user_id, run_id, thread_id)
        return await emitter.emit(event_type, data)

    async def notify_agent_started(
        self, user_id: str, run_id: str, agent_name: str, **data: Any
    ) -> Receipt:
        """See ``Emission.emit_agent_started``."""
        emitter = self._emitter(
            "notify_agent_started", "emit_agent_started(agent, **data)", user_id, run_id
        )
        return await emitter.emit_agent_started(agent_name, **data)

    async def notify_agent_thinking(
        self, user_id: str, run_id: str, thought: str, **data: Any
    ) -> Receipt:
        """See ``Emission.emit_agent_thinking``."""
        emitter = self._emitter(
            "notify_agent_thinking", "emit_agent_thinking(thought, **data)", user_id, run_id
        )
        return await emitter.emit_agent_thinking(thought, **data)

    async def notify_tool_executing(
        self, user_id: str, run_id: str, tool_name: str, args: Data | None = None, **data: Any
    ) -> Receipt:
        """See ``Emission.emit_tool_executing``."""
        emitter = self._emitter(
            "notify_tool_executing", "emit_tool_executing(tool, args, **data)", user_id, run_id
        )
        return await emitter.emit_tool_executing(tool_name, args, **data)

    async def notify_tool_completed(
        self, user_id: str, run_id: str, tool_name: str, result: Any = None, **data: Any
    ) -> Receipt:
        """See ``Emission.emit_tool_completed``."""
        emitter = self._emitter(
            "notify_tool_completed", "emit_tool_completed(tool, result, **data)", user_id, run_id
        )
        return await emitter.emit_tool_completed(tool_name, result, **data)

    async def notify_agent_completed(
        self, user_id: str, run_id: str, result: Any = None, **data: Any
    ) -> Receipt:
        """See ``Emission.emit_agent_completed``."""
        emitter = self._emitter(
            "notify_agent_completed", "emit_agent_completed(result, **data)", user_id, run_id
        )
        return await emitter.emit_agent_completed(result, **data)

    async def notify_auth(
        self, user_id: str, run_id: str, stage: str, data: Data | None = None
    ) -> Receipt:
        """See ``Emission.emit_auth``."""
        emitter = self._emitter("notify_auth", "emit_auth(stage, data)", user_id, run_id)
        return await emitter.emit(auth_type(stage), data)


_bound: list[Emitters] = []


def bind(emitters: Emitters | None) -> None:
    """Set the emitters that the functions of this module, and factories without a manager, use;
    ``None`` unsets them."""
    _bound[:] = [] if emitters is None else [emitters]


def bound() -> Emitters | None:
    """What ``bind`` was given."""
    return _bound[0] if _bound else None


def _notifier() -> WebSocketNotifier:
    emitters = bound()
    if emitters is None:
        raise ConfigError("delivery.emitter.compat: call bind(emitters) once at start")
    return WebSocketNotifier(emitters)


async def send_agent_event(
    user_id: str,
    run_id: str,
    event_type: str,
    data: Data | None = None,
    *,
    thread_id: str | None = None,
) -> Receipt:
    """Emit an event of any type. Raises ``ConfigError`` before ``bind``, as all functions here."""
    return await _notifier().send_agent_event(
        user_id, run_id, event_type, data, thread_id=thread_id
    )


async def notify_agent_started(user_id: str, run_id: str, agent_name: str, **data: Any) -> Receipt:
    """See ``Emission.emit_agent_started``."""
    return await _notifier().notify_agent_started(user_id, run_id, agent_name, **data)


async def notify_agent_thinking(user_id: str, run_id: str, thought: str, **data: Any) -> Receipt:
    """See ``Emission.emit_agent_thinking``."""
    return await _notifier().notify_agent_thinking(user_id, run_id, thought, **data)


async def notify_tool_executing(
    user_id: str, run_id: str, tool_name: str, args: Data | None = None, **data: Any
) -> Receipt:
    """See ``Emission.emit_tool_executing``."""
    return await _notifier().notify_tool_executing(user_id, run_id, tool_name, args, **data)


async def notify_tool_completed(
    user_id: str, run_id: str, tool_name: str, result: Any = None, **data: Any
) -> Receipt:
    """See ``Emission.emit_tool_completed``."""
    return await _notifier().notify_tool_completed(user_id, run_id, tool_name, result, **data)


async def notify_agent_completed(
    user_id: str, run_id: str, result: Any = None, **data: Any
) -> Receipt:
    """See ``Emission.emit_agent_completed``."""
    return await _notifier().notify_agent_completed(user_id, run_id, result, **data)


async def notify_auth(user_id: str, run_id: str, stage: str, data: Data | None = None) -> Receipt:
    """See ``Emission.emit_auth``."""
    return await _notifier().notify_auth(user_id, run_id, stage, data)
