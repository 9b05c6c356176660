"""The OpenAPI 3.1 document of the gateway, served at ``/openapi.json``.

Owns: the description of each route; a test compares it with the mounted routes. Never does: handle
other requests.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from delivery.api.openapi import operators, pages
from delivery.api.openapi.pages import HTML
from delivery.api.openapi.schemas import EVENT_FILTERS, SCHEMAS
from delivery.api.openapi.shapes import (
    BEFORE,
    CONTEXT_ID,
    EVENT_TYPE,
    JSON,
    PAGE_AFTER,
    STORABLE,
    Schema,
    listing,
    operation,
    path,
    query,
    ref,
    text,
)
from delivery.api.problems import CONTENT_TYPE as PROBLEM
from delivery.protocol import encode_json


def routes() -> list[web.RouteDef]:
    """``GET /openapi.json``, encoded once."""
    body = encode_json(document())

    async def serve(request: web.Request) -> web.Response:
        return web.Response(
            body=body, content_type=JSON, headers={"X-Content-Type-Options": "nosniff"}
        )

    return [web.get("/openapi.json", serve)]


def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "delivery",
            "version": "1",
            "description": "Push events to users, know which ones arrived, escalate the others.",
        },
        # Relative to this document: behind a proxy the service may live under a path.
        "servers": [{"url": "./"}],
        "paths": _events()
        | _users()
        | _access()
        | _suppressions()
        | _operations()
        | operators.paths()
        | operators.webhooks()
        | _callbacks()
        | _streams()
        | pages.paths(),
        "components": {
            "schemas": SCHEMAS | operators.SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
            "responses": {
                "Problem": {
                    "description": "An RFC 9457 problem",
                    "content": {PROBLEM: {"schema": ref("Problem")}},
                }
            },
        },
    }


def _events() -> Schema:
    filters = tuple(query(name, schema) for name, schema in EVENT_FILTERS.items())
    after = query("after", BEFORE)
    flag = text(
        "whether to count all matches: count, of at most 10,000 or less than all (count_is_exact)",
        enum=["true", "false"],
    )
    limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    one_or_many = {"oneOf": [ref("EventIn"), ref("EventBatch")]}
    return {
        "/v1/events": {
            "post": operation(
                "Accept one event or up to 1,000 (scope emit)",
                {202: ref("Verdict")},
                (400, 403, 408, 409, 413, 422, 429, 503),
                body={
                    JSON: one_or_many,
                    "application/x-ndjson": ref("EventIn"),
                    "application/cloudevents+json": ref("CloudEvent"),
                    "application/cloudevents-batch+json": {
                        "type": "array",
                        "items": ref("CloudEvent"),
                        "minItems": 1,
                        "maxItems": 1_000,
                    },
                },
            ),
            "get": operation(
                "List events, newest first (scope read, or one's own); a short or empty page may "
                "have a next: a request looks through a bounded number of events",
                {200: ref("EventPage")},
                (403, 422, 503),
                parameters=(*filters, after, query("limit", limit), query("count", flag)),
            ),
        },
        "/v1/events/{id}": {
            "get": operation(
                "Show an event with its attempts and confirmations (scope read, or one's own)",
                {200: ref("Timeline")},
                (403, 404, 503),
                parameters=(path("id"),),
            )
        },
        "/v1/events/{id}/replay": {
            "post": operation(
                "Start an event anew (scope operate)",
                {202: ref("Replayed")},
                (403, 404, 409, 503),
                parameters=(path("id"),),
            )
        },
        "/v1/runs/{id}": {
            "get": operation(
                "Show a run with its tokens and cost (one's own, or scope read with user_id)",
                {200: ref("Run")},
                (403, 404, 422, 503),
                parameters=(path("id", CONTEXT_ID), query("user_id", CONTEXT_ID)),
            )
        },
        "/v1/replay": {
            "post": operation(
                "Start anew the events that a filter matches (scope operate)",
                {200: ref("ReplayCount")},
                (400, 403, 413, 422, 503),
                body={JSON: ref("ReplayFilter")},
            )
        },
        "/v1/acks": {
            "post": operation(
                "Acknowledge events at any node",
                {200: ref("Acknowledged")},
                (400, 403, 413, 422, 503),
                body={JSON: ref("Acks")},
            )
        },
    }


def _users() -> Schema:
    user = (path("id", CONTEXT_ID),)
    flag = text(enum=["true", "false"])
    limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    return {
        "/v1/users/{id}/inbox": {
            "get": operation(
                "List a user's messages, newest first (scope read, or one's own): events whose "
                "data has a title, or of the types that are asked for",
                {200: ref("InboxPage")},
                (403, 422, 503),
                parameters=(
                    *user,
                    query("type", listing(EVENT_TYPE, maxItems=20)),
                    query("run_id", STORABLE),
                    query("unread", flag),
                    query("archived", flag),
                    query("after", BEFORE),
                    query("limit", limit),
                ),
            ),
            "post": operation(
                "Mark messages as read or archived, or not (scope operate, or one's own)",
                {200: ref("InboxMarked")},
                (400, 403, 413, 422, 503),
                body={JSON: ref("InboxMarks")},
                parameters=user,
            ),
        },
        "/v1/users/{id}/contacts": {
            "put": operation(
                "Replace a user's contact data (scope operate, or one's own)",
                {200: ref("Contact")},
                (400, 403, 413, 422, 503),
                body={JSON: ref("Contact")},
                parameters=user,
            ),
            "get": operation(
                "Show a user's contact data (scope operate, or one's own)",
                {200: ref("Contact")},
                (403, 404, 422, 503),
                parameters=user,
            ),
            "delete": operation(
                "Forget a user's contact data (scope operate, or one's own)",
                {204: None},
                (403, 422, 503),
                parameters=user,
            ),
        },
    } | _web_push(user)


def _web_push(user: tuple[Schema, ...]) -> Schema:
    return {
        "/v1/push/key": {
            "get": operation(
                "The public VAPID key that browsers subscribe with",
                {200: ref("PushKey")},
                (404,),
                open_to_all=True,
            )
        },
        "/v1/users/{id}/push": {
            "get": operation(
                "List a user's browsers that get push messages (scope read, or one's own)",
                {200: ref("PushSubscriptions")},
                (403, 422, 503),
                parameters=user,
            ),
            "post": operation(
                "Keep a browser's subscription (scope operate, or one's own)",
                {200: ref("PushSubscriptions")},
                (400, 403, 404, 413, 422, 503),
                body={JSON: ref("PushSubscription")},
                parameters=user,
            ),
        },
        "/v1/users/{id}/push/forget": {
            "post": operation(
                "Forget a browser's subscription (scope operate, or one's own)",
                {200: ref("PushForgotten")},
                (400, 403, 413, 422, 503),
                body={JSON: ref("PushForget")},
                parameters=user,
            )
        },
    }


def _access() -> Schema:
    return {
        "/v1/tokens/revoke": {
            "post": operation(
                "Refuse a token, or those that a user was issued before an instant, on every node "
                "(scope operate)",
                {200: ref("Revoked")},
                (400, 403, 408, 413, 422, 429, 503),
                body={JSON: ref("Revocation")},
            )
        },
        "/v1/tickets": {
            "post": operation(
                "A ticket for one /v1/stream within 30 s, for clients that cannot send headers "
                "(one's own)",
                {200: ref("Ticket")},
                (400, 403, 408, 413, 422, 429, 503),
            )
        },
        "/v1/users/{id}": {
            "get": operators.user(),
            "delete": operation(
                "Erase a user's events, contact, copies, and name in the log (scope operate)",
                {200: ref("Erased")},
                (403, 422, 503),
                parameters=(path("id", CONTEXT_ID),),
            ),
        },
        "/v1/session/links": {
            "post": operation(
                "A link that opens the dashboard once, within 15 minutes (scope read)",
                {200: ref("SessionLink")},
                (400, 403, 408, 413, 422, 429, 503),
            )
        },
        "/v1/session": {
            "post": operation(
                "Open a session of the dashboard, by a link's code or a token; sets its cookie",
                {200: ref("Session")},
                (400, 403, 408, 413, 422, 503),
                body={JSON: ref("SessionCode")},
            ),
            "get": operation(
                "What the session may do; renews its cookie", {200: ref("Session")}, (403,)
            ),
            "delete": operation("End the session", {204: None}, (403, 503)),
        },
        "/v1/users/{id}/disconnect": {
            "post": operation(
                "Close a user's connections on every node; the token stays good (scope operate)",
                {202: ref("Disconnected")},
                (400, 403, 408, 413, 422),
                parameters=(path("id", CONTEXT_ID),),
            )
        },
    }


def _suppressions() -> Schema:
    limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    return {
        "/v1/suppressions": {
            "get": operation(
                "Addresses that get no message now, newest first (scope read or operate)",
                {200: ref("SuppressionPage")},
                (403, 422, 503),
                parameters=(query("after", PAGE_AFTER), query("limit", limit)),
            )
        },
        "/v1/suppressions/{address}": {
            "delete": operation(
                "Take an address off the list (scope operate)",
                {204: None},
                (403, 404, 503),
                parameters=(path("address"),),
            )
        },
    }


def _operations() -> Schema:
    return {
        "/v1/stats": {
            "get": operation(
                "Figures of the last minutes (scope read)", {200: ref("Stats")}, (403, 503)
            )
        },
        "/v1/stats/stream": {
            "get": operation(
                "Samples of the last hour, then figures, conditions and nodes when they change "
                "(scope read)",
                {200: text("events: history, stats")},
                (403, 429),
                media="text/event-stream",
            )
        },
        "/inbox/{ticket}": {
            "get": operation(
                "A mail of the embedded sink as a page; /v1/inbox lists the tickets",
                {200: text()},
                (404,),
                parameters=(path("ticket"),),
                media=HTML,
                open_to_all=True,
            )
        },
        "/v1/demo/session": {
            "post": operation(
                "A client's token for the demonstration's user (scope operate; 404 in production)",
                {200: ref("DemoSession")},
                (403, 404),
            )
        },
        "/v1/demo/runs": {
            "post": operation(
                "Start a run of the demonstration's agent (scope emit; 404 in production)",
                {202: ref("DemoRun")},
                (400, 403, 404, 413, 422, 429),
                body={JSON: ref("DemoPrompt")},
            )
        },
        "/v1/inbox": {
            "get": operation(
                "Messages of the embedded mail and SMS sinks (scope read; absent in production)",
                {200: ref("Inbox")},
                (403,),
            )
        },
        "/healthz": {
            "get": operation(
                "Whether the event loop answers", {200: ref("Alive")}, open_to_all=True
            )
        },
        "/readyz": {
            "get": operation(
                "Whether this gateway accepts events (200, with faults as reasons) or not (503)",
                {200: ref("Readiness"), 503: ref("Readiness")},
                open_to_all=True,
            )
        },
        "/metrics": {
            "get": operation(
                "Prometheus metrics", {200: text()}, media="text/plain", open_to_all=True
            )
        },
        "/openapi.json": {
            "get": operation("This document", {200: {"type": "object"}}, open_to_all=True)
        },
    }


def _callbacks() -> Schema:
    fields = {"MessageSid": text(), "MessageStatus": text(), "ErrorCode": text()}
    form = {"type": "object", "properties": fields}
    providers = {
        "ses": "Amazon SES over SNS; the certificate's signature is checked",
        "sendgrid": "SendGrid's events; the ECDSA signature is checked",
        "mailgun": "An event of Mailgun; the HMAC in the body is checked",
        "postmark": "A record of Postmark; the basic authentication is checked",
        "resend": "An event of Resend; the signature of Svix is checked",
    }
    return {
        f"/v1/callbacks/email/{name}": {
            "post": operation(
                f"{summary} (404 where it is not set up)",
                {200 if name in ("mailgun", "postmark") else 204: None},
                (400, 403, 404, 408, 413, 422, 429, 503),
                body={JSON: {"type": "array" if name == "sendgrid" else "object"}},
                open_to_all=True,
            )
        }
        for name, summary in providers.items()
    } | {
        "/v1/callbacks/sms/twilio": {
            "post": operation(
                "Status of a text message; X-Twilio-Signature is checked",
                {204: None},
                (400, 403, 404, 408, 413, 422, 429, 503),
                body={"application/x-www-form-urlencoded": form, JSON: form},
                open_to_all=True,
            )
        },
        "/v1/callbacks/email": {
            "post": operation(
                "Status of a mail, signed as in Standard Webhooks",
                {204: None},
                (400, 403, 404, 408, 413, 422, 429, 503),
                body={JSON: ref("MailReport")},
                open_to_all=True,
            )
        },
    }


def _streams() -> Schema:
    cursor = {"name": "Last-Event-ID", "in": "header", "required": False, "schema": text()}
    return {
        "/v1/ws": {
            "get": operation(
                "WebSocket, subprotocol delivery.v1; the token comes in the first frame or the "
                "Authorization header",
                {101: None},
                (400, 429),
                open_to_all=True,
            )
        },
        "/v1/stream": {
            "get": operation(
                "The same events as server-sent events",
                {200: text()},
                (400, 403, 429, 503),
                parameters=(
                    cursor,
                    query("ticket", text("in place of the Authorization header")),
                    query("cursor", text("in place of Last-Event-ID")),
                ),
                media="text/event-stream",
            )
        },
    }
