"""Story 2b: the user wants no more mails. One click of the mail program ends them (RFC 8058)."""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import httpx

from tests.acceptance.conftest import Service, Start
from tests.policies import quick_policies
from tests.smtp_servers import Behaviour, smtp_server
from tests.wire import eventually

EMAIL = "ada@example.org"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
DONE = ("agent_completed",)


async def outcome_of_email(service: Service, event_id: str) -> str:
    """How its mail ended."""
    seen = await eventually(
        lambda: dict(service.outcomes(event_id)).get("email"),
        lambda outcome: outcome in ("delivered", "failed", "skipped"),
        timeout=30,
    )
    return str(seen)


def only(mails: Behaviour) -> EmailMessage:
    """The one mail that went out."""
    (taken,) = mails.messages
    mail = message_from_bytes(taken.content, policy=default)
    assert isinstance(mail, EmailMessage)
    return mail


async def test_one_click_of_the_mail_program_ends_the_mails_and_nothing_else(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "opt-out.toml"
    file.write_text(
        quick_policies(min_interval=0).replace(
            'confirms = "link"', 'confirms = "link"\nrespects = ["opt_out"]'
        )
    )
    mails = Behaviour()
    with smtp_server(mails) as server:
        url = f"smtp://127.0.0.1:{server.port}?tls=none"
        service = start(POLICIES=str(file), SMTP_URL=url, MAIL_FROM="delivery@example.org")
        service.contact("ada", email=EMAIL, phone="+4915112345678")
        [first] = await asyncio.to_thread(service.emit, "ada", "run-1", DONE)
        assert await outcome_of_email(service, first) == "delivered"

        mail = only(mails)
        assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        link = str(mail["List-Unsubscribe"]).strip("<>")
        assert (await asyncio.to_thread(httpx.get, link)).status_code == 200
        assert "opt_out" not in contacts(service), "a mail scanner opens links, too"

        # As a mail provider sends it: from its servers, without a session. RFC 8058, section 3.2.
        # Either encoding is allowed.
        for body in ({"files": {"List-Unsubscribe": (None, "One-Click")}}, {"data": ONE_CLICK}):
            answer = await asyncio.to_thread(lambda body=body: httpx.post(link, **body))
            assert answer.status_code == 200
        assert contacts(service)["opt_out"] == ["email"]

        [second] = await asyncio.to_thread(service.emit, "ada", "run-2", DONE)
        assert await outcome_of_email(service, second) == "skipped"
        assert len(mails.messages) == 1
        assert service.states([first, second]) == ["falling_back"] * 2


def contacts(service: Service) -> dict[str, object]:
    """What is stored about the user."""
    answer = service.http.get("/v1/users/ada/contacts")
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found
