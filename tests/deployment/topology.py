"""docker-compose.yml as plain processes: the same commands, configuration files and secrets.

Owns: where each service of the file is on this machine (`Topology.addresses`), and nothing else
about them: what runs and with which settings is read from the file. Different from the containers:
ports, folders, loopback for every address, and a policy with short times.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from sqlalchemy import make_url

from delivery.bench.faults.servers import postgres_folder
from tests import servers
from tests.deployment.compose import ROOT, SECRETS, Service, granted_secrets, services
from tests.policies import quick_policies
from tests.processes import Process, environment
from tests.server_process import Server, wait_until

INSTALL = "apt-get install --no-install-recommends nginx-light"
PORTS = (
    "gateway-1:8080",
    "gateway-2:8080",
    "green:8080",
    "redis-broker:6379",
    "redis-queue:6379",
    "flower:5555",
    "localhost:8080",
    "alertmanager:9093",
)
GATEWAYS = ("gateway-1", "gateway-2")
PATIENT = """
[class.patient]
types = ["patient"]
ack_timeout = 600
[[class.patient.chain]]
channel = "database"
"""
"""Events that come over the bus, or with the next connection, or not within any test."""
BEHIND = 90.0  # seconds in which a process must be up on two busy cores


class Topology:
    """The running services; `start` makes them all but nginx."""

    def __init__(self, folder: Path, stack: ExitStack, *, postgres: str, smtp_port: int) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self._stack = stack
        admin = make_url(postgres)
        self.addresses = {name: f"127.0.0.1:{servers.free_port()}" for name in PORTS}
        self.addresses |= {
            "postgres:5432": f"{admin.host}:{admin.port}",
            **{f"{_front(name)}:8080": self.addresses[f"{name}:8080"] for name in GATEWAYS},
            "mailpit:1025": f"127.0.0.1:{smtp_port}",
            _front("nginx"): "127.0.0.1",
            "0.0.0.0": "127.0.0.1",
        }
        script = str(ROOT / "config/make_secrets.py")
        subprocess.run([sys.executable, script, str(folder / "made")], check=True, timeout=30)
        (folder / "policies.toml").write_text(quick_policies(alert_after=600.0) + PATIENT)
        self._make_database(admin.render_as_string(hide_password=False))

    def url(self, name: str) -> str:
        """The base URL of a service, such as ``gateway-1:8080``; nginx is ``localhost:8080``."""
        return f"http://{self.addresses[name]}"

    def secret(self, name: str) -> str:
        """What the script made."""
        return (self.folder / "made" / name).read_text().strip()

    def here(self, text: str) -> str:
        """A text of the Compose world in the words of this machine."""
        for name, address in self.addresses.items():
            text = text.replace(name, address)
        return text

    def start(self) -> None:
        """Start Redis twice, migrate, then everything else that runs our image."""
        for name in ("redis-broker", "redis-queue"):
            self._start_redis(name)
        assert self.start_service("migrate").process.wait(60) == 0
        for name, service in services().items():
            if service["image"] == "delivery:local" and name != "migrate":
                self.start_service(name)
        for name in ("gateway-1", "gateway-2"):
            self.until_ready(name, f"{self.url(name + ':8080')}/readyz")
        self.until_ready("flower", f"{self.url('flower:5555')}/healthz")

    def start_service(self, name: str) -> Process:
        """Run one of our services' command with its settings."""
        arguments = [self.argument(name, text) for text in services()[name]["command"]]
        command = [sys.executable, "-m", "delivery", *arguments]
        return self._run(name, command, self.settings(name))

    def start_beside(self, name: str, service: str, build: Path, **settings: str) -> Process:
        """Run a service's command once more, from another build of the package.

        Args:
            settings: those in which it differs from the service.
        """
        arguments = [self.argument(name, text) for text in services()[service]["command"]]
        own = {"PULSE_FILE": str(self.folder / f"{name}.pulse"), **settings}
        if f"{name}:8080" in self.addresses:
            own["PORT"] = self.addresses[f"{name}:8080"].rpartition(":")[2]
        command = ["env", f"PYTHONPATH={build}", sys.executable, "-m", "delivery", *arguments]
        return self._run(name, command, self.settings(service) | own)

    def switch(self, *gateways: str) -> None:
        """Have nginx send new connections and requests to these gateways alone."""
        addresses = [self.addresses[f"{name}:8080"] for name in gateways]
        servers = [f"server {one} max_fails=1 fail_timeout=2s;" for one in addresses]
        servers += [f"server {one} backup max_fails=0;" for one in addresses]
        lines = "".join(f"    {one}\n" for one in servers)
        path = self.folder / "nginx.conf"
        text = re.sub(r"^ +server \S+:\d+ .*\n", "", path.read_text(), flags=re.MULTILINE)
        text, count = re.subn(r"(?<=\n)( +least_conn;.*\n)", r"\1" + lines, text)
        assert count == 1, text
        path.write_text(text)
        self.processes["nginx"].process.send_signal(signal.SIGHUP)

    def start_gateway(self, name: str) -> None:
        """Start a gateway that was stopped, and wait until it answers."""
        self.start_service(name)
        self.until_ready(name, f"{self.url(name + ':8080')}/readyz")

    def argument(self, name: str, text: str) -> str:
        """One word of a command; a bare port is the service's own."""
        address = self.addresses.get(f"{name}:{text}")
        return address.rpartition(":")[2] if address else self.here(text)

    def settings(self, name: str) -> dict[str, str]:
        """A service's environment, its secrets under a folder of its own."""
        service = services()[name]
        folder = str(self._secrets_of(name, service)) + "/"
        given = {
            variable.removeprefix("DELIVERY_"): self.here(value.replace(SECRETS, folder))
            for variable, value in service["environment"].items()
        }
        port = self.addresses.get(f"{name}:8080", ":8080").rpartition(":")[2]
        return given | {
            "HOST": "127.0.0.1",
            "PORT": port,
            "DATA_DIR": str(self.folder / "spool"),
            "LOG_FORMAT": "json",
            "PULSE_FILE": str(self.folder / f"{name}.pulse"),
            "METRICS_PORT": str(servers.free_port()),  # one machine, not one for each container
            "POLICIES": str(self.folder / "policies.toml"),
        }

    def start_nginx(self) -> Path:
        """Run nginx on config/nginx.conf; the path of its access log.

        Effect: without nginx, CI fails and a developer's machine skips.
        """
        binary = require_nginx()
        log = self.folder / "nginx-access.log"
        text = self.here((ROOT / "config/nginx.conf").read_text())
        text = text.replace("listen 8080 ", f"listen {self.addresses['localhost:8080']} ")
        text = text.replace(" /tmp/", f" {self.folder}/").replace("/dev/stdout", str(log))
        (self.folder / "nginx.conf").write_text(text)
        _, option, directives = services()["nginx"]["entrypoint"]
        if os.geteuid() == 0:
            directives += " user root;"  # the workers' folder is the test's
        place = ["-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-e", "stderr"]
        self._run("nginx", [binary, *place, option, directives], {})
        self.until_ready("nginx", f"{self.url('localhost:8080')}/healthz")
        return log

    def check_health(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a service's health check as Compose would."""
        kind, *command = services()[name]["healthcheck"]["test"]
        address = self.addresses.get(f"{name}:5555", "").replace(":", "/")
        words = [word.replace("127.0.0.1/5555", address).replace("$$", "$") for word in command]
        if kind == "CMD-SHELL":
            words = ["sh", "-c", words[0]]
        own = environment(self.settings(name))
        own["PATH"] = f"{Path(sys.executable).parent}:{own['PATH']}"
        return subprocess.run(
            words, env=own, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def until_ready(self, name: str, url: str) -> None:
        """Wait until a URL answers 200."""
        process = self.processes[name]

        def answers() -> bool:
            assert process.process.poll() is None, f"{name} ended:\n{process.tail()}"
            try:
                return httpx.get(url, timeout=5.0).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, f"{name} answers at {url}", BEHIND)

    def _run(self, name: str, command: list[str], settings: dict[str, str]) -> Process:
        process = Process(command, self.folder, settings, name)
        self._stack.callback(process.kill)
        self.processes[name] = process
        return process

    def _secrets_of(self, name: str, service: Service) -> Path:
        folder = self.folder / "secrets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for target, source in granted_secrets(service).items():
            (folder / target).write_text(self.here(self.secret(source)) + "\n")
        return folder

    def _start_redis(self, name: str) -> None:
        service = services()[name]
        folder = self.folder / name
        folder.mkdir()
        mounted = ROOT / "config/redis.conf"
        secrets = str(self._secrets_of(name, service)) + "/"
        (folder / "redis.conf").write_text(mounted.read_text().replace(SECRETS, secrets))
        port = int(self.addresses[f"{name}:6379"].rpartition(":")[2])
        program, config = service["command"]
        assert (program, config) == ("redis-server", "/etc/redis.conf")
        password = (folder / secrets / "redis_auth").read_text().split()[1]
        server = Server(
            url=f"redis://127.0.0.1:{port}/0",
            version=servers.redis_version(),
            command=[
                str(servers.redis_binary()),
                str(folder / "redis.conf"),
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(folder),
            ],
            folder=folder,
            probe=_pings(port, password),
        )
        self._stack.callback(server.shut_down)
        server.start()

    def _make_database(self, admin: str) -> None:
        """What the image of PostgreSQL makes: the database, and the roles by its script."""
        name = services()["postgres"]["environment"]["POSTGRES_DB"]
        assert re.fullmatch(r"[a-z]+", name)
        dsn = admin.replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = make_url(admin)
        server = {"PGHOST": str(url.host), "PGPORT": str(url.port)}
        if url.password:
            server["PGPASSWORD"] = str(url.password)
        env = dict(os.environ) | server | {"PATH": f"{postgres_folder()}:{os.environ['PATH']}"}
        env |= {"SECRETS": str(self.folder / "made")}
        env |= {"POSTGRES_USER": str(url.username), "POSTGRES_DB": name}
        script = ["bash", str(ROOT / "config/postgres-roles.sh")]
        for _ in range(2):  # it may be run again, on a database of before
            subprocess.run(script, env=env, check=True, timeout=60)


def _front(name: str) -> str:
    """A service's address before nginx."""
    address: str = services()[name]["networks"]["front"]["ipv4_address"]
    return address


def _pings(port: int, password: str) -> Callable[[], object]:
    def ping() -> None:
        with redis.Redis(port=port, password=password, socket_timeout=2, retry=None) as client:
            client.ping()

    return ping


def require_nginx() -> str:
    """The program; without one CI fails and a developer's machine skips."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
    binary = shutil.which("nginx", path=places)
    if binary is None:
        missing = f"nginx is not installed: {INSTALL}"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return binary
