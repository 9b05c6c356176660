"""The OpenAPI document against a running gateway: every operation, with valid and invalid requests.

Schemathesis makes the requests and checks the answers: no 500, statuses, types and bodies as
documented, invalid requests refused and valid ones taken, methods and tokens checked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from delivery.tokens import make_token
from tests.processes import SECRET, running

EXAMPLES = 10
"""Requests of each kind and operation."""

# A schema cannot say that a zone exists, a host resolves, an event is recorded, that a letter is in
# Unicode's tables, that one instant is before another, that only a service must name the user, or
# which classes and times to live the policy file has.
CONFIG = """
[[operations]]
include-name = "POST /v1/events"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "PUT /v1/users/{id}/contacts"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "POST /v1/users/{id}/push"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "POST /v1/users/{id}/push/forget"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "GET /v1/push/key"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "POST /v1/replay"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "GET /v1/events"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "GET /v1/history"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "GET /v1/runs/{id}"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-name = "POST /v1/tokens/revoke"
checks.positive_data_acceptance.enabled = false

# Health, with its reasons, is 503 while this gateway does not accept.
[[operations]]
include-name = "GET /readyz"
checks.not_a_server_error.enabled = false
"""


@dataclass(frozen=True)
class Up:
    url: str
    log: Path


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("fuzzed")
    settings = {
        "DATA_DIR": str(home / "data"),
        "JWT_SECRET": SECRET,
        "RATE_BAD_TOKENS": "0",  # a check sends bad tokens to each operation, and expects 401
    }
    with running("up", "--json", "--port", "0", cwd=home, settings=settings) as process:
        yield Up(process.json_line(60)["url"], process.log)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scope", ["emit read operate", None])
def test_the_document_is_what_the_service_does(up: Up, tmp_path: Path, scope: str | None) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    token = make_token(SECRET, "service" if scope else "user-1", scope)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"{up.url}/openapi.json", "--header", f"Authorization: Bearer {token}"),
            # All checks are on; the configuration says where one is not.
            *("--phases", "examples,fuzzing", "--generation-deterministic"),
            *("--max-examples", str(EXAMPLES), "--request-timeout", "30", "--no-color"),
            # A stream has no end to check; the demonstration trims its prompt first.
            *("--exclude-path-regex", "stream$|/ws$|/demo/", "--continue-on-failure"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert "Traceback" not in up.log.read_text()
