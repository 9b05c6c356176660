"""Bearer tokens, verified and turned into a ``Principal``.

Owns: which tokens are valid and what they allow. Never does: HTTP or frames. The configured keys
decide the algorithm, never the token alone: HS256 only with the configured secrets, RS256 / ES256 /
EdDSA only with a key of that kind from the issuer's JWKS.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jwt

from delivery.callers.jwks import ALGORITHMS, KEEP_FOR, KeySet
from delivery.callers.principal import Principal
from delivery.callers.revocations import Revocations
from delivery.domain.event import check_context_id
from delivery.domain.inputs.foreign_text import is_storable
from delivery.errors import ConfigError, InvalidContext, Unauthenticated
from delivery.protocol import Close
from delivery.tokens import SCOPES, check_secret

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARS = 8_192
CACHE_SIZE = 10_000
CACHE_SECONDS = 30.0
CLIENT_CACHE_SECONDS = 900.0
"""A client's token is remembered for longer: when a crowd comes back at once, half of what a
connection costs before it has a user is its token. Revocations and keys are asked every time."""
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class Authenticator:
    """Verifies tokens.

    Args:
        secret: HS256 secret; ``previous_secret`` is accepted as well, for a rotation of secrets.
        jwks_url: where the issuer publishes its keys; ``jwks_keep_for``: seconds for which they are
            used while that does not answer.
        audience: must be in ``aud`` when set; ``issuer`` must be ``iss`` when set.
        scope_prefix: precedes each of ``SCOPES`` in ``scope``, for identity providers that also
            issue other scopes.
        leeway: seconds of clock difference that ``exp`` and ``nbf`` may have.
        clock: epoch seconds, for the cache.
        revocations: tokens that are refused before they expire.
        max_ttl: seconds that a token of the issuer may be valid, from now on and from its ``iat``
            on; ``max_secret_ttl``: one that a secret signed. ``None``: no bound.

    Attributes:
        revocations: those.
        on_service: called with a service's principal and its token's fingerprint, at least every
            ``CACHE_SECONDS`` while the token is in use.

    Raises:
        ConfigError: neither a secret nor a JWKS URL, or a secret under 32 bytes.
    """

    def __init__(
        self,
        secret: str | None,
        previous_secret: str | None = None,
        jwks_url: str | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        leeway: float = 0,
        *,
        scope_prefix: str = "",
        clock: Callable[[], float] = time.time,
        revocations: Revocations | None = None,
        max_ttl: float | None = None,
        max_secret_ttl: float | None = None,
        jwks_keep_for: float = KEEP_FOR,
    ) -> None:
        if secret is None and jwks_url is None:
            raise ConfigError(
                "no token could be checked: set DELIVERY_JWT_SECRET (32 bytes or more) or "
                "DELIVERY_JWKS_URL"
            )
        self._secrets = _checked(secret, previous_secret)
        self._keys = None if jwks_url is None else KeySet(jwks_url, keep_for=jwks_keep_for)
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._scopes = {scope_prefix + scope: scope for scope in SCOPES}
        self._clock = clock
        self.revocations = Revocations() if revocations is None else revocations
        self._max_ttl = max_ttl
        self._max_secret_ttl = max_secret_ttl
        self._cache: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self.on_service: Callable[[Principal, str], None] | None = None

    def use_secrets(self, secret: str | None, previous_secret: str | None) -> None:
        """Accept tokens of these secrets from now on, and of no other. Connections that are open
        stay until their tokens expire.

        Raises:
            ConfigError: no token could be checked, or one is under 32 bytes.
        """
        self.check_secrets(secret, previous_secret)
        self._secrets = _checked(secret, previous_secret)
        self._cache.clear()

    def check_secrets(self, secret: str | None, previous_secret: str | None) -> None:
        """Raise the errors of ``use_secrets``, and change nothing."""
        if secret is None and self._keys is None:
            raise ConfigError("no token could be checked: DELIVERY_JWT_SECRET is gone")
        _checked(secret, previous_secret)

    async def verify(self, token: str) -> Principal:
        """Verify a token and return its principal.

        Raises:
            Unauthenticated: close code 3500; 3005 for a valid token that has expired, 3006 for one
                that is not valid yet or whose key may be published but is not known here yet.
            KeysUnavailable: the issuer's keys cannot be fetched now.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._cache.get(digest)
        if known is not None and self._clock() < known[0]:
            self.check(known[1])
            return known[1]
        claims, key = await self._claims(token)
        principal = _principal(claims, self._scopes, self._leeway, key)
        self._check_ttl(principal, self._max_secret_ttl if key is None else self._max_ttl)
        self.check(principal)
        self._remember(digest, principal)
        if not principal.is_client and self.on_service is not None:
            # Not for a remembered one: that is seen again within CACHE_SECONDS.
            self.on_service(principal, digest.hex()[:16])
        return principal

    def check(self, principal: Principal) -> None:
        """Check a principal once more, who was verified a while ago.

        Raises:
            Unauthenticated: the token was revoked since, or its key removed by the issuer.
        """
        if self.revocations.covers(principal):
            raise Unauthenticated("the token was revoked")
        if (
            principal.key is not None
            and self._keys is not None
            and not self._keys.has(principal.key)
        ):
            raise Unauthenticated("the issuer has removed the key that signed the token")

    def _check_ttl(self, principal: Principal, limit: float | None) -> None:
        """Refuse a token that is valid for too long: revocations are not kept for ever."""
        if limit is None:
            return
        now, exp = self._clock(), principal.expires_at.timestamp()
        since = now if principal.issued_at is None else min(now, principal.issued_at)
        if exp - since > limit + self._leeway:
            raise Unauthenticated(
                f"the token is valid for more than {limit:.0f} seconds, the limit "
                "(DELIVERY_JWT_MAX_TTL)"
            )

    def watch(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``check`` may refuse a principal that it did not before."""
        self.revocations.watch(callback)
        if self._keys is not None:
            self._keys.watch(callback)

    def start(self) -> None:
        """Keep the issuer's keys fresh in a task, until ``close``."""
        if self._keys is not None:
            self._keys.start()

    async def close(self) -> None:
        """Stop fetching keys."""
        if self._keys is not None:
            await self._keys.close()

    def _remember(self, digest: bytes, principal: Principal) -> None:
        now = self._clock()
        seconds = CLIENT_CACHE_SECONDS if principal.is_client else CACHE_SECONDS
        until = min(now + seconds, principal.ends_at)
        self._cache[digest] = (until, principal)
        self._cache.move_to_end(digest)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)

    async def _claims(self, token: str) -> tuple[dict[str, Any], str | None]:
        """The claims, and the fingerprint of the issuer's key that signed them; ``None``: one of
        the secrets did."""
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise Unauthenticated("the token is not a JWT") from error
        algorithm, kid = header.get("alg"), header.get("kid")
        keys: list[tuple[Any, str | None]] = []
        if algorithm == "HS256":
            keys = [(secret, None) for secret in self._secrets]
        elif algorithm in ALGORITHMS and self._keys is not None:
            found = await self._keys.find(kid if isinstance(kid, str) else None, algorithm)
            keys = [(key.public, key.fingerprint) for key in found]
            if not keys and not self._keys.is_current:
                raise Unauthenticated(
                    "the token is signed with a key that is not known here yet",
                    close_code=Close.NOT_YET,
                )
        if not keys:
            raise Unauthenticated("the token is signed with a key or algorithm unknown here")
        return self._decode(token, keys, str(algorithm))

    def _decode(
        self, token: str, keys: list[tuple[Any, str | None]], algorithm: str
    ) -> tuple[dict[str, Any], str | None]:
        for key, fingerprint in keys:
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=self._leeway,
                    # The issuer's clock may be ahead, so an iat in the future is accepted.
                    options={
                        "require": ["sub", "exp"],
                        "verify_aud": self._audience is not None,
                        "verify_iat": False,
                    },
                )
                return claims, fingerprint
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError as error:
                raise Unauthenticated(
                    "the token has expired", close_code=Close.TOKEN_EXPIRED
                ) from error
            except jwt.ImmatureSignatureError as error:
                raise Unauthenticated(
                    "the token is not valid yet", close_code=Close.NOT_YET
                ) from error
            except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
                raise Unauthenticated(f"the token is not accepted: {_why(error)}") from error
        raise Unauthenticated("the token's signature is wrong")

    def __repr__(self) -> str:
        return f"Authenticator(secrets={len(self._secrets)}, jwks={self._keys is not None})"


def _checked(secret: str | None, previous: str | None) -> tuple[str, ...]:
    given = ((secret, "DELIVERY_JWT_SECRET"), (previous, "DELIVERY_JWT_SECRET_PREVIOUS"))
    return tuple(check_secret(value, name) for value, name in given if value is not None)


def _principal(
    claims: dict[str, Any], known: Mapping[str, str], leeway: float, key: str | None
) -> Principal:
    try:
        subject = check_context_id("sub", claims["sub"])
    except InvalidContext as error:
        raise Unauthenticated(f"the token's sub is no id: {error}") from error
    for name in ("jti", "scope"):
        text = claims.get(name)
        if isinstance(text, str) and not is_storable(text):
            raise Unauthenticated(f"the token's {name} contains U+0000 or a lone surrogate")
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise Unauthenticated("the token's scope must be one string, separated by spaces")
    expires = datetime.fromtimestamp(_seconds(claims["exp"]), UTC)
    # Identity providers add scopes of their own to users' tokens; they are ignored here.
    scopes = frozenset(known[word] for word in scope.split() if word in known)
    return Principal(
        subject,
        scopes,
        not scopes,
        expires,
        leeway,
        issued_at=_issued_at(claims),
        token_ids=(jti,) if isinstance(jti := claims.get("jti"), str) else (),
        key=key,
    )


def _seconds(value: int | float | str) -> float:
    """An instant that PyJWT took, in epoch seconds that a date can have."""
    try:
        return min(float(value), _LATEST)
    except OverflowError:  # a JSON number may have any length
        return _LATEST


def _issued_at(claims: Mapping[str, Any]) -> float | None:
    value = claims.get("iat")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN compares as neither earlier nor later.
    return float(value) if abs(value) <= _LATEST else None


def _why(error: Exception) -> str:
    # PyJWT's texts name a claim and no secret; other exceptions may quote the token.
    return str(error) if isinstance(error, jwt.InvalidTokenError) else "a claim is malformed"
