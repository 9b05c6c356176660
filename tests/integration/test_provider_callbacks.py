"""Callbacks as mail and SMS providers send them, each with its authentication, over a real server.

The samples are written from the providers' documentation.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from standardwebhooks.webhooks import Webhook

from delivery.api.problems import CONTENT_TYPE
from delivery.api.providers.sns_requests import SnsRequests
from delivery.callers.bounded_get import bounded_get
from delivery.domain.inputs.push_target import is_public
from delivery.domain.lifecycle import Outcome, State
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import Suppress
from delivery.errors import ConfigError
from delivery.testing import make_id
from delivery.transports.receipts.signatures import (
    MailgunKey,
    PostmarkLogin,
    SendgridKey,
    WebhookSecret,
    twilio_signature,
)
from tests.integration.http_api_standins import (
    CLIENT,
    EMIT,
    OPERATE,
    PUBLIC_URL,
    READ,
    SMS_TOKEN,
    Client,
    World,
)

RECEIPTS = {
    "class": {
        "critical": {
            "chain": [
                {"channel": "email", "confirms": "receipt"},
                {"channel": "sms", "confirms": "receipt", "after": 600.0},
            ]
        }
    }
}
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail-receipts"
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b2c3d.pem"
CONFIRM_URL = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t&TopicArn=x"
RESEND = "whsec_" + base64.b64encode(b"r" * 24).decode()
LOGIN = "postmark:correct horse"
ADA = "ada@example.org"

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65_537, 2_048)


def public(key: Any, encoding: serialization.Encoding = serialization.Encoding.DER) -> bytes:
    shape = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(encoding, shape))


def certificate(days: int = 1) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(RSA_KEY.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .sign(RSA_KEY, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


class Amazon:
    """The hosts of SNS: what was asked of them, and what they answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.certificate = certificate()
        self.fault: Exception | None = None

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        if self.fault is not None:
            raise self.fault
        return self.certificate if url.endswith(".pem") else b"<ok/>"


@pytest.fixture
def amazon() -> Amazon:
    return Amazon()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.ledger.contacts.put(Contact("u1", email=ADA, phone="+491701234567"))
    yield world
    world.close()


@pytest.fixture
async def client(world: World, amazon: Amazon) -> AsyncIterator[Client]:
    keys = {
        "ses": SnsRequests(TOPIC, fetch=amazon.fetch),
        "sendgrid": SendgridKey(base64.b64encode(public(EC_KEY)).decode()),
        "mailgun": MailgunKey("mg-key"),
        "postmark": PostmarkLogin(LOGIN),
        "resend": WebhookSecret(RESEND, "DELIVERY_RESEND_SECRET"),
    }
    async with world.client(RECEIPTS, **keys) as client:
        yield client


DONE = (200, 204)


async def refused(response: Any, status: int = 403) -> dict[str, Any]:
    assert response.status == status, await response.text()
    assert response.content_type == CONTENT_TYPE
    document: dict[str, Any] = json.loads(await response.read())
    return document


# --- senders: one signed post per provider


async def ses(client: Client, event: Any, **changes: Any) -> Any:
    body = json.dumps(event) if isinstance(event, dict) else event
    return await sns(client, {"Type": "Notification", "Message": body}, **changes)


async def sns(client: Client, message: dict[str, Any], version: str = "2", **changes: Any) -> Any:
    full = {
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Timestamp": "2026-01-31T12:00:00.000Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        **message,
    }
    names = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
    if message["Type"] != "Notification":
        names = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    text = "".join(f"{name}\n{full[name]}\n" for name in names if name in full)
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
    signature = RSA_KEY.sign(text.encode(), padding.PKCS1v15(), algorithm)
    full["Signature"] = base64.b64encode(signature).decode()
    headers = {"Content-Type": "text/plain; charset=UTF-8"}
    data = json.dumps(full | changes)
    return await client.post("/v1/callbacks/email/ses", data=data, headers=headers)


async def sendgrid(client: Client, *events: Any, body: bytes | None = None, **changes: str) -> Any:
    raw = json.dumps(events).encode() if body is None else body
    stamp = changes.pop("stamp", str(int(time.time())))
    signature = EC_KEY.sign(stamp.encode() + raw, ec.ECDSA(hashes.SHA256()))
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
    }
    path = "/v1/callbacks/email/sendgrid"
    return await client.post(path, data=raw, headers=headers | changes)


async def mailgun(client: Client, event: Any, token: str = "", **changes: Any) -> Any:
    token = token or secrets.token_hex(25)
    stamp = str(int(time.time()) - changes.pop("age", 0))
    signed = (stamp + token).encode("utf-8", "replace")
    own = hmac.new(b"mg-key", signed, hashlib.sha256).hexdigest()
    signature = {"timestamp": stamp, "token": token, "signature": own} | changes
    body = {"signature": signature, "event-data": event}
    return await client.post("/v1/callbacks/email/mailgun", json=body)


async def postmark(client: Client, record: Any, login: str = LOGIN) -> Any:
    given = "Basic " + base64.b64encode(login.encode()).decode()
    headers = {"Authorization": given}
    return await client.post("/v1/callbacks/email/postmark", json=record, headers=headers)


async def resend(client: Client, event: Any, secret: str = RESEND, **changes: str) -> Any:
    body, at = json.dumps(event), datetime.now(UTC)
    headers = {
        "svix-id": "msg_1",
        "svix-timestamp": str(int(at.timestamp())),
        "svix-signature": "v1,AAAA " + Webhook(secret).sign("msg_1", at, body),
    }
    return await client.post("/v1/callbacks/email/resend", data=body, headers=headers | changes)


async def twilio(client: Client, sid: str, status: str, **fields: str) -> Any:
    fields = {"MessageSid": sid, "MessageStatus": status, **fields}
    path = "/v1/callbacks/sms/twilio"
    signature = twilio_signature(SMS_TOKEN, PUBLIC_URL + path, list(fields.items()))
    return await client.post(path, data=fields, headers={"X-Twilio-Signature": signature})


async def twilio_json(client: Client, body: Any, signed: Any = None) -> Any:
    raw = json.dumps(body).encode()
    digest = hashlib.sha256(raw if signed is None else signed).hexdigest()
    path = f"/v1/callbacks/sms/twilio?bodySHA256={digest}"
    signature = twilio_signature(SMS_TOKEN, PUBLIC_URL + path, [])
    return await client.post(path, data=raw, headers={"X-Twilio-Signature": signature})


# --- samples: how each provider says the same about the mail with this id


def ses_event(kind: str, digest: str, **part: Any) -> dict[str, Any]:
    mail = {
        "timestamp": "2026-01-31T11:59:00.000Z",
        "messageId": "0102018f-ses",
        "tags": {"ses:operation": ["SendSmtpEmail"], "delivery-reference": [digest]},
    }
    name = {"DeliveryDelay": "deliveryDelay"}.get(kind, kind.lower())
    return {"eventType": kind, "mail": mail, name: {"timestamp": "2026-01-31T12:00:00Z", **part}}


def ses_bounce(digest: str, kind: str = "Permanent", status: str = "5.1.1") -> dict[str, Any]:
    one = {
        "emailAddress": ADA,
        "action": "failed",
        "status": status,
        "diagnosticCode": f"smtp; 550 {status} user unknown",
    }
    return ses_event(
        "Bounce", digest, bounceType=kind, bounceSubType="General", bouncedRecipients=[one]
    )


def sendgrid_event(kind: str, digest: str, **more: Any) -> dict[str, Any]:
    known = {"email": ADA, "timestamp": 1769860800, "event": kind, "delivery-reference": digest}
    return known | more


def mailgun_event(kind: str, digest: str, **more: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "timestamp": 1769860800.123,
        "recipient": ADA,
        "user-variables": [],
        "message": {"headers": {"message-id": f"{digest}@example.org"}},
    } | more


def postmark_record(kind: str, digest: str, **more: Any) -> dict[str, Any]:
    return {
        "RecordType": kind,
        "MessageID": "00000000-0000-0000-0000-000000000000",
        "Metadata": {"delivery-reference": digest},
        "Email": ADA,
    } | more


def resend_event(kind: str, digest: str, **more: Any) -> dict[str, Any]:
    data = {"email_id": "56761188", "to": [ADA], "message_id": f"<{digest}@example.org>"}
    return {"type": kind, "created_at": "2026-01-31T12:00:00.000Z", "data": data | more}


Report = Callable[[Client, str], Any]
BOUNCES: dict[str, Report] = {
    "ses": lambda client, digest: ses(client, ses_bounce(digest)),
    "sendgrid": lambda client, digest: sendgrid(
        client,
        sendgrid_event("bounce", digest, type="bounce", status="5.1.1", reason="550 5.1.1 none"),
    ),
    "mailgun": lambda client, digest: mailgun(
        client,
        mailgun_event(
            "failed",
            digest,
            severity="permanent",
            reason="bounce",
            **{"delivery-status": {"code": 550, "message": "5.1.1 none"}},
        ),
    ),
    "postmark": lambda client, digest: postmark(
        client,
        postmark_record("Bounce", digest, Type="HardBounce", Details="smtp;550 5.1.1 none"),
    ),
    "resend": lambda client, digest: resend(
        client,
        resend_event(
            "email.bounced",
            digest,
            bounce={"type": "Permanent", "subType": "General", "message": "550 5.1.1 none"},
        ),
    ),
}
DELIVERIES: dict[str, Report] = {
    "ses": lambda client, digest: ses(client, ses_event("Delivery", digest, recipients=[ADA])),
    "sendgrid": lambda client, digest: sendgrid(client, sendgrid_event("delivered", digest)),
    "mailgun": lambda client, digest: mailgun(client, mailgun_event("delivered", digest)),
    "postmark": lambda client, digest: postmark(
        client, postmark_record("Delivery", digest, Recipient=ADA)
    ),
    "resend": lambda client, digest: resend(client, resend_event("email.delivered", digest)),
}
COMPLAINTS: dict[str, Report] = {
    "ses": lambda client, digest: ses(
        client,
        ses_event(
            "Complaint",
            digest,
            complaintFeedbackType="abuse",
            complainedRecipients=[{"emailAddress": ADA}],
        ),
    ),
    "sendgrid": lambda client, digest: sendgrid(client, sendgrid_event("spamreport", digest)),
    "mailgun": lambda client, digest: mailgun(client, mailgun_event("complained", digest)),
    "postmark": lambda client, digest: postmark(client, postmark_record("SpamComplaint", digest)),
    "resend": lambda client, digest: resend(client, resend_event("email.complained", digest)),
}
OPENINGS: dict[str, Report] = {
    "ses": lambda client, digest: ses(client, ses_event("Open", digest, userAgent="x")),
    "sendgrid": lambda client, digest: sendgrid(client, sendgrid_event("open", digest)),
    "mailgun": lambda client, digest: mailgun(client, mailgun_event("opened", digest)),
    "postmark": lambda client, digest: postmark(client, postmark_record("Open", digest)),
    "resend": lambda client, digest: resend(client, resend_event("email.opened", digest)),
}
PROVIDERS = sorted(BOUNCES)


def attempt(world: World, number: int = 1) -> Any:
    timeline = world.ledger.events.get(make_id(number))
    assert timeline is not None
    return timeline.attempts[-1]


def suppressed(world: World) -> list[tuple[str, Suppress]]:
    return [(one.address, one.reason) for one in world.ledger.suppressions.page()[0]]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_bounce_is_a_failed_attempt_and_suppresses(
    client: Client, world: World, provider: str
) -> None:
    world.ledger.add(1, 2)
    digest = world.ledger.send("email", 1, 2)
    for _ in range(2):
        assert (await BOUNCES[provider](client, digest)).status in DONE
    for number in (1, 2):
        assert attempt(world, number).outcome is Outcome.FAILED
        assert "5.1.1" in attempt(world, number).error
    assert suppressed(world) == [(ADA, Suppress.HARD_BOUNCE)]
    assert len(world.woken) == 1
    assert (await DELIVERIES[provider](client, digest)).status in DONE
    assert world.confirmed == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_delivery_confirms_by_policy_and_a_complaint_suppresses(
    client: Client, world: World, provider: str
) -> None:
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    assert (await DELIVERIES[provider](client, digest)).status in DONE
    assert world.ledger.state(1) is State.CONFIRMED
    assert (await COMPLAINTS[provider](client, digest)).status in DONE
    assert suppressed(world) == [(ADA, Suppress.COMPLAINT)]
    assert world.ledger.state(1) is State.CONFIRMED


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_opening_stands_on_the_timeline_and_confirms_nothing(
    client: Client, world: World, provider: str
) -> None:
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    assert (await OPENINGS[provider](client, digest)).status in DONE
    assert world.ledger.confirmed_by(1) == []
    shown = await (await client.get(f"/v1/events/{make_id(1)}", headers=READ)).json()
    [receipt] = shown["receipts"]
    assert (receipt["status"], receipt["provider"], receipt["digest_id"]) == (
        "opened",
        provider,
        digest,
    )


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_message_of_another_application_is_left_alone(
    client: Client, world: World, provider: str
) -> None:
    # Mailgun and Postmark repeat what is not answered with 200 exactly.
    status = 200 if provider in ("mailgun", "postmark") else 204
    assert (await BOUNCES[provider](client, make_id(77))).status == status
    assert suppressed(world) == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_provider_that_is_not_set_up_is_404(world: World, provider: str) -> None:
    async with world.client(RECEIPTS) as bare:
        document = await refused(await BOUNCES[provider](bare, make_id(1)), 404)
    assert "DELIVERY_" in document["detail"]


NOT_THEIRS: dict[str, Report] = {
    "ses": lambda client, d: ses(client, ses_bounce(d), Message="{}"),
    "ses, another topic": lambda client, d: ses(client, ses_bounce(d), TopicArn=TOPIC + "2"),
    "ses, no version": lambda client, d: ses(client, ses_bounce(d), SignatureVersion="3"),
    "ses, no base64": lambda client, d: ses(client, ses_bounce(d), Signature="ü"),
    "sendgrid": lambda client, d: sendgrid(client, body=b"[]", stamp="x"),
    "sendgrid, old": lambda client, d: sendgrid(client, stamp=str(int(time.time()) - 3_600)),
    "sendgrid, none": lambda client, d: sendgrid(
        client, **{"X-Twilio-Email-Event-Webhook-Signature": ""}
    ),
    "sendgrid, changed": lambda client, d: sendgrid(
        client, **{"X-Twilio-Email-Event-Webhook-Timestamp": str(int(time.time()) - 1)}
    ),
    "mailgun": lambda client, d: mailgun(client, mailgun_event("failed", d), signature="0" * 64),
    "mailgun, old": lambda client, d: mailgun(client, mailgun_event("failed", d), age=7_200),
    "mailgun, kinds": lambda client, d: mailgun(client, {}, token="ü", signature=1),
    "postmark": lambda client, d: postmark(client, postmark_record("Bounce", d), "postmark:x"),
    "postmark, none": lambda client, d: client.post("/v1/callbacks/email/postmark", json={}),
    "resend": lambda client, d: resend(
        client, resend_event("email.bounced", d), "whsec_" + "b3RoZXIh" * 4
    ),
    "resend, old": lambda client, d: resend(client, {}, **{"svix-timestamp": "1"}),
    "resend, none": lambda client, d: client.post("/v1/callbacks/email/resend", json={}),
    "twilio, body": lambda client, d: twilio_json(client, {"MessageSid": d}, signed=b"{}"),
}


@pytest.mark.parametrize("case", sorted(NOT_THEIRS))
async def test_a_callback_that_is_not_the_providers_is_403(
    client: Client, world: World, case: str
) -> None:
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    document = await refused(await NOT_THEIRS[case](client, digest))
    assert document["type"] == "/problems/invalid-signature"
    assert attempt(world).outcome is Outcome.DELIVERED


MALFORMED: dict[str, Report] = {
    "ses, raw": lambda client, d: client.post("/v1/callbacks/email/ses", json=ses_bounce(d)),
    "ses, list": lambda client, d: client.post("/v1/callbacks/email/ses", json=[]),
    "ses, text": lambda client, d: client.post("/v1/callbacks/email/ses", data=b"{"),
    "ses, inner": lambda client, d: ses(client, '{"mail": '),
    "ses, no kind": lambda client, d: ses(client, {"mail": {}}),
    "sendgrid, object": lambda client, d: sendgrid(client, body=b"{}"),
    "sendgrid, items": lambda client, d: sendgrid(client, body=b"[1]"),
    "sendgrid, many": lambda client, d: sendgrid(client, *[{}] * 1_001),
    "sendgrid, deep": lambda client, d: sendgrid(client, body=b"[" * 100 + b"]" * 100),
    "mailgun, list": lambda client, d: client.post("/v1/callbacks/email/mailgun", json=[]),
    "mailgun, no event": lambda client, d: mailgun(client, None),
    "postmark, list": lambda client, d: postmark(client, []),
    "postmark, kind": lambda client, d: postmark(client, {"RecordType": 1}),
    "resend, kind": lambda client, d: resend(client, {"type": None}),
    "resend, text": lambda client, d: resend(client, "x"),
    "twilio, text": lambda client, d: twilio_json(client, "x"),
    "twilio, items": lambda client, d: twilio_json(client, [1, {"MessageStatus": "failed"}]),
    "twilio, no sid": lambda client, d: twilio_json(client, {"MessageStatus": "failed"}),
}


@pytest.mark.parametrize("case", sorted(MALFORMED))
async def test_a_malformed_report_is_400_or_422(client: Client, case: str) -> None:
    response = await MALFORMED[case](client, make_id(1))
    await refused(response, 400 if response.status == 400 else 422)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_fields_of_any_kind_break_nothing(
    client: Client, world: World, provider: str
) -> None:
    values: list[Any] = [None, 1, -1e300, True, "a\0\ud800", [], [[]], {}, {"x": []}, "9" * 3_000]
    sender: dict[str, Any] = {
        "ses": lambda v: ses(client, {"eventType": "Bounce", "mail": v, "bounce": v}),
        "sendgrid": lambda v: sendgrid(
            client, {"event": "bounce", "status": v, "timestamp": v, "email": v, "smtp-id": v}
        ),
        "mailgun": lambda v: mailgun(
            client,
            {"event": "failed", "timestamp": v, "message": v, "delivery-status": v, "reason": v},
        ),
        "postmark": lambda v: postmark(
            client, {"RecordType": "Bounce", "Type": v, "Email": v, "Metadata": v, "BouncedAt": v}
        ),
        "resend": lambda v: resend(client, {"type": "email.bounced", "data": v, "created_at": v}),
    }
    for value in values:
        # A lone surrogate is no JSON.
        assert (await sender[provider](value)).status in (200, 204, 400, 422)


async def test_a_large_body_is_413(client: Client) -> None:
    for name in ("ses", "sendgrid", "mailgun", "postmark", "resend"):
        response = await client.post(f"/v1/callbacks/email/{name}", data=b" " * (3 << 20))
        await refused(response, 413)


# --- what each provider says in its own way

SOFT = [
    ("ses", lambda c, d: ses(c, ses_bounce(d, "Transient", "4.2.2")), Suppress.SOFT_BOUNCE),
    ("policy", lambda c, d: ses(c, ses_bounce(d, "Permanent", "5.7.1")), None),
    (
        "sendgrid blocked",
        lambda c, d: sendgrid(
            c, sendgrid_event("bounce", d, type="blocked", reason="550 5.7.1 spam")
        ),
        None,
    ),
    (
        "sendgrid dropped",
        lambda c, d: sendgrid(c, sendgrid_event("dropped", d, reason="Bounced Address")),
        Suppress.HARD_BOUNCE,
    ),
    (
        "postmark soft",
        lambda c, d: postmark(c, postmark_record("Bounce", d, Type="SoftBounce")),
        Suppress.SOFT_BOUNCE,
    ),
    (
        "postmark blocked",
        lambda c, d: postmark(c, postmark_record("Bounce", d, Type="Blocked")),
        None,
    ),
    (
        "resend full",
        lambda c, d: resend(
            c, resend_event("email.bounced", d, bounce={"type": "Transient", "message": "full"})
        ),
        Suppress.SOFT_BOUNCE,
    ),
]


@pytest.mark.parametrize(("name", "send", "expected"), SOFT, ids=[case[0] for case in SOFT])
async def test_a_failure_suppresses_by_what_it_says_of_the_address(
    client: Client, world: World, name: str, send: Report, expected: Suppress | None
) -> None:
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    assert (await send(client, digest)).status in DONE
    assert attempt(world).outcome is Outcome.FAILED
    assert suppressed(world) == ([] if expected is None else [(ADA, expected)])


NO_FAILURES: dict[str, Report] = {
    "ses, delay": lambda c, d: ses(c, ses_event("DeliveryDelay", d, delayType="MailboxFull")),
    "ses, not spam": lambda c, d: ses(
        c, ses_event("Complaint", d, complaintFeedbackType="not-spam")
    ),
    "ses, a new topic": lambda c, d: ses(c, "Successfully validated SNS topic"),
    "sendgrid, deferred": lambda c, d: sendgrid(c, sendgrid_event("deferred", d)),
    "sendgrid, processed": lambda c, d: sendgrid(c, sendgrid_event("processed", d)),
    "mailgun, temporary": lambda c, d: mailgun(c, mailgun_event("failed", d, severity="temporary")),
    "postmark, absent": lambda c, d: postmark(
        c, postmark_record("Bounce", d, Type="AutoResponder")
    ),
    "resend, delayed": lambda c, d: resend(c, resend_event("email.delivery_delayed", d)),
}


@pytest.mark.parametrize("case", sorted(NO_FAILURES))
async def test_what_is_no_failure_changes_no_outcome(
    client: Client, world: World, case: str
) -> None:
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    assert (await NO_FAILURES[case](client, digest)).status in DONE
    assert attempt(world).outcome is Outcome.DELIVERED
    assert suppressed(world) == []


@pytest.mark.parametrize("place", ["tag", "header", "common"])
async def test_ses_finds_a_mail_by_its_tag_or_its_own_header(
    client: Client, world: World, place: str
) -> None:
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    event = ses_bounce(digest)
    name = f"<{digest}@example.org>"
    event["mail"] = {
        "tag": {"tags": {"delivery-reference": [digest]}},
        "header": {"headers": [{"name": "Message-ID", "value": name}]},
        "common": {"commonHeaders": {"messageId": name}},
    }[place]
    assert (await ses(client, event, version="1" if place == "tag" else "2")).status == 204
    assert attempt(world).outcome is Outcome.FAILED


async def test_a_list_of_events_takes_what_is_ours(client: Client, world: World) -> None:
    world.ledger.add(1, 2)
    one, two = world.ledger.send("email", 1), world.ledger.send("email", 2)
    bounced = {"type": "bounce", "reason": "550 5.1.1"}
    response = await sendgrid(
        client,
        sendgrid_event("processed", one),
        sendgrid_event("bounce", make_id(99), **bounced),
        sendgrid_event("bounce", one, **bounced),
        {**sendgrid_event("bounce", "", **bounced), "smtp-id": f"<{two}@example.org>"},
        {},
    )
    assert response.status == 204
    assert [attempt(world, n).outcome for n in (1, 2)] == [Outcome.FAILED] * 2


async def test_a_malformed_event_in_a_list_costs_no_other(client: Client, world: World) -> None:
    world.ledger.add(1, 2)
    mail = world.ledger.send("email", 1)
    world.ledger.send("sms", 2, provider_id="SM1")
    good = sendgrid_event("bounce", mail, type="bounce", reason="550 5.1.1 cut \ud83d")
    assert (await sendgrid(client, 1, None, "x", [good], good)).status == 204
    assert attempt(world).error.endswith("cut \ufffd")
    text = {"MessageSid": "SM1", "MessageStatus": "undelivered", "ErrorCode": 30003}
    bad = [7, {"MessageStatus": "failed"}, {"MessageSid": "a\0b", "MessageStatus": "failed"}]
    assert (await twilio_json(client, [*bad, text])).status == 204
    assert attempt(world, 2).error == "undelivered 30003"


async def test_a_cut_character_costs_mailgun_no_report(client: Client, world: World) -> None:
    world.ledger.add(1)
    event = mailgun_event("failed", world.ledger.send("email", 1), severity="permanent")
    event["delivery-status"] = {"code": 550, "message": "5.1.1 cut \ud83d"}
    assert (await mailgun(client, event)).status == 200
    assert attempt(world).error.endswith("cut \ufffd")


async def test_a_token_of_mailgun_serves_one_body(client: Client, world: World) -> None:
    world.ledger.add(1)
    digest = world.ledger.send("email", 1)
    first = mailgun_event("opened", digest)
    for _ in range(2):
        assert (await mailgun(client, first, token="t" * 50)).status == 200
    await refused(await mailgun(client, mailgun_event("complained", digest), token="t" * 50))
    await refused(await mailgun(client, first, token="\ud83d"))
    assert suppressed(world) == []


# --- SNS

ELSEWHERE = [
    "http://sns.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com.evil.example/a.pem",
    "https://evil.example/sns.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com@evil.example/a.pem",
    "https://evil.example#@sns.eu-west-1.amazonaws.com/a.pem",
    "https://evil.example\\.sns.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com:8443/a.pem",
    "https://s3.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com/bucket/a.pem",
    "https://sns.eu-west-1.amazonaws.com/a.pem?x=y",
    "https://127.0.0.1/a.pem",
    "file:///etc/passwd",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
async def test_a_certificate_from_elsewhere_is_never_fetched(
    client: Client, amazon: Amazon, url: str
) -> None:
    await refused(await ses(client, ses_bounce(make_id(1)), SigningCertURL=url))
    assert amazon.asked == []


async def test_a_message_of_another_topic_fetches_nothing(client: Client, amazon: Amazon) -> None:
    await refused(await ses(client, ses_bounce(make_id(1)), TopicArn=TOPIC + "x"))
    assert amazon.asked == []


async def test_a_certificate_is_fetched_once_and_must_be_valid(
    client: Client, amazon: Amazon
) -> None:
    for _ in range(3):
        assert (await ses(client, ses_bounce(make_id(1)))).status == 204
    assert amazon.asked == [CERTIFICATE_URL]
    other = CERTIFICATE_URL.replace("0a1b", "ffff")
    amazon.certificate = certificate(days=-1)
    await refused(await ses(client, ses_bounce(make_id(1)), SigningCertURL=other))
    amazon.certificate = b"no certificate"
    china = "https://sns.cn-north-1.amazonaws.com.cn/b.pem"
    await refused(await ses(client, ses_bounce(make_id(1)), SigningCertURL=china))
    assert amazon.asked[-1] == china


async def test_hosts_of_sns_that_do_not_answer_are_503_and_asked_a_few_times(
    client: Client, amazon: Amazon
) -> None:
    amazon.fault = TimeoutError()
    for number in range(15):
        url = f"https://sns.eu-west-1.amazonaws.com/{number}.pem"
        response = await ses(client, ses_bounce(make_id(1)), SigningCertURL=url)
        assert (await refused(response, 503))["type"] == "/problems/callback-unchecked"
        assert "Retry-After" in response.headers
    assert len(amazon.asked) == 10


def subscription(url: str = CONFIRM_URL, kind: str = "SubscriptionConfirmation") -> dict[str, Any]:
    return {"Type": kind, "Message": "You have chosen …", "Token": "t", "SubscribeURL": url}


async def test_a_subscription_is_confirmed_at_sns_alone(client: Client, amazon: Amazon) -> None:
    assert (await sns(client, subscription())).status == 204
    assert amazon.asked == [CERTIFICATE_URL, CONFIRM_URL]
    for url in ELSEWHERE:
        assert (await sns(client, subscription(url))).status == 204
    assert (await sns(client, subscription(kind="UnsubscribeConfirmation"))).status == 204
    await refused(await sns(client, subscription(), Token="other"))
    assert len(amazon.asked) == 2


async def test_a_url_is_read_within_limits_and_no_redirect_is_followed() -> None:
    followed: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        followed.append(request.path)
        if request.path == "/moved":
            raise web.HTTPFound("/fine")
        return web.Response(body=b"x" * (100_000 if request.path == "/large" else 10))

    app = web.Application()
    app.router.add_get("/{name}", serve)
    async with TestServer(app) as server:
        base = f"http://127.0.0.1:{server.port}"
        get = partial(bounded_get, timeout=5.0, max_bytes=64 * 1024)
        assert await get(f"{base}/fine", is_allowed=lambda host: True) == b"x" * 10
        for name in ("moved", "large"):
            with pytest.raises(ValueError, match=r"redirect|bytes"):
                await get(f"{base}/{name}", is_allowed=lambda host: True)
        with pytest.raises(OSError, match="may not be called"):
            await get(f"{base}/fine", is_allowed=is_public)
    assert followed == ["/fine", "/moved", "/large"]


# --- Twilio


async def test_a_text_that_was_not_delivered_is_a_failed_attempt(
    client: Client, world: World
) -> None:
    world.ledger.add(1)
    world.ledger.send("sms", 1, provider_id="SM1")
    for status in ("queued", "sent", "undelivered", "undelivered"):
        response = await twilio(
            client, "SM1", status, ErrorCode="30006", To="+491701234567", NumSegments="3"
        )
        assert response.status == 204
    assert attempt(world).error == "undelivered 30006"
    assert suppressed(world) == [("+491701234567", Suppress.INVALID_NUMBER)]


@pytest.mark.parametrize("code", ["30007", "30008", ""])
async def test_a_filtered_text_suppresses_nothing(client: Client, world: World, code: str) -> None:
    world.ledger.add(1)
    world.ledger.send("sms", 1, provider_id="SM1")
    assert (await twilio(client, "SM1", "failed", ErrorCode=code)).status == 204
    assert attempt(world).outcome is Outcome.FAILED
    assert suppressed(world) == []


async def test_a_json_report_is_signed_by_the_hash_of_its_body(
    client: Client, world: World
) -> None:
    world.ledger.add(1)
    world.ledger.send("sms", 1, provider_id="SM1")
    body = {"MessageSid": "SM1", "MessageStatus": "undelivered", "ErrorCode": 30003}
    assert (await twilio_json(client, body)).status == 204
    assert attempt(world).error == "undelivered 30003"
    event = {"specversion": "1.0", "data": {"messageSid": "SM1", "messageStatus": "DELIVERED"}}
    assert (await twilio_json(client, [event])).status == 204
    assert world.ledger.state(1) is State.CONFIRMED


async def test_json_without_its_hash_is_403(client: Client) -> None:
    path = "/v1/callbacks/sms/twilio"
    signature = twilio_signature(SMS_TOKEN, PUBLIC_URL + path, [])
    body = json.dumps({"MessageSid": "SM1", "MessageStatus": "failed"})
    headers = {"X-Twilio-Signature": signature, "Content-Type": "application/json"}
    response = await client.post(path, data=body, headers=headers)
    assert response.status in (400, 403)


# --- keys


@pytest.mark.parametrize(
    "make",
    [
        lambda: SendgridKey("not base64!"),
        lambda: SendgridKey(base64.b64encode(public(RSA_KEY)).decode()),
        lambda: SendgridKey(
            base64.b64encode(public(ec.generate_private_key(ec.SECP384R1()))).decode()
        ),
        lambda: SendgridKey(""),
        lambda: MailgunKey(""),
        lambda: MailgunKey("two\nlines"),
        lambda: PostmarkLogin("no-colon"),
        lambda: PostmarkLogin(":x"),
        lambda: WebhookSecret("whsec_!", "DELIVERY_RESEND_SECRET"),
        lambda: SnsRequests("arn:aws:sqs:eu-west-1:123456789012:queue"),
        lambda: SnsRequests("topic"),
    ],
)
def test_a_key_without_its_shape_names_its_setting(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_"):
        make()


def test_a_key_of_sendgrid_may_be_pem() -> None:
    SendgridKey(public(EC_KEY, serialization.Encoding.PEM).decode())


# --- the list


async def test_suppressed_addresses_are_listed_shown_with_the_contact_and_taken_off(
    client: Client, world: World
) -> None:
    for number in range(3):
        world.ledger.suppressions.add(
            "email", f"u{number}@x.org", Suppress.HARD_BOUNCE, provider="ses", code="5.1.1"
        )
    world.ledger.suppressions.add(
        "email",
        "ADA@EXAMPLE.ORG".replace("ADA", "ada"),
        Suppress.COMPLAINT,
        provider="ses",
        code=None,
    )
    page = await (await client.get("/v1/suppressions?limit=2", headers=READ)).json()
    assert [one["address"] for one in page["suppressions"]] == [ADA, "u2@x.org"]
    assert set(page["suppressions"][0]) == {
        "address",
        "channel",
        "reason",
        "code",
        "provider",
        "since",
        "expires_at",
    }
    path = f"/v1/suppressions?limit=2&after={page['next']}"
    rest = await (await client.get(path, headers=OPERATE)).json()
    assert len(rest["suppressions"]) == 2
    assert rest["next"] is None

    path = "/v1/users/u1/contacts"
    shown = await (await client.get(path, headers=CLIENT)).json()
    [one] = shown["suppressed"]
    assert (one["channel"], one["reason"]) == ("email", "complaint")
    assert (await client.put(path, json=shown, headers=CLIENT)).status == 200

    response = await client.delete("/v1/suppressions/ada%40Example.org", headers=OPERATE)
    assert response.status == 204
    assert "suppressed" not in await (await client.get(path, headers=CLIENT)).json()
    await refused(await client.delete("/v1/suppressions/none", headers=OPERATE), 404)


@pytest.mark.parametrize(("headers", "may"), [(CLIENT, ()), (EMIT, ()), (READ, ("GET",))])
async def test_the_list_is_for_operators(
    client: Client, headers: dict[str, str], may: tuple[str, ...]
) -> None:
    for method, path in (("GET", "/v1/suppressions"), ("DELETE", "/v1/suppressions/a%40x.org")):
        response = await client.request(method, path, headers=headers)
        assert response.status == (200 if method in may else 403)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "after=x", "user=x"])
async def test_a_wrong_page_is_422(client: Client, query: str) -> None:
    await refused(await client.get(f"/v1/suppressions?{query}", headers=READ), 422)
