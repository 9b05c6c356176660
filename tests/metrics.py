"""How this process's metrics rose since a test began: they are shared by all tests of a process."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from delivery.telemetry.instruments import expose

Key = tuple[str, frozenset[tuple[str, str]]]


class Counts:
    """Counts since it was made."""

    def __init__(self) -> None:
        self._before = samples(expose()[0].decode())

    def rise(self, name: str, **labels: str) -> float:
        """By how much a sample rose."""
        key = name, frozenset(labels.items())
        return samples(expose()[0].decode()).get(key, 0.0) - self._before.get(key, 0.0)


def samples(text: str) -> dict[Key, float]:
    """The samples of an exposition, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }
