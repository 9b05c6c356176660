"""The file that tells a health check whether worker and beat do their work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.ledger import migrate
from delivery.process.pulse import EVERY
from tests import servers
from tests.processes import SECRET, running
from tests.server_process import wait_until

pytestmark = pytest.mark.timeout(180)
START_TIMEOUT = 60.0


@pytest.fixture
def broker() -> Iterator[servers.Server]:
    """A broker to stop."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture
def settings(broker: servers.Server, postgres_url: str, tmp_path: Path) -> dict[str, str]:
    """What workers and beat need, and the file."""
    migrate.upgrade(postgres_url)
    return {
        "DATABASE_URL": postgres_url,
        "BROKER_URL": broker.url,
        "JWT_SECRET": SECRET,
        "DATA_DIR": str(tmp_path / "data"),
        "PULSE_FILE": str(tmp_path / "pulse"),
    }


def until_it_beats(file: Path, what: str, timeout: float = START_TIMEOUT) -> None:
    """Wait for a beat that comes from now on."""
    known = file.stat().st_mtime_ns if file.exists() else 0
    wait_until(lambda: file.exists() and file.stat().st_mtime_ns > known, what, timeout)


@pytest.mark.parametrize("command", [("worker",), ("worker", "--pool", "prefork"), ("beat",)])
def test_it_beats_while_work_can_be_done_and_only_then(
    command: tuple[str, ...], broker: servers.Server, settings: dict[str, str], tmp_path: Path
) -> None:
    file = Path(settings["PULSE_FILE"])
    with running(*command, cwd=tmp_path, settings=settings) as process:
        until_it_beats(file, f"it beats; its log: {process.log}")
        until_it_beats(file, "it beats again", 3 * EVERY)
        broker.kill()
        file.unlink()
        with pytest.raises(TimeoutError):
            wait_until(file.exists, "a beat without a broker", 2 * EVERY)
        assert process.process.poll() is None, process.tail()
        broker.restart()
        until_it_beats(file, "it beats again after the outage")
        process.stop()
    assert not file.exists(), "what has ended is not healthy for another while"


def test_a_file_that_cannot_be_written_is_told_and_ends_nothing(
    settings: dict[str, str], tmp_path: Path
) -> None:
    settings["PULSE_FILE"] = str(tmp_path / "missing" / "pulse")
    with running("beat", cwd=tmp_path, settings=settings) as process:
        told = "set DELIVERY_PULSE_FILE"
        wait_until(lambda: told in process.tail(), "it tells", START_TIMEOUT)
        assert process.stop() == 0
