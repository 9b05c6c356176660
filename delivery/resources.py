"""Finds the files that ship beside the code: ``config/``, ``migrations/``, ``web/``.

Owns: their paths. The source tree comes first, because an editable install keeps a stale copy of
the wheel's files; then the wheel (``delivery/_config``, ``delivery/_migrations``).
Never does: read them.
"""

from __future__ import annotations

from pathlib import Path

from delivery.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent
_SOURCE = _PACKAGE.parent


def folder(name: str) -> Path:
    """The folder ``config``, ``migrations`` or ``web``.

    Raises:
        ConfigError: neither the source tree nor the installed package has it.
    """
    is_source = (_SOURCE / "pyproject.toml").is_file()
    candidates = [_SOURCE / name] if is_source else []
    candidates += [_PACKAGE / f"_{name}", _PACKAGE / name]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"the installed package has no folder {name!r}: install delivery again")


def file(folder_name: str, name: str) -> Path:
    """One file of such a folder, e.g. ``file("config", "policies.toml")``.

    Raises:
        ConfigError: the file does not exist.
    """
    path = folder(folder_name) / name
    if not path.is_file():
        raise ConfigError(f"the installed package lacks {folder_name}/{name}: install it again")
    return path
