"""What a session asks its connection to do: plain values, carried out in order."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from delivery.protocol import ServerFrame


class Send(msgspec.Struct, frozen=True, gc=False):
    """Write this frame."""

    frame: ServerFrame


class Verify(msgspec.Struct, frozen=True, gc=False):
    """Check a token (``None``: the one of the upgrade request) and answer with ``on_verified`` or
    ``on_refused``."""

    token: str | None


class Admit(msgspec.Struct, frozen=True, gc=False):
    """The user is known: attach the connection, welcome it and feed it."""

    user_id: str
    cursor: str | None


class Confirm(msgspec.Struct, frozen=True, gc=False):
    """These events were acknowledged."""

    ids: tuple[str, ...]


class HandOver(msgspec.Struct, frozen=True, gc=False):
    """The client refused this event: start its chain."""

    id: str
    reason: str


class Probe(msgspec.Struct, frozen=True, gc=False):
    """Send a ping with this payload (on a stream: a comment)."""

    payload: bytes


class Shut(msgspec.Struct, frozen=True, gc=False):
    """Close with this code."""

    code: int
    reason: str


Action = Send | Verify | Admit | Confirm | HandOver | Probe | Shut
Actions = Sequence[Action]
NOTHING: Actions = ()
