"""The files of the dashboard, served as they are.

Owns: the public files of ``web/`` and their headers. Never does: build a path from a request; the
files are read once, when the gateway starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

FILES = {
    "/": ("index.html", "text/html"),
    "/dashboard.css": ("dashboard.css", "text/css"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
    "/demo": ("demo.html", "text/html"),
    "/demo.css": ("demo.css", "text/css"),
    "/demo.js": ("demo.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/client.js": ("client.js", "text/javascript"),
    "/client.d.ts": ("client.d.ts", "text/plain"),
}
# Pages of any origin may load the client: it is public, and access needs a token.
SHARED = ("/client.js", "/client.d.ts")
SHARED_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; frame-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def routes(folder: Path) -> list[web.RouteDef]:
    """Routes to mount: one per file."""
    return [
        web.get(path, _handler((folder / name).read_bytes(), content_type, _headers(path)))
        for path, (name, content_type) in FILES.items()
    ]


def _headers(path: str) -> dict[str, str]:
    return HEADERS | SHARED_HEADERS if path in SHARED else HEADERS


def _handler(
    content: bytes, content_type: str, headers: dict[str, str]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    tag = hashlib.sha256(content).hexdigest()[:32]

    async def serve(request: web.Request) -> web.StreamResponse:
        known = {entry.value for entry in request.if_none_match or ()}
        if tag in known:
            return web.Response(status=304, headers={**headers, "ETag": f'"{tag}"'})
        response = web.Response(
            body=content, content_type=content_type, charset="utf-8", headers=headers
        )
        response.etag = tag
        return response

    return serve
