"""Redaction of log lines: secrets, and characters that control a terminal.

Owns: the patterns of secrets, cuts that do not split a secret, escapes of control characters. Pure.

Input is foreign text, sometimes on an event loop: patterns take linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

REDACTED = "***"
AHEAD = 1_024
"""Characters needed beyond a cut, to see whether it would split a secret."""
_MIN_SECRET = 6  # shorter values would match ordinary words

# Patterns of secrets whose value is unknown, and of addresses of persons. Each takes linear time:
# its repetitions are possessive, or end at a character that no match passes.
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://[^/\s:@]*+):[^/\s]+(?=@)", re.ASCII), rf"\1:{REDACTED}"),
    # A JWT or JWE, also after other characters of its alphabet: "x-eyJ…".
    (
        re.compile(r"(?<![\w-])((?>[\w-]*?(?=eyJ)))eyJ[\w-]{5,}+(?:\.[\w-]*+){2,}+", re.ASCII),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(r"\b(bearer|basic)\s++[\w.~+/=-]{6,}+", re.ASCII | re.IGNORECASE),
        rf"\1 {REDACTED}",
    ),
    (
        re.compile(r"(/(?:confirm|c|unsubscribe|verify|inbox)/)[\w.~=-]{6,}+", re.ASCII),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(
            r"((?:token|ticket|secret|password|passwd|api_?key)[\"']?+\s*+[=:]\s*+[\"']?+)"
            r"[^\s\"'&,;]{6,}+",
            re.ASCII | re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(r"(?<![\w.+%-])[\w.+%-]++(?=@(?:[\w-]++\.)++[\w-])"),
        REDACTED,
    ),
    (re.compile(r"(?<![\w+])\+[0-9]{8,15}(?![0-9])", re.ASCII), f"+{REDACTED}"),
)
WHAT: tuple[tuple[str, str], ...] = (
    ("every secret of this process's settings, and those that a reload replaced", REDACTED),
    ("the password of a URL", f"://user:{REDACTED}@host"),
    ("a JSON Web Token", REDACTED),
    ("what follows `Bearer` or `Basic`", f"Bearer {REDACTED}"),
    (
        "the token in the path of a link (`/confirm/`, `/c/`, `/unsubscribe/`, `/verify/`, "
        "`/inbox/`)",
        f"/confirm/{REDACTED}",
    ),
    (
        "the value behind `token`, `ticket`, `secret`, `password`, `api_key` and `=` or `:`",
        f"token={REDACTED}",
    ),
    ("the name in an address of mail", f"{REDACTED}@example.org"),
    ("a phone number with its country (`+` and 8 to 15 digits)", f"+{REDACTED}"),
)
"""What is redacted, in the order of the patterns, and how it is shown; for the documentation."""
SHAPES: tuple[re.Pattern[str], ...] = tuple(shape for shape, _ in _SHAPES)

# Every match contains one of these, in lower case. Most lines contain none and skip the patterns.
_HINTS = (
    "://",
    "eyj",
    "bearer",
    "basic",
    "/confirm/",
    "/c/",
    "/unsubscribe/",
    "/verify/",
    "/inbox/",
    "token",
    "ticket",
    "secret",
    "passw",
    "api",
    "@",
    "+",
)

# Characters that move a cursor, end a line, or change the direction of text; and lone surrogates,
# which cannot be encoded.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    r"""The text with control characters, marks of direction and lone surrogates as escapes
    (``\x1b``), so that it cannot control a terminal or begin a new line."""
    return _CONTROL.sub(_escaped, text)


def printable_json(document: str) -> str:
    """An encoded JSON document without characters that control a terminal; line ends stay. It
    decodes to the same value."""
    return _CONTROL.sub(_json_escaped, document)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _NAMED.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _json_escaped(match: re.Match[str]) -> str:
    # Encoders escape controls inside strings; a line end can only be between members.
    return match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}"


class Redactor:
    """Removes known secrets, and text that looks like a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Remove these values as well; those of before may still come."""
        self._secrets |= {secret for secret in secrets if len(secret) >= _MIN_SECRET}
        # Longest first: else the rest of a secret that contains another one would stay.
        ordered = sorted(self._secrets, key=len, reverse=True)
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
        """Redact at most the first ``limit`` characters, and append how many are missing. The cut
        never splits a secret: it moves to the secret's start.

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
        # From the last start to the first: a cut at one start cannot split a later secret.
        for start, stop in sorted(self._spans(text), reverse=True):
            if start < end < stop:
                end = start
        # The @ after a URL's password may be beyond ``AHEAD``.
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
