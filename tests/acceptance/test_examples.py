"""What the README and ``examples/`` show is run as it stands, and what happened is looked up."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web
from celery import Celery

from tests.acceptance.conftest import Service, Start
from tests.processes import SECRET, environment, running
from tests.servers import redis_server
from tests.wire import eventually, listening

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TOLD = """
for answer in (token, run):
    assert answer.status_code == 200, answer.content
import json
print(json.dumps([json.loads(token.content)["token"], json.loads(run.content)["last_event"]]))
"""

CALL_FASTAPI = """
from fastapi.testclient import TestClient
from fastapi_app import app

with TestClient(app) as client:
    assert client.get("/delivery-token").status_code == 401
    assert client.post("/runs/run-1").status_code == 401
    token = client.get("/delivery-token", headers={"X-User": "ada"})
    run = client.post("/runs/run-1", headers={"X-User": "ada"})
    assert client.post("/orders/17/ship").status_code == 200
"""

CALL_DJANGO = """
import django
import django_app

django.setup()

from django.test import Client

client = Client(headers={"X-User": "ben"})
assert Client().get("/delivery-token").status_code == 401
assert Client().post("/runs/run-1").status_code == 403
token, run = client.get("/delivery-token"), client.post("/runs/run-1")
assert client.post("/orders/17/ship").status_code == 200
"""

CALL_FLASK = """
from flask_app import app

client = app.test_client()
assert client.get("/delivery-token").status_code == 401
assert client.post("/runs/run-1").status_code == 401
token = client.get("/delivery-token", headers={"X-User": "cleo"})
run = client.post("/runs/run-1", headers={"X-User": "cleo"})
token.content, run.content = token.data, run.data
assert client.post("/orders/17/ship").status_code == 200
"""


def load(name: str) -> types.ModuleType:
    """An example as a module of its own, each time anew."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(script: str, service: Service, cwd: Path) -> str:
    """Run Python beside the examples, as a user of the service; what it printed last."""
    settings = {"URL": service.url, "TOKEN": service.said["service_token"], "JWT_SECRET": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env=environment(settings) | {"PYTHONPATH": f"{EXAMPLES}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def recorded(http: httpx.Client, user: str = "ada") -> list[tuple[str, str, int]]:
    """Run, type and number of what the ledger has of a user, oldest first."""
    answer = http.get("/v1/events", params={"user_id": user})
    assert answer.status_code == 200, answer.text
    return [(e["run_id"], e["type"], e["seq"]) for e in reversed(answer.json()["events"])]


PLANNED = [("run-1", "agent_started", 1), ("run-1", "agent_completed", 2)]


async def test_the_aiohttp_example_pushes_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELIVERY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DELIVERY_JWT_SECRET", SECRET)
    claims: dict[str, Any] = {"sub": "ada", "exp": 4_000_000_000}
    runner = web.AppRunner(load("aiohttp_app").app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with listening(url, jwt.encode(claims, SECRET)) as ada:
            async with httpx.AsyncClient(base_url=url) as http:
                answer = await http.post("/users/ada/runs/run-1")
            assert answer.status_code == 200, answer.text
            assert [e["type"] for e in await ada.receive(2)] == ["agent_started", "agent_completed"]
            assert answer.json() == {"run": "run-1", "last_event": ada.ids[1]}
        reader = jwt.encode({**claims, "sub": "test", "scope": "read"}, SECRET)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {reader}"}) as http:
            assert await asyncio.to_thread(recorded, http) == PLANNED
    finally:
        await runner.cleanup()


def test_each_web_example_records_what_it_emits_and_gives_its_page_a_token(
    start: Start, tmp_path: Path
) -> None:
    service = start(ack_timeout=60.0, JWT_SECRET=SECRET)
    for user, script in (("ada", CALL_FASTAPI), ("ben", CALL_DJANGO), ("cleo", CALL_FLASK)):
        token, last = json.loads(run_script(script + TOLD, service, tmp_path))
        assert recorded(service.http, user)[:2] == PLANNED
        assert service.event(last)["type"] == "agent_completed"
        page = {"Authorization": f"Bearer {token}"}
        own = httpx.get(f"{service.url}/v1/events/{last}", headers=page)
        assert own.status_code == 200, own.text
    shipped = [run for run, type, _ in recorded(service.http) if type == "order_shipped"]
    assert shipped == ["order-17"] * 3


RECORDED_TASK = """
import os
from celery_app import app
from delivery.adapters.celery import progress, recorded
from delivery.adapters.process import ProcessRecorder

recorder = ProcessRecorder(os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"])


@app.task(name="read")
@recorded(recorder)
def read(user_id, run_id):
    progress(0.5, "reading")
    return os.getpid()
"""


async def test_the_celery_example_and_the_decorator_emit_from_a_prefork_worker(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start(ack_timeout=60.0)
    with redis_server() as broker:
        monkeypatch.setenv("CELERY_BROKER_URL", broker.url)
        monkeypatch.setenv("PYTHONPATH", f"{EXAMPLES}:{ROOT}")
        settings = {"URL": service.url, "TOKEN": service.said["service_token"]}
        (tmp_path / "recorded_task.py").write_text(RECORDED_TASK)
        worker = ("celery", "-A", "recorded_task", "worker", "--pool", "prefork", "-c", "1")
        with running(*worker, cwd=tmp_path, settings=settings) as process:
            producer = Celery(broker=broker.url, set_as_current=False)
            with producer:
                await asyncio.to_thread(
                    producer.send_task, "celery_app.research", ("ada", "run-1", "why?")
                )
                await asyncio.to_thread(producer.send_task, "read", ("ada", "run-2"))
                seen = await eventually(
                    lambda: recorded(service.http), lambda events: len(events) == 5, timeout=60
                )
            assert [one for one in seen if one[0] == "run-2"] == [
                ("run-2", "task_started", 1),
                ("run-2", "task_completed", 2),
            ]
            assert [one for one in seen if one[0] == "run-1"] == [
                ("run-1", "agent_started", 1),
                ("run-1", "tool_executing", 2),
                ("run-1", "agent_completed", 3),
            ]
            assert process.stop() == 0, process.tail()


def readme() -> str:
    """The README as a reader sees it."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_python_block_of_the_readme_compiles() -> None:
    blocks = PYTHON_BLOCK.findall(readme())
    assert len(blocks) >= 2
    for block in blocks:
        compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_first_program_of_the_readme_runs(start: Start, tmp_path: Path) -> None:
    service = start(ack_timeout=60.0)
    said = run_script(PYTHON_BLOCK.findall(readme())[0], service, tmp_path)
    assert said == "on its way to the user"
    listed = service.http.get("/v1/events", params={"user_id": "demo"}).json()["events"]
    assert [e["type"] for e in reversed(listed)] == ["agent_started", "agent_completed"]


def test_every_promise_of_the_readme_names_a_test_that_exists() -> None:
    promised = re.findall(r"^\| P\d \|.*\| `(\w+)` \|$", readme(), re.MULTILINE)
    assert len(promised) == 8
    tree = ast.parse((ROOT / "tests/acceptance/test_promises.py").read_text(encoding="utf-8"))
    tests = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert set(promised) <= tests


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme()) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []
