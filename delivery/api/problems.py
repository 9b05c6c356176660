"""Errors of the HTTP API as ``application/problem+json`` (RFC 9457).

Owns: the list of problem types, the type of each exception, and the middleware that translates.
Never does: show internal details; they go to the log.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from delivery.callers.refusals import refusals
from delivery.domain.inputs.foreign_text import is_storable, storable
from delivery.errors import (
    DeliveryError,
    InvalidEvent,
    KeysUnavailable,
    LedgerError,
    LinkExpired,
    LinkInvalid,
    Overloaded,
    RateLimited,
    SpoolFull,
    Unauthenticated,
)
from delivery.protocol import Close, encode_json

logger = logging.getLogger(__name__)

CALLER = web.RequestKey("caller", str)
"""The verified caller, else the address, for the log of refusals."""

CONTENT_TYPE = "application/problem+json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One problem type, as shown at ``/problems/<slug>``."""

    status: int
    title: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "not-json": Kind(
        400,
        "The body is not JSON",
        "Send one JSON object, or one JSON object per line with the content type "
        "application/x-ndjson. The detail names the position of the fault.",
    ),
    "bad-request": Kind(
        400, "The request is malformed", "The request breaks HTTP itself. The detail says where."
    ),
    "unauthenticated": Kind(
        401,
        "A valid token is needed",
        "Send Authorization: Bearer and a token with sub and exp that is signed with this "
        "service's secret or by its issuer.",
    ),
    "token-expired": Kind(
        401, "The token has expired", "Get a new token from its issuer, and repeat."
    ),
    "token-not-yet": Kind(
        401,
        "The token is not valid yet",
        "Its nbf lies ahead of this service's clock, or its key is not known here yet. Repeat "
        "after the seconds in Retry-After.",
    ),
    "forbidden": Kind(
        403,
        "The token does not allow this",
        "Services need the scope that the detail names; clients reach their own user only.",
    ),
    "origin-not-allowed": Kind(
        403,
        "Pages of this origin may not connect",
        "DELIVERY_ALLOWED_ORIGINS names the origins whose pages may open sockets and streams here.",
    ),
    "invalid-signature": Kind(
        403,
        "The callback's signature is wrong",
        "The callback was not signed with the secret that is configured here, or for another URL "
        "than this service's public one. Check the secret, the public URL and the clock.",
    ),
    "not-found": Kind(
        404,
        "There is nothing here",
        "No such page or event, or it belongs to another user: the answer is the same.",
    ),
    "link-invalid": Kind(
        404,
        "This link is not valid",
        "It is incomplete or was changed on its way. Copy it whole from the message.",
    ),
    "method-not-allowed": Kind(
        405, "This address does not know the method", "The Allow header lists the ones it knows."
    ),
    "request-timeout": Kind(
        408, "The body did not arrive in time", "Send the body without pauses, and repeat."
    ),
    "id-conflict": Kind(
        409,
        "The id is taken by another event",
        "An id names one content for ever. The same event again is a duplicate and fine; another "
        "event needs another id.",
    ),
    "already-confirmed": Kind(
        409, "The event is confirmed", "It reached its user; there is nothing to replay."
    ),
    "link-expired": Kind(
        410, "This link has expired", "Sign in to see what it was about, or wait for a newer one."
    ),
    "payload-too-large": Kind(
        413,
        "Too large",
        "An event's data has at most 64 KiB encoded, a request at most 1,000 events and 16 MiB. "
        "Send references to large contents, and split batches.",
    ),
    "invalid-event": Kind(
        422,
        "The event cannot be accepted",
        "A field is missing, unknown or of the wrong kind; repeating the same event cannot help.",
    ),
    "invalid-context": Kind(
        422,
        "The event does not address a user",
        "user_id and run_id are non-empty strings of at most 128 characters without control "
        "characters; auth events also refuse unfilled placeholders.",
    ),
    "invalid-request": Kind(
        422,
        "A parameter or field is wrong",
        "The field that is named is missing, unknown or out of range.",
    ),
    "batch-rejected": Kind(
        422,
        "No event of the batch was accepted",
        "Each entry of rejected carries the index of its event and its own problem.",
    ),
    "overloaded": Kind(
        429,
        "Too much at once",
        "A bounded buffer is full and nothing was accepted. Repeat the same request, with the same "
        "ids, after the seconds in Retry-After.",
    ),
    "rate-limited": Kind(
        429,
        "Too many requests",
        "This token or address asks more often than its limit allows; RateLimit-Policy names the "
        "limit. Nothing was done. Repeat the same request after the seconds in Retry-After.",
    ),
    "internal": Kind(
        500, "Something broke here", "It is in the service's log. Repeating may help; ids protect."
    ),
    "unavailable": Kind(
        503,
        "The ledger cannot be reached now",
        "Nothing was accepted or changed. Repeat after the seconds in Retry-After.",
    ),
    "spool-full": Kind(
        503,
        "The local spool is full",
        "The ledger is away, and the spool or its disk is full. Nothing was accepted; repeat after "
        "the seconds in Retry-After.",
    ),
    "callback-unchecked": Kind(
        503,
        "The callback cannot be checked now",
        "The provider's certificate cannot be fetched. Repeat after the seconds in Retry-After.",
    ),
    "keys-unavailable": Kind(
        503,
        "The token cannot be checked now",
        "The token issuer's keys cannot be fetched. Repeat after the seconds in Retry-After.",
    ),
}
_BY_STATUS = {
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "payload-too-large",
}
RETRY_AFTER = 2.0
MAX_ECHO = 200
MAX_DETAIL = 1_000
"""Characters of a detail, which may repeat unbounded text of the caller."""


class Problem(DeliveryError):
    """A problem that a handler of the API raises.

    Attributes:
        slug: one of ``KINDS``.
        detail: what happened, as told to the caller.
        field: the field or parameter that is wrong.
        retry_after: seconds after which the same request may succeed.
        more: additional members of the document.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}…"
        self.field = field
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @property
    def status(self) -> int:
        """HTTP status of this problem type."""
        return KINDS[self.slug].status

    def document(self) -> dict[str, Any]:
        """Members of the problem, those of RFC 9457 first."""
        kind = KINDS[self.slug]
        document: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
        }
        if self.field is not None:
            document["field"] = self.field
        return document | self.more

    def response(self) -> web.Response:
        """Make the response, with ``Retry-After`` and ``WWW-Authenticate`` where they apply."""
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **self.headers}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers.setdefault("WWW-Authenticate", 'Bearer realm="delivery", error="invalid_token"')
        body = encode_json(self.document())
        return web.Response(
            status=self.status, body=body, headers=headers, content_type=CONTENT_TYPE
        )


def problem_of(error: Exception) -> Problem:
    """The problem of an exception; ``internal`` for an unknown one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidEvent):
        slug = error.slug if error.slug in KINDS else InvalidEvent.slug
        return Problem(slug, str(error), field=error.field)
    if isinstance(error, RateLimited):
        return Problem(
            "rate-limited", str(error), retry_after=error.retry_after, headers=error.headers
        )
    if isinstance(error, Overloaded):
        return Problem("overloaded", str(error), retry_after=error.retry_after)
    if isinstance(error, KeysUnavailable):
        return Problem("keys-unavailable", str(error), retry_after=RETRY_AFTER)
    if isinstance(error, Unauthenticated) and error.close_code == Close.NOT_YET:
        return Problem("token-not-yet", str(error), retry_after=RETRY_AFTER)
    if isinstance(error, Unauthenticated):
        expired = error.close_code == Close.TOKEN_EXPIRED
        return Problem("token-expired" if expired else "unauthenticated", str(error))
    if isinstance(error, LinkExpired):
        return Problem("link-expired", str(error))
    if isinstance(error, LinkInvalid):
        return Problem("link-invalid", str(error))
    if isinstance(error, LedgerError | TimeoutError):
        # The text of the exception names hosts and statements: it is for the log only.
        slug = "spool-full" if isinstance(error, SpoolFull) else "unavailable"
        return Problem(slug, KINDS[slug].title, retry_after=RETRY_AFTER)
    return Problem("internal", "the request failed; the log of the service says why")


def _of_http(error: web.HTTPException, request: web.Request) -> Problem:
    slug = _BY_STATUS.get(error.status, "bad-request" if error.status < 500 else "internal")
    details = {
        "not-found": f"no page {request.path[:MAX_ECHO]!r}",
        "method-not-allowed": f"{request.method[:MAX_ECHO]} is not known here",
    }
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return Problem(slug, details.get(slug, error.reason), headers=allow)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn exceptions of handlers and of aiohttp into problems. Parameters that no database takes
    are refused here, for every handler."""
    try:
        _check_names(request)
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _of_http(error, request).response()
    except ConnectionResetError:
        raise  # the caller has disconnected
    except Exception as error:
        # A response that has begun (WebSocket, event stream) cannot be replaced.
        if request.writer.output_size:
            raise
        return _answer(error, request)


def _answer(error: Exception, request: web.Request) -> web.Response:
    """Note and answer a failed request.

    Not in the middleware: a variable there that holds the error keeps its frames alive, and with
    them the body that was refused, until the next full collection.
    """
    problem = problem_of(error)
    if problem.status in (401, 403):
        refusals.note(f"{request.method} {_where(request)}: {problem.slug}", _caller(request))
    if problem.slug == "internal":
        logger.error("%s %s failed", request.method, _where(request), exc_info=error)
    elif problem.status == 503:
        logger.warning("%s %s: %s", request.method, _where(request), error)
    return problem.response()


def _check_names(request: web.Request) -> None:
    if not all(is_storable(part) for part in request.match_info.values()):
        raise Problem("not-found", "nothing has such a name here")
    for name, value in request.query.items():
        if not (is_storable(name) and is_storable(value)):
            name = storable(name, MAX_ECHO)
            raise Problem(
                "invalid-request", f"{name} contains U+0000 or a lone surrogate", field=name
            )


def _caller(request: web.Request) -> str:
    """The verified caller, else where the request came from."""
    return str(request.get(CALLER, request.remote))


def _where(request: web.Request) -> str:
    # The route, not the path: a path may hold the token of a link.
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "?"
