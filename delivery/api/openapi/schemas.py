"""Schemas of the OpenAPI document: bodies of requests and answers. Plain data.

Owns: the shapes of the HTTP API. Never does: describe routes (``document.py``).
"""

from __future__ import annotations

from delivery.api.openapi.shapes import (
    BLANK,
    CONTEXT_ID,
    CONTROL,
    EVENT_TYPE,
    INSTANT,
    STATE,
    STORABLE,
    Schema,
    listing,
    nullable,
    record,
    ref,
    text,
)
from delivery.api.operators.event_filter import CHANNELS as FILTER_CHANNELS
from delivery.api.operators.event_filter import ID_PREFIX, MAX_ERROR, MAX_PREFIX
from delivery.domain.event import CLASS_NAME
from delivery.domain.health import BreakerState
from delivery.domain.inputs.trace_context import MAX_TRACEPARENT
from delivery.domain.lifecycle import Outcome, State
from delivery.domain.limits import MAX_CLOUD_NAME
from delivery.domain.operators.outages import OutageKind
from delivery.domain.options import MIN_TTL
from delivery.domain.policy import CHANNELS, MAX_SECONDS
from delivery.domain.users.receipts import ReceiptStatus, Suppress

_HEX = "[0-9A-Fa-f]"
_UUID = text(
    "UUIDv7, the idempotency key",
    pattern=f"^{_HEX}{{8}}-{_HEX}{{4}}-7{_HEX}{{3}}-[89ABab]{_HEX}{{3}}-{_HEX}{{12}}$",
)
_INTEGER: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_BOOLEAN: Schema = {"type": "boolean"}
_CLOCK = text(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")

_EVENT_IN = {
    "id": _UUID,
    "type": EVENT_TYPE,
    "user_id": CONTEXT_ID,
    "run_id": CONTEXT_ID | {"not": {"const": "registry"}},
    "thread_id": CONTEXT_ID,
    "data": {"type": "object", "description": "at most 64 KiB encoded"},
    "meta": {"type": "object"},
}
_CLASS = text("a class of the service's policies", pattern=f"^{CLASS_NAME.pattern}$")
_OPTIONS = {
    "ttl": {
        "type": "number",
        "description": "seconds until it expires, at most its class's",
        "minimum": MIN_TTL,
        "maximum": MAX_SECONDS,
    },
    "not_before": INSTANT
    | {"description": "it reaches no one before; ttl counts from it; at most 30 days ahead"},
    "group": CONTEXT_ID | {"description": "its events are in one message, whatever their runs"},
    "traceparent": text(
        "W3C Trace Context; no part of the content that an id stands for",
        pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
        maxLength=MAX_TRACEPARENT,
    ),
}
_CLOUD_NAME = text(minLength=1, maxLength=MAX_CLOUD_NAME, pattern=f"^[^{CONTROL}]*$")
_EVENT_OUT = _EVENT_IN | {
    "seq": nullable({"type": "integer", "minimum": 1}),
    "at": INSTANT,
    "class": _CLASS,
}
_PREFIX = {"minLength": 1, "maxLength": MAX_PREFIX}
EVENT_FILTERS: dict[str, Schema] = {
    "user_id": STORABLE,
    "user_prefix": STORABLE | _PREFIX,
    "run_id": STORABLE,
    "run_prefix": STORABLE | _PREFIX,
    "id_prefix": text("the beginning of an event's id", pattern=ID_PREFIX),
    "type": STORABLE,
    "class": _CLASS,
    "state": STATE,
    "channel": text("of an attempt, a confirmation or the present step", enum=[*FILTER_CHANNELS]),
    "error": STORABLE
    | {
        "description": "in an attempt's error, in either case",
        "minLength": 1,
        "maxLength": MAX_ERROR,
    },
    "from": INSTANT | {"description": "the event's at, or later"},
    "to": INSTANT | {"description": "the event's at is before it"},
}
"""What selects events of a listing or a replay."""
_STANDING = {
    "state": STATE,
    "step": nullable(text("the name of its step in the chain: the channel's, or one of its own")),
    "due_at": nullable(INSTANT),
    "expires_at": INSTANT,
    "generation": {"type": "integer", "minimum": 1},
}
_STORED = _EVENT_OUT | _STANDING | _OPTIONS
_SUPPRESSION = {
    "channel": text(),
    "reason": text(enum=[reason.value for reason in Suppress]),
    "code": nullable(text("the provider's")),
    "provider": text(),
    "since": INSTANT,
    "expires_at": nullable(INSTANT),
}
_REQUIRED_OUT = [name for name in _EVENT_OUT if name not in ("thread_id", "meta")]

SCHEMAS: dict[str, Schema] = {
    "Problem": record(
        {
            "type": text("/problems/<slug>"),
            "title": text(),
            "status": _INTEGER,
            "detail": text(),
            "field": text("the field or parameter that is wrong"),
            "rejected": listing(ref("Rejected")),
        },
        ["type", "title", "status", "detail"],
        description="RFC 9457",
    ),
    "EventIn": record(
        _EVENT_IN | {"class": _CLASS} | _OPTIONS,
        ["type", "user_id", "run_id"],
        additionalProperties=False,
    ),
    "CloudEvent": record(
        {
            "specversion": {"enum": ["1.0"]},
            "source": _CLOUD_NAME,
            "id": _CLOUD_NAME,
            "type": text("`/` becomes `.`", maxLength=128, pattern="^[A-Za-z][A-Za-z0-9_.:/-]*$"),
            "userid": CONTEXT_ID,
            "runid": CONTEXT_ID,
            "datacontenttype": nullable({"enum": ["application/json"]}),
            "time": nullable(INSTANT),
            "data": nullable({"type": "object"}),
        },
        ["specversion", "source", "id", "type", "userid", "runid"],
        additionalProperties=False,
        patternProperties={"^[a-z0-9]{1,64}$": {}},
        description=(
            "CloudEvents 1.0: `source` and `id` are the idempotency key; further attributes stand "
            "in `meta.cloudevent`, `data_base64` may hold the JSON. Binary mode is taken, too."
        ),
    ),
    "EventBatch": record(
        {"events": listing(ref("EventIn"), minItems=1, maxItems=1000)}, additionalProperties=False
    ),
    "Accepted": record(
        {
            "index": _INTEGER,
            "id": _UUID,
            "seq": nullable(_INTEGER),
            "duplicate": _BOOLEAN,
            "durable": {"type": "boolean", "description": "true for all but ephemeral events"},
        }
    ),
    "Rejected": record({"index": _INTEGER, "error": ref("Problem")}),
    "Verdict": record({"accepted": listing(ref("Accepted")), "rejected": listing(ref("Rejected"))}),
    "Event": record(_STORED, _REQUIRED_OUT + list(_STANDING)),
    "Attempt": record(
        {
            "channel": text(),
            "step": text("the name of its step; the channel's unless the policies give another"),
            "provider": nullable(text("which of the step's providers did it, if it names any")),
            "number": _INTEGER,
            "outcome": text(enum=[outcome.value for outcome in Outcome]),
            "error": nullable(text()),
            "started_at": INSTANT,
            "ended_at": nullable(INSTANT),
            "latency_ms": nullable(_NUMBER),
            "provider_id": nullable(text()),
            "digest_id": nullable(text()),
        }
    ),
    "Confirmation": record({"channel": text(), "by": text(), "evidence": text(), "at": INSTANT}),
    "Receipt": record(
        {
            "channel": text(),
            "provider": text(),
            "status": text(enum=[status.value for status in ReceiptStatus]),
            "code": nullable(text("the provider's")),
            "at": INSTANT,
            "digest_id": text("of the message"),
        }
    ),
    "Suppression": record(_SUPPRESSION),
    "SuppressionPage": record(
        {
            "suppressions": listing(record({"address": text()} | _SUPPRESSION)),
            "next": nullable(text()),
        }
    ),
    "Timeline": record(
        _STORED
        | {
            "cause": text("one sentence: why it was delivered, or was not"),
            "attempts": listing(ref("Attempt")),
            "confirmations": listing(ref("Confirmation")),
            "receipts": listing(ref("Receipt")),
            "trace_url": text("where its trace is shown, if DELIVERY_TRACE_URL says so"),
        },
        [*_REQUIRED_OUT, *_STANDING, "cause", "attempts", "confirmations", "receipts"],
    ),
    "EventPage": record(
        {
            "events": listing(ref("Event")),
            "next": nullable(text()),
            "count": {"type": "integer", "description": "with count=true: of all matches"},
            "count_is_exact": {"type": "boolean", "description": "false: there are more"},
        },
        ["events", "next"],
    ),
    "InboxItem": record(
        _STORED | {"read_at": nullable(INSTANT), "archived_at": nullable(INSTANT)},
        [*_REQUIRED_OUT, *_STANDING, "read_at", "archived_at"],
    ),
    "InboxPage": record(
        {
            "items": listing(ref("InboxItem")),
            "next": nullable(text()),
            "unread": {"type": "integer", "minimum": 0, "maximum": 100},
        }
    ),
    "InboxMarks": {
        "oneOf": [
            record(
                {
                    "ids": listing(STORABLE, minItems=1, maxItems=1000),
                    "read": {"type": "boolean"},
                    "archived": {"type": "boolean"},
                },
                ["ids"],
                additionalProperties=False,
                minProperties=2,
                description="with read, archived or both",
            ),
            record(
                {
                    "all": {"const": True},
                    "read": {"const": True},
                    "up_to": _UUID,
                    "types": listing(EVENT_TYPE, maxItems=20),
                },
                ["all", "read"],
                additionalProperties=False,
            ),
        ]
    },
    "PushKey": record({"key": text("base64url")}),
    "PushSubscription": record(
        {
            "endpoint": text("https URL at the browser's push service", maxLength=2048),
            "keys": record({"p256dh": text("base64url"), "auth": text("base64url")}),
            "expirationTime": {"description": "as the browser gives it; not used"},
            "device": text("replaces the device's former subscription", maxLength=64),
        },
        ["endpoint", "keys"],
        additionalProperties=False,
        description="PushSubscription.toJSON() of a browser",
    ),
    "PushSubscriptions": record(
        {
            "id": text("of the one that was added"),
            "subscriptions": listing(
                record(
                    {
                        "id": text(),
                        "service": text("the push service's host"),
                        "device": text(),
                        "added_at": INSTANT,
                    },
                    ["id", "service"],
                )
            ),
            "limit": _INTEGER,
        },
        ["subscriptions", "limit"],
    ),
    "PushForget": record(
        {"endpoint": text(), "id": text()},
        [],
        description="one of both",
        additionalProperties=False,
        minProperties=1,
        maxProperties=1,
    ),
    "PushForgotten": record({"forgotten": {"type": "boolean"}}),
    "InboxMarked": record({"marked": listing(text()), "unknown": listing(text())}),
    "Run": record(
        {
            "user_id": text(),
            "run_id": text(),
            "last_seq": _INTEGER,
            "started_at": INSTANT,
            "updated_at": INSTANT,
            "tokens": nullable(ref("RunTokens")),
        },
        description="tokens: null before the first event of the type token_metrics",
    ),
    "RunTokens": record(
        {
            "input_tokens": _INTEGER,
            "output_tokens": _INTEGER,
            "total_tokens": _INTEGER,
            "cost": _NUMBER | {"description": "in the installation's currency"},
        }
    ),
    "Replayed": record({"id": _UUID, "state": STATE}),
    "ReplayFilter": record(
        EVENT_FILTERS
        | {
            "state": text(enum=[s.value for s in State if s is not State.CONFIRMED]),
            "ids": listing(text(), minItems=1, maxItems=1000),
            "before": INSTANT | {"description": "recorded before it"},
            "dry_run": {"type": "boolean", "default": False},
            "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
            "after": text("the next of the page before"),
        },
        [],
        additionalProperties=False,
        minProperties=1,
        description="a state or another filter; or ids alone",
    ),
    "ReplayCount": record(
        {
            "matched": _INTEGER,
            "replayed": _INTEGER,
            "next": nullable(text("with limit: the value for after; null at the end")),
        },
        ["matched", "replayed"],
    ),
    "Contact": record(
        {
            "email": text(),
            "phone": text("E.164", pattern=r"^\+[1-9][0-9]{6,14}$"),
            "push": listing(text("an Apprise URL of a listed service"), maxItems=10),
            "locale": text("a language tag"),
            "time_zone": text("an IANA name"),
            "quiet_hours": record({"from": _CLOCK, "to": _CLOCK}, additionalProperties=False),
            "opt_out": listing(
                text(
                    "a channel, alone or with a class of events: email, email:orders",
                    pattern=f"^({'|'.join(CHANNELS)})(:[a-z][a-z0-9_]{{0,15}})?$",
                ),
                maxItems=100,
            ),
            "verified": {
                "description": "true or left out: all; else the fields or addresses that are. "
                "A service's word; a client's list counts for nothing, its true is refused",
                "oneOf": [{"type": "boolean"}, listing(text())],
            },
            "unverified": listing(
                text("an address that gets one message, which asks for its owner's agreement"),
                readOnly=True,
            ),
            "suppressed": listing(ref("Suppression"), readOnly=True),
        },
        [],
        additionalProperties=False,
    ),
    "Alert": record(
        {
            "id": text(),
            "class": nullable(text("null: conditions out of their limits")),
            "since": INSTANT,
            "count": _INTEGER,
            "users": _INTEGER,
            "sample": listing(text()),
            "notified_at": nullable(INSTANT),
            "conditions": listing(
                record(
                    {
                        "name": text(),
                        "value": _NUMBER,
                        "limit": _NUMBER,
                        "where": listing(text()),
                    }
                )
            ),
        }
    ),
    "Stats": record(
        {
            "window_s": _INTEGER,
            "delivery_rate": _NUMBER,
            "fallback_share": _NUMBER,
            "events_per_s": _NUMBER,
            "ack_ms": record({"p50": nullable(_NUMBER), "p99": nullable(_NUMBER)}),
            "connections": _INTEGER,
            "states": {"type": "object", "additionalProperties": _INTEGER},
            "channels": {
                "type": "object",
                "additionalProperties": record(
                    {
                        "attempts": _INTEGER,
                        "ok": _INTEGER,
                        "breaker": text(enum=[state.value for state in BreakerState]),
                    }
                ),
            },
            "alerts": listing(ref("Alert")),
        }
    ),
    "Inbox": record(
        {
            "messages": listing(
                record(
                    {name: text() for name in ("id", "kind", "to", "subject", "body", "text")}
                    | {"view": nullable(text("path of the rendered mail")), "at": INSTANT}
                )
            )
        }
    ),
    "DemoSession": record({"user_id": CONTEXT_ID, "token": text("a client's"), "quick": _BOOLEAN}),
    "DemoPrompt": record(
        {
            "prompt": text(
                "not blank, without U+0000",
                minLength=1,
                maxLength=500,
                pattern=rf"^[^\u0000]*[^{BLANK}\u0000\u0009-\u000d\u001c-\u001f\u0085][^\u0000]*$",
            )
        },
        additionalProperties=False,
    ),
    "DemoRun": record({"run_id": CONTEXT_ID}),
    "Acks": record({"ids": listing(text(), minItems=1, maxItems=1000)}, additionalProperties=False),
    "Acknowledged": record({"confirmed": listing(text()), "unknown": listing(text())}),
    "Revocation": {
        "oneOf": [
            record(
                {"jti": text("the id of one token", minLength=1, maxLength=255)},
                additionalProperties=False,
            ),
            record(
                {"user_id": CONTEXT_ID, "before": INSTANT},
                ["user_id"],
                additionalProperties=False,
            ),
        ]
    },
    "Revoked": record(
        {"jti": text(), "user_id": text(), "before": INSTANT, "expires_at": INSTANT},
        ["expires_at"],
    ),
    "Ticket": record({"ticket": text("one use within 30 s")}),
    "SessionLink": record({"url": text("with the code in its fragment"), "expires_in": _INTEGER}),
    "SessionCode": record({"link": text("the code")}, [], additionalProperties=False),
    "Session": record(
        {"subject": text(), "scopes": listing(text()), "expires_at": INSTANT},
    ),
    "Disconnected": record({"user_id": text()}),
    "Erased": record(
        {
            "user_id": text(),
            "events": _INTEGER,
            "digests": _INTEGER,
            "contact": {"type": "boolean"},
            "unkeyed_rows": _INTEGER,
        }
    ),
    "MailReport": record(
        {
            "type": text(examples=["email.delivered", "email.bounced", "email.complained"]),
            "data": record({"message_id": text()}),
        }
    ),
    "Alive": record({"status": text(), "node": text()}),
    "Readiness": record(
        {
            "status": text(enum=["ready", "not ready"]),
            "node": text(),
            "backlog": _INTEGER,
            "reasons": listing(text()),
            "outages": listing(
                record(
                    {
                        "kind": text(enum=[kind.value for kind in OutageKind]),
                        "service": text(enum=["ledger", "bus", "broker", "settings"]),
                        "text": text(),
                        "since": text(format="date-time"),
                    }
                )
            ),
        }
    ),
}
