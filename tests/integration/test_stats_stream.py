"""What the operators' page is told, the mails it frames, and the demonstration's requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from delivery.api import routes
from delivery.api.demo_agent import Visitor
from delivery.api.operators import stats_stream
from delivery.api.operators.outages import OutageBoard
from delivery.api.operators.snapshot import SharedSnapshot
from delivery.api.operators.stats_stream import StatsStream
from delivery.api.problems import problem_middleware
from delivery.domain.operators.figures import ChannelStats, Condition, Stats
from delivery.domain.operators.thresholds import Thresholds, parse_thresholds
from delivery.domain.transports import SinkMessage
from tests.integration.http_api_standins import CLIENT, EMIT, NOW, OPERATE, READ, Registry, World

Client = TestClient[web.Request, web.Application]
FINE = Stats(300, 1.0, 0.0, 2.0, 3.0, 9.0, {"confirmed": 5}, {}, 0.0)
MAIL = SinkMessage(
    "email",
    "u1@example.org",
    "Hi",
    "MIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n"
    "--b\nContent-Type: text/plain; charset=utf-8\n\nplain\n"
    "--b\nContent-Type: text/html; charset=utf-8\n\n<p>rich</p>\n--b--\n",
    NOW,
    "<digest-1@example.org>",
)


class Open(Registry):
    is_closing = False


class Agent:
    """Plays nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def visitor(self) -> Visitor:
        return Visitor("demo", "a-token", True)

    def start_run(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return "run-1"


class Fixed:
    """A ledger's figures and a clock that tests set."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 100.0
        self.stats = FINE
        self.snapshot = SharedSnapshot(world.access, lambda: self.now)
        journal: Any = world.journal
        self.stream = StatsStream(
            world.auth,
            self.snapshot,
            node="n1",
            registry=Open(),  # type: ignore[arg-type]
            thresholds=Thresholds(),
            outages=OutageBoard(world.access, journal, clock=lambda: self.now),
            clock=lambda: self.now,
        )

    @property
    def stats(self) -> Stats:
        """What the ledger tells."""
        return self.world.ledger.statistics.figures

    @stats.setter
    def stats(self, figures: Stats) -> None:
        self.world.ledger.statistics.figures = figures

    async def levels(self) -> dict[str, str]:
        """Condition -> level, of a fresh look."""
        self.now += 2.0
        found = (await self.stream._figures())["conditions"]
        return {one["name"]: one["level"] for one in found}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def fixed(world: World) -> Fixed:
    return Fixed(world)


@pytest.fixture
async def clients() -> AsyncIterator[list[Client]]:
    started: list[Client] = []
    yield started
    for client in started:
        await client.close()


async def serve(clients: list[Client], world: World, **changes: Any) -> Client:
    """A server with everything behind it."""
    app = web.Application(middlewares=[problem_middleware])
    handlers = world.handlers(**{"registry": Open(), **changes})
    routes.mount(app, handlers, handlers[0].background)
    client: Client = TestClient(TestServer(app))
    await client.start_server()
    clients.append(client)
    return client


async def message(response: Any) -> tuple[str, Any]:
    """The next message of a stream."""
    async with asyncio.timeout(5.0):
        block = (await response.content.readuntil(b"\n\n")).decode()
    name, data = block.strip().split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_all_conditions_are_fine_when_nothing_is_wrong(fixed: Fixed) -> None:
    assert set((await fixed.levels()).values()) == {"ok"}


async def test_a_low_delivery_rate_and_much_fallback_light_up(fixed: Fixed) -> None:
    fixed.stats = replace(FINE, delivery_rate=0.949, fallback_share=0.051)
    levels = await fixed.levels()
    assert (levels["delivery_rate"], levels["fallback_share"]) == ("bad", "bad")
    fixed.stats = replace(FINE, delivery_rate=0.95, fallback_share=0.05)
    assert set((await fixed.levels()).values()) == {"ok"}


async def test_a_share_of_few_events_says_nothing_neither_here_nor_to_operators(
    fixed: Fixed,
) -> None:
    fixed.stats = replace(FINE, events_per_s=1 / 300, delivery_rate=0.0, fallback_share=1.0)
    assert set((await fixed.levels()).values()) == {"ok"}


async def test_a_condition_that_is_switched_off_lights_nothing(fixed: Fixed) -> None:
    fixed.stream._thresholds = parse_thresholds({"delivery_rate": {"enabled": False}})
    fixed.stats = replace(FINE, delivery_rate=0.0)
    assert (await fixed.levels())["delivery_rate"] == "ok"


async def test_what_is_overdue_and_many_dead_events_light_up_as_they_alert(fixed: Fixed) -> None:
    fixed.stats = replace(FINE, oldest_overdue_s=61.0, states={"dead": 101})
    levels = await fixed.levels()
    assert (levels["overdue"], levels["dead_events"]) == ("bad", "bad")


async def test_a_gateway_that_has_just_started_shows_the_breaker_that_alerts(
    fixed: Fixed, world: World
) -> None:
    fixed.stats = replace(FINE, channels={"email": ChannelStats(4, 0, "open")})
    condition = Condition("breaker_open", 70.0, 60.0, ("email",))
    world.ledger.alerts.watch([condition])
    [group] = world.ledger.alerts.firing()
    world.ledger.alerts.notified(group.id)
    assert (await fixed.levels())["breaker_open"] == "bad"


async def test_a_breaker_lights_up_after_a_minute_though_it_probes_meanwhile(fixed: Fixed) -> None:
    for state in ("open", "half_open", "open"):
        fixed.stats = replace(FINE, channels={"email": ChannelStats(4, 0, state)})
        assert (await fixed.levels())["breaker_open"] == "ok"
        fixed.now += 25.0
    assert (await fixed.levels())["breaker_open"] == "bad"
    fixed.stats = replace(FINE, channels={"email": ChannelStats(4, 1, "closed")})
    assert (await fixed.levels())["breaker_open"] == "ok"


async def test_a_node_in_performance_mode_is_named(fixed: Fixed, world: World) -> None:
    for node, seconds in (("n2", 3.0), ("n3", 300.0), ("n4", None)):
        world.ledger.nodes.beat(node, "gateway", 4, {"performance_s": seconds})
    fixed.now += 2.0
    found = (await fixed.stream._figures())["conditions"]
    [mode] = [one for one in found if one["name"] == "performance_mode"]
    assert mode == {"name": "performance_mode", "level": "warn", "where": ["n2"]}


async def test_the_stream_begins_with_the_hour_and_follows_with_figures(
    clients: list[Client], world: World
) -> None:
    world.ledger.nodes.beat("n2", "gateway", 4, {"backlog": 1})
    client = await serve(clients, world)
    history: dict[str, Any] = {"samples": []}
    async with asyncio.timeout(10.0):
        while not history["samples"]:  # the first one is taken beside the start
            response = await client.get("/v1/stats/stream", headers=READ)
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            name, history = await message(response)
            assert name == "history"
    assert {sample["delivery_rate"] for sample in history["samples"]} == {0.99}
    name, figures = await message(response)
    assert name == "stats"
    assert figures["stats"]["connections"] == 7
    assert [node["node"] for node in figures["nodes"]] == ["n2"]
    assert len(figures["conditions"]) == 8


async def test_a_ledger_that_is_slow_to_tell_is_asked_less_often(
    fixed: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(window_s: int = 300) -> Stats:
        fixed.now += 2.0
        return fixed.stats

    monkeypatch.setattr(fixed.world.ledger.statistics, "stats", slow)
    first = await fixed.snapshot.get()
    fixed.now += 39.0
    assert await fixed.snapshot.get() is first
    fixed.now += 2.0
    assert await fixed.snapshot.get() is not first


async def test_while_the_figures_rest_the_page_is_told_to_read_its_list(
    fixed: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = 2.0

    def told(window_s: int = 300) -> Stats:
        fixed.now += took
        return FINE

    monkeypatch.setattr(fixed.world.ledger.statistics, "stats", told)
    assert (await fixed.stream._figures())["moving"]
    took = 0.0
    fixed.now += 39.0  # still the old figures
    assert (await fixed.stream._figures())["moving"]
    fixed.now += 2.0
    assert not (await fixed.stream._figures())["moving"]


async def test_the_stream_speaks_only_when_something_changed(
    clients: list[Client], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_stream, "PUSH_EVERY", 0.01)
    monkeypatch.setattr("delivery.api.operators.snapshot.FRESH_SECONDS", 0.0)
    client = await serve(clients, world)
    response = await client.get("/v1/stats/stream", headers=READ)
    assert (await message(response))[0] == "history"
    assert (await message(response))[1]["nodes"] == []
    world.ledger.nodes.beat("n2", "gateway", 4, {})
    assert len((await message(response))[1]["nodes"]) == 1  # and nothing in between


async def test_the_stream_ends_when_the_node_drains(
    clients: list[Client], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_stream, "PUSH_EVERY", 0.01)
    registry = Open()
    client = await serve(clients, world, registry=registry)
    response = await client.get("/v1/stats/stream", headers=READ)
    await message(response)
    registry.is_closing = True
    async with asyncio.timeout(5.0):
        await response.content.read()


async def test_the_stream_says_that_the_ledger_is_away_and_goes_on(
    clients: list[Client], world: World
) -> None:
    world.ledger.go_away()
    client = await serve(clients, world)
    response = await client.get("/v1/stats/stream", headers=READ)
    await message(response)
    told = (await message(response))[1]
    assert (told["stats"], told["moving"]) == (None, False)
    [outage] = told["outages"]
    assert (outage["service"], outage["text"]) == ("ledger", "the ledger does not answer")


@pytest.mark.parametrize(("headers", "status"), [({}, 401), (CLIENT, 403), (EMIT, 403)])
async def test_the_stream_is_for_readers(
    clients: list[Client], world: World, headers: dict[str, str], status: int
) -> None:
    client = await serve(clients, world)
    assert (await client.get("/v1/stats/stream", headers=headers)).status == status


async def test_too_many_readers_are_refused(
    clients: list[Client], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_stream, "MAX_READERS", 1)
    client = await serve(clients, world)
    first = await client.get("/v1/stats/stream", headers=READ)
    await message(first)
    assert (await client.get("/v1/stats/stream", headers=READ)).status == 429


class Box:
    def messages(self) -> list[SinkMessage]:
        sms = SinkMessage("sms", "+15005550010", "", "text", NOW, "SM1")
        return [sms, MAIL]


async def test_a_mail_is_framed_by_its_ticket_without_script_or_network(
    clients: list[Client], world: World
) -> None:
    client = await serve(clients, world, inbox=Box())
    listed = (await (await client.get("/v1/inbox", headers=READ)).json())["messages"]
    assert [one["view"] is None for one in listed] == [True, False]
    response = await client.get(f"/{listed[1]['view']}")
    assert response.status == 200
    assert (await response.text()).strip() == '<base target="_blank"><p>rich</p>'
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy


async def test_a_guessed_ticket_opens_nothing(clients: list[Client], world: World) -> None:
    client = await serve(clients, world, inbox=Box())
    for ticket in ("0" * 64, "%C3%BC", "digest-1"):
        assert (await client.get(f"/inbox/{ticket}")).status == 404


async def test_the_demonstration_hands_out_a_part_and_starts_runs(
    clients: list[Client], world: World
) -> None:
    agent = Agent()
    client = await serve(clients, world, agent=agent)
    answer = await client.post("/v1/demo/session", headers=OPERATE)
    assert await answer.json() == {"user_id": "demo", "token": "a-token", "quick": True}
    answer = await client.post("/v1/demo/runs", json={"prompt": " why? "}, headers=EMIT)
    assert answer.status == 202
    assert await answer.json() == {"run_id": "run-1"}
    assert agent.prompts == ["why?"]
    for prompt in ("", "   ", "x" * 501, 7, None):
        refused = await client.post("/v1/demo/runs", json={"prompt": prompt}, headers=EMIT)
        assert refused.status == 422


async def test_the_demonstration_is_for_services_only(clients: list[Client], world: World) -> None:
    client = await serve(clients, world, agent=Agent())
    for path in ("/v1/demo/session", "/v1/demo/runs"):
        assert (await client.post(path, json={"prompt": "x"})).status == 401
        assert (await client.post(path, json={"prompt": "x"}, headers=CLIENT)).status == 403
        assert (await client.post(path, json={"prompt": "x"}, headers=READ)).status == 403


async def test_without_an_agent_there_is_no_demonstration(
    clients: list[Client], world: World
) -> None:
    client = await serve(clients, world)
    assert (await client.post("/v1/demo/session", headers=OPERATE)).status == 404
    run = await client.post("/v1/demo/runs", json={"prompt": "x"}, headers=EMIT)
    assert run.status == 404
