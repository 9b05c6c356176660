"""What a session asks its connection to do: plain values, carried out in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delivery.protocol import ServerFrame


@dataclass(frozen=True, slots=True)
class Send:
    """Write this frame."""

    frame: ServerFrame


@dataclass(frozen=True, slots=True)
class Verify:
    """Check a token (``None``: the one of the upgrade request) and answer with ``on_verified`` or
    ``on_refused``."""

    token: str | None


@dataclass(frozen=True, slots=True)
class Admit:
    """The user is known: attach the connection, welcome it and feed it."""

    user_id: str
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Confirm:
    """These events were acknowledged."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HandOver:
    """The client refused this event: start its chain."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Send a ping with this payload (on a stream: a comment)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Shut:
    """Close with this code."""

    code: int
    reason: str


Action = Send | Verify | Admit | Confirm | HandOver | Probe | Shut
Actions = Sequence[Action]
NOTHING: Actions = ()
