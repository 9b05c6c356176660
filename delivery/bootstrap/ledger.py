"""The ledger of this installation: which database it is, its schema, a handle on it.

Owns: the choice between the database that is set and the embedded SQLite file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager

from delivery.bootstrap.audit import audit_keys
from delivery.config import Settings, secret
from delivery.errors import ConfigError
from delivery.ledger import SqlLedger, migrate, roles
from delivery.ledger.partitions.layout import Layout
from delivery.ledger.sql.database import ANSWER_TIMEOUT, Database
from delivery.ledger.sql.url import parse_url

logger = logging.getLogger(__name__)

SQLITE_FILE = "delivery.sqlite3"


def database_url(settings: Settings) -> str:
    """The database that is set, else the embedded file."""
    return secret(settings.database_url) or f"sqlite:///{settings.data_dir / SQLITE_FILE}"


def owner_url(settings: Settings) -> str:
    """The database as its tables' owner: for migrations, and for what the application's role may
    not do."""
    return secret(settings.migrate_database_url) or database_url(settings)


@contextmanager
def open_ledger(
    settings: Settings, *, owner: bool = False, is_patient: bool = False
) -> Iterator[SqlLedger]:
    """The ledger, for an operator's command.

    Args:
        owner: open it as the tables' owner.
        is_patient: wait for answers for as long as they take.

    Raises:
        ConfigError: its tables are not at this version.
    """
    url = owner_url(settings) if owner else database_url(settings)
    require_current(url)
    timeout = None if is_patient else ANSWER_TIMEOUT
    database = Database(url, pool_size=2, answer_timeout=timeout)
    with closing(SqlLedger.on(database, audit_keys(settings))) as ledger:
        yield ledger


def application_role(settings: Settings) -> str | None:
    """The role that gateways and workers connect as, where it is not the owner's."""
    if settings.migrate_database_url is None or settings.database_url is None:
        return None
    own, owner = parse_url(database_url(settings)), parse_url(owner_url(settings))
    is_another = own.get_backend_name() == "postgresql" and own.username != owner.username
    return own.username if is_another else None


def require_current(url: str) -> None:
    """Refuse to work on tables that do not serve this version; those of a newer version may.

    Raises:
        ConfigError: says how to migrate; ``LedgerUnavailable``: the database does not answer.
    """
    found = migrate.look(url)
    if found.fits:
        if found.is_newer:
            logger.info("tables are at %s, of a newer version, and serve this one", found.revision)
        return
    if found.is_newer:
        serve = f"{found.oldest} and later" if found.oldest else "newer versions"
        raise ConfigError(
            f"the database's tables are at {found.revision} and serve {serve}, this version has "
            f"{migrate.head()}: run a newer version, or go down with the one that migrated them "
            f"(`delivery migrate --down {migrate.head()}`)"
        )
    raise ConfigError(
        f"the database's tables are at {found.revision or 'nothing'}, this version needs "
        f"{migrate.head()}: run `delivery migrate`"
    )


def schema(url: str) -> tuple[migrate.Schema, str]:
    """What the tables are at, and this version's revision."""
    return migrate.look(url), migrate.head()


def require_writable(url: str) -> None:
    """Ask the database whether it takes writes.

    Raises:
        LedgerReadOnly: it is a standby or read-only; ``LedgerUnavailable``: no answer.
    """
    with closing(SqlLedger(url, pool_size=1)) as ledger:
        ledger.ping()


def may_change_log(url: str) -> bool:
    """Whether this URL's role may change or delete rows of the compliance log."""
    with closing(SqlLedger(url, pool_size=1)) as ledger:
        return roles.may_change_log(ledger.database)


def partitions(url: str) -> tuple[Layout, bool] | None:
    """The partitions of events and whether the next one is due; ``None`` where events are in one
    table."""
    with closing(SqlLedger(url, pool_size=1)) as ledger:
        found = ledger.partitions.layout()
        return None if found is None else (found, found.is_due(ledger.now()))


def migrate_ledger(
    settings: Settings, *, down: str | None = None, role: str | None = None
) -> str | None:
    """Bring the tables to this version, or down to another; the revision reached.

    Args:
        role: the application's on PostgreSQL; without it, that of the database's URL where the
            owner has a URL of its own.

    Effect: creates and alters tables, and grants the role what it needs; going down drops what the
    revisions above it made.
    """
    url = owner_url(settings)
    is_set = settings.database_url is not None or settings.migrate_database_url is not None
    if not is_set and not settings.data_dir.is_dir():
        raise ConfigError(
            f"DELIVERY_DATABASE_URL is not set and {settings.data_dir} is not there: set it, "
            "or start `delivery up`, which migrates by itself"
        )
    if down is None:
        migrate.upgrade(url)
        role = role or application_role(settings)
        # Grants on newer tables are the newer version's.
        if role is not None and migrate.is_current(url):
            roles.grant(url, role)
    else:
        migrate.downgrade(url, down)
    return migrate.current(url)
