"""``delivery bounce`` on a real ledger, and what ``delivery suppressions`` asks of a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from delivery.cli import http, main
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Outcome
from delivery.domain.records import Result as AttemptResult
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger, migrate
from delivery.testing import make_entry, make_event, make_id
from tests.unit.transports.mail.test_bounce_mail import OURS, bounce


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database that the commands open."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate.upgrade(url)
    monkeypatch.setenv("DELIVERY_DATABASE_URL", url)
    monkeypatch.setenv("DELIVERY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DELIVERY_AUDIT_SECRET", "a" * 40)
    return url


def run(*arguments: str, mail: bytes = b"") -> Result:
    return CliRunner().invoke(main, list(arguments), input=mail)


def test_a_bounce_on_standard_input_is_a_failed_attempt(url: str) -> None:
    ledger = SqlLedger(url)
    event = make_event(id=make_id(1), user_id="ada", seq=None, event_class=EventClass.CRITICAL)
    ledger.recording.commit([make_entry(event, hand_over=True)])
    ledger.contacts.put(Contact("ada", email="ada@example.org"))
    [claim] = ledger.chain.claim([event.id], 60.0)
    digest = ledger.digests.join(claim, "email", by=(), window=0.0, min_interval=0.0)
    ledger.chain.move_all([(claim, "email", ledger.now())])
    sending = ledger.digests.claim(digest.id, 60.0)
    assert sending is not None
    ledger.digests.end(sending, AttemptResult(Outcome.DELIVERED), retry_in=None)

    mail = bounce().replace(OURS.encode(), f"<{digest.id}@example.org>".encode())
    result = run("bounce", "--json", mail=mail)
    assert result.exit_code == 0, result.output
    [receipt] = json.loads(result.output)["receipts"]
    assert receipt == {"status": "bounced", "code": "5.1.1", "message": digest.id, "failed": 1}
    timeline = ledger.events.get(event.id)
    assert timeline is not None
    assert timeline.attempts[-1].outcome is Outcome.FAILED
    [one], _ = ledger.suppressions.page()
    assert one.address == "ada@example.org"
    ledger.close()


@pytest.mark.parametrize(
    ("mail", "code", "text"),
    [
        (bounce(), 0, "no message of ours"),
        (b"Subject: hello\r\n\r\n", 0, "no report"),
        (b"", 1, "empty"),
    ],
)
def test_another_mail_says_what_became_of_it(url: str, mail: bytes, code: int, text: str) -> None:
    result = run("bounce", mail=mail)
    assert result.exit_code == code
    assert text in result.output


def test_the_list_is_shown_and_an_address_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {
        "address": "ada@example.org",
        "channel": "email",
        "reason": "hard_bounce",
        "code": "5.1.1",
        "since": "2026-01-31T12:00:00Z",
        "expires_at": None,
    }
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.raw_path.decode()))
        if request.method == "DELETE":
            return httpx.Response(204)
        return httpx.Response(200, json={"suppressions": [one], "next": "7"})

    class Answered(http.Api):
        def __init__(self, url: str, token: str, **options: Any) -> None:
            super().__init__(url, token, transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(http, "Api", Answered)
    monkeypatch.setenv("DELIVERY_TOKEN", "t")
    shown = run("suppressions", "list", "--limit", "1")
    assert "ada@example.org" in shown.output
    assert "--after 7" in shown.output
    assert run("suppressions", "remove", "+49 170/x@x.org").exit_code == 0
    assert asked == [
        ("GET", "/v1/suppressions?limit=1"),
        ("DELETE", "/v1/suppressions/%2B49%20170%2Fx%40x.org"),
    ]
