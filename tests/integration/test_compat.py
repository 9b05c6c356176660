"""Older emitters' names: what each method emits comes out of a real socket.

They are called as their callers do, positionally and by the exact names of their parameters, on one
gateway in this process, embedded or over HTTP.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

import delivery
from delivery import compat
from delivery.bootstrap.mount import Mounted
from delivery.config import load_settings
from delivery.domain.event import AUTH_TYPES
from delivery.emitter import compat as home
from delivery.emitter.emitter import EmitterCore
from delivery.gateway.registry import Registry
from tests.wire import Listener, listening

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Gateway(NamedTuple):
    """One gateway in this process, and a connection to it over HTTP."""

    url: str
    embedded: Mounted
    remote: delivery.Remote
    secret: str

    def token(self, user_id: str) -> str:
        """A client's token."""
        return delivery.issue_token(user_id, self.secret)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("compat")
    app = web.Application()
    embedded = delivery.embed(app, load_settings(data_dir=str(folder)))
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        secret = (folder / "dev-secret").read_text().strip()
        service = delivery.issue_token("older-code", secret, scope="emit read")
        async with delivery.connect(url, service) as remote:
            yield Gateway(url, embedded, remote, secret)


class Context(NamedTuple):
    """An execution context of older code."""

    user_id: str
    run_id: str
    thread_id: str | None = None


@pytest.fixture
def context() -> Context:
    """Of a user whom no other test knows."""
    return Context(f"user-{uuid4().hex[:12]}", "run-1", "thread-1")


class Call(NamedTuple):
    """One call, and the event that must come out."""

    method: str
    arguments: dict[str, Any]
    type: str
    data: dict[str, Any]
    event_class: str = "critical"


META = {"model": "m-1"}
CALLS = [
    Call("emit", {"event_type": "note", "data": {"x": 1}}, "note", {"x": 1}, "standard"),
    Call("notify_custom", {"event_type": "note", "data": {"x": 2}}, "note", {"x": 2}, "standard"),
    Call(
        "notify_agent_started",
        {"agent_name": "planner", "metadata": META, "context": {"page": 3}},
        "agent_started",
        {"agent": "planner", "agent_name": "planner", "metadata": META, "context": {"page": 3}},
    ),
    Call(
        "notify_agent_thinking",
        {
            "agent_name": "planner",
            "reasoning": "because",
            "thought": "hm",
            "step_number": 2,
            "metadata": META,
        },
        "agent_thinking",
        {"thought": "hm", "reasoning": "because", "step_number": 2, "metadata": META},
    ),
    Call(
        "notify_tool_executing",
        {"tool_name": "search", "metadata": {"args": {"q": "x"}}},
        "tool_executing",
        {"tool": "search", "tool_name": "search", "args": {"q": "x"}},
    ),
    Call(
        "notify_tool_completed",
        {"tool_name": "search", "metadata": {"result": [1]}},
        "tool_completed",
        {"tool": "search", "tool_name": "search", "result": [1]},
    ),
    Call(
        "notify_agent_completed",
        {"agent_name": "planner", "metadata": META, "result": "done", "execution_time_ms": 12.5},
        "agent_completed",
        {"agent": "planner", "result": "done", "execution_time_ms": 12.5, "metadata": META},
    ),
    Call("notify_agent_error", {"error": "broken"}, "agent_error", {"error": "broken"}),
    Call(
        "notify_progress_update",
        {"progress": 0.5, "message": "half"},
        "progress_update",
        {"progress": 0.5, "message": "half"},
        "ephemeral",
    ),
    Call(
        "update_token_metrics",
        {"input_tokens": 10, "output_tokens": 5, "cost": 0.25, "operation": "plan"},
        "token_metrics",
        {"input_tokens": 10, "output_tokens": 5, "cost": 0.25, "operation": "plan"},
        "standard",
    ),
]


async def came_out(listener: Listener, call: Call, context: Context) -> None:
    (event,) = await listener.receive(1)
    assert (event["type"], event["class"]) == (call.type, call.event_class)
    assert {name: event["data"].get(name) for name in call.data} == call.data
    assert (event["user_id"], event["run_id"]) == (context.user_id, context.run_id)
    assert event.get("thread_id") == context.thread_id


@pytest.mark.parametrize("by_name", [False, True], ids=["positional", "by-name"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.method)
async def test_the_event_of_each_method_comes_out_of_the_socket(
    gateway: Gateway, context: Context, call: Call, by_name: bool
) -> None:
    source = gateway.remote if by_name else gateway.embedded
    emitter = compat.UnifiedWebSocketEmitter(source, context.user_id, context)
    method = getattr(emitter, call.method)
    async with listening(gateway.url, gateway.token(context.user_id)) as listener:
        started = method(**call.arguments) if by_name else method(*call.arguments.values())
        receipt = await started
        assert receipt.durable is (call.event_class != "ephemeral")
        await came_out(listener, call, context)


SHORTHANDS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("agent_started", ("planner",), {"agent": "planner"}),
    ("agent_thinking", ("hm",), {"thought": "hm"}),
    ("tool_executing", ("search", {"q": "x"}), {"tool": "search", "args": {"q": "x"}}),
    ("tool_completed", ("search", [1]), {"tool": "search", "result": [1]}),
    ("agent_completed", ("done",), {"result": "done"}),
]


@pytest.mark.parametrize(
    ("type", "arguments", "data"), SHORTHANDS, ids=[type for type, _, _ in SHORTHANDS]
)
async def test_the_five_shorthands_take_fields_or_a_mapping(
    gateway: Gateway,
    context: Context,
    type: str,
    arguments: tuple[Any, ...],
    data: dict[str, Any],
) -> None:
    emitter = compat.UnifiedWebSocketEmitter(gateway.embedded, context.user_id, context)
    async with listening(gateway.url, gateway.token(context.user_id)) as listener:
        method = getattr(emitter, f"emit_{type}")
        for call in (lambda: method(*arguments), lambda: method(data), lambda: method(data=data)):
            await call()
        events = await listener.receive(3)
    assert [(event["type"], event["data"]) for event in events] == [(type, data)] * 3


def made_by(gateway: Gateway, context: Context) -> dict[str, Any]:
    """An emitter of each older name, by each of its calls."""
    d, user = gateway.embedded, context.user_id
    factory = compat.WebSocketBridgeFactory(d)

    class Adapter:
        def emitter(self, *ids: Any, **options: Any) -> delivery.Emission:
            return gateway.remote.emitter(*ids, **options)

    return {
        "unified": compat.UnifiedWebSocketEmitter(
            manager=d, user_id=user, context=context._asdict(), performance_mode=True
        ),
        "user": compat.UserWebSocketEmitter(context, d, "connection-1"),
        "user-by-name": compat.UserWebSocketEmitter(context=context, router=Adapter()),
        "isolated": compat.IsolatedWebSocketEventEmitter(d, user, context),
        "isolated-by-context": compat.IsolatedWebSocketEventEmitter(context, d),
        "optimized": compat.OptimizedUserWebSocketEmitter(manager=d, user_id=user, context=context),
        "optimized-by-context": compat.OptimizedUserWebSocketEmitter(context=context, router=d),
        "create-for-user": compat.UnifiedWebSocketEmitter.create_for_user(d, user, context),
        "create-for-context": compat.UnifiedWebSocketEmitter.create_for_user(d, context),
        "create-by-name": compat.OptimizedUserWebSocketEmitter.create_for_user(
            manager=d, context=context
        ),
        "create-by-router": compat.UserWebSocketEmitter.create_for_user(context, d, "c1"),
        "sign-in": compat.AuthenticationWebSocketEmitter(d, user, context),
        "bridge": factory.create_user_emitter(user, context),
        "bridge-by-name": factory.create_user_emitter(user_id=user, context=context),
        "bridge-by-thread": factory.create_user_emitter(user, context.run_id, "connection-1"),
    }


async def test_every_older_name_makes_an_emitter_of_its_one_user(
    gateway: Gateway, context: Context
) -> None:
    made = made_by(gateway, context)
    async with listening(gateway.url, gateway.token(context.user_id)) as listener:
        for name, emitter in made.items():
            assert await emitter is emitter, "older factories are awaited"
            await emitter.notify_custom("note", {"by": name})
        events = await listener.receive(len(made))
    assert [event["data"]["by"] for event in events] == list(made)
    assert {(event["user_id"], event["run_id"]) for event in events} == {context[:2]}
    assert events[-1]["thread_id"] == context.run_id, "the run of this call is the thread's id"


def files_above() -> Iterator[str]:
    """The files of the functions that called the caller."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


async def test_no_way_but_the_emitter_reaches_the_fast_path(
    gateway: Gateway, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By run; by import graph see the contracts of import-linter in ``pyproject.toml``."""
    accepted, pushed = [], []
    emit, push = EmitterCore.emit, Registry.push

    def seen_emit(self: EmitterCore, *args: Any, **kwargs: Any) -> delivery.Receipt:
        receipt = emit(self, *args, **kwargs)
        accepted.append(receipt.id)
        return receipt

    def seen_push(self: Registry, event: Any, encoded: bytes) -> Any:
        assert any(Path(file).parts[-2:] == ("emitter", "pushing.py") for file in files_above())
        pushed.append(event.id)
        return push(self, event, encoded)

    monkeypatch.setattr(EmitterCore, "emit", seen_emit)
    monkeypatch.setattr(Registry, "push", seen_push)
    emitter = compat.AuthenticationWebSocketEmitter(gateway.embedded, context.user_id, context)
    async with listening(gateway.url, gateway.token(context.user_id)) as listener:
        for call in CALLS:
            await getattr(emitter, call.method)(*call.arguments.values())
        await emitter.emit_auth_event("auth_started", {})
        await listener.receive(len(CALLS) + 1)
        assert accepted == pushed == listener.ids


async def test_a_pool_is_bounded_and_gives_no_emitter_to_two_users(
    gateway: Gateway, context: Context
) -> None:
    pool = compat.WebSocketEmitterPool(gateway.embedded, max_size=1)
    first = await pool.acquire(context.user_id, context)
    other = Context("another-user", "run-2", None)
    with pytest.raises(delivery.Overloaded, match="1 was released"):
        await pool.acquire(other.user_id, other, timeout=0.01)
    waiting = asyncio.create_task(pool.acquire(user_id=other.user_id, context=other, timeout=30))
    await asyncio.sleep(0)
    await pool.release(first)
    await pool.release(first)  # has no second effect
    second = await waiting
    assert second is not first
    assert (first.user_id, second.user_id) == (context.user_id, other.user_id)
    with pytest.raises(delivery.Overloaded):
        await pool.acquire(context.user_id, context, timeout=0.01)
    with pytest.raises(delivery.InvalidContext) as refused:
        second.set_context(context)
    assert refused.value.field == "user_id"


async def test_cleanup_waits_for_everything_that_was_started(
    gateway: Gateway, context: Context
) -> None:
    emitter = compat.UserWebSocketEmitter(context, gateway.remote)
    for _ in range(20):
        emitter.update_token_metrics(1, 2, 0.5, "plan")
    assert emitter.get_stats()["pending"] == 20
    await emitter.cleanup()
    assert emitter.get_stats()["pending"] == 0
    assert emitter.get_stats()["events_emitted"] == 20
    assert emitter.get_token_metrics()["total_tokens"] == 60
    assert emitter.get_token_metrics()["operations"]["plan"]["cost"] == 10.0
    page = await gateway.remote.events.list(user_id=context.user_id)
    assert len(page["events"]) == 20


async def test_tokens_of_a_run_are_shown_with_it(gateway: Gateway, context: Context) -> None:
    for source in (gateway.embedded, gateway.remote):
        emitter = compat.UserWebSocketEmitter(context, source)
        await emitter.update_token_metrics(100, 20, 0.125, "plan")
        assert emitter.get_token_metrics()["input_tokens"] == 100
    headers = {"Authorization": f"Bearer {gateway.token(context.user_id)}"}
    url = f"{gateway.url}/v1/runs/{context.run_id}"
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as answer:
        assert answer.status == 200
        run = await answer.json()
    assert (run["user_id"], run["run_id"], run["last_seq"]) == (*context[:2], 2)
    assert run["tokens"] == {
        "input_tokens": 200,
        "output_tokens": 40,
        "total_tokens": 240,
        "cost": 0.25,
    }


async def test_the_tier_chooses_the_class_but_of_errors_progress_and_sign_ins(
    gateway: Gateway, context: Context, tiers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiers == "setting":
        monkeypatch.setenv("DELIVERY_TIER_CLASSES", "mid=auth, enterprise=critical")
    else:
        compat.set_tier_classes({"enterprise": "critical"})
    emitter = compat.AuthenticationWebSocketEmitter(gateway.embedded, context.user_id, context)
    assert (emitter.get_user_tier(), emitter.is_priority_user()) == ("free", False)
    async with listening(gateway.url, gateway.token(context.user_id)) as listener:
        await emitter.emit("note")
        emitter.set_user_tier("enterprise")
        assert (emitter.get_user_tier(), emitter.is_priority_user()) == ("enterprise", True)
        await emitter.emit("note")
        await emitter.notify_agent_error("broken")
        await emitter.notify_progress_update(1, "all")
        await emitter.emit_auth_event("completed", {})
        await emitter.update_token_metrics(1, 1, 0.0, "plan")
        classes = [event["class"] for event in await listener.receive(6)]
    assert classes == ["standard", "critical", "critical", "ephemeral", "auth", "standard"]
    with pytest.raises(delivery.InvalidEvent, match="free, early, mid, enterprise"):
        emitter.set_user_tier("gold")


@pytest.fixture(params=["setting", "call"])
def tiers(request: pytest.FixtureRequest) -> Iterator[str]:
    """How classes are set; no tier has one of its own afterwards."""
    yield request.param
    compat.set_tier_classes(None)


async def test_a_setting_of_tiers_that_cannot_be_read_is_named(
    gateway: Gateway, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELIVERY_TIER_CLASSES", "gold=critical")
    emitter = compat.UserWebSocketEmitter(context, gateway.embedded)
    with pytest.raises(delivery.ConfigError, match="DELIVERY_TIER_CLASSES: no tier 'gold'"):
        await emitter.emit("note")
    with pytest.raises(delivery.ConfigError, match="enterprise=orders"):
        compat.set_tier_classes({"mid": "No Class"})


async def test_sign_ins_are_emitted_counted_and_their_connection_watched(
    gateway: Gateway, context: Context
) -> None:
    emitter = compat.AuthenticationWebSocketEmitter(gateway.embedded, context.user_id, context)
    assert await emitter.ensure_auth_connection_health(timeout=0.2) is False
    async with listening(gateway.url, gateway.token(context.user_id)) as listener:
        for type in AUTH_TYPES:
            receipt = await emitter.emit_auth_event(event_type=type, data={"by": "password"})
            assert await receipt.confirmed(30)
        assert await emitter.ensure_auth_connection_health(timeout=30.0) is True
        monitor = compat.AuthenticationConnectionMonitor(gateway.embedded)
        report = await monitor.monitor_auth_session(context.user_id, session_duration_ms=50)
        await listener.until(lambda: len(listener.events) >= 6)
    auth = [event for event in listener.events if event["class"] == "auth"]
    assert [event["type"] for event in auth] == list(AUTH_TYPES)
    stats = emitter.get_auth_stats()
    assert (stats["auth_events"], stats["health_checks"], stats["health_answers"]) == (4, 2, 1)
    assert report["checks"] >= 1
    assert 0 <= report["health_score"] <= 100
    with pytest.raises(delivery.InvalidEvent, match="no event"):
        await emitter.emit_auth_event("auth_forgotten", {})


@pytest.mark.parametrize("field", ["user_id", "run_id", "thread_id"])
@pytest.mark.parametrize("kind", [dict, lambda ids: SimpleNamespace(**ids)], ids=["map", "object"])
async def test_an_id_that_is_missing_in_the_context_is_named(
    gateway: Gateway, context: Context, field: str, kind: Any
) -> None:
    ids = context._asdict()
    del ids[field]
    broken, d, user = kind(ids), gateway.embedded, context.user_id
    for call in (
        lambda: compat.UnifiedWebSocketEmitter(d, user, broken),
        lambda: compat.UserWebSocketEmitter(context=broken, router=d),
        lambda: compat.IsolatedWebSocketEventEmitter(broken, d),
        lambda: compat.IsolatedWebSocketEventEmitter(d, user, broken),
        lambda: compat.OptimizedUserWebSocketEmitter(broken, d, "connection-1"),
        lambda: compat.WebSocketBridgeFactory(d).create_user_emitter(user, broken),
    ):
        with pytest.raises(delivery.InvalidContext) as refused:
            call()
        assert refused.value.field == field
    with pytest.raises(delivery.InvalidContext):
        await compat.WebSocketEmitterPool(d).acquire(user, broken)


async def test_what_is_no_source_of_emitters_is_told_the_three_that_are(
    gateway: Gateway, context: Context
) -> None:
    blocking = await asyncio.to_thread(delivery.connect_sync, gateway.url, "no-token")
    for given in (None, object(), delivery.Remote, blocking):
        for call in (
            lambda given=given: compat.UnifiedWebSocketEmitter(given, context.user_id, context),
            lambda given=given: compat.UserWebSocketEmitter(context, given),
        ):
            with pytest.raises(delivery.ConfigError, match=r"connect.*embed.*adapter"):
                call()
    await asyncio.to_thread(blocking.close)
    for name in (
        compat.WebSocketBridgeFactory,
        compat.WebSocketEmitterPool,
        compat.AuthenticationConnectionMonitor,
    ):
        with pytest.raises(delivery.ConfigError, match=r"connect.*embed.*adapter"):
            name(None)


async def test_the_context_of_another_user_is_refused(gateway: Gateway, context: Context) -> None:
    with pytest.raises(delivery.InvalidContext) as refused:
        compat.UnifiedWebSocketEmitter(gateway.embedded, "another-user", context)
    assert refused.value.field == "user_id"
    emitter = compat.UserWebSocketEmitter(context, gateway.embedded)
    with pytest.raises(delivery.InvalidContext):
        await emitter.notify_agent_started("planner", context=context._replace(user_id="another"))
    async with listening(gateway.url, gateway.token(context.user_id)) as listener:
        await emitter.notify_agent_started("planner", context=context._replace(run_id="run-9"))
        emitter.set_context(context._replace(run_id="run-2"))
        assert emitter.get_context().run_id == "run-2"
        await emitter.emit("note")
        assert [event["run_id"] for event in await listener.receive(2)] == ["run-9", "run-2"]


@pytest.mark.filterwarnings("always::DeprecationWarning")
async def test_each_name_warns_once_and_names_the_new_call(
    gateway: Gateway, context: Context
) -> None:
    compat.forget_warnings()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            emitter = compat.UnifiedWebSocketEmitter(gateway.embedded, context.user_id, context)
            await emitter.notify_agent_completed("planner")
            await compat.WebSocketNotifier(gateway.embedded).notify_agent_completed(*context[:2])
    assert [one.category for one in told] == [DeprecationWarning] * 3
    assert {Path(one.filename).name for one in told} == {"test_compat.py"}
    made, completed, notified = (str(one.message) for one in told)
    assert "UnifiedWebSocketEmitter is a redirect; call delivery.connect" in made
    assert "notify_agent_completed" in completed
    assert "emit_agent_completed(result" in completed
    assert "WebSocketNotifier.notify_agent_completed" in notified


async def test_bad_figures_are_refused_and_counted_nowhere(
    gateway: Gateway, context: Context
) -> None:
    emitter = compat.UserWebSocketEmitter(context, gateway.embedded)
    for field, figures in {
        "input_tokens": (-1, 0, 0.0, ""),
        "output_tokens": (0, 1.5, 0.0, ""),
        "cost": (0, 0, float("nan"), ""),
        "operation": (0, 0, 0.0, "x" * 200),
    }.items():
        with pytest.raises(delivery.InvalidEvent) as refused:
            emitter.update_token_metrics(*figures)  # type: ignore[arg-type]
        assert refused.value.field == field
    assert emitter.get_token_metrics()["updates"] == 0


SIGNATURES = {
    "UnifiedWebSocketEmitter": "(manager, user_id, context, performance_mode=False)",
    "UserWebSocketEmitter": "(context, router, connection_id=None)",
    "emit": "(self, event_type, data=None)",
    "notify_agent_started": "(self, agent_name, metadata=None, context=None)",
    "notify_agent_thinking": (
        "(self, agent_name=None, reasoning=None, thought=None, step_number=None, metadata=None)"
    ),
    "notify_tool_executing": "(self, tool_name, metadata=None)",
    "notify_tool_completed": "(self, tool_name, metadata=None)",
    "notify_agent_completed": (
        "(self, agent_name, metadata=None, result=None, execution_time_ms=None)"
    ),
    "notify_agent_error": "(self, error, **fields)",
    "notify_progress_update": "(self, progress, message, **fields)",
    "notify_custom": "(self, event_type, data=None)",
}


@pytest.mark.parametrize("name", SIGNATURES)
async def test_the_signature_is_the_older_one(name: str) -> None:
    place = compat if name[0].isupper() else compat.UnifiedWebSocketEmitter
    signature = inspect.signature(getattr(place, name))
    bare = [
        one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()
    ]
    plain = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    assert str(plain) == SIGNATURES[name]


async def test_both_addresses_have_the_same_names() -> None:
    assert compat.__all__ == home.__all__
    assert all(getattr(compat, name) is getattr(home, name) for name in home.__all__)
