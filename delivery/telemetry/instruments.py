"""Counters, gauges and histograms of a process, and their exposition in Prometheus's formats.

Owns: the process's registry, the bound on label values, and the sharing of values by processes that
expose themselves together. Never does: name a metric (``metrics`` does), serve HTTP, read a ledger.

An instrument is made without prometheus-client, which is imported with the first value: commands
that count nothing do not pay for it.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

Where = Literal["gateway", "worker", "beat"]
Collect = Callable[[], Iterable["Metric"]]

MAX_CHILDREN = 500
"""Combinations of label values of one metric; further ones are counted under ``other``."""
OTHER = "other"

logger = logging.getLogger(__name__)

_FAULTS = (OSError, ValueError)
"""Of shared values: the disk is full, the directory is gone."""
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_making = threading.Lock()
_identity = "main"


class Instrument(ABC):
    """A metric of this process.

    Args:
        name: as Prometheus sees it, with ``_total`` for a counter and the unit for a histogram.
        text: its help text; a sentence.
        labels: names of its labels. No label may take a value that users or callers choose.
        where: the kinds of process that have it.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        *,
        where: tuple[Where, ...] = ("gateway",),
    ) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.where = where
        self._children: dict[tuple[str, ...], Any] = {}
        self._metric: Any = None
        INSTRUMENTS[name] = self

    def _child(self, labels: tuple[str, ...]) -> Any:
        child = self._children.get(labels)
        return self._make_child(labels) if child is None else child

    def _make_child(self, labels: tuple[str, ...]) -> Any:
        if len(labels) != len(self.labels):
            raise TypeError(f"{self.name} has the labels {self.labels}, not {labels}")
        with _making:
            if labels not in self._children and len(self._children) >= MAX_CHILDREN:
                labels = (OTHER,) * len(labels)
            if labels not in self._children:
                if self._metric is None:
                    self._metric = self._make_metric()
                self._children[labels] = self._metric.labels(*labels) if labels else self._metric
            return self._children[labels]

    @abstractmethod
    def _make_metric(self) -> Any:
        """The metric of prometheus-client, made with the first value."""

    def _report(self, error: Exception) -> None:
        # What is measured must go on: the caller has an event to serve.
        logger.error("metric %s cannot be kept: %s", self.name, error)

    def start(self, *labels: str) -> None:
        """Show the metric from now on, at 0: a rate needs the value before the first event."""
        self._child(labels)


INSTRUMENTS: dict[str, Instrument] = {}
"""Every instrument by name, in the order of their definition."""


class Counter(Instrument):
    """A count that only rises."""

    kind = "counter"

    def inc(self, amount: float = 1.0, *labels: str) -> None:
        """Add to the count; thread-safe. Call it once per batch, not per event."""
        try:
            # What ``child.inc`` does, after checks of an amount that callers choose.
            self._child(labels)._value.inc(amount)
        except _FAULTS as error:
            self._report(error)

    def _make_metric(self) -> Any:
        return _client().Counter(self.name, self.text, self.labels, registry=registry())


class Gauge(Instrument):
    """A figure that rises and falls. Of processes that share their values the label ``node``, or
    whatever else tells them apart, must be one of its labels."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set the figure; thread-safe."""
        try:
            self._child(labels).set(value)
        except _FAULTS as error:
            self._report(error)

    def remove(self, *labels: str) -> None:
        """Forget the figure of one combination of labels, as of a node that has stopped."""
        with _making:
            if self._children.pop(labels, None) is not None and not is_shared():
                self._metric.remove(*labels)

    def _make_metric(self) -> Any:
        return _client().Gauge(
            self.name,
            self.text,
            self.labels,
            registry=registry(),
            multiprocess_mode="mostrecent",
        )


class Histogram(Instrument):
    """A distribution.

    Args:
        buckets: upper limits, ascending.
    """

    kind = "histogram"

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        *,
        buckets: tuple[float, ...],
        where: tuple[Where, ...] = ("gateway",),
    ) -> None:
        super().__init__(name, text, labels, where=where)
        self.buckets = buckets

    def observe(self, value: float, *labels: str, trace_id: str | None = None) -> None:
        """Add one value; thread-safe.

        Args:
            trace_id: shown as the exemplar of the value's bucket, where this process exposes
                itself: shared values have none.
        """
        try:
            child = self._child(labels)
            # What ``child.observe`` does, which goes through the buckets one by one.
            bucket = child._buckets[bisect_left(self.buckets, value)]
            bucket.inc(1)
            child._sum.inc(value)
            if trace_id and not is_shared():
                bucket.set_exemplar(_exemplar({"trace_id": trace_id}, value, time.time()))
        except _FAULTS as error:
            self._report(error)

    def add(
        self,
        counts: Mapping[int, int],
        total: float,
        *labels: str,
        exemplar: tuple[float, str] | None = None,
    ) -> None:
        """Add many values at the cost of one.

        Args:
            counts: by the index of a bucket, the last one without a limit; not cumulative.
            total: the sum of the values.
            exemplar: one of the values and the id of its trace, shown as ``observe`` shows one.
        """
        try:
            child = self._child(labels)
            for index, count in counts.items():
                child._buckets[index].inc(count)
            child._sum.inc(total)
            if exemplar is not None and not is_shared():
                value, trace_id = exemplar
                shown = _exemplar({"trace_id": trace_id}, value, time.time())
                child._buckets[bisect_left(self.buckets, value)].set_exemplar(shown)
        except _FAULTS as error:
            self._report(error)

    def observe_all(self, values: Mapping[int, int], *labels: str) -> None:
        """Add values with their counts."""
        counts: dict[int, int] = {}
        for value, count in values.items():
            index = bisect_left(self.buckets, value)
            counts[index] = counts.get(index, 0) + count
        self.add(counts, sum(value * count for value, count in values.items()), *labels)

    def _make_metric(self) -> Any:
        return _client().Histogram(
            self.name, self.text, self.labels, buckets=self.buckets, registry=registry()
        )


def _exemplar(labels: dict[str, str], value: float, at: float) -> Any:
    from prometheus_client.samples import Exemplar

    return Exemplar(labels, value, at)


@cache
def _client() -> Any:
    """prometheus-client, set up for this process."""
    import prometheus_client
    from prometheus_client import values

    # A timestamp beside every series is twice the series.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    # Which kind of value is used is otherwise decided by whichever import came first.
    values.ValueClass = (
        values.MultiProcessValue(lambda: _identity)  # type: ignore[no-untyped-call]
        if is_shared()
        else values.MutexValue
    )
    return prometheus_client


@cache
def registry() -> CollectorRegistry:
    """The registry of this process, for metrics that are not made here, too."""
    made: CollectorRegistry = _client().CollectorRegistry()
    if not is_shared():
        _client().ProcessCollector(registry=made)
        _client().PlatformCollector(registry=made)
    return made


def share() -> None:
    """Keep this process's values in files, from which each of the processes that it forks exposes
    the values of all of them. You must call it before the first value, and ``identify`` in each
    fork.

    Effect: makes a directory, which this process removes at its end.

    Raises:
        OSError: there is no room for it.
    """
    directory = tempfile.mkdtemp(prefix="delivery-metrics-")
    os.environ[_DIRECTORY] = directory
    atexit.register(_remove, directory, os.getpid())


def _remove(directory: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(directory, ignore_errors=True)


def is_shared() -> bool:
    """Whether the values of several processes are exposed together."""
    return bool(os.environ.get(_DIRECTORY))


def identify(index: int | str) -> None:
    """Name this process among those that share their values. One that takes the place of another
    one has its index and goes on with its counts, so files do not grow in number."""
    global _identity
    _identity = str(index).replace("_", "-")


def expose(accept: str = "", collectors: Iterable[Collect] = ()) -> tuple[bytes, str]:
    """Render all metrics.

    Args:
        accept: the request's header, which chooses between Prometheus's text and OpenMetrics.
        collectors: give further metrics, made for this exposition.

    Returns:
        The body and its content type.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    return encode(_Everything(collectors)), content_type


class _Everything:
    """The registry's metrics and those that collectors make, as one collector."""

    def __init__(self, collectors: Iterable[Collect]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        if is_shared():
            from prometheus_client.multiprocess import MultiProcessCollector

            registry()
            yield from sorted(
                MultiProcessCollector(None, os.environ[_DIRECTORY]).collect(),  # type: ignore[no-untyped-call]
                key=lambda metric: str(metric.name),
            )
        else:
            yield from registry().collect()
        for collect in self._collectors:
            yield from collect()
