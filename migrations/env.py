"""Alembic's entry: runs migrations on the connection that `delivery.ledger.migrate` passes.

The `alembic` command passes none: then DELIVERY_DATABASE_URL is opened, under the same lock.
"""

import logging
import os
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from delivery.errors import DeliveryError
from delivery.ledger import index_builds, migrate
from delivery.ledger.sql.columns import metadata
from delivery.ledger.sql.url import parse_url


def mark(*, ctx: MigrationContext, heads: Any, **_step: Any) -> None:
    """Note after each step which releases may run on what it made."""
    migrate.mark(ctx, heads)


def run(connection: Connection) -> None:
    """Migrate inside the connection's transaction. SQLite alters a table by copying it."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        on_version_apply=mark,
    )
    with context.begin_transaction():
        context.run_migrations()
        index_builds.settle(connection)


def run_from_command_line() -> None:
    """Take the database from the environment; with `--sql` only print what would be executed."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    url = os.environ.get("DELIVERY_DATABASE_URL")
    if not url:
        raise CommandError("set DELIVERY_DATABASE_URL to the database to migrate")
    try:
        if context.is_offline_mode():
            context.configure(
                url=parse_url(url),
                target_metadata=metadata,
                literal_binds=True,
                dialect_opts={"paramstyle": "named"},
                on_version_apply=mark,
            )
            with context.begin_transaction():
                context.run_migrations()
            return
        with migrate.transaction(url) as connection:
            run(connection)
        index_builds.build(url)
    except DeliveryError as error:
        raise CommandError(str(error)) from error


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    run_from_command_line()
