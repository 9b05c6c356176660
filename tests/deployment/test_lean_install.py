"""`pip install delivery-ledger` alone: small, whole on SQLite, and it names what it lacks."""

from __future__ import annotations

import subprocess
from importlib.metadata import Distribution
from pathlib import Path

import httpx
import pytest

from tests.deployment.plain import make_environment, required_by
from tests.processes import SECRET, Process, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
MAX_BYTES = 100_000_000
"""Of package files, without the bytecode that an interpreter adds (about two fifths of it)."""

IMPORT_ALL = """
import importlib, pkgutil, delivery, delivery.errors
failed = set()
for module in pkgutil.walk_packages(delivery.__path__, "delivery.", onerror=lambda name: None):
    if module.name in ("delivery.__main__", "delivery.worker"):  # these run on import
        continue
    if module.name.startswith("delivery.outbox.django"):  # an app of a Django that is there
        continue
    if module.name.startswith("delivery.pytest_plugin"):  # of a pytest that is there
        continue
    try:
        importlib.import_module(module.name)
    except delivery.errors.MissingExtra as error:
        assert module.name.startswith("delivery.adapters."), module.name
        assert "pip install 'delivery-ledger[" in str(error), error
    except ImportError as error:
        failed.add(f"{module.name} {error.name}")
print("\\n".join(sorted(failed)), end="")
"""
ASK = """
from delivery.domain.users.contact import Contact
from delivery.transports.push import PushTransport
from delivery.transports.rendering.render import Renderer
print(PushTransport(Renderer()).unreachable(Contact("ada", push=("ntfys://topic",))))
"""


@pytest.fixture(scope="module")
def packages(wheel: Path) -> dict[str, Distribution]:
    return required_by(wheel)


@pytest.fixture(scope="module")
def python(
    wheel: Path, packages: dict[str, Distribution], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make_environment(tmp_path_factory.mktemp("lean") / "venv", wheel, packages)


def run(python: Path, folder: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    done = subprocess.run(
        [python, *arguments],
        cwd=folder,
        env=environment(settings) | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_is_small(packages: dict[str, Distribution]) -> None:
    assert not {"apprise", "psycopg", "psycopg-binary", "pytest", "flower"} & set(packages)
    size = sum(
        path.stat().st_size
        for one in packages.values()
        for file in one.files or ()
        if (path := Path(str(one.locate_file(file)))).is_file() and path.suffix != ".pyc"
    )
    assert size < MAX_BYTES


def test_all_but_two_parts_are_imported(python: Path, tmp_path: Path) -> None:
    status, failed = run(python, tmp_path, "-c", IMPORT_ALL)
    assert status == 0, failed
    modules = {line.partition(" ")[0] for line in failed.splitlines()}
    assert "delivery.ledger.sql.deadline_connection" in modules
    others = {name for name in modules if not name.startswith("delivery.bench.")}
    assert others == {"delivery.ledger.sql.deadline_connection"}, failed


@pytest.mark.parametrize(
    ("command", "settings", "extra"),
    [
        (("migrate",), {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x"}, "postgres"),
        (("up", "--port", "0"), {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x"}, "postgres"),
        (("up", "--port", "0"), {"ALERT_URLS": "ntfys://topic"}, "push"),
        (("flower", "--port", "1"), {"BROKER_URL": "redis://127.0.0.1:1/0"}, "flower"),
        (("bench", "--mode", "fallback", "--events", "100"), {}, "postgres"),
    ],
)
def test_what_needs_an_extra_names_the_command(
    python: Path, tmp_path: Path, command: tuple[str, ...], settings: dict[str, str], extra: str
) -> None:
    more = {"DATA_DIR": str(tmp_path / "data"), "JWT_SECRET": SECRET}
    status, said = run(python, tmp_path, "-m", "delivery", *command, **settings, **more)
    assert status == 2, said
    assert f"pip install 'delivery-ledger[{extra}]'" in said
    assert "Traceback" not in said


def test_a_push_target_is_skipped_with_the_command(python: Path, tmp_path: Path) -> None:
    status, said = run(python, tmp_path, "-c", ASK)
    assert status == 0, said
    assert said.strip() == "push services need Apprise: pip install 'delivery-ledger[push]'"


def test_it_takes_an_event_and_keeps_its_mail(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    command = [str(python), "-m", "delivery", "up", "--json", "--port", "0"]
    process = Process(command, tmp_path, {}, "up")
    try:
        said = process.json_line()
        headers = {"Authorization": f"Bearer {said['service_token']}"}
        event = {"type": "agent_started", "user_id": "demo", "run_id": "r", "data": {}}
        with httpx.Client(base_url=said["url"], headers=headers, timeout=30.0) as client:
            assert client.post("/v1/events", json=event).status_code == 202
            assert client.get("/v1/inbox").status_code == 200
    finally:
        process.kill()
