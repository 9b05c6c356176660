"""An event as a client gets it: the wire's object with attributes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any


class ReceivedEvent:
    """One event. Fields that a newer service adds are in ``wire``; nothing here is writable."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Mapping[str, Any]) -> None:
        self._wire = wire

    @property
    def wire(self) -> Mapping[str, Any]:
        """The JSON object as it came."""
        return self._wire

    @property
    def id(self) -> str:
        """The idempotency key."""
        return str(self._wire["id"])

    @property
    def type(self) -> str:
        """The type, e.g. ``agent_started``."""
        return str(self._wire["type"])

    @property
    def user_id(self) -> str:
        """Whose event it is."""
        return str(self._wire["user_id"])

    @property
    def run_id(self) -> str:
        """The run it belongs to."""
        return str(self._wire["run_id"])

    @property
    def thread_id(self) -> str | None:
        """The thread, if the emitter named one."""
        return self._wire.get("thread_id")

    @property
    def seq(self) -> int | None:
        """Position within the run; ``None`` for ephemeral events."""
        return self._wire.get("seq")

    @property
    def at(self) -> datetime:
        """When it was accepted, aware UTC."""
        return datetime.fromisoformat(self._wire["at"])

    @property
    def event_class(self) -> str:
        """``ephemeral``, ``standard``, ``critical`` or ``auth``."""
        return str(self._wire["class"])

    @property
    def is_durable(self) -> bool:
        """Whether it can be acknowledged: everything but ephemeral."""
        return self._wire.get("class") != "ephemeral"

    @property
    def data(self) -> dict[str, Any]:
        """What the emitter sent."""
        data: dict[str, Any] = self._wire["data"]
        return data

    @property
    def meta(self) -> dict[str, Any] | None:
        """The emitter's annotations."""
        return self._wire.get("meta")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReceivedEvent) and other._wire == self._wire

    def __hash__(self) -> int:
        return hash(self._wire.get("id"))

    def __repr__(self) -> str:
        return f"<ReceivedEvent {self._wire.get('type')} {self._wire.get('id')} seq={self.seq}>"
