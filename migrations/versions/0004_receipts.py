"""Receipts of providers and suppressed addresses.

Revision ID: 0004
Revises: 0003

Expands only: processes of the previous release neither read nor write the new tables and column.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("attempts", sa.Column("receipt", sa.String(16)))
    op.create_table(
        "receipts",
        sa.Column("digest_id", ID, primary_key=True),
        sa.Column("status", sa.String(16), primary_key=True),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("at", AT, nullable=False),
        sa.Column("recorded_at", AT, nullable=False),
    )
    op.create_table(
        "callback_tokens",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("body", sa.String(64), nullable=False),
        sa.Column("at", AT, nullable=False),
    )
    op.create_index("ix_callback_tokens_at", "callback_tokens", ["at"])
    op.create_table(
        "suppressions",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("address", sa.String(320), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("since", AT, nullable=False),
        sa.Column("expires_at", AT),
        sa.UniqueConstraint("address", "channel"),
    )


def downgrade() -> None:
    op.drop_table("suppressions")
    op.drop_table("callback_tokens")
    op.drop_table("receipts")
    op.drop_column("attempts", "receipt")
