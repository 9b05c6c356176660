"""Which releases may run on these tables, and indexes that are still to be built.

Revision ID: 0014
Revises: 0013

Expands only: processes of the previous release do not know the tables.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

oldest_compatible: str = "0014"
"""Releases whose newest revision is this one, or a later one, may run from here on. A later revision
that takes away what they use names a later one."""


def upgrade() -> None:
    op.create_table(
        "schema_compatibility",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("oldest", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schema_compatibility"),
    )
    op.create_table(
        "index_builds",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("name", name="pk_index_builds"),
    )


def downgrade() -> None:
    op.drop_table("index_builds")
    op.drop_table("schema_compatibility")
