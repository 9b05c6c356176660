"""What the application's role may do on PostgreSQL, apart from the owner of the tables.

Owns: the grants. The compliance log's rows and seals may only be read and inserted: a gateway or
worker that was taken over cannot change or delete one, key or no key.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.errors import ConfigError
from delivery.ledger.migrate import transaction
from delivery.ledger.sql.audit_tables import (
    audit_counter,
    audit_details,
    audit_head,
    audit_log,
    audit_seals,
    audit_subjects,
)
from delivery.ledger.sql.columns import metadata
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.tables import index_builds, schema_compatibility
from delivery.ledger.sql.url import parse_url

ALL = "SELECT, INSERT, UPDATE, DELETE"
LESS = {
    audit_log.name: "SELECT, INSERT",
    audit_seals.name: "SELECT, INSERT",
    audit_counter.name: "SELECT, INSERT, UPDATE",
    audit_subjects.name: "SELECT, INSERT, DELETE",
    audit_details.name: "SELECT, INSERT, DELETE",
    audit_head.name: "SELECT",
    schema_compatibility.name: "SELECT",
    index_builds.name: "SELECT",
    "alembic_version": "SELECT",
}
"""Tables of which the application needs less than all. An erasure deletes names and details."""


def grant(url: str, role: str) -> None:
    """Give the application's role what it needs and nothing else. Safe to repeat.

    Args:
        url: the database as the owner of its tables.

    Raises:
        ConfigError: not PostgreSQL, no such role, or one that grants do not bind.
        LedgerUnavailable: the database cannot be reached.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        raise ConfigError("--role: SQLite has no roles")
    with transaction(url) as connection:
        _check(connection, role)
        quote = connection.dialect.identifier_preparer.quote
        to = quote(role)
        schema = quote(str(connection.execute(sa.text("select current_schema()")).scalar_one()))
        statements = [f"GRANT USAGE ON SCHEMA {schema} TO {to}"]
        for table in (*metadata.tables, "alembic_version"):
            name = f"{schema}.{quote(table)}"
            statements.append(f"REVOKE ALL ON {name} FROM {to}")
            statements.append(f"GRANT {LESS.get(table, ALL)} ON {name} TO {to}")
        statements.append(f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {to}")
        for statement in statements:
            connection.exec_driver_sql(statement)


def _check(connection: Connection, role: str) -> None:
    asked = sa.text(
        "select rolsuper, pg_has_role(:role, current_user, 'MEMBER') as is_owner "
        "from pg_roles where rolname = :role"
    )
    found = connection.execute(asked, {"role": role}).one_or_none()
    if found is None:
        raise ConfigError(
            f"there is no role {role!r}; make it with: CREATE ROLE … LOGIN PASSWORD '…'"
        )
    if found.rolsuper or found.is_owner:
        raise ConfigError(
            f"{role!r} is a superuser, the tables' owner or a member of it: make a role of its own "
            "for the application"
        )


def may_change_log(database: Database) -> bool:
    """Whether this connection's role may change or delete rows of the compliance log."""
    if database.is_sqlite:
        return False
    asked = sa.text(
        "select has_table_privilege(current_user, 'audit_log', 'UPDATE, DELETE, TRUNCATE') "
        "or has_table_privilege(current_user, 'audit_seals', 'UPDATE, DELETE, TRUNCATE')"
    )
    with database.read() as connection:
        return bool(connection.execute(asked).scalar_one())
