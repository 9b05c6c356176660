"""Messages to unverified addresses: sent once, and what follows from each outcome."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import Suppress
from delivery.errors import ChannelError, ChannelRejected, ChannelUnavailable, OutcomeUnknown
from delivery.tasks.verifying import Verifier
from delivery.transports.rendering.render import Renderer
from tests.unit.tasks.fakes import ChainLedger, FakeLinks

MAIL = "ada@example.org"


class Mailbox:
    """A transport that notes messages and fails as told."""

    name = "email"

    def __init__(self, *faults: ChannelError) -> None:
        self.sent: list[Message] = []
        self.faults = list(faults)

    def unreachable(self, contact: Contact) -> str | None:
        return None if contact.email else "no email address"

    def deliver(self, message: Message, timeout: float) -> Taken:
        self.sent.append(message)
        if self.faults:
            raise self.faults.pop(0)
        return Taken()


@pytest.fixture
def ledger() -> ChainLedger:
    return ChainLedger()


def ask(ledger: ChainLedger, user: str = "ada", email: str = MAIL) -> None:
    ledger.contacts.put(Contact(user, email=email, locale="de", verified=()))


def verifier(ledger: ChainLedger, mailbox: Mailbox) -> Verifier:
    return Verifier(ledger, {"email": mailbox}, FakeLinks(), timeout=5.0)


def test_the_message_is_its_link_and_says_nothing_of_the_user(ledger: ChainLedger) -> None:
    mailbox = Mailbox()
    ask(ledger, user="<b>buy now</b>")
    assert verifier(ledger, mailbox).run("email") == 1
    (message,) = mailbox.sent
    assert message.contact == Contact("<b>buy now</b>", email=MAIL, locale="de")
    assert message.verify_url is not None
    renderer = Renderer()
    link = "https://delivery.example.org/verify/token"
    for locale, word in (("de", "zustimmen"), ("en", "agree"), ("fr", "agree")):
        made = Message("key", "<b>buy now</b>", None, (), Contact("x", locale=locale), 1)
        made = replace(made, verify_url=link)
        mail = renderer.digest(made)
        for text in (mail.text, mail.html, renderer.sms(made), renderer.push(made).body):
            assert link in text
            assert "buy now" not in text
        assert word in mail.text.lower()
        assert "delivery.example.org" in mail.text


@pytest.mark.parametrize(
    "fault", [OutcomeUnknown("the answer was lost"), ChannelRejected("no such user")]
)
def test_it_is_not_sent_again_if_it_may_have_been_taken_or_never_will(
    ledger: ChainLedger, fault: ChannelError
) -> None:
    mailbox = Mailbox(fault)
    ask(ledger)
    worker = verifier(ledger, mailbox)
    worker.run("email")
    ledger.advance(7_200.0)
    ledger.verifications.due()
    worker.run("email")
    assert len(mailbox.sent) == 1


def test_a_failure_is_tried_again_ever_more_rarely(ledger: ChainLedger) -> None:
    mailbox = Mailbox(*(ChannelUnavailable("busy").of_recipient() for _ in range(20)))
    ask(ledger)
    worker = verifier(ledger, mailbox)
    made = []
    for _ in range(300):
        if ledger.verifications.due() and worker.run("email"):
            made.append(ledger.now())
        ledger.advance(60.0)
    gaps = [late - early for early, late in itertools.pairwise(made)]
    assert len(made) == 8
    assert gaps == sorted(gaps)
    assert gaps[-1] >= timedelta(minutes=30)


def test_an_address_that_the_provider_knows_nothing_of_is_suppressed(ledger: ChainLedger) -> None:
    refusal = ChannelRejected("no such user").of_address(Suppress.HARD_BOUNCE, "5.1.1")
    ask(ledger)
    verifier(ledger, Mailbox(refusal)).run("email")
    assert ledger.suppressions.of(Contact("ada", email=MAIL))["email"].reason is (
        Suppress.HARD_BOUNCE
    )


def test_a_provider_that_is_away_costs_one_attempt_and_no_message(ledger: ChainLedger) -> None:
    mailbox = Mailbox(ChannelUnavailable("connection refused"))
    for number in range(5):
        ask(ledger, f"user-{number}", f"{number}@example.org")
    worker = verifier(ledger, mailbox)
    worker.run("email")
    assert len(mailbox.sent) == 1
    ledger.advance(60.0)
    ledger.verifications.due()
    worker.run("email")
    assert len(mailbox.sent) == 6


def test_a_channel_without_a_transport_here_is_left_to_its_worker(ledger: ChainLedger) -> None:
    ledger.contacts.put(Contact("ada", phone="+491701234567", verified=()))
    assert verifier(ledger, Mailbox()).run("sms") == 0
    assert ledger.verifications.claim("sms") is not None
