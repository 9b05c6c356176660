"""Subscriptions of browsers to push messages, as ``PushManager.subscribe`` of a page makes them.

Owns: the checks on a subscription's shape, and how many a user has. Never does: resolve names;
the address is checked where it is connected to.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from delivery.domain.inputs.push_target import MAX_URL_CHARS
from delivery.errors import InvalidEvent

MAX_SUBSCRIPTIONS = 10
"""Of one user; a further device takes the place of the one that subscribed first."""
MAX_DEVICE = 64
FIELDS = {"endpoint", "keys", "expirationTime", "device"}
_KEYS = {"p256dh", "auth"}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{1,128}={0,2}")
# Source: SEC 2, version 2, section 2.4.2: y^2 = x^3 - 3x + b modulo p.
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B


@dataclass(frozen=True, slots=True)
class WebPush:
    """One device's subscription.

    Attributes:
        endpoint: URL at the browser's push service; holds a secret.
        p256dh: the browser's public key, base64url. Source: RFC 8291, section 3.
        auth: the browser's authentication secret, base64url.
        device: the client's name for the device; empty for none.
        added_at: RFC 3339; empty until it is stored.
    """

    endpoint: str
    p256dh: str
    auth: str
    device: str = ""
    added_at: str = ""

    @property
    def id(self) -> str:
        """A short name from which the endpoint cannot be read."""
        return sha256(self.endpoint.encode("utf-8", "replace")).hexdigest()[:24]

    @property
    def service(self) -> str:
        """The push service's host."""
        return urlsplit(self.endpoint).hostname or ""

    def as_wire(self) -> dict[str, str]:
        """What the HTTP API shows: no secret."""
        shown = {
            "id": self.id,
            "service": self.service,
            "device": self.device,
            "added_at": self.added_at,
        }
        return {name: value for name, value in shown.items() if value}

    def as_row(self) -> dict[str, str]:
        """What the ledger keeps."""
        return {
            "endpoint": self.endpoint,
            "p256dh": self.p256dh,
            "auth": self.auth,
            "device": self.device,
            "added_at": self.added_at,
        }


def of_row(found: object) -> WebPush | None:
    """A kept subscription; ``None`` for one that is damaged."""
    if not isinstance(found, Mapping):
        return None
    values = {name: found.get(name, "") for name in WebPush.__slots__}
    if not all(isinstance(value, str) for value in values.values()) or not values["endpoint"]:
        return None
    return WebPush(**values)


def with_device(kept: Sequence[WebPush], new: WebPush) -> tuple[WebPush, ...]:
    """The subscriptions with a new one, which replaces the device's own; the newest at most."""
    others = [
        one
        for one in kept
        if one.endpoint != new.endpoint and not (new.device and one.device == new.device)
    ]
    return (*others, new)[-MAX_SUBSCRIPTIONS:]


def parse_web_push(body: Mapping[str, Any]) -> WebPush:
    """Check a subscription: the JSON of a browser's ``PushSubscription``, and a ``device``.

    Raises:
        InvalidEvent: names the field and what to send; never repeats the endpoint.
    """
    if unknown := sorted(set(body) - FIELDS):
        raise InvalidEvent(
            f"unknown field {unknown[0]!r}; known: {', '.join(sorted(FIELDS))}", field=unknown[0]
        )
    keys = body.get("keys")
    if not isinstance(keys, Mapping) or set(keys) != _KEYS:
        raise InvalidEvent(
            'keys must be {"p256dh": "…", "auth": "…"}, as the browser made them', field="keys"
        )
    device = body.get("device")
    if device is not None and not (
        isinstance(device, str) and 0 < len(device) <= MAX_DEVICE and device.isprintable()
    ):
        raise InvalidEvent(f"device must be 1 to {MAX_DEVICE} printable characters", field="device")
    p256dh = _decoded(keys["p256dh"])
    if p256dh is None or not _is_point(p256dh):
        raise InvalidEvent(
            "keys.p256dh must be a point on P-256: 65 bytes in base64url", field="keys"
        )
    auth = _decoded(keys["auth"])
    if auth is None or len(auth) != 16:
        raise InvalidEvent("keys.auth must be 16 bytes in base64url", field="keys")
    return WebPush(parse_endpoint(body.get("endpoint")), _text(p256dh), _text(auth), device or "")


def parse_endpoint(value: object) -> str:
    """Check the address of a subscription.

    Raises:
        InvalidEvent: ``field`` is ``endpoint``.
    """
    if (
        not isinstance(value, str)
        or len(value) > MAX_URL_CHARS
        or not all(" " < char <= "~" and char not in '\\"<>' for char in value)
    ):
        raise InvalidEvent(
            "endpoint must be an https URL of at most 2,048 characters", field="endpoint"
        )
    try:
        parts = urlsplit(value)
        _ = parts.port
        is_whole = parts.scheme == "https" and bool(parts.hostname) and not parts.fragment
    except ValueError:
        is_whole = False
    if not is_whole or "@" in parts.netloc:
        raise InvalidEvent(
            "endpoint must be https://host/path, without a user and a fragment", field="endpoint"
        )
    return value


def _decoded(value: object) -> bytes | None:
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
        return None
    bare = value.rstrip("=")
    try:
        return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error:
        return None


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _is_point(raw: bytes) -> bool:
    if len(raw) != 65 or raw[0] != 4:
        return False
    x, y = int.from_bytes(raw[1:33], "big"), int.from_bytes(raw[33:], "big")
    return x < _P and y < _P and (y * y - (x * x * x - 3 * x + _B)) % _P == 0
