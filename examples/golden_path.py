"""A sign-in, an agent's run and its answer in the page, through the older emitters' names.

Run: DELIVERY_JWT_SECRET=... python examples/golden_path.py, then open http://127.0.0.1:8080/ and
sign in as ada with the password lovelace.
"""

import asyncio
import hmac
import os
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
from aiohttp import web

import delivery
from delivery.compat import (
    AuthenticationConnectionMonitor,
    AuthenticationWebSocketEmitter,
    UserWebSocketEmitter,
)

PASSWORDS = {"ada": "lovelace"}  # yours: hashes, in your database
SECRET = os.environ["DELIVERY_JWT_SECRET"]
MONITOR_MS = 6_000.0

app = web.Application()
work: set[asyncio.Task[None]] = set()


@dataclass(frozen=True)
class ExecutionContext:
    """Whose run it is."""

    user_id: str
    run_id: str
    thread_id: str | None = None


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).with_suffix(".html"))


async def sign_in(request: web.Request) -> web.Response:
    """Emits three of the four auth events; those of a failed sign-in wait for the user."""
    body = await request.json()
    user, password = str(body.get("user")), str(body.get("password"))
    if user not in PASSWORDS:
        return web.json_response({"detail": "wrong name or password"}, status=401)
    context = ExecutionContext(user, f"sign-in-{uuid4().hex[:12]}")
    auth = AuthenticationWebSocketEmitter(d, user, context)
    await auth.emit_auth_event("auth_started", {"from": request.remote})
    await auth.emit_auth_event("auth_validating", {"by": "password"})
    if not hmac.compare_digest(password.encode(), PASSWORDS[user].encode()):
        await auth.emit_auth_event("auth_failed", {"reason": "wrong password"})
        return web.json_response({"detail": "wrong name or password"}, status=401)
    await auth.emit_auth_event("auth_completed", {})
    return web.json_response({"token": delivery.issue_token(user, SECRET, ttl=3_600)})


def user_of(request: web.Request) -> str:
    """The user whose token came with a request."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"require": ["exp"]})
    except jwt.InvalidTokenError:
        raise web.HTTPUnauthorized from None
    return str(claims["sub"])


async def monitor(request: web.Request) -> web.Response:
    """Watches for some seconds whether the user's page answers, and tells."""
    report = await AuthenticationConnectionMonitor(d).monitor_auth_session(
        user_of(request), session_duration_ms=MONITOR_MS, check_interval_ms=1_000.0
    )
    return web.json_response(report)


async def ask(request: web.Request) -> web.Response:
    context = ExecutionContext(user_of(request), f"run-{uuid4().hex[:12]}", "thread-1")
    question = str((await request.json()).get("question"))
    start(run_agent(context, question))
    return web.json_response({"run": context.run_id}, status=202)


def start(agent: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(agent)
    work.add(task)
    task.add_done_callback(work.discard)


async def run_agent(context: ExecutionContext, question: str) -> None:
    emitter = UserWebSocketEmitter(context, d)
    await emitter.notify_agent_started("librarian", metadata={"question": question})
    try:
        await emitter.notify_agent_thinking(thought="I look it up.", step_number=1)
        await emitter.notify_tool_executing("search", {"args": {"query": question}})
        found = await search(question)
        await emitter.notify_tool_completed("search", {"result": found})
        answer = f"{question} The answer is {found['answer']}."
        await emitter.notify_agent_completed("librarian", result=answer)
    except Exception as error:
        await emitter.notify_agent_error(error)
        raise


async def search(question: str) -> dict[str, Any]:
    """The agent's one tool."""
    await asyncio.sleep(0.5)
    return {"answer": "42"}


async def end_work(app: web.Application) -> AsyncIterator[None]:
    yield
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


app.cleanup_ctx.append(end_work)
app.router.add_get("/", page)
app.router.add_post("/sign-in", sign_in)
app.router.add_post("/monitor", monitor)
app.router.add_post("/ask", ask)
# Adds /v1/ws, /client.js and the rest; routes of before win, so that "/" is the page above.
d = delivery.embed(app)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8080)
