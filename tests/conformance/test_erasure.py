"""Erasure of a user: nothing names them any more, and the compliance log stays whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Rendered
from delivery.domain.users.contact import Contact
from delivery.domain.users.revocation import RevocationKind
from delivery.ledger import SqlLedger
from delivery.ledger.sql.audit_tables import audit_counter, audit_details, audit_log
from delivery.ledger.sql.columns import metadata
from delivery.ledger.stores.audit.audit import AuditSql
from delivery.ledger.stores.users.erasure import ErasureSql
from delivery.testing import make_entry, make_event
from tests.conformance.test_compliance_log import KEYS, findings, of_before, sealed

SECRET_WORD = "swordfish"
KEPT = {"revocations"}
"""Tables in which a user's id stays for a while, by intent."""


@pytest.fixture
def log(ledger: SqlLedger) -> AuditSql:
    return AuditSql(ledger.database, KEYS)


@pytest.fixture
def erasure(ledger: SqlLedger, log: AuditSql) -> ErasureSql:
    return ErasureSql(ledger.database, log)


def event(user: str, event_class: EventClass = EventClass.AUTH) -> Event:
    return make_event(
        id=str(uuid_utils.uuid7()),
        type="auth_completed",
        user_id=user,
        run_id=f"run of {user}",
        seq=None,
        event_class=event_class,
        data={"text": f"{SECRET_WORD} of {user}"},
    )


def live(ledger: SqlLedger, user: str) -> str:
    """All that a user leaves behind."""
    made = event(user)
    ledger.recording.commit([make_entry(made), make_entry(event(user, EventClass.CRITICAL))])
    ledger.confirmations.confirm([Confirmation(made.id, user, "http", user, "device of " + user)])
    ledger.contacts.put(Contact(user, email=f"{user}@example.org", phone="+491701234567"))
    ledger.queue_copies.put([made])
    mail = Rendered(f"for {user}", f"dear {user}", f"<p>{user}</p>")
    address = f"{user}@example.org"
    ledger.sent_messages.keep(str(uuid_utils.uuid7()), user, "email", address, 1, mail)
    ledger.operations.hand_over([made.id], f"550 no {user} here")
    ledger.revocations.add(RevocationKind.USER, user, lifetime=_DAY)
    return made.id


_DAY = timedelta(days=1)


def erase(erasure: ErasureSql, user: str) -> Any:
    total = 0
    while count := erasure.erase_events(user, limit=1):
        total += count
    return erasure.erase_rest(user, events=total, actor="service ops")


def everything(ledger: SqlLedger) -> dict[str, str]:
    """All rows of all tables as text."""
    with ledger.database.read() as connection:
        return {
            table.name: str(connection.execute(sa.select(table)).all())
            for table in metadata.sorted_tables
        }


def test_nothing_names_an_erased_user_and_the_log_stays_whole(
    ledger: SqlLedger, log: AuditSql, erasure: ErasureSql
) -> None:
    live(ledger, "zora")  # letters that no hash in hexadecimal has
    live(ledger, "grace")
    sealed(log, 0)
    head = log.head()
    assert head is not None
    before = everything(ledger)
    assert "'zora'" in before["events"]

    erased = erase(erasure, "zora")
    assert (erased.events, erased.has_contact, erased.unkeyed_rows) == (2, True, 0)
    after = everything(ledger)
    assert [name for name, text in after.items() if "zora" in text and name not in KEPT] == []
    assert findings(log, head) == ""
    sealed(log, 0)
    assert findings(log, head) == ""

    [row] = [one for one in log.export() if one["kind"] == "erased"]
    assert row["subject"] == KEYS.current.pseudonym("zora")
    assert row["user_id"] is None
    accepted = [one for one in log.export() if one["kind"] == "accepted"]
    assert [one["user_id"] for one in accepted] == [None, "grace"]
    assert ledger.contacts.get("grace") is not None
    assert f"{SECRET_WORD} of grace" in after["events"]


def test_an_erasure_may_be_repeated_and_the_user_may_come_back(
    ledger: SqlLedger, log: AuditSql, erasure: ErasureSql
) -> None:
    live(ledger, "zora")
    erase(erasure, "zora")
    assert erase(erasure, "zora").events == 0
    assert erase(erasure, "an unknown user").events == 0
    live(ledger, "zora")
    sealed(log, 0)
    assert findings(log) == ""
    accepted = [one for one in log.export() if one["kind"] == "accepted"]
    assert {one["user_id"] for one in accepted} == {"zora"}, "the same id has the same pseudonym"
    assert [one["details"] is None for one in accepted] == [True, False], "but details are gone"


def test_details_that_vanish_without_an_erasure_are_found(
    ledger: SqlLedger, log: AuditSql, erasure: ErasureSql
) -> None:
    live(ledger, "zora")
    live(ledger, "grace")
    erase(erasure, "zora")
    sealed(log, 0)
    with ledger.database.write() as connection:
        connection.execute(sa.delete(audit_details))
    assert "whose user was not erased" in findings(log)


def test_an_erasure_row_of_a_forger_hides_nothing(ledger: SqlLedger, log: AuditSql) -> None:
    live(ledger, "zora")
    sealed(log, 0)
    with ledger.database.write() as connection:
        connection.execute(sa.delete(audit_details))
        last = connection.execute(sa.select(sa.func.max(audit_log.c.number))).scalar_one()
        row = connection.execute(sa.select(audit_log).where(audit_log.c.number == last)).one()
        forged = {k: v for k, v in row._mapping.items() if k != "id"}
        forged |= {"number": last + 1, "kind": "erased", "user_id": KEYS.current.pseudonym("zora")}
        connection.execute(sa.insert(audit_log).values(forged))
    assert "whose user was not erased" in findings(log)


def test_unkeyed_rows_of_an_erased_user_get_the_pseudonym_and_stay_stated(
    ledger: SqlLedger, log: AuditSql, erasure: ErasureSql
) -> None:
    with ledger.database.write() as connection:
        of_before(connection, 3)
        connection.execute(sa.update(audit_counter).values(upgraded=True))
    live(ledger, "grace")
    sealed(log, 0)
    assert erase(erasure, "zora").unkeyed_rows == 0
    assert "'zora'" not in everything(ledger)["audit_log"]
    assert findings(log) == ""
    with ledger.database.write() as connection:
        unkeyed = audit_log.c.number.is_(None)
        connection.execute(sa.update(audit_log).where(unkeyed).values(user_id="grace"))
    assert findings(log) != ""
    assert erase(erasure, "grace").unkeyed_rows == 3, "a new statement would hide the forgery"


def test_every_table_that_names_a_user_is_known_to_the_erasure() -> None:
    """A new table needs a decision: add it to the erasure, and here."""
    naming = {table.name for table in metadata.sorted_tables if "user_id" in table.columns}
    assert naming == {
        "audit_log",
        "audit_subjects",
        "contacts",
        "digests",
        "events",
        "mailbox",
        "outcomes",
        "runs",
        "sent_messages",
        "verifications",
    }
