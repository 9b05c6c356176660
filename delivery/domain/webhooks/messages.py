"""Messages to endpoints: their ids, bodies, states, and when they are sent again.

Owns: the schedule of retries, and when an endpoint is left alone or switched off. Never does: read
a clock, sign or send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from delivery.domain.event import format_instant
from delivery.domain.lifecycle import Outcome
from delivery.domain.webhooks.endpoints import Endpoint, WebhookFormat, WebhookKind

RETRIES = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0)
"""Seconds after each failed attempt until the next one; after the last one the message has failed.
Source: Standard Webhooks, "Deliverability and reliability"."""
JITTER = 0.1
"""The share of a wait by which it may be longer, so that messages that failed together spread."""
MAX_WAIT = 86_400.0

FAILING_FOR = timedelta(days=1)
"""How long an endpoint may fail without one success until it is switched off."""
TROUBLED_AFTER = 5
"""Failures in a row after which an endpoint gets a single message per ``PAUSE``."""
PAUSE = 30.0

FIRST_SPAN, LONGEST_SPAN = timedelta(seconds=5), timedelta(days=1)
"""How far one step of following goes."""
KEPT = timedelta(days=30)
"""How long messages, and outcomes that they are made of, are kept."""
UNSEEN = timedelta(days=7)
"""After which an endpoint that is in no worker's file is forgotten."""
MAX_WAITING = 10_000
"""Messages of one endpoint that wait; what is beyond is written when some were sent."""
MAX_ERROR = 500


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """One fact for one endpoint.

    Attributes:
        subject: the event's id; the number of the outcome, for a fact about a contact.
        at: when it happened.
        number: attempts so far.
        tries: attempts since the schedule began, which a replay begins anew.
        data: what it tells; ``None`` if its event was deleted meanwhile.
        traceparent: the span that caused the event.
    """

    id: int
    webhook: str
    kind: WebhookKind
    subject: str
    generation: int
    at: datetime
    number: int = 0
    tries: int = 0
    data: Mapping[str, Any] | None = None
    traceparent: str | None = None

    @property
    def public_id(self) -> str:
        """The message's id for its receiver: the same in each attempt, replays included."""
        what = self.kind.value.partition(".")[2]
        return f"msg_{self.subject}_{self.generation}_{what}"


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """How an attempt ended.

    Attributes:
        status: of the HTTP answer, if one came.
        retry_after: seconds that the endpoint asked to wait.
    """

    outcome: Outcome
    status: int | None = None
    error: str | None = None
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        """Whether the endpoint took the message."""
        return self.outcome is Outcome.DELIVERED

    @property
    def is_gone(self) -> bool:
        """Whether the endpoint wants no more messages. Source: Standard Webhooks: 410."""
        return self.status == 410


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """One try to send a message, as the ledger has it."""

    number: int
    outcome: str
    status: int | None
    error: str | None
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """A message as operators see it, with its attempts.

    Attributes:
        state: ``pending``, ``delivered`` or ``failed``.
    """

    message: WebhookMessage
    state: str
    due_at: datetime | None
    attempts: tuple[WebhookAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointState:
    """How an endpoint stands.

    Attributes:
        reason: why it is off.
        followed_at: outcomes up to this instant have their messages.
        failing_since: the first failure since its last success.
        waiting: messages that are to be sent.
        oldest: when what the oldest of these tells about happened.
        facts: see ``facts_of``; ``None`` while no worker of this release has told them.
        last_error: how its latest attempt that failed ended.
    """

    name: str
    is_on: bool
    reason: str | None
    changed_at: datetime
    followed_at: datetime
    failing_since: datetime | None
    failures: int
    waiting: int
    failed: int
    oldest: datetime | None
    facts: Mapping[str, Any] | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        messages: that are sent, or sent again.
        next: where it goes on, if it stopped for its time.
    """

    messages: int
    next: datetime | None


@dataclass(frozen=True, slots=True)
class Followed:
    """What one step of following did.

    Attributes:
        written: messages.
        is_behind: whether there is more to write now.
        span: how far the next step should go: wide where nothing happened, narrow where much did.
    """

    written: int
    is_behind: bool
    span: timedelta


@dataclass(frozen=True, slots=True)
class EndpointLease:
    """An endpoint that one sender has for itself.

    Attributes:
        token: fences writes of a sender whose lease has ended.
        until: when the lease ends.
        is_troubled: it failed several times in a row: one message at a time.
    """

    name: str
    token: int
    until: datetime
    is_troubled: bool


def next_wait(tries: int, jitter: float, asked: float | None = None) -> float | None:
    """Seconds until the next attempt; ``None`` after the last one.

    Args:
        tries: attempts so far, at least 1.
        jitter: a random number from 0 to 1.
        asked: seconds that the endpoint asked to wait.
    """
    if tries > len(RETRIES):
        return None
    wait = RETRIES[max(1, tries) - 1] * (1.0 + JITTER * jitter)
    return min(max(wait, asked or 0.0), MAX_WAIT)


def body_of(endpoint: Endpoint, message: WebhookMessage, source: str) -> dict[str, Any]:
    """A message's body.

    Args:
        source: the URI of this service, for CloudEvents.

    Source: Standard Webhooks, "Payload structure"; CloudEvents 1.0, "Context attributes".
    """
    at, data = format_instant(message.at), dict(message.data or {})
    if endpoint.format is WebhookFormat.STANDARD:
        return {"type": message.kind.value, "timestamp": at, "data": data}
    about = data.get("id") or data.get("user_id")
    found = {
        "specversion": "1.0",
        "id": message.public_id,
        "source": source,
        "type": message.kind.value,
        "time": at,
        "subject": about,
        "datacontenttype": "application/json",
        "traceparent": message.traceparent,
        "data": data,
    }
    return {name: value for name, value in found.items() if value is not None}


def media_type(endpoint: Endpoint) -> str:
    """The ``Content-Type`` of its messages."""
    is_cloud = endpoint.format is WebhookFormat.CLOUDEVENTS
    return "application/cloudevents+json; charset=utf-8" if is_cloud else "application/json"


def facts_of(endpoint: Endpoint) -> dict[str, Any]:
    """What the ledger keeps of an endpoint, for processes without the file: neither its secrets nor
    the query of its URL, which may hold one."""
    parts = urlsplit(endpoint.url)
    return {
        "url": f"{parts.scheme}://{parts.netloc}{parts.path}",
        "events": sorted(kind.value for kind in endpoint.events),
        "types": list(endpoint.types),
        "classes": list(endpoint.classes),
        "format": endpoint.format.value,
    }


def chosen_by(name: str, facts: Mapping[str, Any]) -> Endpoint:
    """An endpoint by its facts, which says what is to be told and cannot sign."""
    return Endpoint(
        name,
        facts["url"],
        b"",
        events=frozenset(WebhookKind(kind) for kind in facts["events"]),
        types=tuple(facts["types"]),
        classes=tuple(facts["classes"]),
        format=WebhookFormat(facts["format"]),
    )
