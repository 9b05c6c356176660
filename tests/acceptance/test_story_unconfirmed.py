"""Story 3: no confirmation comes. Operators get one alert; the events end dead and can be
replayed."""

from __future__ import annotations

import asyncio
import json

from tests.acceptance.conftest import Start
from tests.web_server import WebServer, web_server
from tests.wire import eventually, listening


def alerts(receiver: WebServer) -> list[dict[str, object]]:
    posts = [r for r in receiver.requests if r.path.endswith("/api/v2/alerts")]
    return [alert for post in posts for alert in json.loads(post.body)]


async def test_exhausted_chains_make_one_grouped_alert_and_replay_works(start: Start) -> None:
    with web_server() as receiver:
        service = start(alert_after=0.3, ALERTMANAGER_URL=receiver.url)
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        await eventually(
            lambda: service.states(ids), lambda states: set(states) == {"dead"}, timeout=40
        )
        assert all(("alert", "delivered") in service.outcomes(event_id) for event_id in ids)
        told = alerts(receiver)
        labels = {json.dumps(alert["labels"], sort_keys=True) for alert in told}
        assert len(labels) == 1, "one group, however many events"
        # Figures are a second old at most, unless reading them takes long.
        await eventually(
            lambda: [a["count"] for a in service.http.get("/v1/stats").json()["alerts"]],
            lambda counts: counts == [5],
            timeout=30,
        )

        answer = service.http.post("/v1/replay", json={"state": "dead", "dry_run": True})
        assert answer.json() == {"matched": 5, "replayed": 0}
        async with listening(service.url, service.token("ada")) as listener:
            # Dead events are unconfirmed: a client that connects still gets them.
            await listener.receive(5)
            assert listener.ids == ids
            await eventually(
                lambda: service.states(ids), lambda states: set(states) == {"confirmed"}
            )
        refused = service.http.post(f"/v1/events/{ids[0]}/replay", json={})
        assert refused.status_code == 409

        await eventually(
            lambda: alerts(receiver),
            lambda told: any(alert.get("endsAt") for alert in told),
            timeout=30,
        )
        assert service.http.get("/v1/stats").json()["alerts"] == []


async def test_a_replay_delivers_dead_events_anew(start: Start) -> None:
    service = start(alert_after=0.2)
    ids = await asyncio.to_thread(service.emit, "ada", "run-1", ("agent_completed",))
    await eventually(lambda: service.states(ids), lambda states: states == ["dead"], timeout=40)
    answer = service.http.post(f"/v1/events/{ids[0]}/replay", json={})
    assert answer.status_code == 202
    assert answer.json() == {"id": ids[0], "state": "accepted"}
    assert service.event(ids[0])["generation"] == 2
    await eventually(lambda: service.states(ids), lambda states: states == ["dead"], timeout=40)
    seen = service.outcomes(ids[0])
    assert seen.count(("alert", "skipped")) == 2, "no receiver of alerts is set"
