"""Tasks of a real Celery application, and the events that say how each run of one went."""

from __future__ import annotations

import inspect

import pytest
from celery import Celery
from celery.exceptions import Ignore, Retry
from celery.result import EagerResult

from delivery.adapters.celery import current_run, progress, recorded
from delivery.errors import ConfigError, InvalidContext
from tests.adapters.support import AWAY, events, gateway, recording, types


def application() -> Celery:
    return Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)


def outcome(result: EagerResult) -> object:
    """The result of a task that ran at once. An embedded worker of an earlier test may have left
    this process marked as one whose tasks must not wait for each other."""
    return result.get(disable_sync_subtasks=False)


def test_start_progress_and_result_are_events_of_one_task():
    with gateway() as server:
        with recording(server.url) as recorder, application() as app:

            @app.task(bind=True)
            @recorded(recorder, show=("question",))
            def research(self, user_id, run_id, question, secret=None):
                progress(0.5, "reading")
                current_run().tool_started("search", question, tool_call_id="c1")
                return {"answer": question}

            assert outcome(research.apply(("u1", "r1", "why?"))) == {"answer": "why?"}
            assert list(inspect.signature(research.run).parameters)[-2:] == ["question", "secret"]
        began, halfway, _, ended = events(server)
        assert types(server) == ["task_started", "tool_executing", "task_completed"]
        assert (began["user_id"], began["run_id"]) == ("u1", "r1")
        assert began["data"]["args"] == {"question": "why?"}
        assert ended["data"]["result"] == {"answer": "why?"}
        assert (halfway["class"], halfway["data"]["done"]) == ("ephemeral", 0.5)
        assert len({one["data"]["task_id"] for one in (began, halfway, ended)}) == 1
        assert {one["data"]["attempt"] for one in (began, ended)} == {1}


def test_a_failure_is_an_event_and_is_raised_again():
    with gateway() as server:
        with recording(server.url) as recorder, application() as app:

            @app.task
            @recorded(recorder)
            def research(user_id):
                raise LookupError("no such page")

            result = research.apply(("u1",), task_id="task-1")
            with pytest.raises(LookupError):
                outcome(result)
        assert types(server) == ["task_started", "task_failed"]
        assert events(server)[1]["class"] == "critical"
        assert events(server)[1]["data"]["error"]["type"] == "LookupError"
        assert {one["run_id"] for one in events(server)} == {"task-1"}


@pytest.mark.parametrize("by_itself", [True, False], ids=["autoretry", "self.retry"])
def test_each_retry_is_an_event_until_the_last_attempt(by_itself):
    options = {"autoretry_for": (OSError,), "max_retries": 2, "retry_backoff": 0}
    with gateway() as server:
        with recording(server.url) as recorder, application() as app:

            @app.task(bind=True, **(options if by_itself else {"max_retries": 2}))
            @recorded(recorder)
            def research(self, user_id, run_id):
                try:
                    raise ConnectionError("away")
                except ConnectionError as error:
                    if by_itself:
                        raise
                    raise self.retry(exc=error, countdown=0) from error

            with pytest.raises(ConnectionError):
                outcome(research.apply(("u1", "r1")))
        assert types(server) == ["task_started", "task_retry"] * 2 + ["task_started", "task_failed"]
        assert [one["data"]["attempt"] for one in events(server)] == [1, 1, 2, 2, 3, 3]
        assert {
            one["data"]["error"]["type"] for one in events(server, "task_retry", "task_failed")
        } == {"ConnectionError"}


def test_a_task_that_asks_to_be_ignored_has_not_failed():
    with gateway() as server:
        with recording(server.url) as recorder, application() as app:

            @app.task
            @recorded(recorder)
            def research(user_id, run_id):
                raise Ignore("known already")

            research.apply(("u1", "r1"))
        assert types(server) == ["task_started", "task_ignored"]


@pytest.mark.parametrize("away", AWAY)
def test_a_gateway_that_is_away_fails_no_task(away):
    with (
        AWAY[away]() as url,
        recording(url, close_timeout=0.1) as recorder,
        application() as app,
    ):

        @app.task
        @recorded(recorder)
        def research(user_id, run_id):
            return object

        assert outcome(research.apply(("u1", "r1"))) is object


def test_whose_task_it_is_must_be_known():
    with recording("http://127.0.0.1:1", close_timeout=0.1) as recorder:
        with pytest.raises(ConfigError, match="user_id"):
            recorded(recorder)(lambda question: None)
        with pytest.raises(ConfigError, match="answer"):
            recorded(recorder, show=["answer"])(lambda user_id: None)
        with pytest.raises(InvalidContext) as refused:
            recorded(recorder)(lambda user_id, run_id: None)("", "r1")
        assert refused.value.field == "user_id"


def test_the_context_may_come_from_other_arguments():
    with gateway() as server:
        with recording(server.url) as recorder, application() as app:

            @app.task(bind=True)
            @recorded(recorder, context=lambda job: (job["owner"], job["id"]))
            def research(self, job):
                return Retry.__name__

            outcome(research.apply(({"owner": "u7", "id": "r7"},)))
        assert {(one["user_id"], one["run_id"]) for one in events(server)} == {("u7", "r7")}
