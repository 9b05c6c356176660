"""A FastAPI application: its connection, emitters of the signed-in user, and its page's token.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... DELIVERY_JWT_SECRET=... uvicorn fastapi_app:app
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Header

from delivery import Emission
from delivery.adapters.fastapi import Connection, emitter_of, lifespan, token_router

app = FastAPI(lifespan=lifespan(os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]))


def current_user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    """Who is signed in. Yours asks the session; this one believes a header."""
    return x_user


app.include_router(token_router(current_user, os.environ["DELIVERY_JWT_SECRET"]))


@app.post("/runs/{run_id}")
async def start(
    run_id: str, emitter: Annotated[Emission, Depends(emitter_of(current_user))]
) -> dict[str, str]:
    """An agent's run of the user who asks."""
    emitter.emit_nowait("agent_started", {"agent": "planner"})
    receipt = await emitter.emit_agent_completed("done")  # returns once it is durable
    return {"run": run_id, "last_event": receipt.id}


@app.post("/orders/{number}/ship")
async def ship(number: int, d: Connection) -> dict[str, str]:
    """An event for another user than the one who asks."""
    receipt = await d.emitter("ada", f"order-{number}").emit("order_shipped", {"order": number})
    return {"event": receipt.id}
