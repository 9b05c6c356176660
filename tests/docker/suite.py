"""Our image's worker among pytest-celery's own containers: each broker that the plugin has."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pytest_celery import CeleryTestSetup

from delivery.domain.event import EventClass
from delivery.domain.policy import CHANNELS
from delivery.emitter.validate import new_event_id
from delivery.ledger import SqlLedger
from delivery.tasks.broker.app import MAINTENANCE_QUEUE, SWEEP, task_name
from delivery.testing import make_entry, make_event
from tests.server_process import wait_until

pytestmark = pytest.mark.timeout(900)  # containers start one after the other

LONG_WAIT = 60.0


def hand_over(ledger: SqlLedger) -> str:
    """Put an event before its chain."""
    event = make_event(
        id=new_event_id(),
        type="agent_completed",
        user_id="ada",
        run_id="run-1",
        seq=None,
        at=datetime.now(UTC),
        event_class=EventClass.CRITICAL,
    )
    ledger.recording.commit([make_entry(event, ack_timeout=5.0, ttl=600.0, hand_over=True)])
    return event.id


def wait_for_the_chain(setup: CeleryTestSetup, ledger: SqlLedger, event_id: str) -> None:
    """Be the beat until the worker has recorded the chain's first attempt."""

    def has_begun() -> bool:
        setup.app.send_task(SWEEP, queue=MAINTENANCE_QUEUE, expires=5.0, retry=True)
        found = ledger.events.get(event_id)
        assert found is not None
        return any(a.channel == "database" and a.ended_at for a in found.attempts)

    wait_until(has_begun, "the chain has begun", LONG_WAIT)


def test_the_image_serves_the_chains_tasks(
    celery_setup: CeleryTestSetup, ledger: SqlLedger
) -> None:
    assert celery_setup.ready(control=True, docker=True)
    (registered,) = celery_setup.app.control.inspect(timeout=5.0).registered().values()
    assert {task_name(channel) for channel in CHANNELS} <= set(registered)
    wait_for_the_chain(celery_setup, ledger, hand_over(ledger))


def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    celery_setup: CeleryTestSetup, ledger: SqlLedger
) -> None:
    celery_setup.worker.kill()
    event_id = hand_over(ledger)
    celery_setup.worker.restart()
    wait_for_the_chain(celery_setup, ledger, event_id)
