"""The compliance log's keys of this installation, and where its checkpoints are kept.

Owns: where the key comes from: its setting, else the data directory's file, which `delivery up`
makes. Never does: keep it in the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from delivery.config import Settings, secret
from delivery.domain.audit import AuditKeys
from delivery.errors import ConfigError
from delivery.process.data_directory import AUDIT_FILE, audit_secret

if TYPE_CHECKING:
    from delivery.transports.checkpoints import CheckpointStore

MAKE = "openssl rand -hex 32"


def audit_keys(settings: Settings) -> AuditKeys:
    """The keys of this installation.

    Raises:
        ConfigError: none is set for the database that is; names the command that makes one.
    """
    given = secret(settings.audit_secret)
    previous = (secret(settings.audit_secret_previous) or "").replace(",", " ").split()
    file = settings.data_dir / AUDIT_FILE
    if given is not None:
        # A log that `delivery up` began is verified with the key that it made.
        own = [audit_secret(settings.data_dir)] if file.is_file() else []
        return AuditKeys(given, [*previous, *own])
    if settings.database_url is None or file.is_file():
        return AuditKeys(audit_secret(settings.data_dir), previous)
    raise ConfigError(
        "DELIVERY_AUDIT_SECRET is missing: the compliance log is chained under a key that the "
        f"database does not have. Make one with: {MAKE}"
    )


def checkpoint_stores(settings: Settings) -> list[CheckpointStore]:
    """Where checkpoints are kept.

    Raises:
        ConfigError: a URL has none of the known forms.
    """
    from delivery.transports.checkpoints import make_stores  # of the one process that seals

    return make_stores([url.get_secret_value() for url in settings.audit_checkpoints])
