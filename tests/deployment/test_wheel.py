"""What is released: a wheel and an sdist that work without the checkout."""

from __future__ import annotations

import contextlib
import email
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployment.compose import ROOT
from tests.docs_blocks import write_files
from tests.processes import Process, environment

pytestmark = pytest.mark.timeout(180)

# What an installed package needs beside its modules.
DATA = (
    "delivery/py.typed",
    "delivery/__init__.pyi",
    "delivery/_config/delivery.toml",
    "delivery/_config/policies.toml",
    "delivery/_config/templates/digest.html",
    "delivery/_config/templates/en/digest.words",
    "delivery/_config/templates/de/sms.txt",
    "delivery/_migrations/env.py",
    "delivery/web/index.html",
    "delivery/web/dashboard.js",
)


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else; its dependencies are this environment's.

    In front of this environment's packages on the path, it hides the checkout.
    """
    (wheel,) = built.glob("*.whl")
    return install(wheel, tmp_path_factory.mktemp("installed"))


def install(archive: Path, folder: Path) -> Path:
    """Install a wheel or an sdist alone into a folder; the folder."""
    pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(archive),
    ]
    subprocess.run([sys.executable, *pip], check=True, timeout=120)
    return folder


class Installation:
    """The installed command, run in an empty folder."""

    def __init__(self, packages: Path, folder: Path) -> None:
        self.packages = packages
        self.folder = folder

    def environment(self) -> dict[str, str]:
        return environment({}) | {"PYTHONPATH": str(self.packages)}

    def run(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, str(self.packages / "bin" / "delivery"), *args],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def installation(installed: Path, tmp_path: Path) -> Installation:
    """A fresh folder to run it in."""
    return Installation(installed, tmp_path)


@contextlib.contextmanager
def running(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``delivery up`` of an installed package; what it printed."""
    monkeypatch.setenv("PYTHONPATH", str(installation.packages))
    command = [str(installation.packages / "bin" / "delivery"), "up", "--json", "--port", "0"]
    process = Process([sys.executable, *command], installation.folder, {}, "up")
    try:
        yield process.json_line()
    finally:
        process.kill()


@pytest.fixture
def up(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A running ``delivery up`` of the installed wheel; what it printed."""
    with running(installation, monkeypatch) as said:
        yield said


def test_the_wheel_holds_what_the_package_reads_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(DATA) <= names
    roots = {name.split("/")[0] for name in names}
    assert roots == {"delivery", f"delivery_ledger-{version('delivery-ledger')}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or "secrets/" in name]
    versions = {path.name for path in (ROOT / "migrations/versions").glob("*.py")}
    shipped = {name.split("/")[-1] for name in names if "_migrations/versions/" in name}
    assert shipped == versions


def test_the_sdist_holds_what_builds_tests_and_deploys_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "requirements.lock",
        "docker-compose.yml",
        "Dockerfile",
        ".dockerignore",
        "docs/deployment.md",
        "docs/upgrading.md",
        "examples/aiohttp_app.py",
        "tests/conftest.py",
        "migrations/env.py",
        "config/nginx.conf",
    ):
        assert wanted in names, wanted
    assert not [n for n in names if n.startswith(("secrets", ".git/", ".venv", ".delivery", "var"))]


def test_what_is_uploaded_is_fit_for_its_page_there(built: Path) -> None:
    twine = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(twine, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"delivery_ledger-{version('delivery-ledger')}.dist-info/METADATA")
    page = email.message_from_bytes(metadata).get_payload()
    assert "](docs/" not in page
    assert "](https://raw.githubusercontent.com/" in page


def test_the_sdist_takes_an_event(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sdist,) = built.glob("*.tar.gz")
    packages = install(sdist, tmp_path / "installed")
    folder = tmp_path / "empty"
    folder.mkdir()
    installation = Installation(packages, folder)
    where = installation.python("import delivery.resources as r; print(r.__file__)")
    assert Path(where).is_relative_to(packages)
    with running(installation, monkeypatch) as said:
        event = {"type": "agent_started", "user_id": "demo", "run_id": "r", "data": {}}
        headers = {"Authorization": f"Bearer {said['service_token']}"}
        posted = httpx.post(f"{said['url']}/v1/events", json=event, headers=headers)
        assert posted.status_code == 202, posted.text


def test_the_installed_package_is_what_runs(installation: Installation) -> None:
    where = installation.python("import delivery.resources as r; print(r.__file__)")
    assert Path(where).is_relative_to(installation.packages)
    assert installation.run("--version").strip() == version("delivery-ledger")
    shown = installation.python(
        "from delivery import resources as r; print(r.folder('config')); print(r.folder('web'));"
        "print(r.folder('migrations'))"
    )
    for folder in shown.splitlines():
        assert Path(folder).is_relative_to(installation.packages)


def test_it_migrates_a_database(installation: Installation) -> None:
    database = f"sqlite:///{installation.folder}/own.db"
    code = (
        f"import os; os.environ['DELIVERY_DATABASE_URL'] = {database!r};"
        "from delivery.cli import main; main(['migrate', '--json'])"
    )
    newest = sorted(path.name for path in (ROOT / "migrations/versions").glob("*.py"))[-1]
    assert newest.startswith(json.loads(installation.python(code))["revision"])


def test_its_default_policies_are_there(installation: Installation) -> None:
    code = (
        "from delivery.config import load_policies, load_settings;"
        "policies = load_policies(load_settings());"
        "print(policies.by_type['agent_completed'].value)"
    )
    assert installation.python(code) == "critical"


def test_it_takes_an_event_and_shows_its_page(up: dict[str, str]) -> None:
    with httpx.Client(base_url=up["url"], timeout=10.0) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "dashboard.js" in page.text
        assert client.get("/client.js").status_code == 200
        assert client.get("/openapi.json").json()["info"]["version"]
        event = {"type": "agent_started", "user_id": "demo", "run_id": "r", "data": {}}
        headers = {"Authorization": f"Bearer {up['service_token']}"}
        posted = client.post("/v1/events", json=event, headers=headers)
        assert posted.status_code == 202, posted.text
        event_id = posted.json()["accepted"][0]["id"]
        found = client.get(f"/v1/events/{event_id}", headers=headers).json()
    assert found["class"] == "critical"


def test_messages_are_written_with_the_shipped_templates(installation: Installation) -> None:
    code = """
from datetime import UTC, datetime
from delivery.domain.event import EventClass
from delivery.domain.operators.figures import (AlertGroup)
from delivery.transports.rendering.render import Renderer
group = AlertGroup("g", EventClass.CRITICAL, datetime.now(UTC), 3, 2, ("an-id",), None, True)
print(Renderer().alert(group).title)
"""
    assert "3 critical events" in installation.python(code)


SHOP = """
import os
import delivery

def ship(user, order):
    with delivery.connect_sync(os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"]) as d:
        run = d.emitter(user, f"order-{order}")
        run.emit("order_shipped", {"order": order, "text": f"Order {order}"})
"""
SHOP_POLICIES = """
[class.orders]
types = ["order_shipped"]
[[class.orders.chain]]
channel = "email"
after = 60.0
"""


@pytest.mark.timeout(400)
def test_the_tests_that_docs_testing_shows_pass_with_the_plugin_that_it_brings(
    installation: Installation,
) -> None:
    write_files("docs/testing.md", installation.folder)
    (installation.folder / "shop.py").write_text(SHOP)
    (installation.folder / "policies.toml").write_text(SHOP_POLICIES)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "delivery", "test_orders.py"],
        cwd=installation.folder,
        env=installation.environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr
    assert "3 passed" in done.stdout
