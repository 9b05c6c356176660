"""JSON shapes of the answers of the HTTP API. Pure.

Owns: the members of each answer, as in the OpenAPI document. Never does: read the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from email import message_from_string, policy
from html import escape
from typing import Any

from delivery.domain.channels import Channel
from delivery.domain.event import format_instant
from delivery.domain.lifecycle import Attempt
from delivery.domain.operators.cause import cause_of
from delivery.domain.operators.figures import AlertGroup, NodeInfo, Stats
from delivery.domain.options import Options
from delivery.domain.ports import Accepted
from delivery.domain.records import ConfirmationRow, Stored, Timeline
from delivery.domain.run_tokens import MICROS, RunRow
from delivery.domain.transports import SinkMessage
from delivery.domain.users.receipts import ReceiptRow
from delivery.telemetry.tracing import trace_id


def accepted_view(index: int, accepted: Accepted) -> dict[str, Any]:
    """One entry of ``accepted``."""
    return {
        "index": index,
        "id": accepted.id,
        "seq": accepted.seq,
        "duplicate": accepted.duplicate,
        "durable": accepted.durable,
    }


def stored_view(stored: Stored) -> dict[str, Any]:
    """An event with its state."""
    return stored.event.as_wire() | {
        "state": stored.state.value,
        "step": stored.step,
        "due_at": _instant(stored.due_at),
        "expires_at": _instant(stored.expires_at),
        "generation": stored.generation,
        **_options(stored.options),
    }


def _options(chosen: Options | None) -> dict[str, Any]:
    """What the caller chose; the class stands in the event."""
    if chosen is None:
        return {}
    found = {
        "ttl": chosen.ttl,
        "group": chosen.group,
        "not_before": _instant(chosen.not_before),
        "traceparent": chosen.traceparent,
    }
    return {name: value for name, value in found.items() if value is not None}


def timeline_view(timeline: Timeline, trace_url: str | None = None) -> dict[str, Any]:
    """An event with its attempts and confirmations, and why it was delivered or was not.

    Args:
        trace_url: where a trace is shown, with ``{trace_id}`` in the place of its id.
    """
    chosen = timeline.stored.options
    linked = {}
    if trace_url is not None and chosen is not None and chosen.traceparent is not None:
        linked["trace_url"] = trace_url.replace("{trace_id}", trace_id(chosen.traceparent))
    return (
        stored_view(timeline.stored)
        | linked
        | {
            "cause": cause_of(timeline),
            "attempts": [_attempt(attempt) for attempt in timeline.attempts],
            "confirmations": [_confirmation(row) for row in timeline.confirmations],
            "receipts": [_receipt(row) for row in timeline.receipts],
        }
    )


def run_view(run: RunRow) -> dict[str, Any]:
    """A run with the sums of its tokens."""
    tokens = None
    if run.tokens is not None:
        into, out, micros = run.tokens
        tokens = {
            "input_tokens": into,
            "output_tokens": out,
            "total_tokens": into + out,
            "cost": micros / MICROS,
        }
    return {
        "user_id": run.user_id,
        "run_id": run.run_id,
        "last_seq": run.last_seq,
        "started_at": _instant(run.started_at),
        "updated_at": _instant(run.updated_at),
        "tokens": tokens,
    }


def stats_view(stats: Stats, connections: int, alerts: Sequence[AlertGroup]) -> dict[str, Any]:
    """Figures of the last minutes."""
    return {
        "window_s": stats.window_s,
        "delivery_rate": stats.delivery_rate,
        "fallback_share": stats.fallback_share,
        "events_per_s": stats.events_per_s,
        "ack_ms": {"p50": stats.ack_p50_ms, "p99": stats.ack_p99_ms},
        "connections": connections,
        "states": stats.states,
        "channels": {
            name: {"attempts": channel.attempts, "ok": channel.ok, "breaker": channel.breaker}
            for name, channel in stats.channels.items()
        },
        "alerts": [_alert(group) for group in alerts if group.count],
    }


def node_view(node: NodeInfo) -> dict[str, Any]:
    """A process as of its last heartbeat."""
    return {
        "node": node.node,
        "kind": node.kind,
        "connections": node.connections,
        "started_at": _instant(node.started_at),
        "seen_at": _instant(node.seen_at),
        "backlog": node.info.get("backlog"),
    }


def sink_view(message: SinkMessage, ticket: str) -> dict[str, Any]:
    """One message of an embedded sink; ``ticket`` is that of ``/inbox/{ticket}``."""
    return {
        "id": message.id,
        "kind": message.kind,
        "to": message.to,
        "subject": message.subject,
        "body": message.body,
        "text": _readable(message),
        "view": f"inbox/{ticket}" if message.kind == Channel.EMAIL else None,
        "at": _instant(message.at),
    }


def mail_html(message: SinkMessage) -> str:
    """A mail as a page: its HTML part, else its text."""
    found = _part(message, ("html",))
    if found is None:
        found = f"<!doctype html><title>Mail</title><pre>{escape(_readable(message))}</pre>"
    return with_base(found)


def with_base(html: str) -> str:
    """A page whose links open in a new one: a link must not replace the mail inside its frame."""
    # The base goes into the head where there is one: before the doctype it would change the layout.
    base = '<base target="_blank">'
    return html.replace("<head>", f"<head>{base}", 1) if "<head>" in html else base + html


def _readable(message: SinkMessage) -> str:
    """The readable text of a message: of a mail its plain part, decoded."""
    if message.kind == Channel.SMS:
        return message.body
    found = _part(message, ("plain", "html"))
    return message.body if found is None else found


def _part(message: SinkMessage, wanted: tuple[str, ...]) -> str | None:
    mail = message_from_string(message.body, policy=policy.default)
    part = mail.get_body(wanted)
    try:
        return None if part is None else str(part.get_content())
    except (LookupError, ValueError):  # unknown charset: the raw mail is shown instead
        return None


def _attempt(attempt: Attempt) -> dict[str, Any]:
    latency = None
    if attempt.ended_at is not None:
        seconds = (attempt.ended_at - attempt.started_at).total_seconds()
        latency = round(seconds * 1_000, 3)
    return {
        "channel": attempt.channel,
        "step": attempt.step_name,
        "provider": attempt.provider,
        "number": attempt.number,
        "outcome": attempt.outcome.value,
        "error": attempt.error,
        "started_at": _instant(attempt.started_at),
        "ended_at": _instant(attempt.ended_at),
        "latency_ms": latency,
        "provider_id": attempt.provider_id,
        "digest_id": attempt.digest_id,
    }


def _confirmation(row: ConfirmationRow) -> dict[str, Any]:
    return {
        "channel": row.channel,
        "by": row.by,
        "evidence": row.evidence,
        "at": _instant(row.at),
    }


def _receipt(row: ReceiptRow) -> dict[str, Any]:
    return {
        "channel": row.channel,
        "provider": row.provider,
        "status": row.status,
        "code": row.code,
        "at": _instant(row.at),
        "digest_id": row.digest_id,
    }


def _alert(group: AlertGroup) -> dict[str, Any]:
    return {
        "id": group.id,
        "class": None if group.event_class is None else group.event_class.value,
        "since": _instant(group.since),
        "count": group.count,
        "users": group.users,
        "sample": list(group.sample),
        "notified_at": _instant(group.notified_at),
        "conditions": [
            {"name": c.name, "value": c.value, "limit": c.limit, "where": list(c.where)}
            for c in group.conditions
        ],
    }


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else format_instant(instant)
