"""Old names end in the same emitter."""

import pytest

from delivery.emitter import compat
from delivery.errors import ConfigError, InvalidEvent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
async def bound(world):
    world.journal.auto = True
    compat.bind(world.core)
    yield world
    compat.bind(None)


async def test_every_old_name_emits_its_event(bound):
    await compat.notify_agent_started("u1", "r1", "researcher", model="m")
    await compat.notify_agent_thinking("u1", "r1", "hm")
    await compat.notify_tool_executing("u1", "r1", "search", {"q": "x"})
    await compat.notify_tool_completed("u1", "r1", "search", [1])
    await compat.notify_agent_completed("u1", "r1", "done")
    await compat.notify_auth("u1", "r1", "failed", {"why": "password"})
    await compat.send_agent_event("u1", "r1", "note", {"x": 1}, thread_id="t1")
    assert [(event.type, dict(event.data)) for event in bound.push.pushed] == [
        ("agent_started", {"agent": "researcher", "model": "m"}),
        ("agent_thinking", {"thought": "hm"}),
        ("tool_executing", {"tool": "search", "args": {"q": "x"}}),
        ("tool_completed", {"tool": "search", "result": [1]}),
        ("agent_completed", {"result": "done"}),
        ("auth_failed", {"why": "password"}),
        ("note", {"x": 1}),
    ]
    assert len(bound.journal.committed) == 7, "every one of them is recorded"
    assert [event.seq for event in bound.push.pushed] == list(range(1, 8))
    assert bound.push.pushed[-1].thread_id == "t1"


async def test_old_names_validate_like_new_ones(bound):
    with pytest.raises(InvalidEvent):
        await compat.send_agent_event("u1", "registry", "note")


async def test_before_bind_the_error_says_what_to_do():
    with pytest.raises(ConfigError, match="bind"):
        await compat.notify_agent_started("u1", "r1", "researcher")
