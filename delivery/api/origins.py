"""What browsers are told and asked: pages of other origins (CORS), and headers that protect pages.

Owns: which origins may read ``/v1`` and open sockets and streams, the answer to a preflight, and
``Strict-Transport-Security`` behind TLS. Never does: allow credentials: a token is in a header that
a page has to set, and the dashboard's cookie is for its own origin.
Source: Fetch Standard, section 3.2, "CORS protocol"; RFC 6455, section 10.2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import hdrs, web

from delivery.api.problems import Problem
from delivery.api.requests import is_https
from delivery.domain.inputs.origin import ANY, origin_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
API = "/v1/"
STREAMS = ("/v1/ws", "/v1/stream", "/v1/stats/stream")
METHODS = "GET, HEAD, POST, PUT, DELETE"
ALLOWED_HEADERS = "Authorization, Content-Type, Last-Event-ID, traceparent, tracestate"
EXPOSED_HEADERS = (
    "Retry-After, WWW-Authenticate, RateLimit, RateLimit-Policy, RateLimit-Limit, "
    "RateLimit-Remaining, RateLimit-Reset"
)
PREFLIGHT_SECONDS = "7200"
"""How long a browser may remember a preflight: the most that Chromium takes."""
HSTS = "max-age=31536000"
PAGE_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": (
        "accelerometer=(), autoplay=(), camera=(), display-capture=(), fullscreen=(), "
        "geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), "
        "publickey-credentials-get=(), usb=(), xr-spatial-tracking=()"
    ),
}


class Origins:
    """The rules for browsers.

    Args:
        allowed: origins whose pages may use ``/v1``; ``*``: all; none: CORS is off, and sockets of
            every origin are accepted, which need a token like any other.
        own: the public URL of this service, whose own pages may always connect.
        trusted_proxies: addresses whose ``X-Forwarded-Proto`` counts.
    """

    def __init__(
        self, allowed: Sequence[str] = (), own: str = "", trusted_proxies: Sequence[str] = ()
    ) -> None:
        self._allowed = frozenset(allowed)
        self._own = origin_of(own)
        self._trusted_proxies = trusted_proxies

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a preflight, refuse a socket or stream of another origin, or call ``handler``."""
        if not self._allowed or API not in request.path:
            return await handler(request)
        origin = request.headers.get(hdrs.ORIGIN)
        if request.path.endswith(STREAMS) and not self._may_connect(origin, request):
            return Problem(
                "origin-not-allowed", "this service does not take connections of this page's origin"
            ).response()
        if await self._is_preflight(request, origin):
            return web.Response(
                status=204,
                headers={
                    hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
                    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ALLOWED_HEADERS,
                    hdrs.ACCESS_CONTROL_MAX_AGE: PREFLIGHT_SECONDS,
                    **self._cors(request),
                },
            )
        return await handler(request)

    def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers for browsers to a response that is about to be sent."""
        if API in request.path:
            for name, value in self._cors(request).items():
                response.headers[name] = value
        if is_https(request, self._trusted_proxies):
            response.headers.setdefault("Strict-Transport-Security", HSTS)
        if response.content_type == "text/html":
            for name, value in PAGE_HEADERS.items():
                response.headers.setdefault(name, value)

    def _cors(self, request: web.Request) -> dict[str, str]:
        if not self._allowed:
            return {}
        if ANY in self._allowed:
            found: dict[str, str] = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: ANY}
        else:
            # Caches must not give one origin the answer for another, or for none.
            found = {hdrs.VARY: hdrs.ORIGIN}
            origin = request.headers.get(hdrs.ORIGIN)
            if origin not in self._allowed:
                return found
            found[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        return found | {hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: EXPOSED_HEADERS}

    def _may_connect(self, origin: str | None, request: web.Request) -> bool:
        """Whether a socket or stream may be opened. What is no browser names no origin."""
        if origin is None or ANY in self._allowed or origin in self._allowed:
            return True
        # The service's own pages: by its public address, or by the one that was asked.
        return origin == self._own or origin in (
            f"http://{request.host}",
            f"https://{request.host}",
        )

    async def _is_preflight(self, request: web.Request, origin: str | None) -> bool:
        """Whether this is a preflight of a request that exists, by an origin that may."""
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or origin is None or asked is None:
            return False
        if ANY not in self._allowed and origin not in self._allowed:
            return False
        if asked not in METHODS.split(", "):
            return False
        found = await request.app.router.resolve(request.clone(method=asked))
        return found.http_exception is None
