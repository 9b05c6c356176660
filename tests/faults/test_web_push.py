"""Push messages to browsers, against a push service that checks what a real one checks.

It verifies VAPID with PyJWT and decrypts with ``http_ece``; the chain and its ledger are real.
"""

from __future__ import annotations

import base64
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import http_ece
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from delivery.domain.messages.brand import Brand
from delivery.domain.users.contact import Contact
from delivery.domain.users.web_push import MAX_SUBSCRIPTIONS, WebPush
from delivery.ledger import SqlLedger
from delivery.testing import make_entry
from delivery.transports.push import PushTransport
from delivery.transports.rendering.render import Notice, Renderer
from delivery.transports.web_push import MAX_PAYLOAD, Vapid, WebPusher, payload_of
from delivery.vapid import new_private_key, public_key
from tests.faults.chain import Advance, Chain, opened, policies_of
from tests.unit.tasks.fakes import make_event
from tests.web_server import Reply, Request, WebServer, web_server

KEY = new_private_key()
SUBJECT = "mailto:ops@example.org"
APP = "https://app.example.org"


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def raw(found: str) -> bytes:
    return base64.urlsafe_b64decode(found + "=" * (-len(found) % 4))


@dataclass
class Browser:
    """A browser's side of a subscription: its keys, and the messages it was given."""

    port: int
    name: str
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    auth: bytes = b"0123456789abcdef"
    seen: list[dict[str, Any]] = field(default_factory=list)

    def subscription(self, device: str = "") -> WebPush:
        point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        endpoint = f"http://127.0.0.1:{self.port}/{self.name}"
        return WebPush(endpoint, text(point), text(self.auth), device)

    def take(self, request: Request) -> None:
        """Check a request as RFC 8030, 8188 and 8292 ask, and read it."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["content-encoding"] == "aes128gcm"
        assert int(headers["ttl"]) > 0
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,32}", headers["topic"])
        assert len(request.body) <= 4_096
        scheme, _, values = headers["authorization"].partition(" ")
        assert scheme == "vapid"
        given = dict(part.strip().split("=", 1) for part in values.split(","))
        assert given["k"].rstrip("=") == public_key(KEY)
        signer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw(given["k"]))
        audience = f"http://127.0.0.1:{self.port}"
        claims = jwt.decode(given["t"], signer, algorithms=["ES256"], audience=audience)
        assert claims["sub"] == SUBJECT
        assert time.time() < claims["exp"] <= time.time() + 86_400
        plain = http_ece.decrypt(
            request.body, private_key=self.key, auth_secret=self.auth, version="aes128gcm"
        )
        self.seen.append(msgspec.json.decode(plain))


@pytest.fixture
def ledger(sqlite_template: Path, tmp_path: Path) -> Iterator[SqlLedger]:
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    with opened(f"sqlite:///{tmp_path / 'ledger.db'}") as made:
        yield made


@pytest.fixture
def service() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


def chain_of(ledger: SqlLedger, advance: Advance, **options: Any) -> Chain:
    renderer = Renderer(brand=Brand(app_url=APP, origins=frozenset([APP])))
    web = WebPusher(Vapid(KEY, SUBJECT), **{"allow_private": True} | options)
    channel = PushTransport(renderer, known=ledger.push_targets, web=web)
    step = {"channel": "emergency", "attempts": 2}
    return Chain(ledger, policies_of(step), advance, {channel.name: channel})


def test_a_push_service_gets_a_message_that_only_the_browser_can_read(
    ledger: SqlLedger, advance: Advance, service: WebServer
) -> None:
    phone = Browser(service.port, "phone")

    def answer(request: Request) -> Reply:
        phone.take(request)
        return Reply(201)

    service.answer = answer
    chain = chain_of(ledger, advance)
    ledger.contacts.add_web_push("ada", phone.subscription(), actor="ada")
    data = {"title": "Order 7 is late", "summary": "Two days.", "url": f"{APP}/orders/7"}
    event = make_event("ada", "run").evolve(data=data)
    ledger.recording.commit([make_entry(event, hand_over=True, ttl=3_600.0)])
    ids = [event.id]
    chain.play(ids)
    assert chain.tries(ids[0]) == [("emergency", "delivered")]
    assert phone.seen == [data | {"id": ids[0]}]


@pytest.mark.parametrize("status", [404, 410])
def test_a_browser_that_is_gone_is_forgotten_at_once_and_others_get_the_message(
    ledger: SqlLedger, advance: Advance, service: WebServer, status: int
) -> None:
    service.answer = lambda request: Reply(status if "gone" in request.path else 201)
    chain = chain_of(ledger, advance)
    for name in ("gone", "phone"):
        ledger.contacts.add_web_push("ada", Browser(service.port, name).subscription())
    ids = chain.hand_over("ada")
    chain.play(ids)
    assert chain.tries(ids[0]) == [("emergency", "delivered")]
    contact = ledger.contacts.get("ada")
    assert contact is not None
    assert [one.endpoint.rpartition("/")[2] for one in contact.web_push] == ["phone"]


@pytest.mark.parametrize(
    ("status", "tries"),
    [
        (429, [("emergency", "failed"), ("emergency", "delivered")]),
        (503, [("emergency", "failed"), ("emergency", "delivered")]),
        (400, [("emergency", "failed")]),
    ],
)
def test_what_may_be_taken_later_is_sent_again(
    ledger: SqlLedger,
    advance: Advance,
    service: WebServer,
    status: int,
    tries: list[tuple[str, str]],
) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Reply:
        asked.append(request.path)
        return Reply(status if len(asked) == 1 else 201)

    service.answer = answer
    chain = chain_of(ledger, advance)
    ledger.contacts.add_web_push("ada", Browser(service.port, "phone").subscription())
    ids = chain.hand_over("ada")
    chain.play(ids)
    advance(120.0)
    chain.play(ids)
    assert chain.tries(ids[0]) == tries
    assert ledger.contacts.get("ada").web_push, "kept"  # type: ignore[union-attr]


def test_a_private_address_is_never_connected_to(
    ledger: SqlLedger, advance: Advance, service: WebServer
) -> None:
    asked: list[str] = []
    service.answer = lambda request: asked.append(request.path) or Reply(201)  # type: ignore[func-returns-value]
    web = WebPusher(Vapid(KEY, SUBJECT))
    found = Browser(service.port, "phone").subscription()
    for scheme in ("http", "https"):
        inside = WebPush(found.endpoint.replace("http", scheme, 1), found.p256dh, found.auth)
        [answer] = web.send([inside], b"{}", "topic", 10.0)
        assert answer.error is not None
    assert asked == []


def test_a_user_has_so_many_browsers_and_a_device_one_subscription(ledger: SqlLedger) -> None:
    for number in range(MAX_SUBSCRIPTIONS + 2):
        one = Browser(1, f"n{number}").subscription("phone" if number > MAX_SUBSCRIPTIONS else "")
        kept = ledger.contacts.add_web_push("ada", one).web_push
    assert len(kept) == MAX_SUBSCRIPTIONS
    again = Browser(1, "new").subscription("phone")
    kept = ledger.contacts.add_web_push("ada", again).web_push
    assert [one.endpoint for one in kept if one.device == "phone"] == [again.endpoint]
    ledger.contacts.put(Contact("ada", email="ada@example.org"))
    found = ledger.contacts.get("ada")
    assert found is not None
    assert found.web_push == kept, "a PUT of the contact leaves them alone"
    ledger.erasure.erase_rest("ada", events=0)
    assert ledger.contacts.get("ada") is None


@pytest.mark.parametrize("mark", ["x", "ü", "日", "😀", '"', "\n"])
def test_a_payload_is_never_longer_than_services_take(mark: str) -> None:
    notice = Notice(mark * 500, mark * 9_000, url=f"{APP}/{'u' * 2_000}")
    encoded = payload_of(notice, "0" * 36)
    assert len(encoded) <= MAX_PAYLOAD
    assert msgspec.json.decode(encoded)["url"] == notice.url
