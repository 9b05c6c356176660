"""Contacts, callbacks, link pages, figures and files over a real server."""

import email.policy
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict
from standardwebhooks.webhooks import Webhook

from delivery.api import routes
from delivery.api.openapi.document import document
from delivery.api.problems import CONTENT_TYPE, KINDS
from delivery.api.requests import client_address, is_https
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import State
from delivery.domain.policy import parse_policies
from delivery.domain.transports import SinkMessage
from delivery.domain.users.contact import Contact
from delivery.errors import ConfigError
from delivery.ledger.sql.memory import OUTAGE
from delivery.testing import make_id
from delivery.transports.receipts.signatures import twilio_signature
from tests.integration.http_api_standins import (
    BRAND,
    CLIENT,
    EMIT,
    MAIL_SECRET,
    NOW,
    OPERATE,
    OTHER,
    PUBLIC_URL,
    READ,
    SECOND_SMS_TOKEN,
    SMS_TOKEN,
    Client,
    World,
    check_page,
    path_of,
)

RECEIPTS = {
    "class": {
        "critical": {
            "chain": [
                {"channel": "sms", "confirms": "receipt"},
                {"channel": "email", "confirms": "receipt"},
            ]
        },
        "standard": {"chain": [{"channel": "sms", "confirms": "never"}]},
    }
}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
async def serve(world: World) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Client:
            return await stack.enter_async_context(world.client(**settings))

        yield start


@pytest.fixture
async def client(serve: Callable[..., Any]) -> Client:
    started: Client = await serve(policy=RECEIPTS)
    return started


async def problem(response: Any, status: int, slug: str) -> dict[str, Any]:
    assert response.status == status, await response.text()
    assert response.content_type == CONTENT_TYPE
    document: dict[str, Any] = json.loads(await response.read())
    assert document["type"] == f"/problems/{slug}"
    return document


# ---- contacts

CONTACT = {
    "email": "u1@example.org",
    "phone": "+491701234567",
    "locale": "de",
    "time_zone": "Europe/Berlin",
    "quiet_hours": {"from": "22:00", "to": "07:00"},
    "opt_out": ["sms"],
}


@pytest.mark.parametrize("headers", [CLIENT, OPERATE])
async def test_a_contact_is_replaced_shown_and_forgotten(
    client: Client, headers: dict[str, str]
) -> None:
    path = "/v1/users/u1/contacts"
    response = await client.put(path, json=CONTACT, headers=headers)
    assert response.status == 200
    own = {"verified": [], "unverified": [CONTACT["email"], CONTACT["phone"]]}
    assert await response.json() == CONTACT | (own if headers == CLIENT else {})
    response = await client.put(path, json={"locale": "en"}, headers=headers)
    assert await response.json() == {"locale": "en"}
    assert await (await client.get(path, headers=headers)).json() == {"locale": "en"}
    for _ in range(2):
        assert (await client.delete(path, headers=headers)).status == 204
    await problem(await client.get(path, headers=headers), 404, "not-found")


async def test_a_user_id_may_hold_any_character(client: Client, world: World) -> None:
    response = await client.put("/v1/users/a%2Fb%20%C3%BC/contacts", json={}, headers=OPERATE)
    assert response.status == 200
    assert world.ledger.contacts.get("a/b ü") == Contact("a/b ü")


@pytest.mark.parametrize("headers", [OTHER, READ, EMIT])
async def test_others_reach_no_contact(client: Client, headers: dict[str, str]) -> None:
    for method in ("PUT", "GET", "DELETE"):
        response = await client.request(
            method, "/v1/users/u1/contacts", json=CONTACT, headers=headers
        )
        await problem(response, 403, "forbidden")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "nobody"}, "email"),
        ({"phone": "0170"}, "phone"),
        ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"quiet_hours": {"from": "25:00", "to": "07:00"}}, "quiet_hours"),
        ({"opt_out": ["pigeon"]}, "opt_out"),
        ({"push": "jsons://example.org"}, "push"),
        ({"push": ["file:///etc/passwd"]}, "push"),
        ({"push": ["json://93.184.216.34/"]}, "push"),
        ({"push": ["jsons://127.0.0.1/"]}, "push"),
        ({"push": ["jsons://169.254.169.254/latest/meta-data"]}, "push"),
        ({"push": ["jsons://[::ffff:10.0.0.1]/"]}, "push"),
        ({"fax": "1"}, "fax"),
    ],
)
async def test_a_wrong_contact_is_422_and_named(
    client: Client, world: World, body: dict[str, Any], field: str
) -> None:
    response = await client.put("/v1/users/u1/contacts", json=body, headers=CLIENT)
    assert (await problem(response, 422, "invalid-event"))["field"] == field
    assert world.ledger.contacts.get("u1") is None


async def test_a_push_target_whose_name_leads_inside_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(host: str, *_: Any, **__: Any) -> Any:
        return [(0, 0, 0, "", ("10.0.0.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    body = {"push": ["jsons://inside.example/"]}
    response = await client.put("/v1/users/u1/contacts", json=body, headers=CLIENT)
    assert (await problem(response, 422, "invalid-event"))["field"] == "push"


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"{", 400, "not-json"),
        (b"[]", 422, "invalid-request"),
        (b"", 400, "not-json"),
        (b" " * 300_000, 413, "payload-too-large"),
    ],
)
async def test_what_is_no_contact_at_all_is_refused(
    client: Client, body: bytes, status: int, slug: str
) -> None:
    response = await client.put("/v1/users/u1/contacts", data=body, headers=CLIENT)
    await problem(response, status, slug)


# ---- callbacks


async def twilio(client: Client, token: str = SMS_TOKEN, url: str = "", **fields: str) -> Any:
    path = "/v1/callbacks/sms/twilio"
    signature = twilio_signature(token, url or PUBLIC_URL + path, list(fields.items()))
    return await client.post(path, data=fields, headers={"X-Twilio-Signature": signature})


def test_the_signature_is_twilios_own() -> None:
    # Source: the example in Twilio's security documentation.
    fields = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    signature = twilio_signature("12345", url, list(fields.items()))
    assert signature == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


async def test_a_receipt_confirms_where_the_policy_takes_it_as_confirmation(
    client: Client, world: World
) -> None:
    world.ledger.add(1)
    world.ledger.add(2, event_class=EventClass.STANDARD)
    world.ledger.send("sms", 1, 2, provider_id="SM1")
    response = await twilio(client, MessageSid="SM1", MessageStatus="delivered")
    assert response.status == 204
    assert world.ledger.state(1) is State.CONFIRMED
    assert world.ledger.state(2) is not State.CONFIRMED
    assert world.confirmed == [make_id(1)]
    assert world.ledger.confirmed_by(1)[0].evidence == "receipt:SM1"


async def test_a_receipt_of_another_provider_of_texts_is_signed_with_its_own_token(
    client: Client, world: World
) -> None:
    world.ledger.add(1)
    world.ledger.send("sms", 1, provider_id="SM1")
    fields = {"MessageSid": "SM1", "MessageStatus": "delivered"}
    assert (await twilio(client, SECOND_SMS_TOKEN, **fields)).status == 204
    assert world.ledger.state(1) is State.CONFIRMED


async def test_statuses_may_come_late_twice_and_out_of_order(client: Client, world: World) -> None:
    world.ledger.add(1)
    world.ledger.send("sms", 1, provider_id="SM1")
    for status in ("delivered", "sent", "queued", "undelivered", "delivered", "new-status"):
        response = await twilio(client, MessageSid="SM1", MessageStatus=status)
        assert response.status == 204
    assert world.ledger.state(1) is State.CONFIRMED
    assert len(world.ledger.confirmed_by(1)) == 1


@pytest.mark.parametrize("status", ["queued", "sent", "failed", "undelivered"])
async def test_what_is_no_receipt_confirms_nothing(
    client: Client, world: World, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.ledger.add(1)
    world.ledger.send("sms", 1, provider_id="SM1")
    response = await twilio(client, MessageSid="SM1", MessageStatus=status, ErrorCode="30003")
    assert response.status == 204
    assert world.ledger.confirmed_by(1, 2) == []
    assert ("30003" in caplog.text) == (status in ("failed", "undelivered"))


async def test_a_receipt_faster_than_the_worker_is_looked_for_again(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ledger.add(1)
    record, looks = world.ledger.receipts.record, 0

    def late(found: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            world.ledger.send("sms", 1, provider_id="SM1")
        return record(found)

    monkeypatch.setattr(world.ledger.receipts, "record", late)
    response = await twilio(client, MessageSid="SM1", MessageStatus="delivered")
    assert response.status == 204
    assert world.confirmed == [make_id(1)]


async def test_an_unknown_message_is_404(client: Client) -> None:
    response = await twilio(client, MessageSid="SM9", MessageStatus="delivered")
    await problem(response, 404, "not-found")


async def test_a_wrong_signature_is_403_and_confirms_nothing(client: Client, world: World) -> None:
    world.ledger.add(1)
    world.ledger.send("sms", 1, provider_id="SM1")
    fields = {"MessageSid": "SM1", "MessageStatus": "delivered"}
    for response in (
        await twilio(client, "another-token", **fields),
        await twilio(client, url="http://127.0.0.1/v1/callbacks/sms/twilio", **fields),
        await client.post("/v1/callbacks/sms/twilio", data=fields),
        await client.post(
            "/v1/callbacks/sms/twilio", data=fields, headers={"X-Twilio-Signature": "ü"}
        ),
        await client.post("/v1/callbacks/sms/twilio", data=b"\xff"),
    ):
        assert response.status in (400, 403)
    await problem(await twilio(client, "another-token", **fields), 403, "invalid-signature")
    assert world.ledger.confirmed_by(1, 2) == []


async def test_without_a_secret_every_callback_is_403(serve: Callable[..., Any]) -> None:
    client = await serve(sms_token=None, email_secret=None)
    response = await twilio(client, MessageSid="SM1", MessageStatus="delivered")
    await problem(response, 403, "invalid-signature")
    await problem(await mail_callback(client, "email.delivered"), 403, "invalid-signature")


async def mail_callback(
    client: Client, kind: Any, message_id: Any = "d0@x", secret: str = MAIL_SECRET, **headers: str
) -> Any:
    report = kind if isinstance(kind, dict) else {"type": kind, "data": {"message_id": message_id}}
    body = json.dumps(report)
    at = datetime.now(UTC)
    signed = {
        "webhook-id": "w1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("w1", at, body),
    }
    return await client.post("/v1/callbacks/email", data=body, headers=signed | headers)


@pytest.mark.parametrize("recorded", ["d0@x", "<d0@x>"])
@pytest.mark.parametrize("reported", ["d0@x", "<d0@x>"])
async def test_a_mail_receipt_confirms_by_policy(
    client: Client, world: World, recorded: str, reported: str
) -> None:
    world.ledger.add(1)
    world.ledger.add(2, event_class=EventClass.STANDARD)
    world.ledger.send("email", 1, 2, provider_id=recorded)
    assert (await mail_callback(client, "email.delivered", reported)).status == 204
    assert world.confirmed == [make_id(1)]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "hard_bounce"),
        ({"bounce": {"type": "Transient"}}, "soft_bounce"),
        ({"bounce_type": "soft"}, "soft_bounce"),
        ({"bounce_type": "hard", "code": "5.1.1"}, "hard_bounce"),
        ({"code": "4.2.2"}, "soft_bounce"),
        ({"code": "5.7.1", "reason": "550 5.7.1 policy"}, None),
        ({"bounce": {"type": "Undetermined"}}, None),
    ],
)
async def test_a_bounce_says_in_its_own_words_whether_the_address_is_at_fault(
    client: Client, world: World, more: dict[str, Any], reason: str | None
) -> None:
    world.ledger.contacts.put(Contact("u1", email="ada@example.org"))
    world.ledger.add(1)
    world.ledger.send("email", 1, provider_id="d0@x")
    body = {"type": "email.bounced", "data": {"message_id": "d0@x", **more}}
    assert (await mail_callback(client, body)).status == 204
    [*found] = world.ledger.suppressions.page()[0]
    assert [one.reason for one in found] == ([] if reason is None else [reason])


@pytest.mark.parametrize("kind", ["email.bounced", "email.opened"])
async def test_another_mail_report_confirms_nothing(
    client: Client, world: World, kind: str
) -> None:
    world.ledger.add(1)
    world.ledger.send("email", 1, provider_id="d0@x")
    assert (await mail_callback(client, kind)).status == 204
    assert world.ledger.confirmed_by(1, 2) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "nonsense"},
        {"webhook-signature": "v1,ü"},
        {"webhook-timestamp": "1"},
        {"webhook-timestamp": "soon"},
        {"webhook-id": "w2"},
    ],
)
async def test_a_mail_callback_with_a_wrong_signature_is_403(
    client: Client, headers: dict[str, str]
) -> None:
    response = await mail_callback(client, "email.delivered", **headers)
    await problem(response, 403, "invalid-signature")


async def test_a_mail_callback_with_another_secret_is_403(client: Client) -> None:
    response = await mail_callback(client, "email.delivered", secret="whsec_" + "b3RoZXIh" * 4)
    await problem(response, 403, "invalid-signature")


@pytest.mark.parametrize(
    ("kind", "message_id"), [(1, "x"), ("email.delivered", None), ("email.delivered", "")]
)
async def test_a_signed_report_without_its_fields_is_422(
    client: Client, kind: Any, message_id: Any
) -> None:
    await problem(await mail_callback(client, kind, message_id), 422, "invalid-request")


def test_a_mail_secret_that_is_none_stops_the_start(world: World) -> None:
    with pytest.raises(ConfigError):
        routes.routes(world.handlers(email_secret="a"))


# ---- pages behind links


async def test_opening_a_link_confirms_nothing_and_its_button_the_events_it_listed(
    client: Client, world: World
) -> None:
    world.ledger.add(1, 2, 3, type="<b>tool_completed")
    digest = world.ledger.send("email", 1, 2)
    path = path_of(world.links.confirm_url(digest))
    for _ in range(2):
        response = await client.get(path)
        assert response.status == 200
        text = await response.text()
        check_page(response, text)
        assert text.count('<form method="post">') == 1
        assert "2 updates" in text
        assert "<b>" not in text
    assert (await client.head(path)).status == 200
    assert world.ledger.confirmed_by(1, 2) == []
    for _ in range(2):
        response = await client.post(path)
        assert response.status == 200
        check_page(response, await response.text())
    confirmed = [make_id(n) for n in (1, 2, 3) if world.ledger.state(n) is State.CONFIRMED]
    assert confirmed == [make_id(1), make_id(2)]
    assert [(row.channel, row.by, row.evidence) for row in world.ledger.confirmed_by(1, 2, 3)] == [
        ("email", "u1", f"link:{digest}")
    ] * 2
    assert world.confirmed[:2] == confirmed


async def test_the_pages_speak_the_language_of_the_mail_and_its_time_zone(
    client: Client, world: World
) -> None:
    world.ledger.contacts.put(Contact("u1", locale="de-AT", time_zone="Europe/Vienna"))
    world.ledger.add(1, type="agent_completed")
    links = world.links
    confirm = path_of(links.confirm_url(world.ledger.send("email", 1)))
    stop = path_of(links.unsubscribe_url("u1", "email"))
    said = {
        ("GET", confirm): "Haben Sie dies gesehen?",
        ("POST", confirm): "Eine Neuigkeit: bestätigt am ",
        ("GET", stop): "Keine E-Mails mehr?",
        ("POST", stop): "Sie erhalten keine E-Mails mehr",
    }
    for (method, path), words in said.items():
        response = await client.request(method, path)
        text = await response.text()
        check_page(response, text)
        assert words in text
        assert '<html lang="de">' in text
    shown = await (await client.get(confirm)).text()
    assert '<span dir="ltr">Agent ist fertig</span>' in shown
    assert " CET</time>" in shown or " CEST</time>" in shown


async def test_the_short_link_of_a_text_leads_to_the_same_page_which_leads_back(
    client: Client, world: World
) -> None:
    world.ledger.add(
        1, type="order_sent", data={"title": "Order <7>", "url": f"{BRAND.app_url}/o/7"}
    )
    digest = world.ledger.send("sms", 1)
    path = path_of(world.links.short_url(digest))
    shown = await (await client.get(path)).text()
    assert world.ledger.confirmed_by(1) == []
    done = [await (await client.post(path)).text() for _ in range(2)]
    assert len(world.ledger.confirmed_by(1)) == 1
    for text in (shown, *done):
        assert "Order &lt;7&gt;" in text
        assert f'<a href="{BRAND.app_url}/o/7">Open Acme</a>' in text
    for text in done:
        assert re.search(r"One update: confirmed on \d\d \w+, \d\d:\d\d UTC", text)
    assert (await client.get(path[:-1] + ("A" if path[-1] != "A" else "B"))).status == 404


async def test_a_bad_link_is_404_and_an_old_one_410(client: Client, world: World) -> None:
    links = world.links
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    good = path_of(links.confirm_url(digest))
    unknown = path_of(links.confirm_url("digest-99"))
    wrong_purpose = path_of(links.unsubscribe_url("u1", "email")).replace("unsubscribe", "confirm")
    for path in ("/confirm/nonsense", good + "x", unknown, wrong_purpose):
        for method in ("GET", "POST"):
            response = await client.request(method, path)
            assert response.status == 404
            check_page(response, await response.text())
    world.now += 1_000
    for method in ("GET", "POST"):
        response = await client.request(method, good)
        assert response.status == 410
        check_page(response, await response.text())
    assert world.ledger.confirmed_by(1, 2) == []


async def test_a_link_of_events_that_were_started_anew_is_410_and_confirms_nothing(
    client: Client, world: World
) -> None:
    world.ledger.add(1)
    path = path_of(world.links.confirm_url(world.ledger.send("email", 1)))
    world.ledger.operations.replay([make_id(1)], policies=parse_policies({}))
    for method in ("GET", "POST"):
        response = await client.request(method, path)
        assert response.status == 410
        check_page(response, await response.text())
    assert world.ledger.confirmed_by(1) == []
    assert world.ledger.state(1) is State.ACCEPTED


async def test_a_link_opened_while_the_ledger_is_away_says_so(client: Client, world: World) -> None:
    world.ledger.add(1)
    path = path_of(world.links.confirm_url(world.ledger.send("email", 1)))
    world.ledger.go_away()
    response = await client.post(path)
    assert response.status == 503
    text = await response.text()
    check_page(response, text)
    assert OUTAGE not in text


async def test_unsubscribing_takes_one_click_and_opening_the_link_none(
    client: Client, world: World
) -> None:
    path = path_of(world.links.unsubscribe_url("u1", "email"))
    response = await client.get(path)
    assert response.status == 200
    check_page(response, await response.text())
    assert world.ledger.contacts.get("u1") is None
    # Source: RFC 8058, section 3.1
    response = await client.post(path, data={"List-Unsubscribe": "One-Click"})
    assert response.status == 200
    check_page(response, await response.text())
    assert world.ledger.contacts.get("u1") == Contact("u1", opt_out=("email",))


async def test_a_bad_unsubscribe_link_is_404(client: Client, world: World) -> None:
    assert (await client.post("/unsubscribe/nonsense")).status == 404
    assert world.ledger.contacts.get("u1") is None


async def test_every_problem_type_has_a_page(client: Client) -> None:
    for slug, kind in KINDS.items():
        response = await client.get(f"/problems/{slug}")
        assert response.status == 200
        text = await response.text()
        check_page(response, text)
        assert kind.title.replace("'", "&#x27;") in text
    assert (await client.get("/problems/nonsense")).status == 404


# ---- figures and health


async def test_the_statistics_have_their_shape(client: Client, world: World) -> None:
    ledger = world.ledger
    ledger.add(1, 2)
    group = ledger.alerts.fire(EventClass.CRITICAL, ledger.claim(1, 2))
    ledger.add(3, event_class=EventClass.AUTH)
    ledger.alerts.fire(EventClass.AUTH, ledger.claim(3))
    ledger.confirm(3)  # its alert is over
    ledger.nodes.beat("n1", "gateway", 99, {})  # this node's own, older than what it knows
    ledger.nodes.beat("n2", "gateway", 4, {})
    response = await client.get("/v1/stats", headers=READ)
    assert response.status == 200
    stats = await response.json()
    assert set(stats) == {
        "window_s",
        "delivery_rate",
        "fallback_share",
        "events_per_s",
        "ack_ms",
        "connections",
        "states",
        "channels",
        "alerts",
    }
    assert stats["ack_ms"] == {"p50": 3.0, "p99": None}
    assert stats["connections"] == 7
    assert stats["channels"] == {"email": {"attempts": 4, "ok": 3, "breaker": "half_open"}}
    assert [(alert["id"], alert["count"]) for alert in stats["alerts"]] == [(group.id, 2)]


@pytest.mark.parametrize("headers", [CLIENT, EMIT, OPERATE])
async def test_statistics_need_their_scope(client: Client, headers: dict[str, str]) -> None:
    await problem(await client.get("/v1/stats", headers=headers), 403, "forbidden")


async def test_a_gateway_is_ready_while_it_accepts_and_says_what_is_wrong(
    client: Client, world: World
) -> None:
    assert (await (await client.get("/readyz")).json())["reasons"] == []
    world.journal.backlog = 15_000
    response = await client.get("/readyz")
    assert response.status == 200
    assert len((await response.json())["reasons"]) == 1
    world.ledger.go_away()
    response = await client.get("/readyz")
    assert response.status == 200, "the ledger is away for every gateway: none is taken out"
    text = await response.text()
    assert json.loads(text)["status"] == "ready"
    assert len(json.loads(text)["reasons"]) == 2
    assert OUTAGE not in text
    assert (await client.get("/healthz")).status == 200


async def test_an_outage_is_named_with_its_beginning_and_measured(
    client: Client, world: World
) -> None:
    world.ledger.go_away()
    first = await (await client.get("/readyz")).json()
    [outage] = first["outages"]
    assert (outage["kind"], outage["service"]) == ("ledger_away", "ledger")
    assert first["reasons"] == [f"{outage['text']} (since {outage['since']})"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(outage["since"])) < timedelta(minutes=1)
    text = await (await client.get("/metrics")).text()
    found = {
        line.partition("} ")[0]: float(line.partition("} ")[2])
        for line in text.splitlines()
        if line.startswith("delivery_outage_seconds{")
    }
    assert len(found) == 15, "each that there may be, whether it lasts or not"
    assert [line for line, seconds in found.items() if seconds] == [
        'delivery_outage_seconds{kind="ledger_away",node="n1",service="ledger"'
    ]


async def test_a_gateway_is_not_ready_while_it_cannot_accept(client: Client, world: World) -> None:
    world.journal.refusal = "the spool is full"
    response = await client.get("/readyz")
    assert response.status == 503
    assert (await response.json())["status"] == "not ready"
    assert (await response.json())["reasons"] == ["the spool is full"]
    assert (await client.get("/healthz")).status == 200


async def test_accepted_events_that_are_set_aside_are_shown(client: Client, world: World) -> None:
    world.journal.set_aside = 3
    answer = await client.get("/readyz")
    assert answer.status == 200
    assert (await answer.json())["reasons"] == ["3 accepted events are set aside in the spool"]
    text = await (await client.get("/metrics")).text()
    assert re.search(r"^delivery_spool_set_aside_events\{.*\} 3\.0$", text, re.MULTILINE)


async def test_metrics_are_prometheus_text_and_need_no_ledger(
    serve: Callable[..., Any], world: World
) -> None:
    client = await serve(node='n"1\\')
    response = await client.get("/metrics")
    assert response.content_type == "text/plain"
    lines = (await response.text()).splitlines()
    assert 'delivery_connections{node="n\\"1\\\\"} 3.0' in lines
    assert 'delivery_events{state="confirmed"} 1.234567e+06' in lines
    assert 'delivery_events{state="dead"} 0.0' in lines
    assert "delivery_oldest_overdue_seconds 7.5" in lines
    assert 'delivery_channel_breaker{channel="email",state="half_open"} 1.0' in lines
    assert 'delivery_channel_breaker{channel="email",state="open"} 0.0' in lines
    samples = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z_]+(\{.*\})? -?[0-9.e+-]+", line) for line in samples)
    assert len({line.split()[2] for line in lines if line.startswith("# TYPE")}) == sum(
        line.startswith("# TYPE") for line in lines
    )


async def test_metrics_without_the_ledger_are_the_nodes_own(client: Client, world: World) -> None:
    world.ledger.go_away()
    text = await (await client.get("/metrics")).text()
    assert 'delivery_ledger_up{node="n1"} 0.0' in text
    assert 'delivery_connections{node="n1"} 3.0' in text


async def test_many_readers_of_figures_cause_one_read_of_the_ledger_a_second(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    stats = world.ledger.statistics.stats

    def counting() -> Any:
        nonlocal reads
        reads += 1
        return stats()

    monkeypatch.setattr(world.ledger.statistics, "stats", counting)
    for _ in range(5):
        await client.get("/metrics")
    assert reads <= 2  # the machine may be slow enough for a second one


async def test_the_inbox_shows_what_a_person_would_read(serve: Callable[..., Any]) -> None:
    mail = EmailMessage(policy=email.policy.default)
    mail["Subject"] = "Grüße"
    mail.set_content("Schöne Grüße\nhttps://example.org/confirm/x\n", cte="base64")
    mail.add_alternative("<p>Grüße</p>", subtype="html")
    messages = [
        SinkMessage("sms", "+49170", "", "kurz", NOW, "m2"),
        SinkMessage("email", "u1@example.org", "Grüße", mail.as_string(), NOW, "m1"),
        SinkMessage(
            "email", "u1@example.org", "x", "Content-Type: text/plain; charset=no\n\nx", NOW, "m0"
        ),
    ]
    client = await serve(inbox=SimpleNamespace(messages=lambda: messages))
    shown = (await (await client.get("/v1/inbox", headers=READ)).json())["messages"]
    assert [message["id"] for message in shown] == ["m2", "m1", "m0"]
    assert shown[0]["text"] == "kurz"
    assert "Schöne Grüße" in shown[1]["text"]
    await problem(await client.get("/v1/inbox", headers=CLIENT), 403, "forbidden")


async def test_there_is_no_inbox_in_production(client: Client) -> None:
    await problem(await client.get("/v1/inbox", headers=READ), 404, "not-found")


# ---- files and the document


async def test_the_dashboard_is_served_with_a_strict_policy(client: Client) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/dashboard.css", "text/css"),
        ("/dashboard.js", "text/javascript"),
    ):
        response = await client.get(path)
        assert response.status == 200
        assert response.content_type == kind
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = await client.get(path, headers={"If-None-Match": response.headers["ETag"]})
        assert again.status == 304


async def test_the_dashboard_needs_no_other_host_and_nothing_inline(client: Client) -> None:
    page = await (await client.get("/")).text()
    for name, target in re.findall(r'(href|src)="([^"]*)"', page):
        assert target.startswith(("#", "data:,")) or "/" not in target, (name, target)
        if not target.startswith(("#", "data:")):
            assert (await client.get(f"/{target}")).status == 200
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page)
    script = await (await client.get("/dashboard.js")).text()
    assert "innerHTML" not in script
    for wanted in set(re.findall(r'\$\("([\w-]+)"\)', script)):
        assert f'id="{wanted}"' in page, wanted


async def test_every_route_is_in_the_document_and_the_other_way_round(
    serve: Callable[..., Any], world: World
) -> None:
    client = await serve(inbox=SimpleNamespace(messages=list))
    served = await (await client.get("/openapi.json")).json()
    assert served == document()
    described = {
        (method.upper(), path)
        for path, operations in served["paths"].items()
        for method in operations
    }
    mounted = {
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert described == mounted | {("GET", "/v1/ws"), ("GET", "/v1/stream")}


def test_every_reference_of_the_document_leads_somewhere() -> None:
    whole = document()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(whole))
    assert references
    for reference in references:
        target: Any = whole
        for step in reference.split("/"):
            target = target[step]


def test_every_path_parameter_of_the_document_is_described() -> None:
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            described = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert described == set(re.findall(r"\{(\w+)\}", path)), path


# ---- who sent it


@pytest.mark.parametrize(
    ("remote", "forwarded", "trusted", "expected"),
    [
        ("10.0.0.1", "203.0.113.9", ("10.0.0.1",), "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9", (), "10.0.0.1"),
        ("198.51.100.1", "203.0.113.9", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2", ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", "nonsense", ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", "", ("10.0.0.0/8",), "10.0.0.1"),
        ("unix:", "203.0.113.9", ("10.0.0.0/8",), "unix:"),
    ],
)
def test_a_forwarded_address_counts_only_from_a_trusted_proxy(
    remote: str, forwarded: str, trusted: tuple[str, ...], expected: str
) -> None:
    headers = CIMultiDict({"X-Forwarded-For": forwarded})
    request: Any = SimpleNamespace(remote=remote, headers=headers)
    assert client_address(request, trusted) == expected


def test_a_header_that_a_proxy_adds_counts_and_not_the_one_before_it_of_the_caller() -> None:
    given = [
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "http"),
    ]
    request: Any = SimpleNamespace(remote="10.0.0.1", headers=CIMultiDict(given), secure=False)
    assert client_address(request, ("10.0.0.1",)) == "203.0.113.9"
    assert not is_https(request, ("10.0.0.1",))


def test_thousands_of_forwarded_addresses_are_not_all_looked_at() -> None:
    headers = CIMultiDict({"X-Forwarded-For": "192.0.2.1," + "10.0.0.2," * 2_000 + "10.0.0.2"})
    request: Any = SimpleNamespace(remote="10.0.0.1", headers=headers)
    assert client_address(request, ("10.0.0.0/8",)) == "10.0.0.2"
