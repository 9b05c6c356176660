"""The processes of a benchmark: started again, killed, and ended with the process that started
them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from delivery.bench.faults.cluster import Command, CommandFailed

BENCHMARK = """
import signal
from delivery.bench.processes import ended_by_sigterm
with ended_by_sigterm():
    try:
        print("up", flush=True)
        signal.pause()
    finally:
        print("cleaned up", flush=True)
"""


# A shell starts what runs in its background with Ctrl-C ignored.
IN_THE_BACKGROUND = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@pytest.mark.parametrize("start", ["", IN_THE_BACKGROUND], ids=["in-front", "in-the-background"])
def test_sigterm_ends_what_was_started_as_ctrl_c_does(start: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"{start}\n{BENCHMARK}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaned up\n"
        assert process.wait(10) != 0


def test_a_command_that_fails_says_what_its_log_says(tmp_path: Path) -> None:
    command = Command("migrate", ["migrate"], {"DATABASE_URL": "nonsense"}, tmp_path)
    with pytest.raises(CommandFailed, match="DELIVERY_DATABASE_URL"):
        command.run()


def test_a_command_that_ends_instead_of_getting_ready_is_noticed(tmp_path: Path) -> None:
    command = Command("gateway", ["gateway", "--json"], {}, tmp_path)
    command.begin()
    with pytest.raises(CommandFailed, match="gateway ended"):
        command.ready()
    command.kill()
    assert not command.is_running
