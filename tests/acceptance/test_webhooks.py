"""An application's endpoint is told by a service in a process of its own."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import httpx

from delivery.cli.webhooks.listener import Listener, Received
from tests.acceptance.conftest import Start
from tests.waiting import until_blocking

KEY = b"k" * 32


def test_an_application_is_told_that_its_user_has_an_event(start: Start, tmp_path: Path) -> None:
    got: list[Received] = []
    listener = Listener("127.0.0.1", 0, [KEY], status=204, show=got.append)
    listening = threading.Thread(target=listener.run)
    listening.start()
    url = f"http://127.0.0.1:{listener.port}/hooks"
    file = tmp_path / "webhooks.toml"
    secret = "whsec_" + base64.b64encode(KEY).decode()
    file.write_text(f'[webhook.app]\nurl = "{url}"\nsecret = "{secret}"\nallow_private = true\n')
    try:
        service = start(ack_timeout=60.0, WEBHOOKS=str(file))
        [event_id, *_] = service.emit("ada", "run-1")
        answer = httpx.post(
            f"{service.url}/v1/acks",
            json={"ids": [event_id]},
            headers={"Authorization": f"Bearer {service.token('ada')}"},
            timeout=30,
        )
        assert answer.json()["confirmed"] == [event_id]
        until_blocking(lambda: len(got) == 1, 60)
        assert (got[0].fault, got[0].body["type"]) == (None, "event.confirmed")
        assert got[0].body["data"]["id"] == event_id
        [listed] = service.http.get("/v1/webhooks").json()["webhooks"]
        assert (listed["name"], listed["state"], listed["url"]) == ("app", "on", url)
    finally:
        listener.stop()
        listening.join(30)
        listener.close()
