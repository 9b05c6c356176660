"""Events over HTTP: accept, show, list, replay, acknowledge.

Owns: the shapes of these requests (the OpenAPI document describes them) and the scopes they need.
Never does: validate an event (the intake does) or write to the ledger (the journal does).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from delivery.api.problems import CALLER, Problem, problem_of
from delivery.api.requests import (
    MAX_LIMIT,
    address_of,
    caller,
    check_known,
    check_rate,
    client,
    count_rate,
    json_response,
    parse_instant,
    parse_json,
    parse_limit,
    path_event_id,
    read_body,
    read_object,
    service,
)
from delivery.api.views import accepted_view, stored_view, timeline_view
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.callers.rates import ACKS, EMIT, EMIT_ADDRESS
from delivery.callers.refusals import refusals
from delivery.domain.channels import Channel
from delivery.domain.event import MAX_DATA_BYTES, check_event_id
from delivery.domain.inputs.foreign_text import decode_surrogates
from delivery.domain.inputs.json_limits import TooManyItems, check_shape
from delivery.domain.lifecycle import Cause, Confirmation, State, sources
from delivery.domain.limits import MAX_BODY_BYTES, MAX_EVENTS
from delivery.domain.policy import Policies
from delivery.domain.ports import Accepted, Intake, Journal, Reads, Writes
from delivery.domain.records import EventFilter, Stored
from delivery.errors import InvalidEvent, InvalidFrame
from delivery.gateway.registry import Registry
from delivery.protocol import MAX_ACK_IDS, encode_event

logger = logging.getLogger(__name__)


MAX_LINES = 10 * MAX_EVENTS
MAX_ITEM = 1 << 20
"""Bytes of one encoded event: escapes may make 64 KiB of data six times as long."""
MAX_VALUES = 3 * MAX_DATA_BYTES
LARGE_BODY = 64 * 1024
"""Bytes of a body from which it is decoded in a thread."""
MAX_DECODING = 2
"""Large bodies decoded at the same time, at most."""
NDJSON = ("application/x-ndjson", "application/jsonl")


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one request; ``is_single``: the body was one event, without a list."""

    items: Sequence[Any]
    is_single: bool


def parse_batch(content_type: str, raw: bytes) -> Batch:
    """Parse a body: one event, a list of events, or one event per line.

    Raises:
        Problem: 400 not JSON, 413 too many, 422 another shape.
    """
    if content_type in NDJSON:
        return Batch([_item(line, line=number) for number, line in _lines(raw)], is_single=False)
    _check_shape(raw)
    try:
        body = _members(raw)
    except Problem:
        found = _with_surrogates(raw)
        if found is None:
            raise
        return found
    if "events" not in body:
        return Batch([_item(raw)], is_single=True)
    check_known(body, {"events"})
    try:
        items = msgspec.json.decode(body["events"], type=list[msgspec.Raw])
    except msgspec.ValidationError:
        raise Problem(
            "invalid-request", "events must be a list of events", field="events"
        ) from None
    _check_count(len(items))
    return Batch([_item(bytes(item)) for item in items], is_single=False)


def _lines(raw: bytes) -> list[tuple[int, bytes]]:
    if raw.count(b"\n") > MAX_LINES:
        raise Problem("payload-too-large", f"over {MAX_LINES} lines in one request")
    lines = [(n, line) for n, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    _check_count(len(lines))
    return lines


def _check_shape(raw: bytes) -> None:
    try:
        check_shape(raw, most_items=MAX_EVENTS)
    except TooManyItems as error:
        detail = f"{error}; at most {MAX_EVENTS} events go in one request"
        raise Problem("payload-too-large", detail, field="events") from error
    except InvalidFrame as error:
        raise Problem("not-json", str(error)) from error


def _members(raw: bytes) -> dict[str, msgspec.Raw]:
    """Decode the outermost object; its members stay encoded."""
    if not raw.strip():
        raise Problem("not-json", "the body is empty; send JSON")
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise Problem(
            "invalid-request", 'the body must be one event, or {"events": [...]}, as a JSON object'
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("not-json", f"not JSON: {error}") from error


def _with_surrogates(raw: bytes) -> Batch | None:
    """Decode a body whose texts hold lone surrogates, which the fast decoder refuses; ``None``
    for any other body."""
    if _count_values(raw) > MAX_VALUES:
        return None
    try:
        body = decode_surrogates(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or "events" not in body:
        return Batch([body], is_single=True) if isinstance(body, dict) else None
    check_known(body, {"events"})
    items = body["events"]
    if not isinstance(items, list):
        raise Problem("invalid-request", "events must be a list of events", field="events")
    _check_count(len(items))
    return Batch(items, is_single=False)


def _count_values(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _item(raw: bytes, *, line: int | None = None) -> Any:
    """Decode one event. Its data and meta have 64 KiB each: an event with more text or more values
    than fit is refused before it is decoded."""
    if len(raw) > MAX_ITEM or _count_values(raw) > MAX_VALUES:
        raise Problem("payload-too-large", "an event has at most 64 KiB of data", field="data")
    return parse_json(raw, line=line)


def accept_response(batch: Batch, answers: Sequence[Accepted | Exception]) -> web.Response:
    """The response for a batch: 202 if an event was accepted, else a problem."""
    accepted: list[dict[str, Any]] = []
    problems: list[tuple[int, Problem]] = []
    for index, answer in enumerate(answers):
        if isinstance(answer, Accepted):
            accepted.append(accepted_view(index, answer))
        else:
            problems.append((index, problem_of(answer)))
            if problems[-1][1].slug == "internal":
                logger.error("event %d of a batch failed", index, exc_info=answer)
    rejected = [{"index": index, "error": problem.document()} for index, problem in problems]
    if accepted:
        return json_response({"accepted": accepted, "rejected": rejected}, status=202)
    if batch.is_single:
        return problems[0][1].response()
    detail = f"none of {len(rejected)} events was accepted"
    verdict = Problem("batch-rejected", detail)
    # A temporary fault of the service: the caller may send the same batch again.
    verdict = next((p for _, p in problems if p.status == 429 or p.status >= 500), verdict)
    verdict.more = {"rejected": rejected}
    return verdict.response()


def _check_count(count: int) -> None:
    if count == 0:
        raise Problem("invalid-request", "there is no event in the body", field="events")
    if count > MAX_EVENTS:
        raise Problem(
            "payload-too-large",
            f"{count} events in one request; at most {MAX_EVENTS}",
            field="events",
        )


REPLAY_FIELDS = ("state", "user_id", "run_id", "before", "dry_run", "limit", "after")
PUSH_PAGE = 200
FLUSH_TIMEOUT = 5.0


class EventsApi:
    """Handlers of ``/v1/events``, ``/v1/replay`` and ``/v1/acks``.

    Args:
        on_confirmed: called with the ids that an acknowledgement over HTTP confirmed.
    """

    def __init__(
        self,
        auth: Authenticator,
        *,
        intake: Intake,
        journal: Journal,
        reads: Reads,
        writes: Writes,
        registry: Registry,
        policies: Policies,
        on_confirmed: Callable[[Sequence[str]], None],
    ) -> None:
        self._auth = auth
        self._intake = intake
        self._journal = journal
        self._reads = reads
        self._writes = writes
        self._registry = registry
        self._policies = policies
        self._on_confirmed = on_confirmed
        self._decoding = asyncio.Semaphore(MAX_DECODING)

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.post("/v1/events", self.accept),
            web.get("/v1/events", self.find),
            web.get("/v1/events/{id}", self.show),
            web.post("/v1/events/{id}/replay", self.replay_one),
            web.post("/v1/replay", self.replay),
            web.post("/v1/acks", self.acknowledge),
        ]

    async def accept(self, request: web.Request) -> web.Response:
        """``POST /v1/events``: 202 when at least one event is durable now."""
        producer = (await service(request, self._auth, "emit")).subject
        address = address_of(request)
        check_rate(request, EMIT, producer)
        check_rate(request, EMIT_ADDRESS, address)
        self._intake.check_room(producer)
        raw = await read_body(request, MAX_BODY_BYTES)
        if len(raw) <= LARGE_BODY:
            batch = parse_batch(request.content_type, raw)
        else:
            async with self._decoding:
                batch = await asyncio.to_thread(parse_batch, request.content_type, raw)
        del raw
        await count_rate(request, EMIT, producer, len(batch.items))
        await count_rate(request, EMIT_ADDRESS, address, len(batch.items))
        return accept_response(batch, await self._intake.accept(batch.items, producer))

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/events/{id}``: one event; 404 for another user's event."""
        principal = await caller(request, self._auth)
        _must_read(principal)
        event_id = path_event_id(request)
        timeline = await self._reads.event(event_id)
        if timeline is None:
            raise Problem("not-found", "no event has this id")
        if not principal.may("read") and not principal.is_user(timeline.stored.event.user_id):
            refusals.note("GET /v1/events/{id}: another user's event", request[CALLER])
            raise Problem("not-found", "no event has this id")
        return json_response(timeline_view(timeline))

    async def find(self, request: web.Request) -> web.Response:
        """``GET /v1/events``: newest first, a page at a time."""
        principal = await caller(request, self._auth)
        _must_read(principal)
        query = request.query
        check_known(query, {"user_id", "run_id", "state", "type", "after", "limit"})
        user_id = query.get("user_id")
        if principal.is_client:
            if user_id is not None and user_id != principal.user_id:
                raise Problem("forbidden", "a client sees its own events only", field="user_id")
            user_id = principal.user_id
        which = EventFilter(
            user_id=user_id,
            run_id=query.get("run_id"),
            state=_state(query.get("state")),
            type=query.get("type"),
        )
        after, limit = query.get("after"), parse_limit(query.get("limit"))
        try:
            found, following = await self._reads.find(which, after=after, limit=limit)
        except ValueError:
            raise Problem(
                "invalid-request",
                "after must be the next of a page before, or an event's id",
                field="after",
            ) from None
        return json_response(
            {"events": [stored_view(stored) for stored in found], "next": following}
        )

    async def replay_one(self, request: web.Request) -> web.Response:
        """``POST /v1/events/{id}/replay``: start one event anew."""
        operator = await service(request, self._auth, "operate")
        event_id = path_event_id(request)
        await read_object(request, (), may_be_empty=True)
        timeline = await self._reads.event(event_id)
        if timeline is None:
            raise Problem("not-found", "no event has this id")
        ids = await self._writes.replay([event_id], policies=self._policies, actor=operator.actor)
        if not ids:
            raise Problem("already-confirmed", f"event {event_id} reached its user")
        await self._push(ids)
        return json_response({"id": event_id, "state": State.ACCEPTED.value}, status=202)

    async def replay(self, request: web.Request) -> web.Response:
        """``POST /v1/replay``: start anew the events that a filter matches."""
        operator = await service(request, self._auth, "operate")
        body = await read_object(request, REPLAY_FIELDS)
        dry_run = body.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise Problem("invalid-request", "dry_run must be true or false", field="dry_run")
        limit, after = _page(body)
        try:
            ids = await self._writes.replay(
                _which(body),
                policies=self._policies,
                dry_run=dry_run,
                after=after,
                limit=limit,
                actor=operator.actor,
            )
        except ValueError as error:
            raise Problem("invalid-request", str(error), field="after") from error
        if not dry_run:
            await self._push(ids)
        answer = {"matched": len(ids), "replayed": 0 if dry_run else len(ids)}
        if limit is not None:
            return json_response(answer | {"next": ids[-1] if len(ids) == limit else None})
        return json_response(answer)

    async def acknowledge(self, request: web.Request) -> web.Response:
        """``POST /v1/acks``: confirm, at any node, events that the caller's user has handled."""
        user_id = (await client(request, self._auth)).user_id
        await count_rate(request, ACKS, user_id)
        given = _ack_ids((await read_object(request, ("ids",))).get("ids"))
        wanted = {known: id_ for id_ in given if (known := _canonical(id_)) is not None}
        confirmed = await self._confirm(user_id, list(wanted))
        if len(confirmed) < len(wanted) and self._journal.backlog:
            # An event is pushed while it commits: its acknowledgement can precede the commit.
            await self._journal.flush(FLUSH_TIMEOUT)
            confirmed |= await self._confirm(user_id, [i for i in wanted if i not in confirmed])
        if len(confirmed) < len(given):
            what = "POST /v1/acks: unknown or other users' events"
            refusals.note(what, request[CALLER], logging.INFO)
        return json_response(
            {
                "confirmed": [wanted[id_] for id_ in wanted if id_ in confirmed],
                "unknown": [id_ for id_ in given if _canonical(id_) not in confirmed],
            }
        )

    async def _confirm(self, user_id: str, ids: Sequence[str]) -> set[str]:
        if not ids:
            return set()
        confirmations = [
            Confirmation(id_, user_id, Channel.HTTP, user_id, "POST /v1/acks") for id_ in ids
        ]
        answer = await self._writes.confirm(confirmations)
        if answer.confirmed:
            self._on_confirmed(answer.confirmed)
            self._registry.acknowledged(user_id, answer.confirmed)
        return set(answer.confirmed)

    async def _push(self, ids: Sequence[str]) -> None:
        """Push replayed events to connected users; the others are handed over when they are due."""
        for start in range(0, len(ids), PUSH_PAGE):
            page = ids[start : start + PUSH_PAGE]
            for stored in await self._reads.events(page):
                if not _is_held(stored):
                    self._registry.push(stored.event, encode_event(stored.event))


def _is_held(stored: Stored) -> bool:
    """Whether a replayed event is not due before the instant that its caller chose."""
    options = stored.options
    return (
        options is not None
        and options.not_before is not None
        and stored.due_at is not None
        and stored.due_at <= options.not_before
    )


def _must_read(principal: Principal) -> None:
    if not principal.is_client and not principal.may("read"):
        raise Problem("forbidden", "this needs a service token with the scope 'read'")


def _which(body: Mapping[str, Any]) -> EventFilter:
    for name in ("state", "user_id", "run_id"):
        if body.get(name) is not None and not isinstance(body[name], str):
            raise Problem("invalid-request", f"{name} must be a string", field=name)
    replayable = sorted(sources(Cause.REPLAY))
    if body.get("state") not in replayable:
        listed = ", ".join(replayable)
        raise Problem("invalid-request", f"state must be one of {listed}", field="state")
    before = body.get("before")
    return EventFilter(
        user_id=body.get("user_id"),
        run_id=body.get("run_id"),
        state=State(body["state"]),
        before=None if before is None else parse_instant(before, "before"),
    )


def _page(body: Mapping[str, Any]) -> tuple[int | None, str | None]:
    limit, after = body.get("limit"), body.get("after")
    if isinstance(limit, float) and limit.is_integer():
        limit = int(limit)  # JSON has one kind of number: 50.0 is 50
    if limit is not None and (
        isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT
    ):
        raise Problem("invalid-request", f"limit must be 1 to {MAX_LIMIT}", field="limit")
    if after is not None and not isinstance(after, str):
        raise Problem("invalid-request", "after must be a string", field="after")
    return limit, after


def _state(value: str | None) -> State | None:
    if value is None:
        return None
    try:
        return State(value)
    except ValueError:
        listed = ", ".join(State)
        raise Problem("invalid-request", f"state must be one of {listed}", field="state") from None


def _ack_ids(value: Any) -> list[str]:
    if (
        not isinstance(value, list)
        or not value
        or len(value) > MAX_ACK_IDS
        or not all(isinstance(item, str) for item in value)
    ):
        raise Problem(
            "invalid-request", f"ids must be a list of 1 to {MAX_ACK_IDS} event ids", field="ids"
        )
    return list(dict.fromkeys(value))


def _canonical(event_id: str) -> str | None:
    try:
        return check_event_id(event_id)
    except InvalidEvent:
        return None
