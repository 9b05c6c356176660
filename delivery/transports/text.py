"""Text of events and providers made printable, on one line, without split characters.

Owns: which characters may stand in a mail, a text, a header, a log line, and the boundaries of
user-perceived characters. Never does: know what kind of message the text is for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_PROVIDER_ID = 255  # what the ledger's column holds
MAX_PROVIDER_TEXT = 200
_MAX_MARKS = 8  # on one letter: more of them would cover the lines around it

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Surrogates and noncharacters: neither PostgreSQL nor a mail takes the former.
_BROKEN = re.compile(
    "[\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(
        f"{chr(plane | 0xFFFE)}{chr(plane | 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000)
    )
    + "]"
)
# Invisible characters, and those that reorder text around them: a name must not disguise a line.
# Joiners, marks of direction, tags and variation selectors are treated below.
_HIDDEN = re.compile(
    r"[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u202a-\u202e\u2060-\u206f\u3164\ufeff"
    r"\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f"
    r"\U000e0080-\U000e00ff\U000e01f0-\U000e0fff]+"
)
# A region's flag is a black flag followed by tag characters; elsewhere these are hidden text.
_TAGS = re.compile(r"(\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f)|[\U000e0020-\U000e007f]+")
_VARIANTS = re.compile(
    r"(?<=[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])([\U000e0100-\U000e01ef])"
    r"|[\U000e0100-\U000e01ef]+"
)
# Emoji and the scripts of Persia and India need joiners; ASCII never does.
_JOINERS = re.compile(r"(?<=[^\x00-\xa0\s])([\u200c\u200d])[\u200c\u200d]*|[\u200c\u200d]+")
_MARKS = re.compile(r"([\u061c\u200e\u200f])[\u061c\u200e\u200f]*")
_JOINER = "\u200d"


def printable(text: str) -> str:
    """The text without control, broken or hidden characters; line ends become spaces.

    Idempotent.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _BROKEN.sub(REPLACEMENT, _BREAKS.sub(" ", text))
    text = _HIDDEN.sub("", text)
    text = _TAGS.sub(lambda found: found[1] or "", text)
    text = _VARIANTS.sub(lambda found: found[1] or "", text)
    # Marks of direction are kept in right-to-left text only, where they do no harm.
    text = _MARKS.sub(r"\1" if _is_right_to_left(text) else "", text)
    text = _JOINERS.sub(lambda found: found[1] or "", text)
    return _with_few_marks(text)


def one_line(value: object, length: int = 120) -> str:
    """Any value as one printable line of at most ``length`` characters."""
    text = " ".join(printable(str(value)).split())
    if len(text) <= length:
        return text
    end = _boundary(text, length - 1)
    kept = text[:end]
    before, _, piece = kept.rpartition(" ")
    # Cut between words, unless the last word is very long.
    is_in_word = text[end] != " " and before and len(piece) < length // 3
    return (before if is_in_word else kept).rstrip() + "…"


def direction(text: str) -> str:
    """``rtl`` or ``ltr``: the direction of the first letter that has one.

    Source: Unicode Standard Annex 9, rules P2 and P3.
    """
    for char in text:
        kind = unicodedata.bidirectional(char)
        if kind in ("R", "AL"):
            return "rtl"
        if kind == "L":
            return "ltr"
    return "ltr"


def characters(text: str) -> Iterator[str]:
    """User-perceived characters: letters with their marks, emoji with all their parts.

    A subset of the rules that fonts follow. Source: Unicode Standard Annex 29, section 3.1.
    """
    if text.isascii():
        yield from text
        return
    current = ""
    for char in text:
        if current and not _continues(current, char):
            yield current
            current = ""
        current += char
    if current:
        yield current


def provider_text(value: object, length: int = MAX_PROVIDER_TEXT) -> str:
    """A provider's text, made fit for the ledger and for logs.

    U+0000 and other characters that no database or log takes become U+FFFD: no text may keep an
    outcome from being recorded.
    """
    text = (
        value[: length * 8].decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    )
    text = " ".join(text[: length * 4].split())
    return "".join(char if char.isprintable() else REPLACEMENT for char in text[:length])


def provider_id(value: object) -> str | None:
    """A provider's id of a message; ``None`` if it cannot be stored."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PROVIDER_ID:
        return None
    return value if value.isprintable() else None


def _is_right_to_left(text: str) -> bool:
    return any(
        unicodedata.bidirectional(char) in ("R", "AL")
        for char in text
        if char > "\u058f" and char not in "\u061c\u200f"
    )


def _with_few_marks(text: str) -> str:
    """At most ``_MAX_MARKS`` combining marks in a row."""
    kept: list[str] = []
    marks = 0
    for char in text:
        marks = marks + 1 if char > "\u02ff" and unicodedata.category(char) in ("Mn", "Me") else 0
        if marks <= _MAX_MARKS:
            kept.append(char)
    return "".join(kept)


def _boundary(text: str, limit: int) -> int:
    """The last position up to ``limit`` that does not split a character."""
    if text.isascii():
        return limit
    end = 0
    for character in characters(text):
        if end + len(character) > limit:
            break
        end += len(character)
    return end or limit


def _continues(current: str, char: str) -> bool:
    """Whether ``char`` continues the user-perceived character that ``current`` begins."""
    if char <= "\u02ff":
        return False
    if unicodedata.category(char) in ("Mn", "Me", "Mc") or char in "\u200c\u200d\uff9e\uff9f":
        return True
    if "\U0001f3fb" <= char <= "\U0001f3ff" or "\U000e0020" <= char <= "\U000e007f":
        return True
    if current[-1] == _JOINER:
        return not unicodedata.category(char).startswith("Z")
    if "\U0001f1e6" <= char <= "\U0001f1ff":  # a flag is two of these
        return len(current) == 1 and "\U0001f1e6" <= current <= "\U0001f1ff"
    # Hangul syllables written as single letters.
    return "\u1160" <= char <= "\u11ff" and "\u1100" <= current[-1] <= "\u11ff"
