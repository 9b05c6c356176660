"""The older emitters of one run, on top of the new one.

Owns: the older methods' names, arguments and data. Never does: validate, number, push or record:
every method ends in ``Emission.emit_nowait``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping
from typing import Any, Self, TypeVar

from delivery.domain.emission import Data, Emission, EventOptions, Receipt
from delivery.domain.event import AGENT_TYPES, AUTH_TYPES, EventClass
from delivery.domain.run_tokens import TYPE as TOKENS
from delivery.emitter.compat.redirect import (
    Ids,
    emission_of,
    has_ids,
    ids_of,
    source_of,
    warn_once,
)
from delivery.emitter.compat.tiers import PRIORITY, Tier, class_of, tier_of
from delivery.emitter.compat.tokens import Started, TokenTotals
from delivery.errors import Overloaded

logger = logging.getLogger(__name__)

NEW = "delivery.connect(...).emitter(user_id, run_id, thread_id)"
_BY_TYPE = frozenset({*AUTH_TYPES, TOKENS})
"""Types whose class no tier changes: a sign-in is owed the same in every tier, and figures of a run
are worth no mail in any."""

E = TypeVar("E", bound="UnifiedWebSocketEmitter")


class UnifiedWebSocketEmitter:
    """The older emitter of one user's run: each method emits one event through ``Emitter``.

    Every call returns the event's ``Receipt``, which is true, when the event is durable.

    Args:
        manager: a connection (``delivery.connect``), an embedded gateway (``delivery.embed``), or
            an object whose ``emitter(...)`` returns an emitter of one of the two.
        user_id: the context's user.
        context: an object or mapping with ``user_id``, ``run_id`` and ``thread_id``.
        performance_mode: one retry of a failed push after 1 ms, no batches.

    Raises:
        ConfigError: ``manager`` is none of the three.
        InvalidContext: an id is missing, malformed or another user's; names the field.
    """

    def __init__(
        self, manager: Any, user_id: str, context: Any, performance_mode: bool = False
    ) -> None:
        self._open("manager", manager, ids_of(context, user_id), context, performance_mode)

    def _open(
        self, name: str, manager: Any, ids: Ids, context: Any, performance_mode: bool = False
    ) -> None:
        warn_once(type(self).__name__, NEW)
        self._source_name = name
        self._source = source_of(name, manager)
        self._ids = ids
        self._context = context
        self._performance_mode = bool(performance_mode)
        self._tier = Tier.FREE
        self._tokens = TokenTotals()
        self._open_receipts: dict[str, Receipt] = {}
        self._emitted = self._failed = self._critical = 0
        self.connection_id: str | None = None
        self._emission: Emission | None = None
        try:
            self._emission = self._make(ids)
        except Overloaded:
            # An embedded gateway that has not started: older code makes emitters before that.
            logger.debug("the emitter of run %s waits for its gateway's start", ids.run_id)

    def _make(self, ids: Ids) -> Emission:
        return emission_of(self._source_name, self._source, ids, self._performance_mode)

    @classmethod
    def create_for_user(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an emitter; the arguments are those of the class, also without the user's id, which
        stands in the context. It may be awaited."""
        warn_once(f"{cls.__name__}.create_for_user", NEW)
        named = _with_user(args, kwargs)
        return cls(*args, **kwargs) if named is None else cls(**named)

    def __await__(self: E) -> Generator[Any, None, E]:
        """The emitter itself: older factories were coroutines."""
        return _itself(self).__await__()

    @property
    def user_id(self) -> str:
        """The one user of this emitter."""
        return self._ids.user_id

    @property
    def run_id(self) -> str:
        """The run of its events."""
        return self._ids.run_id

    @property
    def thread_id(self) -> str | None:
        """The thread of its events."""
        return self._ids.thread_id

    @property
    def performance_mode(self) -> bool:
        """Whether a failed push is retried once, after 1 ms, and nothing waits for a batch."""
        return self._performance_mode

    # Events

    async def emit(self, event_type: str, data: Data | None = None) -> Receipt:
        """See ``Emission.emit``."""
        warn_once(f"{type(self).__name__}.emit", "Emitter.emit(type, data)")
        return await self._emit(event_type, data)

    async def notify_custom(self, event_type: str, data: Data | None = None) -> Receipt:
        """See ``Emission.emit``."""
        self._redirect("notify_custom", "emit(type, data)")
        return await self._emit(event_type, data)

    async def emit_agent_started(self, agent: Any = None, /, **data: Any) -> Receipt:
        """See ``Emission.emit_agent_started``; a mapping in place of the name is the data."""
        self._redirect("emit_agent_started", "emit_agent_started(agent, **data)")
        return await self._emit("agent_started", _fields("agent", agent, data))

    async def emit_agent_thinking(self, thought: Any = None, /, **data: Any) -> Receipt:
        """See ``Emission.emit_agent_thinking``."""
        self._redirect("emit_agent_thinking", "emit_agent_thinking(thought, **data)")
        return await self._emit("agent_thinking", _fields("thought", thought, data))

    async def emit_tool_executing(
        self, tool: Any = None, args: Data | None = None, /, **data: Any
    ) -> Receipt:
        """See ``Emission.emit_tool_executing``."""
        self._redirect("emit_tool_executing", "emit_tool_executing(tool, args, **data)")
        extra = data if args is None else {"args": args, **data}
        return await self._emit("tool_executing", _fields("tool", tool, extra))

    async def emit_tool_completed(
        self, tool: Any = None, result: Any = None, /, **data: Any
    ) -> Receipt:
        """See ``Emission.emit_tool_completed``."""
        self._redirect("emit_tool_completed", "emit_tool_completed(tool, result, **data)")
        extra = data if result is None else {"result": result, **data}
        return await self._emit("tool_completed", _fields("tool", tool, extra))

    async def emit_agent_completed(self, result: Any = None, /, **data: Any) -> Receipt:
        """See ``Emission.emit_agent_completed``."""
        self._redirect("emit_agent_completed", "emit_agent_completed(result, **data)")
        return await self._emit("agent_completed", _fields("result", result, data))

    async def notify_agent_started(
        self, agent_name: str, metadata: Data | None = None, context: Any = None
    ) -> Receipt:
        """Emit ``agent_started``.

        Args:
            metadata: stands in the event's data under this name.
            context: of another run of this user, to which the event then goes; a mapping without
                ids stands in the data.

        Raises:
            InvalidContext: the context is another user's.
        """
        self._redirect("notify_agent_started", "emit_agent_started(agent, **data)")
        ids = ids_of(context, self.user_id) if has_ids(context) else None
        data = _named(agent=agent_name, agent_name=agent_name, metadata=metadata)
        if ids is None and context is not None:
            data["context"] = context
        return await self._emit("agent_started", data, ids=ids)

    async def notify_agent_thinking(
        self,
        agent_name: str | None = None,
        reasoning: str | None = None,
        thought: str | None = None,
        step_number: int | None = None,
        metadata: Data | None = None,
    ) -> Receipt:
        """Emit ``agent_thinking``; ``reasoning`` is the thought where there is no other."""
        self._redirect("notify_agent_thinking", "emit_agent_thinking(thought, **data)")
        said = thought if thought is not None else reasoning
        data = _named(
            thought="" if said is None else said,
            agent_name=agent_name,
            reasoning=reasoning,
            step_number=step_number,
            metadata=metadata,
        )
        return await self._emit("agent_thinking", data)

    async def notify_tool_executing(self, tool_name: str, metadata: Data | None = None) -> Receipt:
        """Emit ``tool_executing``; ``args`` of the metadata are those of the call."""
        self._redirect("notify_tool_executing", "emit_tool_executing(tool, args, **data)")
        args = metadata.get("args") if isinstance(metadata, Mapping) else None
        data = _named(tool=tool_name, tool_name=tool_name, metadata=metadata)
        return await self._emit("tool_executing", data | {"args": {} if args is None else args})

    async def notify_tool_completed(self, tool_name: str, metadata: Data | None = None) -> Receipt:
        """Emit ``tool_completed``; ``result`` of the metadata is that of the call."""
        self._redirect("notify_tool_completed", "emit_tool_completed(tool, result, **data)")
        result = metadata.get("result") if isinstance(metadata, Mapping) else None
        data = _named(tool=tool_name, tool_name=tool_name, metadata=metadata)
        return await self._emit("tool_completed", data | {"result": result})

    async def notify_agent_completed(
        self,
        agent_name: str,
        metadata: Data | None = None,
        result: Any = None,
        execution_time_ms: float | None = None,
    ) -> Receipt:
        """Emit ``agent_completed``."""
        self._redirect("notify_agent_completed", "emit_agent_completed(result, **data)")
        data = _named(
            agent=agent_name,
            agent_name=agent_name,
            metadata=metadata,
            execution_time_ms=execution_time_ms,
        )
        return await self._emit("agent_completed", data | {"result": result})

    async def notify_agent_error(self, error: Any, **fields: Any) -> Receipt:
        """Emit ``agent_error``, which is ``critical`` whatever the tier."""
        self._redirect("notify_agent_error", "emit('agent_error', data, class_='critical')")
        said = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        data = {"error": said, **fields}
        return await self._emit("agent_error", data, event_class=EventClass.CRITICAL)

    async def notify_progress_update(self, progress: Any, message: Any, **fields: Any) -> Receipt:
        """Emit ``progress_update``, which is ``ephemeral``: pushed and never stored."""
        self._redirect("notify_progress_update", "emit('progress', data)")
        data = {"progress": progress, "message": message, **fields}
        return await self._emit("progress_update", data, event_class=EventClass.EPHEMERAL)

    async def _emit(
        self,
        event_type: str,
        data: Data | None,
        *,
        event_class: str | None = None,
        ids: Ids | None = None,
        ttl: float | None = None,
    ) -> Receipt:
        receipt = self._start(event_type, data, event_class=event_class, ids=ids, ttl=ttl)
        try:
            return await receipt.accepted()
        except Exception:
            self._failed += 1
            raise

    def _start(
        self,
        event_type: str,
        data: Data | None,
        *,
        event_class: str | None = None,
        ids: Ids | None = None,
        ttl: float | None = None,
    ) -> Receipt:
        """Start to emit an event; ``cleanup`` waits for it."""
        options: EventOptions = {}
        if chosen := event_class or self._class_of(event_type):
            options["class_"] = chosen
        if ttl is not None:
            options["ttl"] = ttl
        try:
            receipt = self._emission_for(ids).emit_nowait(event_type, data, **options)
        except Exception:
            self._failed += 1
            raise
        self._emitted += 1
        is_critical = event_type in AGENT_TYPES or chosen == EventClass.CRITICAL
        self._critical += is_critical
        self._forget_settled()
        if not receipt.is_settled:
            self._open_receipts[receipt.id] = receipt
        return receipt

    def _emission_for(self, ids: Ids | None) -> Emission:
        if ids is not None and ids != self._ids:
            return self._make(ids)
        if self._emission is None:
            self._emission = self._make(self._ids)
        return self._emission

    def _class_of(self, event_type: object) -> str | None:
        return None if event_type in _BY_TYPE else class_of(self._tier)

    def _forget_settled(self) -> None:
        # Answers come in order of emission, so the settled ones stand at the front.
        for event_id, receipt in list(self._open_receipts.items()):
            if not receipt.is_settled:
                return
            del self._open_receipts[event_id]

    # Context, tier, figures

    def set_context(self, context: Any) -> None:
        """Emit to another run of the same user from now on.

        Raises:
            InvalidContext: an id is missing or malformed, or the context is another user's.
        """
        self._redirect("set_context", "d.emitter(user_id, run_id, thread_id) once per run")
        ids = ids_of(context, self.user_id)
        if ids != self._ids:
            self._emission = self._make(ids)
        self._ids, self._context = ids, context

    def get_context(self) -> Any:
        """The context that was given last."""
        self._redirect("get_context", "the ids that you made the emitter with")
        return self._context

    def set_user_tier(self, tier: str) -> None:
        """Set the user's tier, which chooses the class of further events; see ``set_tier_classes``.

        Raises:
            InvalidEvent: there is no such tier.
        """
        self._redirect("set_user_tier", "emit(type, data, class_=...)")
        self._tier = tier_of(tier)

    def get_user_tier(self) -> str:
        """``free``, ``early``, ``mid`` or ``enterprise``."""
        self._redirect("get_user_tier", "emit(type, data, class_=...)")
        return self._tier.value

    def is_priority_user(self) -> bool:
        """Whether the tier is ``mid`` or ``enterprise``."""
        self._redirect("is_priority_user", "emit(type, data, class_=...)")
        return self._tier in PRIORITY

    def update_token_metrics(
        self,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost: float = 0.0,
        operation: str = "",
    ) -> Started:
        """Add to the tokens and the cost of the run, in this emitter and in the ledger.

        Returns:
            What may be awaited until the figures are durable; they are on their way without.

        Raises:
            InvalidEvent: a figure is negative, not a number or too large; names it.
        """
        self._redirect("update_token_metrics", "emit('token_metrics', data)")
        data = self._tokens.checked(input_tokens, output_tokens, cost, operation)
        receipt = self._start(TOKENS, data, ttl=60.0)
        self._tokens.add(data)
        return Started(receipt)

    def get_token_metrics(self) -> dict[str, Any]:
        """The sums of this emitter, in all and by operation."""
        self._redirect("get_token_metrics", "GET /v1/runs/{id}")
        return self._tokens.as_dict()

    def get_stats(self) -> dict[str, Any]:
        """Counts of this emitter; those of the service are in ``GET /v1/stats``."""
        self._redirect("get_stats", "d.stats(), or GET /v1/stats")
        self._forget_settled()
        return {
            **self._ids._asdict(),
            "connection_id": self.connection_id,
            "events_emitted": self._emitted,
            "events_failed": self._failed,
            "critical_events": self._critical,
            "pending": len(self._open_receipts),
            "performance_mode": self._performance_mode,
            "user_tier": self._tier.value,
            "token_metrics": self._tokens.as_dict(),
        }

    async def cleanup(self) -> None:
        """Wait until everything that this emitter started is durable; nothing is dropped."""
        self._redirect("cleanup", "nothing: an emitter of the new kind needs none")
        started = [one for one in self._open_receipts.values() if not one.is_settled]
        for receipt, answer in zip(
            started,
            await asyncio.gather(*(one.accepted() for one in started), return_exceptions=True),
            strict=True,
        ):
            if isinstance(answer, Exception):
                logger.error("event %s was not accepted: %s", receipt.id, answer)
            elif isinstance(answer, BaseException):
                raise answer
        self._forget_settled()

    def _redirect(self, name: str, new: str) -> None:
        warn_once(f"{type(self).__name__}.{name}", new)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} user={self.user_id!r} run={self.run_id!r}>"


class UserWebSocketEmitter(UnifiedWebSocketEmitter):
    """The same by its context.

    Args:
        context: an object or mapping with ``user_id``, ``run_id`` and ``thread_id``.
        router: as ``manager`` of ``UnifiedWebSocketEmitter``.
        connection_id: kept for display: every connection of the user gets the events.
    """

    def __init__(self, context: Any, router: Any, connection_id: str | None = None) -> None:
        self._open("router", router, ids_of(context), context)
        self.connection_id = connection_id


class IsolatedWebSocketEventEmitter(UnifiedWebSocketEmitter):
    """Both calls: ``(manager, user_id, context, performance_mode=False)`` and
    ``(context, router, connection_id=None)``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if _is_by_context(args, kwargs):
            UserWebSocketEmitter.__init__(self, *args, **kwargs)  # type: ignore[arg-type]
        else:
            super().__init__(*args, **kwargs)


class OptimizedUserWebSocketEmitter(IsolatedWebSocketEventEmitter):
    """The same two calls."""


async def _itself(emitter: E) -> E:
    return emitter


def _with_user(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The named arguments that ``(manager, context)`` stand for; ``None`` for other calls."""
    if "user_id" in kwargs or "router" in kwargs or (args and has_ids(args[0])):
        return None
    named = dict(zip(("manager", "context"), args, strict=False)) | kwargs
    if len(args) + ("context" in kwargs) > 2 or not has_ids(named.get("context")):
        return None
    return {**named, "user_id": ids_of(named["context"]).user_id}


def _is_by_context(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is ``(context, router, …)``; also when the context lacks its user's id, so
    that the error is about that."""
    if "router" in kwargs or "manager" in kwargs or "user_id" in kwargs:
        return "router" in kwargs
    if len(args) == 2 and "context" not in kwargs:
        return has_ids(args[0]) or not isinstance(args[1], str)
    return has_ids(args[0] if args else kwargs.get("context")) or (
        len(args) > 2 and callable(getattr(args[1], "emitter", None))
    )


def _named(**values: Any) -> dict[str, Any]:
    """The values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _fields(name: str, value: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The data of a shorthand, called as ``(value, **given)``, ``(mapping)`` or
    ``(data=mapping)``."""
    if value is None and isinstance(given.get("data"), Mapping):
        value, given = given["data"], {key: one for key, one in given.items() if key != "data"}
    if isinstance(value, Mapping) and (name != "result" or "result" in value):
        return {**value, **given}
    return given if value is None and given else {name: value, **given}
