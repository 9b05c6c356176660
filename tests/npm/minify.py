"""Minifies the files that a gateway serves to pages of others; ``make client`` runs it.

The results are in the repository: an installation needs no Node.js.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[2] / "delivery" / "web" / "client"
TERSER = Path(__file__).with_name("node_modules") / ".bin" / "terser"
MODULE = ("--module", "--compress", "passes=3,unsafe_arrows=true")
OPTIONS: dict[str, tuple[str, ...]] = {
    "client": MODULE,
    "inbox": MODULE,
    "push": MODULE,
    # Loaded by `importScripts` beside an application's own worker: its names stay as they are.
    "push-worker": ("--compress", "passes=3"),
}
"""Name of a file without its ending -> how it is minified."""


def header(name: str) -> str:
    """The first line of a minified file: a test compares it with the source."""
    digest = hashlib.sha256((CLIENT / f"{name}.js").read_bytes()).hexdigest()[:16]
    version = json.loads((CLIENT / "package.json").read_text())["version"]
    return f"/*! delivery-ledger-client {version}, Apache-2.0, from {name}.js {digest} */\n"


def main() -> None:
    """Write the minified files."""
    for name, options in OPTIONS.items():
        command = [TERSER, CLIENT / f"{name}.js", "--ecma", "2022", *options, "--mangle"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        (CLIENT / f"{name}.min.js").write_text(header(name) + done.stdout.strip() + "\n")


if __name__ == "__main__":
    main()
