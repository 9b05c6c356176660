"""The fallback chain's tasks in pytest-celery's setup, on Redis and on RabbitMQ."""

from __future__ import annotations

import pytest
from pytest_celery import CeleryTestSetup

from delivery.domain.lifecycle import State
from delivery.domain.policy import CHANNELS
from delivery.tasks.broker.app import task_name
from tests.celery.conftest import LONG_WAIT, Chain
from tests.server_process import wait_until
from tests.web_server import Reply, WebServer

pytestmark = pytest.mark.timeout(240)

# A dead worker's claim is over after seven seconds.
SHORT = {
    "TASK_SOFT_LIMIT": "4",
    "TASK_HARD_LIMIT": "5",
    "BROKER_VISIBILITY_TIMEOUT": "6",
    "CLAIM_LEASE": "7",
}


def alerts(operators: WebServer) -> int:
    """How often the operators were called."""
    return sum(request.path.endswith("/api/v2/alerts") for request in operators.requests)


def test_a_message_delivered_twice_has_one_effect(
    celery_setup: CeleryTestSetup, chain: Chain, operators: WebServer
) -> None:
    assert celery_setup.ready(control=True, docker=True)
    inspect = celery_setup.app.control.inspect(timeout=2.0)
    (registered,) = inspect.registered().values()
    assert {task_name(channel) for channel in CHANNELS} <= set(registered)

    chain.copies = 2
    event_id = chain.hand_over()
    chain.sweep()

    def has_done_both() -> bool:
        (figures,) = (inspect.stats() or {"": {"total": {}}}).values()
        (active,) = (inspect.active() or {"": ["unknown"]}).values()
        return figures["total"].get(task_name("alert")) == 2 and not active

    wait_until(has_done_both, "the worker has done both", LONG_WAIT)
    assert chain.state(event_id) is State.DEAD, celery_setup.worker.logs()
    assert chain.attempts(event_id) == [(1, "delivered")]
    assert alerts(operators) == 1


@pytest.mark.parametrize("limits", [SHORT], indirect=True, ids=["short"])
def test_what_a_killed_worker_was_doing_is_finished_by_another(
    celery_setup: CeleryTestSetup, chain: Chain, operators: WebServer
) -> None:
    operators.answer = lambda request: Reply(hang=True)
    event_id = chain.hand_over()

    def is_in_the_middle() -> bool:
        chain.sweep()
        return alerts(operators) == 1

    wait_until(is_in_the_middle, "the worker is in the middle of it", LONG_WAIT)
    celery_setup.worker.kill()
    assert chain.state(event_id) is State.FALLING_BACK
    operators.answer = lambda request: Reply()
    celery_setup.worker.restart()
    chain.sweep_until_dead(event_id)
    assert chain.attempts(event_id) == [(1, "unknown"), (2, "delivered")]
    assert alerts(operators) == 2


def test_a_broker_that_restarts_loses_nothing(celery_setup: CeleryTestSetup, chain: Chain) -> None:
    before = chain.hand_over()
    celery_setup.broker.restart()
    chain.sweep_until_dead(before)
    after = chain.hand_over()
    chain.sweep_until_dead(after)
    assert chain.attempts(before)[-1][1] == chain.attempts(after)[-1][1] == "delivered"
    assert celery_setup.worker.container.status == "running", "it came back by itself"


@pytest.mark.parametrize(
    "worker_options",
    # A child of more than 1 KiB is replaced: each one, after every task.
    ["--autoscale 4,1 --max-memory-per-child 1"],
    indirect=True,
    ids=["autoscale"],
)
def test_a_pool_that_grows_and_replaces_its_children_does_every_task_once(
    celery_setup: CeleryTestSetup, chain: Chain, operators: WebServer
) -> None:
    ids = []
    for _ in range(6):
        ids.append(chain.hand_over())
        chain.sweep()  # a message of its own for each
    for event_id in ids:
        chain.sweep_until_dead(event_id)
    assert [chain.attempts(event_id) for event_id in ids] == [[(1, "delivered")]] * 6
    assert alerts(operators) == 6
    assert celery_setup.worker.container.status == "running"


def test_a_broker_that_restarts_again_and_again_leaves_a_worker_that_works(
    celery_setup: CeleryTestSetup, chain: Chain
) -> None:
    is_quick = celery_setup.app.conf.broker_url.startswith("redis")
    ids = []
    for _ in range(20 if is_quick else 2):
        ids.append(chain.hand_over())
        celery_setup.broker.restart()
    for event_id in ids:
        chain.sweep_until_dead(event_id)
    assert celery_setup.worker.container.status == "running"
    assert all(chain.attempts(event_id)[-1][1] == "delivered" for event_id in ids)
