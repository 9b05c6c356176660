"""Promise 3 under load and faults: fifty users with interleaved runs, through every way in and out.

Every payload carries its user's mark. Nothing that a user, mail server, provider, operator or log
gets may carry another's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from email import message_from_bytes
from email.policy import default
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from aiohttp import web

import delivery
from delivery.config import load_settings
from delivery.domain.event import AGENT_TYPES
from tests import servers
from tests.cluster.conftest import Cluster
from tests.processes import AUDIT_SECRET
from tests.wire import Listener, eventually, listening

pytestmark = pytest.mark.timeout(420)

LIMIT = 90.0
RUNS = ("run-1", "b:c")
# Ids that something on the way may take for a pattern, a separator, a path, markup or one another:
# Redis keys and slots, LIKE, URLs, headers, Unicode forms, case.
PATTERNS = (
    *("iso:a", "iso:a:b", "iso:a:b:c", "*iso", "iso?", "[i]so", "{iso}", "{iso}y", "iso}{"),
    *(
        "delivery:mailbox:iso",
        "iso%",
        "iso_",
        "iso/a",
        "iso%2Fa",
        "iso a",
        " iso",
        "iso ",
        "iso'--",
    ),
    *('iso"q"', "iso\\n", "iso<b>", "iso&amp;", "iso-Ada", "iso-ada", "iso-ADA", "iso-\u00e9"),
    *("iso-e\u0301", "iso-\ufb01n", "iso-fin", "iso-\u0661", "iso-1", "iso-01", "iso\u200b", "iso"),
)
USERS = (*PATTERNS, *(f"iso-user-{number}" for number in range(50 - len(PATTERNS))))
MARKS = {user: f"mark-{index:02d}-{secrets.token_hex(5)}" for index, user in enumerate(USERS)}
# Sockets that never acknowledge: their breaker opens, and then the chain has their events.
SILENT = USERS[0:36:10]
BY_SOCKET, BY_STREAM, AWAY = USERS[0:36:2], USERS[1:36:4], (*USERS[3:36:4], *USERS[36:])


def marks_in(text: str) -> set[str]:
    """The users whose mark a text carries."""
    return {user for user, mark in MARKS.items() if mark in text}


def an_event(user: str, run: str, type: str) -> dict[str, Any]:
    mark = MARKS[user]
    data = {"title": mark, "summary": mark, "text": mark, "answer": mark, "agent": mark}
    return {"type": type, "user_id": user, "run_id": run, "data": data, "meta": {"of": mark}}


def taken(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 202, answer.text
    assert answer.json()["rejected"] == []
    return [one["id"] for one in answer.json()["accepted"]]


class Stream:
    """One event stream, read by httpx alone."""

    def __init__(self) -> None:
        self.text = ""

    @property
    def ids(self) -> list[str]:
        return re.findall(r"^id: ?(\S+)", self.text, re.MULTILINE)


class Crowd:
    """The users, what each was sent, and every text that each got."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ids: dict[str, list[str]] = {user: [] for user in USERS}
        self.listeners: dict[str, list[Listener]] = {user: [] for user in USERS}
        self.streams: dict[str, Stream] = {}
        self.answers: dict[str, list[str]] = {user: [] for user in USERS}

    def own(self, user: str) -> httpx.Client:
        """The user's own connection to the API."""
        token = self.cluster.token(user)
        url = self.cluster.gateways[USERS.index(user) % 2].url
        return httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0
        )

    def emit_all(self, run: str, type: str, way: str) -> None:
        """An event for every user, interleaved, by one of the ways of HTTP."""
        events = [an_event(user, run, type) for user in USERS]
        http = self.cluster.http()
        if way == "batch":
            self._note(taken(http.post("/v1/events", json={"events": events})))
        elif way == "ndjson":
            body = "\n".join(json.dumps(event) for event in events)
            headers = {"Content-Type": "application/x-ndjson"}
            self._note(taken(http.post("/v1/events", content=body, headers=headers)))
        else:
            answers = [http.post("/v1/events", json=event) for event in events]
            self._note([taken(answer)[0] for answer in answers])

    def _note(self, ids: Sequence[str]) -> None:
        for user, event_id in zip(USERS, ids, strict=True):
            self.ids[user].append(event_id)

    async def emit_by(self, emitters: Any, run: str, type: str) -> None:
        """The same through the Python API: remote, or in the gateway's process."""

        async def one(user: str) -> str:
            event = an_event(user, run, type)
            receipt = await emitters.emitter(user, run).emit(type, event["data"])
            return str(receipt.id)

        self._note(await asyncio.gather(*map(one, USERS)))

    def seen(self, user: str) -> set[str]:
        """Ids that reached the user live."""
        stream = self.streams.get(user)
        found = {one for listener in self.listeners[user] for one in listener.ids}
        return found | set(stream.ids if stream else ())

    async def until_live(self, users: Iterable[str]) -> None:
        """Wait until each of them has all that was sent to it so far."""
        await eventually(
            lambda: {u: found for u in users if (found := set(self.ids[u]) - self.seen(u))},
            lambda missing: not missing,
            LIMIT,
        )

    def check(self) -> None:
        """What each user got carries no other's mark, on no way."""
        for user in USERS:
            frames = [frame for one in self.listeners[user] for frame in one.frames]
            stream = self.streams.get(user)
            text = json.dumps(frames) + (stream.text if stream else "")
            text += "".join(self.answers[user])
            assert marks_in(text) <= {user}
            for listener in self.listeners[user]:
                assert listener.welcome["user_id"] == user
                assert {event["user_id"] for event in listener.events} <= {user}
                marks = {event["data"].get("title") for event in listener.events}
                assert marks <= {MARKS[user]}


@asynccontextmanager
async def live(crowd: Crowd, cursors: bool = False) -> AsyncIterator[None]:
    """Sockets and streams of all who are there; with cursors, each resumes where it was."""
    cluster = crowd.cluster
    async with AsyncExitStack() as stack:
        for user in BY_SOCKET:
            index = USERS.index(user)
            before = crowd.listeners[user]
            cursor = before[-1].ids[-1] if cursors and before and before[-1].ids else None
            opened = listening(
                cluster.gateways[(index // 2 + cursors) % 2].url,
                cluster.token(user),
                acks=user not in SILENT,
                cursor=cursor,
            )
            before.append(await stack.enter_async_context(opened))
        for user in BY_STREAM:
            await stack.enter_async_context(streaming(crowd, user))
        yield


@asynccontextmanager
async def streaming(crowd: Crowd, user: str) -> AsyncIterator[None]:
    cluster = crowd.cluster
    stream = crowd.streams.setdefault(user, Stream())
    headers = {"Authorization": f"Bearer {cluster.token(user)}"}
    if stream.ids:
        headers["Last-Event-ID"] = stream.ids[-1]
    url = f"{cluster.gateways[0].url}/v1/stream"
    async with (
        httpx.AsyncClient(timeout=None) as http,
        http.stream("GET", url, headers=headers) as r,
    ):
        assert r.status_code == 200

        async def read() -> None:
            async for chunk in r.aiter_text():
                stream.text += chunk

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def in_process(cluster: Cluster) -> AsyncIterator[Any]:
    """A third gateway, in this process, with the Python API that applications embed."""
    given: dict[str, Any] = {name.lower(): value for name, value in cluster.settings.items()}
    given |= {"data_dir": str(cluster.folder / "embedded"), "audit_secret": AUDIT_SECRET}
    app = web.Application()
    found = delivery.embed(app, load_settings(**given, port=servers.free_port()))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        yield found
    finally:
        await runner.cleanup()


def pry(crowd: Crowd, user: str, other: str) -> None:
    """Everything that a user may try with another's ids; and what the user sees of itself."""
    foreign = crowd.ids[other]
    path = quote(other, safe="")
    with crowd.own(user) as http:
        answers = [
            http.get(f"/v1/events/{foreign[0]}"),
            http.get("/v1/events", params={"user_id": other}),
            http.get(f"/v1/users/{path}/contacts"),
            http.put(f"/v1/users/{path}/contacts", json={"email": "eve@example.org"}),
            http.delete(f"/v1/users/{path}/contacts"),
            http.post(f"/v1/events/{foreign[0]}/replay"),
            http.post("/v1/events", json=an_event(other, RUNS[0], "note")),
            http.get("/v1/stats"),
        ]
        assert {one.status_code for one in answers} <= {403, 404}, [a.text for a in answers]
        acks = http.post("/v1/acks", json={"ids": foreign})
        assert acks.json() == {"confirmed": [], "unknown": foreign}
        own = http.get("/v1/events", params={"limit": 1_000})
        assert {event["user_id"] for event in own.json()["events"]} == {user}
        crowd.answers[user] += [one.text for one in (*answers, acks, own)]


async def pry_on_the_socket(crowd: Crowd, user: str, other: str) -> None:
    listener = crowd.listeners[user][-1]
    foreign = crowd.ids[other][0]
    for frame in (
        {"type": "ack", "ids": [foreign]},
        {"type": "nack", "id": foreign, "reason": "x"},
    ):
        count = len(listener.frames)
        await listener.send(frame)
        # Answered with an error or ignored, and nothing of the other user's is touched.
        await listener.send({"type": "ping"})
        await listener.until(partial(_has_pong, listener, count), LIMIT)


def _has_pong(listener: Listener, after: int) -> bool:
    return any(frame["type"] == "pong" for frame in listener.frames[after:])


def _has(listener: Listener, event_id: str) -> bool:
    return event_id in listener.ids


async def test_fifty_users_get_what_is_theirs_and_nothing_else(
    cluster: Cluster, own_postgres: servers.Server
) -> None:
    crowd = Crowd(cluster)
    for index, user in enumerate(USERS):
        contact = {"email": f"iso{index:02d}@example.org", "phone": f"+49301000{index:04d}"}
        answer = cluster.http().put(f"/v1/users/{quote(user, safe='')}/contacts", json=contact)
        assert answer.status_code == 200, (user, answer.text)
    online = (*BY_SOCKET, *BY_STREAM)
    loud = [user for user in online if user not in SILENT]

    async with live(crowd):
        await _first_run(crowd)
        await crowd.until_live(loud)
        neighbours = {user: USERS[index - 1] for index, user in enumerate(USERS)}
        for user in (*BY_SOCKET[:8], *AWAY[:4]):
            await asyncio.to_thread(pry, crowd, user, neighbours[user])
        await pry_on_the_socket(crowd, BY_SOCKET[1], BY_SOCKET[0])
        # A gateway dies in the middle of the second run; every socket and stream is cut.
        gateway = cluster.gateways[1]
        await asyncio.to_thread(crowd.emit_all, RUNS[1], AGENT_TYPES[0], "batch")
        os.kill(gateway.running.process.pid, signal.SIGKILL)
        gateway.running.process.wait(10)
        await asyncio.to_thread(crowd.emit_all, RUNS[1], AGENT_TYPES[1], "ndjson")
    await asyncio.to_thread(gateway.begin().running.json_line, LIMIT)

    async with live(crowd, cursors=True):
        await crowd.until_live(online)  # what the silent ones missed comes with the resume
        # The ledger is away: live, from the spool, and from the copies in Redis.
        own_postgres.kill()
        try:
            await asyncio.to_thread(crowd.emit_all, RUNS[1], "auth_completed", "batch")
            await crowd.until_live([user for user in loud if user in BY_SOCKET])
            await _connect_without_the_ledger(crowd, BY_SOCKET[:6])
        finally:
            own_postgres.restart()
        await asyncio.to_thread(crowd.emit_all, RUNS[1], AGENT_TYPES[4], "single")
        await crowd.until_live(loud)
        await _replay(crowd, BY_SOCKET[0])

    crowd.check()
    await _check_messages(crowd)
    _check_what_operators_see(crowd)


async def _first_run(crowd: Crowd) -> None:
    """The first run, each step through another way in."""
    cluster = crowd.cluster
    await asyncio.to_thread(crowd.emit_all, RUNS[0], AGENT_TYPES[0], "batch")
    await asyncio.to_thread(crowd.emit_all, RUNS[0], AGENT_TYPES[1], "ndjson")
    await asyncio.to_thread(crowd.emit_all, RUNS[0], AGENT_TYPES[2], "single")
    async with delivery.connect(cluster.gateways[0].url, cluster.service_token) as remote:
        await crowd.emit_by(remote, RUNS[0], AGENT_TYPES[3])
    async with in_process(cluster) as embedded:
        await crowd.emit_by(embedded, RUNS[0], AGENT_TYPES[4])


async def _connect_without_the_ledger(crowd: Crowd, users: Sequence[str]) -> None:
    cluster = crowd.cluster
    for user in users:
        async with listening(cluster.gateways[0].url, cluster.token(user), acks=False) as listener:
            crowd.listeners[user].append(listener)
            assert listener.welcome["recovered"] is False
            await listener.until(partial(_has, listener, crowd.ids[user][-1]), LIMIT)


async def _replay(crowd: Crowd, user: str) -> None:
    """An operator's replay of what one user did not confirm comes to that user alone."""
    http = crowd.cluster.http()
    body = {"state": "expired", "user_id": user, "dry_run": True}
    assert http.post("/v1/replay", json=body).status_code == 200
    with crowd.own(user) as own:
        listed = own.get("/v1/events", params={"limit": 1_000}).json()["events"]
    open_ids = [event["id"] for event in listed if event["state"] != "confirmed"]
    listener = crowd.listeners[user][0]
    for event_id in open_ids[:3]:
        answer = http.post(f"/v1/events/{event_id}/replay")
        assert answer.status_code in (202, 409), answer.text
    assert {event["user_id"] for event in listener.events} == {user}


async def _check_messages(crowd: Crowd) -> None:
    """Mails and texts of users who were away: each to one address, with one user's mark."""
    cluster = crowd.cluster
    addresses = {user: f"iso{index:02d}@example.org" for index, user in enumerate(USERS)}
    await eventually(
        lambda: [user for user in AWAY if not cluster.mails_to(addresses[user])],
        lambda missing: not missing,
        LIMIT,
    )
    owners = {address: user for user, address in addresses.items()}
    links: dict[str, str] = {}
    for mail in list(cluster.mails.messages):
        if not owners.keys() & set(mail.rcpt_tos):
            continue
        (recipient,) = mail.rcpt_tos
        raw = mail.content if isinstance(mail.content, bytes) else str(mail.content).encode()
        message = message_from_bytes(raw, policy=default)
        parts = [str(part.get_content()) for part in message.walk() if not part.is_multipart()]
        text = "\n".join([*(f"{name}: {value}" for name, value in message.items()), *parts])
        user = owners[recipient]
        assert marks_in(text) <= {user}, "subject, headers and every part"
        assert {one for one in owners if one in text} == {recipient}
        assert str(message["To"].addresses[0].addr_spec) == recipient
        if found := re.search(r"/confirm/[\w.~=-]+", text):
            links[user] = found[0]
    assert any(marks_in(text) for user in AWAY for text in cluster.mails_to(addresses[user]))
    numbers = {f"+49301000{index:04d}": user for index, user in enumerate(USERS)}
    for number, user in numbers.items():
        assert all(marks_in(json.dumps(one)) <= {user} for one in cluster.texts_to(number))
    await _follow(crowd, links)


async def _follow(crowd: Crowd, links: dict[str, str]) -> None:
    """A link confirms events of its own user, and its page shows nothing of another."""
    cluster = crowd.cluster
    user = next(user for user in AWAY if user in links)
    before = await asyncio.to_thread(_confirmed, crowd)
    page = cluster.http(1).get(links[user])
    posted = cluster.http(1).post(links[user])
    assert (page.status_code, posted.status_code) == (200, 200)
    assert marks_in(page.text + posted.text) <= {user}
    after = await asyncio.to_thread(_confirmed, crowd)
    assert after[user] > before[user]
    assert {one for one in AWAY if after[one] != before[one]} == {user}


def _confirmed(crowd: Crowd) -> dict[str, int]:
    """How many events of each user that is away are confirmed."""
    http = crowd.cluster.http()
    found = {}
    for user in AWAY:
        events = http.get("/v1/events", params={"user_id": user, "limit": 1_000}).json()["events"]
        assert {event["user_id"] for event in events} <= {user}, "a dashboard's list of one user"
        assert marks_in(json.dumps(events)) <= {user}
        found[user] = sum(event["state"] == "confirmed" for event in events)
    return found


def _check_what_operators_see(crowd: Crowd) -> None:
    """No mark of any user in metrics, alerts and logs, and refusals logged at a bounded rate."""
    cluster = crowd.cluster
    for number in range(2):
        text = cluster.http(number).get("/metrics").text
        assert marks_in(text) == set()
        assert "iso" not in text, "no user either"
    told = "".join(request.body.decode() for request in cluster.alarms.requests)
    assert marks_in(told) == set()
    lines = [line for log in cluster.folder.glob("*.log") for line in log.read_text().splitlines()]
    plain = [user for user in USERS if user.startswith("iso-user-")]
    for line in lines:
        assert marks_in(line) == set(), line
        named = {user for user in plain if re.search(rf"\b{user}\b", line)}
        assert len(named) <= 1, line
    refused = [line for line in lines if "refused: GET /v1/events/{id}" in line]
    assert 1 <= len(refused) <= 12, "one for each caller that asked"
