"""A shop with its own users, orders, page and mails. Start it with main.py."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, HTTPException, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

import delivery

PAGE = Path(__file__).with_name("page.html")
DELIVERY_URL = os.environ.get("DELIVERY_URL", "http://127.0.0.1:8080")
SECRET = os.environ["DELIVERY_JWT_SECRET"]  # stays here: it signs the tokens of all users
PACKING = float(os.environ.get("SHOP_PACKING", "5"))  # seconds

sessions: dict[str, str] = {}  # cookie -> user: yours are in your database
numbers = count(1)


class SignIn(BaseModel):
    user: str
    email: str


def service_token() -> str:
    """The shop's own token: asked for anew before it expires."""
    return delivery.issue_token("shop", SECRET, scope="emit read operate")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with delivery.connect(DELIVERY_URL, service_token) as app.state.delivery:
        yield


app = FastAPI(lifespan=lifespan)


def current_user(session: Annotated[str | None, Cookie()] = None) -> str:
    """Who is signed in, by the shop's own session."""
    if session not in sessions:
        raise HTTPException(401, "sign in first")
    return sessions[session]


CurrentUser = Annotated[str, Depends(current_user)]


@app.get("/")
def page() -> FileResponse:
    return FileResponse(PAGE)


@app.post("/sign-in")
async def sign_in(who: SignIn, response: Response) -> dict[str, str]:
    try:  # the address to which mails go while no page of this user is open
        await app.state.delivery.contacts.put(who.user, email=who.email)
    except delivery.InvalidEvent as error:
        raise HTTPException(422, str(error)) from error
    session = secrets.token_urlsafe()
    sessions[session] = who.user
    response.set_cookie("session", session, httponly=True, samesite="lax")
    return {"user": who.user}


@app.get("/delivery-token")
def delivery_token(user: CurrentUser, response: Response) -> dict[str, str]:
    """The token of who is signed in, for the page."""
    response.headers["Cache-Control"] = "no-store"
    return {"url": DELIVERY_URL, "token": delivery.issue_token(user, SECRET, ttl=3600)}


@app.post("/orders", status_code=201)
async def order(user: CurrentUser, later: BackgroundTasks) -> dict[str, int]:
    number = next(numbers)
    await tell(user, number, "order_paid", f"Order {number} is paid")
    later.add_task(ship, user, number)
    return {"order": number}


async def ship(user: str, number: int) -> None:
    await asyncio.sleep(PACKING)
    await tell(user, number, "order_shipped", f"Order {number} is on its way")


async def tell(user: str, number: int, kind: str, title: str) -> None:
    """Returns when the event is durable: from then on it reaches its user, by page or by mail."""
    run = app.state.delivery.emitter(user, f"order-{number}")
    await run.emit(kind, {"title": title, "order": number, "url": f"/#order-{number}"})
