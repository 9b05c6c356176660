"""A gateway's process loads what gateways use, and no worker's parts."""

from __future__ import annotations

import subprocess
import sys

WORKERS = {
    "delivery.bootstrap.chain",
    "delivery.bootstrap.embedded",
    "delivery.bootstrap.transports",
    "delivery.checks",
    "delivery.outbox",
    "delivery.tasks.executor",
    "delivery.testing",
    "delivery.transports.alert",
    "delivery.transports.checkpoints",
    "delivery.transports.http",
    "delivery.transports.rendering",
    "delivery.transports.sms",
    "httpx",
    "jinja2",
    "markdown_it",
}


def test_a_gateway_loads_no_part_of_a_worker() -> None:
    listing = "import sys, delivery.bootstrap.gateway; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True, timeout=60
    )
    assert WORKERS & set(done.stdout.split()) == set()
