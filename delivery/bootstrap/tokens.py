"""Tokens signed with this installation's secret.

Owns: the choice of the secret. Never does: store a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import jwt

from delivery.config import Settings
from delivery.domain.limits import TOKEN_TTL
from delivery.errors import ConfigError
from delivery.process.data_directory import signing_secret
from delivery.tokens import make_token


def issue(
    settings: Settings, subject: str, *, scopes: Sequence[str] | None, ttl: float = TOKEN_TTL
) -> str:
    """A signed token that this installation accepts.

    Args:
        subject: the user's id, or the service's name.
        scopes: of ``emit``, ``read``, ``operate``; ``None`` makes a client's token.
        ttl: seconds until it expires.

    Raises:
        ConfigError: there is no secret to sign with.
    """
    if ttl > settings.max_secret_token_ttl:
        raise ConfigError(
            f"a token of {ttl:.0f} s would be refused: DELIVERY_JWT_MAX_TTL allows "
            f"{settings.max_secret_token_ttl:.0f}"
        )
    return make_token(
        signing_secret(settings),
        subject,
        scope=None if scopes is None else " ".join(scopes),
        ttl=ttl,
        audience=settings.audience,
        scope_prefix=settings.scope_prefix,
        issuer=settings.jwt_issuer,
    )


def issue_beside(settings: Settings, known: str, user_id: str, *, ttl: float) -> str | None:
    """A client's token for the service that takes ``known``; ``None`` where it cannot be made.

    Args:
        known: a token of that service. Only if the secret at hand signed it, the secret is that
            service's; nothing that it signs goes anywhere else.
    """
    try:
        secret = signing_secret(settings)
        jwt.decode(
            known, secret, algorithms=["HS256"], options={"verify_exp": False, "verify_aud": False}
        )
    except (ConfigError, jwt.InvalidTokenError):
        return None
    return issue(settings, user_id, scopes=None, ttl=ttl)
