"""Emit events from a FastAPI application to a gateway in another process.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... uvicorn fastapi_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

import delivery


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with delivery.connect(os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]) as d:
        app.state.delivery = d
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/users/{user}/runs/{run}")
async def start_run(user: str, run: str, request: Request) -> dict[str, str]:
    emitter = request.app.state.delivery.emitter(user, run)
    emitter.emit_nowait("agent_started", {"agent": "planner"})  # sent with the next batch
    receipt = await emitter.emit_agent_completed("done")  # returns once it is durable
    return {"run": run, "last_event": receipt.id}
