"""Subscriptions of users' browsers to push messages.

Revision ID: 0022
Revises: 0021

Expands only: processes of the previous release neither read nor write the new column.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("contacts", sa.Column("web_push", sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("contacts", "web_push")
