"""Sessions of the dashboard: a cookie from a link of one use, in place of a token in the page.

Owns: ``/v1/session``, the cookie, and where it counts: the dashboard's own requests, which are
listed here, and nowhere else. A change needs the header ``X-Delivery-Dashboard`` as well, which no
page of another origin can send. Never does: keep a session; the cookie is signed and short-lived.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from delivery.api.problems import RETRY_AFTER, Problem
from delivery.api.requests import (
    PRINCIPAL,
    count_bad_token,
    is_https,
    json_response,
    read_object,
    service,
)
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.domain.event import format_instant
from delivery.domain.inputs.origin import origin_of
from delivery.domain.ports import OneTime, Writes
from delivery.domain.users.revocation import Revocation, RevocationKind
from delivery.errors import ChannelUnavailable, LedgerError

logger = logging.getLogger(__name__)

LINK_LIFETIME = 900.0
"""Seconds in which a link must be used."""
LIFETIME = 1_800.0
"""Seconds after which a session ends that the page does not renew."""
MAX_LIFETIME = 12 * 3_600.0
"""Seconds after which a session ends in any case; it ends with the token that opened it, too."""
PURPOSE = "dashboard"
HEADER = "X-Delivery-Dashboard"
COOKIE = "delivery_session"
SECURE_COOKIE = "__Host-delivery_session"
MAX_COOKIE_CHARS = 4_096
ADMITTED = frozenset(
    {
        ("GET", "/v1/session"),
        ("DELETE", "/v1/session"),
        ("GET", "/v1/events"),
        ("POST", "/v1/events"),
        ("GET", "/v1/events/{id}"),
        ("GET", "/v1/events/{id}/messages"),
        ("GET", "/v1/messages/{id}"),
        ("POST", "/v1/events/{id}/replay"),
        ("GET", "/v1/runs/{id}"),
        ("POST", "/v1/replay"),
        ("GET", "/v1/stats"),
        ("GET", "/v1/history"),
        ("GET", "/v1/connections"),
        ("GET", "/v1/users/{id}"),
        ("POST", "/v1/users/{id}/disconnect"),
        ("GET", "/v1/stats/stream"),
        ("GET", "/v1/inbox"),
        ("GET", "/v1/suppressions"),
        ("DELETE", "/v1/suppressions/{address}"),
        ("GET", "/v1/webhooks"),
        ("GET", "/v1/webhooks/{name}"),
        ("POST", "/v1/webhooks/{name}/enable"),
        ("POST", "/v1/webhooks/{name}/disable"),
        ("POST", "/v1/webhooks/{name}/replay"),
        ("POST", "/v1/demo/session"),
        ("POST", "/v1/demo/runs"),
    }
)
"""Requests for which the cookie counts."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The signed content of a cookie; times are epoch seconds.

    Attributes:
        id: by which the session is revoked when it is ended.
        began_at: when it was opened; ``ends_at``: when it ends unless it is renewed; ``until``:
            when it ends in any case.
        token_ids: of the token that opened it, whose revocation ends it, too.
        key: see ``Principal``.
    """

    id: str
    subject: str
    scopes: list[str]
    began_at: float
    ends_at: float
    until: float
    token_ids: list[str]
    key: str | None = None

    @property
    def principal(self) -> Principal:
        """Who is signed in: a service, as the token that opened the session."""
        return Principal(
            self.subject,
            frozenset(self.scopes),
            False,
            datetime.fromtimestamp(self.ends_at, UTC),
            issued_at=self.began_at,
            token_ids=(self.id, *self.token_ids),
            key=self.key,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where this service is reached.

    Attributes:
        url: its public URL.
        trusted_proxies: addresses whose ``X-Forwarded-Proto`` counts.
    """

    url: str
    trusted_proxies: Sequence[str] = ()


_decoder = msgspec.json.Decoder(Session)


class Sessions:
    """Handlers of ``/v1/session``, and the check of the cookie for every other request.

    Args:
        keys: secrets of this installation; the first one signs, all verify. None: sessions are
            signed with a key of this process, and count at this node until it stops.
        clock: epoch seconds.
    """

    def __init__(
        self,
        auth: Authenticator,
        *,
        writes: Writes,
        once: OneTime,
        revoke: Callable[[Revocation], None],
        keys: Sequence[str],
        place: Place,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._auth = auth
        self._writes = writes
        self._once = once
        self._revoke = revoke
        self._keys: tuple[bytes, ...] = ()
        self.use_keys(keys)
        self._place = place
        self._clock = clock

    def use_keys(self, keys: Sequence[str]) -> None:
        """Sign with the first of these secrets from now on; sessions that any signed go on."""
        self._keys = tuple(map(_derived, keys)) or (secrets.token_bytes(32),)

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.post("/v1/session/links", self.make_link),
            web.post("/v1/session", self.begin),
            web.get("/v1/session", self.show, allow_head=False),
            web.delete("/v1/session", self.end),
        ]

    async def link(self, principal: Principal) -> str:
        """The address of the dashboard with a code that opens one session.

        Raises:
            Problem: 503.
        """
        try:
            code = await self._once.put(PURPOSE, msgspec.json.encode(principal), LINK_LIFETIME)
        except ChannelUnavailable as error:
            raise _unavailable() from error
        # In the fragment, which browsers send to no server, and no proxy logs.
        return f"{self._place.url}/#link={code}"

    async def make_link(self, request: web.Request) -> web.Response:
        """``POST /v1/session/links``: a link that opens the dashboard once (scope read)."""
        principal = await service(request, self._auth, "read")
        await read_object(request, (), may_be_empty=True)
        url = await self.link(principal)
        return json_response({"url": url, "expires_in": int(LINK_LIFETIME)})

    async def begin(self, request: web.Request) -> web.Response:
        """``POST /v1/session``: open a session by the code of a link, or by a token in the
        header."""
        _check_header(request)
        body = await read_object(request, ("link",), may_be_empty=True)
        code = body.get("link")
        if code is None:
            principal = await service(request, self._auth, "read")
        else:
            principal = await self._by_link(request, code)
        now = self._clock()
        until = min(now + MAX_LIFETIME, principal.ends_at)
        session = Session(
            id=secrets.token_urlsafe(16),
            subject=principal.subject,
            scopes=sorted(principal.scopes),
            began_at=now,
            ends_at=min(now + LIFETIME, until),
            until=until,
            token_ids=list(principal.token_ids),
            key=principal.key,
        )
        return self._answer(request, session)

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/session``: what the session may do. Renews the cookie."""
        session = self._read(request)
        if session is None:
            raise Problem("unauthenticated", "no session is open in this browser")
        ends_at = min(self._clock() + LIFETIME, session.until)
        renewed = msgspec.structs.replace(session, ends_at=max(ends_at, session.ends_at))
        return self._answer(request, renewed)

    async def end(self, request: web.Request) -> web.Response:
        """``DELETE /v1/session``: end it, also where the cookie was copied to. Safe to repeat."""
        _check_header(request)
        session = self._read(request)
        if session is not None:
            self._revoke(await self._withdraw(session))
        response = web.Response(status=204, headers={"Cache-Control": "no-store"})
        for name in (COOKIE, SECURE_COOKIE):
            response.del_cookie(
                name, path="/", secure=name == SECURE_COOKIE, httponly=True, samesite="Strict"
            )
        return response

    async def _withdraw(self, session: Session) -> Revocation:
        left = timedelta(seconds=max(1.0, session.until - self._clock()))
        actor = session.principal.actor
        try:
            return await self._writes.revoke(
                RevocationKind.JTI, session.id, lifetime=left, actor=actor
            )
        except LedgerError as error:
            # The cookie goes in any case; copies of it are refused by the nodes that run now.
            logger.warning("the end of a session is not recorded: %s", error)
            return Revocation(RevocationKind.JTI, session.id, None, datetime.now(UTC) + left)

    def admit(self, request: web.Request) -> None:
        """Let the session stand for a token, where it counts.

        Raises:
            Problem: 401 or 403.
            Unauthenticated: the session was revoked.
        """
        resource = request.match_info.route.resource
        if resource is None or (request.method, resource.canonical) not in ADMITTED:
            return
        if "Authorization" in request.headers or not self._is_own_page(request):
            return
        session = self._read(request)
        if session is None:
            return
        if request.method != "GET":
            _check_header(request)
        request[PRINCIPAL] = session.principal

    async def _by_link(self, request: web.Request, code: object) -> Principal:
        if not isinstance(code, str):
            raise Problem("invalid-request", "link must be a text", field="link")
        try:
            found = await self._once.take(PURPOSE, code)
        except ChannelUnavailable as error:
            raise _unavailable() from error
        if found is None:
            await count_bad_token(request)
            raise Problem(
                "unauthenticated",
                "the link was used before, or is too old: delivery dashboard prints another one",
            )
        principal = msgspec.json.decode(found, type=Principal)
        self._auth.check(principal)
        return principal

    def _answer(self, request: web.Request, session: Session) -> web.Response:
        response = json_response(
            {
                "subject": session.subject,
                "scopes": session.scopes,
                "expires_at": format_instant(datetime.fromtimestamp(session.ends_at, UTC)),
            }
        )
        is_secure = self._is_secure(request)
        response.set_cookie(
            SECURE_COOKIE if is_secure else COOKIE,
            self._sign(session),
            max_age=math.ceil(session.ends_at - self._clock()),
            path="/",
            secure=is_secure,
            httponly=True,
            samesite="Strict",
        )
        return response

    def _read(self, request: web.Request) -> Session | None:
        """The session of the cookie, ``None`` where there is none that counts.

        Raises:
            Problem: 401, it has ended.
            Unauthenticated: it was revoked.
        """
        text = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE) or ""
        session = self._verified(text)
        if session is None:
            return None
        if self._clock() >= session.ends_at:
            raise Problem("token-expired", "the session has ended")
        self._auth.check(session.principal)
        return session

    def _sign(self, session: Session) -> str:
        raw = msgspec.json.encode(session)
        return f"{_text(raw)}.{_text(hmac.digest(self._keys[0], raw, hashlib.sha256))}"

    def _verified(self, text: str) -> Session | None:
        content, _, tag = text.partition(".")
        if not tag or len(text) > MAX_COOKIE_CHARS:
            return None
        try:
            raw, given = _bytes(content), _bytes(tag)
        except (binascii.Error, ValueError):
            return None
        # All keys are tried, for the time taken must not tell which one it was.
        found = [
            hmac.compare_digest(hmac.digest(key, raw, hashlib.sha256), given) for key in self._keys
        ]
        return _decoder.decode(raw) if any(found) else None

    def _is_secure(self, request: web.Request) -> bool:
        url = self._place.url
        is_public = url.startswith("https://") and url.removeprefix("https://") == request.host
        return is_public or is_https(request, self._place.trusted_proxies)

    def _is_own_page(self, request: web.Request) -> bool:
        """Whether a page of this origin asks, or none at all. Another port of the same host is the
        same site: ``SameSite`` alone lets its pages send the cookie."""
        if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return False
        origin = request.headers.get("Origin")
        own = (origin_of(self._place.url), f"http://{request.host}", f"https://{request.host}")
        return origin is None or origin in own


def _check_header(request: web.Request) -> None:
    if not request.headers.get(HEADER):
        raise Problem("forbidden", f"a change by a session needs the header {HEADER}: 1")


def _unavailable() -> Problem:
    return Problem("unavailable", "links cannot be made or used now", retry_after=RETRY_AFTER)


def _derived(secret: str) -> bytes:
    """The key of sessions: no token and no link is signed with it."""
    return hmac.digest(secret.encode(), b"delivery dashboard session 1", hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
