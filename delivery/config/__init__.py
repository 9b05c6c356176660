"""Settings of a process: read once at its start, checked, and passed on as values.

Owns: every key of ``config/delivery.toml`` and its ``DELIVERY_*`` variable. The environment wins
over the file, the file over the default; ``NAME_FILE`` names a file that holds one secret.
Never does: open a connection, or show a secret.
"""

from __future__ import annotations

from delivery.config.checks import (
    DEV_SECRET_PREFIX,
    audience_fault,
    load_policies,
    load_thresholds,
    load_webhooks,
    refuse_development_secrets,
    require_services,
    require_trust,
    unknown_variables,
)
from delivery.config.needs import Need, duties, needs, require_links
from delivery.config.providers import (
    OpenProvider,
    ProvidersFile,
    load_providers,
    require_providers,
    secret_values,
)
from delivery.config.settings import Settings, load_settings, log_format, secret
from delivery.config.sources import config_file, read_toml

__all__ = [
    "DEV_SECRET_PREFIX",
    "Need",
    "OpenProvider",
    "ProvidersFile",
    "Settings",
    "audience_fault",
    "config_file",
    "duties",
    "load_policies",
    "load_providers",
    "load_settings",
    "load_thresholds",
    "load_webhooks",
    "log_format",
    "needs",
    "read_toml",
    "refuse_development_secrets",
    "require_links",
    "require_providers",
    "require_services",
    "require_trust",
    "secret",
    "secret_values",
    "unknown_variables",
]
