"""Sources of settings: the environment, the TOML file, and files that hold one secret.

Owns: ``NAME`` and ``NAME_FILE`` excluding each other, unknown keys, unreadable files. Never does:
know a setting by name, or check a value.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from delivery import resources
from delivery.domain.inputs.foreign_text import is_storable
from delivery.errors import ConfigError

PREFIX = "DELIVERY_"


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def names_of(cls: type[BaseSettings]) -> frozenset[str]:
    """The names of all settings."""
    return frozenset(cls.model_fields)


def secrets_of(cls: type[BaseSettings]) -> frozenset[str]:
    """The names of secret settings, whose values may be in files of their own."""
    return frozenset(n for n, f in cls.model_fields.items() if _is_secret(f.annotation))


class _Source(PydanticBaseSettingsSource):
    """A source that reads all fields at once."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # abstract in pydantic; ``__call__`` does not use it


class Environment(_Source):
    def __call__(self) -> dict[str, Any]:
        given = {
            key.removeprefix(PREFIX).lower(): value
            for key, value in os.environ.items()
            if key.startswith(PREFIX)
        }
        return _with_files(self.settings_cls, given, lambda name: PREFIX + name.upper(), Path())


class File(_Source):
    def __call__(self) -> dict[str, Any]:
        path = config_file()
        if path is None:
            return {}
        document = read_toml(path)
        names, secrets = names_of(self.settings_cls), secrets_of(self.settings_cls)
        known = names | {f"{name}_file" for name in secrets}
        unknown = sorted(set(document) - known)
        if unknown:
            raise ConfigError(
                f"{path}: unknown key {', '.join(map(repr, unknown))}; "
                f"known: {', '.join(sorted(names))}"
            )
        return _with_files(self.settings_cls, document, lambda name: f"{path}: {name}", path.parent)


def _with_files(
    cls: type[BaseSettings],
    given: Mapping[str, Any],
    label: Callable[[str], str],
    folder: Path,
) -> dict[str, Any]:
    """The settings among ``given``, with the content of the files that ``NAME_FILE`` keys name.

    Empty values count as unset: compose files pass unset variables so, and our file shows them so.
    """
    names = names_of(cls)
    found = {name: value for name, value in given.items() if name in names and value != ""}
    for name, value in found.items():
        if isinstance(value, str) and not is_storable(value):
            raise ConfigError(f"{label(name)} contains U+0000 or bytes that are not UTF-8")
    for name in secrets_of(cls):
        source = given.get(f"{name}_file")
        if not source:
            continue
        if name in found:
            raise ConfigError(f"{label(name)} and {label(name + '_file')} are both set: drop one")
        found[name] = read_secret(folder / str(source), label(f"{name}_file"))
    return found


def read_secret(path: Path, label: str) -> str:
    """The secret that a file holds, without the line end after it.

    Args:
        label: the key that names the file, for the error.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{label}: cannot read {path}: {_reason(error)}") from error
    if not text:
        raise ConfigError(f"{label}: {path} is empty; write the secret into it")
    return text


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def config_file() -> Path | None:
    """The settings file: ``DELIVERY_CONFIG``, else ``config/delivery.toml`` in the working
    directory, else the packaged one.

    Raises:
        ConfigError: ``DELIVERY_CONFIG`` names a file that does not exist.
    """
    named = os.environ.get(PREFIX + "CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            raise ConfigError(f"DELIVERY_CONFIG: there is no file {path}")
        return path
    here = Path("config/delivery.toml")
    if here.is_file():
        return here
    try:
        return resources.file("config", "delivery.toml")
    except ConfigError:
        return None  # every key has a default


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        ConfigError: it cannot be read or parsed; names the file.
    """
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    # ValueError: no TOML, no UTF-8, a number that Python refuses. RecursionError: nested too deep.
    except (OSError, ValueError, RecursionError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read as TOML: {what}") from error
