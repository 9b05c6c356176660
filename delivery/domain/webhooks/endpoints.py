"""The application's endpoints: the shape of the webhooks file, and every check on it.

Owns: names, defaults and messages of the file's keys. Never does: read a file, resolve a name, or
show a secret.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import enum
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from delivery.domain.event import CLASS_NAME
from delivery.domain.inputs.foreign_text import is_storable
from delivery.domain.inputs.push_target import is_public
from delivery.errors import ConfigError

MAX_ENDPOINTS = 32
MAX_LISTED = 1_000
MAX_URL = 2_048
MAX_TYPE = 128
SECRET_PREFIX = "whsec_"  # noqa: S105 - a mark, not a secret
MIN_SECRET, MAX_SECRET = 24, 256
"""Bytes of a secret. Source: Standard Webhooks, "Signature scheme": at least 24."""
MAKE_SECRET = 'echo "whsec_$(openssl rand -base64 32)"'  # noqa: S105 - a command

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NUMERIC = re.compile(r"[0-9.]+|\[[0-9A-Fa-f:.]+\]")


class WebhookKind(enum.StrEnum):
    """What an endpoint can be told."""

    CONFIRMED = "event.confirmed"
    PARKED = "event.parked"
    DEAD = "event.dead"
    EXPIRED = "event.expired"
    BOUNCED = "contact.bounced"
    UNSUBSCRIBED = "contact.unsubscribed"


class WebhookFormat(enum.StrEnum):
    """The shape of a message's body."""

    STANDARD = "standard"
    CLOUDEVENTS = "cloudevents"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the application's endpoints.

    Attributes:
        secret: the key that signs; a second signature is made with ``previous``, if there is one.
        events: kinds that it is told.
        types / classes: of the events that it is told about; empty for all. Kinds about contacts
            have neither.
        allow_private: whether it may have an address that is not public.
    """

    name: str
    url: str
    secret: bytes = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)
    events: frozenset[WebhookKind] = frozenset(WebhookKind)
    types: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    allow_private: bool = False
    format: WebhookFormat = WebhookFormat.STANDARD

    @property
    def host(self) -> str:
        """The host that its URL names, without brackets."""
        return urlsplit(self.url).hostname or ""


_KEYS = (
    "url",
    "secret",
    "secret_file",
    "secret_previous",
    "secret_previous_file",
    "events",
    "types",
    "classes",
    "allow_private",
    "format",
)
_Word = TypeVar("_Word", bound=enum.StrEnum)
ReadSecret = Callable[[str, str], str]
"""Reads a file: its path as written, and the key that names it. Raises ``ConfigError``."""


def parse_webhooks(
    document: Mapping[str, Any], *, source: str = "webhooks", read_secret: ReadSecret
) -> tuple[Endpoint, ...]:
    """Check a parsed webhooks file and make its endpoints.

    Args:
        document: the file as ``tomllib`` parsed it.
        source: the file's name, for errors.
        read_secret: reads the files that ``secret_file`` and ``secret_previous_file`` name.

    Raises:
        ConfigError: names the key, the fault and what to write; never a secret.
    """
    reader = _Reader(source, read_secret)
    top = reader.table(document, "", ("webhook",))
    tables = top.get("webhook", {})
    if not isinstance(tables, Mapping):
        reader.fail("webhook", "write each endpoint as a table: [webhook.NAME]")
    if len(tables) > MAX_ENDPOINTS:
        reader.fail("webhook", f"{len(tables)} endpoints; at most {MAX_ENDPOINTS}")
    return tuple(reader.endpoint(name, table) for name, table in tables.items())


class _Reader:
    """Reads the document; every error names file and key."""

    def __init__(self, source: str, read_secret: ReadSecret) -> None:
        self._source = source
        self._read_secret = read_secret

    def fail(self, key: str, what: str) -> NoReturn:
        raise ConfigError(f"{self._source}: {key or 'top level'}: {what}")

    def table(self, value: Any, key: str, known: Collection[str]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self.fail(key, f"must be a table, write [{key}]")
        for name in sorted(set(value) - set(known)):
            self.fail(f"{key}.{name}".lstrip(".")[:160], f"unknown key{_advice(name, known)}")
        return value

    def endpoint(self, name: str, value: Any) -> Endpoint:
        if _NAME.fullmatch(name) is None:
            self.fail(f"webhook.{name}"[:80], "a name has 1 to 64 of A-Z, a-z, 0-9, _ and -")
        key = f"webhook.{name}"
        table = self.table(value, key, _KEYS)
        allow_private = table.get("allow_private", False)
        if not isinstance(allow_private, bool):
            self.fail(f"{key}.allow_private", "must be true or false")
        secret = self._secret(table, key, "secret")
        if secret is None:
            self.fail(f"{key}.secret", f"is missing; make one with: {MAKE_SECRET}")
        previous = self._secret(table, key, "secret_previous")
        if previous == secret:
            self.fail(f"{key}.secret_previous", "is the same as secret; leave it out")
        kinds = self._words(table, f"{key}.events", "events", WebhookKind)
        format_ = {"format": [table["format"]]} if "format" in table else {}
        formats = self._words(format_, f"{key}.format", "format", WebhookFormat)
        return Endpoint(
            name,
            self._url(table, key, allow_private),
            secret,
            previous,
            frozenset(kinds or WebhookKind),
            self._types(table, f"{key}.types"),
            self._classes(table, f"{key}.classes"),
            allow_private,
            formats[0] if formats else WebhookFormat.STANDARD,
        )

    def _url(self, table: Mapping[str, Any], key: str, allow_private: bool) -> str:
        key = f"{key}.url"
        url = table.get("url")
        if not isinstance(url, str) or not url:
            self.fail(key, "is missing; write https://host/path")
        if len(url) > MAX_URL or not all("!" <= char <= "~" for char in url):
            self.fail(key, f"has at most {MAX_URL} characters of ASCII, and no spaces")
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            _ = parts.port
        except ValueError:
            self.fail(key, "write a URL like https://host/path")
        if parts.scheme not in ("http", "https") or not host or "\\" in url:
            self.fail(key, "write a URL like https://host/path")
        if "@" in parts.netloc or parts.fragment:
            self.fail(key, "has no user, password or fragment; messages are signed")
        if parts.scheme == "http" and not allow_private:
            self.fail(key, "use https; http is for allow_private = true only")
        if not allow_private and _is_private(host):
            self.fail(key, f"{host} is not public; set allow_private = true if that is wanted")
        return url

    def _secret(self, table: Mapping[str, Any], key: str, name: str) -> bytes | None:
        value, file = table.get(name), table.get(f"{name}_file")
        if value and file:
            self.fail(f"{key}.{name}", f"and {name}_file are both set: drop one")
        if file:
            if not isinstance(file, str):
                self.fail(f"{key}.{name}_file", "must be a path")
            name = f"{name}_file"
            value = self._read_secret(file, f"{self._source}: {key}.{name}")
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            self.fail(f"{key}.{name}", f"must be a string; make one with: {MAKE_SECRET}")
        made = decode_secret(value)
        if made is None:
            self.fail(
                f"{key}.{name}",
                f"must be whsec_ and {MIN_SECRET} to {MAX_SECRET} bytes in base64; "
                f"make one with: {MAKE_SECRET}",
            )
        return made

    def _list(self, table: Mapping[str, Any], key: str, name: str) -> list[str]:
        value = table.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(key, "must be a list of strings")
        if len(value) > MAX_LISTED:
            self.fail(key, f"has at most {MAX_LISTED} entries")
        if name in table and not value:
            self.fail(key, "is empty; leave it out for all")
        return list(value)

    def _words(
        self, table: Mapping[str, Any], key: str, name: str, known: type[_Word]
    ) -> list[_Word]:
        found = []
        names = {word.value: word for word in known}
        for item in self._list(table, key, name):
            if item not in names:
                self.fail(key, f"{item[:64]!r} is not known{_advice(item, names)}")
            found.append(names[item])
        return found

    def _types(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        found = self._list(table, key, "types")
        for item in found:
            if not 0 < len(item) <= MAX_TYPE or not is_storable(item):
                self.fail(key, f"a type has 1 to {MAX_TYPE} characters")
        return tuple(dict.fromkeys(found))

    def _classes(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        found = self._list(table, key, "classes")
        for item in found:
            if CLASS_NAME.fullmatch(item) is None:
                self.fail(key, f"{item[:64]!r} is no name of a class")
        return tuple(dict.fromkeys(found))


def decode_secret(text: str) -> bytes | None:
    """The key that a secret stands for; ``None`` if it is none.

    Source: Standard Webhooks, "Signature scheme": ``whsec_`` and base64.
    """
    bare = text.strip().removeprefix(SECRET_PREFIX)
    try:
        made = base64.b64decode(bare, validate=True)
    except (binascii.Error, ValueError):
        return None
    return made if MIN_SECRET <= len(made) <= MAX_SECRET else None


def _advice(name: str, known: Iterable[str]) -> str:
    listed = list(known)
    near = difflib.get_close_matches(name[:64], listed, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} Known: {', '.join(listed)}" if near else f"; known: {', '.join(listed)}"


def _is_private(host: str) -> bool:
    """Whether a host is an address that is not public, or this machine's own name. Other names are
    checked when they are resolved, at each connect."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    is_address = _NUMERIC.fullmatch(name) is not None or ":" in name
    return is_address and not is_public(name)
