"""The HTTP server of the local SMS gateway: Twilio-shaped requests and signatures.

Owns: parsing a request, its limits, the signature. Never does: keep messages or post callbacks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from delivery.domain.limits import MAX_SMS_CHARS

logger = logging.getLogger(__name__)

Answer = tuple[int, dict[str, Any]]
Accept = Callable[[dict[str, str], str], Answer]
IsKnown = Callable[[str, str], bool]

_PATH = re.compile(r"^/2010-04-01/Accounts/([^/]+)/Messages\.json$")
_NUMBER = re.compile(r"^\+[1-9][0-9]{6,14}$")
_LENGTH = re.compile("[0-9]{1,9}")
_MAX_BODY = 64 * 1024
# Twilio's own magic numbers for tests. Source: Twilio, "Test credentials".
_REFUSED = {
    "+15005550001": (21211, "The 'To' number is not a valid phone number."),
    "+15005550004": (21610, "Attempt to send to unsubscribed recipient."),
    "+15005550009": (21614, "'To' number is not a valid mobile number."),
}


def twilio_signature(token: str, url: str, form: Mapping[str, str]) -> str:
    """The value of ``X-Twilio-Signature``.

    Source: Twilio, "Webhooks security": HMAC-SHA1 over the URL and the sorted parameters.
    """
    signed = url + "".join(f"{name}{form[name]}" for name in sorted(form))
    digest = hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def refusal_of(form: Mapping[str, str]) -> Answer | None:
    """Twilio's answer to a message that it refuses, ``None`` for one that it takes."""
    to, body = form.get("To", ""), form.get("Body", "")
    if to in _REFUSED:
        return _refusal(*_REFUSED[to])
    if not _NUMBER.fullmatch(to):
        return _refusal(21211, "The 'To' number is not a valid phone number.")
    if not (form.get("From") or form.get("MessagingServiceSid")):
        return _refusal(21603, "A 'From' phone number is required.")
    if not body or len(body) > MAX_SMS_CHARS:
        return _refusal(21617 if body else 21602, "The message body is empty or too long.")
    return None


def sms_server(host: str, port: int, accept: Accept, is_known: IsKnown) -> ThreadingHTTPServer:
    """A bound HTTP server; the caller runs ``serve_forever``. Raises ``OSError``."""

    class Handler(_Handler):
        def accept(self, form: dict[str, str], account: str) -> Answer:
            return accept(form, account)

        def is_known(self, user: str, password: str) -> bool:
            return is_known(user, password)

    return (_Server6 if ":" in host else _Server)((host, port), Handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler, ABC):
    """Reads one request; the sink answers through ``accept``."""

    timeout = 10.0
    protocol_version = "HTTP/1.1"
    server_version = "delivery-sms-sink"

    @abstractmethod
    def accept(self, form: dict[str, str], account: str) -> Answer:
        """The answer to a message."""

    @abstractmethod
    def is_known(self, user: str, password: str) -> bool:
        """Whether these are the account and its token."""

    def do_POST(self) -> None:
        """Answer one request."""
        length = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(length) or int(length) > _MAX_BODY:
            self.close_connection = True
            self._answer(413, {"code": 20413, "message": "Payload too large", "status": 413})
            return
        raw = self.rfile.read(int(length))
        matched = _PATH.match(urlsplit(self.path).path)
        if matched is None:
            self._answer(404, {"code": 20404, "message": "Not found", "status": 404})
        elif not self._is_authenticated():
            self._answer(401, {"code": 20003, "message": "Authenticate", "status": 401})
        else:
            fields = parse_qs(raw.decode("utf-8", "replace"), keep_blank_values=True)
            form = {name: values[-1] for name, values in fields.items()}
            self._answer(*self.accept(form, unquote(matched[1])))

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests for debugging only; the inbox shows their messages."""
        logger.debug("sms sink: " + format, *args)

    def _is_authenticated(self) -> bool:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return self.is_known(user, password)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def _refusal(code: int, message: str) -> Answer:
    return 400, {"code": code, "message": message, "status": 400}
