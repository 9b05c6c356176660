"""The wall clock of one node steps by an hour, both ways: due times are the ledger's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster, Gateway
from tests.processes import Process
from tests.wire import eventually, listening

pytestmark = pytest.mark.timeout(120)

HOUR = 3_600.0
THINKING = ("agent_thinking",)
SCRIPT = Path(__file__).parent / "skewed_clock.py"


class Skewed(Gateway):
    """A gateway whose wall clock is what ``step`` makes of it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(cluster, "skewed")
        self._file = folder / "ahead"
        self.step(0.0)
        command = [sys.executable, str(SCRIPT), str(self._file)]
        args = ("gateway", "--json", "--port", str(self.port))
        settings = cluster.settings | self.settings
        self.process = Process([*command, *args], folder, settings, "skewed")

    def step(self, seconds: float) -> None:
        """The clock is so many seconds ahead from now on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._file)


@pytest.fixture
def skewed(cluster: Cluster, tmp_path: Path) -> Iterator[Skewed]:
    gateway = Skewed(cluster, tmp_path)
    cluster.gateways.append(gateway)
    try:
        yield gateway.ready()  # type: ignore[misc]
    finally:
        cluster.gateways.remove(gateway)
        gateway.running.kill()


async def test_an_hour_forth_and_back_changes_no_due_time_and_sends_nothing_twice(
    cluster: Cluster, skewed: Skewed
) -> None:
    number = cluster.gateways.index(skewed)
    away = {step: f"away-{step:+.0f}" for step in (HOUR, -HOUR)}
    sent: list[str] = []
    ids: dict[float, list[str]] = {}
    async with listening(skewed.url, cluster.token("stepper")) as page:
        for step in (0.0, HOUR, -HOUR):
            skewed.step(step)
            for gateway in (number, 0):  # from the wrong clock and to it
                sent += await asyncio.to_thread(
                    cluster.emit, "stepper", f"run{step}", THINKING, gateway=gateway
                )
                await page.until(lambda newest=sent[-1]: newest in page.ids)
            if step in away:
                user = away[step]
                await asyncio.to_thread(cluster.contact, user, email=f"{user}@example.org")
                ids[step] = await asyncio.to_thread(cluster.emit, user, "run", gateway=number)
        await eventually(
            lambda: cluster.states(sent), lambda seen: set(seen) == {"confirmed"}, 20.0
        )
        for step, user in away.items():
            await eventually(
                lambda user=user: cluster.mails_to(f"{user}@example.org"), lambda m: m, 20.0
            )
            at = datetime.fromisoformat(cluster.event(ids[step][0])["at"])
            assert abs((at - datetime.now(UTC)).total_seconds() - step) < 60.0, "it did step"
            states = set(cluster.states(ids[step]))
            assert states <= {"falling_back", "dead"}, "nothing expired before its time"
        # A busy machine may acknowledge too late, which costs a resend and nothing else.
        assert list(dict.fromkeys(page.ids)) == sent, "in order, over one connection"
        assert page.close_code is None
    for user in away.values():
        assert len(cluster.mails_to(f"{user}@example.org")) == 1
