"""An SMTP session: connect, log in, send one message, translate the answers.

Owns: the server's URL and the meaning of its answers, above all whether a message may have been
taken when the connection is lost. Never does: build messages, or retry anything but a connect.
"""

from __future__ import annotations

import contextlib
import logging
import re
import smtplib
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from delivery.domain.inputs.push_target import is_callable
from delivery.domain.users.receipts import Suppress, enhanced_code, suppress_by_code
from delivery.errors import (
    ChannelError,
    ChannelRejected,
    ChannelUnavailable,
    ConfigError,
    OutcomeUnknown,
)
from delivery.transports.mail.replies import Smtp, SmtpOverTls
from delivery.transports.reach import only_to
from delivery.transports.text import provider_text

logger = logging.getLogger(__name__)
CONNECT_ATTEMPTS = 3
GREETING_TIMEOUT = 10.0
"""Seconds for the connection and each answer to it: a server that is away must not cost the time
that a server at work may take for a mail."""
CHECK_TIMEOUT = 5.0
_SETTING = "DELIVERY_SMTP_URL"
_SHAPE = "smtp://user:password@host:port?tls=none|starttls|implicit"
_PORTS = {"none": 25, "starttls": 587, "implicit": 465}
# Codes about us and our login, not about the recipient. Source: RFC 4954, section 6.
_ABOUT_US = frozenset({421, 530, 534, 535, 538})
_ENHANCED = re.compile(r"4[0-9]{2} 4\.3\.")
RECIPIENT = "the recipient"
_NO_MAILBOX = (
    "user unknown",
    "unknown user",
    "no such user",
    "user not found",
    "user does not exist",
    "recipient unknown",
    "unknown recipient",
    "no such recipient",
    "recipient not found",
    "mailbox not found",
    "no such mailbox",
    "mailbox does not exist",
    "account does not exist",
    "address does not exist",
    "no mailbox here",
)
_LOST = OSError  # every exception of smtplib is one too


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The server that takes mails. The password is not in its ``repr``.

    Attributes:
        setting: where its URL stands, for errors.
    """

    host: str
    port: int
    tls: str = "starttls"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    setting: str = _SETTING

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"SMTP server {host}:{self.port}"


def parse_smtp_url(url: str, setting: str = _SETTING) -> SmtpServer:
    """Read ``smtp://user:password@host:port?tls=none|starttls|implicit``.

    Without ``tls`` port 465 means ``implicit``, any other ``starttls``.

    Raises:
        ConfigError: names the setting and the shape, never the value.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        query = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError:
        raise ConfigError(f"{setting} cannot be read; write {_SHAPE}") from None
    if parts.scheme != "smtp" or not host or parts.path not in ("", "/") or set(query) - {"tls"}:
        raise ConfigError(f"{setting} cannot be read; write {_SHAPE}")
    tls = query.get("tls", "implicit" if port == _PORTS["implicit"] else "starttls")
    if tls not in _PORTS:
        raise ConfigError(f"{setting}: tls must be none, starttls or implicit; write {_SHAPE}")
    if (parts.username is None) != (parts.password is None):
        raise ConfigError(f"{setting} needs both user and password, or neither; write {_SHAPE}")
    return SmtpServer(
        host=host,
        port=port or _PORTS[tls],
        tls=tls,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        setting=setting,
    )


class Deadline:
    """A deadline ``timeout`` seconds from now, on the monotonic clock."""

    def __init__(self, timeout: float) -> None:
        self._at = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds left, at least 10 ms: a socket's timeout of 0 would mean non-blocking."""
        return max(0.01, self._at - time.monotonic())


class SmtpSession:
    """A session with one server under one deadline. Not shared between threads.

    Args:
        tls_context: verifies the server's certificate.
        local_hostname: our name in EHLO.
    """

    def __init__(
        self,
        server: SmtpServer,
        tls_context: ssl.SSLContext,
        deadline: Deadline,
        local_hostname: str,
    ) -> None:
        self._server = server
        self._tls = tls_context
        self._deadline = deadline
        self._local_hostname = local_hostname

    def send(self, sender: str, recipient: str, content: bytes) -> None:
        """Send one message to one recipient.

        Args:
            content: RFC 5322 with CRLF line ends.

        Raises:
            ChannelUnavailable: the server, the login or the network failed before the message was
                complete, or the server refuses temporarily.
            ChannelRejected: the server refuses this recipient or this message for good.
            OutcomeUnknown: the message went out whole and its answer was lost.
        """
        try:
            with self._opened() as smtp:
                try:
                    self._envelope(smtp, sender, recipient)
                    self._content(smtp, content)
                except _LOST as error:
                    raise _unclear(self._away(error, "before the message was sent")) from error
        except ChannelError as error:
            if error.health is None:
                # The recipient's own server may be the slow one; ours is asked by itself.
                error.health = self._answers()
            raise

    def _answers(self) -> bool:
        """Whether the server answers a session of its own."""
        other = SmtpSession(self._server, self._tls, Deadline(CHECK_TIMEOUT), self._local_hostname)
        try:
            other.check()
        except ChannelUnavailable:
            return False
        return True

    def check(self) -> None:
        """Check the server without giving it a message.

        Raises:
            ChannelUnavailable: it cannot be reached, or refuses us.
        """
        with self._opened() as smtp:
            self._pace(smtp)
            try:
                code, reply = smtp.noop()
            except _LOST as error:
                raise self._away(error, "while it was checked") from error
            if code != 250:
                raise ChannelUnavailable(f"{self._server} answered {_answer(code, reply)}")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[smtplib.SMTP]:
        smtp = self._connect()
        try:
            self._login(smtp)
            yield smtp
        finally:
            # The outcome is known by now; a slow answer to QUIT changes nothing.
            try:
                if smtp.sock is not None:
                    smtp.sock.settimeout(min(1.0, self._deadline.left()))
                smtp.quit()
            except _LOST as error:
                logger.debug("%s: no answer to QUIT: %s", self._server, error)
                smtp.close()

    def _connect(self) -> smtplib.SMTP:
        retrying = Retrying(
            retry=retry_if_exception(_is_temporary),
            stop=stop_after_attempt(CONNECT_ATTEMPTS) | stop_before_delay(self._deadline.left()),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        try:
            return retrying(self._open)
        except ssl.SSLCertVerificationError as error:
            raise ChannelUnavailable(
                f"the certificate of {self._server} cannot be verified: {error.verify_message}"
            ) from error
        except smtplib.SMTPNotSupportedError as error:
            raise ChannelUnavailable(
                f"{self._server} does not offer STARTTLS; {self._server.setting} asks for it "
                "with tls=starttls"
            ) from error
        except smtplib.SMTPResponseException as error:
            raise ChannelUnavailable(
                f"{self._server} refused us: {_answer(error.smtp_code, error.smtp_error)}"
            ) from error
        except _LOST as error:
            raise self._away(error, "while connecting") from error

    def _open(self) -> smtplib.SMTP:
        server, timeout = self._server, min(GREETING_TIMEOUT, self._deadline.left())
        smtp: smtplib.SMTP
        if server.tls == "implicit":
            smtp = SmtpOverTls(
                local_hostname=self._local_hostname, timeout=timeout, context=self._tls
            )
        else:
            smtp = Smtp(local_hostname=self._local_hostname, timeout=timeout)
        # smtplib sets the name that it verifies only when the constructor connects.
        smtp._host = server.host  # type: ignore[attr-defined]
        try:
            with only_to(is_callable):
                code, reply = smtp.connect(server.host, server.port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, reply)
            smtp.ehlo_or_helo_if_needed()
            if server.tls == "starttls":
                smtp.starttls(context=self._tls)
                smtp.ehlo_or_helo_if_needed()
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _login(self, smtp: smtplib.SMTP) -> None:
        if self._server.user is None or self._server.password is None:
            return
        self._pace(smtp)
        try:
            smtp.login(self._server.user, self._server.password)
        except smtplib.SMTPAuthenticationError as error:
            # Not chained: the exchange must not reach a traceback.
            raise ChannelUnavailable(
                f"{self._server} refused the login of user {self._server.user!r} "
                f"({error.smtp_code}); check user and password in {self._server.setting}"
            ) from None
        except smtplib.SMTPNotSupportedError:
            raise ChannelUnavailable(
                f"{self._server} offers no supported login method, but {self._server.setting} has "
                "a user; many servers offer it only with tls=starttls or tls=implicit"
            ) from None
        except smtplib.SMTPResponseException as error:
            raise ChannelUnavailable(
                f"{self._server} failed at the login ({error.smtp_code})"
            ) from None
        except _LOST as error:
            raise self._away(error, "during the login") from None

    def _envelope(self, smtp: smtplib.SMTP, sender: str, recipient: str) -> None:
        self._pace(smtp)
        options = []
        if not recipient.isascii():
            if not smtp.has_extn("smtputf8"):
                text = f"{self._server} takes no address with such characters"
                raise ChannelRejected(text).of_recipient()
            options = ["SMTPUTF8", "BODY=8BITMIME"]
        code, reply = smtp.mail(sender, options)
        if code != 250:
            # All messages have the same sender: a 5xx here says nothing about this recipient.
            raise ChannelUnavailable(
                f"{self._server} refused the sender {sender}: {_answer(code, reply)}"
            )
        self._pace(smtp)
        # Not rcpt(): it parses the address as a header.
        code, reply = smtp.docmd("RCPT", f"TO:<{recipient}>")
        if code not in (250, 251):
            raise self._refused(RECIPIENT, code, reply)
        self._pace(smtp)
        code, reply = smtp.docmd("DATA")
        if code != 354:
            raise self._refused("the message", code, reply)

    def _content(self, smtp: smtplib.SMTP, content: bytes) -> None:
        # Source: RFC 5321, section 4.5.2 (a leading dot is doubled).
        lines = content if content.endswith(b"\r\n") else content + b"\r\n"
        stuffed = (b"\r\n" + lines).replace(b"\r\n.", b"\r\n..")[2:]
        self._pace(smtp)
        try:
            smtp.send(stuffed + b".\r\n")
        except _LOST as error:
            # The final dot never left, so the server must drop what it has: RFC 5321, 4.1.1.4.
            raise _unclear(self._away(error, "before the message was complete")) from error
        self._pace(smtp)
        try:
            code, reply = smtp.getreply()
        except _LOST as error:
            lost = OutcomeUnknown(
                f"{self._server} had the whole message and did not answer ({_why(error)}); "
                "it may have been delivered"
            )
            raise _unclear(lost) from error
        if code == 250:
            return
        if not 400 <= code < 600:
            raise OutcomeUnknown(f"{self._server} answered {_answer(code, reply)} to the message")
        raise self._refused("the message", code, reply)

    def _pace(self, smtp: smtplib.SMTP) -> None:
        if smtp.sock is not None:
            smtp.sock.settimeout(self._deadline.left())

    def _refused(self, what: str, code: int, reply: bytes) -> ChannelError:
        text = f"{self._server} refused {what}: {_answer(code, reply)}"
        if 500 <= code < 600 and code not in _ABOUT_US:
            return ChannelRejected(text).of_address(*_about_address(what, code, reply))
        later = ChannelUnavailable(text)
        # Temporary for this recipient or message: greylisting, a full mailbox, a filter. Only the
        # codes of X.3 are about the server itself. Source: RFC 3463, section 3.4.
        is_servers = code in _ABOUT_US or _ENHANCED.match(_answer(code, reply)) is not None
        return later if is_servers else later.of_recipient()

    def _away(self, error: Exception, when: str) -> ChannelUnavailable:
        return ChannelUnavailable(f"{self._server} was lost {when} ({_why(error)})")


def _about_address(what: str, code: int, reply: bytes) -> tuple[str | None, str | None]:
    """Why the address gets no further mail, and the code: only if the refusal says that there is no
    such mailbox. A refusal by policy says nothing about it.

    Without an enhanced code a server's words count, and only about the recipient: a bare 550 also
    stands for policy. Source: RFC 5321, section 4.2.3.
    """
    text = provider_text(reply)
    enhanced = enhanced_code(text)
    if enhanced is not None:
        suppress = suppress_by_code(enhanced)
        return (suppress, enhanced) if suppress is Suppress.HARD_BOUNCE else (None, None)
    words = text.casefold()
    if what == RECIPIENT and "sender" not in words and any(one in words for one in _NO_MAILBOX):
        return Suppress.HARD_BOUNCE, str(code)
    return None, None


def _unclear(error: ChannelError) -> ChannelError:
    """Mark an error that does not tell whether the server or the recipient is the cause."""
    error.health = None
    return error


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, (ssl.SSLCertVerificationError, smtplib.SMTPNotSupportedError)):
        return False
    if isinstance(error, smtplib.SMTPResponseException):
        return 400 <= error.smtp_code < 500
    return isinstance(error, _LOST)


def _answer(code: int, reply: bytes | str) -> str:
    return f"{code} {provider_text(reply)}"


def _why(error: Exception) -> str:
    return "timed out" if isinstance(error, TimeoutError) else provider_text(error) or "closed"
