"""Checks across settings, and the policy and alerts files that they name.

Owns: which combinations of settings can run: a way to verify tokens, a database and a broker. Never
does: open a connection.
"""

from __future__ import annotations

import os
from pathlib import Path

from delivery import resources
from delivery.config.needs import GATEWAY, require_links
from delivery.config.providers import load_providers
from delivery.config.settings import Settings, secret
from delivery.config.sources import PREFIX, names_of, read_secret, read_toml, secrets_of
from delivery.domain.messages.providers import check_step
from delivery.domain.operators.thresholds import Thresholds, parse_thresholds
from delivery.domain.policy import Policies, parse_policies
from delivery.domain.webhooks.endpoints import Endpoint, parse_webhooks
from delivery.errors import ConfigError

# DELIVERY_* names that are not settings of a server.
OTHER_NAMES = frozenset({"CONFIG", "URL", "TOKEN"})
DEV_SECRET_PREFIX = "development-only-"  # noqa: S105 - a mark, not a secret


def unknown_variables() -> list[str]:
    """``DELIVERY_*`` variables that are no setting: most likely misspelt."""
    known = {PREFIX + name.upper() for name in names_of(Settings)} | {
        PREFIX + name for name in OTHER_NAMES
    }
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in secrets_of(Settings)}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def load_policies(settings: Settings) -> Policies:
    """Read and check the policy file, and the providers that its steps name.

    Raises:
        ConfigError: names the file, the key and what to write.
    """
    path = settings.policies or resources.file("config", "policies.toml")
    if not path.is_file():
        raise ConfigError(f"DELIVERY_POLICIES: there is no file {path}")
    policies = parse_policies(read_toml(path), source=str(path))
    named = [
        (f"{path}: class.{policy.event_class}, step {step.name}", step)
        for policy in policies.classes.values()
        for step in policy.chain
        if step.providers
    ]
    known = load_providers(settings).specs if named else {}
    for key, step in named:
        check_step(key, step.channel, step.providers, known)
    return policies


def load_thresholds(settings: Settings) -> Thresholds:
    """Read and check the alerts file.

    Raises:
        ConfigError: names the file, the key and what to write.
    """
    path = settings.alerts or resources.file("config", "alerts.toml")
    if not path.is_file():
        raise ConfigError(f"DELIVERY_ALERTS: there is no file {path}")
    return parse_thresholds(read_toml(path), source=str(path))


def load_webhooks(settings: Settings) -> tuple[Endpoint, ...]:
    """Read and check the file of the application's endpoints: ``DELIVERY_WEBHOOKS``, else
    ``config/webhooks.toml`` in the working directory. Without one there are none.

    Raises:
        ConfigError: names the file, the key and what to write; never a secret.
    """
    path = settings.webhooks or Path("config/webhooks.toml")
    if not path.is_file():
        if settings.webhooks is None:
            return ()
        raise ConfigError(f"DELIVERY_WEBHOOKS: there is no file {path}")
    return parse_webhooks(
        read_toml(path),
        source=str(path),
        read_secret=lambda name, key: read_secret(path.parent / name, key),
    )


def require_trust(settings: Settings) -> None:
    """Refuse to run a gateway outside of ``delivery up`` that could verify no token or link.

    Raises:
        ConfigError: no setting verifies tokens or links, or a secret is a development secret.
    """
    refuse_development_secrets(settings)
    if settings.jwt_secret is None and settings.jwks_url is None:
        raise ConfigError(
            "tokens cannot be verified: set DELIVERY_JWT_SECRET (openssl rand -hex 32) "
            "or DELIVERY_JWKS_URL"
        )
    require_links(settings, frozenset({GATEWAY}))


def refuse_development_secrets(settings: Settings) -> None:
    """Refuse the secret that ``delivery up`` makes anywhere else.

    Raises:
        ConfigError: a secret is a development secret.
    """
    for name in ("jwt_secret", "jwt_secret_previous", "link_secret", "link_secret_previous"):
        value = secret(getattr(settings, name))
        if value is not None and value.startswith(DEV_SECRET_PREFIX):
            raise ConfigError(
                f"{PREFIX}{name.upper()} is a development secret made by `delivery up`; "
                "make a real one with: openssl rand -hex 32"
            )


def audience_fault(settings: Settings) -> str | None:
    """Why tokens that are not meant for this service would be accepted; ``None`` if they are not,
    or if that is wanted."""
    if settings.jwks_url is None or settings.jwt_audience is not None:
        return None
    return (
        "DELIVERY_JWT_AUDIENCE is not set: every token of the identity provider is accepted, also "
        "one for another application; set it to what your tokens carry in aud, or to * to accept "
        "all. 0.3.0 refuses to start without it"
    )


def require_services(settings: Settings) -> None:
    """Refuse to run one process of a cluster without the database and the broker.

    Raises:
        ConfigError: the database or the broker is not set.
    """
    if settings.database_url is None:
        raise ConfigError(
            "DELIVERY_DATABASE_URL is missing: write postgresql://user:password@host/name, "
            "or run `delivery up` for everything in one process"
        )
    if settings.broker_url is None and settings.redis_url is None:
        raise ConfigError(
            "DELIVERY_BROKER_URL is missing (and no DELIVERY_REDIS_URL stands in for it): "
            "write redis://host:6379/1 or amqp://user:password@host//"
        )
