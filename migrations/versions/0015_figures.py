"""Figures over time: a row for each minute and each hour.

Revision ID: 0015
Revises: 0014

Expands only: processes of the previous release do not know the table.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "figures",
        sa.Column("step_s", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("events", BIG, nullable=False),
        sa.Column("delivery_rate", sa.Float),
        sa.Column("fallback_share", sa.Float),
        sa.Column("ack_p50_ms", sa.Float),
        sa.Column("ack_p99_ms", sa.Float),
        sa.Column("connections", BIG, nullable=False),
        sa.Column("dead", BIG, nullable=False),
        sa.Column("open_breakers", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("step_s", "at", name="pk_figures"),
    )


def downgrade() -> None:
    op.drop_table("figures")
