"""How a text message is cut into parts: what each part costs and where it ends.

Owns: the alphabets of GSM and the size of a part. Never does: choose words, or send.

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
_ALONE = {"GSM-7": 160, "UCS-2": 70}
_TOGETHER = {"GSM-7": 153, "UCS-2": 67}

# One character outside GSM's alphabet makes a text cost more than twice as much: 70 characters go
# into a part instead of 160. These have equals inside.
_CHEAP = str.maketrans(
    {"…": "...", "\u00a0": " ", "\u202f": " ", "\t": " "}
    | dict.fromkeys("–—‐‑", "-")
    | dict.fromkeys("‘’‚", "'")
    | dict.fromkeys("“”„", '"')
)


@dataclass(frozen=True, slots=True)
class Segments:
    """A text as it goes over the air.

    Attributes:
        encoding: ``GSM-7`` or ``UCS-2``.
        parts: the texts of the parts; put together they are the text.
    """

    encoding: str
    parts: tuple[str, ...]


def cheap(text: str) -> str:
    """The same words in characters that cost less, where there are any."""
    return unicodedata.normalize("NFC", text).translate(_CHEAP)


def units(text: str, encoding: str) -> int:
    """Septets of GSM-7, or 16-bit units of UCS-2: an emoji is two of these."""
    if encoding == "GSM-7":
        return len(text) + sum(char in _EXTENSION for char in text)
    return len(text) + sum(char > "\uffff" for char in text)


def segments(text: str) -> Segments:
    """The parts of a text. None ends within an escaped character or a surrogate pair, and none
    within what a reader sees as one character, unless that one is larger than a part."""
    is_gsm = all(char in _DEFAULT or char in _EXTENSION for char in text)
    encoding = "GSM-7" if is_gsm else "UCS-2"
    if units(text, encoding) <= _ALONE[encoding]:
        return Segments(encoding, (text,))
    limit = _TOGETHER[encoding]
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
