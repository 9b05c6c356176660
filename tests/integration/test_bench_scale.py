"""`delivery bench scale`: subscribers whose lines break, and what the command shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from delivery.bench.scale import parts
from delivery.bench.scale.subscribers import Crowd
from delivery.cli import main
from delivery.testing import make_event, make_id
from tests.contract_server import ContractServer
from tests.waiting import until


async def test_a_reset_subscriber_comes_back_and_counts_each_event_once() -> None:
    async with ContractServer().running() as server:
        server.events = [make_event(id=make_id(n), seq=n).as_wire() for n in (1, 2)]
        crowd = Crowd([server.url], ["a", "b"], away=0.0)
        crowd.begin()
        await until(lambda: len(crowd.present) == 2 and crowd.received == 4)
        server.events.append(make_event(id=make_id(3), seq=3).as_wire())
        crowd.reset(1.0)
        await until(lambda: len(crowd.present) == 2 and crowd.received == 6)
        assert crowd.resets == 2
        assert len(crowd.waits) == 6
        crowd.close()
        crowd.reset(1.0)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["bench", "scale", *args])


def test_each_part_gets_the_sizes_and_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(sizes: parts.Sizes) -> list[dict[str, Any]]:
        return [{"runs": count, "gateway_us": sizes.events / 10} for count in sizes.runs]

    monkeypatch.setitem(parts.PARTS, "runs", runs)
    shown = run("--part", "runs", "--runs", "1,1000", "--events", "500")
    assert shown.exit_code == 0, shown.output
    assert "1,000" in shown.output
    assert "50.0" in shown.output
    report = json.loads(run("--part", "runs", "--runs", "3", "--json").output)
    assert report["runs"] == [{"runs": 3, "gateway_us": 5000.0}]
    for wrong in (("--runs", "0"), ("--connections", "many"), ("--part", "nonsense")):
        assert run(*wrong).exit_code == 2
