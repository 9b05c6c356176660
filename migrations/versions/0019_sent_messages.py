"""Messages as they were handed to a provider.

Revision ID: 0019
Revises: 0018

Expands only: processes of the previous release do not know the table.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")


def upgrade() -> None:
    op.create_table(
        "sent_messages",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("digest_id", ID, nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("to", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("html", sa.Text),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sent_messages"),
    )
    for column in ("digest_id", "user_id", "at"):
        op.create_index(f"ix_sent_messages_{column}", "sent_messages", [column])


def downgrade() -> None:
    op.drop_table("sent_messages")
