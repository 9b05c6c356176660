"""Status callbacks of SMS and mail providers: receipts become outcomes.

Owns: the requests: their limits, whose they are, the answers. Never does: know a provider's words
(``transports.receipts`` does) or decide that a receipt confirms (the event's policy does).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qsl

from aiohttp import web

from delivery.api.problems import Problem
from delivery.api.providers.receipt_intake import ReceiptIntake
from delivery.api.providers.sns_requests import CertificateUnavailable, SnsRequests
from delivery.api.requests import (
    Handler,
    client_address,
    count_rate,
    counted_address_of,
    parse_json,
    read_body,
)
from delivery.callers.rates import CALLBACKS
from delivery.domain.ports import Writes
from delivery.domain.users.receipts import ProviderReceipt
from delivery.errors import InvalidReceipt
from delivery.protocol import encode_json
from delivery.transports.receipts import (
    mailgun,
    postmark,
    sendgrid,
    ses,
    sns,
    twilio,
    webhook,
)
from delivery.transports.receipts.signatures import (
    MailgunKey,
    PostmarkLogin,
    SendgridKey,
    WebhookSecret,
    twilio_signature,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BODY = 64 * 1024
MAX_SNS_BODY = 384 * 1024  # a message of SNS has at most 256 KiB, which its escapes enlarge
MAX_EVENTS_BODY = 2 << 20
MAX_PARAMETERS = 100
JSON_SIGNED = "bodySHA256"


@dataclass(frozen=True, slots=True)
class CallbackKeys:
    """What proves that a callback is a provider's; ``None`` for a provider that is not used.

    Attributes:
        sms_tokens: those of accounts at Twilio, or at providers of its shape.
        email: the secret of ``/v1/callbacks/email``.
        ses: checks messages of the topic.
    """

    sms_tokens: tuple[str, ...] = ()
    email: WebhookSecret | None = None
    ses: SnsRequests | None = None
    sendgrid: SendgridKey | None = None
    mailgun: MailgunKey | None = None
    postmark: PostmarkLogin | None = None
    resend: WebhookSecret | None = None


class Callbacks:
    """Handlers of ``/v1/callbacks/*``.

    Args:
        public_url: this service's address, as providers sign it, without a trailing slash.
        trusted_proxies: addresses whose ``X-Forwarded-*`` count.
    """

    def __init__(
        self,
        intake: ReceiptIntake,
        writes: Writes,
        keys: CallbackKeys,
        *,
        public_url: str,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        self._intake = intake
        self._writes = writes
        self._keys = keys
        self._public_url = public_url
        self._trusted_proxies = trusted_proxies

    def use_keys(self, keys: CallbackKeys) -> None:
        """Check callbacks with these keys from now on."""
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        handlers = {
            "sms/twilio": self.twilio,
            "email": self.email,
            "email/ses": self.ses,
            "email/sendgrid": self.sendgrid,
            "email/mailgun": self.mailgun,
            "email/postmark": self.postmark,
            "email/resend": self.resend,
        }
        return [
            web.post(f"/v1/callbacks/{name}", _counted(handler))
            for name, handler in handlers.items()
        ]

    async def twilio(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/sms/twilio``: a status of a text, as a form or as JSON."""
        raw = await read_body(request, MAX_BODY)
        is_json = JSON_SIGNED in request.query
        fields = [] if is_json else _form(raw)
        if not self._is_twilios(request, fields, raw if is_json else None):
            raise self._refused(request)
        body = parse_json(raw) if is_json else dict(fields)
        return await self._late(twilio.receipts_of(body))

    def _is_twilios(
        self, request: web.Request, fields: list[tuple[str, str]], raw: bytes | None
    ) -> bool:
        if not self._keys.sms_tokens:
            return False
        if raw is not None:
            own = hashlib.sha256(raw).hexdigest().encode()
            given = request.query[JSON_SIGNED].lower().encode("utf-8", "replace")
            if not hmac.compare_digest(own, given):
                return False
        signature = request.headers.get("X-Twilio-Signature", "")
        url = self._public_url + request.path_qs
        # The URL as it came, too: ``path_qs`` may escape it in another way than Twilio signed it.
        urls = dict.fromkeys((url, self._public_url + request.raw_path))
        return any(
            hmac.compare_digest(
                twilio_signature(token, one, fields).encode(),
                signature.encode("utf-8", "replace"),
            )
            for token in self._keys.sms_tokens
            for one in urls
        )

    async def email(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/email``: a Standard Webhooks callback about one mail."""
        raw = await read_body(request, MAX_BODY)
        key = self._keys.email
        if key is None or not key.is_signed(raw, request.headers):
            raise self._refused(request)
        return await self._late(webhook.receipts_of(parse_json(raw), webhook.PLAIN))

    async def ses(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/email/ses``: a message of SNS."""
        gate = _configured(self._keys.ses, "DELIVERY_SES_TOPIC_ARN")
        message = sns.read_message(parse_json(await read_body(request, MAX_SNS_BODY)))
        try:
            if not await gate.is_ours(message):
                raise self._refused(request)
            if message.kind != sns.NOTIFICATION:
                await gate.answer(message)
                return _done()
        except CertificateUnavailable as error:
            raise Problem("callback-unchecked", str(error), retry_after=30.0) from error
        if not message.body.lstrip().startswith("{"):
            logger.info("callback ses: a message that is no event")  # SES tries a new topic so
            return _done()
        return await self._known(
            ses.receipts_of(parse_json(message.body.encode("utf-8", "replace")))
        )

    async def sendgrid(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/email/sendgrid``: a list of events."""
        key = _configured(self._keys.sendgrid, "DELIVERY_SENDGRID_PUBLIC_KEY")
        raw = await read_body(request, MAX_EVENTS_BODY)
        if not key.is_signed(raw, request.headers):
            raise self._refused(request)
        return await self._known(sendgrid.receipts_of(parse_json(raw)))

    async def mailgun(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/email/mailgun``: one event, signed by a token."""
        key = _configured(self._keys.mailgun, "DELIVERY_MAILGUN_SIGNING_KEY")
        raw = await read_body(request, MAX_BODY)
        body = parse_json(raw)
        given = body.get("signature") if isinstance(body, dict) else None
        if not isinstance(given, dict):
            raise InvalidReceipt("signature must be an object", field="signature")
        token = given.get("token")
        if not key.is_signed(given.get("timestamp"), token, given.get("signature")):
            raise self._refused(request)
        found = mailgun.receipts_of(body)
        # The signature does not cover the event: a token that was seen serves no other one.
        event = encode_json(body.get("event-data"))
        if not await self._writes.use_token(_hash(str(token).encode()), _hash(event)):
            logger.warning("callback mailgun: a token came again with another body")
            raise self._refused(request)
        # Mailgun repeats a post for every answer but 200 and 406.
        return await self._known(found, status=200)

    async def postmark(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/email/postmark``: one record, with basic authentication."""
        login = _configured(self._keys.postmark, "DELIVERY_POSTMARK_BASIC_AUTH")
        raw = await read_body(request, MAX_BODY)
        if not login.is_given(request.headers.get("Authorization", "")):
            raise self._refused(request)
        # Postmark repeats a post for every answer but 200 and 403.
        return await self._known(postmark.receipts_of(parse_json(raw)), status=200)

    async def resend(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/email/resend``: one event, signed by Svix."""
        key = _configured(self._keys.resend, "DELIVERY_RESEND_SECRET")
        raw = await read_body(request, MAX_BODY)
        if not key.is_signed(raw, request.headers, svix=True):
            raise self._refused(request)
        return await self._known(webhook.receipts_of(parse_json(raw), webhook.RESEND))

    async def _known(self, found: Sequence[ProviderReceipt], *, status: int = 204) -> web.Response:
        """Record receipts of an account that may send other mails too: those about messages of
        others are left out. Ours are known before they are sent."""
        known = await self._intake.take(found)
        if known < len(found):
            logger.info("callback: %d receipts are about no message of ours", len(found) - known)
        return web.Response(status=status)

    async def _late(self, found: Sequence[ProviderReceipt]) -> web.Response:
        if found and not await self._intake.take_late(found):
            one = found[0]
            logger.warning("%s callback: unknown message id %s", one.channel, one.references[0])
            raise Problem("not-found", "no message has this id")
        return _done()

    def _refused(self, request: web.Request) -> Problem:
        address = client_address(request, self._trusted_proxies)
        logger.warning("callback %s from %s: wrong signature", request.path, address)
        return Problem("invalid-signature", "the signature does not fit the body and the URL")


def _configured(key: T | None, setting: str) -> T:
    if key is None:
        raise Problem("not-found", f"callbacks of this provider are not set up: set {setting}")
    return key


def _done() -> web.Response:
    return web.Response(status=204)


def _hash(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def _counted(handler: Handler) -> Handler:
    """Count each callback of an address before it is read."""

    async def counted(request: web.Request) -> web.StreamResponse:
        await count_rate(request, CALLBACKS, counted_address_of(request))
        return await handler(request)

    return counted


def _form(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            raw.decode(), keep_blank_values=True, max_num_fields=MAX_PARAMETERS, separator="&"
        )
    except ValueError as error:
        raise Problem("bad-request", "the body is not a form of at most 100 fields") from error
