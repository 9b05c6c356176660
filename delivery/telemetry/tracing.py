"""Traces of events with OpenTelemetry, from the caller's span to the confirmation.

Owns: the spans, their names and attributes, and when tracing is on: the extra ``otel`` is
installed, and the application has set a tracer provider or OTEL_* variables name an exporter. Never
does: wait for a collector (a thread exports from a bounded queue, and drops), or show who an event
is for.

An event's trace is that of its ``traceparent``, which the ledger keeps: each process that touches
the event makes its spans from there, hours later too. Spans are made after the fact, with the times
of what they show, so that nothing waits for them and none is open while an event waits.

Source: OpenTelemetry semantic conventions 1.37, "Messaging spans".
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, SpanContext

logger = logging.getLogger(__name__)

SYSTEM = "delivery"
MAX_KNOWN = 20_000
"""Events of this process whose trace is remembered, for log lines and quick confirmations."""
MAX_LINKS = 128
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTERS = {"otlp", "console"}

Traced = tuple[str, str]
"""An event's id and its ``traceparent``."""


class Tracing:
    """Makes the spans of this process. Any thread may call it."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = provider.get_tracer("delivery")
        self._known: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def caller(self) -> str | None:
        """The ``traceparent`` of the span that is current in this task, if there is one."""
        context = self._trace.get_current_span().get_span_context()
        return _traceparent(context) if context.is_valid else None

    def accept(self, event_id: str, event_type: str, traceparent: str | None) -> Accepting | None:
        """Begin the span of an event that is being accepted; ``None`` if it is not sampled."""
        parent = None if traceparent is None else self._context(traceparent)
        span = self._tracer.start_span(
            f"create {event_type}",
            context=parent,
            kind=self._trace.SpanKind.PRODUCER,
            attributes=_attributes("create", "create", event_type, event_id),
        )
        if not span.is_recording():
            self.know(event_id, "")  # so that its confirmation asks no ledger
            return None
        found = traceparent or _traceparent(span.get_span_context())
        self.know(event_id, found)
        return Accepting(span, found)

    def pushed(self, event_id: str, connections: int, reason: str | None) -> None:
        """The push of an event to its user's connections."""
        known = self._known.get(event_id)
        if not known:
            return
        span = self._start("send", "send", "socket", (event_id, known), producer=True)
        span.set_attribute("delivery.connections", connections)
        if reason is not None:
            self._fail(span, reason)
        span.end()

    def confirmed(self, channel: str, events: Iterable[Traced]) -> None:
        """Confirmations, with a link to the span that caused the event: it may have ended hours
        ago."""
        for event in events:
            span = self._start("confirm", "settle", channel, event, links=[event])
            span.end()

    def task(self, channel: str, events: Sequence[Traced]) -> Span | None:
        """Begin the span of a task of the chain, linked to its events; end it with ``end``."""
        if not events:
            return None
        links = [link for one in events[:MAX_LINKS] if (link := self._link(one)) is not None]
        for event_id, traceparent in events:
            self.know(event_id, traceparent)
        attributes = _attributes("process", "process", channel, None)
        attributes["messaging.batch.message_count"] = len(events)
        # The first event's trace has the task; the links name it to the others.
        return self._tracer.start_span(
            f"process {channel}",
            context=self._context(events[0][1]),
            kind=self._trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
        )

    def handed_over(self, channel: str, event: Traced, since: datetime, until: datetime) -> None:
        """The way of an event from the fast path to the chain's first task."""
        span = self._start("hand_over", "send", channel, event, since=since, producer=True)
        span.end(end_time=_ns(max(since, until)))

    def attempted(
        self,
        channel: str,
        event: Traced,
        outcome: str,
        error: str | None,
        since: datetime,
        until: datetime,
        task: Span | None,
    ) -> None:
        """An attempt of the chain on a channel."""
        links = [] if task is None else [self._trace.Link(task.get_span_context())]
        span = self._start("attempt", "send", channel, event, since=since, producer=True)
        for link in links:
            span.add_link(link.context)
        span.set_attribute("delivery.outcome", outcome)
        if error is not None:
            self._fail(span, outcome)
        span.end(end_time=_ns(max(since, until)))

    def know(self, event_id: str, traceparent: str) -> None:
        """Remember an event's trace."""
        with self._lock:
            self._known[event_id] = traceparent
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def of(self, event_id: str) -> str | None:
        """The ``traceparent`` of an event that this process has met lately, empty if the event is
        not sampled; ``None`` for one that it does not know."""
        return self._known.get(event_id)

    def _start(
        self,
        name: str,
        operation: str,
        destination: str,
        event: Traced,
        *,
        since: datetime | None = None,
        links: Sequence[Traced] = (),
        producer: bool = False,
    ) -> Span:
        kind = self._trace.SpanKind
        return self._tracer.start_span(
            f"{name} {destination}",
            context=self._context(event[1]),
            kind=kind.PRODUCER if producer else kind.CONSUMER,
            attributes=_attributes(name, operation, destination, event[0]),
            links=[link for one in links if (link := self._link(one)) is not None],
            start_time=None if since is None else _ns(since),
        )

    def _fail(self, span: Span, kind: str) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(self._trace.StatusCode.ERROR)

    def _link(self, event: Traced) -> Link | None:
        found = self._trace.get_current_span(self._context(event[1])).get_span_context()
        if not found.is_valid:
            return None
        return self._trace.Link(found, {"messaging.message.id": event[0]})

    def _context(self, traceparent: str) -> Context:
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": traceparent}
        return TraceContextTextMapPropagator().extract(carrier, context=Context())


class Accepting:
    """The span of an event from its acceptance to its commit.

    Attributes:
        traceparent: what the ledger keeps with the event.
    """

    def __init__(self, span: Span, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def end(self, error: Exception | None = None) -> None:
        """The event is recorded, or was refused."""
        if error is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(StatusCode.ERROR)
        else:
            self._span.add_event("committed")
        self._span.end()


def _attributes(
    name: str, operation: str, destination: str, event_id: str | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }
    if event_id is not None:
        found["messaging.message.id"] = event_id
    return found


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1e6) * 1000


def trace_id(traceparent: str) -> str:
    """The id of the trace that a valid ``traceparent`` names."""
    return traceparent[3:35]


_active: tuple[int, Tracing | None] | None = None
_making = threading.Lock()


def active() -> Tracing | None:
    """This process's tracing, made at the first call; ``None`` while it is off."""
    global _active
    found = _active
    if found is not None and found[0] == os.getpid():
        return found[1]
    with _making:
        _active = (os.getpid(), _make())
        return _active[1]


def use(tracing: Tracing | None) -> None:
    """Trace with this from now on; parts that exist go on with what they have."""
    global _active
    _active = (os.getpid(), tracing)


def traced_event(event_id: str) -> str | None:
    """The trace id of an event that this process has met lately; ``None`` while tracing is off."""
    tracing = _active[1] if _active is not None else None
    found = None if tracing is None else tracing.of(event_id)
    return trace_id(found) if found else None


def sampled_event(event_id: str) -> str | None:
    """The same for an event whose trace is recorded, as its ``traceparent`` says."""
    tracing = _active[1] if _active is not None else None
    found = None if tracing is None else tracing.of(event_id)
    return trace_id(found) if found and int(found[53:55], 16) & 1 else None


def _make() -> Tracing | None:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    provider = _of_application()
    if provider is None and _is_asked_for():
        provider = _own()
    return None if provider is None else Tracing(provider)


def _of_application() -> TracerProvider | None:
    """The provider that the application around ``delivery.embed`` has set."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    found = trace.get_tracer_provider()
    return found if isinstance(found, TracerProvider) else None


def _is_asked_for() -> bool:
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter:
        return exporter in _EXPORTERS
    return any(os.environ.get(name) for name in _ENDPOINTS)


def _own() -> TracerProvider | None:
    """A provider by the OTEL_* variables, which the SDK reads by itself."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError:
        logger.warning("tracing is off: OTEL_* variables ask for it, install delivery-ledger[otel]")
        return None

    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {"service.name": SYSTEM})
    provider = TracerProvider(resource=resource)
    is_console = os.environ.get("OTEL_TRACES_EXPORTER") == "console"
    exporter = ConsoleSpanExporter(out=sys.stderr) if is_console else OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
