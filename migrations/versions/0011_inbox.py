"""What users have read and archived of their inboxes.

Revision ID: 0011
Revises: 0010

Expands only: processes of the previous release do not know the table.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "inbox_marks",
        sa.Column(
            "event_id",
            sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite"),
            nullable=False,
        ),
        sa.Column("read_at", INSTANT),
        sa.Column("archived_at", INSTANT),
        sa.PrimaryKeyConstraint("event_id", name="pk_inbox_marks"),
    )


def downgrade() -> None:
    op.drop_table("inbox_marks")
