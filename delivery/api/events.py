"""Events over HTTP: accept, show, list, replay, acknowledge.

Owns: the shapes of these requests (the OpenAPI document describes them) and the scopes they need.
Never does: validate an event (the intake does) or write to the ledger (the journal does).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from delivery.api.batches import Batch, parse_batch
from delivery.api.cloud_events import is_cloud_event, parse_cloud_events
from delivery.api.operators.event_filter import FILTERS, parse_filter
from delivery.api.problems import CALLER, Problem, problem_of
from delivery.api.requests import (
    MAX_LIMIT,
    caller,
    check_known,
    check_rate,
    client,
    count_rate,
    counted_address_of,
    json_response,
    parse_flag,
    parse_instant,
    parse_limit,
    path_event_id,
    read_body,
    read_object,
    service,
)
from delivery.api.views import accepted_view, run_view, stored_view, timeline_view
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.callers.rates import ACKS, EMIT, EMIT_ADDRESS
from delivery.callers.refusals import refusals
from delivery.domain.channels import Channel
from delivery.domain.event import check_context_id, check_event_id
from delivery.domain.inputs.trace_context import is_traceparent
from delivery.domain.lifecycle import Cause, Confirmation, State, sources
from delivery.domain.limits import MAX_BODY_BYTES
from delivery.domain.policy import Policies
from delivery.domain.ports import Accepted, Intake, Journal, Reads, Writes
from delivery.domain.records import EventFilter, Stored
from delivery.errors import InvalidEvent
from delivery.gateway.registry import Registry
from delivery.protocol import MAX_ACK_IDS, encode_event

logger = logging.getLogger(__name__)


LARGE_BODY = 64 * 1024
"""Bytes of a body from which it is decoded in a thread."""
MAX_DECODING = 2
"""Large bodies decoded at the same time, at most."""


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


def _parse(request: web.Request, raw: bytes) -> Batch:
    """The events of a request; the request's own trace is that of events without one."""
    content_type, headers = request.content_type, request.headers
    if is_cloud_event(content_type, headers.items()):
        full = headers.get("Content-Type", "application/json")
        batch = parse_cloud_events(content_type, full, headers.items(), raw)
    else:
        batch = parse_batch(content_type, raw)
    trace = headers.get("traceparent")
    if is_traceparent(trace):  # another one is ignored, as its standard asks
        for item in batch.items:
            if isinstance(item, dict):
                item.setdefault("traceparent", trace)
    return batch


REPLAY_FIELDS = (*FILTERS, "ids", "before", "dry_run", "limit", "after")
MAX_REPLAY_IDS = 1_000
PUSH_PAGE = 200
FLUSH_TIMEOUT = 5.0


class EventsApi:
    """Handlers of ``/v1/events``, ``/v1/runs``, ``/v1/replay`` and ``/v1/acks``.

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
        trace_url: str | None = None,
    ) -> None:
        self._auth = auth
        self._trace_url = trace_url
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
            web.get("/v1/runs/{id}", self.show_run),
            web.post("/v1/replay", self.replay),
            web.post("/v1/acks", self.acknowledge),
        ]

    async def accept(self, request: web.Request) -> web.Response:
        """``POST /v1/events``: 202 when at least one event is durable now."""
        producer = (await service(request, self._auth, "emit")).subject
        address = counted_address_of(request)
        check_rate(request, EMIT, producer)
        check_rate(request, EMIT_ADDRESS, address)
        self._intake.check_room(producer)
        raw = await read_body(request, MAX_BODY_BYTES)
        if len(raw) <= LARGE_BODY:
            batch = _parse(request, raw)
        else:
            async with self._decoding:
                batch = await asyncio.to_thread(_parse, request, raw)
        del raw
        await count_rate(request, EMIT, producer, len(batch.items))
        await count_rate(request, EMIT_ADDRESS, address, len(batch.items))
        if batch.keys:
            answers = await self._accept_foreign(batch, producer)
        else:
            answers = await self._intake.accept(batch.items, producer)
        return accept_response(batch, answers)

    async def _accept_foreign(self, batch: Batch, producer: str) -> list[Accepted | Exception]:
        """Accept CloudEvents: each under the id that its source and id have here."""
        keys = [key for key in batch.keys if key is not None]
        ids = await self._writes.cloud_event_ids(keys) if keys else []
        items = [item for item in batch.items if not isinstance(item, InvalidEvent)]
        for item, event_id in zip(items, ids, strict=True):
            item["id"] = event_id
        taken = iter(await self._intake.accept(items, producer))
        return [item if isinstance(item, InvalidEvent) else next(taken) for item in batch.items]

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
        return json_response(timeline_view(timeline, self._trace_url))

    async def find(self, request: web.Request) -> web.Response:
        """``GET /v1/events``: newest first, a page at a time."""
        principal = await caller(request, self._auth)
        _must_read(principal)
        query = request.query
        check_known(query, {*FILTERS, "after", "limit", "count"})
        which = parse_filter(query)
        if principal.is_client:
            if which.user_id is not None and which.user_id != principal.user_id:
                raise Problem("forbidden", "a client sees its own events only", field="user_id")
            which = replace(which, user_id=principal.user_id)
        after, limit = query.get("after"), parse_limit(query.get("limit"))
        is_counted = parse_flag(query.get("count"), "count")
        try:
            found, following = await self._reads.find(which, after=after, limit=limit)
        except ValueError:
            raise Problem(
                "invalid-request",
                "after must be the next of a page before, or an event's id",
                field="after",
            ) from None
        answer: dict[str, Any] = {
            "events": [stored_view(stored) for stored in found],
            "next": following,
        }
        if is_counted:
            matches = await self._reads.count(which)
            answer |= {"count": matches.count, "count_is_exact": matches.is_exact}
        return json_response(answer)

    async def show_run(self, request: web.Request) -> web.Response:
        """``GET /v1/runs/{id}``: a run with its tokens and cost; runs are told apart by user."""
        principal = await caller(request, self._auth)
        _must_read(principal)
        check_known(request.query, {"user_id"})
        user_id = request.query.get("user_id")
        if principal.is_client and user_id not in (None, principal.user_id):
            raise Problem("forbidden", "a client sees its own runs only", field="user_id")
        if principal.is_client:
            user_id = principal.user_id
        if user_id is None:
            raise Problem("invalid-request", "say whose run: user_id", field="user_id")
        run_id = check_context_id("run_id", request.match_info["id"])
        found = await self._reads.run(check_context_id("user_id", user_id), run_id)
        if found is None:
            raise Problem("not-found", "this user has no such run")
        return json_response(run_view(found))

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
                _chosen(body),
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
        body = await read_object(request, ("ids",))
        given = _event_ids(body.get("ids"), MAX_ACK_IDS)
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


def _chosen(body: Mapping[str, Any]) -> EventFilter | list[str]:
    """The events that a replay names: those of a filter, or some ids."""
    ids, before = body.get("ids"), body.get("before")
    named = [name for name in (*FILTERS, "before") if body.get(name) is not None]
    if ids is not None:
        if named:
            raise Problem("invalid-request", "ids stand alone: no filter beside them", field="ids")
        return [known for id_ in _event_ids(ids) if (known := _canonical(id_)) is not None]
    replayable = sorted(sources(Cause.REPLAY))
    if not named or (body.get("state") is not None and body["state"] not in replayable):
        listed = ", ".join(replayable)
        detail = f"name a state (one of {listed}) or another filter"
        raise Problem("invalid-request", detail, field="state")
    which = parse_filter(body)
    return which if before is None else replace(which, before=parse_instant(before, "before"))


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


def _event_ids(value: Any, most: int = MAX_REPLAY_IDS) -> list[str]:
    if (
        not isinstance(value, list)
        or not value
        or len(value) > most
        or not all(isinstance(item, str) for item in value)
    ):
        raise Problem(
            "invalid-request", f"ids must be a list of 1 to {most} event ids", field="ids"
        )
    return list(dict.fromkeys(value))


def _canonical(event_id: str) -> str | None:
    try:
        return check_event_id(event_id)
    except InvalidEvent:
        return None
