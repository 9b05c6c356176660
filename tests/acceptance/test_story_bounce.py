"""Story 2c: the mail bounces. The text goes out at once, and the next event gets no mail."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from email import message_from_string
from pathlib import Path

import httpx
from standardwebhooks.webhooks import Webhook

from tests.acceptance.conftest import Service, Start
from tests.wire import eventually

EMAIL, PHONE = "ada@Example.org", "+4915112345678"
SECRET = "whsec_" + base64.b64encode(b"c" * 24).decode()
POLICIES = """
[class.critical]
types = ["agent_completed"]
ack_timeout = 0.2
retries = 0
ttl = 6000
[[class.critical.chain]]
channel = "email"
confirms = "link"
[[class.critical.chain]]
channel = "sms"
after = 3000.0
"""


def report(service: Service, kind: str, message_id: str) -> None:
    """The provider's callback."""
    body = json.dumps({"type": kind, "data": {"message_id": message_id, "to": [EMAIL.lower()]}})
    at = datetime.now(UTC)
    headers = {
        "webhook-id": "w",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("w", at, body),
    }
    url = f"{service.url}/v1/callbacks/email"
    assert httpx.post(url, content=body, headers=headers).status_code == 204


async def test_a_bounce_brings_the_text_forward_and_ends_the_mails(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "bounce.toml"
    file.write_text(POLICIES)
    service = start(POLICIES=str(file), EMAIL_CALLBACK_SECRET=SECRET)
    service.contact("ada", email=EMAIL, phone=PHONE)
    [first] = await asyncio.to_thread(service.emit, "ada", "run-1", ("agent_completed",))
    mails = await eventually(lambda: service.inbox("email", EMAIL), bool, timeout=30)
    assert service.inbox("sms", PHONE) == []

    message_id = str(message_from_string(mails[0]["body"])["Message-ID"])
    for kind in ("email.opened", "email.bounced", "email.bounced", "email.delivered"):
        await asyncio.to_thread(report, service, kind, message_id)
    await eventually(lambda: service.inbox("sms", PHONE), bool, timeout=30)
    shown = service.event(first)
    assert ("email", "failed") in service.outcomes(first)
    assert [one["status"] for one in shown["receipts"]] == ["opened", "bounced", "delivered"]
    assert shown["confirmations"] == []

    [second] = await asyncio.to_thread(service.emit, "ada", "run-2", ("agent_completed",))
    await eventually(lambda: ("email", "skipped") in service.outcomes(second), bool, timeout=30)
    assert len(service.inbox("email", EMAIL)) == 1
    listed = service.http.get("/v1/suppressions").json()["suppressions"]
    assert [(one["address"], one["reason"]) for one in listed] == [
        ("ada@example.org", "hard_bounce")
    ]
