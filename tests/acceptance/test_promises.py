"""One test per promise of the README, on whole processes over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

import delivery
from delivery.domain.event import AGENT_TYPES
from tests.acceptance.conftest import Service, Start
from tests.servers import redis_server
from tests.web_server import web_server
from tests.wire import eventually, listening

ENDS = """
[class.critical]
types = ["ends_dead"]
ack_timeout = 0.3
[[class.critical.chain]]
channel = "alert"
[class.auth]
types = ["ends_expired"]
ack_timeout = 0.3
ttl = 1.0
[[class.auth.chain]]
channel = "direct"
after = 30.0
[class.standard]
ack_timeout = 0.3
ttl = 60
[[class.standard.chain]]
channel = "database"
"""


def post_until_killed(service: Service, accepted: list[str]) -> threading.Thread:
    """Post batch after batch and note what was accepted, until the service is gone."""

    def produce() -> None:
        with contextlib.suppress(httpx.HTTPError):
            for number in range(10_000):
                accepted.extend(service.emit("ada", f"run-{number}"))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    return thread


async def test_promise_1_accepted_means_durable(start: Start) -> None:
    service = start(ack_timeout=60.0)
    accepted: list[str] = []
    producer = post_until_killed(service, accepted)
    await eventually(lambda: len(accepted), lambda count: count > 200)
    service.process.kill()
    producer.join(20)
    again = start(ack_timeout=60.0)
    async with listening(again.url, again.token("ada")) as listener:
        await listener.receive(len(accepted), timeout=30)
        assert set(accepted) <= set(listener.ids)


async def test_promise_1_holds_while_the_ledger_is_away(start: Start) -> None:
    service = start(ack_timeout=60.0)
    # mode=rw: a lock on a file that this very line made would prove nothing.
    file = f"file:{service.data_dir / 'delivery.sqlite3'}?mode=rw"
    with contextlib.closing(sqlite3.connect(file, uri=True)) as intruder:
        intruder.isolation_level = None
        intruder.execute("BEGIN EXCLUSIVE")  # another process holds the database
        service.http.timeout = httpx.Timeout(30.0)
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        service.process.kill()
        assert intruder.execute("SELECT count(*) FROM events").fetchone() == (0,), "only the spool"
        intruder.execute("ROLLBACK")
    again = start(ack_timeout=60.0)
    async with listening(again.url, again.token("ada")) as listener:
        await eventually(lambda: listener.ids, lambda seen: set(ids) <= set(seen), timeout=30)
        await eventually(lambda: again.states(ids), lambda states: set(states) == {"confirmed"})


async def test_promise_2_every_event_ends(start: Start, tmp_path: Path) -> None:
    policies = tmp_path / "ends.toml"
    policies.write_text(ENDS)
    service = start(POLICIES=str(policies))
    dead, expired, parked = service.emit(
        "nobody", "run-1", ("ends_dead", "ends_expired", "ends_parked")
    )
    async with listening(service.url, service.token("ada")) as listener:
        [confirmed] = await asyncio.to_thread(service.emit, "ada", "run-2", ("ends_confirmed",))
        await listener.receive(1)
        await eventually(
            lambda: service.states([confirmed, dead, expired, parked]),
            lambda states: states == ["confirmed", "dead", "expired", "parked"],
            timeout=30,
        )
    assert service.event(parked)["due_at"] == service.event(parked)["expires_at"]
    for event_id in (confirmed, dead, expired):
        assert service.event(event_id)["due_at"] is None


async def test_promise_3_only_its_user(start: Start) -> None:
    service = start(ack_timeout=60.0)
    eve = httpx.AsyncClient(
        base_url=service.url, headers={"Authorization": f"Bearer {service.token('eve')}"}
    )
    async with eve:
        async with (
            listening(service.url, service.token("ada"), acks=False) as ada,
            listening(service.url, service.token("eve")) as spy,
        ):
            ids = await asyncio.to_thread(service.emit, "ada", "run-1")
            own = await asyncio.to_thread(service.emit, "eve", "run-1", ("agent_started",))
            await ada.receive(5)
            await spy.until(lambda: own[0] in spy.ids)
            await spy.send({"type": "ack", "ids": [ids[0]]})
            await spy.until(lambda: spy.frames[-1]["type"] == "error")
            assert spy.frames[-1]["code"] == "unknown_ack"
            assert spy.ids == own
        assert (await eve.get(f"/v1/events/{ids[0]}")).status_code == 404
        assert (await eve.get("/v1/events", params={"user_id": "ada"})).status_code == 403
        assert (await eve.post("/v1/acks", json={"ids": ids})).json() == {
            "confirmed": [],
            "unknown": ids,
        }
        assert (await eve.put("/v1/users/ada/contacts", json={})).status_code == 403
        assert (await eve.get("/v1/users/ada/contacts")).status_code == 403
    assert "confirmed" not in service.states(ids)


async def test_promise_4_once_to_the_handler_in_order(start: Start) -> None:
    service = start(ack_timeout=60.0)
    handled: list[str] = []
    wanted: list[str] = []
    store = delivery.MemoryStore()

    async def handle_some(count: int) -> None:
        """Handle a few events, then go away without a word."""
        async with delivery.Client(service.url, service.token("ada"), store=store) as client:
            async for event in client:
                handled.append(event.id)
                count -= 1
                if not count:
                    return

    for number in range(6):
        wanted += await asyncio.to_thread(service.emit, "ada", "run", AGENT_TYPES)
        async with asyncio.timeout(20):
            await handle_some(3 if number < 5 else len(wanted) - len(handled))
    assert handled == wanted
    await eventually(lambda: service.states(wanted), lambda states: set(states) == {"confirmed"})


async def emit_to_handler(service: Service, count: int) -> list[float]:
    """Milliseconds from the request to the arrival, one event at a time."""
    samples = []
    async with listening(service.url, service.token("ada")) as listener:
        for number in range(count):
            started = time.perf_counter()
            await asyncio.to_thread(service.emit, "ada", "run", ("agent_thinking",))
            await listener.receive(number + 1)
            samples.append((time.perf_counter() - started) * 1000)
    return samples


async def test_promise_5_the_fast_path_never_waits(start: Start) -> None:
    with redis_server() as broker:
        service = start(ack_timeout=60.0, BROKER_URL=broker.url)
        calm = await emit_to_handler(service, 30)
        broker.stop()  # frozen, not gone: connects succeed and nothing is ever answered
        try:
            # A user who is away needs the broker at once; one who is connected must not notice.
            away = await asyncio.to_thread(service.emit, "bob", "run-1")
            frozen = await emit_to_handler(service, 30)
        finally:
            broker.cont()
        assert statistics.median(frozen) < 3 * statistics.median(calm) + 20
        assert max(frozen) < 1_000
        await eventually(
            lambda: service.outcomes(away[0]), lambda seen: ("direct", "failed") in seen, timeout=60
        )


async def test_promise_6_one_ledger_for_every_way_in(start: Start) -> None:
    service = start(alert_after=0.2)
    token = service.said["service_token"]
    service.emit("ada", "by-http", ("agent_started",))
    async with delivery.connect(service.url, token) as remote:
        await remote.emitter("ada", "by-python").emit_agent_started("planner")

    def blocking() -> None:
        with delivery.connect_sync(service.url, token) as remote:
            remote.emitter("ada", "by-blocking").emit_agent_started("planner")

    await asyncio.to_thread(blocking)

    def states() -> dict[str, Any]:
        listed = service.http.get("/v1/events", params={"user_id": "ada"}).json()["events"]
        return {event["run_id"]: event["state"] for event in listed}

    ways = ("by-http", "by-python", "by-blocking")
    await eventually(states, lambda seen: seen == dict.fromkeys(ways, "dead"), timeout=30)
    listed = service.http.get("/v1/events", params={"user_id": "ada"}).json()["events"]
    chains = {tuple(service.outcomes(event["id"])) for event in listed}
    assert len(chains) == 1, "every way in takes the same chain"


async def test_promise_7_losing_the_broker_loses_nothing(start: Start) -> None:
    with redis_server() as broker:
        service = start(alert_after=1.0, BROKER_URL=broker.url)
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        with redis.Redis.from_url(broker.url) as admin:
            for _ in range(10):
                admin.flushall()  # whatever is queued is gone
        broker.kill()
        broker.restart()
        more = await asyncio.to_thread(service.emit, "ada", "run-2")
        await eventually(
            lambda: service.states(ids + more), lambda states: set(states) == {"dead"}, timeout=60
        )


@pytest.mark.timeout(120)
async def test_promise_8_no_storm(start: Start) -> None:
    with web_server() as receiver:
        # What misses the first mail waits for the second, so the interval bounds this test.
        service = start(
            email_after=0.2, alert_after=1.0, min_interval=10.0, ALERTMANAGER_URL=receiver.url
        )
        service.contact("ada", email="ada@example.org")
        ids = [i for number in range(8) for i in service.emit("ada", f"run-{number}")]
        await eventually(
            lambda: service.states(ids), lambda states: set(states) == {"dead"}, timeout=80
        )
        mails = service.inbox("email", "ada@example.org")
        assert 1 <= len(mails) <= 2, "eight runs are not eight mails"
        mailed = [i for i in ids if ("email", "delivered") in service.outcomes(i)]
        assert len(mailed) >= len(AGENT_TYPES)
        posts = [json.loads(r.body) for r in receiver.requests if r.path.endswith("/alerts")]
        labels = {json.dumps(alert["labels"], sort_keys=True) for post in posts for alert in post}
        about_events = {one for one in labels if "DeliveryThresholds" not in one}
        assert len(about_events) == 1, "forty dead events are one alert"
