"""Where the service's doors are, from the one URL that a user writes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from delivery.errors import ConfigError

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """``base`` is ``http(s)://host[:port][/prefix]`` without a trailing slash."""

    base: str

    @property
    def socket(self) -> str:
        """The WebSocket."""
        return "ws" + self.base.removeprefix("http") + "/v1/ws"

    @property
    def stream(self) -> str:
        """Server-sent events."""
        return f"{self.base}/v1/stream"

    @property
    def acks(self) -> str:
        """Where acknowledgements are posted."""
        return f"{self.base}/v1/acks"

    @property
    def events(self) -> str:
        """Where events are posted."""
        return f"{self.base}/v1/events"

    def event(self, event_id: str) -> str:
        """One event with its history."""
        return f"{self.events}/{quote(event_id, safe='')}"


def parse_url(url: str) -> Endpoints:
    """``http://host:8080``, with or without ``/v1``; ``ws`` and ``wss`` mean the same service.

    Raises:
        ConfigError: not such a URL, or it carries credentials.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigError("url must be like http://127.0.0.1:8080")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("url must not carry credentials; pass the token as token")
    path = parts.path.rstrip("/").removesuffix("/ws").removesuffix("/v1").rstrip("/")
    return Endpoints(f"{_SCHEMES[parts.scheme]}://{parts.netloc}{path}")
