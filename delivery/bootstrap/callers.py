"""Callers of a gateway, made from settings: whose tokens are taken, and how often each may call.

Owns: the translation of settings into constructor arguments. Never does: start anything.
"""

from __future__ import annotations

import logging

from delivery.bus.rate_leases import RedisLeases
from delivery.callers import rates
from delivery.callers.auth import Authenticator
from delivery.callers.rates import Rates
from delivery.config import Settings, audience_fault, secret

logger = logging.getLogger(__name__)


def make_authenticator(settings: Settings) -> Authenticator:
    """The check of tokens."""
    if fault := audience_fault(settings):
        logger.warning("%s", fault, extra={"event": "jwt_audience_missing"})
    return Authenticator(
        secret(settings.jwt_secret),
        secret(settings.jwt_secret_previous),
        settings.jwks_url,
        settings.audience,
        settings.jwt_issuer,
        settings.jwt_leeway,
        scope_prefix=settings.scope_prefix,
        jwks_keep_for=settings.jwks_max_age,
        max_ttl=settings.max_token_ttl,
        max_secret_ttl=settings.max_secret_token_ttl,
    )


def session_keys(settings: Settings) -> list[str]:
    """Secrets that all gateways have: those of tokens, else those of links."""
    tokens = (secret(settings.jwt_secret), secret(settings.jwt_secret_previous))
    given = tokens if tokens[0] is not None else settings.link_secrets
    return [one for one in given if one is not None]


def longest_ttl(settings: Settings) -> float:
    """Seconds for which a token of any issuer may be valid."""
    has_secret = settings.jwt_secret is not None or settings.jwt_secret_previous is not None
    return settings.max_secret_token_ttl if has_secret else settings.max_token_ttl


def make_leases(settings: Settings) -> RedisLeases | None:
    """Rates that all nodes share; ``None`` without Redis."""
    url = secret(settings.redis_url)
    return None if url is None else RedisLeases(url)


def make_rates(settings: Settings, leases: RedisLeases | None) -> Rates:
    """How often each caller may do what."""
    return Rates(
        {
            rates.EMIT: settings.rate_emit,
            rates.EMIT_ADDRESS: settings.rate_emit_address,
            rates.CONNECT: settings.rate_connect,
            rates.CONNECT_ADDRESS: settings.rate_connect_address,
            rates.BAD_TOKENS: settings.rate_bad_tokens,
            rates.CALLBACKS: settings.rate_callbacks,
            rates.ACKS: settings.rate_acks,
        },
        leases,
    )
