"""The ``sms`` transport: one short text through a Twilio-shaped API.

Owns: the request and the translation of the provider's answers. Never does: receive status
callbacks.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import httpx

from delivery.domain.channels import Channel
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.errors import ChannelRejected, ChannelUnavailable
from delivery.transports.http import Poster, checked_base_url, retry_after
from delivery.transports.receipts.twilio import suppress_by_twilio
from delivery.transports.rendering.render import Renderer, rendering, told
from delivery.transports.rendering.sms_text import Segments, segments
from delivery.transports.text import MAX_PROVIDER_ID, provider_id, provider_text

logger = logging.getLogger(__name__)

# Codes of status 400 that are temporary or about our account, not about this recipient or text.
# Source: Twilio's error dictionary.
_TEMPORARY_CODES = {
    21611: "the sender's queue is full",
    20429: "too many requests",
    21606: "the sender cannot send; check {sender}",
    21603: "the sender is missing; check {sender}",
    21212: "the sender is not valid; check {sender}",
    21659: "the sender is not ours; check {sender}",
    21609: "the callback URL is not valid; check DELIVERY_PUBLIC_URL",
}
_RECIPIENT_CODES = frozenset({14107})
"""Temporary ones about this recipient: too many texts to one number."""


@dataclass(frozen=True, slots=True)
class SmsSettings:
    """Names of the settings of a gateway, for errors."""

    url: str = "DELIVERY_SMS_URL"
    login: str = "DELIVERY_SMS_URL, DELIVERY_SMS_ACCOUNT and DELIVERY_SMS_TOKEN"
    sender: str = "DELIVERY_SMS_FROM"


DEFAULT_SETTINGS = SmsSettings()


class SmsTransport:
    """Sends texts through ``POST {base_url}/2010-04-01/Accounts/{account}/Messages.json``.

    Args:
        base_url: the API's URL, e.g. ``https://api.twilio.com``.
        account: the account's SID; with ``token`` the basic authentication.
        sender: an E.164 number, an alphanumeric sender or a messaging service (``MG…``).
        status_callback: where the provider posts statuses of messages without a callback URL.
        settings: names of what these values stand in, for errors.

    Raises:
        ConfigError: ``base_url`` is not an http(s) URL.
    """

    name = Channel.SMS

    def __init__(
        self,
        base_url: str,
        account: str,
        token: str,
        sender: str,
        renderer: Renderer,
        status_callback: str | None = None,
        settings: SmsSettings = DEFAULT_SETTINGS,
    ) -> None:
        self._settings = settings
        self._poster = Poster("the SMS gateway", checked_base_url(base_url, settings.url))
        accounts = f"/2010-04-01/Accounts/{quote(account, safe='')}"
        self._path = f"{accounts}/Messages.json"
        self._account_path = f"{accounts}.json"
        self._auth = (account, token)
        self._sender = sender
        self._renderer = renderer
        self._status_callback = status_callback

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact cannot get a text, ``None`` if it can."""
        return unreachable_by_text(contact)

    def check(self, timeout: float) -> None:
        """Read the account, which is free of charge; see ``Checked``."""
        response = self._poster.get(self._account_path, auth=self._auth, timeout=timeout)
        if response.status_code == 429 or response.status_code >= 500:
            raise ChannelUnavailable(f"the SMS gateway answered {response.status_code}")

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Send one text; ``provider_id`` is the provider's SID.

        Raises:
            ChannelUnavailable: try again.
            ChannelRejected: refused for good.
            OutcomeUnknown: the request left and no answer came.
        """
        if not message.contact.phone:
            raise ChannelRejected(f"user {message.user_id!r} has no phone number").of_no_provider()
        with rendering(self.name):
            text, faults = self._text(message)
        message.rendered("", text)
        form = {"To": message.contact.phone, "Body": text}
        form["MessagingServiceSid" if self._sender.startswith("MG") else "From"] = self._sender
        callback = message.callback_url or self._status_callback
        if callback is not None:
            form["StatusCallback"] = callback
        # A provider that knows one of these headers makes a repeat harmless; others ignore them.
        key = _header_key(message.key)
        keys = {"I-Twilio-Idempotency-Token": key, "Idempotency-Key": key}
        response = self._poster.post(
            self._path, data=form, headers=keys, auth=self._auth, timeout=timeout
        )
        taken = _read(response, segments(text), self._settings)
        return replace(taken, fault=told(faults))

    def _text(self, message: Message) -> tuple[str, tuple[str, ...]]:
        made = self._renderer.text(message, self._sender)
        return made.text, made.faults


def _read(response: httpx.Response, sent: Segments, settings: SmsSettings) -> Taken:
    status = response.status_code
    body = _json(response)
    if 200 <= status < 300:
        parts = f"{len(sent.parts)} part{'s' if len(sent.parts) > 1 else ''} of {sent.encoding}"
        sid = provider_id(body.get("sid"))
        if sid is not None:
            return Taken(provider_id=sid, note=parts)
        return Taken(
            note=f"{parts}; the SMS gateway's answer has no id that can be stored, so no receipt "
            "can be matched"
        )
    code = body.get("code")
    code = code if isinstance(code, int) else None
    reason = provider_text(body.get("message") or response.reason_phrase)
    text = f"the SMS gateway answered {status}" + (f", code {code}" if code else "") + f": {reason}"
    if status == 429 or status >= 500 or 300 <= status < 400:
        raise ChannelUnavailable(text, retry_after=retry_after(response))
    if status in (401, 403, 404) and code != 21610:
        raise ChannelUnavailable(f"{text}; check {settings.login}")
    if code in _RECIPIENT_CODES:
        raise ChannelUnavailable(text, retry_after=retry_after(response)).of_recipient()
    if code in _TEMPORARY_CODES:
        raise ChannelUnavailable(
            f"{text} ({_TEMPORARY_CODES[code].format(sender=settings.sender)})",
            retry_after=retry_after(response),
        )
    named = None if code is None else str(code)
    raise ChannelRejected(text).of_address(suppress_by_twilio(named), named)


def _header_key(key: str) -> str:
    """The key, hashed if a header cannot hold it."""
    is_plain = key.isascii() and key.isprintable() and 0 < len(key) <= MAX_PROVIDER_ID
    return key if is_plain else hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except (ValueError, RecursionError):
        logger.debug("the SMS gateway's answer %d is not JSON", response.status_code)
        return {}
    return body if isinstance(body, dict) else {}


def unreachable_by_text(contact: Contact) -> str | None:
    """Why a contact cannot get a text, ``None`` if it can."""
    return None if contact.phone else "no phone number"
