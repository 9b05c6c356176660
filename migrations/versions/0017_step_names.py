"""Names of steps, by which a chain may have a channel twice.

Revision ID: 0017
Revises: 0016

Expands only: processes of the previous release neither read nor write the new columns.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("step", sa.String(16)))
    op.add_column("digests", sa.Column("step", sa.String(16)))


def downgrade() -> None:
    op.drop_column("digests", "step")
    op.drop_column("attempts", "step")
