"""Status callbacks of SMS and mail providers: receipts confirm, failures are logged.

Owns: the check of their signatures, and the meaning of a status. Never does: decide that a
provider's receipt confirms: the event's policy does (``confirms = "receipt"``).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from standardwebhooks.webhooks import (
    EmptyWebhookSecretError,
    Webhook,
    WebhookVerificationError,
)

from delivery.api.problems import Problem
from delivery.api.requests import check_texts, client_address, parse_json, read_body
from delivery.domain.channels import Channel, Confirms
from delivery.domain.lifecycle import Confirmation
from delivery.domain.policy import Policies
from delivery.domain.ports import Reads, Writes
from delivery.domain.records import Digest
from delivery.errors import ConfigError

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
MAX_PARAMETERS = 100
LOOKUP_DELAYS = (0.2, 0.5, 1.0, 2.0)
"""Seconds between lookups: a callback can arrive before the worker recorded the provider's id."""

# Providers report late and out of order: only the last ranks have an effect, and a
# failure never takes back a delivery (confirmations are never deleted).
RANKS: Mapping[str, int] = {
    "accepted": 0,
    "scheduled": 0,
    "queued": 1,
    "sending": 2,
    "sent": 3,
    "failed": 4,
    "undelivered": 4,
    "canceled": 4,
    "delivered": 5,
    "read": 6,
}
_FAILED, _DELIVERED = 4, 5


class Callbacks:
    """Handlers of ``/v1/callbacks/*``.

    Args:
        public_url: this service's address, as providers sign it, without a trailing slash.
        on_confirmed: called with the ids that a receipt confirmed.
        sms_token / email_secret: secrets of the providers; ``None`` refuses their callbacks.
        trusted_proxies: addresses whose ``X-Forwarded-*`` count.
        delays: seconds between lookups of a digest that is not recorded yet.

    Raises:
        ConfigError: the mail callback's secret is not base64.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        writes: Writes,
        policies: Policies,
        public_url: str,
        on_confirmed: Callable[[Sequence[str]], None],
        sms_token: str | None = None,
        email_secret: str | None = None,
        trusted_proxies: Sequence[str] = (),
        delays: Sequence[float] = LOOKUP_DELAYS,
    ) -> None:
        self._reads = reads
        self._writes = writes
        self._policies = policies
        self._public_url = public_url
        self._on_confirmed = on_confirmed
        self._sms_token = sms_token
        self._webhook = _webhook(email_secret)
        self._trusted_proxies = trusted_proxies
        self._delays = delays

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount."""
        return [
            web.post("/v1/callbacks/sms/twilio", self.twilio),
            web.post("/v1/callbacks/email", self.email),
        ]

    async def twilio(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/sms/twilio``: a Twilio-shaped status callback (form post)."""
        fields = _form(await read_body(request, MAX_BODY))
        url = self._public_url + request.path_qs
        given = request.headers.get("X-Twilio-Signature", "")
        secret = self._sms_token
        if secret is None or not hmac.compare_digest(
            twilio_signature(secret, url, fields).encode(), given.encode("utf-8", "replace")
        ):
            raise self._refused(request)
        values = dict(fields)
        sid = values.get("MessageSid") or values.get("SmsSid") or ""
        status = (values.get("MessageStatus") or values.get("SmsStatus") or "").lower()
        if not sid:
            raise Problem("invalid-request", "MessageSid is missing", field="MessageSid")
        check_texts("MessageSid", sid)
        rank = RANKS.get(status, 0)
        if rank >= _DELIVERED:
            await self._receipt(Channel.SMS, sid, "twilio")
        elif rank == _FAILED:
            logger.warning("sms %s: %s, error %s", sid, status, values.get("ErrorCode", "none"))
        return web.Response(status=204)

    async def email(self, request: web.Request) -> web.Response:
        """``POST /v1/callbacks/email``: a Standard Webhooks callback about one mail."""
        raw = await read_body(request, MAX_BODY)
        if self._webhook is None or not _is_signed(self._webhook, raw, request.headers):
            raise self._refused(request)
        kind, message_id = _mail_report(parse_json(raw))
        if kind == "email.delivered":
            await self._receipt(Channel.EMAIL, message_id, "email-provider")
        elif kind == "email.bounced":
            logger.warning("email %s bounced", message_id)
        return web.Response(status=204)

    async def _receipt(self, channel: str, provider_id: str, provider: str) -> None:
        """Confirm the events of a delivered message whose policy takes a receipt as
        confirmation."""
        digest, listed = await self._digest(channel, provider_id)
        stored = await self._reads.events(listed)
        confirmations = [
            Confirmation(
                event.event.id, digest.user_id, channel, provider, f"receipt:{provider_id}"
            )
            for event in stored
            if (step := self._policies.of(event.event.event_class).step(channel)) is not None
            and step.confirms == Confirms.RECEIPT
        ]
        if not confirmations:
            return
        answer = await self._writes.confirm(confirmations, digest_id=digest.id)
        self._on_confirmed(answer.confirmed)

    async def _digest(self, channel: str, provider_id: str) -> tuple[Digest, tuple[str, ...]]:
        for delay in (*self._delays, None):
            for spelling in _spellings(channel, provider_id):
                found = await self._reads.digest_by_provider_id(channel, spelling)
                if found is not None:
                    return found
            if delay is not None:
                await asyncio.sleep(delay)
        logger.warning("%s callback: unknown message id %s", channel, provider_id)
        raise Problem("not-found", "no message has this id")

    def _refused(self, request: web.Request) -> Problem:
        address = client_address(request, self._trusted_proxies)
        logger.warning("callback %s from %s: wrong signature", request.path, address)
        return Problem("invalid-signature", "the signature does not fit the body and the URL")


def twilio_signature(secret: str, url: str, fields: Sequence[tuple[str, str]]) -> str:
    """The ``X-Twilio-Signature`` of a form post.

    Source: https://www.twilio.com/docs/usage/security#validating-requests
    """
    text = url + "".join(name + value for name, value in sorted(set(fields)))
    digest = hmac.digest(secret.encode(), text.encode("utf-8", "replace"), hashlib.sha1)
    return base64.b64encode(digest).decode()


def _form(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            raw.decode(), keep_blank_values=True, max_num_fields=MAX_PARAMETERS, separator="&"
        )
    except ValueError as error:
        raise Problem("bad-request", "the body is not a form of at most 100 fields") from error


def _spellings(channel: str, provider_id: str) -> tuple[str, ...]:
    # Some providers report a Message-ID without its angle brackets, some with them.
    if channel != Channel.EMAIL:
        return (provider_id,)
    bare = provider_id.strip("<>")
    return tuple(dict.fromkeys((provider_id, bare, f"<{bare}>")))


def _webhook(secret: str | None) -> Webhook | None:
    if secret is None:
        return None
    try:
        return Webhook(secret)
    except (binascii.Error, ValueError, EmptyWebhookSecretError) as error:
        raise ConfigError(
            "DELIVERY_EMAIL_CALLBACK_SECRET must be base64, with or without whsec_ before it"
        ) from error


def _is_signed(webhook: Webhook, raw: bytes, headers: Mapping[str, str]) -> bool:
    try:
        webhook.verify(raw, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):
        # ValueError: raised by the library for a malformed signature or body.
        return False
    return True


def _mail_report(body: Any) -> tuple[str, str]:
    data = body.get("data") if isinstance(body, dict) else None
    kind = body.get("type") if isinstance(body, dict) else None
    message_id = data.get("message_id") if isinstance(data, dict) else None
    if not isinstance(kind, str):
        raise Problem("invalid-request", "type must be a string", field="type")
    if not isinstance(message_id, str) or not 0 < len(message_id) <= 998:
        raise Problem(
            "invalid-request", "data.message_id must be a string", field="data.message_id"
        )
    check_texts("data.message_id", message_id)
    return kind, message_id
