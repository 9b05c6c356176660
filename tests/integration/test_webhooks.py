"""Webhooks out, sent to a real HTTP server and judged by libraries that share no code with it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook, WebhookVerificationError

from delivery.cli import main
from delivery.cli.webhooks.listener import Listener, Received
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation
from delivery.domain.webhooks.endpoints import Endpoint, WebhookFormat
from delivery.ledger import SqlLedger, migrate
from delivery.pytest_plugin import delivery_empty_ledger, delivery_longest_wait, delivery_service
from delivery.pytest_plugin.service import DeliveryService
from delivery.tasks.attempts import TimeLimits
from delivery.tasks.webhooks import WebhookSender
from delivery.testing import MemoryLedger, make_entry, make_event, make_id
from delivery.transports.webhook import WebhookPoster
from tests.waiting import until_blocking

__all__ = ["delivery_empty_ledger", "delivery_longest_wait", "delivery_service"]

KEY, OLD_KEY = b"k" * 32, b"o" * 32


@dataclass
class Receiver:
    """An application's endpoint."""

    url: str
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            if self.path == "/slow":
                found.hold.wait(30)
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"x" * 200_000 if self.path == "/long" else b"")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield found
    found.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


def endpoint(url: str, name: str = "app", **changes: Any) -> Endpoint:
    values: dict[str, Any] = {"secret": KEY, "allow_private": True} | changes
    return Endpoint(name, url, **values)


def sender(ledger: SqlLedger, *endpoints: Endpoint, soft: float = 20.0) -> WebhookSender:
    return WebhookSender(
        ledger.webhooks,
        {one: WebhookPoster(one).post for one in endpoints},
        source="https://delivery.example.org",
        limits=TimeLimits(soft=soft),
        jitter=lambda: 0.0,
    )


def confirm_one(ledger: SqlLedger, number: int = 1) -> str:
    event = make_event(id=make_id(number), seq=number, event_class=EventClass.CRITICAL)
    ledger.recording.commit([make_entry(event)])
    ledger.confirmations.confirm([Confirmation(event.id, "u1", "websocket", "phone", "c1")])
    return event.id


def delivered(ledger: SqlLedger, name: str) -> int:
    return sum(row.state == "delivered" for row in ledger.webhooks.messages(name, limit=50))


@pytest.fixture
def ledger() -> Iterator[MemoryLedger]:
    found = MemoryLedger()
    yield found
    found.close()


def test_a_message_is_accepted_by_a_foreign_verifier(
    ledger: MemoryLedger, receiver: Receiver
) -> None:
    app = sender(ledger, endpoint(receiver.url + "/hooks?a=b"))
    app.run()
    event_id = confirm_one(ledger)
    assert app.run() == 1
    [(headers, body)] = receiver.got
    told = Webhook("whsec_" + base64.b64encode(KEY).decode()).verify(body, headers)
    assert set(told) == {"type", "timestamp", "data"}
    assert (told["type"], told["data"]["id"]) == ("event.confirmed", event_id)
    assert told["timestamp"] == told["data"]["confirmation"]["at"]
    assert headers["webhook-id"] == f"msg_{event_id}_1_confirmed"
    assert headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(KEY).decode()).verify(body + b" ", headers)
    assert app.run() == 0


def test_while_a_secret_is_changed_each_of_both_verifies(
    ledger: MemoryLedger, receiver: Receiver
) -> None:
    app = sender(ledger, endpoint(receiver.url, previous=OLD_KEY))
    app.run()
    confirm_one(ledger)
    app.run()
    [(headers, body)] = receiver.got
    for key in (KEY, OLD_KEY):
        assert Webhook(base64.b64encode(key).decode()).verify(body, headers)
    assert len(headers["webhook-signature"].split(" ")) == 2


def test_a_cloud_event_is_read_by_a_foreign_library(
    ledger: MemoryLedger, receiver: Receiver
) -> None:
    app = sender(ledger, endpoint(receiver.url, format=WebhookFormat.CLOUDEVENTS))
    app.run()
    event_id = confirm_one(ledger)
    app.run()
    [(headers, body)] = receiver.got
    assert Webhook(base64.b64encode(KEY).decode()).verify(body, headers)
    found = from_structured_event(HTTPMessage(headers, body), JSONFormat())
    assert found.get_type() == "event.confirmed"
    assert found.get_id() == headers["webhook-id"]
    assert found.get_source() == "https://delivery.example.org"
    assert found.get_subject() == event_id
    data: Any = found.get_data()
    assert data["user_id"] == "u1"


def test_a_refused_message_is_sent_again_with_the_same_id(
    ledger: MemoryLedger, receiver: Receiver
) -> None:
    app = sender(ledger, endpoint(receiver.url + "/long"))
    app.run()
    confirm_one(ledger)
    receiver.status = 500
    assert app.run() == 1
    assert app.run() == 0
    ledger.advance(5)
    receiver.status = 204
    assert app.run() == 1
    ids = {headers["webhook-id"] for headers, _ in receiver.got}
    assert len(ids) == 1
    [row] = ledger.webhooks.messages("app")
    assert [one.status for one in row.attempts] == [500, 204]
    assert "Internal Server Error: xxx" in (row.attempts[0].error or "")
    assert len(row.attempts[0].error or "") <= 500


def test_a_redirect_is_no_success_and_is_not_followed(
    ledger: MemoryLedger, receiver: Receiver
) -> None:
    app = sender(ledger, endpoint(receiver.url))
    app.run()
    confirm_one(ledger)
    receiver.status, receiver.headers = 307, {"Location": receiver.url + "/elsewhere"}
    assert app.run() == 1
    assert len(receiver.got) == 1
    [row] = ledger.webhooks.messages("app")
    assert (row.state, row.attempts[0].status) == ("pending", 307)


def test_a_pause_that_is_asked_for_is_kept(ledger: MemoryLedger, receiver: Receiver) -> None:
    app = sender(ledger, endpoint(receiver.url))
    app.run()
    confirm_one(ledger)
    receiver.status, receiver.headers = 503, {"Retry-After": "120"}
    app.run()
    ledger.advance(110)
    assert app.run() == 0
    ledger.advance(15)
    receiver.status = 200
    assert app.run() == 1


@pytest.mark.parametrize("url", ["https://inside.example.org/", "https://2130706433.example.org/"])
def test_a_private_address_gets_no_request(
    ledger: MemoryLedger, receiver: Receiver, url: str
) -> None:
    inside = endpoint(url, allow_private=False)
    post = WebhookPoster(inside, resolve=lambda host, timeout: ["8.8.8.8", "127.0.0.1"]).post
    answer = post("msg_1", b"{}", "application/json", 5.0)
    assert "not public" in (answer.error or "")
    # A name that leads elsewhere at the second look-up: the connect itself is refused.
    rebound = endpoint(receiver.url, allow_private=False)
    post = WebhookPoster(rebound, resolve=lambda host, timeout: ["8.8.8.8"]).post
    assert post("msg_1", b"{}", "application/json", 5.0).outcome == "failed"
    assert receiver.got == []


def test_an_endpoint_that_hangs_holds_up_no_other(ledger: MemoryLedger, receiver: Receiver) -> None:
    slow, quick = endpoint(receiver.url + "/slow", "slow"), endpoint(receiver.url, "quick")
    app = sender(ledger, slow, quick, soft=60.0)
    app.run()
    for number in range(1, 21):
        confirm_one(ledger, number)
    running = threading.Thread(target=app.run)
    running.start()
    try:
        until_blocking(lambda: delivered(ledger, "quick") == 20 or not running.is_alive(), 30)
        assert delivered(ledger, "quick") == 20
        waiting = ledger.webhooks.messages("slow", limit=50)
        assert sum(bool(row.attempts) for row in waiting) <= 8
    finally:
        receiver.hold.set()
        running.join(60)
    assert not running.is_alive()


def test_an_endpoint_that_is_gone_gets_nothing_more(
    ledger: MemoryLedger, receiver: Receiver
) -> None:
    app = sender(ledger, endpoint(receiver.url))
    app.run()
    confirm_one(ledger)
    receiver.status = 410
    app.run()
    confirm_one(ledger, 2)
    ledger.advance(3_600)
    assert app.run() == 0
    assert ledger.webhooks.off() == ["app"]


def test_an_endpoint_in_trouble_gets_one_message_at_a_time(
    ledger: MemoryLedger, receiver: Receiver
) -> None:
    app = sender(ledger, endpoint(receiver.url))
    app.run()
    for number in range(1, 31):
        confirm_one(ledger, number)
    receiver.status = 500
    assert app.run() == 8
    ledger.advance(29)
    assert app.run() == 0
    ledger.advance(2)
    assert app.run() == 1
    ledger.advance(31)
    receiver.status = 200
    app.run()
    ledger.advance(timedelta(hours=1).total_seconds())
    app.run()
    assert {row.state for row in ledger.webhooks.messages("app", limit=50)} == {"delivered"}
    assert json.loads(receiver.got[-1][1])["type"] == "event.confirmed"


@pytest.fixture
def delivery_settings(tmp_path: Path, receiver: Receiver) -> dict[str, Any]:
    path = tmp_path / "webhooks.toml"
    secret = base64.b64encode(KEY).decode()
    path.write_text(
        f'[webhook.app]\nurl = "{receiver.url}/app"\nsecret = "whsec_{secret}"\n'
        'allow_private = true\nevents = ["event.confirmed", "contact.unsubscribed"]\n'
    )
    return {"webhooks": path}


def test_an_application_is_told_that_its_user_has_an_event(
    delivery_service: DeliveryService, receiver: Receiver
) -> None:
    service = delivery_service
    with service.client("ada") as page:
        receipt = service.remote.emitter("ada", "r1").emit("note", {"text": "hello"})
        assert page.next(30.0).id == receipt.id
    until_blocking(lambda: len(receiver.got) == 1)
    [(headers, body)] = receiver.got
    told = Webhook(base64.b64encode(KEY).decode()).verify(body, headers)
    assert told["data"]["id"] == receipt.id
    assert told["data"]["confirmation"]["channel"] == "websocket"
    service.remote.contacts.put("ada", email="ada@example.org", opt_out=["email"])
    until_blocking(lambda: len(receiver.got) == 2)
    assert json.loads(receiver.got[1][1])["type"] == "contact.unsubscribed"
    # Each outcome is told once.
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == len(receiver.got)


class Shell:
    """``delivery webhooks ARGS`` of one installation."""

    def __init__(self, folder: Path, url: str) -> None:
        self.database = f"sqlite:///{folder / 'ledger.db'}"
        migrate.upgrade(self.database)
        file = folder / "webhooks.toml"
        secret = base64.b64encode(KEY).decode()
        file.write_text(
            f'[webhook.app]\nurl = "{url}"\nsecret = "{secret}"\nallow_private = true\n'
        )
        self.environment = {
            "DELIVERY_DATABASE_URL": self.database,
            "DELIVERY_DATA_DIR": str(folder / "data"),
            "DELIVERY_AUDIT_SECRET": "a key of tests that is long enough for the log",
            "DELIVERY_WEBHOOKS": str(file),
        }

    def run(self, *args: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["webhooks", *args], env=self.environment)
        assert done.exit_code == code, done.output
        return done.output


def test_operators_see_switch_and_replay_endpoints(tmp_path: Path, receiver: Receiver) -> None:
    shell = Shell(tmp_path, receiver.url)
    assert json.loads(shell.run("list", "--json"))["webhooks"][0]["state"] == "new"
    with closing(SqlLedger(shell.database)) as ledger:
        app = sender(ledger, endpoint(receiver.url))
        app.run()
        confirm_one(ledger)
        receiver.status = 410
        app.run()
        [listed] = json.loads(shell.run("list", "--json"))["webhooks"]
        assert (listed["state"], listed["waiting"]) == ("off", 1)
        assert "410" in shell.run("list")
        shown = json.loads(shell.run("show", "app", "--json"))
        assert shown["messages"][0]["attempts"][0]["status"] == 410
        assert make_id(1) in shell.run("show", "app").replace("\n", "")
        assert "replay app --since" in shell.run("enable", "app")
        receiver.status = 200
        assert app.run() == 1
        assert json.loads(shell.run("replay", "app", "--since", "1h", "--json"))["messages"] == 1
        assert app.run() == 1
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        shell.run("disable", "app")
        assert ledger.webhooks.off() == ["app"]
    assert "did you mean 'app'" in shell.run("show", "ap", code=2)
    assert "write 2026-12-01T08:00:00Z" in shell.run("replay", "app", "--since", "noon", code=2)
    assert "did you mean 'app'" in shell.run("enable", "apq", code=2)


def test_a_listener_shows_messages_and_refuses_wrong_signatures() -> None:
    shown: list[Received] = []
    listener = Listener("127.0.0.1", 0, [KEY], status=204, show=shown.append)
    serving = threading.Thread(target=listener.run)
    serving.start()
    try:
        url = f"http://127.0.0.1:{listener.port}"
        body = b'{"type":"event.dead","data":{}}'
        right = WebhookPoster(endpoint(url)).post("msg_1", body, "application/json", 15.0)
        wrong = WebhookPoster(endpoint(url, secret=OLD_KEY)).post("msg_2", body, "x/y", 15.0)
    finally:
        listener.stop()
        serving.join(30)
        listener.close()
    assert (right.status, wrong.status) == (204, 401)
    assert [(one.id, one.fault is None) for one in shown] == [("msg_1", True), ("msg_2", False)]
    assert shown[0].body["type"] == "event.dead"
