"""Providers of mails and texts: the shape of the providers file, and every check on it.

Owns: names, defaults and bounds of the file's keys. Never does: read a file, connect, or show a
secret.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from delivery.domain.channels import Channel
from delivery.errors import ConfigError

PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
MAX_PROVIDERS = 20
MAX_OF_STEP = 4
MAX_URL = 2_048
MAX_TEXT = 320
MAX_SECRET = 4_096
LEAST_TIMEOUT, MAX_TIMEOUT = 1.0, 60.0
"""Seconds of one provider, and of one attempt with all providers of a step."""
MAX_RATE = 1_000.0


class ProviderKind(enum.StrEnum):
    """How a provider is spoken to."""

    SMTP = "smtp"
    TWILIO = "twilio"

    @property
    def channel(self) -> Channel:
        """The channel whose messages it takes."""
        return Channel.EMAIL if self is ProviderKind.SMTP else Channel.SMS


_TIMEOUTS = {ProviderKind.SMTP: 30.0, ProviderKind.TWILIO: 10.0}
_SECRETS = {ProviderKind.SMTP: ("url", "password"), ProviderKind.TWILIO: ("url", "token")}
_TEXTS = {ProviderKind.SMTP: ("from", "user"), ProviderKind.TWILIO: ("from", "account")}


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret is: in the file itself, or in a file of its own."""

    value: str | None = field(default=None, repr=False)
    file: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """One provider, as the file describes it.

    Attributes:
        secrets: by key, ``url`` among them: it may hold a password.
        texts: ``from``, and ``user`` or ``account``, those that are given.
        timeout: seconds for one message.
        rate: messages per second; 0 for no limit.
    """

    name: str
    kind: ProviderKind
    secrets: Mapping[str, SecretSource]
    texts: Mapping[str, str]
    timeout: float
    rate: float = 0.0

    @property
    def channel(self) -> Channel:
        """The channel whose messages it takes."""
        return self.kind.channel


def parse_providers(
    document: Mapping[str, Any], *, source: str = "providers"
) -> dict[str, ProviderSpec]:
    """Check a parsed providers file; provider by name, in the file's order.

    Raises:
        ConfigError: names file, key, fault and what to write; never a secret.
    """
    reader = _Reader(source)
    top = reader.table(document, "", ("provider",))
    tables = top.get("provider", {})
    if not isinstance(tables, Mapping):
        reader.fail("provider", "must be tables: write [provider.NAME]")
    if len(tables) > MAX_PROVIDERS:
        reader.fail("provider", f"{len(tables)} providers; at most {MAX_PROVIDERS}")
    return {name: reader.provider(name, table) for name, table in tables.items()}


def check_step(
    key: str, channel: str, names: Sequence[str], known: Mapping[str, ProviderSpec]
) -> None:
    """Check the providers that a step of a policy names.

    Args:
        key: of the step, for errors.

    Raises:
        ConfigError: one is not defined, is of another channel, or together they take too long.
    """
    for name in names:
        spec = known.get(name)
        if spec is None:
            listed = ", ".join(known) or "none is defined"
            raise ConfigError(
                f"{key}.providers: no provider {name!r} in DELIVERY_PROVIDERS "
                f"(config/providers.toml); known: {listed}"
            )
        if spec.channel != channel:
            raise ConfigError(
                f"{key}.providers: {name!r} is of kind {spec.kind}, which is for steps of "
                f"{spec.channel}, not {channel}"
            )
    total = sum(known[name].timeout for name in names)
    if total > MAX_TIMEOUT:
        raise ConfigError(
            f"{key}.providers: their timeouts are {total:g} seconds together; an attempt has "
            f"{MAX_TIMEOUT:g}: write shorter ones into the providers file"
        )


class _Reader:
    """Reads the document; every error names file and key."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, what: str) -> NoReturn:
        raise ConfigError(f"{self.source}: {key or 'top level'}: {what}")

    def table(self, value: Any, key: str, allowed: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self.fail(key, f"must be a table, not {type(value).__name__}")
        unknown = sorted(set(value) - set(allowed))
        if unknown:
            known = ", ".join(sorted(allowed))
            self.fail(f"{key}.{unknown[0]}".lstrip(".")[:80], f"unknown key; known here: {known}")
        return value

    def provider(self, name: str, value: Any) -> ProviderSpec:
        key = f"provider.{name}"[:80]
        if PROVIDER_NAME.fullmatch(name) is None or name in frozenset(Channel):
            self.fail(
                key,
                "a provider's name has 1 to 32 of a-z, 0-9, _ and -, begins with a letter, and is "
                "not a channel's",
            )
        if not isinstance(value, Mapping):
            self.fail(key, f"must be a table, not {type(value).__name__}")
        kind = self.kind(value, key)
        secrets, texts = _SECRETS[kind], _TEXTS[kind]
        files = tuple(f"{one}_file" for one in secrets)
        table = self.table(value, key, ("kind", "timeout", "rate", *texts, *secrets, *files))
        found = {one: source for one in secrets if (source := self.secret(table, key, one))}
        if "url" not in found:
            self.fail(f"{key}.url", "is missing; write the provider's URL, or url_file")
        given = {
            one: self.text(table[one], f"{key}.{one}", MAX_TEXT) for one in texts if one in table
        }
        self.pair(kind, key, found, given)
        rate = self.number(table, key, "rate", 0.0, 0.001, MAX_RATE) if "rate" in table else 0.0
        timeout = self.number(table, key, "timeout", _TIMEOUTS[kind], LEAST_TIMEOUT, MAX_TIMEOUT)
        return ProviderSpec(name, kind, found, given, timeout, rate)

    def kind(self, table: Mapping[str, Any], key: str) -> ProviderKind:
        known = ", ".join(ProviderKind)
        if "kind" not in table:
            self.fail(f"{key}.kind", f"is missing; write one of {known}")
        for kind in ProviderKind:
            if table["kind"] == kind:
                return kind
        self.fail(f"{key}.kind", f"unknown kind; write one of {known}")

    def pair(
        self,
        kind: ProviderKind,
        key: str,
        secrets: Mapping[str, SecretSource],
        texts: Mapping[str, str],
    ) -> None:
        name, secret = ("user", "password") if kind is ProviderKind.SMTP else ("account", "token")
        if (name in texts) != (secret in secrets):
            missing = secret if name in texts else name
            self.fail(f"{key}.{missing}", f"is missing: {name} and {secret} go together")
        if kind is ProviderKind.TWILIO and name not in texts:
            self.fail(f"{key}.{name}", "is missing; write the account's SID, and token_file")

    def secret(self, table: Mapping[str, Any], key: str, name: str) -> SecretSource | None:
        limit = MAX_URL if name == "url" else MAX_SECRET
        file = f"{name}_file"
        if name in table and file in table:
            self.fail(f"{key}.{name}", f"{name} and {file} are both set: drop one")
        if file in table:
            return SecretSource(file=self.text(table[file], f"{key}.{file}", MAX_URL))
        if name in table:
            return SecretSource(value=self.text(table[name], f"{key}.{name}", limit))
        return None

    def text(self, value: Any, key: str, limit: int) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= limit or not value.isprintable():
            self.fail(key, f"must be a text of 1 to {limit} printable characters")
        return value

    def number(
        self,
        table: Mapping[str, Any],
        key: str,
        name: str,
        default: float,
        least: float,
        most: float,
    ) -> float:
        value = table.get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            self.fail(f"{key}.{name}", f"must be a number from {least:g} to {most:g}")
        return float(value)
