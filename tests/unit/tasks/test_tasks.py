"""The thin Celery tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from delivery.domain.policy import CHANNELS
from delivery.errors import LedgerUnavailable
from delivery.tasks.broker import registration
from delivery.tasks.broker.app import make_app
from delivery.tasks.broker.registration import (
    SEAL_PAGE,
    Maintenance,
    register,
    register_maintenance,
    register_webhooks,
)


class RecordingExecutor:
    def __init__(self, fault: BaseException | None = None) -> None:
        self.runs: list[tuple[str, Sequence[str]]] = []
        self.fault = fault

    def run(self, channel: str, ids: Sequence[str]) -> None:
        self.runs.append((channel, ids))
        if self.fault:
            raise self.fault


class Recorded:
    """A sweeper, an alerter, a sealer and a trimmer in one."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sealed: list[int] = []

    def sweep(self) -> None:
        self.calls.append("sweep")

    def run(self) -> None:
        self.calls.append("alerts")

    def seal(self, limit: int) -> int:
        self.calls.append("seal")
        return self.sealed.pop(0)

    def trim(self, max_age: float) -> int:
        self.calls.append("trim")
        return 0


@pytest.fixture
def app() -> Celery:
    return make_app("memory://")


def executor_on(app: Celery, fault: BaseException | None = None) -> RecordingExecutor:
    executor = RecordingExecutor(fault)
    register(app, lambda: executor)  # type: ignore[arg-type, return-value]
    app.finalize()
    return executor


def test_every_channel_has_a_task_with_a_recognisable_name(app: Celery) -> None:
    executor_on(app)
    assert {f"delivery.fallback.{channel}" for channel in CHANNELS} <= set(app.tasks)


def test_a_task_runs_its_channel_for_its_ids(app: Celery) -> None:
    executor = executor_on(app)
    app.tasks["delivery.fallback.sms"](["a", "b"])
    assert executor.runs == [("sms", ["a", "b"])]


def test_the_executor_is_made_where_the_task_runs(app: Celery) -> None:
    made: list[str] = []

    def make() -> Any:
        made.append("made")
        return RecordingExecutor()

    register(app, make)
    app.finalize()
    assert made == []
    app.tasks["delivery.fallback.queue"](["a"])
    assert made == ["made"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (LedgerUnavailable("the database is locked"), "the database is locked"),
        (SoftTimeLimitExceeded(), "soft time limit"),
    ],
)
def test_what_the_due_times_make_good_is_a_warning_and_no_failed_task(
    app: Celery, caplog: pytest.LogCaptureFixture, fault: BaseException, said: str
) -> None:
    executor_on(app, fault)
    with caplog.at_level(logging.WARNING):
        app.tasks["delivery.fallback.email"](["a"])
    assert said in caplog.text
    assert "delivery.fallback.email" in caplog.text


def test_a_bug_fails_the_task(app: Celery) -> None:
    executor_on(app, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        app.tasks["delivery.fallback.email"](["a"])


def test_no_task_is_a_coroutine_function(app: Celery) -> None:
    async def work() -> None: ...

    with pytest.raises(TypeError, match="coroutine"):
        registration._add(app, "delivery.bad", work)


def maintenance_on(app: Celery) -> tuple[Recorded, Callable[[str], None]]:
    recorded = Recorded()
    parts = Maintenance(recorded, recorded, recorded.seal, recorded.trim)  # type: ignore[arg-type]
    register_maintenance(app, lambda: parts)
    app.finalize()
    return recorded, lambda name: app.tasks[name]()


def test_beats_tasks_do_what_their_names_say(app: Celery) -> None:
    recorded, call = maintenance_on(app)
    for name in ("delivery.sweep", "delivery.resolve_alerts", "delivery.trim_mailbox"):
        call(name)
    assert recorded.calls == ["sweep", "alerts", "trim"]


def test_everything_in_the_schedule_is_registered(app: Celery) -> None:
    maintenance_on(app)
    register_webhooks(app, lambda: Recorded())  # type: ignore[arg-type, return-value]
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)


def test_the_sealer_goes_on_until_nothing_is_left(app: Celery) -> None:
    recorded, call = maintenance_on(app)
    recorded.sealed = [SEAL_PAGE, SEAL_PAGE, 3]
    call("delivery.seal_audit")
    assert recorded.calls == ["seal"] * 3
