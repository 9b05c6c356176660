"""The check of a finished mail: its lines, and what a reader will decode from them.

Owns: two checks of the bytes, line by line against the standards and with the standard library's
parser. Never does: mend or build a message.

A check before the encoding cannot cover what a decoder makes of the result, so both checks
are of the finished bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_string, policy
from email.message import EmailMessage

from delivery.transports.mail.headers import MAX_ENCODED_LINE, MAX_LINE, MAX_WORD

_FIELD = re.compile(rb"([!-9;-~]+):( .*)?")
_ENCODED = re.compile(rb"=\?[^?\s]*\?[^?\s]*\?[^?\s]*\?=")
_WELL_ENCODED = re.compile(rb"=\?utf-8\?(q\?[!*+\-/0-9A-Z_a-z=]*|b\?[A-Za-z0-9+/]*={0,2})\?=")


@dataclass(frozen=True, slots=True)
class Expected:
    """The mail that was to be built.

    Attributes:
        names: names of the fields, in order, each once.
        subject: the decoded subject.
        to: the recipient's address, the local part without quotes.
        parts: content types, in order.
        utf8: whether fields may hold UTF-8 beyond ASCII (RFC 6532).
    """

    names: Sequence[str]
    subject: str
    to: str
    parts: Sequence[str]
    utf8: bool = False


def mail_faults(raw: bytes, expected: Expected) -> list[str]:
    """Faults of a finished mail; empty if every server can take it."""
    head, mark, body = raw.partition(b"\r\n\r\n")
    if not mark:
        return ["no empty line after the header"]
    return [
        *_line_faults(raw),
        *_field_faults(head.split(b"\r\n"), expected),
        *([] if body.isascii() else ["the body is not ASCII"]),
        *_reading_faults(raw, expected),
    ]


def _line_faults(raw: bytes) -> list[str]:
    """Source: RFC 5322, sections 2.1.1 and 2.3; RFC 5321, section 4.5.2."""
    rest = raw.replace(b"\r\n", b"")
    faults = [
        name
        for char, name in ((b"\r", "a bare CR"), (b"\n", "a bare LF"), (b"\0", "a NUL"))
        if char in rest
    ]
    if not raw.endswith(b"\r\n"):
        faults.append("the last line has no end")
    if (longest := max(map(len, raw.split(b"\r\n")))) > MAX_LINE:
        faults.append(f"a line of {longest} octets")
    return faults


def _field_faults(lines: Sequence[bytes], expected: Expected) -> list[str]:
    faults: list[str] = []
    names: list[str] = []
    for line in lines:
        if line.startswith((b" ", b"\t")):
            if not names or not line.strip():
                faults.append("a continuation line without a field")
        elif field := _FIELD.fullmatch(line):
            names.append(field[1].decode())
        else:
            faults.append("a line in the header that is not a field")
        if not (line.isascii() or expected.utf8) or re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line):
            faults.append("a character that is not allowed in the header")
        faults += _encoding_faults(line)
    if names != list(expected.names):
        faults.append(f"the fields are {', '.join(names)}")
    return faults


def _encoding_faults(line: bytes) -> list[str]:
    words = _ENCODED.findall(line)
    faults = []
    if b"=?" in _ENCODED.sub(b"", line) or not all(map(_WELL_ENCODED.fullmatch, words)):
        faults.append("a malformed encoded word")
    if any(len(word) > MAX_WORD for word in words):
        faults.append("an encoded word over 75 characters")
    if words and len(line) > MAX_ENCODED_LINE:
        faults.append("an encoded line over 76 characters")
    return faults


def _reading_faults(raw: bytes, expected: Expected) -> list[str]:
    """Differences between what the standard library parses and what was to be built."""
    # Parsed as text: the parser of bytes takes UTF-8 in a field for broken ASCII.
    mail = message_from_string(raw.decode("utf-8", "replace"), EmailMessage, policy=policy.SMTPUTF8)
    faults = [f"parsed with {type(defect).__name__}" for defect in mail.defects]
    if mail.keys() != list(expected.names):
        faults.append("the parsed fields differ from the written ones")
    if str(mail.get("Subject", "")) != expected.subject:
        faults.append("the parsed subject differs from the written one")
    addresses = mail["To"].addresses if mail["To"] else ()
    recipients = [f"{address.username}@{address.domain}" for address in addresses]
    if recipients != [expected.to]:
        faults.append("the parsed recipient differs from the written one")
    parts = [part.get_content_type() for part in mail.walk() if not part.is_multipart()]
    if parts != list(expected.parts):
        faults.append("the parsed parts differ from the written ones")
    return faults
