"""Whose fault a failed attempt is: a message's or a recipient's opens no provider's breaker.

Real servers behind the real transports; the real chain on SQLite.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from delivery.domain.health import RECOVERY, THRESHOLD, BreakerState
from delivery.domain.lifecycle import State
from delivery.domain.transports import Message, Taken, Transport
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from delivery.testing import make_entry
from delivery.transports.notify import open_target
from delivery.transports.push import PushTransport
from delivery.transports.rendering.render import Renderer
from tests.faults.chain import Advance, Chain, email_channel, opened, policies_of, sms_channel
from tests.smtp_servers import Behaviour, smtp_server
from tests.unit.tasks.fakes import make_event
from tests.web_server import Reply, Request, WebServer, web_server

ONE_MAIL = {"channel": "email", "attempts": 1, "confirms": "accepted"}
DEEP = b'{"agent":' + b'{"a":' * 969 + b"1" + b"}" * 970


@pytest.fixture
def ledger(sqlite_template: Path, tmp_path: Path) -> Iterator[SqlLedger]:
    """One database will do: what matters happens outside of it."""
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    with opened(f"sqlite:///{tmp_path / 'ledger.db'}") as made:
        yield made


@pytest.fixture
def texts() -> Iterator[WebServer]:
    with web_server() as running:
        running.answer = lambda request: Reply(201, b'{"sid": "SM1"}')
        yield running


def chain_of(
    ledger: SqlLedger, advance: Advance, step: dict[str, Any], channel: Transport
) -> Chain:
    chain = Chain(ledger, policies_of(step), advance, {channel.name: channel})
    for user in ("ada", "bob"):
        chain.contact(user, email=f"{user}@example.org", phone="+491701234567")
    return chain


def state(ledger: SqlLedger, name: str) -> BreakerState:
    return ledger.breakers.get(name).state


def hand_over_deep(ledger: SqlLedger, count: int) -> list[str]:
    """What an older version accepted."""
    raw = msgspec.Raw(DEEP)
    events = [make_event("ada", f"deep-{n}", data={}).evolve(raw_data=raw) for n in range(count)]
    ledger.recording.commit([make_entry(event, hand_over=True, ttl=3_600.0) for event in events])
    return [event.id for event in events]


@pytest.mark.parametrize("channel", ["email", "sms"])
def test_data_that_cannot_be_rendered_is_its_messages_fault(
    ledger: SqlLedger, advance: Advance, texts: WebServer, channel: str
) -> None:
    with smtp_server(Behaviour()) as server:
        made: Transport = (
            email_channel(server.port) if channel == "email" else sms_channel(texts.url)
        )
        step = {**ONE_MAIL, "channel": channel}
        chain = chain_of(ledger, advance, step, made)
        made._renderer = Breaking()  # type: ignore[attr-defined]
        ids = hand_over_deep(ledger, THRESHOLD + 1)
        chain.play(ids)
        assert {tuple(chain.tries(one)) for one in ids} == {((channel, "failed"),)}
        assert state(ledger, channel) is BreakerState.CLOSED
        made._renderer = Renderer()  # type: ignore[attr-defined]
        good = chain.hand_over("bob")
        chain.play(good)
        assert chain.state(good[0]) is State.CONFIRMED


class Breaking(Renderer):
    """Cannot make a message, as data nested too deeply could not be."""

    def digest(self, message: Message) -> Any:
        return nested(0)

    def text(self, message: Message, sender: str = "") -> Any:
        return nested(0)


def nested(depth: int) -> str:
    return nested(depth + 1)


@pytest.mark.parametrize(
    "answer", ["450 4.2.1 mailbox busy", "451 4.7.1 greylisted", "452 4.2.2 full", "550 5.1.1 who?"]
)
def test_a_recipient_that_is_refused_opens_no_breaker(
    ledger: SqlLedger, advance: Advance, answer: str
) -> None:
    behaviour = Behaviour(recipients={"ada@example.org": answer})
    with smtp_server(behaviour) as server:
        chain = chain_of(ledger, advance, ONE_MAIL, email_channel(server.port))
        ids = [*(chain.hand_over("ada", run=f"r{n}")[0] for n in range(THRESHOLD + 1))]
        chain.play(ids)
        assert state(ledger, "email") is BreakerState.CLOSED
        good = chain.hand_over("bob")
        chain.play(good)
        assert chain.state(good[0]) is State.CONFIRMED


@pytest.mark.parametrize("answer", ["421 4.3.2 shutting down", "451 4.3.0 out of disk"])
def test_a_server_in_trouble_does(ledger: SqlLedger, advance: Advance, answer: str) -> None:
    behaviour = Behaviour(recipients={f"{user}@example.org": answer for user in ("ada", "bob")})
    with smtp_server(behaviour) as server:
        chain = chain_of(ledger, advance, ONE_MAIL, email_channel(server.port))
        ids = [*(chain.hand_over("ada", run=f"r{n}")[0] for n in range(THRESHOLD))]
        chain.play(ids)
        assert state(ledger, "email") is BreakerState.OPEN


def test_an_event_that_failed_before_waits_until_the_server_itself_answers(
    ledger: SqlLedger, advance: Advance
) -> None:
    behaviour = Behaviour(sender="451 4.3.0 out of disk")
    step = {**ONE_MAIL, "attempts": 9, "backoff": {"base": 5.0, "max": 5.0, "jitter": 0.0}}
    with smtp_server(behaviour) as server:
        chain = chain_of(ledger, advance, step, email_channel(server.port))
        ids = chain.hand_over("ada")
        chain.play(ids, until=lambda: state(ledger, "email") is BreakerState.OPEN)
        behaviour.sender = "250 OK"
        seen = behaviour.connections
        chain.turn()
        assert behaviour.connections == seen, "the breaker is open"
        advance(RECOVERY + 1)
        chain.play(ids)
        assert chain.state(ids[0]) is State.CONFIRMED
        assert len(behaviour.messages) == 1
        assert behaviour.connections == seen + 2, "asked by itself, then the mail"


@pytest.fixture(scope="module", autouse=True)
def apprise_is_loaded() -> None:
    """Its import takes longer than a push may here."""
    open_target("json://127.0.0.1/x")


def test_a_push_target_on_a_dead_host_costs_only_those_who_named_it(
    ledger: SqlLedger, advance: Advance, texts: WebServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    channel = PushTransport(Renderer(), ["json"], allow_private=True)
    step = {"channel": "emergency", "attempts": 1}
    chain = chain_of(ledger, advance, step, channel)
    chain.contact("ada", push=(f"json://127.0.0.1:{dead}/x",))
    chain.contact("bob", push=(f"json://127.0.0.1:{texts.port}/x",))
    ids: list[str] = []
    for _ in range(THRESHOLD + 1):  # together they would be one message
        ids += chain.hand_over("ada")
        chain.play(ids[-1:])
    assert state(ledger, "emergency") is BreakerState.CLOSED
    found = ledger.events.get(ids[-1])
    assert found is not None
    assert "breaker is open" in str(found.attempts[-1].error)
    good = chain.hand_over("bob")
    chain.play(good)
    assert chain.tries(good[0]) == [("emergency", "delivered")]


def test_a_push_target_that_refuses_shows_a_host_that_works(
    ledger: SqlLedger, advance: Advance, texts: WebServer
) -> None:
    texts.answer = lambda request: Reply(403 if "ada" in request.path else 200)
    channel = PushTransport(Renderer(), ["json"], allow_private=True)
    chain = chain_of(ledger, advance, {"channel": "emergency", "attempts": 1}, channel)
    for user in ("ada", "bob"):
        chain.contact(user, push=(f"json://127.0.0.1:{texts.port}/{user}",))
    chain.play([*(chain.hand_over("ada", run=f"r{n}")[0] for n in range(THRESHOLD + 1))])
    good = chain.hand_over("bob")
    chain.play(good)
    assert chain.tries(good[0]) == [("emergency", "delivered")]


@pytest.mark.parametrize("status", [404, 410])
def test_a_push_target_that_is_gone_for_a_week_is_forgotten(
    ledger: SqlLedger, advance: Advance, texts: WebServer, status: int
) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Reply:
        asked.append(request.path)
        return Reply(status if "gone" in request.path else 200)

    texts.answer = answer
    channel = PushTransport(Renderer(), ["json"], allow_private=True, known=ledger.push_targets)
    chain = chain_of(ledger, advance, {"channel": "emergency", "attempts": 1}, channel)
    gone, alive = (f"json://127.0.0.1:{texts.port}/{name}" for name in ("gone", "alive"))
    chain.contact("ada", push=(gone,))
    chain.contact("bob", push=(gone, alive))
    for day in range(9):
        chain.play(chain.hand_over("ada", run=f"day-{day}"))
        advance(86_400.0)
    assert len(asked) == 8, "called for a week, and not on the ninth day"
    skipped = chain.hand_over("ada", run="later")
    chain.play(skipped)
    assert chain.tries(skipped[0]) == [("emergency", "skipped")]
    good = chain.hand_over("bob")
    chain.play(good)
    assert chain.tries(good[0]) == [("emergency", "delivered")]
    assert asked[8:] == ["/alive"]
    [listed], _ = ledger.suppressions.page()
    assert (listed.channel, listed.code) == ("emergency", str(status))
    assert "gone" not in listed.address, "a push URL holds secrets"
    assert ledger.suppressions.remove(listed.address)
    chain.play(chain.hand_over("ada", run="again"))
    assert asked[-1] == "/gone"


class Strange:
    """Has an error of its own for each message."""

    name = "email"

    def unreachable(self, contact: Contact) -> str | None:
        return None

    def deliver(self, message: Message, timeout: float) -> Taken:
        raise ZeroDivisionError


def test_an_error_of_ours_is_not_the_providers(ledger: SqlLedger, advance: Advance) -> None:
    chain = chain_of(ledger, advance, ONE_MAIL, Strange())
    chain.play([*(chain.hand_over("ada", run=f"r{n}")[0] for n in range(THRESHOLD + 1))])
    assert state(ledger, "email") is BreakerState.CLOSED
