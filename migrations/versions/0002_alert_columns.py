"""Conditions and faults of an alert group move from ``error`` to columns of their own.

Revision ID: 0002
Revises: 0001

Expands only: processes of the previous release neither read nor write the new columns.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("digests", sa.Column("conditions", sa.Text))
    op.add_column("digests", sa.Column("faults", sa.Text))


def downgrade() -> None:
    op.drop_column("digests", "faults")
    op.drop_column("digests", "conditions")
