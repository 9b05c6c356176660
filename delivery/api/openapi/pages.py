"""Parts of the OpenAPI document about pages and files for browsers.

Owns: the description of these routes.
"""

from __future__ import annotations

from delivery.api.openapi.shapes import Schema, operation, path, text
from delivery.api.operators.static_files import FILES, VERSIONED

HTML = "text/html"
_FILES = {
    "/": "The dashboard",
    "/dashboard.css": "Its style",
    "/dashboard.js": "Its script",
    "/detail.js": "Its view of one event",
    "/events.js": "Its list of events",
    "/place.js": "Its addresses",
    "/views.js": "Its views of a user, a run, and figures over time",
    "/demo": "The demonstration: an agent to talk to",
    "/demo.css": "Its style",
    "/demo.js": "Its script",
    "/charts.js": "Charts of figures and of an event's chain",
    "/page.js": "Code that both pages share",
    "/client.js": "The browser client, an ES module; Content-Location names its versioned address",
    "/client.d.ts": "Its types",
    "/inbox.js": "The inbox for pages, an ES module",
    "/inbox.d.ts": "Its types",
    "/push.js": "Subscribes a browser to push messages, an ES module",
    "/push.d.ts": "Its types",
    "/push-worker.js": "The service worker that shows push messages",
}


def paths() -> Schema:
    """The operations, by path."""

    def html(summary: str, *codes: int, parameter: str | None = None) -> Schema:
        return operation(
            summary,
            {code: text() for code in (200, *codes)},
            parameters=(path(parameter),) if parameter else (),
            media=HTML,
            open_to_all=True,
        )

    files = {
        path: {
            "get": operation(
                summary, {200: text(), 304: None}, media=FILES[path][1], open_to_all=True
            )
        }
        for path, summary in _FILES.items()
    }
    pinned = {
        versioned: {
            "get": operation(
                f"{name} of this content, to be kept for ever; 307 to {name} for another release's",
                {200: text(), 304: None, 307: None},
                parameters=(path("version"),),
                media=FILES[name][1],
                open_to_all=True,
            )
        }
        for name, versioned in VERSIONED.items()
    }
    return (
        files
        | pinned
        | {
            "/confirm/{token}": {
                "get": html(
                    "Ask whether the events were seen; confirms nothing",
                    404,
                    410,
                    503,
                    parameter="token",
                ),
                "post": html(
                    "Confirm the events that the message listed", 404, 410, 503, parameter="token"
                ),
            },
            "/c/{token}": {
                "get": html(
                    "The page of /confirm under a shorter address, for text messages",
                    404,
                    410,
                    503,
                    parameter="token",
                ),
                "post": html(
                    "Confirm the events that the message listed", 404, 410, 503, parameter="token"
                ),
            },
            "/unsubscribe/{token}": {
                "get": html("Ask before opting out", 404, 410, 503, parameter="token"),
                "post": html(
                    "Opt out, also by one click (RFC 8058); choose classes, or undo it",
                    404,
                    410,
                    413,
                    422,
                    503,
                    parameter="token",
                ),
            },
            "/verify/{token}": {
                "get": html("Ask the owner of an address", 404, 410, 503, parameter="token"),
                "post": html("Let messages go to the address", 404, 410, 503, parameter="token"),
            },
            "/problems/{slug}": {"get": html("What a problem type means", 404, parameter="slug")},
        }
    )
