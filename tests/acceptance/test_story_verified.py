"""Story 5: a user names an address. Its owner is asked once; only their agreement lets mails come.

Contacts are set in every way that there is: by the user's token, the command and both Python APIs.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest

import delivery
from tests.acceptance.conftest import Service, Start
from tests.processes import run_command
from tests.wire import eventually

MAIL = "ada@example.org"
DONE = ("agent_completed",)


def own(service: Service, **fields: object) -> dict[str, object]:
    """Set ada's contact with her own token."""
    headers = {"Authorization": f"Bearer {service.token('ada')}"}
    answer = httpx.put(f"{service.url}/v1/users/ada/contacts", json=fields, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def outcome(service: Service, event_id: str) -> tuple[str, str | None]:
    """How the mail's step ended, and why."""

    def seen() -> list[tuple[str, str | None]]:
        attempts = service.event(event_id)["attempts"]
        ended = [a for a in attempts if a["channel"] == "email" and a["outcome"] != "started"]
        return [(one["outcome"], one["error"]) for one in ended]

    return (await eventually(seen, bool, timeout=60))[0]


async def test_nothing_but_one_question_reaches_an_address_before_its_owner_agrees(
    start: Start,
) -> None:
    service = start()
    assert own(service, email=MAIL)["unverified"] == [MAIL]
    [asked] = await eventually(lambda: service.inbox("email", MAIL), bool, timeout=60)
    [first] = await asyncio.to_thread(service.emit, "ada", "run-1", DONE)
    assert await outcome(service, first) == ("skipped", "the address is not verified")
    own(service, email=MAIL)
    assert len(service.inbox("email", MAIL)) == 1

    found = re.search(re.escape(service.url) + r"/verify/[\w.~=-]+", asked["text"])
    assert found
    link = found.group()
    assert (await asyncio.to_thread(httpx.get, link)).status_code == 200
    assert own(service, email=MAIL)["unverified"] == [MAIL], "scanners follow links, too"
    assert (await asyncio.to_thread(httpx.post, link)).status_code == 200
    [second] = await asyncio.to_thread(service.emit, "ada", "run-2", DONE)
    assert (await outcome(service, second))[0] == "delivered"
    assert len(service.inbox("email", MAIL)) == 2


async def test_services_set_contacts_by_command_and_from_python(
    start: Start, tmp_path: Path
) -> None:
    service = start()
    token = service.said["service_token"]
    async with delivery.connect(service.url, token) as d:
        assert await d.contacts.get("bob") is None
        contact = await d.contacts.put("bob", email="bob@example.org", opt_out=("email:standard",))
        assert contact == {"email": "bob@example.org", "opt_out": ["email:standard"]}
        assert await d.contacts.get("bob") == contact
        with pytest.raises(delivery.InvalidEvent) as told:
            await d.contacts.put("bob", {"email": "no address"})
        assert told.value.field == "email"

    def run(*args: str) -> dict[str, object]:
        settings = {"URL": service.url, "TOKEN": token}
        done = run_command("contacts", *args, "--json", cwd=tmp_path, settings=settings)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    answer = await asyncio.to_thread(run, "set", "bob", "--phone", "+491701234567", "--unverified")
    assert answer == {
        **contact,
        "phone": "+491701234567",
        "verified": ["email"],
        "unverified": ["+491701234567"],
    }
    assert await asyncio.to_thread(run, "show", "bob") == answer
    [text] = await eventually(lambda: service.inbox("sms", "+491701234567"), bool, timeout=60)
    assert "/verify/" in text["text"]
    await asyncio.to_thread(run, "delete", "bob")

    def blocking() -> None:
        with delivery.connect_sync(service.url, token) as d:
            assert d.contacts.get("bob") is None
            assert d.contacts.put("bob", {"locale": "de"}) == {"locale": "de"}
            assert d.contacts.get("bob") == {"locale": "de"}
            d.contacts.delete("bob")
            assert d.contacts.get("bob") is None

    await asyncio.to_thread(blocking)
