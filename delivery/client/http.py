"""Events on their way to the service over HTTP: one request at a time, retried, idempotent.

Owns: the bounded buffer, batches, retries, and the answer to every receipt. Because every event has
an id before it leaves, sending it again can do no harm, and the order within a run is kept.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from delivery.client.tokens import Token, read_token
from delivery.domain.emission import Receipt
from delivery.domain.limits import MAX_EVENTS
from delivery.errors import (
    ConfigError,
    DeliveryError,
    IdConflict,
    InvalidContext,
    InvalidEvent,
    InvalidFrame,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    Unauthenticated,
    Unreachable,
)
from delivery.protocol import decode_json

logger = logging.getLogger(__name__)

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """``base`` is ``http(s)://host[:port][/prefix]`` without a trailing slash."""

    base: str

    @property
    def socket(self) -> str:
        """The WebSocket."""
        return "ws" + self.base.removeprefix("http") + "/v1/ws"

    @property
    def stream(self) -> str:
        """Server-sent events."""
        return f"{self.base}/v1/stream"

    @property
    def acks(self) -> str:
        """Where acknowledgements are posted."""
        return f"{self.base}/v1/acks"

    @property
    def events(self) -> str:
        """Where events are posted."""
        return f"{self.base}/v1/events"

    def event(self, event_id: str) -> str:
        """One event with its history."""
        return f"{self.events}/{quote(event_id, safe='')}"


def parse_url(url: str) -> Endpoints:
    """``http://host:8080``, with or without ``/v1``; ``ws`` and ``wss`` mean the same service.

    Raises:
        ConfigError: not such a URL, or it carries credentials.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigError("url must be like http://127.0.0.1:8080")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("url must not carry credentials; pass the token as token")
    path = parts.path.rstrip("/").removesuffix("/ws").removesuffix("/v1").rstrip("/")
    return Endpoints(f"{_SCHEMES[parts.scheme]}://{parts.netloc}{path}")


_BY_SLUG: dict[str, type[InvalidEvent]] = {
    kind.slug: kind for kind in (InvalidEvent, InvalidContext, PayloadTooLarge, IdConflict)
}
_BY_STATUS: dict[int, type[InvalidEvent]] = {409: IdConflict, 413: PayloadTooLarge}
_SECONDS = re.compile("[0-9]{1,9}")
BUSY = frozenset({429, 503})


def to_error(
    status: int, problem: Mapping[str, Any], *, retry_after: float | None = None
) -> DeliveryError:
    """The error that a problem document means.

    Args:
        status: the response's status, or the ``status`` of a rejected item.
        problem: the document, empty if there was none.
        retry_after: what the response asked for.
    """
    message = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    if status in BUSY:
        return Overloaded(message, retry_after=1.0 if retry_after is None else retry_after)
    if status == 401:
        return Unauthenticated(message)
    slug = str(problem.get("type", "")).rsplit("/", 1)[-1]
    kind = _BY_SLUG.get(slug) or _BY_STATUS.get(status)
    if kind is not None:
        field = problem.get("field")
        return kind(message, field=field if isinstance(field, str) else None)
    return RemoteError(message, status=status, problem=dict(problem))


def item_error(problem: object) -> tuple[int, DeliveryError]:
    """Status and error of one rejected event of a batch."""
    document = problem if isinstance(problem, Mapping) else {}
    status = document.get("status")
    if not isinstance(status, int):
        status = 422
    return status, to_error(status, document)


def seconds(header: str | None) -> float | None:
    """``Retry-After`` in seconds; the date form counts as absent. Source: RFC 9110, 10.2.3."""
    if header is None or not _SECONDS.fullmatch(header.strip()):
        return None
    return float(header)


MAX_BYTES = 1_000_000
_TRANSIENT = BUSY | {408, 500, 502, 504}
_wait = wait_random_exponential(multiplier=0.1, max=2.0)


@dataclass(frozen=True, slots=True)
class Letter:
    """One event as it will be posted; ``queued_at`` monotonic seconds."""

    receipt: Receipt
    body: bytes
    queued_at: float


class _AgainError(Exception):
    """This request may succeed later; ``error`` is what the caller gets if it does not."""

    def __init__(self, error: DeliveryError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a parsed body."""

    status: int
    document: Mapping[str, Any]
    retry_after: float | None


class Http:
    """Requests with the token, a deadline each, and errors of ours."""

    def __init__(self, session: aiohttp.ClientSession, token: Token, timeout: float) -> None:
        self._session = session
        self._token = token
        self._timeout = timeout

    async def ask(
        self, method: str, url: str, body: bytes | None = None, *, timeout: float | None = None
    ) -> Reply:
        """One request; a refused token is followed by a fresh one, once, if there is one.

        Raises:
            Unreachable: no answer within the timeout.
            Unauthenticated: there is no token.
        """
        token = await read_token(self._token)
        reply = await self._request(method, url, body, token, timeout)
        if reply.status == 401 and callable(self._token):
            fresh = await read_token(self._token)
            if fresh != token:
                reply = await self._request(method, url, body, fresh, timeout)
        return reply

    async def _request(
        self, method: str, url: str, body: bytes | None, token: str, timeout: float | None
    ) -> Reply:
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        total = self._timeout if timeout is None else min(timeout, self._timeout)
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=total),
                allow_redirects=False,
            ) as response:
                raw = await response.read()
                after = seconds(response.headers.get("Retry-After"))
                return Reply(response.status, _document(raw), after)
        except TimeoutError as error:
            raise Unreachable(f"no answer within {total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"cannot reach the service: {type(error).__name__}") from error


def _document(raw: bytes) -> Mapping[str, Any]:
    """The JSON object of a body; empty when it is something else (a proxy's page)."""
    try:
        document = decode_json(raw)
    except InvalidFrame:
        return {}
    return document if isinstance(document, dict) else {}


class Outbox:
    """The bounded buffer and the one task that empties it.

    Attributes:
        is_away: the latest request got no answer.
    """

    def __init__(self, http: Http, endpoints: Endpoints, *, deadline: float, capacity: int) -> None:
        """
        Args:
            deadline: seconds from ``put`` after which an event that is still here fails.
            capacity: events that may wait.
        """
        self._http = http
        self._url = endpoints.events
        self._deadline = deadline
        self._capacity = capacity
        self._waiting: deque[Letter] = deque()
        self._batch: list[Letter] = []
        self.is_away = False
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run(), name="delivery-outbox")
        self._is_closed = False

    def put(self, receipt: Receipt, body: bytes) -> None:
        """Queue an event.

        Raises:
            Overloaded: the buffer is full.
            Unreachable: the connection is closed.
        """
        if self._is_closed or self._task.done():
            raise Unreachable("the connection to the service is closed")
        if len(self._waiting) >= self._capacity:
            raise Overloaded(f"{len(self._waiting)} events wait to be sent; slow down")
        self._waiting.append(Letter(receipt, body, time.monotonic()))
        self._idle.clear()
        self._arrived.set()

    async def close(self, timeout: float) -> None:
        """Send what waits, for at most ``timeout`` seconds; fail what is left."""
        self._is_closed = True
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            # A caller that waits for its event gets the error itself.
            left = [*self._batch, *self._waiting]
            lost = sum(not (one.receipt.is_settled or one.receipt.is_awaited) for one in left)
            if lost:
                logger.warning("%d events were not sent before closing", lost)
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=5.0)

    async def _run(self) -> None:
        try:
            while True:
                if not self._waiting:
                    self._idle.set()
                    self._arrived.clear()
                    await self._arrived.wait()
                self._batch = self._take()
                await self._deliver(self._batch)
                self._batch = []
        finally:
            # Whatever ended this, no caller may wait for an answer that cannot come.
            gone = Unreachable("the connection was closed before the service answered")
            _fail([*self._batch, *self._waiting], gone)
            self._batch = []
            self._waiting.clear()
            self._idle.set()

    def _take(self) -> list[Letter]:
        """As much as one request may carry, in order."""
        batch: list[Letter] = []
        size = 0
        while self._waiting and len(batch) < MAX_EVENTS:
            size += len(self._waiting[0].body) + 1
            if batch and size > MAX_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _deliver(self, batch: Sequence[Letter]) -> None:
        """Post a batch until every event has an answer or its deadline is over."""
        left = batch[0].queued_at + self._deadline - time.monotonic()
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_AgainError),
                wait=_pause,
                stop=stop_before_delay(max(0.0, left)),
                reraise=True,
            ):
                with attempt:
                    await self._post([item for item in batch if not item.receipt.is_settled])
        except _AgainError as again:
            _fail(batch, again.error)
        except DeliveryError as error:
            _fail(batch, error)
        except Exception as error:
            # The caller's token function, or a bug: the next batch may fare better.
            logger.exception("posting %d events failed", len(batch))
            _fail(batch, Unreachable(f"posting failed: {type(error).__name__}"))

    async def _post(self, batch: Sequence[Letter]) -> None:
        """One request; settles what it answers.

        Raises:
            _AgainError: at least one event is to be sent again.
        """
        body = b'{"events":[%b]}' % b",".join(item.body for item in batch)
        try:
            reply = await self._http.ask("POST", self._url, body)
        except Unreachable as error:
            self.is_away = True
            raise _AgainError(error) from error
        self.is_away = False
        if reply.status == 202 or "rejected" in reply.document:
            _settle(batch, reply)
        elif reply.status == 413 and len(batch) > 1:
            # A proxy on the way takes less than the service promises.
            await self._post(batch[: len(batch) // 2])
            await self._post(batch[len(batch) // 2 :])
        else:
            refusal = to_error(reply.status, reply.document, retry_after=reply.retry_after)
            if reply.status in _TRANSIENT:
                raise _AgainError(refusal, reply.retry_after)
            _fail(batch, refusal)


def _settle(batch: Sequence[Letter], reply: Reply) -> None:
    """Give every receipt its answer.

    Raises:
        _AgainError: the service could not take some of them now; they stay open.
    """
    again: DeliveryError | None = None
    for index, row in _rows(reply.document.get("accepted"), len(batch)):
        batch[index].receipt.settle(
            seq=row.get("seq"),
            duplicate=bool(row.get("duplicate")),
            durable=bool(row.get("durable", True)),
        )
    answered = {index for index, item in enumerate(batch) if item.receipt.is_settled}
    for index, row in _rows(reply.document.get("rejected"), len(batch)):
        status, error = item_error(row.get("error"))
        answered.add(index)
        if status in _TRANSIENT:
            again = error
        else:
            _fail((batch[index],), error)
    missing = [item for index, item in enumerate(batch) if index not in answered]
    _fail(missing, RemoteError("the answer leaves this event out", status=reply.status, problem={}))
    if again is not None:
        raise _AgainError(again, reply.retry_after)


def _rows(value: Any, size: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The rows of an answer that refer to an event of the batch."""
    rows = value if isinstance(value, list) else []
    return [
        (row["index"], row)
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("index"), int) and 0 <= row["index"] < size
    ]


def _fail(letters: Sequence[Letter], error: DeliveryError) -> None:
    for letter in letters:
        if letter.receipt.is_settled:
            continue
        if not letter.receipt.is_awaited:
            logger.error("event %s was not accepted: %s", letter.receipt.id, error)
        letter.receipt.fail(error)


def _pause(state: RetryCallState) -> float:
    """Jittered backoff, but never sooner than the service asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    after = error.after if isinstance(error, _AgainError) else None
    return max(after or 0.0, _wait(state))
