"""Minifies the browser client; ``make client`` runs it.

The gateway serves the result, which is in the repository: an installation needs no Node.js.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[2] / "delivery" / "web" / "client"
SOURCE = CLIENT / "client.js"
MINIFIED = CLIENT / "client.min.js"
TERSER = Path(__file__).with_name("node_modules") / ".bin" / "terser"
OPTIONS = ("--module", "--ecma", "2022", "--compress", "passes=3,unsafe_arrows=true", "--mangle")


def header() -> str:
    """The first line of the minified file: a test compares it with the source."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    version = json.loads((CLIENT / "package.json").read_text())["version"]
    return f"/*! delivery-ledger-client {version}, Apache-2.0, from client.js {digest} */\n"


def main() -> None:
    """Write the minified file."""
    done = subprocess.run(
        [TERSER, SOURCE, *OPTIONS], check=True, capture_output=True, text=True, timeout=60
    )
    MINIFIED.write_text(header() + done.stdout.strip() + "\n")


if __name__ == "__main__":
    main()
