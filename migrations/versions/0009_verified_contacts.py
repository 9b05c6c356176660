"""Verified addresses: what a contact's owner agreed to, and the messages that ask for it.

Revision ID: 0009
Revises: 0008

Expands only. A contact that stands here has no list of verified addresses, and so has all of them
verified: it was set before a client's address needed its owner's agreement.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("contacts", sa.Column("verified", sa.Text))
    op.create_table(
        "verifications",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("asked_at", AT, nullable=False),
        sa.Column("due_at", AT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verifications"),
    )
    op.create_index("ix_verifications_due_at", "verifications", ["due_at"])
    op.create_index("ix_verifications_user_id", "verifications", ["user_id"])
    op.create_table(
        "verification_limits",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("at", AT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_verification_limits"),
    )
    op.create_index("ix_verification_limits_at", "verification_limits", ["at"])


def downgrade() -> None:
    op.drop_table("verification_limits")
    op.drop_table("verifications")
    op.drop_column("contacts", "verified")
