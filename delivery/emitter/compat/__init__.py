"""Older emitters' names for the one emitter, so that their callers need no change.

Owns: which names there are; ``delivery.compat`` is its short address. Never does: emit; every name
ends in ``Emission.emit_nowait``, with the same validation, ledger and chain, and warns once that it
is a redirect. What each name was said to do, and the test that shows it:
``docs/coming-from-emitters.md``.
"""

from delivery.emitter.compat.emitters import (
    IsolatedWebSocketEventEmitter,
    OptimizedUserWebSocketEmitter,
    UnifiedWebSocketEmitter,
    UserWebSocketEmitter,
)
from delivery.emitter.compat.factories import WebSocketBridgeFactory, WebSocketEmitterPool
from delivery.emitter.compat.notifier import (
    WebSocketNotifier,
    bind,
    notify_agent_completed,
    notify_agent_started,
    notify_agent_thinking,
    notify_auth,
    notify_tool_completed,
    notify_tool_executing,
    send_agent_event,
)
from delivery.emitter.compat.redirect import forget_warnings
from delivery.emitter.compat.sign_in import (
    AuthenticationConnectionMonitor,
    AuthenticationWebSocketEmitter,
)
from delivery.emitter.compat.tiers import set_tier_classes

__all__ = [
    "AuthenticationConnectionMonitor",
    "AuthenticationWebSocketEmitter",
    "IsolatedWebSocketEventEmitter",
    "OptimizedUserWebSocketEmitter",
    "UnifiedWebSocketEmitter",
    "UserWebSocketEmitter",
    "WebSocketBridgeFactory",
    "WebSocketEmitterPool",
    "WebSocketNotifier",
    "bind",
    "forget_warnings",
    "notify_agent_completed",
    "notify_agent_started",
    "notify_agent_thinking",
    "notify_auth",
    "notify_tool_completed",
    "notify_tool_executing",
    "send_agent_event",
    "set_tier_classes",
]
