"""Tests each adapter beside its framework: ``python tests/adapters/run.py [NAME ...]``.

Each has an environment of its own under ``.venv/adapters``, with this project's wheel, its
extra, and the pins of ``requirements/NAME.txt``; it is made anew when one of these changes.

``--lock`` resolves the newest versions that the extras allow and writes the pins.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv" / "adapters"
UV = "uv>=0.9,<1"  # pip takes a minute and more for what this does in seconds
TOOLS = ("pytest>=9.2,<10", "pytest-asyncio>=1.5,<2", "pytest-timeout>=2.4,<3")
PIPE = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
INSTALL_TIMEOUT, TEST_TIMEOUT = 600, 600


def names() -> list[str]:
    """The adapters: each has a file of pins, named as its extra."""
    return sorted(path.stem for path in (HERE / "requirements").glob("*.txt"))


def run(*command: str | Path, timeout: float, env: dict[str, str] | None = None) -> str:
    """Run a command in the project's folder; what it said. Exits with that when it fails."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("DELIVERY_")}
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        clean.pop(name, None)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=clean | (env or {}),
        timeout=timeout,
        check=False,
        **PIPE,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return str(done.stdout)


def uv() -> Path:
    """The installer, in a folder of its own."""
    folder = ENVIRONMENTS / "uv"
    binary = folder / "bin" / "uv"
    if not binary.exists():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--target", folder, UV, timeout=INSTALL_TIMEOUT)
    return binary


def fingerprint(name: str) -> str:
    """What an environment depends on: the project's code is copied into it."""
    digest = hashlib.sha256(f"{sys.version}{ROOT}{TOOLS}".encode())
    sources = [*sorted((ROOT / "delivery").rglob("*.py")), ROOT / "pyproject.toml"]
    for path in [*sources, HERE / "requirements" / f"{name}.txt"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def environment(installer: Path, name: str) -> Path:
    """The interpreter of an adapter's environment, which is made if it is not as it should be."""
    folder = ENVIRONMENTS / name
    stamp, python = folder / "stamp", folder / "bin" / "python"
    wanted = fingerprint(name)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    run(installer, "venv", "--quiet", "--clear", "--python", sys.executable, folder, timeout=60)
    install = (installer, "pip", "install", "--quiet", "--python", python)
    pins = ("--constraint", HERE / "requirements" / f"{name}.txt")
    run(*install, *pins, *TOOLS, f"{ROOT}[{name}]", timeout=INSTALL_TIMEOUT)
    stamp.write_text(wanted)
    return python


def test(installer: Path, name: str) -> tuple[str, bool]:
    """Run an adapter's tests; what they said, and whether they passed."""
    began = time.monotonic()
    try:
        python = environment(installer, name)
        made = time.monotonic() - began
        suite = HERE / f"check_{name.replace('-', '_')}.py"
        options = ("-p", "no:cacheprovider", "--confcutdir", HERE, "--timeout", "240")
        said = run(python, "-m", "pytest", *options, suite, timeout=TEST_TIMEOUT)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return f"{error}", False
    summary = said.strip().splitlines()[-1]
    return f"{summary} (environment {made:.0f} s)", True


def lock(installer: Path, name: str) -> None:
    """Write the pins of an adapter's environment."""
    source = ENVIRONMENTS / f"{name}.in"
    source.write_text("\n".join([f"{ROOT}[{name}]", *TOOLS]))
    compile = (installer, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--upgrade")
    target = HERE / "requirements" / f"{name}.txt"
    run(*compile, "--universal", "--python-version", "3.11", source, "-o", target, timeout=300)
    lines = [
        one for one in target.read_text().splitlines() if not one.startswith(("/", "delivery"))
    ]
    target.write_text("\n".join(["# Written by tests/adapters/run.py --lock.", *lines, ""]))


def main(arguments: list[str]) -> int:
    """Test or lock the adapters that are named, or all."""
    wanted = [one for one in arguments if one != "--lock"] or names()
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    installer = uv()
    if "--lock" in arguments:
        for name in wanted:
            lock(installer, name)
        return 0
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        print(f"no adapter {unknown[0]}; known: {', '.join(names())}")
        return 2
    status = 0
    with ThreadPoolExecutor(2) as pool:
        for name, (said, passed) in zip(
            wanted, pool.map(lambda one: test(installer, one), wanted), strict=True
        ):
            print(f"== {name}: {said}", flush=True)
            status |= not passed
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
