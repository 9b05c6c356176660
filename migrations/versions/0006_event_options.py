"""What callers choose for one event: its class, its time to live.

Revision ID: 0006
Revises: 0005

Expands only: processes of the previous release neither read nor write the new columns.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("events", sa.Column("class_chosen", sa.Boolean()))
    op.add_column("events", sa.Column("ttl_ms", BIG))


def downgrade() -> None:
    op.drop_column("events", "ttl_ms")
    op.drop_column("events", "class_chosen")
