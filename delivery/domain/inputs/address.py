"""Addresses in the one form in which they are compared: of mails, phones and push targets.

Owns: that form. Never does: decide whether an address can get a message (the transport does).
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256

import idna

from delivery.domain.channels import Channel

MAX_ADDRESS = 320
_CHANNELS = (Channel.EMAIL, Channel.SMS, Channel.EMERGENCY)
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")  # Source: ITU-T E.164
_DECORATION = str.maketrans("", "", " -.()/\u00a0\u2010\u2011")
# A push URL holds secrets: a list shows its scheme and a fingerprint.
_TARGET = re.compile(r"[a-z][a-z0-9+.-]{0,31}:[0-9a-f]{24}")
_ANGLE = re.compile(r"[^<>]*<([^<>]+)>")


def comparable(channel: str, address: str) -> str | None:
    """An address as it is compared: a mail's domain in lower-case ASCII, a phone as E.164,
    a push URL as its scheme and a fingerprint.

    The part before the ``@`` stays as it is, but for Unicode's composed form: only its own server
    knows whether case matters there.

    Returns:
        ``None`` for text that is no address of this channel.
    """
    if channel == Channel.EMERGENCY:
        return _target(address)
    if not address.isprintable() or len(address) > 2 * MAX_ADDRESS:
        return None
    return _mail(address) if channel == Channel.EMAIL else _phone(address)


def channels_of(address: str) -> tuple[tuple[str, str], ...]:
    """The channels on which a text is an address, each with its comparable form."""
    found = ((channel, comparable(channel, address)) for channel in _CHANNELS)
    return tuple((channel, form) for channel, form in found if form is not None)


def _mail(address: str) -> str | None:
    text = unicodedata.normalize("NFC", address).strip()
    if text.endswith(">") and (bracketed := _ANGLE.fullmatch(text)):
        text = bracketed[1].strip()
    local, _, domain = text.rpartition("@")
    if len(local) > 1 and local[0] == local[-1] == '"':
        local = local[1:-1]
    domain = domain.rstrip(".")
    if not local or not domain or any(char.isspace() for char in text):
        return None
    form = f"{local}@{_ascii(domain)}"
    return form if len(form) <= MAX_ADDRESS else None


def _target(url: str) -> str | None:
    if _TARGET.fullmatch(url):
        return url
    scheme, mark, rest = url.partition("://")
    if not mark or not rest:
        return None
    form = f"{scheme.lower()}:{sha256(url.encode('utf-8', 'replace')).hexdigest()[:24]}"
    return form if _TARGET.fullmatch(form) else None


def _ascii(domain: str) -> str:
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode().lower()
    except UnicodeError:
        return domain.lower()


def _phone(address: str) -> str | None:
    # ``whatsapp:+491…`` and ``tel:+491…`` name the kind of address first.
    number = address.rpartition(":")[2].translate(_DECORATION)
    if number.startswith("00"):
        number = f"+{number[2:]}"
    return number if _NUMBER.fullmatch(number) else None
