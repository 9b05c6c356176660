"""Batches of events over HTTP: the three shapes of a body, and the answer for what came of it.

Pure: bytes and values in, values out. Never does: check an event's fields; the intake does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from delivery.api.problems import Problem, problem_of
from delivery.api.requests import check_known, json_response, parse_json
from delivery.api.views import accepted_view
from delivery.domain.ports import Accepted

logger = logging.getLogger(__name__)

MAX_EVENTS = 1_000
MAX_BODY = 16 << 20
NDJSON = ("application/x-ndjson", "application/jsonl")


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of one request; ``is_single`` when it was one bare object."""

    items: Sequence[Any]
    is_single: bool


def parse_batch(content_type: str, raw: bytes) -> Batch:
    """The events of a body in any of its three shapes.

    Raises:
        Problem: 400 not JSON, 413 too many, 422 another shape.
    """
    if content_type in NDJSON:
        lines = [(n, line) for n, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
        _check_count(len(lines))
        return Batch([parse_json(line, line=number) for number, line in lines], is_single=False)
    body = parse_json(raw)
    if not isinstance(body, Mapping):
        raise Problem(
            "invalid-request", 'the body must be one event, or {"events": [...]}, as a JSON object'
        )
    if "events" not in body:
        return Batch([body], is_single=True)
    check_known(body, {"events"})
    items = body["events"]
    if not isinstance(items, list):
        raise Problem("invalid-request", "events must be a list of events", field="events")
    _check_count(len(items))
    return Batch(items, is_single=False)


def accept_response(batch: Batch, answers: Sequence[Accepted | Exception]) -> web.Response:
    """The answer for a batch: 202 if any was accepted, else what its caller can do about it."""
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
    # Where the fault is ours and passes, the caller is told to send the same batch again.
    verdict = next((p for _, p in problems if p.status == 429 or p.status >= 500), verdict)
    verdict.more = {"rejected": rejected}
    return verdict.response()


def _check_count(count: int) -> None:
    if count == 0:
        raise Problem("invalid-request", "there is no event in the body", field="events")
    if count > MAX_EVENTS:
        raise Problem(
            "payload-too-large", f"{count} events in one request; at most {MAX_EVENTS}",
            field="events",
        )  # fmt: skip
