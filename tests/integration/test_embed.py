"""A gateway inside of an aiohttp application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import jwt
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer

import delivery
from delivery.config import load_settings
from delivery.errors import ConfigError, Overloaded
from delivery.ledger.migrate import upgrade
from delivery.tokens import make_token
from tests.processes import AUDIT_SECRET, SECRET
from tests.wire import listening


def make_app() -> web.Application:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="mine")

    async def broken(request: web.Request) -> web.Response:
        raise web.HTTPConflict(text="my own error")

    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/broken", broken)
    return app


@pytest.fixture
def app() -> web.Application:
    """An application with routes of its own."""
    return make_app()


@pytest.fixture
async def server(app: web.Application, tmp_path: Path) -> AsyncIterator[TestServer]:
    """The application with the gateway in it; what ``embed`` gave is under ``app["delivery"]``."""
    settings = load_settings(data_dir=str(tmp_path))
    app[KEY] = delivery.embed(app, settings)
    async with TestServer(app) as server:
        yield server


KEY = web.AppKey("delivery", object)


def token(folder: Path) -> str:
    secret = (folder / "dev-secret").read_text().strip()
    return jwt.encode({"sub": "ada", "exp": 4_000_000_000}, secret, algorithm="HS256")


async def test_an_emitter_in_the_process_reaches_a_client_and_hears_its_confirmation(
    app: web.Application, server: TestServer, tmp_path: Path
) -> None:
    emitter = app[KEY].emitter("ada", "run-1")  # type: ignore[attr-defined]
    url = str(server.make_url("")).rstrip("/")
    async with listening(url, token(tmp_path)) as listener:
        receipt = await emitter.emit_agent_started("planner")
        assert receipt.durable
        assert await receipt.confirmed(10)
        (event,) = await listener.receive(1)
        assert (event["id"], event["type"]) == (receipt.id, "agent_started")


async def test_the_applications_own_routes_and_errors_stay_as_they_are(
    server: TestServer,
) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(server.make_url("/")) as answer:
            assert await answer.text() == "mine"
        async with http.get(server.make_url("/broken")) as answer:
            assert (answer.status, await answer.text()) == (409, "my own error")
        async with http.get(server.make_url("/v1/events")) as answer:
            assert answer.status == 401
            assert answer.content_type == "application/problem+json"


async def test_before_start_up_an_emitter_says_so_and_the_directory_is_free_again_afterwards(
    app: web.Application, tmp_path: Path
) -> None:
    settings = load_settings(data_dir=str(tmp_path))
    mounted = delivery.embed(app, settings)
    with pytest.raises(Overloaded, match="not started"):
        mounted.emitter("ada", "run-1")
    with pytest.raises(ConfigError, match="another"):
        delivery.embed(make_app(), settings)
    async with TestServer(app):
        mounted.emitter("ada", "run-1")
    again = make_app()
    delivery.embed(again, settings)
    async with TestServer(again):
        pass


def test_a_database_without_a_secret_is_refused(app: web.Application, tmp_path: Path) -> None:
    settings = load_settings(data_dir=str(tmp_path), database_url="postgresql://u@127.0.0.1:1/x")
    with pytest.raises(ConfigError, match="DELIVERY_JWT_SECRET"):
        delivery.embed(app, settings)


async def test_a_gateway_carries_an_outbox_itself_and_is_woken_by_the_commit(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    """The ledger is in the same database: plain SQL is enough, and no relay runs."""
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        delivery.outbox.create(connection)
    upgrade(postgres_url)
    app = make_app()
    settings = load_settings(
        data_dir=str(tmp_path),
        database_url=postgres_url,
        outbox_source=postgres_url,
        redis_url=redis_url,
        jwt_secret=SECRET,
        audit_secret=AUDIT_SECRET,
    )
    delivery.embed(app, settings)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        async with listening(url, make_token(SECRET, "ada")) as listener:

            def emit(data: str, run: str = "run-1") -> str:
                call = "SELECT delivery_emit('ada', :run, 'note', cast(:data AS jsonb))"
                with engine.begin() as connection:
                    found = connection.execute(sa.text(call), {"data": data, "run": run})
                    return str(found.scalar_one())

            ids = [await asyncio.to_thread(emit, f'{{"n": {n}}}') for n in range(3)]
            await asyncio.to_thread(emit, '{"n": 100}', "registry")  # refused, and in no one's way
            ids.append(await asyncio.to_thread(emit, '{"n": 3}'))
            events = await listener.receive(4)
    assert [event["id"] for event in events] == ids
    assert [event["data"] for event in events] == [{"n": n} for n in range(4)]
    for wrong in ("[1]", '{"x": "' + "y" * 65_536 + '"}'):
        with pytest.raises(sa.exc.DBAPIError):
            emit(wrong)
    with engine.begin() as connection:
        reason = connection.scalar(sa.text("SELECT reason FROM delivery_outbox_dead"))
    assert "registry" in str(reason)
    engine.dispose()
