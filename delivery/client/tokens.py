"""The bearer token: a string, or a callable that knows how to get a fresh one."""

from __future__ import annotations

import asyncio
import binascii
import inspect
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from datetime import datetime

from delivery.errors import InvalidFrame, Unauthenticated
from delivery.protocol import decode_json

TOKEN_TIMEOUT = 10.0
REFRESH_MARGIN = 30.0

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


def expiry(token: str) -> float | None:
    """The token's ``exp`` in Unix seconds, unverified: only for knowing when to ask for another."""
    segments = token.split(".")
    if len(segments) != 3:
        return None
    try:
        claims = decode_json(urlsafe_b64decode(segments[1] + "=" * (-len(segments[1]) % 4)))
    except (InvalidFrame, binascii.Error, ValueError):
        return None
    exp = claims.get("exp") if isinstance(claims, dict) else None
    return float(exp) if isinstance(exp, int | float) else None


def refresh_at(source: Token, used: str, expires: str | None) -> float | None:
    """When to ask for the next token, in Unix seconds; never for a fixed one."""
    if isinstance(source, str):
        return None
    ends = expiry(used)
    if ends is None and expires is not None:
        ends = datetime.fromisoformat(expires).timestamp()
    if ends is None:
        return None
    # A short-lived token is renewed at half time, at the latest.
    return ends - min(REFRESH_MARGIN, max(0.0, (ends - time.time()) / 2))
