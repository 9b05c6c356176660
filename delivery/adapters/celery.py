"""Celery tasks as events: start, progress, result, failure and retry.

::

    recorder = ProcessRecorder(url, token)         # in a module: each worker process connects anew

    @app.task(bind=True, autoretry_for=(OSError,))
    @recorded(recorder)
    def research(self, user_id, run_id, question):
        progress(0.5, "reading")
        return "42"

Owns: which event a task's end is. Never does: change what a task returns or raises, or keep Celery
from seeing its signature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, Protocol, TypeVar

from celery import current_task
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import worker_process_shutdown

from delivery.adapters.agent_run import CRITICAL, EPHEMERAL, AgentRun, described
from delivery.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

_current: ContextVar[tuple[AgentRun, dict[str, Any]] | None] = ContextVar(
    "delivery_task", default=None
)


class Runs(Protocol):
    """A ``ProcessRecorder``, or a ``Recorder`` where tasks run in this process."""

    def run(self, user_id: str, run_id: str, thread_id: str | None = None) -> AgentRun: ...
    def flush(self, timeout: float = 5.0) -> bool: ...
    def close(self, timeout: float | None = None) -> None: ...


def recorded(
    recorder: Runs,
    *,
    context: Callable[..., Sequence[str]] | None = None,
    show: Sequence[str] = (),
    wait: float = 0.0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Record each run of a task; stands below ``@app.task``.

    Args:
        context: gives ``user_id``, ``run_id`` and perhaps ``thread_id`` of a call's arguments
            (without ``self``). Without it the task has parameters of these names; a task without
            ``run_id`` is a run of its own, whose id is the task's.
        show: names of arguments that ``task_started`` carries. The user sees them.
        wait: seconds that a task waits in the end for the service to take its events.

    Raises:
        ConfigError: it cannot be told whose task it is.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        if context is None and "user_id" not in signature.parameters:
            raise ConfigError(
                f"task {function.__name__}: name a parameter user_id, or pass context= to recorded"
            )
        unknown = [name for name in show if name not in signature.parameters]
        if unknown:
            raise ConfigError(f"task {function.__name__} has no argument {unknown[0]!r} to show")

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            given = _given(signature, args, kwargs)
            run = recorder.run(*_context(context, given, args, kwargs))
            shown = {name: given[name] for name in show if name in given} or None
            try:
                with _span(run, shown) as span:
                    span.result = result = function(*args, **kwargs)
                return result
            finally:
                if wait > 0.0:
                    recorder.flush(wait)

        run.__signature__ = signature  # type: ignore[attr-defined]  # Celery checks calls by it
        _close_with_worker(recorder)
        return run

    return decorate


def progress(done: float | None = None, message: str | None = None, **data: Any) -> None:
    """Record ``progress``, ephemeral, of the task around this code; outside of one it does nothing.

    Args:
        done: the fraction, from 0 to 1.
    """
    found = _current.get()
    if found is not None:
        run, task = found
        run.record("progress", {**task, "done": done, "message": message, **data}, class_=EPHEMERAL)


def current_run() -> AgentRun | None:
    """The run of the task around this code: an agent inside of it is recorded there."""
    found = _current.get()
    return None if found is None else found[0]


class _Span:
    result: Any = None


@contextmanager
def _span(run: AgentRun, shown: dict[str, Any] | None) -> Iterator[_Span]:
    task = _task()
    run.record("task_started", {**task, "args": shown})
    run.wait_for_room()
    token = _current.set((run, task))
    span = _Span()
    try:
        yield span
    except BaseException as error:
        _record_end(run, task, error)
        raise
    else:
        run.record("task_completed", {**task, "result": span.result})
    finally:
        _current.reset(token)
        run.wait_for_room()


def _record_end(run: AgentRun, task: dict[str, Any], error: BaseException) -> None:
    if isinstance(error, Ignore | Reject):  # asks Celery to forget the task: no failure
        run.record("task_ignored", {**task, "reason": str(error) or None})
    elif isinstance(error, Retry):
        cause = None if error.exc is None else described(error.exc)
        run.record("task_retry", {**task, "error": cause, "when": str(error.when or "") or None})
    elif _is_retried(error):
        run.record("task_retry", {**task, "error": described(error)})
    else:
        run.record("task_failed", {**task, "error": described(error)}, class_=CRITICAL)


def _is_retried(error: BaseException) -> bool:
    """Whether Celery will run the task again by itself, as its ``autoretry_for`` says."""
    task: Any = current_task
    if not task or not isinstance(error, tuple(getattr(task, "autoretry_for", ()))):
        return False
    if isinstance(error, tuple(getattr(task, "dont_autoretry_for", ()))):
        return False
    most = getattr(task, "override_max_retries", task.max_retries)
    most = (getattr(task, "retry_kwargs", None) or {}).get("max_retries", most)
    return most is None or task.request.retries < most


def _task() -> dict[str, Any]:
    """Name, id and attempt of the task around this code; a plain call has only the first."""
    task: Any = current_task  # a proxy, false outside of a task
    if not task:
        return {"task": None, "task_id": None, "attempt": 1}
    request = task.request
    return {"task": task.name, "task_id": request.id, "attempt": (request.retries or 0) + 1}


def _given(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return dict(kwargs)  # the call itself raises it, and its failure is recorded
    bound.apply_defaults()
    return bound.arguments


def _context(
    context: Callable[..., Sequence[str]] | None,
    given: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, Any, Any]:
    if context is not None:
        task: Any = current_task
        is_bound = bool(args and task and args[0] == task)
        user, run, *thread = context(*args[is_bound:], **kwargs)
        return user, run, thread[0] if thread else None
    run_id = given.get("run_id")
    run_id = _task()["task_id"] if run_id is None else run_id
    return given.get("user_id"), run_id, given.get("thread_id")


def _close_with_worker(recorder: Runs) -> None:
    """A worker's child ends without ``atexit``: its last events are sent by Celery's signal."""
    worker_process_shutdown.connect(
        lambda **_: recorder.close(), weak=False, dispatch_uid=f"delivery-recorder-{id(recorder)}"
    )
