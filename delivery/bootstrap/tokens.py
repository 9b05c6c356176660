"""Tokens made on the spot, for people who try things out and for services.

Owns: which secret signs. Never does: keep one.
"""

from __future__ import annotations

from collections.abc import Sequence

from delivery.bootstrap.data_dir import signing_secret
from delivery.config import Settings
from delivery.gateway.auth import make_token


def issue(
    settings: Settings, subject: str, *, scopes: Sequence[str] | None, ttl: float = 86_400.0
) -> str:
    """A signed token that this installation accepts.

    Args:
        subject: the user's id, or the service's name.
        scopes: of ``emit``, ``read``, ``operate``; ``None`` makes a client's token.
        ttl: seconds until it expires.

    Raises:
        ConfigError: there is no secret to sign with.
    """
    return make_token(
        signing_secret(settings),
        subject,
        scope=None if scopes is None else " ".join(scopes),
        ttl=ttl,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )
