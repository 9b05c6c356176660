"""Groups, by which callers gather events of several runs in one message.

Revision ID: 0007
Revises: 0006

Expands only: processes of the previous release neither read nor write the new columns.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("events", sa.Column("group_key", sa.String(128)))
    op.add_column("digests", sa.Column("group_key", sa.String(128)))


def downgrade() -> None:
    op.drop_column("digests", "group_key")
    op.drop_column("events", "group_key")
