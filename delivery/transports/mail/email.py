"""The ``email`` transport: one digest as a mail over SMTP.

Owns: the message with its headers. Never does: choose recipients or times, or retry a mail whose
outcome is unknown.
"""

from __future__ import annotations

import binascii
import hashlib
import logging
import re
import socket
import ssl
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from uuid import uuid4

from delivery.domain.channels import Channel
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.errors import ChannelRejected, ConfigError, Unrenderable
from delivery.transports.mail.check import Expected, mail_faults
from delivery.transports.mail.headers import (
    MailAddress,
    address_header,
    fixed_header,
    mail_address,
    text_header,
)
from delivery.transports.mail.reference import providers_for, reference_headers
from delivery.transports.mail.smtp import Deadline, SmtpSession, parse_smtp_url
from delivery.transports.rendering.render import Digest, Renderer, rendering, told
from delivery.transports.text import REPLACEMENT

logger = logging.getLogger(__name__)

_SAFE_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_SAFE_URL = re.compile(r"https?://[!-;=?-~]{1,900}")  # printable ASCII without < and >
_SENDER = re.compile(r"(?P<name>.*?) *<(?P<spec>[^<>]+)>|(?P<bare>[^<> ]+)")
_PARTS = ("text/plain", "text/html")
# Control characters and surrogates: no server may be given these.
_UNSENDABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class EmailTransport:
    """Sends digests through an SMTP server.

    Args:
        smtp_url: ``smtp://user:password@host:port?tls=none|starttls|implicit``.
        mail_from: ``name@host`` or ``Some Name <name@host>``.
        tls_context: verifies the server's certificate; the system's authorities by default.
        reply_to: where answers go, in the form of ``mail_from``; ``None`` for the sender.
        providers: names of providers whose callbacks are set up; see ``mail_reference``.
        login: user and password where the URL has none.
        settings: names of the settings that hold URL and sender, for errors.

    Raises:
        ConfigError: a value cannot be used; names the setting.
    """

    name = Channel.EMAIL

    def __init__(
        self,
        smtp_url: str,
        mail_from: str,
        renderer: Renderer,
        *,
        reply_to: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        providers: Collection[str] = (),
        login: tuple[str, str] | None = None,
        settings: tuple[str, str] = ("DELIVERY_SMTP_URL", "DELIVERY_MAIL_FROM"),
    ) -> None:
        url_setting, from_setting = settings
        self._server = parse_smtp_url(smtp_url, url_setting)
        if login is not None:
            if self._server.user is not None:
                raise ConfigError(f"{url_setting} has a user, and user is set as well: drop one")
            self._server = replace(self._server, user=login[0], password=login[1])
        self._providers = providers_for(self._server.host, providers)
        self._from_name, self._from = parse_sender(mail_from, from_setting)
        self._from_name = self._from_name or renderer.brand.name
        self._reply_to = parse_sender(reply_to, "DELIVERY_MAIL_REPLY_TO") if reply_to else None
        self._renderer = renderer
        self._tls = tls_context or ssl.create_default_context()
        # Not getfqdn(): it may wait for a name server.
        self._local_hostname = socket.gethostname() or "localhost"

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact cannot get a mail, ``None`` if it can."""
        return unreachable_by_mail(contact)

    def check(self, timeout: float) -> None:
        """Check the server; see ``Checked``."""
        SmtpSession(self._server, self._tls, Deadline(timeout), self._local_hostname).check()

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Send one mail; ``provider_id`` is its ``Message-ID``, the same on every attempt.

        Raises:
            ChannelUnavailable: try again.
            ChannelRejected: refused for good.
            OutcomeUnknown: sent, but the answer was lost.
        """
        if not message.contact.email:
            raise ChannelRejected(f"user {message.user_id!r} has no email address").of_no_provider()
        try:
            recipient = mail_address(message.contact.email)
        except ValueError as error:
            raise ChannelRejected(
                f"the email address of user {message.user_id!r} cannot be used: {error}"
            ).of_no_provider() from error
        mail_id = message_id(message.key, self._from.domain)
        with rendering(self.name):
            words = self._renderer.digest(message)
            content = self._compose(words, message, recipient, mail_id)
        session = SmtpSession(self._server, self._tls, Deadline(timeout), self._local_hostname)
        session.send(self._from.spec, recipient.spec, content)
        return Taken(provider_id=mail_id, fault=told(words.faults))

    def _compose(
        self, words: Digest, message: Message, recipient: MailAddress, mail_id: str
    ) -> bytes:
        boundary = f"=_{uuid4().hex}"
        fields = {
            "From": address_header("From", self._from, self._from_name),
            **self._answers(),
            "To": address_header("To", recipient),
            "Subject": text_header("Subject", words.subject),
            "Date": fixed_header("Date", format_datetime(datetime.now(UTC))),
            "Message-ID": fixed_header("Message-ID", mail_id),
            "Auto-Submitted": "Auto-Submitted: auto-generated\r\n",  # Source: RFC 3834, section 5
        }
        if message.unsubscribe_url is not None:
            # Source: RFC 8058, section 3.1
            fields["List-Unsubscribe"] = _link_header(message.unsubscribe_url)
            fields["List-Unsubscribe-Post"] = (
                "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
            )
        fields |= reference_headers(self._providers, mail_id)
        fields["MIME-Version"] = "MIME-Version: 1.0\r\n"
        fields["Content-Type"] = (
            f'Content-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n'
        )
        mail = "".join(fields.values()).encode() + b"\r\n" + _body(words, boundary)
        expected = Expected(
            names=list(fields),
            subject=words.subject,
            to=f"{recipient.local}@{recipient.domain}",
            parts=_PARTS,
            utf8=not recipient.spec.isascii(),
        )
        if faults := mail_faults(mail, expected):
            # A bug of ours: the chain goes on with its next step.
            logger.error("mail %s is not sent: %s", mail_id, "; ".join(faults))
            raise Unrenderable(f"the mail cannot be written: {'; '.join(faults)}"[:500])
        message.rendered(words.subject, words.text, words.html)
        return mail

    def _answers(self) -> dict[str, str]:
        if self._reply_to is None:
            return {}
        name, address = self._reply_to
        return {"Reply-To": address_header("Reply-To", address, name)}


def message_id(key: str, domain: str) -> str:
    """``<key@domain>``, the same for the same key; a key that is not allowed there is hashed."""
    left = key.strip("<>").partition("@")[0]
    if not _SAFE_KEY.fullmatch(left) or ".." in left or left.endswith("."):
        left = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"<{left}@{domain}>"


def parse_sender(text: str, setting: str = "DELIVERY_MAIL_FROM") -> tuple[str, MailAddress]:
    """Display name (or ``""``) and address of ``name@host`` or ``Some Name <name@host>``.

    The name may be in quotes and contain commas; it is not parsed as a header.

    Raises:
        ConfigError: names the setting.
    """
    found = _SENDER.fullmatch(text.strip()) if text.isprintable() else None
    try:
        address = mail_address((found["spec"] or found["bare"]).strip()) if found else None
    except ValueError:
        address = None
    if found is None or address is None or not address.local.isascii():
        raise ConfigError(
            f"{setting} must be an address like delivery@example.org or "
            "Some Name <delivery@example.org>"
        )
    name = (found["name"] or "").strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return name, address


def _body(words: Digest, boundary: str) -> bytes:
    """Both parts. Quoted-printable: no line is too long, and none can end the message early."""
    parts = []
    for kind, text in zip(_PARTS, (words.text, words.html), strict=True):
        lines = _UNSENDABLE.sub(REPLACEMENT, "\n".join(text.splitlines())) + "\n"
        encoded = binascii.b2a_qp(lines.encode(), istext=True).replace(b"\n", b"\r\n")
        parts.append(
            f"--{boundary}\r\nContent-Type: {kind}; charset=utf-8\r\n"
            "Content-Transfer-Encoding: quoted-printable\r\n\r\n".encode()
            + encoded
        )
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def _link_header(url: str) -> str:
    try:
        if not _SAFE_URL.fullmatch(url):
            raise ValueError("not a link")
        # Not folded, which would break a long URL; a line may have 998 characters.
        return fixed_header("List-Unsubscribe", f"<{url}>")
    except ValueError as error:
        raise ConfigError(
            "the unsubscribe link cannot stand in a mail header: it must be an http(s) URL of "
            "at most 900 printable characters; check DELIVERY_PUBLIC_URL"
        ) from error


def unreachable_by_mail(contact: Contact) -> str | None:
    """Why a contact cannot get a mail, ``None`` if it can."""
    if not contact.email:
        return "no email address"
    try:
        mail_address(contact.email)
    except ValueError as error:
        return f"the email address cannot be used: {error}"
    return None
