"""The ``email`` channel: one digest, as a mail that people and mail providers can trust.

Owns: the message with its headers, and the way to the SMTP server. Never does: choose who gets
a mail or when, or retry a mail whose outcome is unknown.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr

from delivery.domain.channels import Channel
from delivery.domain.contact import Contact
from delivery.domain.ports import Message, Taken
from delivery.errors import ChannelRejected, ConfigError
from delivery.transports.render import Renderer
from delivery.transports.rendering import rendering
from delivery.transports.smtp import Deadline, SmtpSession, parse_smtp_url

# The standard library would fold or encode a long URL in a header and so break it; lines may
# have 998 characters. Source: RFC 5322, section 2.1.1.
_WIDE = 990
_SAFE_KEY = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")
_SAFE_URL = re.compile(r"^https?://[!-;=?-~]{1,900}$")  # printable ASCII without < and >


class EmailChannel:
    """Sends digests through an SMTP server.

    Args:
        smtp_url: ``smtp://user:password@host:port?tls=none|starttls|implicit``.
        mail_from: ``name@host`` or ``Some Name <name@host>``.
        tls_context: verifies the server's certificate; the system's authorities by default.

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
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._server = parse_smtp_url(smtp_url)
        self._from = _sender(mail_from)
        self._renderer = renderer
        self._tls = tls_context or ssl.create_default_context()
        # Never getfqdn(): it may wait for a name server.
        self._local_hostname = socket.gethostname() or "localhost"

    def unreachable(self, contact: Contact) -> str | None:
        """Why this contact gets no mail, ``None`` if it can."""
        return None if contact.email else "no email address"

    def check(self, timeout: float) -> None:
        """Ask the server whether it works; see ``Checked``."""
        SmtpSession(self._server, self._tls, Deadline(timeout), self._local_hostname).check()

    def deliver(self, message: Message, timeout: float) -> Taken:
        """Send one mail; ``provider_id`` is its ``Message-ID``, the same on every attempt.

        Raises:
            ChannelUnavailable: transient; ``ChannelRejected``: refused for good;
            ``OutcomeUnknown``: sent, but the answer was lost.
        """
        recipient = message.contact.email
        if not recipient:
            raise ChannelRejected(f"user {message.user_id!r} has no email address").of_nobody()
        with rendering(self.name):
            mail = self._compose(message, recipient)
        policy = (SMTP if recipient.isascii() else SMTPUTF8).clone(max_line_length=_WIDE)
        session = SmtpSession(self._server, self._tls, Deadline(timeout), self._local_hostname)
        session.send(self._from.addr_spec, recipient, mail.as_bytes(policy=policy))
        return Taken(provider_id=str(mail["Message-ID"]))

    def _compose(self, message: Message, recipient: str) -> EmailMessage:
        words = self._renderer.digest(message)
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self._from
        try:
            mail["To"] = _address(recipient)
        except (HeaderParseError, ValueError, IndexError) as error:
            raise ChannelRejected(
                f"the email address of user {message.user_id!r} cannot stand in a header"
            ).of_nobody() from error
        mail["Subject"] = words.subject
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = message_id(message.key, self._from.domain)
        mail["Auto-Submitted"] = "auto-generated"  # Source: RFC 3834, section 5
        if message.unsubscribe_url is not None:
            # Source: RFC 8058, section 3.1
            mail["List-Unsubscribe"] = f"<{_header_url(message.unsubscribe_url)}>"
            mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        # Quoted-printable: no line is too long, and none can end the message early.
        mail.set_content(words.text, cte="quoted-printable")
        mail.add_alternative(words.html, subtype="html", cte="quoted-printable")
        return mail


def message_id(key: str, domain: str) -> str:
    """``<key@domain>``, stable for the key; a key that cannot stand there is hashed."""
    left = key.strip("<>").partition("@")[0]
    if not _SAFE_KEY.match(left) or ".." in left or left.endswith("."):
        left = hashlib.sha256(key.encode()).hexdigest()
    return f"<{left}@{domain}>"


def _address(spec: str) -> Address:
    if spec.isascii():
        return Address(addr_spec=spec)
    # The standard library parses no such address, yet writes one where SMTPUTF8 allows it.
    username, _, domain = spec.rpartition("@")
    return Address(username=username, domain=domain)


def _sender(mail_from: str) -> Address:
    name, spec = parseaddr(mail_from)
    try:
        address = Address(display_name=name, addr_spec=spec)
    except (HeaderParseError, ValueError, IndexError):
        address = Address()
    is_one_line = mail_from.isprintable()
    if not (is_one_line and address.username and address.domain and spec.isascii()):
        raise ConfigError(
            "DELIVERY_MAIL_FROM must be an address like delivery@example.org or "
            "Some Name <delivery@example.org>"
        )
    return address


def _header_url(url: str) -> str:
    if not _SAFE_URL.match(url):
        raise ConfigError(
            "the unsubscribe link cannot stand in a mail header: it must be an http(s) URL of "
            "at most 900 printable characters; check DELIVERY_PUBLIC_URL"
        )
    return url
