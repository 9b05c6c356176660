"""Tokens for the pages of an application, by the user who is signed in there.

Owns: what the token routes of the web frameworks' helpers share. Never does: know who is signed in,
or a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from delivery.errors import ConfigError
from delivery.tokens import DEFAULT_TTL, check_secret, issue_token

Secret = str | Callable[[], str]
"""``DELIVERY_JWT_SECRET`` of the service, or a function that reads it for each token."""

PATH = "/delivery-token"
NO_STORE: Mapping[str, str] = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class PageTokens:
    """Makes the answers of a token route.

    Attributes:
        ttl: seconds for which a token is valid.
        audience / issuer: of the service's settings with these names, where it has them.

    Raises:
        ConfigError: the secret is too short. One that a function reads is checked with each token.
    """

    secret: Secret = field(repr=False)
    ttl: float = DEFAULT_TTL
    audience: str | None = None
    issuer: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.secret):
            check_secret(self.secret)

    def answer(self, user: object) -> dict[str, str]:
        """The body for this user.

        Raises:
            InvalidContext: the user's id cannot address a user.
            ConfigError: it is no id at all, or the secret is too short.
        """
        secret = self.secret() if callable(self.secret) else self.secret
        user_id = user_id_of(user)
        token = issue_token(user_id, secret, self.ttl, audience=self.audience, issuer=self.issuer)
        return {"token": token}


def is_signed_in(user: object) -> bool:
    """Whether an application's answer to "who is signed in" names a user."""
    return user is not None and user != ""


def user_id_of(user: object) -> str:
    """The id that events name in ``user_id``: text, or the number of a row.

    Raises:
        ConfigError: it is something else, such as a whole user.
    """
    if isinstance(user, int) and not isinstance(user, bool):
        return str(user)
    if isinstance(user, str):
        return user
    raise ConfigError(
        f"the signed-in user is a {type(user).__name__}; give its id, which is text or a number"
    )


def required(settings: Mapping[str, Any], name: str) -> Any:
    """A setting that an application must have.

    Raises:
        ConfigError: it is missing or empty; names it.
    """
    value = settings.get(name)
    if value is None or value == "":
        raise ConfigError(f"set {name} in the application's settings (docs/frameworks.md)")
    return value
