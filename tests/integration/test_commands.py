"""Commands against real services: migrate, check, purge, audit; worker and beat as processes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from delivery.domain.audit import AuditKeys
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.emitter.validate import new_event_id
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event
from tests.processes import AUDIT_SECRET, SECRET, run_command, running
from tests.servers import wait_until

SHORT = """
[class.standard]
ack_timeout = 5
ttl = 600
[[class.standard.chain]]
channel = "database"
[[class.standard.chain]]
channel = "queue"
"""


@pytest.fixture
def settings(postgres_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """A cluster's settings."""
    policies = tmp_path / "policies.toml"
    policies.write_text(SHORT)
    return {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "JWT_SECRET": SECRET,
        "POLICIES": str(policies),
        "DATA_DIR": str(tmp_path / "data"),
        "LOG_LEVEL": "DEBUG",
    }


@contextmanager
def ledger_of(settings: dict[str, str]) -> Iterator[SqlLedger]:
    keys = AuditKeys(AUDIT_SECRET)
    with closing(SqlLedger(settings["DATABASE_URL"], audit_keys=keys)) as ledger:
        yield ledger


def put_event(ledger: SqlLedger, *, hand_over: bool = False, confirmed: bool = False) -> str:
    event = make_event(
        id=new_event_id(),
        type="note",
        user_id="u",
        run_id=uuid.uuid4().hex,
        seq=None,
        at=datetime.now(UTC),
        event_class=EventClass.STANDARD,
    )
    ledger.recording.commit([make_entry(event, ack_timeout=5, ttl=600, hand_over=hand_over)])
    if confirmed:
        ledger.confirmations.confirm([Confirmation(event.id, "u", "http", "u", "test")])
    return event.id


def test_check_names_missing_tables_until_migrate_has_run(
    settings: dict[str, str], tmp_path: Path
) -> None:
    before = run_command("check", cwd=tmp_path, settings=settings)
    assert before.returncode == 1, before.stdout + before.stderr
    assert "delivery migrate" in before.stdout
    migrated = run_command("migrate", "--json", cwd=tmp_path, settings=settings)
    assert migrated.returncode == 0, migrated.stderr
    after = run_command("check", "--json", cwd=tmp_path, settings=settings)
    assert after.returncode == 0, after.stdout + after.stderr
    found = {item["what"]: item["level"] for item in json.loads(after.stdout)}
    assert found["database"] == found["redis"] == found["broker"] == found["tokens"] == "ok"


def test_migrate_goes_down_and_up_again(settings: dict[str, str], tmp_path: Path) -> None:
    for args in (["migrate"], ["migrate", "--down", "base"], ["migrate"]):
        assert run_command(*args, cwd=tmp_path, settings=settings).returncode == 0
    with ledger_of(settings) as ledger:
        put_event(ledger)


def test_check_names_a_database_that_does_not_answer(
    settings: dict[str, str], tmp_path: Path
) -> None:
    settings["DATABASE_URL"] = "postgresql://reader:hunter22@127.0.0.1:1/x"
    done = run_command("check", cwd=tmp_path, settings=settings)
    assert done.returncode == 3
    assert "DELIVERY_DATABASE_URL" in done.stdout
    assert "hunter22" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["purge", "audit"])
def test_commands_on_a_database_that_does_not_answer_exit_3(
    settings: dict[str, str], tmp_path: Path, command: str
) -> None:
    settings["DATABASE_URL"] = "postgresql://reader:hunter22@127.0.0.1:1/x"
    more = {"purge": ["--state", "dead", "--older-than", "1"], "audit": ["verify"]}[command]
    done = run_command(command, *more, cwd=tmp_path, settings=settings)
    assert done.returncode == 3, done.stderr
    assert "hunter22" not in done.stdout + done.stderr


def test_purge_deletes_only_old_events_that_have_ended(
    settings: dict[str, str], tmp_path: Path
) -> None:
    run_command("migrate", cwd=tmp_path, settings=settings)
    with ledger_of(settings) as ledger:
        kept, ended = put_event(ledger), put_event(ledger, confirmed=True)
        args = ["purge", "--state", "confirmed", "--json"]
        young = run_command(*args, "--older-than", "1", cwd=tmp_path, settings=settings)
        assert json.loads(young.stdout) == {"deleted": 0, "by_state": {"confirmed": 0}}
        keep = ["--keep", "confirmed=0", "--keep", "dead=30"]
        tried = run_command("purge", *keep, "--dry-run", cwd=tmp_path, settings=settings)
        assert tried.stdout.strip() == "1 confirmed, 0 dead would be deleted"
        assert ledger.events.get(ended) is not None
        old = run_command("purge", *keep, "--json", cwd=tmp_path, settings=settings)
        assert json.loads(old.stdout) == {"deleted": 1, "by_state": {"confirmed": 1, "dead": 0}}
        assert ledger.events.get(ended) is None
        assert ledger.events.get(kept) is not None


def test_audit_verify_finds_a_changed_row(settings: dict[str, str], tmp_path: Path) -> None:
    run_command("migrate", cwd=tmp_path, settings=settings)
    with ledger_of(settings) as ledger:
        for number in range(3):
            ledger.audit.append("test", new_event_id(), "u", {"number": number})
        ledger.audit.seal()
    whole = run_command("audit", "verify", cwd=tmp_path, settings=settings)
    assert (whole.returncode, whole.stdout.strip()) == (0, "the chain is whole")
    tamper(settings["DATABASE_URL"])
    broken = run_command("audit", "verify", "--json", cwd=tmp_path, settings=settings)
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["findings"]


def tamper(url: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.begin() as connection:
        changed = connection.execute(
            sa.text(
                "UPDATE audit_log SET user_id = 'another-user' "
                "WHERE id = (SELECT min(id) FROM audit_log)"
            )
        )
        assert changed.rowcount == 1
    engine.dispose()


@pytest.mark.parametrize(
    "worker",
    [
        ("worker", "--concurrency", "2"),
        ("celery", "-A", "delivery.worker", "worker", "--pool", "prefork", "--concurrency", "2"),
    ],
    ids=["delivery-worker", "celery-prefork"],
)
def test_worker_and_beat_carry_a_chain_to_its_end(
    settings: dict[str, str], tmp_path: Path, worker: tuple[str, ...]
) -> None:
    run_command("migrate", cwd=tmp_path, settings=settings)
    with (
        ledger_of(settings) as ledger,
        running("beat", cwd=tmp_path, settings=settings),
        running(*worker, cwd=tmp_path, settings=settings, name="worker") as process,
    ):
        event_id = put_event(ledger, hand_over=True)

        def state() -> State | None:
            timeline = ledger.events.get(event_id)
            return None if timeline is None else timeline.stored.state

        try:
            wait_until(lambda: state() is State.PARKED, "the chain is over", 30)
        except TimeoutError:
            raise AssertionError(
                f"{ledger.events.get(event_id)}; the worker's log:\n{process.tail()}"
            ) from None
        timeline = ledger.events.get(event_id)
        assert timeline is not None
        outcomes = [(attempt.channel, str(attempt.outcome)) for attempt in timeline.attempts]
        assert ("database", "delivered") in outcomes
        assert ("queue", "delivered") in outcomes
        assert process.stop() == 0
        assert SECRET not in process.log.read_text()


def test_worker_and_beat_show_as_nodes_until_they_end(
    settings: dict[str, str], tmp_path: Path
) -> None:
    run_command("migrate", cwd=tmp_path, settings=settings)
    with (
        ledger_of(settings) as ledger,
        running("beat", cwd=tmp_path, settings=settings) as beat,
        running("worker", cwd=tmp_path, settings=settings) as worker,
    ):
        wait_until(
            lambda: {node.kind for node in ledger.nodes.all()} == {"worker", "beat"},
            "both show as nodes",
            30,
        )
        assert worker.stop() == 0
        assert beat.stop() == 0
        assert ledger.nodes.all() == []


def test_a_worker_refuses_a_database_of_another_version(
    settings: dict[str, str], tmp_path: Path
) -> None:
    done = run_command("worker", cwd=tmp_path, settings=settings)
    assert done.returncode == 2
    assert "delivery migrate" in done.stderr


def test_a_worker_refuses_a_queue_that_is_not_there(
    settings: dict[str, str], tmp_path: Path
) -> None:
    done = run_command("worker", "--queues", "fax", cwd=tmp_path, settings=settings)
    assert done.returncode == 2
    assert "'fax'" in done.stderr
