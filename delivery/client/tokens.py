"""The bearer token: a string, or a callable that knows how to get a fresh one.

Owns: which token is in use, and when to ask for a newer one. Never does: check a token; that is the
gateway's.
"""

from __future__ import annotations

import asyncio
import binascii
import inspect
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from datetime import datetime

from delivery.errors import DeliveryError, InvalidFrame, Unauthenticated, Unreachable
from delivery.protocol import decode_json

TOKEN_TIMEOUT = 10.0
EARLIEST = 300.0
"""Seconds before its end at which a long-lived token is renewed; a short one at three quarters."""
OPAQUE_LIFETIME = 60.0
"""Seconds for which a token that does not tell its end is used."""
MIN_REFRESH = 1.0
"""Seconds between two refreshes, at least."""

REFRESH_AGAIN = (5.0, 60.0)
"""Seconds after which a refresh that failed is tried again: first, at most."""

Token = str | Callable[[], str | Awaitable[str]]


async def read_token(source: Token) -> str:
    """The token to use now.

    Raises:
        Unauthenticated: the callable gave something that is no token.
        TimeoutError: it took over 10 s. Its own errors pass through.
    """
    token: object = source
    if callable(source):
        token = source()
        if inspect.isawaitable(token):
            async with asyncio.timeout(TOKEN_TIMEOUT):
                token = await token
    if not isinstance(token, str) or not token:
        raise Unauthenticated("the token must be a non-empty string")
    return token


class Tokens:
    """The token in use by everything that one client opens."""

    def __init__(self, source: Token) -> None:
        self._source = source
        self._known: str | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    @property
    def can_refresh(self) -> bool:
        """Whether the token comes from a function, which can give a newer one."""
        return callable(self._source)

    async def current(self) -> str:
        """The token in use, or a new one once most of its life is over.

        Raises:
            Unauthenticated: the callable gave something that is no token.
            Unreachable: it failed, or took over 10 s. It is asked again with the next call.
        """
        if not callable(self._source):
            return await read_token(self._source)
        async with self._lock:  # a link and a request that both need one ask once
            if self._known is not None and time.time() < self._until:
                return self._known
            try:
                fresh = await read_token(self._source)
            except DeliveryError:
                raise
            except Exception as error:
                # It asks some identity provider, which may be back in a moment.
                raise Unreachable(f"cannot get a token: {type(error).__name__}") from error
            self._known = fresh
            self._until = time.time() + early(_lifetime(fresh))
            return fresh

    async def renew(self) -> str:
        """A new token, whatever is known. Raises as ``current``."""
        self.forget()
        return await self.current()

    def forget(self) -> None:
        """The gateway did not take the token in use: ask next time."""
        self._known = None

    def refresh_at(self, used: str, expires: str | None = None) -> float | None:
        """When to ask for the next token, in Unix seconds; ``None`` for never.

        Args:
            used: the token in use.
            expires: when it ends, as the gateway has told, RFC 3339.
        """
        if not self.can_refresh:
            return None
        now = time.time()
        if expires is not None:
            left = datetime.fromisoformat(expires).timestamp() - now
        elif _instant(_claims(used).get("exp")) is not None:
            left = _lifetime(used)
        else:
            return None
        return now + max(MIN_REFRESH, early(left))


def is_newer(fresh: str, used: str) -> bool:
    """Whether a token ends later than another; where one does not tell, whether they differ. Some
    functions go on giving a token that is over: it must not replace one that is good."""
    ends = [_instant(_claims(token).get("exp")) for token in (fresh, used)]
    return fresh != used if ends[0] is None or ends[1] is None else ends[0] > ends[1]


def refresh_pause(failures: int) -> float:
    """Seconds until a refresh is tried again after ``failures`` in a row, from 1."""
    first, longest = REFRESH_AGAIN
    return float(min(longest, first * 2.0 ** min(failures - 1, 16)))


def early(left: float) -> float:
    """Seconds until a newer token is asked for: a quarter of the life left before its end, five
    minutes at most."""
    return max(0.0, left - min(left / 4.0, EARLIEST))


def _lifetime(token: str) -> float:
    """Seconds that a token has left; where this clock cannot be right, a part of its whole life."""
    claims = _claims(token)
    exp = _instant(claims.get("exp"))
    if exp is None:
        return OPAQUE_LIFETIME
    left = exp - time.time()
    issued = _instant(claims.get("iat"))
    whole = 0.0 if issued is None else exp - issued
    return min(whole, max(left, whole / 4.0)) if whole > 0.0 else left


def _instant(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _claims(token: str) -> dict[str, object]:
    """The claims of a JWT, unverified; empty for anything else."""
    segments = token.split(".")
    if len(segments) != 3:
        return {}
    try:
        claims = decode_json(urlsafe_b64decode(segments[1] + "=" * (-len(segments[1]) % 4)))
    except (InvalidFrame, binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
