"""Header fields of a mail, written from plain text: encoded and folded by the standards.

Owns: every line of a header, and which addresses can stand in one. Never does: parse a header.
Text of events and users goes to no parser of headers, because a parser decodes: an encoded line
end in a title would become a line end.

Source: RFC 5322 (fields, folding), RFC 2047 (encoded words), RFC 6532 (UTF-8 in addresses).
"""

from __future__ import annotations

import base64
import re
import unicodedata
from dataclasses import dataclass

import idna

from delivery.transports.text import characters, one_line

MAX_LINE = 998  # Source: RFC 5322, section 2.1.1
MAX_WORD = 75  # Source: RFC 2047, section 2
MAX_ENCODED_LINE = 76  # of a line that holds an encoded word; the same section
_PREFERRED_LINE = 78
_PLAIN_WORD = 60  # a longer one without a space is encoded, so that it can be folded
_CHARSET = "=?utf-8?"
# Bytes that an encoded word in a display name may contain as they are.
# Source: RFC 2047, section 5 (3).
_UNENCODED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_ATOMS = re.compile(rf"[{_ATEXT}]+( [{_ATEXT}]+)*")
_LETTERS = re.compile("[A-Za-z0-9\u0080-\U0010ffff]*")
_LOCAL = re.compile(rf"[.\u0080-\U0010ffff{_ATEXT}]+")
_DOMAIN = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_MAX_LOCAL = 64  # octets. Source: RFC 5321, section 4.5.3.1.1


@dataclass(frozen=True, slots=True)
class MailAddress:
    """An address that can stand in a header and an envelope.

    Attributes:
        local: the local part in Unicode's composed form.
        domain: its ASCII form.
    """

    local: str
    domain: str

    @property
    def spec(self) -> str:
        """``local@domain``; the local part in quotes where the standard requires them."""
        dots = self.local.startswith(".") or self.local.endswith(".") or ".." in self.local
        return f'"{self.local}"@{self.domain}' if dots else f"{self.local}@{self.domain}"


def mail_address(text: str) -> MailAddress:
    """Read ``local@domain``; a domain of any script becomes its ASCII form.

    Raises:
        ValueError: it is no address, or it becomes another one when its characters are
            normalised.
    """
    local, _, domain = unicodedata.normalize("NFC", text).rpartition("@")
    if not _LOCAL.fullmatch(local) or "=?" in local or not all(map(_is_plain, local)):
        raise ValueError("not an address like name@example.org")
    if len(local.encode()) > _MAX_LOCAL:
        raise ValueError("the part before the @ is longer than 64 octets")
    return MailAddress(local, _ascii_domain(domain))


def text_header(name: str, text: str) -> str:
    """An unstructured field, such as ``Subject``, with its line ends.

    Args:
        text: any text; it is made printable and one line.
    """
    clean = one_line(text, MAX_LINE)
    if not clean:
        return f"{name}:\r\n"
    words = clean.split(" ")
    if clean.isascii() and "=?" not in clean and max(map(len, words)) <= _PLAIN_WORD:
        return _folded(f"{name}:", words, _PREFERRED_LINE)
    return _folded(f"{name}:", _encoded(clean, len(name) + 2), MAX_ENCODED_LINE)


def address_header(name: str, address: MailAddress, display_name: str = "") -> str:
    """A field with one address, such as ``To``; the display name may be any text."""
    if not display_name:
        return _folded(f"{name}:", [address.spec], _PREFERRED_LINE)
    clean = one_line(display_name, MAX_LINE)
    spec = f"<{address.spec}>"
    if not clean.isascii() or "=?" in clean or len(clean) > _PLAIN_WORD:
        return _folded(f"{name}:", [*_encoded(clean, len(name) + 2), spec], MAX_ENCODED_LINE)
    if not _ATOMS.fullmatch(clean):
        clean = '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _folded(f"{name}:", [clean, spec], _PREFERRED_LINE)


def fixed_header(name: str, value: str) -> str:
    """A field that is neither folded nor encoded: a date, an id, a link of ours.

    Raises:
        ValueError: the value is not one line of printable ASCII, or contains ``=?``.
    """
    line = f"{name}: {value}"
    if not (line.isascii() and line.isprintable()) or "=?" in value or len(line) > MAX_LINE:
        raise ValueError(f"{name} must be one line of at most {MAX_LINE} printable characters")
    return line + "\r\n"


def _folded(first: str, words: list[str], limit: int) -> str:
    """Words with one space before each; a new line before a word that would exceed ``limit``."""
    lines = [first]
    for number, word in enumerate(words):
        # A field's name and first word share a line: a line of spaces alone is obsolete syntax.
        if number and len(lines[-1].encode()) + 1 + len(word.encode()) > limit:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines) + "\r\n"


def _encoded(text: str, indent: int) -> list[str]:
    """A text as encoded words of at most 75 characters; no character is split.

    Args:
        indent: characters before the first word on its line.
    """
    words: list[str] = []
    room = MAX_ENCODED_LINE - indent
    gathered = ""
    for piece in _pieces(text, room):
        if gathered and len(_word(gathered + piece)) > room:
            words.append(_word(gathered))
            gathered, room = "", MAX_WORD
        gathered += piece
    return [*words, _word(gathered)]


def _pieces(text: str, room: int) -> list[str]:
    """User-perceived characters; one that is too large for an encoded word is split."""
    found: list[str] = []
    for character in characters(text):
        found.extend([character] if len(_word(character)) <= room else character)
    return found


def _word(text: str) -> str:
    """One encoded word, in the shorter of the two encodings."""
    quoted = "".join(map(_quoted, text))
    packed = base64.b64encode(text.encode()).decode()
    return f"{_CHARSET}q?{quoted}?=" if len(quoted) <= len(packed) else f"{_CHARSET}b?{packed}?="


def _quoted(char: str) -> str:
    if char == " ":
        return "_"
    return "".join(chr(byte) if byte in _UNENCODED else f"={byte:02X}" for byte in char.encode())


def _is_plain(char: str) -> bool:
    """Whether a character of a local part is visible and its normal form has no ASCII symbol."""
    if char.isascii():
        return True
    if unicodedata.category(char)[0] in "CZ":
        return False
    # To a server that normalises, a full-width at-sign is an at-sign.
    return _LETTERS.fullmatch(unicodedata.normalize("NFKC", char)) is not None


def _ascii_domain(domain: str) -> str:
    try:
        name = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    except UnicodeError as error:
        raise ValueError(f"not a domain: {error}") from error
    if not _DOMAIN.fullmatch(name):
        raise ValueError("not a domain like example.org")
    return name
