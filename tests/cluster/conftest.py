"""A cluster made of commands: gateways, a worker and beat as processes of their own, on PostgreSQL
and Redis, with receivers of mail, texts and alerts beside it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import httpx
import jwt
import pytest

from delivery.domain.event import AGENT_TYPES
from tests import servers
from tests.policies import quick_policies
from tests.processes import SECRET, Process, run_command, running
from tests.smtp_servers import Behaviour, smtp_server
from tests.web_server import Reply, WebServer, web_server

SMS_ACCOUNT, SMS_TOKEN = "AC" + "1" * 32, "only-for-tests-sms"


class Gateway:
    """One gateway process with a port of its own, which it keeps over restarts."""

    def __init__(self, cluster: Cluster, name: str, args: Sequence[str] = ()) -> None:
        self._cluster = cluster
        self._name = name
        self._args = args
        self.port = servers.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings: dict[str, str] = {"NODE": name}
        self.process: Process | None = None

    def begin(self) -> Gateway:
        """Start it; ``ready`` waits until it listens."""
        args = ("gateway", "--json", "--port", str(self.port), *self._args)
        self.process = self._cluster.run(*args, name=self._name, **self.settings)
        return self

    def ready(self) -> Gateway:
        """Wait until it listens."""
        self.running.json_line()
        return self

    @property
    def running(self) -> Process:
        """Its process."""
        assert self.process is not None, f"{self._name} has not begun"
        return self.process


class Cluster:
    """What runs, and the questions that tests ask it."""

    def __init__(self, folder: Path, settings: dict[str, str], stack: ExitStack) -> None:
        self.folder = folder
        self.settings = settings
        self.stack = stack
        self.gateways: list[Gateway] = []
        self.mails: Behaviour = Behaviour()
        self.texts: WebServer
        self.alarms: WebServer
        self._clients: dict[str, httpx.Client] = {}

    def run(self, *args: str, name: str, **settings: str) -> Process:
        """One more process."""
        return self.stack.enter_context(
            running(*args, cwd=self.folder, settings=self.settings | settings, name=name)
        )

    @contextmanager
    def extra(self, name: str, *args: str, **settings: str) -> Iterator[Gateway]:
        """One more gateway, for a while."""
        gateway = Gateway(self, name, args)
        gateway.settings |= settings
        try:
            yield gateway.begin().ready()
        finally:
            gateway.running.kill()

    def token(self, user_id: str, **claims: Any) -> str:
        """A client's token, or with ``scope`` a service's."""
        return jwt.encode(
            {"sub": user_id, "exp": 4_000_000_000} | claims, SECRET, algorithm="HS256"
        )

    @property
    def service_token(self) -> str:
        """One that may do everything."""
        return self.token("service", scope="emit read operate")

    def http(self, gateway: int = 0) -> httpx.Client:
        """A service's connection to one gateway."""
        url = self.gateways[gateway].url
        if url not in self._clients:
            self._clients[url] = httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {self.service_token}"},
                timeout=30.0,
            )
            self.stack.callback(self._clients[url].close)
        return self._clients[url]

    def emit(
        self,
        user_id: str,
        run_id: str = "run",
        types: Sequence[str] = AGENT_TYPES,
        *,
        gateway: int = 0,
    ) -> list[str]:
        """Post events in one request; their ids."""
        events = [
            {"type": type, "user_id": user_id, "run_id": run_id, "data": {"step": step}}
            for step, type in enumerate(types)
        ]
        answer = self.http(gateway).post("/v1/events", json={"events": events})
        assert answer.status_code == 202, answer.text
        assert answer.json()["rejected"] == []
        return [one["id"] for one in answer.json()["accepted"]]

    def event(self, event_id: str) -> dict[str, Any]:
        """An event with everything that happened to it."""
        answer = self.http().get(f"/v1/events/{event_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def states(self, ids: Sequence[str]) -> list[str]:
        """Where each event stands."""
        return [self.event(event_id)["state"] for event_id in ids]

    def outcomes(self, event_id: str) -> list[tuple[str, str]]:
        """Channel and outcome of each attempt, oldest first."""
        return [(a["channel"], a["outcome"]) for a in self.event(event_id)["attempts"]]

    def contact(self, user_id: str, **fields: Any) -> None:
        """Store how a user is reached."""
        answer = self.http().put(f"/v1/users/{user_id}/contacts", json=fields)
        assert answer.status_code == 200, answer.text

    def mails_to(self, address: str) -> list[str]:
        """The plain text of each mail that the SMTP server took for one address."""
        taken = [mail for mail in self.mails.messages if address in mail.rcpt_tos]
        found = []
        for mail in taken:
            raw = mail.content if isinstance(mail.content, bytes) else str(mail.content).encode()
            body = message_from_bytes(raw, policy=default).get_body(("plain",))
            found.append("" if body is None else str(body.get_content()))
        return found

    def texts_to(self, number: str) -> list[dict[str, str]]:
        """The fields of the texts that the SMS provider took for one number."""
        taken = [dict(parse_qsl(request.body.decode())) for request in self.texts.requests]
        return [fields for fields in taken if fields["To"] == number]

    def alerts(self, name: str = "DeliveryUndelivered") -> list[dict[str, Any]]:
        """What Alertmanager was told under one name, post by post."""
        posts = [r for r in self.alarms.requests if r.path.endswith("/api/v2/alerts")]
        told = [alert for post in posts for alert in json.loads(post.body)]
        return [alert for alert in told if alert["labels"]["alertname"] == name]


def report_text(url: str, sid: str, status: str, *, token: str = SMS_TOKEN) -> httpx.Response:
    """What the SMS provider posts: signed with HMAC-SHA1 over URL and sorted fields.
    Source: twilio.com/docs/usage/security."""
    fields = {"MessageSid": sid, "MessageStatus": status, "AccountSid": SMS_ACCOUNT}
    text = url + "".join(name + fields[name] for name in sorted(fields))
    digest = hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()
    return httpx.post(
        url,
        content=urlencode(fields),
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Twilio-Signature": base64.b64encode(digest).decode(),
        },
    )


@contextmanager
def making(
    folder: Path,
    postgres: servers.Server,
    redis: servers.Server,
    *,
    ack_timeout: float = 1.0,
    alert_after: float = 6.0,
    **settings: str,
) -> Iterator[Cluster]:
    """A cluster's settings, with its tables made and its receivers up, but no process yet."""
    (folder / "policies.toml").write_text(
        quick_policies(ack_timeout=ack_timeout, alert_after=alert_after, sms_after=0.5)
    )
    with ExitStack() as stack:
        cluster = Cluster(folder, {}, stack)
        mail = stack.enter_context(smtp_server(cluster.mails))
        cluster.texts = stack.enter_context(web_server())
        cluster.texts.answer = _taken
        cluster.alarms = stack.enter_context(web_server())
        cluster.settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "JWT_SECRET": SECRET,
            "POLICIES": str(folder / "policies.toml"),
            "DATA_DIR": str(folder / "data"),
            "SMTP_URL": f"smtp://127.0.0.1:{mail.port}?tls=none",
            "MAIL_FROM": "delivery@example.org",
            "SMS_URL": cluster.texts.url,
            "SMS_ACCOUNT": SMS_ACCOUNT,
            "SMS_TOKEN": SMS_TOKEN,
            "SMS_FROM": "+15005550006",
            "ALERTMANAGER_URL": cluster.alarms.url,
            **settings,
        }
        migrated = run_command("migrate", cwd=folder, settings=cluster.settings)
        assert migrated.returncode == 0, migrated.stderr
        yield cluster


def start(cluster: Cluster, *, gateways: int = 2, workers: bool = True) -> Cluster:
    """Start everything at once: the processes come up side by side."""
    made = [Gateway(cluster, f"gateway-{number}") for number in range(gateways)]
    cluster.gateways += made
    # Links and callbacks point to whatever stands before the gateways.
    cluster.settings["PUBLIC_URL"] = made[-1].url
    for gateway in made:
        gateway.begin()
    if workers:
        cluster.run("worker", "--concurrency", "4", name="worker")
        cluster.run("beat", name="beat")
    for gateway in made:
        gateway.ready()
    return cluster


def _taken(request: Any) -> Reply:
    number = parse_qs(request.body.decode())["To"][0]
    sid = "SM" + hashlib.md5(number.encode(), usedforsecurity=False).hexdigest()
    return Reply(201, json.dumps({"sid": sid, "status": "queued"}).encode())


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[servers.Server]:
    """The cluster's PostgreSQL, which tests may freeze and kill and must restore."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def own_redis() -> Iterator[servers.Server]:
    """The cluster's Redis, which tests may freeze and kill and must restore."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    own_postgres: servers.Server,
    own_redis: servers.Server,
) -> Iterator[Cluster]:
    """Two gateways, a worker and beat; one cluster for all tests, each with users of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with making(folder, own_postgres, own_redis) as made:
        yield start(made)
