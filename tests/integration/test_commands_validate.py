"""``delivery validate``, ``delivery listen`` and the Python client before a real service, also
through a proxy that lets no WebSocket pass."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import jwt
import pytest

import delivery
from delivery.cli.validate.checks import UNHEARD_TYPE
from delivery.cli.validate.probe import Target
from delivery.cli.validate.report import Report, validate
from delivery.client.backoff import FullJitter
from delivery.client.client import Client
from delivery.client.store import FileStore
from tests.browser.gate import Gate
from tests.processes import run_command, running
from tests.proxy import Proxy
from tests.waiting import until, until_blocking

SECRET = "only-for-tests-" + "v" * 32
AT_ONCE = FullJitter(base=0.001, max=0.01)


@dataclass(frozen=True)
class Service:
    """A running ``delivery up`` and who may talk to it."""

    url: str
    token: str

    def client_token(self, user: str) -> str:
        return jwt.encode({"sub": user, "exp": 4_000_000_000}, SECRET, "HS256")

    def events(self, user: str) -> list[dict[str, Any]]:
        """This user's events, newest first."""
        answer = httpx.get(
            f"{self.url}/v1/events",
            params={"user_id": user, "limit": 500},
            headers={"Authorization": f"Bearer {self.token}"},
        )
        found: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
        return found

    def emit(self, user: str, count: int) -> None:
        events = [
            {"type": "note", "user_id": user, "run_id": "r", "data": {}} for _ in range(count)
        ]
        httpx.post(
            f"{self.url}/v1/events",
            json={"events": events},
            headers={"Authorization": f"Bearer {self.token}"},
        ).raise_for_status()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("up")
    settings = {"JWT_SECRET": SECRET}
    with running("up", "--json", "--port", "0", cwd=folder, settings=settings) as process:
        said = process.json_line()
        yield Service(said["url"], said["service_token"])


@pytest.fixture
async def office(service: Service) -> AsyncIterator[Gate]:
    """A proxy before the service that cuts upgrades until it is told otherwise."""
    port = urlsplit(service.url).port
    assert port is not None
    async with Gate(port) as gate:
        gate.passes_sockets = False
        yield gate


def settings(service: Service, **more: str) -> dict[str, str]:
    return {"URL": service.url, "TOKEN": service.token} | more


async def looked_at(service: Service, url: str, user: str, token: str | None = None) -> Report:
    others = {"other_token": service.client_token(f"{user}-2"), "other_user": f"{user}-2"}
    mine = service.client_token(user)
    probe = Target(url, token or service.token, mine, user, 15.0, chain_timeout=60.0, **others)
    return await validate(probe, lambda finding: None)


def level(report: Report) -> dict[str, str]:
    return {finding.check: finding.level for finding in report.findings}


def test_a_service_that_keeps_the_contract_has_nothing_to_mend(
    service: Service, tmp_path: Path
) -> None:
    beside = settings(service, JWT_SECRET=SECRET)
    done = run_command("validate", "--json", "--keep", cwd=tmp_path, settings=beside)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert {one["level"] for one in report["checks"]} == {"ok"}
    assert len(report["checks"]) == 18
    for user in (report["user"], f"{report['user']}-other"):
        assert {one["state"] for one in service.events(user)} == {"confirmed"}
    assert service.token not in done.stdout


def test_users_that_were_made_are_erased_and_a_threshold_that_is_missed_is_a_finding(
    service: Service, tmp_path: Path
) -> None:
    beside = settings(service, JWT_SECRET=SECRET)
    limits = ("--min-rate", "1e9", "--skip", "chain", "--skip", "isolation")
    done = run_command("validate", "--json", *limits, cwd=tmp_path, settings=beside)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    found = {one["check"]: one for one in report["checks"]}
    assert [name for name, one in found.items() if one["level"] == "failed"] == ["speed"]
    assert "fewer than 1e+09 events/s" in found["speed"]["found"]
    assert found["left behind"]["found"].endswith("events of 2 users erased")
    assert service.events(report["user"]) == []


def test_without_a_clients_token_no_operator_is_alarmed_and_it_is_no_success(
    service: Service, tmp_path: Path
) -> None:
    done = run_command("validate", "--user", "absent-1", cwd=tmp_path, settings=settings(service))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "7 ok, 11 skipped" in done.stdout
    assert "delivery token --user absent-1" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert {one["type"] for one in service.events("absent-1")} == {UNHEARD_TYPE}


def test_a_check_that_is_skipped_exists(service: Service, tmp_path: Path) -> None:
    done = run_command("validate", "--skip", "nothing", cwd=tmp_path, settings=settings(service))
    assert done.returncode == 2
    assert "no check 'nothing'; known: healthz, readyz" in done.stderr.replace("\n", " ")


async def test_a_chain_without_workers_and_a_leak_between_users_are_found(
    service: Service,
) -> None:
    """By what the checks are told: an impossible time, and a second token of the same user."""
    mine = service.client_token("leak-1")
    probe = Target(
        service.url,
        service.token,
        mine,
        "leak-1",
        15.0,
        other_token=mine,
        other_user="leak-1",
        chain_timeout=0.0,
    )
    report = await validate(probe, lambda finding: None, skip=("speed",))
    found = {one.check: one for one in report.findings if one.level == "failed"}
    assert set(found) == {"chain", "isolation"}
    assert "without an attempt of its chain" in found["chain"].found
    assert found["isolation"].found == "an event came to another user"
    assert report.code == 1


async def test_a_proxy_without_websockets_is_found_and_nothing_is_left_behind(
    service: Service, office: Gate
) -> None:
    report = await looked_at(service, office.url, "office-1")
    found = {one.check: one for one in report.findings}
    assert (found["websocket"].level, report.code) == ("failed", 1)
    assert "Upgrade" in found["websocket"].mend
    assert found["delivered"].level == "skipped"
    assert found["stream"].level == "ok"
    assert found["left behind"].found == "nothing; 8 acknowledged in the end"
    assert {one["state"] for one in service.events("office-1")} == {"confirmed"}


async def test_a_service_under_a_path_of_a_proxy_keeps_the_contract_there(service: Service) -> None:
    async with Proxy(service.url) as proxy, httpx.AsyncClient(base_url=proxy.url) as browser:
        proxy.prefix = "/some/app"
        base = f"{proxy.url}{proxy.prefix}/"
        report = await looked_at(service, base, "path-1")
        assert {one.level for one in report.findings} == {"ok"}
        pages = [urljoin(base, name) for name in ("", "demo")]
        for page in pages:
            answer = (await browser.get(page)).raise_for_status()
            wanted = re.findall(r'(?:href|src)="([^"#:]+)"', answer.text)
            assert wanted, "it loads its script"
            for name in wanted:
                (await browser.get(urljoin(page, name))).raise_for_status()
        place = urljoin(base, "openapi.json")
        described = (await browser.get(place)).raise_for_status().json()
        assert urljoin(place, described["servers"][0]["url"]) == base


async def test_events_of_the_user_that_are_not_the_probes_stay_unconfirmed(
    service: Service,
) -> None:
    await asyncio.to_thread(service.emit, "real-1", 3)
    report = await looked_at(service, service.url, "real-1")
    assert report.code == 0
    states = {one["type"]: one["state"] for one in service.events("real-1")}
    assert states.pop("note") != "confirmed"
    assert set(states.values()) == {"confirmed"}


async def test_a_token_with_a_scope_too_few_is_named(service: Service) -> None:
    only = jwt.encode({"sub": "s", "scope": "read", "exp": 4_000_000_000}, SECRET, "HS256")
    report = await looked_at(service, service.url, "scope-1", token=only)
    token = next(one for one in report.findings if one.check == "token")
    assert (token.level, token.found) == ("failed", "scope emit missing")
    assert "--scope" in token.mend
    assert level(report)["accepted"] == "skipped"
    assert service.events("scope-1") == []


def test_a_service_that_is_not_there_exits_3(tmp_path: Path) -> None:
    done = run_command(
        "validate", cwd=tmp_path, settings={"URL": "http://127.0.0.1:9", "TOKEN": "t"}
    )
    assert done.returncode == 3
    assert "failed   healthz" in done.stdout
    assert "1 failed, 17 skipped" in done.stdout


async def test_listen_says_that_it_moved_to_sse_and_a_store_goes_on(
    service: Service, office: Gate, tmp_path: Path
) -> None:
    user = settings(service, URL=office.url, TOKEN=service.client_token("listener-1"))
    args = ("listen", "--count", "2", "--json", "--store", "seen")

    async def heard() -> tuple[list[str], str]:
        done = await asyncio.to_thread(run_command, *args, cwd=tmp_path, settings=user)
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["id"] for line in done.stdout.splitlines()], done.stderr

    await asyncio.to_thread(service.emit, "listener-1", 2)
    first, said = await heard()
    assert "no connection (no socket:" in said
    assert "listening as listener-1 over SSE (WebSocket does not get through: no socket:" in said
    await asyncio.to_thread(service.emit, "listener-1", 2)
    office.passes_sockets = True
    second, said = await heard()
    assert said == "listening as listener-1 over WebSocket\n"
    assert len({*first, *second}) == 4
    assert (tmp_path / "seen").read_text().split() == [*first, *second]
    assert {one["state"] for one in service.events("listener-1")} == {"confirmed"}


def test_a_wrong_port_and_a_services_token_are_said_at_once(
    service: Service, tmp_path: Path
) -> None:
    refused = run_command("listen", cwd=tmp_path, settings=settings(service))
    assert refused.returncode == 1, refused.stderr
    assert "this is a service's token" in refused.stderr
    away = settings(service, URL="http://127.0.0.1:9", TOKEN=service.client_token("u"))
    with running("listen", cwd=tmp_path, settings=away) as process:
        until_blocking(lambda: "; trying again" in process.tail())
        assert process.tail().startswith("no connection (")


async def test_what_the_ledger_knows_is_read_and_replayed_from_python(service: Service) -> None:
    operator = {"sub": "s", "scope": "emit read operate", "exp": 4_000_000_000}
    token = jwt.encode(operator, SECRET, "HS256")
    async with delivery.connect(service.url, token) as d:
        first = await d.emitter("reader-1", "r").emit("note", {"n": 1})
        await d.emitter("reader-1", "r").emit("note", {"n": 2})
        page = await d.events.list(user_id="reader-1", limit=1)
        rest = await d.events.list(user_id="reader-1", limit=1, after=page["next"])
        assert [one["id"] for one in rest["events"]] == [first.id]
        shown = await d.events.show(first.id)
        assert shown is not None
        assert shown["data"] == {"n": 1}
        assert await d.events.show("00000000-0000-7000-8000-000000000000") is None
        await d.events.replay(first.id)
        again = await d.events.show(first.id)
        assert again is not None
        assert again["generation"] == shown["generation"] + 1
        assert "delivery_rate" in await d.stats()

    def blocking() -> tuple[list[str], str, bool]:
        with delivery.connect_sync(service.url, token) as d:
            ids = [one["id"] for one in d.events.list(user_id="reader-1")["events"]]
            d.events.replay(ids[0])
            shown = d.events.show(ids[0]) or {}
            return ids, shown["user_id"], "states" in d.stats()

    ids, user, counted = await asyncio.to_thread(blocking)
    assert len(ids) == 2
    assert (user, counted) == ("reader-1", True)


async def test_the_client_changes_its_way_twice_and_its_handler_sees_every_event_once_in_order(
    service: Service, office: Gate, tmp_path: Path
) -> None:
    seen: list[int | None] = []
    ways: list[str] = []
    store = FileStore(tmp_path / "cursor")

    async def listen() -> None:
        client = Client(
            office.url,
            service.client_token("walker-1"),
            backoff=AT_ONCE,
            upgrade_after=0.2,
            store=store,
            on_status=lambda status: ways.append(status.transport or ""),
        )
        async with client:
            async for event in client:
                seen.append(event.seq)
                if len(seen) == 60:
                    return

    async def emitted(count: int) -> None:
        for _ in range(count // 5):
            await asyncio.to_thread(service.emit, "walker-1", 5)

    listening = asyncio.create_task(listen())
    await until(lambda: "sse" in ways)
    await emitted(20)
    office.passes_sockets = True
    await emitted(20)
    await until(lambda: "websocket" in ways)
    office.passes_sockets = False
    office.cut()
    await until(lambda: ways.count("sse") == 2)
    await emitted(20)
    async with asyncio.timeout(10.0):
        await listening
    store.close()
    assert seen == list(range(1, 61))
    await until(lambda: {one["state"] for one in service.events("walker-1")} == {"confirmed"})
