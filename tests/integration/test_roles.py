"""Owner and application as two roles of PostgreSQL: what each may do to the compliance log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import errors
from sqlalchemy import make_url

from delivery.cli import main
from delivery.domain.audit import AuditKeys
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.users.contact import Contact
from delivery.emitter.validate import new_event_id
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event, make_policies

SECRET = "only-for-tests-the-key-of-the-log-0123456789"
PASSWORD = "word"


def run(env: dict[str, str], *args: str) -> Result:
    return CliRunner().invoke(main, list(args), env=env)


@pytest.fixture
def env(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Settings with two roles, whose names are this test's."""
    monkeypatch.chdir(tmp_path)
    url = make_url(postgres_url)
    owner, app = f"owner_{url.database}", f"app_{url.database}"
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        for role in (owner, app):
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        admin.execute(f"ALTER DATABASE {url.database} OWNER TO {owner}")

        def of(role: str) -> str:
            mine = url.set(drivername="postgresql", username=role, password=PASSWORD)
            return mine.render_as_string(hide_password=False)

        yield {
            "DELIVERY_DATABASE_URL": of(app),
            "DELIVERY_MIGRATE_DATABASE_URL": of(owner),
            "DELIVERY_AUDIT_SECRET": SECRET,
            "DELIVERY_DATA_DIR": str(tmp_path / "data"),
        }
        for role in (owner, app):
            admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")


FORBIDDEN = (
    "UPDATE audit_log SET kind = 'x'",
    "DELETE FROM audit_log",
    "TRUNCATE audit_log",
    "UPDATE audit_seals SET hash = 'x'",
    "DELETE FROM audit_seals",
    "TRUNCATE audit_seals",
    "UPDATE audit_head SET seal = 0",
    "UPDATE audit_details SET details = 'x'",
    "UPDATE audit_subjects SET user_id = 'x'",
    "DELETE FROM audit_counter",
    "DROP TABLE audit_log",
    "ALTER TABLE audit_log DISABLE TRIGGER ALL",
    "UPDATE alembic_version SET version_num = 'x'",
    "CREATE TABLE mine (id int)",
)


def test_the_applications_role_does_its_work_and_may_only_add_to_the_log(
    env: dict[str, str],
) -> None:
    assert run(env, "migrate").exit_code == 0
    assert run(env, "migrate").exit_code == 0, "again, with all rights given"
    url = env["DELIVERY_DATABASE_URL"]
    with psycopg.connect(env["DELIVERY_MIGRATE_DATABASE_URL"]) as owner:
        owner.execute(
            "INSERT INTO audit_log (at, kind, event_id, user_id, facts) "
            "VALUES (now(), 'state', gen_random_uuid(), 'linus', '{}')"
        )
    ledger = SqlLedger(url, audit_keys=AuditKeys(SECRET))
    work(ledger)
    ledger.audit.seal()
    left = ledger.erasure.erase_rest("linus", events=0, actor="test").unkeyed_rows
    assert left == 1, "a row of the first release waits for the owner"
    assert ledger.audit.verify().findings == ()
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in FORBIDDEN:
            with pytest.raises((errors.InsufficientPrivilege, errors.UndefinedTable)):
                connection.execute(statement)
    ledger.close()

    checked = run(env, "check", "--json")
    found = {one["what"]: one["found"] for one in json.loads(checked.output)}
    assert "may only add to the compliance log" in found["database"]
    as_app = env | {"DELIVERY_MIGRATE_DATABASE_URL": url}
    assert run(as_app, "audit", "prune", "--older-than", "0").exit_code != 0
    assert run(env, "audit", "verify").exit_code == 0
    assert run(env, "users", "erase", "ada", "--json").exit_code == 0
    erased = run(env, "users", "erase", "linus", "--json")
    assert json.loads(erased.output)["unkeyed_rows"] == 0
    with psycopg.connect(url) as connection:
        asked = "SELECT count(*) FROM audit_log WHERE user_id = 'linus'"
        assert connection.execute(asked).fetchone() == (0,)
    assert run(env, "audit", "prune", "--older-than", "0").exit_code == 0
    assert run(env, "audit", "verify").exit_code == 0


def work(ledger: SqlLedger) -> None:
    """A little of everything that writes."""
    event = make_event(id=new_event_id(), seq=None, event_class=EventClass.AUTH, user_id="ada")
    ledger.recording.commit([make_entry(event)])
    ledger.operations.hand_over([event.id], "test")
    ledger.chain.sweep()
    ledger.operations.replay([event.id], policies=make_policies())
    ledger.confirmations.confirm([Confirmation(event.id, "ada", "http", "ada", "test")])
    ledger.contacts.put(Contact("ada", email="ada@example.org"))
    ledger.contacts.opt_out("ada", "email")
    ledger.nodes.beat("n", "gateway", 0, {})
    ledger.breakers.report("email", ok=False)
    ledger.retention.purge({State.CONFIRMED: ledger.now()})
    for user in ("ada", "grace"):
        ledger.contacts.put(Contact(user, email=f"{user}@example.org"))
    ledger.erasure.erase_events("grace")
    assert ledger.erasure.erase_rest("grace", events=0, actor="test").unkeyed_rows == 0


def test_a_role_can_be_named_where_migrate_has_the_owners_url_alone(env: dict[str, str]) -> None:
    url = env.pop("DELIVERY_DATABASE_URL")
    role = str(make_url(url).username)
    assert run(env, "migrate", "--role", role).exit_code == 0
    ledger = SqlLedger(url, audit_keys=AuditKeys(SECRET))
    work(ledger)
    ledger.close()
    owner = str(make_url(env["DELIVERY_MIGRATE_DATABASE_URL"]).username)
    for wrong in ("no such role", owner):
        refused = run(env, "migrate", "--role", wrong)
        assert refused.exit_code == 2, refused.output


def test_the_application_works_on_partitions_that_the_owner_makes(env: dict[str, str]) -> None:
    assert run(env, "migrate").exit_code == 0
    made = run(env, "partitions", "init", "--every", "week", "--json")
    assert made.exit_code == 0, made.output
    assert len(json.loads(made.output)["partitions"]) > 3
    app = SqlLedger(env["DELIVERY_DATABASE_URL"], audit_keys=AuditKeys(SECRET))
    work(app)
    assert app.partitions.make_ahead() == []
    app.close()
    as_app = env | {"DELIVERY_MIGRATE_DATABASE_URL": env["DELIVERY_DATABASE_URL"]}
    refused = run(as_app, "partitions", "maintain")
    assert refused.exit_code == 2
    assert "own" in refused.output
    assert run(env, "partitions", "maintain").output == "nothing is due\n"
    assert run(env, "migrate").exit_code == 0, "grants reach the new table"
    checked = json.loads(run(env, "check", "--json").output)
    assert "by week" in next(one["found"] for one in checked if one["what"] == "partitions")
    assert run(env, "purge", "--keep", "confirmed=0").exit_code == 0
