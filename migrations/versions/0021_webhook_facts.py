"""What each webhook is told, and how its latest failure read, for processes without the file.

Revision ID: 0021
Revises: 0020

Expands only: processes of the previous release neither read nor write the new columns.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("facts", sa.Text))
    op.add_column("webhooks", sa.Column("last_error", sa.Text))
    op.add_column("webhooks", sa.Column("last_error_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("webhooks", "last_error_at")
    op.drop_column("webhooks", "last_error")
    op.drop_column("webhooks", "facts")
