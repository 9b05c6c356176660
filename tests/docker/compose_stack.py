"""docker-compose.yml in containers, driven by Compose itself.

Owns: the commands, and what Compose says about the containers. Where it runs from is a copy of the
checkout, `DELIVERY_STACK`, in which `.ci/docker` lets secrets be made and tests edit files.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.deployment.compose import own_services, services
from tests.server_process import wait_until

URL = "http://127.0.0.1:8080"
MAILS = "http://127.0.0.1:8025/api/v1"
UP_TIMEOUT = 300.0
RESTART_TIMEOUT = 120.0
EVENT = {"type": "agent_completed", "run_id": "run-1", "data": {"text": "done"}}


@dataclass
class Stack:
    """The running stack.

    Attributes:
        folder: where docker-compose.yml, config and secrets are.
    """

    folder: Path

    def compose(self, *args: str, timeout: float = 120.0) -> str:
        """Run `docker compose ARGS`; its output. Fails the test when it fails."""
        done = subprocess.run(
            ["docker", "compose", *args],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"docker compose {args}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def up(self, *args: str, timeout: float = RESTART_TIMEOUT) -> None:
        """`docker compose up --wait`: returns when what it starts is healthy."""
        wait = ["--no-build", "--detach", "--wait", "--wait-timeout", str(int(timeout))]
        self.compose("up", *wait, *args, timeout=timeout + 60.0)

    def containers(self, *names: str) -> list[dict[str, Any]]:
        """What Compose shows of every container, ended ones too."""
        lines = self.compose("ps", "--all", "--format", "json", *names).splitlines()
        return [json.loads(line) for line in lines if line]

    def unhealthy(self) -> dict[str, str]:
        """Every container that is not as it should be, and how it is."""
        return {
            one["Name"]: one["Status"]
            for one in self.containers()
            if one["Health"] != "healthy"
            and not (one["Service"] == "migrate" and one["Status"].startswith("Exited (0)"))
        }

    def health(self, service: str) -> set[str]:
        """What the checks of a service's containers say."""
        return {one["Health"] for one in self.containers(service)}

    def until_healthy(self, service: str, wanted: str = "healthy", timeout: float = 90.0) -> None:
        """Wait for a verdict of the checks."""
        what = f"{service} is {wanted}"
        wait_until(lambda: self.health(service) == {wanted}, what, timeout)

    def seconds_to_health(self, service: str) -> float:
        """From the start of a service's container to its first passed check."""
        (container,) = self.containers(service)
        (found,) = json.loads(
            subprocess.run(
                ["docker", "inspect", container["ID"]], capture_output=True, text=True, check=True
            ).stdout
        )
        passed = [one for one in found["State"]["Health"]["Log"] if one["ExitCode"] == 0]
        return (_instant(passed[0]["End"]) - _instant(found["State"]["StartedAt"])).total_seconds()

    def delivery(self, *args: str) -> str:
        """Run our command in a gateway's container."""
        return self.compose("exec", "-T", "gateway-1", "delivery", *args)

    def token(self, *args: str) -> str:
        """A token that the stack's secret signs."""
        return self.delivery("token", *args).strip()

    def validate(
        self, client_token: str, service_token: str, *more: str
    ) -> subprocess.CompletedProcess[str]:
        """`delivery validate` from outside, through nginx."""
        env = {**os.environ, "DELIVERY_URL": URL, "DELIVERY_TOKEN": service_token}
        return subprocess.run(
            [sys.executable, "-m", "delivery", "validate", "--client-token", client_token, *more],
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def log_lines(self) -> dict[str, list[str]]:
        """Everything that the containers of our image wrote, by service.

        Asked of the engine: Compose itself writes escapes for a terminal between the lines.
        """
        found: dict[str, list[str]] = {name: [] for name in own_services()}
        for one in self.containers(*found):
            said = subprocess.run(
                ["docker", "logs", one["ID"]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=True,
            )
            found[one["Service"]] += said.stdout.splitlines()
        return found

    def report(self) -> str:
        """For a start that failed: how everything is, and the last lines of what is not well."""
        found = self.unhealthy()
        tails = [
            self.compose("logs", "--tail", "30", service)
            for service in services()
            if any(re.search(rf"-{service}-\d+$", name) for name in found)
        ]
        return "\n".join([str(found), *tails])


class Api:
    """The public interface, as a service sees it."""

    def __init__(self, token: str) -> None:
        self.http = httpx.Client(
            base_url=URL, headers={"Authorization": f"Bearer {token}"}, timeout=10.0
        )

    def emit(self, user_id: str, **fields: Any) -> str:
        """Emit one critical event; its id."""
        answer = self.http.post("/v1/events", json=EVENT | {"user_id": user_id} | fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["accepted"][0]["id"])

    def state(self, event_id: str) -> str:
        """The event's state."""
        return str(self.http.get(f"/v1/events/{event_id}").json().get("state"))

    def node(self) -> str:
        """The gateway that answered."""
        return str(self.http.get("/healthz").json()["node"])


def mail_to(address: str) -> str | None:
    """The text of the newest mail to an address."""
    for one in httpx.get(f"{MAILS}/messages", timeout=10.0).json()["messages"]:
        if address in {to["Address"] for to in one["To"]}:
            return str(httpx.get(f"{MAILS}/message/{one['ID']}", timeout=10.0).json()["Text"])
    return None


def _instant(text: str) -> datetime:
    """Go writes nanoseconds, and some engines a local offset."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text.replace("Z", "+00:00")))
