"""Parts of a request: the caller, the body, the parameters.

Owns: reading them within limits of size and time, and refusing malformed ones. Never does: handle a
request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from delivery.api.problems import CALLER, Problem
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.callers.rates import BAD_TOKENS, Rates, Standing
from delivery.domain.event import check_context_id, check_event_id
from delivery.domain.inputs.counted_addresses import counted_address
from delivery.domain.inputs.foreign_text import is_storable
from delivery.errors import InvalidEvent, InvalidFrame, RateLimited, Unauthenticated
from delivery.protocol import Close, decode_json, encode_json

BODY_TIMEOUT = 30.0
SMALL_BODY = 256 * 1024
DEFAULT_LIMIT = 50
MAX_LIMIT = 1_000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MIN_INFLATED = 1 << 20
MAX_RATIO = 100
"""A compressed body may grow to ``MAX_RATIO`` times its length, or to ``MIN_INFLATED`` bytes."""
BAD_TOKEN_DELAY = 0.5
"""Seconds before a caller with too many bad tokens gets an answer."""
MAX_HOPS = 16
"""Entries of ``X-Forwarded-For`` that are looked at, from its end: a caller may send thousands."""
RATES = web.AppKey("rates", Rates)
PROXIES: web.AppKey[Sequence[str]] = web.AppKey("trusted_proxies")
STANDING = web.RequestKey("delivery.standing", Standing)
PRINCIPAL = web.RequestKey("delivery.principal", Principal)
"""Key of a request that a session was admitted for."""
_NO_TOKEN = {"WWW-Authenticate": 'Bearer realm="delivery"'}


def stream_route(path: str, handler: Handler) -> web.RouteDef:
    """Make the route of a stream, for GET only.

    By default aiohttp calls the handler for HEAD too, whose answer has no body: a proxy would take
    the bytes of a stream for the answer to the next request on its connection.
    """
    return web.get(path, handler, allow_head=False)


async def caller(request: web.Request, auth: Authenticator) -> Principal:
    """Verify the bearer token of a request; a session of the dashboard may stand for it.

    Raises:
        Problem: 401, the request has no token.
        Unauthenticated: the token is refused.
    """
    admitted: Principal | None = request.get(PRINCIPAL)
    if admitted is not None:
        return _noted(request, admitted)
    header = request.headers.get("Authorization", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem(
            "unauthenticated", "send the header Authorization: Bearer <token>", headers=_NO_TOKEN
        )
    request[CALLER] = address_of(request)  # for the log of refusals
    try:
        principal = await auth.verify(token.strip())
    except Unauthenticated as error:
        if error.close_code == Close.INVALID_TOKEN:
            await count_bad_token(request)
        raise
    return _noted(request, principal)


def _noted(request: web.Request, principal: Principal) -> Principal:
    """The caller, noted for the log of refusals."""
    kind = "user" if principal.is_client else "service"
    request[CALLER] = f"{kind} {principal.subject}"
    return principal


async def count_bad_token(request: web.Request) -> None:
    """Count a token, ticket or link that is refused for good against its caller's address.

    Raises:
        RateLimited: over the limit.
    """
    try:
        await count_rate(request, BAD_TOKENS, counted_address_of(request))
    except RateLimited:
        # A caller that tries without a pause gets one.
        await asyncio.sleep(BAD_TOKEN_DELAY)
        raise


async def count_rate(request: web.Request, name: str, who: str, cost: int = 1) -> None:
    """Count a request against a rate limit; the answer tells the caller's state.

    Raises:
        RateLimited: over the limit.
    """
    rates = request.config_dict.get(RATES)
    if rates is None:
        return
    standing = await rates.take(name, who, cost)
    before = request.get(STANDING)
    if standing is not None and (before is None or standing.share < before.share):
        request[STANDING] = standing


def check_rate(request: web.Request, name: str, who: str) -> None:
    """Refuse a caller who is known to be over a limit, before the body is read.

    Raises:
        RateLimited: over the limit.
    """
    rates = request.config_dict.get(RATES)
    if rates is not None:
        rates.check(name, who)


def address_of(request: web.Request) -> str:
    """The caller's address; see ``client_address``."""
    return client_address(request, request.config_dict.get(PROXIES, ()))


def counted_address_of(request: web.Request) -> str:
    """The name under which rates count the caller's address; see ``counted_address``."""
    return counted_address(address_of(request))


async def service(request: web.Request, auth: Authenticator, scope: str) -> Principal:
    """Verify a token that must carry ``scope``.

    Raises:
        Problem: 401 or 403.
    """
    principal = await caller(request, auth)
    if not principal.may(scope):
        raise Problem("forbidden", f"this needs a service token with the scope {scope!r}")
    return principal


async def client(request: web.Request, auth: Authenticator) -> Principal:
    """Verify a token that must be a user's, not a service's.

    Raises:
        Problem: 401 or 403.
    """
    principal = await caller(request, auth)
    if not principal.is_client:
        raise Problem(
            "forbidden", "this needs a user's token: a service has no events of its own to receive"
        )
    return principal


async def owner_or(
    request: web.Request, auth: Authenticator, scope: str, user_id: str
) -> Principal:
    """Verify a token that must be this user's, or a service's with ``scope``.

    Raises:
        Problem: 401 or 403.
    """
    principal = await caller(request, auth)
    if not principal.is_user(user_id) and not principal.may(scope):
        raise Problem(
            "forbidden", f"this needs the user's own token or a service's with scope {scope!r}"
        )
    return principal


async def read_body(request: web.Request, limit: int = SMALL_BODY) -> bytes:
    """Read the whole body, decompressed, of at most ``limit`` bytes.

    A compressed body may not grow beyond a ratio: a few bytes could otherwise fill the memory and
    block the event loop.

    Raises:
        Problem: 413 or 408.
    """
    # Every header counts: aiohttp unpacks by whichever of several it knows.
    encodings = request.headers.getall("Content-Encoding", ())
    is_compressed = any(encoding.lower() != "identity" for encoding in encodings)
    if is_compressed:
        limit = min(limit, max(MIN_INFLATED, MAX_RATIO * (request.content_length or 0)))
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
                if is_compressed:
                    await asyncio.sleep(0)  # a piece is unpacked as it is read: others come between
    except TimeoutError:
        raise Problem(
            "request-timeout", f"the body did not arrive within {BODY_TIMEOUT:g} s"
        ) from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise Problem("bad-request", "the body cannot be decoded") from error
    return bytes(body)


def _too_large(limit: int) -> Problem:
    # Made where it is raised: a variable that holds it keeps its own frame, with the body, alive
    # until the next full collection.
    return Problem("payload-too-large", f"the body is over {limit} bytes")


def parse_json(raw: bytes, *, line: int | None = None) -> Any:
    """Decode the body, or one line of it, from JSON.

    Raises:
        Problem: 400.
    """
    where = "" if line is None else f"line {line}: "
    if not raw.strip():
        raise Problem("not-json", f"{where}the body is empty; send JSON")
    try:
        return decode_json(raw)
    except InvalidFrame as error:
        raise Problem("not-json", f"{where}{error}") from error
    except RecursionError as error:
        raise Problem("not-json", f"{where}the JSON is nested too deeply") from error


async def read_object(
    request: web.Request, allowed: Iterable[str], *, may_be_empty: bool = False
) -> dict[str, Any]:
    """Read a small JSON object with no other members than ``allowed``.

    Raises:
        Problem: 400, 408, 413 or 422.
    """
    raw = await read_body(request)
    if may_be_empty and not raw.strip():
        return {}
    body = parse_json(raw)
    if not isinstance(body, dict):
        raise Problem("invalid-request", "the body must be a JSON object")
    check_known(body, allowed)
    for name, value in body.items():
        check_texts(name, value)
    return body


def check_texts(name: str, value: object) -> None:
    """Refuse an id, a name or a filter, or a list of them, that no database takes. The text of
    other values is their handler's affair.

    Raises:
        Problem: 422.
    """
    for text in value if isinstance(value, list) else (value,):
        if isinstance(text, str) and not is_storable(text):
            raise Problem(
                "invalid-request", f"{name} contains U+0000 or a lone surrogate", field=name
            )


def check_known(given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse unknown members or parameters.

    Raises:
        Problem: 422, names the first unknown member or parameter.
    """
    known = sorted(allowed)
    unknown = sorted(set(given) - set(known))
    if unknown:
        listed = ", ".join(known) or "none"
        raise Problem(
            "invalid-request", f"unknown field {unknown[0]!r}; known: {listed}", field=unknown[0]
        )


def path_event_id(request: web.Request) -> str:
    """The event id of the path; 404 for a malformed one, which no event has.

    Raises:
        Problem: 404.
    """
    try:
        return check_event_id(request.match_info["id"])
    except InvalidEvent:
        raise Problem("not-found", "no event has this id") from None


def path_user_id(request: web.Request) -> str:
    """The user id of the path.

    Raises:
        InvalidContext: the id is malformed.
    """
    return check_context_id("user_id", request.match_info["id"])


def parse_instant(value: object, field: str) -> datetime:
    """Parse an RFC 3339 instant with an offset; the result is in UTC.

    Raises:
        Problem: 422.
    """
    hint = f"{field} must be an RFC 3339 instant with an offset, like 2026-01-31T12:00:00Z"
    if not isinstance(value, str):
        raise Problem("invalid-request", hint, field=field)
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise ValueError("no offset")
        return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Problem("invalid-request", hint, field=field) from None


def parse_limit(value: str | None) -> int:
    """Parse the length of a page.

    Raises:
        Problem: 422.
    """
    if value is None:
        return DEFAULT_LIMIT
    if re.fullmatch("[0-9]{1,4}", value) is None or not 1 <= int(value) <= MAX_LIMIT:
        raise Problem("invalid-request", f"limit must be 1 to {MAX_LIMIT}", field="limit")
    return int(value)


def parse_flag(value: str | None, field: str) -> bool:
    """Parse ``true`` or ``false``; left out it is ``false``.

    Raises:
        Problem: 422.
    """
    if value not in (None, "true", "false"):
        raise Problem("invalid-request", f"{field} must be true or false", field=field)
    return value == "true"


def client_address(request: web.Request, trusted: Sequence[str]) -> str:
    """The address a request came from, for the log.

    Only entries of ``X-Forwarded-For`` that proxies in ``trusted`` (addresses or networks) wrote
    count: the last entry that is no such proxy is the caller.
    """
    address = request.remote or ""
    if not trusted:
        return address
    # A proxy may add a header of its own behind the caller's: all of them are one list.
    # Source: RFC 9110, section 5.3.
    given = ",".join(request.headers.getall("X-Forwarded-For", ()))
    hops = [hop.strip() for hop in given.rsplit(",", MAX_HOPS)][-MAX_HOPS:]
    while hops and _is_trusted(address, trusted) and _is_address(hops[-1]):
        address = hops.pop()
    return address


def is_https(request: web.Request, trusted: Sequence[str]) -> bool:
    """Whether the caller's connection is encrypted, here or at a proxy in ``trusted``, whose
    ``X-Forwarded-Proto`` says so."""
    if request.secure:
        return True
    given = ",".join(request.headers.getall("X-Forwarded-Proto", ()))
    told = given.rpartition(",")[2].strip().lower()
    return told == "https" and _is_trusted(request.remote or "", trusted)


def json_response(value: Any, status: int = 200) -> web.Response:
    """Make a JSON response that no cache keeps."""
    return web.Response(
        status=status,
        body=encode_json(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_trusted(address: str, trusted: Sequence[str]) -> bool:
    if not _is_address(address):
        return False
    parsed = ipaddress.ip_address(address)
    return any(parsed in ipaddress.ip_network(network, strict=False) for network in trusted)
