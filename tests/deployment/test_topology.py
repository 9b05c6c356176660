"""The production shape, whole: the commands of docker-compose.yml as processes, behind nginx."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pytest

from delivery.domain.event import AGENT_TYPES
from tests import servers
from tests.deployment.rollout import Caller, next_build, paged
from tests.deployment.topology import GATEWAYS, Topology
from tests.smtp_servers import Behaviour, smtp_server
from tests.waiting import until_blocking
from tests.wire import eventually, listening

pytestmark = pytest.mark.timeout(180)
ADDRESS = "ada@example.org"


class Site:
    """The topology from outside: one address, which is nginx's."""

    def __init__(self, topology: Topology, log: Path) -> None:
        self.topology = topology
        self.log = log
        self.url = topology.url("localhost:8080")
        self.http = httpx.Client(base_url=self.url, headers=self.bearer(), timeout=10.0)

    def token(self, user_id: str, **claims: Any) -> str:
        secret = self.topology.secret("jwt_secret")
        return jwt.encode(
            {"sub": user_id, "exp": 4_000_000_000} | claims, secret, algorithm="HS256"
        )

    def bearer(self) -> dict[str, str]:
        token = self.token("service", scope="emit read operate")
        return {"Authorization": f"Bearer {token}"}

    def emit(self, user_id: str) -> list[str]:
        """An agent's five critical events; their ids."""
        events = [
            {"type": type, "user_id": user_id, "run_id": f"run-of-{user_id}", "data": {"step": n}}
            for n, type in enumerate(AGENT_TYPES)
        ]
        answer = self.http.post("/v1/events", json={"events": events})
        assert answer.status_code == 202, answer.text
        return [one["id"] for one in answer.json()["accepted"]]

    def states(self, ids: list[str]) -> list[str]:
        return [self.event(event_id)["state"] for event_id in ids]

    def event(self, event_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/events/{event_id}").json()
        return found


@pytest.fixture(scope="module")
def mails() -> Iterator[tuple[Behaviour, int]]:
    """A mail server in the place of Mailpit."""
    behaviour = Behaviour()
    with smtp_server(behaviour) as server:
        yield behaviour, server.port


@pytest.fixture(scope="module")
def topology(
    tmp_path_factory: pytest.TempPathFactory, mails: tuple[Behaviour, int]
) -> Iterator[Topology]:
    """Everything but nginx."""
    with ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        folder = tmp_path_factory.mktemp("site")
        topology = Topology(folder, stack, postgres=postgres.url, smtp_port=mails[1])
        topology.start()
        yield topology


@pytest.fixture(scope="module")
def site(topology: Topology) -> Iterator[Site]:
    """The same behind nginx."""
    site = Site(topology, topology.start_nginx())
    yield site
    site.http.close()


async def test_flower_shows_the_chains_tasks(topology: Topology) -> None:
    gateway = Site(topology, Path())
    gateway.http.base_url = httpx.URL(topology.url("gateway-1:8080"))
    gateway.http.put("/v1/users/flo/contacts", json={"email": "flo@example.org"})
    await asyncio.to_thread(gateway.emit, "flo")
    user, _, password = topology.secret("flower_basic_auth").partition(":")
    url = topology.url("flower:5555") + "/api/tasks"

    def names() -> set[str]:
        tasks = httpx.get(url, auth=(user, password), params={"limit": 1_000}, timeout=10.0)
        assert tasks.status_code == 200
        return {task["name"] for task in tasks.json().values()}

    chain = {f"delivery.fallback.{name}" for name in ("database", "queue", "direct", "email")}
    await eventually(names, lambda seen: chain <= seen, timeout=60)
    refused = await asyncio.to_thread(httpx.get, url)
    assert refused.status_code == 401


async def test_five_events_arrive_in_order_over_websocket_and_are_confirmed(site: Site) -> None:
    async with listening(site.url, site.token("bea")) as listener:
        ids = await asyncio.to_thread(site.emit, "bea")
        await listener.receive(5)
        assert listener.ids == ids
        assert [event["type"] for event in listener.events] == list(AGENT_TYPES)
        assert [event["seq"] for event in listener.events] == [1, 2, 3, 4, 5]
        await eventually(lambda: site.states(ids), lambda seen: seen == ["confirmed"] * 5)
    for event_id in ids:
        (confirmation,) = site.event(event_id)["confirmations"]
        assert (confirmation["channel"], confirmation["by"]) == ("websocket", "bea")


async def test_the_sockets_of_one_user_on_both_gateways_all_get_the_event(site: Site) -> None:
    async with AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(
                listening(site.url, site.token("cy"), device=f"device-{number}")
            )
            for number in range(4)
        ]
        nodes = {listener.welcome["node"] for listener in listeners}
        assert nodes == {"gateway-1", "gateway-2"}
        ids = await asyncio.to_thread(site.emit, "cy")
        for listener in listeners:
            await listener.receive(5)
            assert listener.ids == ids


async def test_events_pass_as_a_stream_without_waiting_for_more(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.token('dee')}"}
    async with (
        httpx.AsyncClient(base_url=site.url, headers=headers, timeout=15.0) as client,
        client.stream("GET", "/v1/stream") as stream,
    ):
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        async with asyncio.timeout(15):
            while await anext(lines) != "event: connected":  # behind the padding
                pass
        ids = await asyncio.to_thread(site.emit, "dee")
        seen: list[str] = []
        async with asyncio.timeout(15):
            while len(seen) < 5:
                line = await anext(lines)
                seen += [line.removeprefix("id: ")] if line.startswith("id: ") else []
        assert seen == ids
        acked = await client.post("/v1/acks", json={"ids": ids})
        assert acked.json() == {"confirmed": ids, "unknown": []}
    assert site.states(ids) == ["confirmed"] * 5


async def test_a_user_who_is_away_gets_one_mail_whose_link_confirms(
    site: Site, mails: tuple[Behaviour, int]
) -> None:
    answer = site.http.put("/v1/users/ada/contacts", json={"email": ADDRESS})
    assert answer.status_code == 200, answer.text
    ids = await asyncio.to_thread(site.emit, "ada")

    def mailed() -> list[Any]:
        return [mail for mail in mails[0].messages if mail.rcpt_tos == [ADDRESS]]

    await eventually(mailed, lambda found: found, timeout=60)
    event = await eventually(
        lambda: site.event(ids[-1]),
        lambda event: ("email", "delivered") in outcomes(event),
        timeout=30,
    )
    order = list(dict.fromkeys(channel for channel, _ in outcomes(event)))
    assert order[:6] == ["websocket", "database", "queue", "direct", "emergency", "email"]
    (mail,) = mailed()
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    body = message.get_body(("plain",))
    assert body is not None
    found = re.search(re.escape(site.url) + r"/confirm/([\w.~=-]+)", body.get_content())
    assert found, "the link starts with the address of nginx"
    pressed = await asyncio.to_thread(httpx.post, found.group())
    assert pressed.status_code == 200
    assert site.states(ids) == ["confirmed"] * 5
    logged = site.log.read_text()
    assert "POST /confirm/- 200" in logged
    assert found[1] not in logged


async def test_a_gateway_that_stops_takes_no_request_with_it(site: Site) -> None:
    topology = site.topology
    async with listening(site.url, site.token("eve")) as listener:
        stopped = listener.welcome["node"]
        assert await asyncio.to_thread(topology.processes[stopped].stop) == 0
        await listener.until(lambda: any(f["type"] == "reconnect" for f in listener.frames))
    try:
        async with listening(site.url, site.token("eve")) as listener:
            assert listener.welcome["node"] != stopped
            for _ in range(4):  # nginx asks the stopped one in vain first, and then the other
                await asyncio.to_thread(site.emit, "eve")
            await listener.receive(20)
    finally:
        await asyncio.to_thread(topology.start_gateway, stopped)


async def test_gateways_that_restart_one_after_the_other_refuse_no_request(site: Site) -> None:
    """Under load, and the second stops as soon as the first one is back."""
    over = threading.Event()
    answers: Counter[int | str] = Counter()

    def post(client: httpx.Client) -> None:
        event = {"type": "agent_started", "user_id": "rolf", "run_id": "r", "data": {}}
        while not over.is_set():
            try:
                answers[client.post("/v1/events", json=event).status_code] += 1
            except httpx.TransportError as error:
                answers[repr(error)] += 1

    with ExitStack() as stack:
        clients = [
            stack.enter_context(httpx.Client(base_url=site.url, headers=site.bearer(), timeout=20))
            for _ in range(4)
        ]
        posting = [asyncio.create_task(asyncio.to_thread(post, client)) for client in clients]
        try:
            for name in GATEWAYS:
                assert await asyncio.to_thread(site.topology.processes[name].stop) == 0
                await asyncio.to_thread(site.topology.start_gateway, name)
        finally:
            over.set()
            await asyncio.gather(*posting)
    assert set(answers) == {202}, answers
    assert answers[202] > 100


async def test_nginx_starts_and_serves_while_one_gateway_is_away(site: Site) -> None:
    topology = site.topology
    assert await asyncio.to_thread(topology.processes["gateway-1"].stop) == 0
    try:
        assert await asyncio.to_thread(topology.processes["nginx"].stop) == 0
        await asyncio.to_thread(topology.start_nginx)
        await asyncio.to_thread(site.emit, "noa")
    finally:
        await asyncio.to_thread(topology.start_gateway, "gateway-1")


def skipped(topology: Topology, gateway: str) -> set[str]:
    """Why a gateway could not read something that came over the bus."""
    text = httpx.get(f"{topology.url(gateway + ':8080')}/metrics", timeout=30.0).text
    return set(
        re.findall(r'^delivery_bus_skipped_total\{reason="(\w+)"\} [1-9]', text, re.MULTILINE)
    )


async def resent(site: Site, gateways: tuple[str, ...]) -> None:
    """An event for a user who is connected and does not acknowledge, posted once requests go to
    these gateways: it comes over the bus, and again when a worker asks for it."""
    async with listening(site.url, site.token("silent"), acks=False) as listener:
        on = listener.welcome["node"]
        assert on not in gateways
        await asyncio.to_thread(site.topology.switch, *gateways)
        await eventually(lambda: site.http.get("/healthz").json()["node"], gateways.__contains__)
        *_, last = await asyncio.to_thread(site.emit, "silent")
        await listener.until(lambda: listener.ids.count(last) >= 2)
        await eventually(
            lambda: outcomes(site.event(last)), lambda seen: ("direct", "delivered") in seen
        )


@pytest.mark.timeout(400)
async def test_the_next_release_takes_the_traffic_and_gives_it_back(
    site: Site, tmp_path: Path
) -> None:
    """Blue and green on one ledger and one bus; the tables and the bus of green are newer."""
    topology, build = site.topology, next_build(tmp_path / "next")
    caller = Caller(site.url, site.bearer(), ["gil", "hal"])
    async with AsyncExitStack() as stack:
        pages = {
            user: await stack.enter_async_context(paged(site.url, site.token(user)))
            for user in caller.accepted
        }
        await eventually(lambda: [page.connects for page in pages.values()], [1, 1].__eq__)
        calling = asyncio.create_task(caller.run())

        async def goes_on(connects: int) -> None:
            """What is accepted from now on is handled, over the connections that there are."""
            enough = caller.count + 20
            await eventually(lambda: caller.count, lambda count: count >= enough)
            wanted = {user: set(ids) for user, ids in caller.accepted.items()}
            await eventually(
                lambda: [wanted[user] - set(page.handled) for user, page in pages.items()],
                lambda missing: not any(missing),
            )
            for page in pages.values():
                assert (page.connects, page.tries) == (connects, connects - 1), page.ends

        migrating = topology.start_beside("migrate-next", "migrate", build)
        assert await asyncio.to_thread(migrating.process.wait, 90) == 0, migrating.tail()
        topology.start_beside("green", "gateway-1", build, NODE="green")
        topology.until_ready("green", f"{topology.url('green:8080')}/readyz")
        await goes_on(1)

        assert await asyncio.to_thread(topology.processes["worker-direct"].stop) == 0
        topology.start_beside("direct-next", "worker-direct", build)
        await resent(site, ("green",))
        await goes_on(1)
        assert (skipped(topology, "gateway-1"), skipped(topology, "green")) == (set(), set())
        gone = await asyncio.to_thread(site.http.post, "/v1/users/absent/disconnect")
        assert gone.status_code < 300, gone.text
        await eventually(lambda: skipped(topology, "gateway-1"), {"version"}.__eq__)

        for name in GATEWAYS:
            assert await asyncio.to_thread(topology.processes[name].stop) == 0
        await goes_on(2)

        for name in GATEWAYS:  # the older release starts on the newer tables
            await asyncio.to_thread(topology.start_gateway, name)
        assert "of a newer version, and serve this one" in topology.processes[name].tail(99_999)
        assert await asyncio.to_thread(topology.processes["direct-next"].stop) == 0
        topology.start_service("worker-direct")
        await resent(site, GATEWAYS)
        await goes_on(2)
        assert skipped(topology, "green") == set()
        assert await asyncio.to_thread(topology.processes["green"].stop) == 0
        await goes_on(3)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    assert not caller.refused
    for user, ids in caller.accepted.items():
        assert pages[user].handled == Counter(ids), "each once"
        asked = {"user_id": user, "state": "confirmed", "count": "true", "limit": "1"}
        await eventually(
            lambda asked=asked: site.http.get("/v1/events", params=asked).json(),
            lambda answer, ids=ids: answer["count"] == len(ids),
        )


def outcomes(event: dict[str, Any]) -> list[tuple[str, str]]:
    return [(attempt["channel"], attempt["outcome"]) for attempt in event["attempts"]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
@pytest.mark.parametrize(
    ("through", "expected"),
    [
        ("localhost:8080", "127.0.0.5"),  # nginx names the caller; what he says himself is his
        ("gateway-1:8080", "127.0.0.5"),  # no proxy between: his header is worth nothing
    ],
)
async def test_a_forged_forwarded_address_is_never_believed(
    site: Site, through: str, expected: str
) -> None:
    processes = [site.topology.processes[name] for name in ("gateway-1", "gateway-2")]
    before = [process.log.read_text().count("wrong signature") for process in processes]
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.example"}
    transport = httpx.HTTPTransport(local_address="127.0.0.5")
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Twilio-Signature": "wrong",
    }
    with httpx.Client(base_url=site.topology.url(through), transport=transport) as client:
        answer = await asyncio.to_thread(
            client.post, "/v1/callbacks/sms/twilio", content=b"Sid=1", headers=forged | headers
        )
    assert answer.status_code == 403

    def refused() -> list[str]:
        return [
            json.loads(line)["message"]
            for process, known in zip(processes, before, strict=True)
            for line in [
                line for line in process.log.read_text().splitlines() if "wrong signature" in line
            ][known:]
        ]

    (message,) = await eventually(refused, lambda lines: lines)
    assert f"from {expected}:" in message
    assert "203.0.113.9" not in message


def test_prometheus_finds_metrics_at_each_target_and_the_public_does_not(site: Site) -> None:
    for target in ("gateway-1:8080", "gateway-2:8080", "flower:5555"):
        answer = httpx.get(f"{site.topology.url(target)}/metrics")
        assert answer.status_code == 200
        assert re.search(r"^# TYPE (delivery|flower)_", answer.text, re.MULTILINE)
    assert site.http.get("/metrics").status_code == 404


@pytest.mark.parametrize("name", ["worker-email", "beat", "flower"])
def test_health_checks_pass(topology: Topology, name: str) -> None:
    # As the containers' checks, which ask again before they call a service unhealthy.
    until_blocking(lambda: topology.check_health(name).returncode == 0)


def test_no_password_stands_in_any_process_list_or_log(topology: Topology) -> None:
    made = [path.read_text() for path in (topology.folder / "made").iterdir()]
    words = {word for text in made for word in re.findall(r"[0-9a-f]{32,}", text)}
    assert len(words) >= 6
    for name, process in topology.processes.items():
        if process.process.poll() is None:
            shown = " ".join(psutil.Process(process.process.pid).cmdline())
            assert not [word for word in words if word in shown], name
        logged = process.log.read_text()
        assert not [word for word in words if word in logged], name
