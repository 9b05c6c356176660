"""Revocations of tokens, of one token or of all that a user was issued. Pure.

Owns: what a revocation names, its bounds, and which tokens it covers. Never does: read a token, or
store anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from delivery.errors import InvalidEvent

MAX_JTI_CHARS = 255
MAX_REVOCATIONS = 200_000
"""Revocations that count at the same time: each process has all of them in memory."""


class RevocationKind(StrEnum):
    """What the subject of a revocation is."""

    JTI = "jti"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation.

    Attributes:
        subject: the ``jti`` of a token, or a user's id.
        before: of a user: tokens issued before this instant are revoked. ``None`` for a ``jti``.
        expires_at: when every token that it covers has expired.
    """

    kind: RevocationKind
    subject: str
    before: datetime | None
    expires_at: datetime


def check_jti(value: object) -> str:
    """Return a token's id.

    Raises:
        InvalidEvent: no text of 1 to 255 characters, or with control characters; ``field`` is
            ``jti``.
    """
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_JTI_CHARS
        or not value.isprintable()  # control characters and lone surrogates are not
    ):
        raise InvalidEvent(
            f"jti must be a text of 1 to {MAX_JTI_CHARS} characters without control characters",
            field="jti",
        )
    return value
