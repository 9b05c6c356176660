"""Frameworks that emit to a real server."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from delivery.adapters.asgi import lifespan
from delivery.adapters.process import ProcessDelivery
from delivery.errors import ConfigError, Unreachable
from tests.contract_server import ContractServer


@pytest.fixture
async def server():
    async with ContractServer().running() as running:
        yield running


async def test_an_asgi_application_emits_for_as_long_as_it_lives(server):
    app = SimpleNamespace(state=SimpleNamespace())
    async with lifespan(server.url, "t")(app):
        emitter = app.state.delivery.emitter("u1", "r1")
        await emitter.emit_agent_started("researcher")
        last = emitter.emit_nowait("note")
    assert last.durable
    assert len(server.accepted) == 2
    with pytest.raises(Unreachable):
        emitter.emit_nowait("note")


async def test_a_process_keeps_one_connection_and_can_begin_again(server):
    def work():
        delivery = ProcessDelivery(server.url, "t")
        seqs = [delivery.emitter("u1", "r1").emit("note").seq for _ in range(2)]
        delivery.close()
        seqs.append(delivery.emitter("u1", "r1").emit("note").seq)
        delivery.close()
        return seqs

    assert await asyncio.to_thread(work) == [1, 2, 3]


async def test_a_forked_child_connects_for_itself(server):
    def work():
        delivery = ProcessDelivery(server.url, "t")
        delivery.emitter("u1", "parent").emit("note")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                delivery.emitter("u1", "child").emit("note")
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        delivery.emitter("u1", "parent").emit("note")
        delivery.close()
        return status

    assert await asyncio.to_thread(work) == 0
    assert [item["run_id"] for item in server.accepted.values()] == ["parent", "child", "parent"]


def test_a_url_that_is_none_is_refused_at_once():
    with pytest.raises(ConfigError):
        ProcessDelivery("nowhere", "t")
    with pytest.raises(ConfigError):
        lifespan("nowhere", "t")
