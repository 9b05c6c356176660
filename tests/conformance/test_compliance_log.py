"""The compliance log: what it records, and that no writer without the key changes it unseen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import uuid_utils
from sqlalchemy.engine import Connection

from delivery.domain.audit import GENESIS, AuditKeys, Checkpoint
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.policy import Policies
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import Suppress
from delivery.ledger import SqlLedger
from delivery.ledger.sql.audit_tables import (
    audit_counter,
    audit_details,
    audit_log,
    audit_seals,
    audit_subjects,
)
from delivery.ledger.stores.audit import pruning as audit_pruning
from delivery.ledger.stores.audit import rows as audit_rows
from delivery.ledger.stores.audit import unkeyed as audit_unkeyed
from delivery.ledger.stores.audit.audit import AuditRow, AuditSql, append
from delivery.testing import make_entry, make_event, make_policies

SECRET = "the key that the attacker lacks: 32 bytes"
KEYS = AuditKeys(SECRET)
FORGERS = AuditKeys("a key that the attacker made himself: 32 bytes")

Attack = Callable[[Connection], object]


@pytest.fixture
def log(ledger: SqlLedger) -> AuditSql:
    """The log under a real key."""
    return AuditSql(ledger.database, KEYS)


@pytest.fixture
def attack(ledger: SqlLedger) -> Callable[[Attack], None]:
    """Writes to the database without the stores and without the key."""

    def run(statements: Attack) -> None:
        with ledger.database.write() as connection:
            statements(connection)

    return run


def new_event_id() -> str:
    return str(uuid_utils.uuid7())


def fill(log: AuditSql, count: int = 6, user: str = "ada") -> None:
    for number in range(count):
        facts = {"n": number, "s": "ü", "error": f"550 <{user}@example.org>"}
        log.append("state", new_event_id(), user, facts)


def sealed(log: AuditSql, count: int = 6) -> None:
    """Rows 1 to ``count`` and the switch after them, all sealed."""
    fill(log, count)
    while log.seal():
        pass


def findings(log: AuditSql, *checkpoints: Checkpoint) -> str:
    return "\n".join(log.verify(checkpoints).findings)


# --- an honest log ---------------------------------------------------------------------------


def test_an_untouched_log_verifies(log: AuditSql) -> None:
    assert findings(log) == ""
    fill(log, 5)
    assert findings(log) == ""
    assert log.seal() == 6, "five rows and the switch to the keyed chain"
    assert findings(log) == ""
    fill(log, 3)
    assert log.seal(2) == 2
    assert findings(log) == ""
    assert log.seal() == 1
    assert log.seal() == 0
    assert findings(log) == ""


def test_a_long_log_verifies_over_pages(log: AuditSql, monkeypatch: Any, attack: Any) -> None:
    monkeypatch.setattr(audit_rows, "PAGE", 4)
    sealed(log, 11)
    assert findings(log) == ""
    attack(lambda c: c.execute(sa.update(audit_log).where(_row(9)).values(kind="x")))
    assert "row 9" in findings(log)


def test_writers_at_once_take_numbers_without_a_gap(log: AuditSql, ledger: SqlLedger) -> None:
    start = threading.Barrier(4)

    def write() -> None:
        start.wait(10)
        for _ in range(5):
            log.append("state", new_event_id(), "ada", {})

    def seal() -> None:
        start.wait(10)
        for _ in range(10):
            log.seal(3)

    threads = [threading.Thread(target=work) for work in (write, write, seal, seal)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    while log.seal():
        pass
    with ledger.database.read() as connection:
        numbers = connection.execute(sa.select(audit_log.c.number)).scalars().all()
    assert sorted(numbers) == list(range(1, 12))
    assert findings(log) == ""


def test_a_transaction_that_rolls_back_takes_no_number(log: AuditSql, ledger: SqlLedger) -> None:
    fill(log, 1)
    with suppress(RuntimeError), ledger.database.write() as connection:
        append(connection, [AuditRow("state", None, "ada", {}, datetime.now(UTC))])
        raise RuntimeError("the event's transaction fails")
    fill(log, 1)
    assert log.verify().last == 2
    assert findings(log) == ""


def test_the_log_holds_pseudonyms_and_not_names(log: AuditSql, ledger: SqlLedger) -> None:
    fill(log, 1, user="zora")
    with ledger.database.read() as connection:
        row = connection.execute(sa.select(audit_log)).one()
    assert row.user_id == KEYS.current.pseudonym("zora")
    assert "zora" not in str(tuple(row))
    [document] = [one for one in log.export() if one["kind"] == "state"]
    assert document["user_id"] == "zora"
    assert document["details"] == {"error": "550 <zora@example.org>"}


# --- what it records -------------------------------------------------------------------------


def kinds(log: AuditSql) -> list[str]:
    return [one["kind"] for one in log.export() if one["kind"] != "switched"]


def test_changes_of_contacts_are_recorded_by_the_names_of_their_fields(
    log: AuditSql, ledger: SqlLedger
) -> None:
    ledger.contacts.put(Contact("ada", email="ada@example.org"), actor="user")
    ledger.contacts.put(Contact("ada", email="ada@example.org"), actor="user")
    ledger.contacts.put(Contact("ada", email="new@example.org", opt_out=("sms",)))
    ledger.contacts.opt_out("ada", "email")
    ledger.contacts.opt_out("ada", "email")
    ledger.contacts.put(Contact("ada", email="new@example.org", opt_out=("email",)))
    ledger.contacts.delete("ada", actor="service backend")
    ledger.contacts.delete("ada")
    documents = list(log.export())
    told = [(one["kind"], msgspec.json.decode(one["facts"])) for one in documents]
    assert told == [
        ("contact_changed", {"fields": ["email"], "actor": "user"}),
        ("contact_changed", {"fields": ["email", "opt_out"], "actor": ""}),
        ("opted_out", {"channels": ["sms"], "actor": ""}),
        ("opted_out", {"channels": ["email"], "actor": "link"}),
        ("contact_changed", {"fields": ["opt_out"], "actor": ""}),
        ("consented", {"channels": ["sms"], "actor": ""}),
        ("contact_changed", {"fields": ["email", "opt_out"], "actor": "service backend"}),
        ("consented", {"channels": ["email"], "actor": "service backend"}),
    ]
    assert {one["user_id"] for one in documents} == {"ada"}
    assert "example.org" not in str(documents)


def test_suppressions_are_recorded_without_the_address(log: AuditSql, ledger: SqlLedger) -> None:
    add = ledger.suppressions.add
    add("email", "ada@example.org", Suppress.COMPLAINT, provider="ses", code=None)
    add("email", "ada@example.org", Suppress.COMPLAINT, provider="ses", code=None)
    assert ledger.suppressions.remove("ada@example.org", actor="service ops")
    assert not ledger.suppressions.remove("ada@example.org", actor="service ops")
    documents = list(log.export())
    assert [one["kind"] for one in documents] == ["suppressed", "unsuppressed"]
    assert "example.org" not in str(documents)


def test_replays_and_purges_of_any_class_are_recorded(
    log: AuditSql, ledger: SqlLedger, advance: Callable[[float], None], policies: Policies
) -> None:
    event = make_event(id=str(uuid_utils.uuid7()), seq=None, event_class=EventClass.CRITICAL)
    ledger.recording.commit([make_entry(event, ttl=1.0, ack_timeout=0.5)])
    advance(5)
    ledger.chain.sweep()
    assert ledger.operations.replay([event.id], policies=policies, actor="service ops") == [
        event.id
    ]
    assert kinds(log) == ["replay"]
    advance(400_000)
    ledger.chain.sweep()
    ledger.retention.purge({State.EXPIRED: ledger.now()})
    assert kinds(log) == ["replay", "purged"]
    assert findings(log) == ""


@pytest.fixture
def policies() -> Policies:
    return make_policies()


# --- forgeries -------------------------------------------------------------------------------


def _row(number: int) -> sa.ColumnElement[bool]:
    return audit_log.c.number == number


def cut(connection: Connection, last: int) -> None:
    """Cut the tail off all tables and set the counter back."""
    for table in (audit_log, audit_seals, audit_details):
        connection.execute(sa.delete(table).where(table.c.number > last))
    connection.execute(sa.update(audit_counter).values(number=last, sealed=last))


def rehash(connection: Connection, keys: AuditKeys = FORGERS, *, as_key: str | None = None) -> None:
    """Make all codes, hashes and seals anew with the attacker's own key."""
    previous, key = GENESIS, keys.current
    shown = as_key or key.id
    connection.execute(sa.delete(audit_seals))
    last = 0
    for found in list(audit_rows.numbered(connection, -1)):
        row = msgspec.structs.replace(found.row, key=shown, mac="")
        row = msgspec.structs.replace(row, mac=key.row(row))
        last, previous = row.number, row.sealed_after(previous)
        connection.execute(sa.update(audit_log).where(_row(last)).values(key=shown, mac=row.mac))
        connection.execute(
            sa.insert(audit_seals).values(
                number=last, hash=previous, mac=key.seal(last, previous), key=shown
            )
        )
    connection.execute(
        sa.update(audit_counter).values(
            number=last,
            mac=key.counter("number", last),
            key=shown,
            sealed=last,
            sealed_mac=key.counter("sealed", last),
            sealed_key=shown,
        )
    )


def forge(connection: Connection, **values: Any) -> None:
    """A row of the attacker's."""
    made = {
        "at": datetime.now(UTC),
        "kind": "state",
        "event_id": new_event_id(),
        "user_id": KEYS.current.pseudonym("ada"),
        "facts": "{}",
        "key": KEYS.current.id,
        "mac": "0" * 64,
    }
    connection.execute(sa.insert(audit_log).values(made | values))


def swap(connection: Connection) -> None:
    for before, after in ((2, 99), (3, 2), (99, 3)):
        connection.execute(sa.update(audit_log).where(_row(before)).values(number=after))


def delete_all(connection: Connection) -> None:
    for table in (audit_log, audit_seals, audit_details, audit_subjects):
        connection.execute(sa.delete(table))


def reset(connection: Connection) -> None:
    fresh = {"mac": None, "key": None, "sealed_mac": None, "sealed_key": None}
    connection.execute(sa.update(audit_counter).values(number=0, sealed=0, **fresh))


def forged_switch(connection: Connection) -> None:
    """Claim that all rows are from before the keyed chain."""
    values = {"number": None, "key": None, "mac": None, "commitment": None}
    connection.execute(sa.delete(audit_seals))
    connection.execute(sa.delete(audit_log).where(audit_log.c.kind == "switched"))
    connection.execute(sa.update(audit_log).values(values))
    facts = audit_rows.canonical({"unkeyed": audit_rows.unkeyed(connection), "upgraded": True})
    forge(connection, number=1, kind="switched", user_id="", facts=facts)


FORGERIES: dict[str, Attack] = {
    "cut tail, counter set back": lambda c: cut(c, 4),
    "cut tail, counter left": lambda c: [
        c.execute(sa.delete(table).where(table.c.number > 4)) for table in (audit_log, audit_seals)
    ],
    "full re-hash": rehash,
    "full re-hash in the name of the real key": lambda c: rehash(c, as_key=KEYS.current.id),
    "first row deleted": lambda c: c.execute(sa.delete(audit_log).where(_row(1))),
    "row deleted": lambda c: c.execute(sa.delete(audit_log).where(_row(3))),
    "row and seal deleted": lambda c: [
        c.execute(sa.delete(table).where(table.c.number == 3)) for table in (audit_log, audit_seals)
    ],
    "row deleted, later ones renumbered": lambda c: [
        c.execute(sa.delete(audit_log).where(_row(3))),
        *(c.execute(sa.update(audit_log).where(_row(n)).values(number=n - 1)) for n in (4, 5, 6)),
    ],
    "everything deleted": delete_all,
    "kind changed": lambda c: c.execute(sa.update(audit_log).where(_row(3)).values(kind="x")),
    "user changed": lambda c: c.execute(
        sa.update(audit_log).where(_row(3)).values(user_id=KEYS.current.pseudonym("eve"))
    ),
    "facts changed": lambda c: c.execute(
        sa.update(audit_log).where(_row(3)).values(facts='{"n":9}')
    ),
    "event changed": lambda c: c.execute(
        sa.update(audit_log).where(_row(3)).values(event_id=new_event_id())
    ),
    "time changed": lambda c: c.execute(
        sa.update(audit_log).where(_row(3)).values(at=datetime.now(UTC) - timedelta(days=1))
    ),
    "details changed": lambda c: c.execute(
        sa.update(audit_details).where(audit_details.c.number == 3).values(details="{}")
    ),
    "details deleted": lambda c: c.execute(
        sa.delete(audit_details).where(audit_details.c.number == 3)
    ),
    "name changed": lambda c: c.execute(sa.update(audit_subjects).values(user_id="eve")),
    "name deleted": lambda c: c.execute(sa.delete(audit_subjects)),
    "row inserted at the end": lambda c: forge(c, number=8),
    "row inserted without a number": lambda c: forge(c, number=None),
    "old row inserted without a number": lambda c: forge(
        c, number=None, at=datetime.now(UTC) - timedelta(days=9), key=None, mac=None
    ),
    "row inserted below the first": lambda c: forge(c, number=0),
    "rows swapped": swap,
    "seal removed": lambda c: c.execute(sa.delete(audit_seals).where(audit_seals.c.number == 3)),
    "last seal removed": lambda c: c.execute(
        sa.delete(audit_seals).where(audit_seals.c.number == 7)
    ),
    "all seals removed": lambda c: c.execute(sa.delete(audit_seals)),
    "seal changed": lambda c: c.execute(
        sa.update(audit_seals).where(audit_seals.c.number == 3).values(hash="1" * 64)
    ),
    "seal added": lambda c: c.execute(
        sa.insert(audit_seals).values(number=8, hash="1" * 64, mac="1" * 64, key=KEYS.current.id)
    ),
    "counter set back": lambda c: c.execute(sa.update(audit_counter).values(number=3)),
    "counter moved ahead": lambda c: c.execute(sa.update(audit_counter).values(number=30)),
    "sealed number set back": lambda c: c.execute(sa.update(audit_counter).values(sealed=3)),
    "counter deleted": lambda c: c.execute(sa.delete(audit_counter)),
    "counter reset": reset,
    "switch row deleted": lambda c: c.execute(
        sa.delete(audit_log).where(audit_log.c.kind == "switched")
    ),
    "switch row forged": forged_switch,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(log: AuditSql, attack: Any, name: str) -> None:
    sealed(log)
    assert findings(log) == ""
    attack(FORGERIES[name])
    assert findings(log) != ""


HEALED = ("name deleted", "sealed number set back")
"""What the next honest write puts right; nothing else was lost."""


@pytest.mark.parametrize("name", [name for name in FORGERIES if name not in HEALED])
def test_a_forgery_is_found_after_the_log_went_on(
    log: AuditSql, attack: Any, name: str, ledger: SqlLedger
) -> None:
    """Writers and the sealer go on over it, in another process, and mend nothing unseen."""
    sealed(log)
    attack(FORGERIES[name])
    other = AuditSql(ledger.database, KEYS)
    fill(other, 2)
    while other.seal():
        pass
    if name == "everything deleted":
        # Without its rows the counter's number is all that is left, and it still counts.
        assert "missing: rows 1 to" in findings(other)
    assert findings(other) != ""


UNSEALED: dict[str, Attack] = {
    "deleted before its seal": lambda c: c.execute(sa.delete(audit_log).where(_row(8))),
    "last one deleted before its seal": lambda c: c.execute(sa.delete(audit_log).where(_row(9))),
    "all deleted before their seal, counter set back": lambda c: [
        c.execute(sa.delete(audit_log).where(audit_log.c.number > 7)),
        c.execute(sa.update(audit_counter).values(number=7)),
    ],
    "changed before its seal": lambda c: c.execute(
        sa.update(audit_log).where(_row(8)).values(kind="x")
    ),
    "inserted before the seal": lambda c: [
        forge(c, number=10),
        c.execute(sa.update(audit_counter).values(number=10)),
    ],
}


@pytest.mark.parametrize("name", UNSEALED)
@pytest.mark.parametrize("after", ["at once", "when sealed", "when more was written"])
def test_a_forgery_before_the_seal_is_found(
    log: AuditSql, attack: Any, name: str, after: str
) -> None:
    sealed(log)
    fill(log, 2)
    attack(UNSEALED[name])
    if after == "when more was written":
        fill(log, 2)
    if after != "at once":
        log.seal()
    assert findings(log) != ""


def test_deleting_everything_shows_in_the_ledgers_sign_in_events(
    log: AuditSql, ledger: SqlLedger, attack: Any
) -> None:
    event = make_event(
        id=str(uuid_utils.uuid7()), seq=None, event_class=EventClass.AUTH, type="auth_login"
    )
    ledger.recording.commit([make_entry(event)])
    sealed(log, 0)
    attack(lambda c: [delete_all(c), reset(c)])
    assert f"sign-in event {event.id}" in findings(log)


@pytest.mark.parametrize("later", [False, True])
def test_a_log_set_back_as_a_whole_shows_against_a_checkpoint(
    log: AuditSql, ledger: SqlLedger, attack: Any, later: bool
) -> None:
    """All tables as they once were: nothing inside is wrong, only the outside knows better."""
    sealed(log, 3)
    with ledger.database.read() as connection:
        counter = dict(connection.execute(sa.select(audit_counter)).one()._mapping)
    early = log.head()
    fill(log, 3)
    log.seal()
    late = log.head()
    assert early is not None
    assert late is not None

    def set_back(connection: Connection) -> None:
        cut(connection, 4)
        connection.execute(sa.update(audit_counter).values(counter))

    attack(set_back)
    if later:
        fill(log, 5)
        log.seal()
    assert findings(log) == ""
    assert findings(log, early) == ""
    assert findings(log, early, late) != ""


def test_a_writer_whose_counter_was_set_back_goes_on_and_says_so(
    log: AuditSql, attack: Any
) -> None:
    sealed(log)
    attack(lambda c: c.execute(sa.update(audit_counter).values(number=3)))
    fill(log, 1)
    attack(lambda c: c.execute(sa.delete(audit_counter)))
    fill(log, 1)
    assert "the counter was set back (found 3, known 7)" in findings(log)
    assert "the counter's row was deleted" in findings(log)


def test_findings_are_limited(log: AuditSql, attack: Any, monkeypatch: Any) -> None:
    sealed(log)
    attack(lambda c: c.execute(sa.update(audit_log).values(kind="x")))
    monkeypatch.setattr("delivery.ledger.stores.audit.verify.MAX_FINDINGS", 3)
    found = log.verify().findings
    assert len(found) == 4
    assert "more" in found[-1]


# --- keys ------------------------------------------------------------------------------------


def test_rows_of_a_previous_key_verify_after_a_rotation(log: AuditSql, ledger: SqlLedger) -> None:
    sealed(log, 3)
    head = log.head()
    rotated = AuditSql(ledger.database, AuditKeys("the next key, which is just as long", [SECRET]))
    fill(rotated, 3)
    rotated.seal()
    assert head is not None
    assert findings(rotated, head) == ""
    assert "not known here" in findings(log), "the key from before does not know the new one"


def test_a_log_of_a_ledger_without_a_key_holds_under_no_key(ledger: SqlLedger) -> None:
    plain = ledger.audit
    fill(plain, 2)
    plain.seal()
    assert plain.verify().findings == ()
    assert findings(AuditSql(ledger.database, KEYS)) != ""


def test_a_checkpoint_of_another_key_or_with_another_number_is_refused(log: AuditSql) -> None:
    sealed(log)
    head = log.head()
    assert head is not None
    assert findings(log, head) == ""
    assert "signature" in findings(log, msgspec.structs.replace(head, number=3))
    foreign = AuditSql(log._database, FORGERS).head()
    assert foreign is not None
    assert "not this installation's" in findings(log, foreign)


# --- pruning ---------------------------------------------------------------------------------


def test_pruning_leaves_a_rest_that_verifies(
    log: AuditSql, advance: Callable[[float], None], ledger: SqlLedger, attack: Any
) -> None:
    sealed(log, 5)
    old = log.head()
    advance(3600)
    before = ledger.now()
    fill(log, 2)
    assert log.prune(before, dry_run=True) == 6
    assert log.prune(before) == 6
    assert old is not None
    assert findings(log, old) == ""
    fill(log, 1)
    log.seal()
    assert findings(log) == ""
    assert log.prune(before) == 0
    advance(3600)
    assert log.prune(ledger.now()) == 4
    assert findings(log) == ""
    assert kinds(log) == ["pruned"]


def test_pruning_goes_page_by_page_each_of_which_verifies(
    log: AuditSql, advance: Callable[[float], None], ledger: SqlLedger, monkeypatch: Any
) -> None:
    monkeypatch.setattr(audit_pruning, "PAGE", 2)
    sealed(log, 5)
    advance(3600)
    assert log.prune(ledger.now()) == 6
    assert findings(log) == ""
    assert kinds(log) == ["pruned"] * 3


@pytest.mark.parametrize(
    "forgery",
    [
        lambda c: c.execute(sa.delete(audit_log).where(audit_log.c.kind == "pruned")),
        lambda c: c.execute(sa.delete(audit_log).where(_row(7))),
        lambda c: c.execute(sa.delete(audit_seals).where(audit_seals.c.number == 6)),
        lambda c: c.execute(sa.delete(audit_seals).where(audit_seals.c.number == 7)),
        lambda c: forge(c, number=3),
    ],
)
def test_a_forgery_of_a_pruned_log_is_found(
    log: AuditSql, advance: Any, ledger: SqlLedger, attack: Any, forgery: Attack
) -> None:
    sealed(log, 5)
    advance(3600)
    before = ledger.now()
    fill(log, 2)
    log.prune(before)
    assert findings(log) == ""
    attack(forgery)
    assert findings(log) != ""


def test_pruning_by_hand_is_found(log: AuditSql, attack: Any) -> None:
    """What leaves without a pruned row is missing, seal left or not."""
    sealed(log)
    attack(lambda c: c.execute(sa.delete(audit_log).where(audit_log.c.number < 3)))
    attack(lambda c: c.execute(sa.delete(audit_seals).where(audit_seals.c.number < 2)))
    assert "missing: rows 1 to 2" in findings(log)


# --- rows of the first release ---------------------------------------------------------------


def of_before(connection: Connection, count: int, *, seal: bool = True) -> None:
    """Rows as the first release wrote and sealed them."""
    last, previous = audit_unkeyed.head(connection)
    for _ in range(count):
        values = {"at": datetime.now(UTC), "kind": "state", "event_id": new_event_id()}
        made = {"user_id": "ada", "facts": "{}", **values}
        row_id = connection.execute(sa.insert(audit_log).values(made)).inserted_primary_key[0]
        if not seal:
            continue
        last += 1
        row = connection.execute(sa.select(audit_log).where(audit_log.c.id == row_id)).one()
        digest = audit_unkeyed._hash(previous, last, row)
        connection.execute(
            sa.update(audit_log)
            .where(audit_log.c.id == row_id)
            .values(seal=last, previous_hash=previous, hash=digest)
        )
        previous = digest
    if seal:
        connection.execute(sa.delete(audit_unkeyed.audit_head))
        connection.execute(
            sa.insert(audit_unkeyed.audit_head).values(id=1, seal=last, hash=previous)
        )


@pytest.fixture
def upgraded(log: AuditSql, attack: Any) -> AuditSql:
    """A log that began with the first release and went on with this one."""
    attack(lambda c: of_before(c, 4))
    attack(lambda c: of_before(c, 1, seal=False))
    attack(lambda c: c.execute(sa.update(audit_counter).values(upgraded=True)))
    assert "no switch" in findings(log)
    sealed(log, 2)
    return log


def test_rows_of_before_verify_as_unkeyed_up_to_the_switch(upgraded: AuditSql) -> None:
    assert findings(upgraded) == ""
    assert any("5 unkeyed rows" in note for note in upgraded.verify().notes)


@pytest.mark.parametrize(
    "forgery",
    [
        lambda c: c.execute(sa.update(audit_log).where(audit_log.c.id == 2).values(kind="x")),
        lambda c: c.execute(sa.delete(audit_log).where(audit_log.c.id == 2)),
        lambda c: c.execute(sa.delete(audit_log).where(audit_log.c.id == 5)),
        lambda c: c.execute(sa.delete(audit_log).where(audit_log.c.number.is_(None))),
        lambda c: forge(c, id=0, number=None, key=None, mac=None),
    ],
)
def test_a_forgery_of_unkeyed_rows_after_the_switch_is_found(
    upgraded: AuditSql, attack: Any, forgery: Attack
) -> None:
    attack(forgery)
    assert findings(upgraded) != ""


def test_faults_of_the_unkeyed_chain_are_kept_by_the_switch(log: AuditSql, attack: Any) -> None:
    attack(lambda c: of_before(c, 4))
    attack(lambda c: c.execute(sa.update(audit_log).where(audit_log.c.id == 2).values(kind="x")))
    sealed(log, 2)
    assert "the unkeyed rows had 1 findings" in findings(log)


def test_both_releases_side_by_side_are_taken_over_for_a_day(
    upgraded: AuditSql, attack: Any, advance: Callable[[float], None]
) -> None:
    attack(lambda c: of_before(c, 2, seal=False))
    assert findings(upgraded) == ""
    upgraded.seal()
    assert findings(upgraded) == ""
    assert kinds(upgraded)[-1] == "adopted"
    advance(90_000)
    attack(lambda c: of_before(c, 1, seal=False))
    upgraded.seal()
    assert "has no number" in findings(upgraded)


def test_a_log_that_began_with_this_release_takes_no_row_without_a_number(
    log: AuditSql, attack: Any
) -> None:
    sealed(log, 2)
    attack(lambda c: c.execute(sa.update(audit_counter).values(upgraded=True)))
    attack(lambda c: of_before(c, 1, seal=False))
    fill(log, 1)
    log.seal()
    assert "has no number" in findings(log)
