"""Sinks: the local receivers of mails and SMS in ``delivery up``.

Owns: their messages, an SMTP server, and a Twilio-shaped SMS gateway with signed status callbacks.
Never does: forward a message, or report a delivery by itself.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import queue
import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Coroutine
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default as default_policy
from http.server import ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import httpx
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from delivery.domain.channels import Channel
from delivery.domain.transports import SinkMessage
from delivery.transports.rendering.sms_text import segments
from delivery.transports.sink_http import Answer, refusal_of, sms_server, twilio_signature

logger = logging.getLogger(__name__)

MAX_MESSAGES = 200
MAX_MAIL_BYTES = 1 << 20
MAX_CALLBACKS = 1_000
_TIMEOUT = 5.0


class SinkInbox:
    """Messages of the sinks, newest first, in memory; the oldest are dropped. Thread-safe."""

    def __init__(self, limit: int = MAX_MESSAGES) -> None:
        self._messages: deque[SinkMessage] = deque(maxlen=limit)
        self._arrived = threading.Condition()

    def add(self, message: SinkMessage) -> None:
        """Keep a message and wake waiting callers."""
        with self._arrived:
            self._messages.appendleft(message)
            self._arrived.notify_all()

    def messages(self) -> list[SinkMessage]:
        """A copy, newest first."""
        with self._arrived:
            return list(self._messages)

    def wait_for(self, count: int, timeout: float) -> list[SinkMessage]:
        """Wait until there are ``count`` messages, at most ``timeout`` seconds; returns all."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._messages) >= count, timeout)
            return list(self._messages)

    def forget(self, addresses: Collection[str]) -> None:
        """Drop the messages to these addresses."""
        gone = {address.lower() for address in addresses}
        with self._arrived:
            kept = [one for one in self._messages if one.to.lower() not in gone]
            self._messages.clear()
            self._messages.extend(kept)

    def clear(self) -> None:
        """Drop all messages."""
        with self._arrived:
            self._messages.clear()


class MailSink:
    """An SMTP server on loopback that keeps its mails.

    Args:
        port: 0 for a free one; ``port`` and ``url`` have it after ``start``.
        inbox: to share with another sink; ``None`` for a new one.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, inbox: SinkInbox | None = None
    ) -> None:
        self.host = host
        self.port = port
        self.inbox = inbox or SinkInbox()
        self._controller: Controller | None = None

    @property
    def url(self) -> str:
        """The ``smtp_url`` for ``EmailTransport``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"smtp://{host}:{self.port}?tls=none"

    def start(self) -> None:
        """Listen, in a new thread. Raises ``OSError`` when the port is taken."""
        if self._controller is not None:
            return
        listener = socket.create_server(
            (self.host, self.port), family=_address_family(self.host), backlog=64
        )
        self.port = listener.getsockname()[1]
        controller = _Listening(listener, self)
        try:
            controller.start()
        except BaseException:
            listener.close()
            raise
        self._controller = controller

    def stop(self) -> None:
        """Stop listening; the messages stay."""
        controller, self._controller = self._controller, None
        if controller is not None:
            controller.stop()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep a message; called by aiosmtpd."""
        content = envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode()
        parsed = message_from_bytes(raw, policy=default_policy)
        self.inbox.add(
            SinkMessage(
                kind=Channel.EMAIL,
                to=", ".join(envelope.rcpt_tos),
                subject=str(parsed.get("Subject", "")),
                body=raw.decode("utf-8", "replace"),
                at=datetime.now(UTC),
                id=str(parsed.get("Message-ID", "")) or f"<{uuid4().hex}@sink>",
            )
        )
        return "250 OK: kept"


class _Listening(Controller):
    """aiosmtpd's controller on a socket that is bound already, so that port 0 works."""

    def __init__(self, listener: socket.socket, handler: MailSink) -> None:
        super().__init__(
            handler,
            hostname=handler.host,
            port=handler.port,
            data_size_limit=MAX_MAIL_BYTES,
            ident="delivery mail sink",
            timeout=60,
        )
        self._listener = listener

    def _create_server(self) -> Coroutine[Any, Any, asyncio.AbstractServer]:
        return self.loop.create_server(self._factory_invoker, sock=self._listener)


class SmsSink:
    """An SMS gateway on loopback that keeps its texts.

    Args:
        port: 0 for a free one; ``port`` and ``url`` have it after ``start``.
        token: signs the callbacks and is the password of the basic authentication.
        account: the account's SID, checked when given.
        delivers: also post the ``delivered`` status of every text.
        callback_delay: seconds before each callback.
        inbox: to share with another sink; ``None`` for a new one.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token: str,
        account: str | None = None,
        delivers: bool = False,
        callback_delay: float = 0.0,
        inbox: SinkInbox | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.inbox = inbox or SinkInbox()
        self._token = token
        self._account = account
        self._statuses = ("queued", "sent", "delivered") if delivers else ("queued", "sent")
        self._callback_delay = callback_delay
        self._forms: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._lock = threading.Lock()
        self._callbacks: queue.Queue[tuple[str, str] | None] = queue.Queue(MAX_CALLBACKS)
        self._stopping = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """The ``base_url`` for ``SmsTransport``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Listen and post callbacks, in threads. Raises ``OSError`` when the port is taken."""
        if self._server is not None:
            return
        self._stopping.clear()
        self._callbacks = queue.Queue(MAX_CALLBACKS)
        self._server = sms_server(self.host, self.port, self._accept, self._is_known)
        self.port = int(self._server.server_address[1])
        self._threads = [
            threading.Thread(target=self._server.serve_forever, name="sms-sink", daemon=True),
            threading.Thread(target=self._post_callbacks, name="sms-callbacks", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop listening; callbacks that are still due are dropped, the messages stay."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping.set()
        server.shutdown()
        server.server_close()
        try:
            self._callbacks.put_nowait(None)
        except queue.Full:
            logger.debug("sms sink: callback queue is full; its thread sees the stop flag")
        for thread in self._threads:
            thread.join(timeout=_TIMEOUT + 1.0)

    def deliver(self, sid: str) -> None:
        """Post the ``delivered`` status of a text, as its carrier would.

        Raises:
            KeyError: no such message.
        """
        with self._lock:
            if sid not in self._forms:
                raise KeyError(sid)
        self._queue(sid, "delivered")

    def _is_known(self, user: str, password: str) -> bool:
        right_user = self._account is None or hmac.compare_digest(
            user.encode(), self._account.encode()
        )
        return hmac.compare_digest(password.encode(), self._token.encode()) and right_user

    def _accept(self, form: dict[str, str], account: str) -> Answer:
        refused = refusal_of(form)
        if refused is not None:
            return refused
        sid = f"SM{uuid4().hex}"
        with self._lock:
            self._forms[sid] = {**form, "AccountSid": account}
            while len(self._forms) > MAX_MESSAGES:
                self._forms.popitem(last=False)
        self.inbox.add(
            SinkMessage(Channel.SMS, form["To"], "", form["Body"], datetime.now(UTC), sid)
        )
        for status in self._statuses:
            self._queue(sid, status)
        return 201, {
            "sid": sid,
            "account_sid": account,
            "to": form["To"],
            "from": form.get("From"),
            "body": form["Body"],
            "num_segments": str(len(segments(form["Body"]).parts)),
            "status": "queued",
        }

    def _queue(self, sid: str, status: str) -> None:
        try:
            self._callbacks.put_nowait((sid, status))
        except queue.Full:
            logger.warning("sms sink: callback %s of %s dropped: queue is full", status, sid)

    def _post_callbacks(self) -> None:
        with httpx.Client(trust_env=False, timeout=_TIMEOUT) as client:
            while not self._stopping.is_set():
                try:
                    item = self._callbacks.get(timeout=1.0)
                except queue.Empty:
                    continue
                if item is None or self._stopping.wait(self._callback_delay):
                    return
                self._post_callback(client, *item)

    def _post_callback(self, client: httpx.Client, sid: str, status: str) -> None:
        with self._lock:
            form = dict(self._forms.get(sid, {}))
        url = form.get("StatusCallback")
        if not url:
            return
        body = {
            "AccountSid": form["AccountSid"],
            "ApiVersion": "2010-04-01",
            "From": form.get("From", ""),
            "MessageSid": sid,
            "MessageStatus": status,
            "SmsSid": sid,
            "SmsStatus": status,
            "To": form["To"],
        }
        headers = {"X-Twilio-Signature": twilio_signature(self._token, url, body)}
        try:
            answer = client.post(url, data=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            logger.warning("sms sink: callback %s of %s failed: %s", status, sid, error)
            return
        if answer.status_code >= 300:
            logger.warning(
                "sms sink: callback %s of %s: status %d", status, sid, answer.status_code
            )


def _address_family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
