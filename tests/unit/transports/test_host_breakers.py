"""A breaker for each host that users name: bounded, and each for itself."""

from __future__ import annotations

from delivery.domain.health import RECOVERY, THRESHOLD
from delivery.transports.host_breakers import CAPACITY, HostBreakers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fail(breakers: HostBreakers, name: str, times: int = THRESHOLD) -> None:
    for _ in range(times):
        breakers.report(name, False)


def test_one_dead_host_keeps_calls_from_no_other() -> None:
    breakers = HostBreakers()
    fail(breakers, "dead.example")
    assert not breakers.allows("dead.example")
    assert breakers.allows("live.example")


def test_after_the_recovery_one_probe_passes_and_never_with_an_event_that_failed() -> None:
    clock = Clock()
    breakers = HostBreakers(clock=clock)
    fail(breakers, "dead.example")
    clock.now = RECOVERY + 1
    assert not breakers.allows("dead.example", probe=False)
    assert breakers.allows("dead.example")
    assert not breakers.allows("dead.example")
    breakers.report("dead.example", True)
    assert breakers.allows("dead.example", probe=False)


def test_the_least_used_go_when_there_are_too_many() -> None:
    breakers = HostBreakers()
    fail(breakers, "used.example")
    for number in range(CAPACITY - 1):
        fail(breakers, f"{number}.example", 1)
    assert not breakers.allows("used.example")
    fail(breakers, "one.more.example", 1)
    assert len(breakers) == CAPACITY
    assert not breakers.allows("used.example"), "it was asked about a moment ago"


def test_a_host_that_works_takes_no_room() -> None:
    breakers = HostBreakers()
    breakers.report("live.example", True)
    assert len(breakers) == 0
