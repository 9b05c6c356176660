"""Signed links for mails and text messages: confirm a digest, leave a channel, verify an address.

Owns: the tokens of ``/confirm/{token}``, ``/c/{token}`` (the same page under a shorter address, for
text messages), ``/unsubscribe/{token}`` and ``/verify/{token}``. Never does: HTTP, look-ups. A link
token is never valid as a bearer token, nor the reverse: each purpose has a key of its own, derived
from the secret, and the format is not a JWT. The format is short, because a text message has 160
characters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from delivery.domain.limits import MIN_SECRET_BYTES
from delivery.domain.users.contact import fingerprint
from delivery.errors import ConfigError, LinkExpired, LinkInvalid

CONFIRM = "confirm"
UNSUBSCRIBE = "unsubscribe"
VERIFY = "verify"
SHORT = "short"
PURPOSES = (CONFIRM, UNSUBSCRIBE, VERIFY, SHORT)

DAY = 86_400.0
DEFAULT_TTL = 7 * DAY
# The link of a mail must work weeks later: anti-spam laws ask for 30 days.
UNSUBSCRIBE_TTL = 60 * DAY
MAX_TOKEN_CHARS = 2_048

_EXPIRY_BYTES = 4
_TAG_BYTES = 16  # 128 bits: too many to guess
# A short token: the digest's id, the day on which it expires, a tag; 36 characters, none of them
# padding. Its id is random in 74 bits already, and each guess of the tag is a request.
_SHORT_BYTES, _ID_BYTES, _DAY_BYTES = 27, 16, 2


@dataclass(frozen=True, slots=True)
class LinkClaims:
    """The contents of a checked link token.

    Attributes:
        subject: the digest's id (confirm) or the user's id.
        channel: the channel to unsubscribe from or of the address, ``None`` for confirm.
        address: the ``fingerprint`` of the address (verify), which the link does not show.
    """

    purpose: str
    subject: str
    channel: str | None
    expires_at: datetime
    address: str | None = None


@dataclass(slots=True)
class LinkSigner:
    """Makes links and reads their tokens; implements the port ``Links``.

    Args:
        secret: the signing key; at least 32 bytes.
        previous: a second key that ``read`` accepts, while secrets are rotated.
        public_url: base URL of this service for its users.
        ttl: seconds a confirm link lives; ``unsubscribe_ttl`` likewise.
        clock: epoch seconds.

    Raises:
        ConfigError: a secret is too short.
    """

    secret: str = field(repr=False)
    previous: str | None = field(repr=False)
    public_url: str
    ttl: float = DEFAULT_TTL
    unsubscribe_ttl: float = UNSUBSCRIBE_TTL
    clock: Callable[[], float] = field(default=time.time, repr=False)

    def use_secrets(self, secret: str, previous: str | None) -> None:
        """Sign with another secret from now on.

        Raises:
            ConfigError: a secret is too short.
        """
        _check(secret, previous)
        self.secret, self.previous = secret, previous

    def __post_init__(self) -> None:
        _check(self.secret, self.previous)
        self.public_url = self.public_url.rstrip("/")

    def confirm_url(self, digest_id: str) -> str:
        """URL of the page that confirms a digest."""
        return f"{self.public_url}/confirm/{self._token(CONFIRM, digest_id, self.ttl)}"

    def short_url(self, digest_id: str) -> str:
        """Short URL of the page that confirms a digest; the usual one for an id that is no UUID."""
        try:
            found = UUID(digest_id)
        except ValueError:
            found = None
        if found is None or str(found) != digest_id:
            return self.confirm_url(digest_id)
        day = min(math.ceil((self.clock() + self.ttl) / DAY), 0xFFFF)
        body = found.bytes + day.to_bytes(_DAY_BYTES, "big")
        tag = _tag(self.secret, SHORT, body)[: _SHORT_BYTES - len(body)]
        return f"{self.public_url}/c/{_encode(body + tag)}"

    def unsubscribe_url(self, user_id: str, channel: str) -> str:
        """URL of the page on which a user leaves a channel; one-click by POST. Source: RFC 8058."""
        token = self._token(UNSUBSCRIBE, f"{channel}\n{user_id}", self.unsubscribe_ttl)
        return f"{self.public_url}/unsubscribe/{token}"

    def verify_url(self, user_id: str, channel: str, address: str) -> str:
        """URL of the page on which the owner of an address agrees to messages."""
        subject = f"{channel}\n{fingerprint(channel, address)}\n{user_id}"
        return f"{self.public_url}/verify/{self._token(VERIFY, subject, self.ttl)}"

    def read(self, token: str, purpose: str) -> LinkClaims:
        """Check a token for ``purpose`` and return its contents.

        Raises:
            LinkInvalid: malformed, forged, or for another purpose.
            LinkExpired: valid once, and expired.
        """
        if purpose == SHORT:
            return self._read_short(token)
        body = self._checked(token, purpose)
        expires = int.from_bytes(body[:_EXPIRY_BYTES], "big")
        if self.clock() >= expires:
            raise LinkExpired("this link has expired")
        subject = body[_EXPIRY_BYTES:].decode()
        channel = address = None
        if purpose in (UNSUBSCRIBE, VERIFY):
            channel, _, subject = subject.partition("\n")
        if purpose == VERIFY:
            address, _, subject = subject.partition("\n")
        return LinkClaims(purpose, subject, channel, datetime.fromtimestamp(expires, UTC), address)

    def _read_short(self, token: str) -> LinkClaims:
        raw = _decode(token)
        body, tag = raw[: _ID_BYTES + _DAY_BYTES], raw[_ID_BYTES + _DAY_BYTES :]
        if len(raw) != _SHORT_BYTES:
            raise LinkInvalid("this link is incomplete")
        self._check(body, tag, SHORT)
        expires = int.from_bytes(body[_ID_BYTES:], "big") * DAY
        if self.clock() >= expires:
            raise LinkExpired("this link has expired")
        digest_id = str(UUID(bytes=body[:_ID_BYTES]))
        return LinkClaims(CONFIRM, digest_id, None, datetime.fromtimestamp(expires, UTC))

    def _token(self, purpose: str, subject: str, ttl: float) -> str:
        expires = min(int(self.clock() + ttl), 0xFFFF_FFFF)
        body = expires.to_bytes(_EXPIRY_BYTES, "big") + subject.encode()
        return _encode(body + _tag(self.secret, purpose, body))

    def _checked(self, token: str, purpose: str) -> bytes:
        if purpose not in PURPOSES:
            raise ValueError(f"unknown purpose {purpose!r}")
        raw = _decode(token)
        body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if len(body) <= _EXPIRY_BYTES:
            raise LinkInvalid("this link is incomplete")
        self._check(body, tag, purpose)
        return body

    def _check(self, body: bytes, tag: bytes, purpose: str) -> None:
        secrets = [self.secret] if self.previous is None else [self.secret, self.previous]
        made = [_tag(secret, purpose, body)[: len(tag)] for secret in secrets]
        if not any(hmac.compare_digest(one, tag) for one in made):
            raise LinkInvalid("this link was not made here, or was changed")


def _check(*given: str | None) -> None:
    for secret in given:
        if secret is not None and len(secret.encode()) < MIN_SECRET_BYTES:
            raise ConfigError(
                f"the secret that signs links must have at least {MIN_SECRET_BYTES} bytes"
            )


def _tag(secret: str, purpose: str, body: bytes) -> bytes:
    key = hmac.digest(secret.encode(), f"delivery link v1 {purpose}".encode(), hashlib.sha256)
    return hmac.digest(key, body, hashlib.sha256)[:_TAG_BYTES]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(token: str) -> bytes:
    if len(token) > MAX_TOKEN_CHARS:
        raise LinkInvalid("this link is too long")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise LinkInvalid("this link is malformed") from error
    # base64 ignores the spare bits of the last character: one link must have one spelling.
    if _encode(raw) != token:
        raise LinkInvalid("this link is malformed")
    return raw
