"""Runs an example as a reader does, with the installed package, and says what came of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.adapters.support import dead, gateway, types

EXAMPLES = Path(__file__).parents[2] / "examples" / "adapters"


def run_example(name: str, folder: Path, *, away: bool = False) -> tuple[str, list[str]]:
    """Run an example in a folder of its own; its last line, and the types that were accepted."""
    if away:
        with dead() as url:
            return _run(name, folder, url), []
    with gateway() as server:
        said = _run(name, folder, server.url)
        return said, types(server)


def _run(name: str, folder: Path, url: str) -> str:
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=folder,
        env=kept | {"DELIVERY_URL": url, "DELIVERY_TOKEN": "t", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
