"""Tokens signed with a shared secret, for users and services.

Owns: the claims of a token that is made here, and the check of the secret. Never does: verify a
token (the gateway does), read settings. Imports nothing but PyJWT, so that an application's
backend can use it alone.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable
from typing import Any

import jwt

from delivery.domain.event import check_context_id
from delivery.domain.inputs.foreign_text import is_storable
from delivery.domain.limits import MIN_SECRET_BYTES
from delivery.errors import ConfigError, InvalidContext

SCOPES = ("emit", "read", "operate")
DEFAULT_TTL = 3_600.0


def issue_token(
    user: str,
    secret: str,
    ttl: float = DEFAULT_TTL,
    scope: str | Iterable[str] | None = None,
    *,
    audience: str | None = None,
    issuer: str | None = None,
    scope_prefix: str = "",
) -> str:
    """Make a token for one of your users, or for a service of yours.

    Call it in a backend only: the secret signs tokens of every user and service.

    Args:
        user: the user's id, the ``user_id`` of their events; with ``scope`` the service's name.
        secret: ``DELIVERY_JWT_SECRET`` of the service; 32 bytes or more.
        ttl: seconds until the token expires, from one on.
        scope: of ``emit``, ``read``, ``operate``, in a list or separated by spaces, for a service.
            ``None`` makes a user's token, which reaches this user's events and nothing else.
        audience: ``DELIVERY_JWT_AUDIENCE`` of the service, where that is set.
        issuer: ``DELIVERY_JWT_ISSUER`` of the service, where that is set.
        scope_prefix: ``DELIVERY_SCOPE_PREFIX`` of the service, where that is set.

    Raises:
        InvalidContext: the user is no id: 1 to 128 characters, none of them a control character.
        ConfigError: the secret is too short, the ttl no number of seconds, or the scope unknown.
    """
    check_context_id("user", user)
    if not _is_text(secret):
        raise ConfigError("secret must be the text of DELIVERY_JWT_SECRET")
    if not _is_lifetime(ttl):
        raise ConfigError("ttl must be a number of seconds, from 1 to a hundred years")
    if scope is not None:
        scope = _words(scope)
    if scope == "":
        raise ConfigError(
            f"scope must name one of {', '.join(SCOPES)}; leave it out for a user's token"
        )
    return make_token(secret, user, scope, ttl, audience, issuer, scope_prefix)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_storable(value)


def _is_lifetime(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 1 <= value <= _MAX_TTL


def _words(scope: str | Iterable[str]) -> str:
    try:
        words = scope.split() if isinstance(scope, str) else list(scope)
        return " ".join(words)
    except TypeError as error:
        raise ConfigError(f"scope must be text or a list of {', '.join(SCOPES)}") from error


def make_token(
    secret: str,
    subject: str,
    scope: str | None = None,
    ttl: float = DEFAULT_TTL,
    audience: str | None = None,
    issuer: str | None = None,
    scope_prefix: str = "",
) -> str:
    """Sign an HS256 token for a user (no scope) or a service (``"emit read operate"``).

    Raises:
        ConfigError: the secret is too short, the scope unknown or the subject no id.
    """
    unknown = sorted(set((scope or "").split()) - set(SCOPES))
    if unknown:
        raise ConfigError(f"unknown scope {unknown[0]!r}; known: {' '.join(SCOPES)}")
    try:
        check_context_id("subject", subject)
    except InvalidContext as error:
        raise ConfigError(str(error)) from error
    # Not in whole seconds: a token that is made right after a revocation of its user's tokens must
    # not count as one of them. Halved ten times, a second is exact as a float.
    now = math.floor(time.time() * 1_024) / 1_024
    claims: dict[str, Any] = {"sub": subject, "iat": now, "exp": now + int(ttl)}
    claims["jti"] = secrets.token_urlsafe(12)
    if scope is not None:
        scope = " ".join(scope_prefix + word for word in scope.split())
    extra = {"scope": scope, "aud": audience, "iss": issuer}
    claims.update({name: value for name, value in extra.items() if value is not None})
    return jwt.encode(claims, check_secret(secret), algorithm="HS256")


def check_secret(secret: str, name: str = "DELIVERY_JWT_SECRET") -> str:
    """Return an HMAC secret that is long enough.

    Raises:
        ConfigError: under 32 bytes.
    """
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"{name} must have at least {MIN_SECRET_BYTES} bytes; "
            "make one with: openssl rand -base64 32"
        )
    return secret


_MAX_TTL = 100 * 366 * 86_400.0
