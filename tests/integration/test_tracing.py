"""One trace from the caller's span to the confirmation, with the real SDK; and none without it."""

from __future__ import annotations

import asyncio
import cProfile
import json
import logging
import pstats
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from delivery.bootstrap.embedded import Embedded
from delivery.bootstrap.gateway import serve_node, with_port
from delivery.config import Settings, load_settings
from delivery.telemetry import setup_logging, tracing
from tests.policies import quick_policies
from tests.waiting import until
from tests.wire import listening

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{'a' * 32}-00f067aa0ba902b7-00"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Spans of this process; roots are not sampled, so that each comes from a caller."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.0)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(tracing.Tracing(provider))
    yield exporter
    tracing.use(None)
    provider.shutdown()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    policies = tmp_path / "policies.toml"
    policies.write_text(quick_policies(ack_timeout=0.2))
    return load_settings(
        port=0,
        data_dir=tmp_path / "data",
        policies=policies,
        trace_url="https://traces.example.org/{trace_id}",
    )


@pytest.fixture
async def service(spans: InMemorySpanExporter, settings: Settings) -> AsyncIterator[Embedded]:
    embedded = Embedded(with_port(settings))
    await embedded.open()
    await serve_node(embedded.node)
    yield embedded
    await embedded.node.gateway.stop(1.0)
    await embedded.close()


async def post(service: Embedded, token: str, **event: Any) -> str:
    async with httpx.AsyncClient(timeout=30.0) as http:
        answer = await http.post(
            f"{service.settings.base_url}/v1/events",
            json={"type": "agent_completed", "run_id": "r", "data": {}, **event},
            headers={"Authorization": f"Bearer {token}"},
        )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["accepted"][0]["id"])


def named(spans: InMemorySpanExporter, event_id: str) -> dict[str, ReadableSpan]:
    """Finished spans of an event, by name."""
    return {
        span.name: span
        for span in spans.get_finished_spans()
        if (span.attributes or {}).get("messaging.message.id") == event_id
    }


async def test_an_event_that_is_pushed_and_acknowledged_has_one_trace(
    service: Embedded, spans: InMemorySpanExporter
) -> None:
    address = await service.address()
    assert address.client_token is not None
    assert address.service_token is not None
    async with listening(address.url, address.client_token) as page:
        event_id = await post(
            service, address.service_token, user_id=address.user, traceparent=CALLER
        )
        await page.until(lambda: page.frames[-1]["type"] == "events")
        await page.send({"type": "ack", "ids": [event_id]})
        await until(lambda: "confirm socket" in named(spans, event_id), 60)
    found = named(spans, event_id)
    assert {"create agent_completed", "send socket", "confirm socket"} <= found.keys()
    for span in found.values():
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
        attributes = span.attributes or {}
        assert attributes["messaging.system"] == "delivery"
        assert address.user not in map(str, attributes.values())
    kinds = {
        name: (span.attributes or {})["messaging.operation.type"] for name, span in found.items()
    }
    assert (kinds["create agent_completed"], kinds["send socket"]) == ("create", "send")
    assert kinds["confirm socket"] == "settle"
    [link] = found["confirm socket"].links
    assert f"{link.context.span_id:016x}" == "00f067aa0ba902b7"
    for name in ("delivery_time_to_ack_seconds", "delivery_time_to_confirmation_seconds"):
        await until(partial(exemplified, service, name), 60)


async def exemplified(service: Embedded, name: str) -> bool:
    """Whether a bucket of a histogram shows the trace, to a reader who asks for OpenMetrics."""
    async with httpx.AsyncClient(timeout=30.0) as http:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = await http.get(f"{service.settings.base_url}/metrics", headers=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    exemplar = rf'^{name}_bucket{{.*}} \S+ # {{trace_id="{TRACE}"}} '
    return re.search(exemplar, answer.text, re.MULTILINE) is not None


async def test_an_event_that_takes_the_chain_has_its_tasks_and_attempts_in_the_trace(
    service: Embedded, spans: InMemorySpanExporter
) -> None:
    address = await service.address()
    token = address.service_token
    assert token is not None
    event_id = await post(service, token, user_id=address.user, traceparent=CALLER)
    quiet = await post(service, token, user_id=address.user, traceparent=UNSAMPLED)
    plain = await post(service, token, user_id=address.user)
    await until(lambda: "attempt email" in named(spans, event_id), 60)
    found = named(spans, event_id)
    assert {"create agent_completed", "hand_over database", "attempt database"} <= found.keys()
    assert all(f"{span.context.trace_id:032x}" == TRACE for span in found.values())
    attempt = found["attempt email"]
    assert (attempt.attributes or {})["delivery.outcome"] == "delivered"
    [task] = [link.context.span_id for link in attempt.links]
    await until(
        lambda: any(
            one.name == "process email" and one.context.span_id == task
            for one in spans.get_finished_spans()
        ),
        60,
    )
    assert named(spans, quiet) == {}
    assert named(spans, plain) == {}
    await until(partial(exemplified, service, "delivery_attempt_seconds"), 60)

    async with httpx.AsyncClient(timeout=30.0) as http:
        url = f"{service.settings.base_url}/v1/events/{event_id}"
        shown = (await http.get(url, headers={"Authorization": f"Bearer {token}"})).json()
    assert shown["traceparent"] == CALLER
    assert shown["trace_url"] == f"https://traces.example.org/{TRACE}"


async def test_an_emit_in_this_process_continues_the_span_around_it(
    service: Embedded, spans: InMemorySpanExporter
) -> None:
    emitter = service.node.emitter("ada", "r")
    context = trace.set_span_in_context(
        trace.NonRecordingSpan(
            trace.SpanContext(int(TRACE, 16), 7, True, trace.TraceFlags(trace.TraceFlags.SAMPLED))
        )
    )
    from opentelemetry.context import attach, detach

    attached = attach(context)
    try:
        receipt = await emitter.emit("agent_started", {})
    finally:
        detach(attached)
    without = await emitter.emit("agent_started", {})
    await until(lambda: "create agent_started" in named(spans, receipt.id))
    span = named(spans, receipt.id)["create agent_started"]
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (int(TRACE, 16), 7)
    assert named(spans, without.id) == {}
    stored = await asyncio.to_thread(service.node.ledger.events.get, receipt.id)
    assert stored is not None


def test_a_log_line_about_an_event_names_its_trace(spans: InMemorySpanExporter) -> None:
    active = tracing.active()
    assert active is not None
    event_id = "0192f000-0000-7000-8000-000000000001"
    active.know(event_id, CALLER)
    stream = StringIO()
    setup_logging("json", stream=stream)
    logging.getLogger("delivery.test").warning("event %s: refused", event_id)
    logging.getLogger("delivery.test").warning("event %s: refused", event_id[:-1] + "2")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["trace_id"] == TRACE
    assert "trace_id" not in second


def test_a_span_may_come_hours_after_the_event(spans: InMemorySpanExporter) -> None:
    active = tracing.active()
    assert active is not None
    now = datetime.now(UTC)
    event = ("0192f000-0000-7000-8000-000000000003", CALLER)
    active.handed_over("email", event, now - timedelta(hours=5), now)
    [span] = named(spans, event[0]).values()
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 5 * 3600 * 10**9


def test_without_a_collector_or_the_extra_nothing_waits_and_nothing_is_imported() -> None:
    code = (
        "import sys\n"
        "{hide}"
        "from delivery.telemetry import tracing\n"
        "active = tracing.active()\n"
        "print(active is None, 'opentelemetry.sdk.trace' in sys.modules)\n"
        "from delivery.telemetry.tracing import Accepting\n"
        "for n in range(3000 if active else 0):\n"
        "    active.accept(str(n), 't', None).end()\n"
    )
    absent = "sys.modules['opentelemetry.exporter.otlp'] = None\n"
    for hide, variables, expected in (
        ("", {}, "True False"),
        ("", {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, "True False"),
        (absent, {"OTEL_TRACES_EXPORTER": "otlp"}, "True False"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "False True"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(hide=hide)],
            env={"PATH": "", **variables},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected


async def test_without_tracing_an_event_makes_no_call_for_it(settings: Settings) -> None:
    tracing.use(None)
    embedded = Embedded(with_port(settings))
    await embedded.open()
    emitter = embedded.node.emitter("ada", "r")
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(50):
        await emitter.emit("agent_thinking", {"n": 1})
    profile.disable()
    await embedded.close()
    files = {Path(name).name for name, _, _ in pstats.Stats(profile).stats}  # type: ignore[attr-defined]
    assert "emitter.py" in files
    assert not files & {"tracing.py", "traced.py", "traces.py"}
