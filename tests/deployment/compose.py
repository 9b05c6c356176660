"""docker-compose.yml as Compose reads it: anchors merged, variables replaced by their defaults."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SECRETS = "/run/secrets/"
_VARIABLE = re.compile(r"\$\{[A-Z_]+:-([^}]*)\}")
Service = dict[str, Any]


@cache
def document() -> dict[str, Any]:
    """The whole file."""
    parsed: dict[str, Any] = _filled(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
    return parsed


def services() -> dict[str, Service]:
    """The services by name."""
    found: dict[str, Service] = document()["services"]
    return found


def own_services() -> dict[str, Service]:
    """Those that run our image."""
    return {name: one for name, one in services().items() if one["image"] == "delivery:local"}


def granted_secrets(service: Service) -> dict[str, str]:
    """What a service finds under /run/secrets: file name and the secret's name."""
    granted = service.get("secrets", [])
    pairs = [(s, s) if isinstance(s, str) else (s["target"], s["source"]) for s in granted]
    return dict(pairs)


def bind_mounts(service: Service) -> dict[str, Path]:
    """Paths of this repository by where they are in the container."""
    mounts = [text.split(":") for text in service.get("volumes", [])]
    return {parts[1]: ROOT / parts[0] for parts in mounts if parts[0].startswith(".")}


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one) for one in value]
    return _VARIABLE.sub(r"\1", value) if isinstance(value, str) else value
