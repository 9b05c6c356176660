"""Which of a step's providers made an attempt, and when each provider's rate is free again.

Revision ID: 0020
Revises: 0019

Expands only: processes of the previous release neither read nor write the new column and table.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("provider", sa.String(32)))
    op.create_table(
        "provider_rates",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_provider_rates"),
    )


def downgrade() -> None:
    op.drop_table("provider_rates")
    op.drop_column("attempts", "provider")
