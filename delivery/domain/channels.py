"""Channels, the kinds of way to a user, and the choices that a step has: confirms, on_unknown.

Owns: the names, as policy files, the ledger and JSON write them.
"""

from __future__ import annotations

import enum


class Channel(enum.StrEnum):
    """A kind of way to the user. Each attempt and each confirmation names its channel."""

    # Steps of a chain.
    DATABASE = "database"
    QUEUE = "queue"
    DIRECT = "direct"
    EMERGENCY = "emergency"
    EMAIL = "email"
    SMS = "sms"
    ALERT = "alert"
    # Ways over which a client acknowledges. Attempts of the fast path are recorded under
    # WEBSOCKET, for event streams too.
    WEBSOCKET = "websocket"
    SSE = "sse"
    HTTP = "http"


LIVE = (Channel.WEBSOCKET, Channel.SSE, Channel.HTTP)
"""Channels on which a confirmation is a client's acknowledgement."""
CHAIN = tuple(channel for channel in Channel if channel not in LIVE)
"""Channels that a step of a chain may name."""
EXTERNAL = (Channel.EMERGENCY, Channel.EMAIL, Channel.SMS)
"""Channels of a provider: an interrupted attempt may have delivered."""
DECISION = "decision"
"""In place of a channel, of attempts that record an error of ours: no real channel was reached."""
DIGESTED = (Channel.EMAIL, Channel.SMS)
"""Channels that gather many events into one message."""


class Confirms(enum.StrEnum):
    """What confirms the events in a message."""

    LINK = "link"  # the reader follows the link
    ACCEPTED = "accepted"  # the provider took it
    RECEIPT = "receipt"  # the provider reports its delivery
    NEVER = "never"


class OnUnknown(enum.StrEnum):
    """Whether an attempt whose outcome is unknown is repeated."""

    RETRY = "retry"
    ONCE = "once"
    SKIP = "skip"
