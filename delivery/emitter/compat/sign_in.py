"""The older emitter of sign-ins and the monitor of their connections.

Owns: the question whether a user's client answers, and counts of sign-in events. Never does: retry,
copy or escalate: the class ``auth`` of the policies says how often and where to.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

from delivery.domain.emission import Data, Receipt, auth_type
from delivery.domain.event import AUTH_TYPES, EventClass
from delivery.emitter.compat.emitters import UnifiedWebSocketEmitter
from delivery.emitter.compat.redirect import source_of, warn_once
from delivery.errors import ConfigError

CHECK = "connection_check"
"""Type of the event whose confirmation answers the question; it expires after the wait."""
CHECK_TIMEOUT = 5.0
MAX_SESSION_MS = 3_600_000.0


class AuthenticationWebSocketEmitter(UnifiedWebSocketEmitter):
    """The older emitter of sign-ins: see ``UnifiedWebSocketEmitter`` for its arguments."""

    def __init__(
        self, manager: Any, user_id: str, context: Any, performance_mode: bool = False
    ) -> None:
        super().__init__(manager, user_id, context, performance_mode)
        self._auth_counts = dict.fromkeys(AUTH_TYPES, 0)
        self._auth_failures = 0
        self._checks = self._answered = 0
        self._is_healthy: bool | None = None

    async def emit_auth_event(self, event_type: str, data: Data | None = None) -> Receipt:
        """Emit an event of a sign-in, by its type or its stage; see ``Emission.emit_auth``.

        Raises:
            InvalidEvent: a sign-in has no such event.
            InvalidContext: an id looks like an unfilled template.
        """
        self._redirect("emit_auth_event", "emit_auth(stage, data)")
        name = auth_type(event_type)
        try:
            receipt = await self._emit(name, data, event_class=EventClass.AUTH)
        except Exception:
            self._auth_failures += 1
            raise
        self._auth_counts[name] += 1
        return receipt

    async def ensure_auth_connection_health(self, timeout: float = CHECK_TIMEOUT) -> bool:
        """Ask the user's clients for an answer; whether one came within ``timeout`` seconds.

        Effect: one event of the type ``connection_check``, which expires after the wait.
        """
        self._redirect("ensure_auth_connection_health", "await receipt.confirmed(timeout)")
        return await self.check(timeout)

    async def check(self, timeout: float) -> bool:
        """As ``ensure_auth_connection_health``."""
        self._checks += 1
        receipt = await self._emit(
            CHECK, {"timeout_s": timeout}, event_class=EventClass.STANDARD, ttl=max(0.1, timeout)
        )
        self._is_healthy = await receipt.confirmed(timeout)
        self._answered += self._is_healthy
        return self._is_healthy

    def get_auth_stats(self) -> dict[str, Any]:
        """Counts of this emitter's sign-in events and of its questions."""
        self._redirect("get_auth_stats", "d.stats(), or GET /v1/stats")
        return {
            **self._ids._asdict(),
            "auth_events": sum(self._auth_counts.values()),
            "by_type": dict(self._auth_counts),
            "auth_failures": self._auth_failures,
            "health_checks": self._checks,
            "health_answers": self._answered,
            "is_healthy": self._is_healthy,
        }


class AuthenticationConnectionMonitor:
    """Watches whether a user's client answers while a sign-in lasts.

    Args:
        manager: as of ``UnifiedWebSocketEmitter``.

    Raises:
        ConfigError: it is none of the three.
    """

    def __init__(self, manager: Any) -> None:
        warn_once(type(self).__name__, "await receipt.confirmed(timeout)")
        self._source = source_of("manager", manager)

    async def monitor_auth_session(
        self,
        user_id: str,
        session_duration_ms: float = 30_000.0,
        check_interval_ms: float = 5_000.0,
    ) -> dict[str, Any]:
        """Ask the user's clients again and again until the session's time is over.

        Args:
            session_duration_ms: how long, in milliseconds; at most an hour.
            check_interval_ms: from one question to the next, in milliseconds.

        Returns:
            ``user_id``, ``run_id``, ``checks``, ``answers``, ``health_score`` (0-100: the share
            of answers), ``is_healthy`` (the last question was answered), ``duration_ms``.

        Raises:
            InvalidContext: ``user_id`` is no user's id.
            ConfigError: a duration is not positive, or over an hour.
        """
        name = f"{type(self).__name__}.monitor_auth_session"
        warn_once(name, "await receipt.confirmed(timeout)")
        if not 0 < session_duration_ms <= MAX_SESSION_MS or not check_interval_ms > 0:
            raise ConfigError(f"a session lasts up to {MAX_SESSION_MS:g} ms, in positive intervals")
        run = f"sign-in-{uuid4().hex[:12]}"
        context = {"user_id": user_id, "run_id": run, "thread_id": None}
        emitter = AuthenticationWebSocketEmitter(self._source, user_id, context)
        began = time.monotonic()
        ends = began + session_duration_ms / 1_000.0
        checks = answers = 0
        is_healthy = False
        while True:
            asked = time.monotonic()
            is_healthy = await emitter.check(max(0.1, min(CHECK_TIMEOUT, ends - asked)))
            checks, answers = checks + 1, answers + is_healthy
            pause = min(asked + check_interval_ms / 1_000.0, ends) - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            if time.monotonic() >= ends:
                break
        return {
            "user_id": user_id,
            "run_id": run,
            "checks": checks,
            "answers": answers,
            "health_score": round(100 * answers / checks),
            "is_healthy": is_healthy,
            "duration_ms": round((time.monotonic() - began) * 1_000.0),
        }
