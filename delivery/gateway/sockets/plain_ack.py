"""The everyday frame of a client, ``{"type":"ack","upto":n}``, read from the socket's bytes.

Owns: which bytes are such a frame, and its number. Never does: anything else that a client may
send; ``plain_ack`` answers ``NONE`` to it, and aiohttp's reader and ``decode_client`` take it. They
are the specification: a number is read here only from bytes that they read the same from.
"""

from __future__ import annotations

NONE = -1
HEADER = 6
"""Bytes before the payload of a short frame from a client: two, and the masking key."""
_TEXT = 0x81  # FIN and the opcode of a text: a message that is not fragmented
_MASKED = 0x80
_HEAD = b'{"type":"ack","upto":'
_MIN = len(_HEAD) + 2
_MAX = len(_HEAD) + 16  # 15 digits: over any count of events, and under the limits of integers
_ZERO = ord("0")


def plain_ack(data: bytes, at: int) -> int:
    """The number of the plain acknowledgement whose frame begins at ``at``; ``NONE`` for other
    frames, and for one that has not arrived as a whole. Its frame is ``HEADER`` bytes longer than
    the size in its second byte. Source: RFC 6455, section 5.2."""
    if len(data) - at < HEADER + _MIN or data[at] != _TEXT:
        return NONE
    size = data[at + 1] - _MASKED
    start = at + HEADER
    if size < _MIN or size > _MAX or start + size > len(data):
        return NONE
    # One operation on large numbers instead of one per byte; the key repeats every four bytes.
    key = data[at + 2 : start] * (size // 4 + 1)
    number = int.from_bytes(data[start : start + size]) ^ int.from_bytes(key[:size])
    text = number.to_bytes(size)
    digits = text[len(_HEAD) : -1]
    # bytes.isdigit() knows ASCII alone. JSON has no number that begins with 0 but 0 itself.
    if not (text.startswith(_HEAD) and text.endswith(b"}") and digits.isdigit()):
        return NONE
    if digits[0] == _ZERO and len(digits) > 1:
        return NONE
    return int(digits)
