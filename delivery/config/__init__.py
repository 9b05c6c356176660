"""Settings of a process: read once at its start, checked, and passed on as values.

Owns: every key of ``config/delivery.toml`` and its ``DELIVERY_*`` variable. The environment wins
over the file, the file over the default; ``NAME_FILE`` names a file that holds one secret.
Never does: open a connection, or show a secret.
"""

from __future__ import annotations

from delivery.config.checks import (
    DEV_SECRET_PREFIX,
    load_policies,
    load_thresholds,
    require_services,
    require_trust,
    unknown_variables,
)
from delivery.config.settings import Settings, load_settings, log_format, secret
from delivery.config.sources import config_file, read_toml

__all__ = [
    "DEV_SECRET_PREFIX",
    "Settings",
    "config_file",
    "load_policies",
    "load_settings",
    "load_thresholds",
    "log_format",
    "read_toml",
    "require_services",
    "require_trust",
    "secret",
    "unknown_variables",
]
