"""What travels on the bus: a JSON object and who sent it.

Owns: the envelope, shared by gateways and by workers that ask gateways. Never does: send.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

log = logging.getLogger(__name__)


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """``message`` for everybody but ``sender``; ``probe`` for the sender alone; ``has_inbox`` when
    the sender hears a channel of its own."""

    sender: str
    message: dict[str, Any] | None = None
    probe: bool = False
    has_inbox: bool = False


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)


def seal(envelope: Envelope) -> bytes:
    """The envelope's bytes. Raises ``TypeError`` for what JSON cannot say."""
    return _encoder.encode(envelope)


def unseal(raw: bytes | str) -> Envelope | None:
    """The envelope, ``None`` (and a warning) for what is none: others may use the server too."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("something on the bus is no envelope: %s", error)
        return None
