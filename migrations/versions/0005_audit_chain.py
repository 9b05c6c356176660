"""The compliance log gets gapless numbers, a keyed chain of seals, and names apart from its rows.

Revision ID: 0005
Revises: 0004

Expands only: processes of the previous release go on writing rows without a number, which the new
sealer takes over.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from delivery.ledger.index_builds import create_index, drop_index

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String(128)
CODE = sa.String(64)
KEY = sa.String(16)


def upgrade() -> None:
    for column in (
        sa.Column("number", BIG),
        sa.Column("commitment", CODE),
        sa.Column("key", KEY),
        sa.Column("mac", CODE),
    ):
        op.add_column("audit_log", column)
    create_index("ix_audit_log_number", "audit_log", ["number"], unique=True)
    create_index("ix_audit_log_unnumbered", "audit_log", ["id"], where=sa.text("number IS NULL"))
    _create_tables()
    # A database that this same upgrade made has no process of an earlier release to wait for.
    op.execute(
        "INSERT INTO audit_counter (id, number, sealed, upgraded) SELECT 1, 0, 0, "
        "EXISTS (SELECT 1 FROM events) OR EXISTS (SELECT 1 FROM nodes) "
        "OR EXISTS (SELECT 1 FROM audit_log)"
    )


def _create_tables() -> None:
    op.create_table(
        "audit_seals",
        sa.Column("number", BIG, autoincrement=False, nullable=False),
        sa.Column("hash", CODE, nullable=False),
        sa.Column("mac", CODE, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_seals"),
    )
    op.create_table(
        "audit_subjects",
        sa.Column("subject", NAME, nullable=False),
        sa.Column("user_id", NAME, nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_audit_subjects"),
    )
    op.create_table(
        "audit_details",
        sa.Column("number", BIG, autoincrement=False, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_details"),
    )
    op.create_index("ix_audit_details_subject", "audit_details", ["subject"])
    op.create_table(
        "audit_counter",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("mac", CODE),
        sa.Column("key", KEY),
        sa.Column("sealed", BIG, nullable=False),
        sa.Column("sealed_mac", CODE),
        sa.Column("sealed_key", KEY),
        sa.Column("upgraded", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_counter"),
    )


def downgrade() -> None:
    for table in ("audit_counter", "audit_details", "audit_subjects", "audit_seals"):
        op.drop_table(table)
    drop_index("ix_audit_log_unnumbered", "audit_log")
    drop_index("ix_audit_log_number", "audit_log")
    for column in ("mac", "key", "commitment", "number"):
        op.drop_column("audit_log", column)
