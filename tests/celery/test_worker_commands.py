"""Workers as they are started by hand: which queues they serve, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from delivery.ledger import migrate
from delivery.tasks.broker.app import make_app
from tests.processes import SECRET, run_command, running
from tests.server_process import wait_until

CELERY = ("celery", "-A", "delivery.worker", "worker", "-E")


@pytest.fixture
def plain_settings(postgres_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """What a worker needs, and no more; the tables are made."""
    migrate.upgrade(postgres_url)
    return {
        "DATABASE_URL": postgres_url,
        "BROKER_URL": redis_url,
        "JWT_SECRET": SECRET,
        "DATA_DIR": str(tmp_path / "data"),
    }


def test_a_worker_serves_the_queues_that_it_was_given_and_no_others(
    plain_settings: dict[str, str], tmp_path: Path
) -> None:
    app = make_app(plain_settings["BROKER_URL"])
    inspect = app.control.inspect(timeout=2.0)
    with running(
        "worker", "--queues", "alert, maintenance", cwd=tmp_path, settings=plain_settings
    ) as worker:
        served: list[set[str]] = []

        def answers() -> bool:
            served[:] = [{q["name"] for q in qs} for qs in (inspect.active_queues() or {}).values()]
            return bool(served)

        wait_until(answers, f"the worker answers; its log: {worker.log}", 30.0)
    app.close()
    assert served == [{"delivery.alert", "delivery.maintenance"}]


@pytest.mark.parametrize("command", [("worker",), ("beat",), ("gateway", "--port", "0")])
@pytest.mark.parametrize(
    ("setting", "value", "higher"),
    [
        ("TASK_SOFT_LIMIT", "31", "task_hard_limit"),
        ("BROKER_VISIBILITY_TIMEOUT", "60", "claim_lease"),
    ],
)
def test_time_limits_out_of_order_are_refused_at_the_start(
    plain_settings: dict[str, str],
    tmp_path: Path,
    command: tuple[str, ...],
    setting: str,
    value: str,
    higher: str,
) -> None:
    done = run_command(*command, cwd=tmp_path, settings=plain_settings | {setting: value})
    assert done.returncode == 2, done.stderr
    assert f"{setting.lower()} ({value} s) must be below {higher}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_celerys_own_command_says_what_is_wrong_in_one_line(
    plain_settings: dict[str, str], tmp_path: Path
) -> None:
    plain_settings["CLAIM_LEASE"] = "40"
    with running(*CELERY, cwd=tmp_path, settings=plain_settings) as process:
        assert process.process.wait(30.0) == 2
    assert "broker_visibility_timeout (40 s) must be below claim_lease (40 s)" in process.tail()
    assert "Traceback" not in process.tail()
    assert SECRET not in process.tail()
