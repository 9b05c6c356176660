"""The wire between gateway and client: frames, codec, close codes. Pure; both sides use it.

Owns: the frames of ``docs/protocol.md`` and the encoding of an event. Never does: sockets, clocks,
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from delivery.domain.event import Event
from delivery.domain.inputs.foreign_text import decode_surrogates, without_surrogates
from delivery.domain.inputs.json_limits import check_depth
from delivery.errors import InvalidFrame

SUBPROTOCOL = "delivery.v1"
CONNECT_TIMEOUT = 5.0
MAX_FRAME_BYTES = 1 << 20
MAX_ACK_IDS = 1_000
MAX_COMMAS = 8_000
"""In a client's frame, whose longest list has ``MAX_ACK_IDS``; counted before it is decoded."""


class Close:
    """Close codes: 3000-3499 reconnect, 3500-3999 do not."""

    SHUTDOWN = 3001
    TOKEN_EXPIRED = 3005
    NOT_YET = 3006
    SLOW_CONSUMER = 3008
    FORCED_RECONNECT = 3011
    NO_PONG = 3012
    INVALID_TOKEN = 3500
    BAD_FRAME = 3501
    NO_CONNECT = 3502
    OPERATOR = 3503
    CONNECTION_LIMIT = 3504
    RATE_LIMIT = 3505


def may_reconnect(code: int | None) -> bool:
    """Whether a client should come back after this close code, standard codes included."""
    return code is None or not 3500 <= code <= 3999


class Connect(msgspec.Struct, frozen=True, tag_field="type", tag="connect", omit_defaults=True):
    """First frame of a client."""

    token: str | None = None
    cursor: str | None = None
    device: str | None = None


class Ack(msgspec.Struct, frozen=True, tag_field="type", tag="ack", omit_defaults=True):
    """Acknowledges everything up to a count, and/or single ids."""

    upto: int | None = None
    ids: list[str] | None = None


class Nack(msgspec.Struct, frozen=True, tag_field="type", tag="nack"):
    """The client cannot handle the event, which is handed over at once."""

    id: str
    reason: str = ""


class Refresh(msgspec.Struct, frozen=True, tag_field="type", tag="refresh"):
    """A newer token for this connection."""

    token: str


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Asks for a ``pong`` frame."""


ClientFrame = Connect | Ack | Nack | Refresh | Ping


class Connected(msgspec.Struct, frozen=True, tag_field="type", tag="connected", omit_defaults=True):
    """The gateway's welcome; ``heartbeat`` in seconds, ``expires`` RFC 3339."""

    connection_id: str
    user_id: str
    node: str
    heartbeat: float
    recovered: bool
    max_in_flight: int
    expires: str | None = None


class Events(msgspec.Struct, frozen=True, tag_field="type", tag="events"):
    """A batch; ``n`` counts this connection's events, these included."""

    n: int
    events: list[dict[str, Any]]


class Pong(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """Answer to ``ping``."""


class Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """An error of the client; the connection may stay open."""

    code: str
    message: str


class Reconnect(msgspec.Struct, frozen=True, tag_field="type", tag="reconnect"):
    """Asks the client to reconnect after ``after_ms`` milliseconds; close 3001 follows."""

    after_ms: int
    reason: str


class InboxChanged(msgspec.Struct, frozen=True, tag_field="type", tag="inbox"):
    """The user's inbox was marked on some device: read it anew. A client may ignore it."""


ServerFrame = Connected | Events | Pong | Error | Reconnect | InboxChanged

_encoder = msgspec.json.Encoder()
_client_decoder = msgspec.json.Decoder(ClientFrame)
_server_decoder = msgspec.json.Decoder(ServerFrame)


def encode(frame: ServerFrame | ClientFrame) -> bytes:
    """One JSON text frame as UTF-8 bytes."""
    return encode_json(frame)


def encode_json(value: Any) -> bytes:
    """Any JSON value, compact, UTF-8, with U+FFFD for each lone surrogate: an answer may quote what
    it refuses. Raises ``TypeError`` for a value that JSON does not have."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(without_surrogates(msgspec.to_builtins(value)))


def decode_json(raw: bytes | str) -> Any:
    """Parse JSON of at most ``MAX_DEPTH`` levels; its texts may hold lone surrogates. Raises
    ``InvalidFrame`` with the position of the fault."""
    check_depth(raw)
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            return decode_surrogates(raw)
        except ValueError:
            raise InvalidFrame(f"not JSON: {error}") from error


encode_event: Callable[[Event], bytes] = _encoder.encode
"""The event's JSON object, encoded once for all of its connections."""


def events_frame(n: int, encoded: Sequence[bytes]) -> bytes:
    """An ``events`` frame joined from events that are already encoded."""
    joined = encoded[0] if len(encoded) == 1 else b",".join(encoded)
    return b'{"type":"events","n":%d,"events":[%b]}' % (n, joined)


def text_frame(payload: bytes) -> bytes:
    """A server's WebSocket frame around a text. Source: RFC 6455, section 5.2."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a session, sent to the client in ``connected``."""

    heartbeat: float = 25.0
    max_in_flight: int = 1_000
    max_queue: int = 1_000


def decode_client(raw: str | bytes) -> ClientFrame:
    """Parse a client's frame.

    Raises:
        InvalidFrame: not JSON, unknown type, missing or wrong field; carries close code 3501.
    """
    check_depth(raw)
    if (raw.count(",") if isinstance(raw, str) else raw.count(b",")) > MAX_COMMAS:
        raise InvalidFrame(f"bad frame: over {MAX_COMMAS} commas")
    try:
        frame: ClientFrame = _client_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            frame = msgspec.convert(decode_surrogates(raw), ClientFrame)
        except ValueError:  # msgspec.ValidationError is one
            raise InvalidFrame(f"bad frame: {error}") from error
    if isinstance(frame, Ack):
        _check_ack(frame)
    return frame


def _check_ack(frame: Ack) -> None:
    if frame.upto is None and frame.ids is None:
        raise InvalidFrame("an ack needs upto or ids")
    if frame.upto is not None and frame.upto < 0:
        raise InvalidFrame("upto must be 0 or more")
    if frame.ids is not None and len(frame.ids) > MAX_ACK_IDS:
        raise InvalidFrame(f"an ack names at most {MAX_ACK_IDS} ids")


def decode_server(raw: str | bytes) -> ServerFrame | None:
    """Parse a gateway's frame; ``None`` for a type that only later versions know.

    Raises:
        InvalidFrame: not JSON, no type, missing or wrong field.
    """
    try:
        frame: ServerFrame = _server_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _is_unknown(raw):
            return None
        raise InvalidFrame(f"bad frame from the gateway: {error}") from error
    return frame


class _AnyFrame(msgspec.Struct):
    type: str


_any_decoder = msgspec.json.Decoder(_AnyFrame)
_SERVER_TYPES = frozenset(("connected", "events", "pong", "error", "reconnect"))


def _is_unknown(raw: str | bytes) -> bool:
    try:
        return _any_decoder.decode(raw).type not in _SERVER_TYPES
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
