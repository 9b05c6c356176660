"""The kinds of way to a user, and what a step of a chain may say about one.

Owns: the names, as they stand in policy files, in the ledger and in JSON.
"""

from __future__ import annotations

import enum


class Channel(enum.StrEnum):
    """A kind of way to the user. An attempt or a confirmation names the one it went over."""

    # Steps of a chain.
    DATABASE = "database"
    QUEUE = "queue"
    DIRECT = "direct"
    EMERGENCY = "emergency"
    EMAIL = "email"
    SMS = "sms"
    ALERT = "alert"
    # Ways over which a client acknowledges. The attempts of the fast path stand under WEBSOCKET,
    # whatever the connection speaks.
    WEBSOCKET = "websocket"
    SSE = "sse"
    HTTP = "http"


LIVE = (Channel.WEBSOCKET, Channel.SSE, Channel.HTTP)
"""Where a confirmation is a client's acknowledgement."""
CHAIN = tuple(channel for channel in Channel if channel not in LIVE)
"""What a step of a chain may name."""
EXTERNAL = (Channel.EMERGENCY, Channel.EMAIL, Channel.SMS)
"""Reached through a provider: an attempt that was cut off may have gone out."""
DIGESTED = (Channel.EMAIL, Channel.SMS)
"""Gather many events into one message."""


class Confirms(enum.StrEnum):
    """What confirms the events in a message."""

    LINK = "link"  # its reader follows the link
    ACCEPTED = "accepted"  # the provider took it
    RECEIPT = "receipt"  # the provider reports its delivery
    NEVER = "never"


class OnUnknown(enum.StrEnum):
    """Whether a message is sent again that may have gone out."""

    RETRY = "retry"
    ONCE = "once"
    SKIP = "skip"
