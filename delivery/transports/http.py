"""One POST to a provider, and what its failure means for the message.

Owns: connects that are tried again, the limits, and the line between "never left" and "may have
been taken". Never does: read what a status means to a provider.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
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

from delivery.errors import ChannelUnavailable, ConfigError, OutcomeUnknown

CONNECT_ATTEMPTS = 3
MAX_RETRY_AFTER = 86_400.0
_SECONDS = re.compile("[0-9]{1,18}")
# In these the request cannot have left.
_BEFORE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


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
    """POSTs to one provider. Makes a client per call: safe in forked workers and threads.

    Args:
        who: the provider's name in errors.
        base_url: without trailing slash.
    """

    def __init__(self, who: str, base_url: str) -> None:
        self.who = who
        self._base_url = base_url
        self._tls = httpx.create_ssl_context()
        # A proxy of the environment cannot reach this machine's own loopback.
        self._trust_env = not _is_loopback(urlsplit(base_url).hostname or "")

    def post(
        self,
        path: str,
        *,
        timeout: float,
        data: Mapping[str, str] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> httpx.Response:
        """POST a form or JSON; the answer, whatever its status. Redirects are not followed.

        Raises:
            ChannelUnavailable: the provider could not be reached; nothing left.
            OutcomeUnknown: the request left and no answer came.
        """

        def send(client: httpx.Client) -> httpx.Response:
            return client.post(
                self._base_url + path,
                data=data,
                json=json,
                headers=dict(headers or {}),
                auth=auth or httpx.USE_CLIENT_DEFAULT,
            )

        return self._exchange(send, timeout)

    def get(self, path: str, *, timeout: float, auth: tuple[str, str]) -> httpx.Response:
        """GET; the answer, whatever its status, as ``post``.

        Raises:
            ChannelUnavailable: the provider could not be reached, or did not answer.
        """
        try:
            return self._exchange(lambda c: c.get(self._base_url + path, auth=auth), timeout)
        except OutcomeUnknown as error:
            raise ChannelUnavailable(f"{self.who} did not answer") from error

    def _exchange(
        self, send: Callable[[httpx.Client], httpx.Response], timeout: float
    ) -> httpx.Response:
        deadline = time.monotonic() + timeout

        def once() -> httpx.Response:
            left = max(0.01, deadline - time.monotonic())
            with httpx.Client(
                verify=self._tls, timeout=left, trust_env=self._trust_env, follow_redirects=False
            ) as client:
                return send(client)

        retrying = Retrying(
            retry=retry_if_exception_type(httpx.ConnectError),
            stop=stop_after_attempt(CONNECT_ATTEMPTS) | stop_before_delay(timeout),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        try:
            return retrying(once)
        except _BEFORE as error:
            raise ChannelUnavailable(f"{self.who} cannot be reached: {_why(error)}") from error
        except httpx.InvalidURL as error:
            raise ConfigError(f"the URL of {self.who} cannot be used: {error}") from error
        except httpx.HTTPError as error:
            raise OutcomeUnknown(
                f"{self.who} did not answer ({_why(error)}); it may have taken the request"
            ) from error


def retry_after(response: httpx.Response) -> float | None:
    """Seconds the provider asked to wait, at most a day. Source: RFC 9110, section 10.2.3."""
    value = response.headers.get("Retry-After", "").strip()
    if not value:
        return None
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max(0.0, (at - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _why(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
