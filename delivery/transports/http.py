"""HTTP requests to a provider, and what a failed one means for the message.

Owns: retries of connects, the limits, and the distinction between "never left" and "may have been
taken". Never does: interpret a provider's status.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from delivery.domain.inputs.push_target import is_callable
from delivery.errors import ChannelUnavailable, ConfigError, OutcomeUnknown
from delivery.transports.reach import IsAllowed, only_to
from delivery.transports.text import provider_text

logger = logging.getLogger(__name__)

CONNECT_ATTEMPTS = 3
MAX_RETRY_AFTER = 86_400.0
MAX_ANSWER = 64 * 1024  # bytes of an answer that are read
_SECONDS = re.compile("[0-9]{1,18}")
# Errors with which the request cannot have left.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


def checked_base_url(url: str, setting: str) -> str:
    """The URL without its trailing slash.

    Raises:
        ConfigError: not an http(s) URL; names the setting, never the value.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{setting} must be a URL like https://host/path")
    return url.rstrip("/")


class Poster:
    """Requests to one provider. Makes a client per call: safe in forked workers and threads.

    Args:
        who: the provider's name in errors.
        base_url: without trailing slash.
        rule: which IP addresses may be connected to, checked at the connect.
        trust_env: whether proxies of the environment are used.
    """

    def __init__(
        self,
        who: str,
        base_url: str,
        *,
        rule: IsAllowed = is_callable,
        trust_env: bool = True,
    ) -> None:
        self._rule = rule
        self.who = who
        self._base_url = base_url
        self._tls = httpx.create_ssl_context()
        # A proxy from the environment cannot reach this machine's loopback.
        self._trust_env = trust_env and not _is_loopback(urlsplit(base_url).hostname or "")

    def post(
        self,
        path: str,
        *,
        timeout: float,
        data: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> httpx.Response:
        """POST a form, JSON or bytes; returns the answer of any status. Redirects are not followed.

        Raises:
            ChannelUnavailable: the provider could not be reached; nothing left.
            OutcomeUnknown: the request left and no answer came.
        """

        return self._exchange(
            lambda client: client.build_request(
                "POST",
                self._base_url + path,
                data=data,
                json=json,
                content=content,
                headers=dict(headers or {}),
            ),
            auth,
            timeout,
        )

    def get(self, path: str, *, timeout: float, auth: tuple[str, str]) -> httpx.Response:
        """GET; returns the answer of any status, as ``post`` does.

        Raises:
            ChannelUnavailable: the provider could not be reached, or did not answer.
        """
        try:
            return self._exchange(
                lambda client: client.build_request("GET", self._base_url + path), auth, timeout
            )
        except OutcomeUnknown as error:
            raise ChannelUnavailable(f"{self.who} did not answer") from error

    def _exchange(
        self,
        build: Callable[[httpx.Client], httpx.Request],
        auth: tuple[str, str] | None,
        timeout: float,
    ) -> httpx.Response:
        deadline = time.monotonic() + timeout

        def once() -> httpx.Response:
            left = max(0.01, deadline - time.monotonic())
            client = httpx.Client(
                verify=self._tls, timeout=left, trust_env=self._trust_env, follow_redirects=False
            )
            with client, only_to(self._rule):
                request = build(client)
                request.headers["Accept-Encoding"] = "identity"
                with _ended_after(left, request):
                    response = client.send(
                        request, auth=auth or httpx.USE_CLIENT_DEFAULT, stream=True
                    )
                    try:
                        return _bounded(response, deadline)
                    finally:
                        response.close()

        retrying = Retrying(
            retry=retry_if_exception_type(httpx.ConnectError),
            stop=stop_after_attempt(CONNECT_ATTEMPTS) | stop_before_delay(timeout),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        try:
            return retrying(once)
        except _NOT_SENT as error:
            raise ChannelUnavailable(f"{self.who} cannot be reached: {_why(error)}") from error
        except httpx.InvalidURL as error:
            raise ConfigError(f"the URL of {self.who} cannot be used: {error}") from error
        except httpx.HTTPError as error:
            raise OutcomeUnknown(
                f"{self.who} did not answer ({_why(error)}); it may have taken the request"
            ) from error


@contextmanager
def _ended_after(seconds: float, request: httpx.Request) -> Iterator[None]:
    """Cut the connection of a request at its deadline. httpx's limits are per read: a server that
    sends its head byte by byte would hold the attempt for hours."""
    held: list[socket.socket] = []

    def note(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            # A duplicate: TLS takes the descriptor of the original away.
            held.append(info["return_value"].get_extra_info("socket").dup())

    def cut() -> None:
        for connection in held:
            with suppress(OSError):  # the server has ended it meanwhile
                connection.shutdown(socket.SHUT_RDWR)

    request.extensions["trace"] = note
    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for connection in held:
            connection.close()


def _bounded(response: httpx.Response, deadline: float) -> httpx.Response:
    """The answer with the part of its body that came in time, at most ``MAX_ANSWER`` bytes: its
    status counts in any case. Not decompressed: a few bytes could become gigabytes."""
    body = b""
    try:
        for chunk in response.iter_raw(4_096):
            body += chunk
            if len(body) >= MAX_ANSWER or time.monotonic() >= deadline:
                break
    except httpx.HTTPError as error:
        logger.debug("an answer %d broke off: %s", response.status_code, _why(error))
    kept = [
        (name, value)
        for name, value in response.headers.raw
        if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
    ]
    return httpx.Response(
        response.status_code,
        headers=kept,
        content=body[:MAX_ANSWER],
        extensions={"reason_phrase": response.extensions.get("reason_phrase", b"")},
    )


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that the provider asked to wait, at most a day. Source: RFC 9110, section 10.2.3."""
    value = response.headers.get("Retry-After", "").strip()
    if not value:
        return None
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(value)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        left = (at - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None  # foreign text: no value of it may keep the attempt from being recorded
    return min(max(0.0, left), MAX_RETRY_AFTER)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _why(error: Exception) -> str:
    return provider_text(error) or type(error).__name__
