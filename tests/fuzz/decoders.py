"""Every decoder of foreign bytes: what it is fed with, and the errors that it may answer with.

The corpus holds one valid input of each kind, from which inputs are derived, and inputs that were
found to matter. An input that once broke a decoder is added here, and is tried first for ever.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import msgspec

from delivery import resources
from delivery.api.batches import parse_batch
from delivery.api.problems import Problem
from delivery.api.requests import parse_instant, parse_json
from delivery.bus.envelope import Reader, pack, seal
from delivery.callers.auth import Authenticator
from delivery.config import load_settings
from delivery.domain.event import decode_event, event_from_wire
from delivery.domain.inputs.push_target import SCHEMES, shape_fault
from delivery.domain.node_messages import Hello, Wake
from delivery.domain.operators.thresholds import parse_thresholds
from delivery.domain.policy import parse_policies
from delivery.domain.users.contact import parse_contact
from delivery.emitter.validate import Kinds, new_event_id, parse_item
from delivery.errors import (
    ConfigError,
    InvalidEvent,
    InvalidFrame,
    InvalidReceipt,
    LinkInvalid,
    Unauthenticated,
)
from delivery.ledger.journal.spool import adopt_orphans
from delivery.ledger.sql.database import parse_url
from delivery.links import CONFIRM, UNSUBSCRIBE, LinkSigner
from delivery.protocol import decode_client, decode_json, decode_server, encode_event
from delivery.testing import make_event
from delivery.tokens import make_token
from delivery.transports.receipts import (
    bounce_mail,
    mailgun,
    postmark,
    sendgrid,
    ses,
    sns,
    twilio,
    webhook,
)

MAX_ERROR = 20_000
"""Bytes of an error's text, which may quote its input but not repeat all of it."""
SECRET = "only-for-tests-" + "s" * 32
ID = "0190163d-8694-739b-aea5-966c26f8ad90"
AT = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass(frozen=True)
class Decoder:
    """One decoder.

    Attributes:
        may_raise: its answers to malformed input; anything else is a fault.
        corpus: inputs to derive others from, and to try first.
    """

    decode: Callable[[bytes], object]
    may_raise: tuple[type[Exception], ...]
    corpus: list[bytes] = field(default_factory=list)


def _json(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


HOSTILE = [
    b"",
    b" ",
    b"\x00",
    b"\xff\xfe",
    b"null",
    b"NaN",
    b"1e999",
    b"-",
    b'"',
    b'"\\ud800"',
    b'"\\u0000"',
    b'{"a":',
    b'{"a":1,"a":2}',
    b"[" * 200,
    b'{"a":' * 200,
    b"[" * 65 + b"]" * 65,
    b"9" * 5_000,
    b"1e" + b"9" * 400,
    b'{"\\u0000":"\\ud83d"}',
    "\ufeff{}".encode(),
    b"\r\n\r\n",
]
"""Tried on every decoder."""

_KINDS = Kinds(parse_policies(tomllib.loads(resources.file("config", "policies.toml").read_text())))


def _batch(content_type: str) -> Callable[[bytes], object]:
    def decode(raw: bytes) -> object:
        drafts = []
        for item in parse_batch(content_type, raw).items:
            try:
                drafts.append(parse_item(item, kinds=_KINDS, new_id=new_event_id, at=AT))
            except InvalidEvent:
                continue
        for draft in drafts:  # what is accepted can be sent and read again
            assert decode_event(encode_event(draft.event)) == draft.event
        return drafts

    return decode


def _envelope(raw: bytes) -> object:
    reader = Reader()
    envelope = reader.unseal(raw)
    return None if envelope is None else reader.unpack(envelope)


def _spool(raw: bytes) -> object:
    """A spool file with these bytes: what is whole is committed, the rest is kept aside."""
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "node-1.spool").write_bytes(raw)
        adopt_orphans(folder, lambda entries, confirmations: found.extend(entries))
        assert not list(folder.glob("*.spool"))
    return found


def _token(raw: bytes) -> object:
    return asyncio.run(Authenticator(SECRET).verify(raw.decode("utf-8", "surrogateescape")))


def _claims(raw: bytes) -> object:
    """A well signed token with these claims."""
    claims = decode_json(raw)
    if not isinstance(claims, dict):
        raise InvalidFrame("no claims")
    header = {"alg": "HS256", "typ": "JWT"}
    try:
        body = msgspec.json.encode(claims)
    except UnicodeEncodeError as error:  # a lone surrogate, which a token cannot hold
        raise InvalidFrame("no claims") from error
    signed = jwt.api_jws.encode(body, SECRET, algorithm="HS256", headers=header)
    return asyncio.run(Authenticator(SECRET).verify(signed))


def _link(purpose: str) -> Callable[[bytes], object]:
    links = LinkSigner(SECRET, None, "https://example.org")
    return lambda raw: links.read(raw.decode("utf-8", "surrogateescape"), purpose)


def _link_token(url: str) -> bytes:
    return url.rpartition("/")[2].encode()


def _toml(parse: Callable[[Any], object]) -> Callable[[bytes], object]:
    return lambda raw: parse(tomllib.loads(raw.decode()))


def _default(name: str) -> list[bytes]:
    return [resources.file("config", name).read_bytes()]


def _setting(name: str) -> Callable[[bytes], object]:
    return lambda raw: load_settings(**{name: raw.decode("utf-8", "replace")})


def _of_json(parse: Callable[[Any], object]) -> Callable[[bytes], object]:
    return lambda raw: parse(parse_json(raw))


_EVENT = {"type": "agent_started", "user_id": "ada", "run_id": "r", "data": {"a": [1, "x"]}}
_LINKS = LinkSigner(SECRET, None, "https://example.org")
_CONTACT = {
    "email": "ada@example.org",
    "phone": "+4930123456",
    "push": ["ntfys://ntfy.sh/topic"],
    "locale": "de",
    "time_zone": "Europe/Berlin",
    "quiet_hours": {"from": "22:00", "to": "07:00"},
    "opt_out": ["sms"],
}
_RECEIPT = (InvalidReceipt, Problem)
DECODERS: dict[str, Decoder] = {
    "client frame": Decoder(
        decode_client,
        (InvalidFrame,),
        _json(
            {"type": "connect", "token": "t", "cursor": ID, "device": "phone"},
            {"type": "ack", "upto": 3, "ids": [ID]},
            {"type": "nack", "id": ID, "reason": "no"},
            {"type": "refresh", "token": "t"},
            {"type": "ping"},
            {"type": "ack", "upto": 2**63},
            {"type": "ack", "upto": -1},
            {"type": "ack", "ids": [""] * 1_001},
        ),
    ),
    "server frame": Decoder(
        decode_server,
        (InvalidFrame,),
        _json(
            {"type": "pong"},
            {"type": "error", "code": "x", "message": "y"},
            {"type": "events", "n": 1, "events": [{"id": ID}]},
        ),
    ),
    "events": Decoder(
        _batch("application/json"), (Problem,), _json(_EVENT, {"events": [_EVENT, _EVENT, 7]})
    ),
    "events, one per line": Decoder(
        _batch("application/x-ndjson"), (Problem,), [b"\n".join(_json(_EVENT, _EVENT)), b"\n\n"]
    ),
    "event of a node": Decoder(decode_event, (ValueError,), [encode_event(make_event())]),
    "event of a spool": Decoder(
        lambda raw: event_from_wire(decode_json(raw)),
        (ValueError, KeyError, TypeError, InvalidFrame),
        [encode_event(make_event())],
    ),
    "message of a node": Decoder(
        _envelope,
        (),
        [seal("one#1", [pack(Hello(node="one")), pack(Wake(node="one", users=["ada"]))])],
    ),
    "spool": Decoder(_spool, (), [b"00000000 {}\n", b'8b3c1a2f {"kind":"entry"}\n']),
    "token": Decoder(_token, (Unauthenticated,), [make_token(SECRET, "ada").encode()]),
    "claims": Decoder(
        _claims,
        (Unauthenticated, InvalidFrame),
        _json(
            {"sub": "ada", "exp": 4_102_444_800},
            {"sub": "ada", "exp": 1e308, "nbf": -1, "iat": "x"},
            {"sub": ["ada"], "exp": "4102444800", "scope": 7},
            {"sub": "ada", "exp": 4_102_444_800, "jti": "x" * 300, "iat": 10**30},
        ),
    ),
    "confirm link": Decoder(_link(CONFIRM), (LinkInvalid,), [_link_token(_LINKS.confirm_url(ID))]),
    "unsubscribe link": Decoder(
        _link(UNSUBSCRIBE), (LinkInvalid,), [_link_token(_LINKS.unsubscribe_url("ada", "email"))]
    ),
    "contact": Decoder(
        _of_json(lambda body: parse_contact("ada", body if isinstance(body, dict) else {})),
        (InvalidEvent, Problem),
        _json(_CONTACT, {"quiet_hours": {"from": "0٣:00", "to": "07:00"}}),
    ),
    "push URL": Decoder(
        lambda raw: shape_fault(raw.decode("utf-8", "replace"), SCHEMES),
        (),
        [b"ntfys://ntfy.sh/topic", b"ntfys://[::1/x", b"slack://a/b/c?x=1;redirect=yes"],
    ),
    "instant": Decoder(
        lambda raw: parse_instant(raw.decode("utf-8", "replace"), "before"),
        (Problem,),
        [b"2026-01-31T12:00:00Z", b"9999-12-31T23:59:59-14:00", b"0001-01-01T00:00:00+14:00"],
    ),
    "receipts of Twilio": Decoder(
        _of_json(twilio.receipts_of),
        _RECEIPT,
        _json({"MessageSid": "SM1", "MessageStatus": "delivered", "ErrorCode": "1"}),
    ),
    "receipts of SendGrid": Decoder(
        _of_json(sendgrid.receipts_of),
        _RECEIPT,
        _json([{"event": "bounce", "smtp-id": "<a@b>", "timestamp": 1_700_000_000, "type": "x"}]),
    ),
    "receipts of Mailgun": Decoder(
        _of_json(mailgun.receipts_of),
        _RECEIPT,
        _json(
            {
                "event-data": {
                    "event": "failed",
                    "severity": "permanent",
                    "timestamp": 1_700_000_000.5,
                    "message": {"headers": {"message-id": "a@b"}},
                }
            }
        ),
    ),
    "receipts of Postmark": Decoder(
        _of_json(postmark.receipts_of),
        _RECEIPT,
        _json({"RecordType": "Bounce", "MessageID": "m", "TypeCode": 1, "BouncedAt": "x"}),
    ),
    "receipts of SES": Decoder(
        _of_json(ses.receipts_of),
        _RECEIPT,
        _json({"eventType": "Bounce", "mail": {"messageId": "m"}, "bounce": {"bounceType": "x"}}),
    ),
    "receipts over webhooks": Decoder(
        _of_json(webhook.receipts_of),
        _RECEIPT,
        _json({"type": "email.bounced", "created_at": "x", "data": {"email_id": "m"}}),
    ),
    "message of SNS": Decoder(
        _of_json(sns.read_message),
        _RECEIPT,
        _json({"Type": "Notification", "MessageId": "m", "TopicArn": "a", "Message": "{}"}),
    ),
    "bounce mail": Decoder(
        bounce_mail.receipts_of,
        (InvalidReceipt,),
        [
            b"Content-Type: multipart/report; boundary=b; report-type=delivery-status\r\n"
            b"\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; a\r\n\r\n"
            b"Final-Recipient: rfc822; x@y\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b--\r\n"
        ],
    ),
    "policies": Decoder(
        _toml(parse_policies),
        (ConfigError, tomllib.TOMLDecodeError, UnicodeDecodeError),
        _default("policies.toml"),
    ),
    "thresholds": Decoder(
        _toml(parse_thresholds),
        (ConfigError, tomllib.TOMLDecodeError, UnicodeDecodeError),
        _default("alerts.toml"),
    ),
    "database URL": Decoder(
        lambda raw: parse_url(raw.decode("utf-8", "replace")),
        (ConfigError,),
        [b"postgresql://u:p@host:5432/name", b"sqlite:////tmp/x.db", b"postgresql://[::1"],
    ),
} | {
    f"setting {name}": Decoder(_setting(name), (ConfigError,), [sample.encode()])
    for name, sample in {
        "database_url": "postgresql://u:p@host:5432/name",
        "redis_url": "redis://u:p@host:6379/0",
        "broker_url": "amqp://u:p@host//",
        "smtp_url": "smtp://u:p@host:587?tls=starttls",
        "public_url": "https://events.example.org",
        "alert_urls": "slack://a/b/c, mailto://x",
        "trusted_proxies": "10.0.0.0/24, ::1",
        "alertmanager_url": "http://alertmanager:9093",
        "rate_emit": "100",
        "log_level": "info",
    }.items()
}


def run(name: str, raw: bytes) -> None:
    """Decode, where only the decoder's own errors may come out, each with a text that can be shown.

    Raises:
        Exception: a fault of the decoder.
    """
    decoder = DECODERS[name]
    try:
        decoder.decode(raw)
    except decoder.may_raise as error:
        if len(str(error).encode()) > MAX_ERROR:
            raise
