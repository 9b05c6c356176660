"""Parts of the OpenAPI document about what operators ask: history, connections, users.

Owns: the description of these routes and the shapes of their answers.
"""

from __future__ import annotations

from delivery.api.openapi.shapes import (
    CONTEXT_ID,
    INSTANT,
    JSON,
    Schema,
    listing,
    nullable,
    operation,
    path,
    query,
    record,
    ref,
    text,
)
from delivery.domain.channels import Channel
from delivery.domain.webhooks.endpoints import WebhookFormat, WebhookKind

_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_ONE_STATE = text(enum=["on", "off"])
_WEBHOOK: Schema = {
    "name": text(),
    "url": nullable(text("without its query; of scope read, without its path")),
    "events": listing(text(enum=[kind.value for kind in WebhookKind])),
    "types": listing(text()),
    "classes": listing(text()),
    "format": nullable(text(enum=[one.value for one in WebhookFormat])),
    "state": _ONE_STATE,
    "reason": nullable(text("why it is off")),
    "changed_at": INSTANT,
    "followed_at": INSTANT | {"description": "what happened until then has its messages"},
    "failing_since": nullable(INSTANT),
    "failures": _INTEGER | {"description": "in a row"},
    "waiting": _INTEGER | {"description": "messages that are to be sent"},
    "failed": _INTEGER | {"description": "messages that are not tried again"},
    "oldest": nullable(INSTANT),
    "last_error": nullable(text("how its latest attempt that failed ended")),
    "last_error_at": nullable(INSTANT),
}

SCHEMAS: dict[str, Schema] = {
    "History": record(
        {
            "from": INSTANT,
            "to": INSTANT,
            "step": _INTEGER | {"description": "seconds"},
            "points": listing(
                record(
                    {
                        "at": INSTANT | {"description": "the beginning of the step"},
                        "events": _INTEGER,
                        "events_per_s": _NUMBER,
                        "delivery_rate": nullable(_NUMBER),
                        "fallback_share": nullable(_NUMBER),
                        "ack_ms": record({"p50": nullable(_NUMBER), "p99": nullable(_NUMBER)}),
                        "connections": _INTEGER,
                        "dead": _INTEGER,
                        "open_breakers": _INTEGER,
                    }
                )
            ),
        }
    ),
    "Connection": record(
        {
            "user_id": text(),
            "node": text("the gateway that has it"),
            "id": nullable(text("null, and so the others: of another gateway, which told no more")),
            "device": nullable(text("as the client named it")),
            "transport": nullable(text(enum=[Channel.WEBSOCKET.value, Channel.SSE.value])),
            "since": nullable(INSTANT),
            "health": nullable({"type": "integer", "minimum": 0, "maximum": 100}),
        }
    ),
    "ConnectionPage": record(
        {
            "connections": listing(ref("Connection")),
            "next": nullable(text()),
            "total": _INTEGER | {"description": "of all gateways"},
        }
    ),
    "SentMessages": record(
        {
            "messages": listing(
                record(
                    {
                        "id": text(),
                        "kind": text("its channel"),
                        "to": text("masked for scope read"),
                        "subject": text(),
                        "text": text("without the tokens in its links"),
                        "view": nullable(text("path of the mail as a page")),
                        "number": _INTEGER | {"description": "of the attempt"},
                        "digest_id": text(),
                        "at": INSTANT,
                    }
                )
            )
        }
    ),
    "WebhookList": record({"webhooks": listing(record(_WEBHOOK))}),
    "Webhook": record(
        _WEBHOOK
        | {
            "messages": listing(
                record(
                    {
                        "id": text("its webhook-id"),
                        "type": text(),
                        "at": INSTANT,
                        "state": text(enum=["pending", "delivered", "failed"]),
                        "due_at": nullable(INSTANT),
                        "attempts": listing(
                            record(
                                {
                                    "number": _INTEGER,
                                    "outcome": text(),
                                    "status": nullable(_INTEGER),
                                    "error": nullable(text()),
                                    "started_at": INSTANT,
                                    "ended_at": nullable(INSTANT),
                                }
                            )
                        ),
                    }
                )
            )
        }
    ),
    "WebhookOn": record({"name": text(), "state": _ONE_STATE, "off_since": nullable(INSTANT)}),
    "WebhookOff": record({"name": text(), "state": _ONE_STATE}),
    "WebhookReplay": record({"since": INSTANT}, additionalProperties=False),
    "WebhookReplayed": record(
        {
            "name": text(),
            "state": _ONE_STATE,
            "messages": _INTEGER,
            "next": nullable(INSTANT | {"description": "repeat with it as since"}),
        }
    ),
    "User": record(
        {
            "user_id": text(),
            "connections": listing(ref("Connection")),
            "contact": nullable(
                {"type": "object", "description": "addresses are masked for scope read"}
            ),
            "open": {
                "type": "object",
                "description": "unconfirmed events by state, of the newest 10,000",
                "additionalProperties": _INTEGER,
            },
            "events": listing(ref("Event"), maxItems=20),
        }
    ),
}


def paths() -> Schema:
    """The operations, by path."""
    limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    step = text("minute, hour, or seconds: a multiple of 60", pattern="^(minute|hour|[0-9]{1,6})$")
    return {
        "/v1/history": {
            "get": operation(
                "Figures by step, kept for 30 days (scope read); a step in which nothing was "
                "measured is left out",
                {200: ref("History")},
                (403, 422, 503),
                parameters=(query("from", INSTANT), query("to", INSTANT), query("step", step)),
            )
        },
        "/v1/events/{id}/messages": {
            "get": operation(
                "The mails and texts that carried an event, as they were sent (scope read); kept "
                "for the days of DELIVERY_KEEP_MESSAGES",
                {200: ref("SentMessages")},
                (403, 404, 503),
                parameters=(path("id"),),
            )
        },
        "/v1/messages/{id}": {
            "get": operation(
                "One of them as a page (scope read)",
                {200: text()},
                (403, 404, 503),
                parameters=(path("id"),),
                media="text/html",
            )
        },
        "/v1/connections": {
            "get": operation(
                "Who is connected, by user (scope read)",
                {200: ref("ConnectionPage")},
                (403, 422, 503),
                parameters=(
                    query("user_prefix", text(minLength=1, maxLength=128, pattern=r"^[^\u0000]*$")),
                    query("after", text(maxLength=600, pattern=r"^[^\u0000]*$")),
                    query("limit", limit),
                ),
            )
        },
    }


def webhooks() -> Schema:
    """``/v1/webhooks``."""
    one, limit = path("name"), {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    posted = (400, 403, 404, 408, 413, 422, 503)
    return {
        "/v1/webhooks": {
            "get": operation(
                "The application's endpoints, as their workers know them (scope read)",
                {200: ref("WebhookList")},
                (403, 503),
            )
        },
        "/v1/webhooks/{name}": {
            "get": operation(
                "One of them, with its latest messages and their attempts (scope read)",
                {200: ref("Webhook")},
                (403, 404, 422, 503),
                parameters=(one, query("limit", limit)),
            )
        },
        "/v1/webhooks/{name}/enable": {
            "post": operation(
                "Switch it on: what waits is sent, what happened meanwhile is not told unless by a "
                "replay (scope operate)",
                {200: ref("WebhookOn")},
                posted,
                parameters=(one,),
            )
        },
        "/v1/webhooks/{name}/disable": {
            "post": operation(
                "Switch it off (scope operate)",
                {200: ref("WebhookOff")},
                posted,
                parameters=(one,),
            )
        },
        "/v1/webhooks/{name}/replay": {
            "post": operation(
                "Tell it once more what happened since an instant (scope operate)",
                {202: ref("WebhookReplayed")},
                posted,
                parameters=(one,),
                body={JSON: ref("WebhookReplay")},
            )
        },
    }


def user() -> Schema:
    """``GET /v1/users/{id}``."""
    return operation(
        "A user's connections, contact, open and newest events (scope read, or one's own)",
        {200: ref("User")},
        (403, 422, 503),
        parameters=(path("id", CONTEXT_ID),),
    )
