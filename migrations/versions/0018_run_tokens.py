"""Tokens and cost of a run, added up from its events of the type ``token_metrics``.

Revision ID: 0018
Revises: 0017

Expands only: processes of the previous release neither read nor write the columns.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS = ("input_tokens", "output_tokens", "cost_micros")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("runs", sa.Column(name, BIG))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("runs", name)
