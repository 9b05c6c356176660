"""The commands of the image, in an environment without a single package of the test extra.

The tests' own environment hides a dependency that production lacks: pytest brings it there.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from delivery.tasks.broker.app import MAINTENANCE_QUEUE, SWEEP, make_app
from tests.deployment.plain import IMPORT_ALL, make_environment, required_by
from tests.processes import SECRET, Process, environment
from tests.server_process import wait_until
from tests.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
START_TIMEOUT = 60.0


class Image:
    """What stands in the image, as far as Python is concerned; settings for its commands."""

    def __init__(self, python: Path, folder: Path, settings: dict[str, str]) -> None:
        self.python = python
        self.folder = folder
        self.settings = settings

    def run(self, *arguments: str) -> str:
        """Run Python with these arguments to its end; what it printed."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=environment(self.settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str) -> Process:
        """Start a command that keeps running."""
        command = [str(self.python), "-m", "delivery", *arguments]
        return Process(command, self.folder, self.settings, arguments[0])


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the plain environment."""
    folder = tmp_path_factory.mktemp("plain") / "venv"
    return make_environment(folder, wheel, required_by(wheel, "flower", "postgres", "push"))


@pytest.fixture
def image(
    python: Path,
    postgres_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Image:
    """The plain environment with a migrated PostgreSQL and a Redis."""
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "BROKER_URL": redis_url,
        "JWT_SECRET": SECRET,
        "DATA_DIR": str(tmp_path / "data"),
    }
    image = Image(python, tmp_path, settings)
    image.run("-m", "delivery", "migrate")
    return image


def test_it_holds_nothing_of_the_test_extra(python: Path) -> None:
    found = subprocess.run(
        [python, "-c", "import pytest"], capture_output=True, text=True, check=False
    )
    assert "No module named 'pytest'" in found.stderr


def test_every_module_is_imported(image: Image) -> None:
    assert image.run("-c", IMPORT_ALL) == ""


def test_a_worker_does_what_beat_asks_for(image: Image) -> None:
    worker = image.start("worker", "--queues", "maintenance")
    beat = image.start("beat")
    app = make_app(image.settings["BROKER_URL"])
    inspect = app.control.inspect(timeout=2.0)

    def has_swept() -> bool:
        for process in (worker, beat):
            assert process.process.poll() is None, process.tail()
        (figures,) = (inspect.stats() or {"": {"total": {}}}).values()
        return bool(figures["total"].get(SWEEP))

    try:
        wait_until(has_swept, f"a sweep of {MAINTENANCE_QUEUE} is done", START_TIMEOUT)
    finally:
        app.close()
        worker.kill()
        beat.kill()


@pytest.mark.parametrize(("command", "path"), [("gateway", "/readyz"), ("flower", "/healthcheck")])
def test_what_listens_answers(image: Image, command: str, path: str) -> None:
    port = free_port()
    process = image.start(command, "--host", "127.0.0.1", "--port", str(port))

    def answers() -> bool:
        assert process.process.poll() is None, process.tail()
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, f"{command} answers", START_TIMEOUT)
    finally:
        process.kill()
