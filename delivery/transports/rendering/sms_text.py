"""Segments of a text message: their alphabet, their size, and where they end.

Owns: the alphabets of GSM and the size of a part. Never does: render or send a text.

Source: 3GPP TS 23.038, section 6.2.1 (default alphabet and its extension table); 3GPP TS 23.040,
sections 9.2.3.16 and 9.2.3.24.1 (140 octets a part, 6 of them a header once there are several).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from delivery.transports.text import characters

_DEFAULT = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")  # an escape and a character: two septets
_SINGLE_PART = {"GSM-7": 160, "UCS-2": 70}
_PART_OF_SEVERAL = {"GSM-7": 153, "UCS-2": 67}

# One character outside GSM's alphabet more than doubles the cost of a text: a part has 70
# characters instead of 160. These have equivalents inside.
_EQUIVALENTS = str.maketrans(
    {"…": "...", "\u00a0": " ", "\u202f": " ", "\t": " "}
    | dict.fromkeys("–—‐‑", "-")
    | dict.fromkeys("‘’‚", "'")
    | dict.fromkeys("“”„", '"')
)


@dataclass(frozen=True, slots=True)
class Segments:
    """The parts of a text message.

    Attributes:
        encoding: ``GSM-7`` or ``UCS-2``.
        parts: texts that together are the whole text.
    """

    encoding: str
    parts: tuple[str, ...]


def with_gsm_equivalents(text: str) -> str:
    """A text with characters replaced by equivalents in GSM's alphabet, where there are any."""
    return unicodedata.normalize("NFC", text).translate(_EQUIVALENTS)


def units(text: str, encoding: str) -> int:
    """Size of a text: septets of GSM-7, or 16-bit units of UCS-2 (an emoji is two)."""
    if encoding == "GSM-7":
        return len(text) + sum(char in _EXTENSION for char in text)
    return len(text) + sum(char > "\uffff" for char in text)


def segments(text: str) -> Segments:
    """Split a text into parts. No part ends inside an escaped character, a surrogate pair, or a
    user-perceived character, unless that one is larger than a part."""
    is_gsm = all(char in _DEFAULT or char in _EXTENSION for char in text)
    encoding = "GSM-7" if is_gsm else "UCS-2"
    if units(text, encoding) <= _SINGLE_PART[encoding]:
        return Segments(encoding, (text,))
    limit = _PART_OF_SEVERAL[encoding]
    parts: list[str] = []
    part, size = "", 0
    for piece in _pieces(text, encoding, limit):
        cost = units(piece, encoding)
        if size + cost > limit:
            parts.append(part)
            part, size = "", 0
        part, size = part + piece, size + cost
    return Segments(encoding, (*parts, part))


def _pieces(text: str, encoding: str, limit: int) -> list[str]:
    pieces: list[str] = []
    for character in characters(text):
        pieces.extend([character] if units(character, encoding) <= limit else character)
    return pieces
