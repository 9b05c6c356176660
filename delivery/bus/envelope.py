"""What travels on the bus: JSON objects and who sent them.

Owns: the envelope, shared by gateways and by workers that ask gateways. Never does: send. What a
node does not need of an envelope it does not decode: its own, and events of users who are not here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

logger = logging.getLogger(__name__)

_NOTHING = msgspec.Raw(b"")
_PUSHES = b'{"kind":"pushes",'


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """For everybody but ``sender``: one ``message`` or an array of ``messages``. ``probe`` is for
    the sender alone; ``has_inbox`` when the sender hears a channel of its own."""

    sender: str
    message: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    probe: bool = False
    has_inbox: bool = False


class _Pushes(msgspec.Struct, frozen=True):
    """The most frequent message; its events stay as they came."""

    kind: str
    node: str
    users: list[str]
    events: list[msgspec.Raw]
    to: list[str] = []


_encode = msgspec.json.Encoder().encode
_envelope = msgspec.json.Decoder(Envelope)
_array = msgspec.json.Decoder(list[msgspec.Raw])
_pushes = msgspec.json.Decoder(_Pushes)
_any = msgspec.json.Decoder(dict[str, Any])


def pack(message: dict[str, Any]) -> bytes:
    """One message's bytes. Raises ``TypeError`` for what JSON cannot say."""
    return _encode(message)


def seal(
    sender: str, packed: Sequence[bytes] = (), *, probe: bool = False, has_inbox: bool = False
) -> bytes:
    """An envelope around packed messages. One alone is sent as version 0.1 sent it."""
    message, messages = _NOTHING, _NOTHING
    if len(packed) == 1:
        message = msgspec.Raw(packed[0])
    elif packed:
        messages = msgspec.Raw(b"[%b]" % b",".join(packed))
    return _encode(Envelope(sender, message, messages, probe, has_inbox))


def unseal(raw: bytes | str) -> Envelope | None:
    """The envelope, ``None`` (and a warning) for what is none: others may use the server too."""
    try:
        return _envelope.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("something on the bus is no envelope: %s", error)
        return None


def unpack(envelope: Envelope) -> list[dict[str, Any]]:
    """The messages of an envelope; the events of ``pushes`` are still encoded. One that cannot be
    read is left out, with a warning."""
    try:
        many = _array.decode(envelope.messages) if envelope.messages else []
    except msgspec.DecodeError as error:
        logger.warning("an envelope on the bus holds no messages: %s", error)
        return []
    return [
        message
        for raw in ([envelope.message] if envelope.message else many)
        if (message := _read(bytes(raw))) is not None
    ]


def _read(raw: bytes) -> dict[str, Any] | None:
    if raw.startswith(_PUSHES):
        with suppress(msgspec.DecodeError):  # then it is read, and refused, as any other
            return msgspec.structs.asdict(_pushes.decode(raw))
    try:
        return None if raw == b"null" else _any.decode(raw)
    except msgspec.DecodeError as error:
        logger.warning("a message on the bus cannot be read: %s", error)
        return None
