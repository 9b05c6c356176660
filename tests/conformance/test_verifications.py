"""Unverified addresses, on SQLite and on PostgreSQL: no message without their owner's agreement.

A client names its addresses itself, and so could name a stranger's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from delivery.domain.channels import Channel
from delivery.domain.event import EventClass
from delivery.domain.users.contact import UNVERIFIED, Contact, fingerprint
from delivery.domain.users.receipts import Suppress
from delivery.domain.users.verification import Verification
from delivery.ledger import SqlLedger
from delivery.ledger.sql.tables import verification_limits, verifications
from tests.conformance.test_ledger_digests import claimed, join, on_chain, sending

MAIL = "ada@example.org"
PHONE = "+491701234567"
TARGETS = ("ntfy://one", "ntfy://two")


def by_client(ledger: SqlLedger, user: str = "ada", **fields: Any) -> Contact:
    """A contact as a user's own token sets it."""
    return ledger.contacts.put(
        Contact(user, verified=(), **fields), actor="user", keeps_verified=True
    )


def waiting(ledger: SqlLedger) -> list[tuple[str, str]]:
    """Channel and address of all messages that wait, taken."""
    found: list[Verification] = []
    for channel in ("email", "sms", "emergency"):
        while (one := ledger.verifications.claim(channel)) is not None:
            found.append(one)
            ledger.verifications.end(one, is_sent=True, retry_in=None)
    return [(one.channel, one.address) for one in found]


def agree(ledger: SqlLedger, channel: str, address: str, user: str = "ada") -> Contact | None:
    return ledger.contacts.verify(user, channel, fingerprint(channel, address))


def stored(ledger: SqlLedger, user: str = "ada") -> Contact:
    found = ledger.contacts.get(user)
    assert found is not None
    return found


def test_what_a_client_names_is_asked_once_and_gets_nothing_else(ledger: SqlLedger) -> None:
    by_client(ledger, email=MAIL, phone=PHONE, push=TARGETS[:1], locale="de")
    claim = claimed(ledger, on_chain(ledger))
    assert claim.contact == Contact("ada", locale="de", verified=())
    assert claim.suppressed == dict.fromkeys(("email", "sms", "emergency"), UNVERIFIED)
    assert ledger.verifications.due() == ("email", "emergency", "sms")
    assert waiting(ledger) == [("email", MAIL), ("sms", PHONE), ("emergency", TARGETS[0])]
    assert ledger.verifications.due() == ()
    by_client(ledger, email=MAIL, phone=PHONE, push=TARGETS[:1])
    assert waiting(ledger) == []


def test_what_its_owner_agreed_to_gets_messages(ledger: SqlLedger) -> None:
    by_client(ledger, email=MAIL, phone=PHONE, push=TARGETS)
    assert agree(ledger, "email", MAIL) is not None
    assert agree(ledger, "email", MAIL) is not None  # safe to repeat
    assert agree(ledger, "emergency", TARGETS[1]) is not None
    claim = claimed(ledger, on_chain(ledger))
    assert (claim.contact.email, claim.contact.phone, claim.contact.push) == (
        MAIL,
        None,
        (TARGETS[1],),
    )
    assert claim.suppressed == {"sms": UNVERIFIED}
    kept = by_client(ledger, email=MAIL, phone="+491709999999", push=TARGETS)
    assert kept.unverified() == [(Channel.SMS, "+491709999999"), (Channel.EMERGENCY, TARGETS[0])]


def test_an_agreement_is_for_one_address_of_one_user(ledger: SqlLedger) -> None:
    by_client(ledger, email=MAIL)
    by_client(ledger, "eve", email=MAIL)
    assert agree(ledger, "sms", MAIL) is None
    assert agree(ledger, "email", "other@example.org") is None
    assert agree(ledger, "email", MAIL, "nobody") is None
    assert agree(ledger, "email", MAIL) is not None
    assert stored(ledger, "eve").unverified() == [(Channel.EMAIL, MAIL)]
    by_client(ledger, email="new@example.org")
    assert agree(ledger, "email", MAIL) is None
    by_client(ledger, email=MAIL)
    assert stored(ledger).unverified() == [(Channel.EMAIL, MAIL)]


def test_a_service_vouches_for_what_it_sets(ledger: SqlLedger) -> None:
    ledger.contacts.put(Contact("ada", email=MAIL, phone=PHONE))
    assert stored(ledger).unverified() == []
    assert waiting(ledger) == []
    assert by_client(ledger, email=MAIL, phone=PHONE).unverified() == []
    ledger.contacts.put(Contact("ada", email=MAIL, phone=PHONE, verified=(MAIL,)))
    assert stored(ledger).unverified() == [(Channel.SMS, PHONE)]
    assert waiting(ledger) == [("sms", PHONE)]


@pytest.mark.parametrize("again", ["a@host.org", "a+tag@host.org", "A@HOST.org", "a+x+y@Host.Org"])
def test_one_address_gets_one_message_a_day_for_all_users(
    ledger: SqlLedger, advance: Callable[[float], None], again: str
) -> None:
    by_client(ledger, email="a@host.org")
    assert len(waiting(ledger)) == 1
    by_client(ledger, "eve", email=again)
    ledger.contacts.delete("eve")
    by_client(ledger, "eve", email=again)
    assert waiting(ledger) == []
    advance(25 * 3_600.0)
    by_client(ledger, "eve", email=again)
    assert waiting(ledger) == [("email", again)]


def test_a_user_causes_three_messages_a_day_whatever_is_tried(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    sent = []
    for number in range(6):
        by_client(ledger, email=f"victim{number}@example.org", push=(f"ntfy://{number}",))
        ledger.contacts.delete("ada")
        by_client(ledger, email=f"victim{number}@example.org", phone=f"+4917000000{number:02}")
        sent += waiting(ledger)
    assert len(sent) <= 3
    with ledger.database.read() as connection:
        rows = connection.execute(sa.select(verifications.c.id)).all()
        limits = connection.execute(sa.select(verification_limits.c.key)).scalars().all()
    assert len(rows) <= 3
    assert not any("victim" in key or "ada" in key for key in limits)
    # An address that got no message because of its user's limit is not used up for another user.
    by_client(ledger, "eve", email="victim5@example.org")
    assert waiting(ledger) == [("email", "victim5@example.org")]
    advance(25 * 3_600.0)
    by_client(ledger, email="victim6@example.org")
    assert waiting(ledger) == [("email", "victim6@example.org")]


def test_changes_at_once_share_the_limits(open_ledger: Callable[[], SqlLedger]) -> None:
    ledgers = [open_ledger() for _ in range(2)]
    failed: list[Exception] = []

    def name_all(ledger: SqlLedger, numbers: range) -> None:
        try:
            for number in numbers:
                by_client(
                    ledger, email=f"v{number}@example.org", push=(f"ntfy://{number}", *TARGETS)
                )
                by_client(ledger, f"user-{number % 2}", push=TARGETS, phone=PHONE)
        except Exception as error:
            failed.append(error)

    threads = [
        threading.Thread(target=name_all, args=(ledger, range(start, start + 5)))
        for ledger, start in zip(ledgers, (0, 100), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    with ledgers[0].database.read() as connection:
        asked = connection.execute(
            sa.select(verifications.c.user_id, verifications.c.address)
        ).all()
    assert len([row for row in asked if row.user_id == "ada"]) == 3
    assert len({row.address for row in asked}) == len(asked)


def test_a_suppressed_address_is_not_asked(ledger: SqlLedger) -> None:
    ledger.suppressions.add("email", MAIL, Suppress.COMPLAINT, provider="ses", code=None)
    by_client(ledger, email=MAIL)
    assert waiting(ledger) == []


def test_a_message_whose_address_is_gone_or_verified_is_not_sent(ledger: SqlLedger) -> None:
    by_client(ledger, email=MAIL)
    by_client(ledger, email="second@example.org")
    assert waiting(ledger) == [("email", "second@example.org")]
    by_client(ledger, "eve", email="eve@example.org")
    assert agree(ledger, "email", "eve@example.org", "eve") is not None
    assert waiting(ledger) == []


def test_a_message_is_sent_again_only_after_a_failure(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    by_client(ledger, email=MAIL)
    first = ledger.verifications.claim("email")
    assert first is not None
    assert ledger.verifications.claim("email") is None  # another worker's
    ledger.verifications.end(first, is_sent=False, retry_in=30.0)
    assert ledger.verifications.due() == ()
    advance(31.0)
    assert ledger.verifications.due() == ("email",)
    again = ledger.verifications.claim("email")
    assert again is not None
    assert (again.id, again.attempts) == (first.id, 2)
    # Its worker dies: the message may have been sent.
    advance(1 * 3_600.0)
    assert ledger.verifications.due() == ()
    assert ledger.verifications.claim("email") is None
    advance(25 * 3_600.0)
    ledger.verifications.due()
    with ledger.database.read() as connection:
        assert connection.execute(sa.select(verifications.c.id)).all() == []
        assert connection.execute(sa.select(verification_limits.c.key)).all() == []


def test_a_message_that_waits_is_announced_again(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    by_client(ledger, email=MAIL)
    assert ledger.verifications.due() == ("email",)
    assert ledger.verifications.due() == ()
    advance(11.0)
    assert ledger.verifications.due() == ("email",)
    assert waiting(ledger) == [("email", MAIL)]


def test_a_digest_is_not_sent_to_an_address_that_changed_meanwhile(ledger: SqlLedger) -> None:
    ledger.contacts.put(Contact("ada", email=MAIL))
    digest = join(ledger, on_chain(ledger), window=0.0)
    by_client(ledger, email="stranger@example.org")
    claim = sending(ledger, digest)
    assert claim.contact.email is None
    assert claim.suppressed == UNVERIFIED


def test_a_digest_leaves_out_the_classes_that_its_user_refuses(ledger: SqlLedger) -> None:
    ledger.contacts.put(Contact("ada", email=MAIL, opt_out=("email:standard", "sms:critical")))
    refused = on_chain(ledger, type="done", event_class=EventClass.STANDARD)
    wanted = on_chain(ledger)
    digest = join(ledger, wanted, window=0.0)
    join(ledger, refused, window=0.0)
    claim = sending(ledger, digest, refusable=("critical", "standard"))
    assert [member.event.id for member in claim.members] == [wanted]


def test_a_class_that_must_come_is_not_left_out(ledger: SqlLedger) -> None:
    ledger.contacts.put(Contact("ada", email=MAIL, opt_out=("email",)))
    event = on_chain(ledger)
    digest = join(ledger, event, window=0.0)
    assert [m.event.id for m in sending(ledger, digest, refusable=("standard",)).members] == [event]


def test_choices_of_one_channel_leave_the_others(ledger: SqlLedger) -> None:
    ledger.contacts.put(Contact("ada", opt_out=("sms", "email:orders")))
    assert ledger.contacts.choose("ada", "email", ("email",)) == ("email:orders",)
    assert stored(ledger).opt_out == ("sms", "email")
    assert ledger.contacts.choose("ada", "email", ("email:orders",)) == ("email",)
    assert ledger.contacts.choose("new", "sms", ("sms",)) == ()
    assert stored(ledger, "new").opt_out == ("sms",)


def test_it_is_in_the_compliance_log_without_a_value(ledger: SqlLedger) -> None:
    by_client(ledger, email=MAIL)
    waiting(ledger)
    agree(ledger, "email", MAIL)
    ledger.contacts.put(Contact("ada", email=MAIL, verified=()), actor="service shop")
    while ledger.audit.seal():
        pass
    told = [(one["kind"], one["facts"]) for one in ledger.audit.export()]
    rows = [one for one in told if one[0] != "switched"]
    assert [kind for kind, _ in rows] == [
        "contact_changed",
        "verification_sent",
        "verified",
        "contact_changed",
    ]
    assert '"verified"' in str(rows[-1][1])
    assert MAIL not in str(rows)


def test_an_erasure_takes_what_waits(ledger: SqlLedger) -> None:
    by_client(ledger, email=MAIL)
    ledger.erasure.erase_rest("ada", events=0, actor="test")
    assert waiting(ledger) == []
    by_client(ledger, email=MAIL)
    assert waiting(ledger) == [], "an erasure does not undo an address's limit"
