"""What no line may show: secrets, and characters that act on a terminal.

Owns: the shapes of secrets, cutting without splitting one, escapes of control characters. Pure.

All of it sees foreign text, some of it on an event loop: patterns take linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

REDACTED = "***"
AHEAD = 1_024
"""Characters behind a cut that must be at hand: they show whether it would split a secret."""
_MIN_SECRET = 6  # shorter values would blank out ordinary words

# What a secret looks like when nobody told us its value. Each takes linear time: what repeats is
# possessive or ends at a character that no start reads past.
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://[^/\s:@]*+):[^/\s]+(?=@)", re.ASCII), rf"\1:{REDACTED}"),
    # A JWT or JWE, also behind other characters of its alphabet: "x-eyJ…".
    (
        re.compile(r"(?<![\w-])((?>[\w-]*?(?=eyJ)))eyJ[\w-]{5,}+(?:\.[\w-]*+){2,}+", re.ASCII),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(r"\b(bearer|basic)\s++[\w.~+/=-]{6,}+", re.ASCII | re.IGNORECASE),
        rf"\1 {REDACTED}",
    ),
    (re.compile(r"(/(?:confirm|unsubscribe|verify)/)[\w.~=-]{6,}+", re.ASCII), rf"\1{REDACTED}"),
    (
        re.compile(
            r"((?:token|secret|password|passwd|api_?key)[\"']?+\s*+[=:]\s*+[\"']?+)"
            r"[^\s\"'&,;]{6,}+",
            re.ASCII | re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
)
SHAPES: tuple[re.Pattern[str], ...] = tuple(shape for shape, _ in _SHAPES)

# In lower case, one of these stands in whatever the shapes match: most lines hold none.
_HINTS = (
    "://",
    "eyj",
    "bearer",
    "basic",
    "/confirm/",
    "/unsubscribe/",
    "/verify/",
    "token",
    "secret",
    "passw",
    "api",
)

# What moves a cursor, ends a line, or turns the direction of writing; and lone surrogates, which no
# encoding can write.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    r"""The text with control characters, marks of direction and lone surrogates as escapes
    (``\x1b``), so that it cannot act on a terminal or begin a line of its own."""
    return _CONTROL.sub(_escaped, text)


def printable_json(document: str) -> str:
    """An encoded JSON document without characters that act on a terminal; line ends stay. It
    decodes to the same value."""
    return _CONTROL.sub(_json_escaped, document)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _NAMED.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _json_escaped(match: re.Match[str]) -> str:
    # Encoders escape the other controls themselves; a line end stands between members only.
    return match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}"


class Redactor:
    """Takes known secrets, and what looks like one, out of a text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= _MIN_SECRET}
        # Longest first: a secret that contains another must not leave its rest behind.
        ordered = sorted(known, key=len, reverse=True)
        self._known = _any_of(ordered)
        self._begun = _any_of(secret[:AHEAD] for secret in ordered)

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        lowered = text.lower()
        if any(hint in lowered for hint in _HINTS):
            for shape, replacement in _SHAPES:
                text = shape.sub(replacement, text)
        return text

    def cut(self, text: str, limit: int, length: int | None = None) -> str:
        """Redact the first ``limit`` characters at most, and say how many are missing. A secret
        is never split: what would be its first half is missing too.

        Args:
            length: characters of the whole text, of which ``text`` may be the first
                ``limit + AHEAD``.
        """
        length = len(text) if length is None else length
        if length <= limit:
            return self(text)
        end = self._end(text[: limit + AHEAD], limit)
        return f"{self(text[:end])}…[{length - end} more characters]"

    def _end(self, text: str, limit: int) -> int:
        end = min(limit, len(text))
        # From the last start to the first: a cut at one start splits none that begins behind it.
        for start, stop in sorted(self._spans(text), reverse=True):
            if start < end < stop:
                end = start
        # The @ behind a URL's password may be further away than anything looks.
        scheme = text.rfind("://", 0, end) + 3
        if scheme >= 3 and not re.search(r"[/\s@]", text[scheme:end]):
            end = scheme
        return end

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        if self._begun is not None:
            for match in self._begun.finditer(text):
                is_longer = len(match[0]) == AHEAD
                yield match.start(), len(text) + 1 if is_longer else match.end()
        for shape in SHAPES:
            for match in shape.finditer(text):
                yield match.span()

    def __repr__(self) -> str:
        return "Redactor()"


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    pattern = "|".join(map(re.escape, words))
    return re.compile(pattern) if pattern else None
