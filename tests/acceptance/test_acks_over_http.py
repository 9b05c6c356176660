"""``POST /v1/acks`` counts as an acknowledgement for the sockets of its user, too."""

from __future__ import annotations

import asyncio

import httpx

from tests.acceptance.conftest import Start
from tests.wire import eventually, listening


async def test_an_ack_over_http_makes_room_in_flight(start: Start) -> None:
    service = start(ack_timeout=60.0, MAX_IN_FLIGHT="2")
    headers = {"Authorization": f"Bearer {service.token('ada')}"}
    async with (
        httpx.AsyncClient(base_url=service.url, headers=headers) as http,
        listening(service.url, service.token("ada"), acks=False, device="phone") as ada,
    ):
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        await ada.receive(2)
        answer = await http.post("/v1/acks", json={"ids": ids[:2]})
        assert answer.json() == {"confirmed": ids[:2], "unknown": []}
        await ada.receive(4)
        assert ada.ids == ids[:4]
        await ada.send({"type": "ack", "upto": 2})  # the phone has them as well

        def confirmations() -> list[str]:
            return [confirmation["by"] for confirmation in service.event(ids[0])["confirmations"]]

        await eventually(confirmations, lambda by: by == ["ada", "phone"])
        assert service.states(ids[:4]).count("confirmed") == 2
