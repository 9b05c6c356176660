"""The whole Compose file in containers: up, checked from outside, scaled, restarted, broken.

In this order: each test leaves the stack healthy. A mail is on its way from the first test to the
last, through everything that fails between.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from delivery.client.client import Client
from tests.deployment.compose import ROOT, own_services
from tests.deployment.plain import IMPORT_ALL
from tests.docker.compose_stack import UP_TIMEOUT, URL, Api, Stack, mail_to
from tests.server_process import wait_until

pytestmark = pytest.mark.timeout(600)
ADDRESS = "mia@example.org"
STARTS_WITHIN = 15.0
RATE = 20.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Everything, up and healthy; removed at the end with its data."""
    stack = Stack(Path(os.environ["DELIVERY_STACK"]))
    subprocess.run(["python3", "config/make_secrets.py"], cwd=stack.folder, check=True, timeout=30)
    try:
        try:
            stack.up(timeout=UP_TIMEOUT)
        except AssertionError as error:
            pytest.fail(f"{error}\n{stack.report()}")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "20", timeout=180.0)


@pytest.fixture(scope="module")
def service_token(stack: Stack) -> str:
    """May emit, read and operate."""
    return stack.token("--service", "--scope", "emit read operate")


@pytest.fixture(scope="module")
def api(service_token: str) -> Iterator[Api]:
    """The way in through nginx."""
    api = Api(service_token)
    yield api
    api.http.close()


@pytest.fixture(scope="module")
def mailed(api: Api) -> str:
    """An event whose user is away and has an address."""
    answer = api.http.put("/v1/users/mia/contacts", json={"email": ADDRESS})
    assert answer.status_code == 200, answer.text
    return api.emit("mia")


class Load:
    """A steady caller: what was accepted, and what was answered instead.

    One request at a time, so that a gateway that is killed can cost at most one answer.
    """

    def __init__(self, api: Api, user_id: str) -> None:
        self.accepted: list[str] = []
        self.refused: Counter[str] = Counter()
        self._http = httpx.Client(base_url=URL, headers=api.http.headers, timeout=20.0)
        self._event = {"type": "agent_completed", "user_id": user_id, "run_id": "load", "data": {}}
        self._over = threading.Event()

    def run(self) -> None:
        """Emit until told to stop."""
        while not self._over.wait(1 / RATE):
            try:
                answer = self._http.post("/v1/events", json=self._event)
            except httpx.TransportError as error:
                self.refused[repr(error)] += 1
                continue
            if answer.status_code == 202:
                self.accepted.append(answer.json()["accepted"][0]["id"])
            else:
                self.refused[f"{answer.status_code} {answer.text[:80]}"] += 1

    def stop(self) -> None:
        """Let the request under way be the last one."""
        self._over.set()

    @property
    def refusals(self) -> int:
        """Answers other than 202."""
        return self.refused.total()


@contextmanager
def load(api: Api, user_id: str) -> Iterator[Load]:
    """A load beside the body."""
    load = Load(api, user_id)
    thread = threading.Thread(target=load.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: len(load.accepted) > 10, "the load runs", 30.0)
        yield load
    finally:
        load.stop()
        thread.join(30.0)


def test_up_returns_when_everything_is_healthy(stack: Stack, mailed: str) -> None:
    assert stack.unhealthy() == {}
    assert len(stack.containers()) > 15


def test_the_image_holds_what_every_module_imports(stack: Stack) -> None:
    assert stack.compose("exec", "-T", "worker-chain", "python", "-c", IMPORT_ALL) == ""


def test_check_and_validate_find_nothing_to_mend(stack: Stack, service_token: str) -> None:
    stack.delivery("check", "--for", "gateway")
    for name, queue in (("worker-email", "email"), ("worker-alert", "alert")):
        command = ("delivery", "check", "--for", "worker", "--queues", queue)
        stack.compose("exec", "-T", name, *command)
    other = ("--other-token", stack.token("--user", "val-2"))
    done = stack.validate(stack.token("--user", "val"), service_token, *other)
    assert done.returncode == 0, done.stdout + done.stderr
    empty = stack.validate("", service_token)
    assert empty.returncode == 2, empty.stdout
    assert "--client-token is empty" in empty.stderr


def test_networks_keep_apart_what_has_no_business_with_each_other(stack: Stack) -> None:
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    for name, host, port in (
        ("worker-email", "redis-queue", "6379"),
        ("worker-chain", "mailpit", "1025"),
        ("flower", "postgres", "5432"),
    ):
        with pytest.raises(AssertionError, match=r"gaierror|OSError|TimeoutError"):
            stack.compose("exec", "-T", name, "python", "-c", code, host, port)
    stack.compose("exec", "-T", "worker-email", "python", "-c", code, "mailpit", "1025")


def test_a_worker_is_healthy_soon_and_its_check_costs_little(stack: Stack) -> None:
    stack.up("--no-deps", "--force-recreate", "worker-email")
    # Twice as many processes as processors make everything take twice as long.
    pressure = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert stack.seconds_to_health("worker-email") <= STARTS_WITHIN * pressure
    check = own_services()["worker-email"]["healthcheck"]["test"][1].replace("$$", "$")
    script = f"i=0; while [ $i -lt 20 ]; do ({check}) || exit 1; i=$((i+1)); done; times"
    spent = stack.compose("exec", "-T", "worker-email", "sh", "-c", script).splitlines()[-1]
    seconds = sum(int(m) * 60 + float(s) for m, s in re.findall(r"(\d+)m([\d.]+)s", spent))
    assert seconds / 20 < 0.1


def test_workers_scale(stack: Stack) -> None:
    stack.up("--no-deps", "--scale", "worker-email=3", "worker-email")
    assert [one["Health"] for one in stack.containers("worker-email")] == ["healthy"] * 3
    said = stack.compose("logs", "--no-log-prefix", "worker-email")
    assert len(set(re.findall(r"worker (email-[0-9a-f]+-\d+) is up", said))) >= 3
    stack.up("--no-deps", "--scale", "worker-email=1", "worker-email")


def test_gateways_scale_as_documented(stack: Stack, api: Api) -> None:
    text = (ROOT / "docs/deployment.md").read_text()
    blocks = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (override,) = [one for one in blocks if "gateway-3" in one["services"]]
    nginx = stack.folder / "config/nginx.conf"
    before = nginx.read_text()
    first = re.search(r"^ +server 172\.30\.80\.12:8080 max_fails=1.*$", before, re.MULTILINE)
    assert first is not None
    added = first[0].replace("80.12", "80.13")
    (stack.folder / "docker-compose.override.yml").write_text(yaml.safe_dump(override))
    try:
        stack.up("gateway-3")
        _rewrite(nginx, before.replace(first[0], f"{first[0]}\n{added}"))
        stack.compose("exec", "-T", "nginx", "nginx", "-s", "reload")
        seen: set[str] = set()

        def has_seen_it() -> bool:
            with httpx.Client(base_url=URL) as client:
                seen.add(client.get("/healthz").json()["node"])
            return "gateway-3" in seen

        wait_until(has_seen_it, "nginx asks the third gateway", 30.0)
    finally:
        _rewrite(nginx, before)
        stack.compose("exec", "-T", "nginx", "nginx", "-s", "reload")
        stack.compose("rm", "--stop", "--force", "gateway-3")
        (stack.folder / "docker-compose.override.yml").unlink()
    assert api.node() in {"gateway-1", "gateway-2"}


def _rewrite(path: Path, text: str) -> None:
    """In place: a container has this very file."""
    with path.open("r+") as file:
        file.write(text)
        file.truncate()


def test_flower_tells_that_a_queue_has_no_worker(stack: Stack) -> None:
    stack.compose("stop", "worker-sms")
    stack.until_healthy("flower", "unhealthy")
    stack.up("--no-deps", "worker-sms")
    stack.until_healthy("flower")


def test_beat_is_unhealthy_when_it_does_not_tick(stack: Stack) -> None:
    beat = "grep --files-with-matches delivery /proc/[0-9]*/comm | cut --delimiter=/ --fields=3"
    for number in ("STOP", "CONT"):
        kill = f"kill -{number} $({beat})"
        stack.compose("exec", "-T", "beat", "sh", "-c", kill)
        stack.until_healthy("beat", "unhealthy" if number == "STOP" else "healthy")


def test_nginx_starts_and_serves_while_a_gateway_is_stopped(stack: Stack, api: Api) -> None:
    stack.compose("stop", "gateway-1")
    stack.compose("restart", "nginx")
    stack.until_healthy("nginx")
    assert api.node() == "gateway-2"
    stack.up("--no-deps", "gateway-1")


def test_a_rolling_restart_refuses_nothing(stack: Stack, api: Api) -> None:
    with load(api, "rolf") as found:
        for name in ("gateway-1", "gateway-2"):
            stack.up("--no-deps", "--force-recreate", name)
        before = len(found.accepted)
        wait_until(lambda: len(found.accepted) > before + 20, "it goes on", 30.0)
    assert not found.refused


@contextmanager
def client(user_token: str) -> Iterator[Counter[str]]:
    """The product's client on a thread; how often its handler saw each event."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    async def listen() -> None:
        async with Client(URL, user_token, device="one") as events:
            ending = asyncio.create_task(asyncio.to_thread(over.wait))
            while not over.is_set():
                coming = asyncio.ensure_future(anext(events))
                await asyncio.wait({coming, ending}, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    seen[coming.result().id] += 1
                else:
                    coming.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(listen()), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(30.0)


def test_what_fails_under_load_loses_nothing(stack: Stack, api: Api) -> None:
    with client(stack.token("--user", "lou")) as seen, load(api, "lou") as found:
        stack.compose("kill", "gateway-1")
        stack.up("--no-deps", "gateway-1")
        assert found.refusals <= 1, found.refused  # what was in flight
        stack.compose("restart", "gateway-2")
        stack.until_healthy("gateway-2")
        assert found.refusals <= 1, found.refused
        accepted = len(found.accepted)
        stack.compose("kill", "postgres")
        wait_until(lambda: len(found.accepted) > accepted + 20, "the spool accepts", 30.0)
        assert httpx.get(f"{URL}/readyz").status_code == 200, "no balancer may take them all out"
        stack.up("--no-deps", "postgres")
        accepted = len(found.accepted)
        stack.compose("kill", "redis-broker", "redis-queue")
        wait_until(lambda: len(found.accepted) > accepted + 20, "it accepts", 30.0)
        stack.up("--no-deps", "redis-broker", "redis-queue")
        accepted = len(found.accepted)
        wait_until(lambda: len(found.accepted) > accepted + 20, "it goes on", 30.0)
        found.stop()
        assert found.refusals <= 1, found.refused
        wait_until(lambda: set(found.accepted) <= set(seen), "every event was handled", 120.0)
        assert max(seen.values()) == 1, "and none twice"
        ids = list(found.accepted)
        wait_until(lambda: api.state(ids[-1]) == "confirmed", "the last is confirmed", 60.0)
    assert [one for one in ids if api.state(one) != "confirmed"] == []
    # Flower asks the workers every few seconds whether they are back at the broker.
    wait_until(lambda: stack.unhealthy() == {}, "every container is healthy again", 120.0)


def test_the_mail_came_through_all_of_it_and_its_link_confirms(mailed: str, api: Api) -> None:
    wait_until(lambda: mail_to(ADDRESS), "the mail has come", 240.0)
    found = re.search(r"http://localhost:8080/confirm/[\w.~=-]+", str(mail_to(ADDRESS)))
    assert found is not None, mail_to(ADDRESS)
    assert httpx.post(found[0].replace("localhost", "127.0.0.1")).status_code == 200
    wait_until(lambda: api.state(mailed) == "confirmed", "it is confirmed", 30.0)


def test_every_line_that_our_containers_wrote_is_json(stack: Stack) -> None:
    lines = stack.log_lines()
    assert all(lines.values()), "each has said something"
    plain = [
        f"{name}: {line}" for name, said in lines.items() for line in said if not _is_json(line)
    ]
    assert plain == []


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def test_everything_stops_in_good_order(stack: Stack) -> None:
    stack.compose("stop", timeout=180.0)
    codes = {one["Service"]: one["ExitCode"] for one in stack.containers()}
    assert {name: code for name, code in codes.items() if name in own_services() and code} == {}
