"""Messages to the application's endpoints: written from outcomes, signed, sent, recorded.

Owns: one run over all endpoints, side by side, so that one that hangs holds up no other, and its
time. An attempt is written before its request and its outcome after. Never does: know Celery, HTTP
or SQL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait

import msgspec

from delivery.domain.lifecycle import Outcome
from delivery.domain.stores.webhooks import WebhookStore
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.domain.webhooks.messages import (
    FIRST_SPAN,
    EndpointLease,
    WebhookAnswer,
    WebhookMessage,
    body_of,
    media_type,
)
from delivery.errors import LedgerError
from delivery.tasks.attempts import TimeLimits
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)

Post = Callable[[str, bytes, str, float], WebhookAnswer]
"""Posts a message once: its id, its body, the body's media type, seconds for it."""

CONCURRENCY = 8
"""Requests to one endpoint at a time."""
TRIM_EVERY = 300.0
MAX_TRIMS = 20
"""Pages that are deleted at once."""
_MARGIN = 1.0
"""Seconds of a task that are left for the records after its last request."""


class WebhookSender:
    """Tells endpoints what became of events. Any number may run at once: one at a time has an
    endpoint.

    Args:
        posts: how to post to each endpoint.
        source: the URI of this service, for CloudEvents.
        jitter: random numbers from 0 to 1.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: WebhookStore,
        posts: Mapping[Endpoint, Post],
        *,
        source: str,
        limits: TimeLimits,
        jitter: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._posts = posts
        self._source = source
        self._limits = limits
        self._jitter = jitter
        self._clock = clock
        self._trimmed: float | None = None
        self._is_described = False

    def run(self) -> int:
        """Write what is new and send what is due; returns the number of attempts.

        Raises:
            LedgerError: the ledger is away; the next run goes on.
        """
        self._trim()
        if not self._posts:
            return 0
        self._store.register([endpoint.name for endpoint in self._posts])
        if not self._is_described:
            self._store.describe(list(self._posts))
            self._is_described = True
        # A request that begins last must be over, and recorded, before the task's time is.
        ends = self._clock() + max(0.0, self._limits.soft - self._limits.attempt - _MARGIN)
        with ThreadPoolExecutor(len(self._posts), thread_name_prefix="webhook") as pool:
            running = [pool.submit(self._serve, endpoint, ends) for endpoint in self._posts]
            wait(running)
        return sum(_results(running))

    def _trim(self) -> None:
        """Delete what is old, also where the last endpoint was taken out of the file."""
        now = self._clock()
        if self._trimmed is None or now - self._trimmed >= TRIM_EVERY:
            self._trimmed = now
            for _ in range(MAX_TRIMS):
                if not self._store.trim():
                    break

    def _serve(self, endpoint: Endpoint, ends: float) -> int:
        """Follow and send for one endpoint until nothing is left, or time is up."""
        attempts, span = 0, FIRST_SPAN
        while True:
            step = self._store.follow(endpoint, span)
            span = step.span
            sent = self._send(endpoint, ends)
            attempts += sent
            if (not step.is_behind and not sent) or self._clock() >= ends:
                return attempts

    def _send(self, endpoint: Endpoint, ends: float) -> int:
        """Send what is due, as long as the endpoint takes it; returns the number of attempts."""
        lease = self._store.lease(endpoint.name, self._limits.lease)
        if lease is None:
            return 0
        attempts = 0
        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="webhook") as pool:
            while True:
                found = self._store.due(lease, 1 if lease.is_troubled else CONCURRENCY)
                deleted = [one for one in found if one.data is None]
                if deleted:
                    self._store.drop(lease, deleted)
                ready = [one for one in found if one.data is not None]
                if ready:
                    if not self._store.begin(lease, ready):
                        return attempts
                    attempts += len(ready)
                goes_on = self._attempt_all(pool, endpoint, lease, ready)
                if not found or not goes_on or lease.is_troubled or self._clock() >= ends:
                    break
        self._store.release(lease)
        return attempts

    def _attempt_all(
        self,
        pool: ThreadPoolExecutor,
        endpoint: Endpoint,
        lease: EndpointLease,
        messages: Sequence[WebhookMessage],
    ) -> bool:
        """Send messages at the same time; whether all were taken."""
        running = {pool.submit(self._attempt, endpoint, one): one for one in messages}
        is_well = True
        for done in as_completed(running):
            message, answer = running[done], done.result()
            is_well = is_well and answer.is_success
            metrics.webhook_attempts.inc(1.0, endpoint.name, answer.outcome.value)
            if not answer.is_success:
                logger.info("webhook %s: %s: %s", endpoint.name, message.public_id, answer.error)
            reason = self._store.end(lease, message, answer, self._jitter())
            if answer.is_success:
                self._count(endpoint, lease, message)
            if reason is not None:
                metrics.webhooks_off.inc(1.0, endpoint.name)
                logger.error("webhook %s is switched off: %s", endpoint.name, reason)
        return is_well

    def _count(self, endpoint: Endpoint, lease: EndpointLease, message: WebhookMessage) -> None:
        if message.number == message.tries:  # a replay is as late as its operator wants
            begun = lease.until.timestamp() - self._limits.lease
            metrics.webhook_lag.observe(max(0.0, begun - message.at.timestamp()), endpoint.name)

    def _attempt(self, endpoint: Endpoint, message: WebhookMessage) -> WebhookAnswer:
        try:
            body = msgspec.json.encode(body_of(endpoint, message, self._source))
            post = self._posts[endpoint]
            return post(message.public_id, body, media_type(endpoint), self._limits.attempt)
        except Exception as error:
            # Ours; the attempt must have an end all the same.
            logger.exception("webhook %s: message %s failed", endpoint.name, message.public_id)
            return WebhookAnswer(Outcome.FAILED, error=f"{type(error).__name__} in the worker")


def _results(running: Sequence[Future[int]]) -> list[int]:
    """What each endpoint's run returned; an error of one is raised when all have ended.

    Raises:
        LedgerError: the ledger is away.
    """
    faults = [fault for one in running if (fault := one.exception()) is not None]
    for fault in faults:
        if not isinstance(fault, LedgerError):
            raise fault
    if faults:
        raise faults[0]
    return [one.result() for one in running]
