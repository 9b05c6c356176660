"""The files of the dashboard and of the browser client.

Owns: the public files of ``web/``, their headers, and the versioned addresses of those for pages of
others. Never does: build a path from a request; the files are read and compressed once, when the
gateway starts.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from aiohttp import web

FILES = {
    "/": ("index.html", "text/html"),
    "/dashboard.css": ("dashboard.css", "text/css"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
    "/detail.js": ("detail.js", "text/javascript"),
    "/events.js": ("events.js", "text/javascript"),
    "/place.js": ("place.js", "text/javascript"),
    "/views.js": ("views.js", "text/javascript"),
    "/demo": ("demo.html", "text/html"),
    "/demo.css": ("demo.css", "text/css"),
    "/demo.js": ("demo.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/client.js": ("client/client.min.js", "text/javascript"),
    "/client.d.ts": ("client/client.d.ts", "text/plain"),
    "/inbox.js": ("client/inbox.min.js", "text/javascript"),
    "/inbox.d.ts": ("client/inbox.d.ts", "text/plain"),
    "/push.js": ("client/push.min.js", "text/javascript"),
    "/push.d.ts": ("client/push.d.ts", "text/plain"),
    "/push-worker.js": ("client/push-worker.min.js", "text/javascript"),
}
# Pages of any origin may load the client: it is public, and access needs a token.
SHARED = (
    "/client.js",
    "/client.d.ts",
    "/inbox.js",
    "/inbox.d.ts",
    "/push.js",
    "/push.d.ts",
    "/push-worker.js",
)
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
    "Vary": "Accept-Encoding",
}
VERSIONED = {
    path: path.removesuffix(".js") + ".{version}.js" for path in SHARED if path.endswith(".js")
}
"""A file -> its address by its content's hash, for pages that pin it: it may be kept for ever."""
IMMUTABLE = {"Cache-Control": "public, max-age=31536000, immutable"}
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _File:
    """One file, with its hash and compressed."""

    def __init__(self, content: bytes, content_type: str) -> None:
        self.content = content
        self.compressed = gzip.compress(content, 9, mtime=0)
        self.content_type = content_type
        self.tag = hashlib.sha256(content).hexdigest()[:32]
        self.version = self.tag[:16]

    def response(self, request: web.Request, headers: Mapping[str, str]) -> web.Response:
        """The answer to a request: 304 where the caller has this content."""
        is_compressed = _takes_gzip(request)
        # Another representation has another tag. Source: RFC 9110, section 8.8.3.
        tags = (self.tag, f"{self.tag}-gzip")
        etag = {"ETag": f'"{tags[is_compressed]}"'}
        if {entry.value for entry in request.if_none_match or ()} & set(tags):
            return web.Response(status=304, headers={**headers, **etag})
        encoding = {"Content-Encoding": "gzip"} if is_compressed else {}
        return web.Response(
            body=self.compressed if is_compressed else self.content,
            content_type=self.content_type,
            charset="utf-8",
            headers={**headers, **etag, **encoding},
        )


def routes(folder: Path) -> list[web.RouteDef]:
    """Routes to mount: one per file, and the versioned ones."""
    files = {
        path: _File((folder / name).read_bytes(), content_type)
        for path, (name, content_type) in FILES.items()
    }
    return [
        *(web.get(path, _handler(file, _headers(path, file))) for path, file in files.items()),
        *(
            web.get(versioned, _versioned_handler(path.removeprefix("/"), files[path]))
            for path, versioned in VERSIONED.items()
        ),
    ]


def _headers(path: str, file: _File) -> dict[str, str]:
    shared = HEADERS | SHARED_HEADERS if path in SHARED else HEADERS
    if path not in VERSIONED:
        return shared
    # Relative: behind a proxy the service may live under a path.
    versioned = VERSIONED[path].removeprefix("/").format(version=file.version)
    return shared | {"Content-Location": versioned}


def _handler(file: _File, headers: Mapping[str, str]) -> Serve:
    async def serve(request: web.Request) -> web.StreamResponse:
        return file.response(request, headers)

    return serve


def _versioned_handler(name: str, file: _File) -> Serve:
    async def serve(request: web.Request) -> web.StreamResponse:
        if request.match_info["version"] == file.version:
            return file.response(request, HEADERS | SHARED_HEADERS | IMMUTABLE)
        # Of another release: a page that pins it goes on with this one.
        return web.Response(status=307, headers=HEADERS | SHARED_HEADERS | {"Location": name})

    return serve


def _takes_gzip(request: web.Request) -> bool:
    """Whether the caller takes gzip. Source: RFC 9110, section 12.5.3."""
    for entry in request.headers.get("Accept-Encoding", "").split(",")[:32]:
        name, _, weight = entry.partition(";")
        if name.strip().lower() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
