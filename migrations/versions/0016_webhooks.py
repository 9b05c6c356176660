"""Webhooks out: endpoints, their messages and attempts, and the outcomes that they tell.

Revision ID: 0016
Revises: 0015

Expands only: processes of the previous release write no outcomes, so that what they end without a
confirmation during an upgrade is told to no endpoint.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from delivery.ledger import index_builds

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INSTANT = sa.DateTime(timezone=True)
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "outcomes",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("event_id", sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("facts", sa.Text()),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outcomes"),
    )
    op.create_index("ix_outcomes_at", "outcomes", ["at"])
    op.create_index("ix_outcomes_user_id", "outcomes", ["user_id"])
    op.create_table(
        "webhooks",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("is_on", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("followed_at", INSTANT, nullable=False),
        sa.Column("settled_at", INSTANT, nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", INSTANT),
        sa.Column("paused_until", INSTANT),
        sa.Column("token", BIG, server_default="0", nullable=False),
        sa.Column("claimed_until", INSTANT),
        sa.PrimaryKeyConstraint("name", name="pk_webhooks"),
    )
    _create_messages()
    if op.get_bind().dialect.name == "postgresql":
        storage = {"pages_per_range": 32, "autosummarize": True}
        index_builds.create_index(
            "ix_confirmations_at",
            "confirmations",
            ["at"],
            options={"postgresql_using": "brin", "postgresql_with": storage},
        )


def _create_messages() -> None:
    op.create_table(
        "webhook_messages",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("webhook", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(36), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("due_at", INSTANT),
        sa.Column("number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_messages"),
        sa.UniqueConstraint(
            "webhook",
            "subject",
            "kind",
            "generation",
            name="uq_webhook_messages_webhook_subject_kind_generation",
        ),
    )
    op.create_index("ix_webhook_messages_at", "webhook_messages", ["at"])
    op.create_index("ix_webhook_messages_subject", "webhook_messages", ["subject"])
    waits = sa.text("due_at IS NOT NULL")
    op.create_index(
        "ix_webhook_messages_due",
        "webhook_messages",
        ["webhook", "due_at"],
        postgresql_where=waits,
        sqlite_where=waits,
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("message_id", BIG, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("message_id", "number", name="pk_webhook_attempts"),
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        index_builds.drop_index("ix_confirmations_at", "confirmations")
    for table in ("webhook_attempts", "webhook_messages", "webhooks", "outcomes"):
        op.drop_table(table)
