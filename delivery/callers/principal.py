"""Verified callers.

Owns: who a caller is, and what the token allows. Never does: verify a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from delivery.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller.

    Attributes:
        subject: a user's id (clients) or a service's name.
        is_client: the token has none of ``tokens.SCOPES``: it is valid for its own user only.
        expires_at: ``exp`` of the token.
        leeway: seconds for which it is accepted after that.
        issued_at: ``iat``, epoch seconds; ``None`` if the token does not say.
        key: fingerprint of the issuer's key that signed the token; ``None``: a secret did.
        token_ids: ``jti`` of the token (none if it has none).
    """

    subject: str
    scopes: frozenset[str]
    is_client: bool
    expires_at: datetime
    leeway: float = 0.0
    issued_at: float | None = None
    token_ids: tuple[str, ...] = ()
    key: str | None = None

    @property
    def ends_at(self) -> float:
        """Epoch seconds after which the token is not accepted."""
        return self.expires_at.timestamp() + self.leeway

    @property
    def actor(self) -> str:
        """Who this is in the compliance log, which names no user in its facts."""
        return "user" if self.is_client else f"service {self.subject}"

    def may(self, scope: str) -> bool:
        """Whether a service token carries this scope."""
        return scope in self.scopes

    @property
    def user_id(self) -> str:
        """The user whose token this is.

        Raises:
            Unauthenticated: the token is a service's, whose name is no user's.
        """
        if not self.is_client:
            raise Unauthenticated(
                "this is a service's token, and events belong to users: use a token without "
                "scope, whose sub is the user"
            )
        return self.subject

    def is_user(self, user_id: str) -> bool:
        """Whether this is that user's own client."""
        return self.is_client and self.subject == user_id
