"""Providers that hang, refuse for a while, refuse one address, or take a message without saying so.

Real SMTP and HTTP servers, which count; the real transports and the real chain on SQLite.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from delivery.domain.policy import Policies
from delivery.domain.transports import Transport
from delivery.ledger import SqlLedger
from tests.faults.chain import (
    HURRIED,
    Advance,
    Chain,
    email_channel,
    opened,
    policies_of,
    sms_channel,
)
from tests.smtp_servers import Behaviour, smtp_server
from tests.web_server import Reply, Request, WebServer, web_server

PAUSE = {"base": 5.0, "max": 5.0, "jitter": 0.0}
EMAIL = {"channel": "email", "attempts": 4, "on_unknown": "retry", "backoff": PAUSE}


class World:
    """A ledger, a mail server and an SMS provider."""

    def __init__(self, ledger: SqlLedger, advance: Advance, mails: int, texts: WebServer) -> None:
        self.ledger = ledger
        self.texts = texts
        self._advance = advance
        self._channels: dict[str, Transport] = {
            "email": email_channel(mails),
            "sms": sms_channel(texts.url),
        }

    def chain(self, policies: Policies) -> Chain:
        return Chain(self.ledger, policies, self._advance, self._channels, HURRIED)


@pytest.fixture
def mails() -> Behaviour:
    return Behaviour()


@pytest.fixture
def ledger(sqlite_template: Path, tmp_path: Path) -> Iterator[SqlLedger]:
    """One database will do: what matters happens outside of it."""
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    with opened(f"sqlite:///{tmp_path / 'ledger.db'}") as made:
        yield made


@pytest.fixture
def world(ledger: SqlLedger, advance: Advance, mails: Behaviour) -> Iterator[World]:
    with smtp_server(mails) as server, web_server() as texts:
        texts.answer = Provider()
        yield World(ledger, advance, server.port, texts)
        if mails.stalled is not None:
            server.loop.call_soon_threadsafe(mails.stalled.set)


class Provider:
    """An SMS provider of Twilio's shape: what it took, and whether its answers arrive.

    Attributes:
        knows_keys: whether a repeated idempotency key is the same text.
        hangs: so many answers are lost after the text was taken.
    """

    def __init__(self, *, knows_keys: bool = False, hangs: int = 0) -> None:
        self.sent: list[str] = []
        self._keys: dict[str, str] = {}
        self._knows_keys = knows_keys
        self._hangs = hangs

    def __call__(self, request: Request) -> Reply:
        key = request.headers["Idempotency-Key"]
        if not (self._knows_keys and key in self._keys):
            self.sent.append(parse_qs(request.body.decode())["To"][0])
        self._keys[key] = f"SM{len(self.sent):032x}"
        if self._hangs:
            self._hangs -= 1
            return Reply(hang=True)
        return Reply(201, json.dumps({"sid": self._keys[key], "status": "queued"}).encode())


def ids_of(mails: Behaviour) -> list[str]:
    raw = [m.content if isinstance(m.content, bytes) else b"" for m in mails.messages]
    return [str(message_from_bytes(content)["Message-ID"]) for content in raw]


def test_a_mail_server_that_takes_a_mail_and_hangs_may_get_it_again_under_its_name(
    world: World, mails: Behaviour
) -> None:
    chain = world.chain(policies_of(EMAIL))
    chain.contact(email="ada@example.org")
    (event_id,) = chain.hand_over()
    mails.data = None
    chain.play([event_id], until=lambda: chain.tries(event_id))
    assert chain.tries(event_id) == [("email", "unknown")]
    mails.data = "250 OK"
    chain.play([event_id])
    assert chain.tries(event_id) == [("email", "unknown"), ("email", "delivered")]
    assert len(mails.messages) == 2
    assert len(set(ids_of(mails))) == 1


def test_a_mail_server_that_says_later_for_a_while_takes_the_mail_once(
    world: World, mails: Behaviour
) -> None:
    chain = world.chain(policies_of(EMAIL))
    chain.contact(email="ada@example.org")
    (event_id,) = chain.hand_over()
    mails.recipients["ada@example.org"] = "451 greylisted, come back"
    chain.play([event_id], until=lambda: len(chain.tries(event_id)) == 2)
    del mails.recipients["ada@example.org"]
    chain.play([event_id])
    assert [outcome for _, outcome in chain.tries(event_id)] == ["failed", "failed", "delivered"]
    assert len(mails.messages) == 1


def test_an_address_that_is_refused_for_good_costs_no_other_user_a_mail(
    world: World, mails: Behaviour
) -> None:
    chain = world.chain(policies_of(EMAIL, {"channel": "sms", "on_unknown": "skip"}))
    gone, *others = users = [f"user{n}" for n in range(8)]
    for user in users:
        chain.contact(user, email=f"{user}@example.org", phone=f"+4930123450{user[-1]}")
    mails.recipients[f"{gone}@example.org"] = "550 no such mailbox"
    ids = {user: chain.hand_over(user)[0] for user in users}
    # Many addresses that are refused, too: they say nothing about the server.
    more = [chain.hand_over(gone, run=f"run-{n}")[0] for n in range(8)]
    chain.play([*ids.values(), *more])
    tried = [chain.tries(event_id, "email") for event_id in (ids[gone], *more)]
    assert all(len(tries) == 1 for tries in tried), "and not a second time"
    outcomes = [outcome for [(_, outcome)] in tried]
    assert "failed" in outcomes
    assert set(outcomes) <= {"failed", "skipped"}, "once it is known, it is not tried"
    assert chain.tries(ids[gone], "sms") == [("sms", "delivered")], "the chain goes on"
    for user in others:
        assert chain.tries(ids[user], "email") == [("email", "delivered")]
    assert len(mails.messages) == len(others)


@pytest.mark.parametrize("policy", ["retry", "skip"])
def test_a_text_whose_answer_was_lost_is_never_sent_twice_where_the_provider_knows_its_key(
    world: World, policy: str
) -> None:
    world.texts.answer = provider = Provider(knows_keys=True, hangs=1)
    chain = world.chain(policies_of({"channel": "sms", "on_unknown": policy}))
    chain.contact(phone="+49301234567")
    (event_id,) = chain.hand_over()
    chain.play([event_id])
    assert provider.sent == ["+49301234567"]
    outcomes = [outcome for _, outcome in chain.tries(event_id)]
    assert outcomes == (["unknown"] if policy == "skip" else ["unknown", "delivered"])


def test_where_the_provider_knows_no_keys_there_is_one_duplicate_at_most_and_it_is_on_record(
    world: World,
) -> None:
    world.texts.answer = provider = Provider(hangs=2)
    chain = world.chain(policies_of({"channel": "sms", "on_unknown": "once", "attempts": 5}))
    chain.contact(phone="+49301234567")
    (event_id,) = chain.hand_over()
    chain.play([event_id])
    assert provider.sent == ["+49301234567"] * 2
    assert chain.tries(event_id) == [("sms", "unknown")] * 2
