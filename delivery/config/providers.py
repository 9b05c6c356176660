"""The providers file: ``DELIVERY_PROVIDERS``, and the secrets that it names.

Owns: where the file is, and the reading of secrets, those alone that a process uses. Never does:
connect, or show a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from delivery.config.settings import Settings
from delivery.config.sources import read_secret, read_toml
from delivery.domain.channels import Channel
from delivery.domain.messages.providers import ProviderSpec, parse_providers
from delivery.errors import ConfigError

DEFAULT = Path("config/providers.toml")


@dataclass(frozen=True, slots=True)
class OpenProvider:
    """A provider with its secrets, by key."""

    spec: ProviderSpec
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProvidersFile:
    """The providers by name, in the file's order; none without a file."""

    path: Path
    specs: Mapping[str, ProviderSpec]

    def open(self, name: str) -> OpenProvider:
        """Read a provider's secrets.

        Raises:
            ConfigError: names the key and the file that cannot be read.
        """
        spec = self.specs[name]
        found: dict[str, str] = {}
        for key, source in spec.secrets.items():
            if source.file is None:
                found[key] = source.value or ""
            else:
                label = f"{self.path}: provider.{name}.{key}_file"
                found[key] = read_secret(self.path.parent / source.file, label)
        return OpenProvider(spec, found)

    def channels(self) -> frozenset[Channel]:
        """The channels that have a provider."""
        return frozenset(spec.channel for spec in self.specs.values())


def load_providers(settings: Settings) -> ProvidersFile:
    """Read and check the providers file, without its secrets: ``DELIVERY_PROVIDERS``, else
    ``config/providers.toml`` in the working directory. Without one there are none.

    Raises:
        ConfigError: names the file, the key and what to write; never a secret.
    """
    path = settings.providers or DEFAULT
    if not path.is_file():
        if settings.providers is None:
            return ProvidersFile(path, {})
        raise ConfigError(f"DELIVERY_PROVIDERS: there is no file {path}")
    return ProvidersFile(path, parse_providers(read_toml(path), source=str(path)))


def require_providers(settings: Settings, of: Collection[str]) -> None:
    """Refuse to start a worker of mails or texts whose providers' secrets it cannot read.

    Args:
        of: the worker's duties.

    Raises:
        ConfigError: names the key and the file.
    """
    file = load_providers(settings)
    for name, spec in file.specs.items():
        if spec.channel in of:
            file.open(name)


def secret_values(opened: OpenProvider) -> list[str]:
    """What the log must never show."""
    found = [value for key, value in opened.secrets.items() if key != "url"]
    inside = re.search(r"://[^/\s:@]*:([^/\s@]+)@", opened.secrets["url"])
    return found if inside is None else [*found, inside[1], unquote(inside[1])]
