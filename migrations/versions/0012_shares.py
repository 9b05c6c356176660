"""Events that wait for their turn while their user's share of a queue is used up.

Revision ID: 0012
Revises: 0011

Expands only: processes of the previous release publish what waits when its due time passes.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from delivery.ledger.index_builds import create_index, drop_index

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("events", sa.Column("turn", sa.String(40)))
    create_index(
        "ix_events_published",
        "events",
        ["user_id", "class", "step"],
        where=sa.text("publishes > 0 AND due_at IS NOT NULL"),
    )
    create_index(
        "ix_events_turn",
        "events",
        ["user_id", "turn", "position"],
        where=sa.text("turn IS NOT NULL AND due_at IS NOT NULL"),
    )


def downgrade() -> None:
    drop_index("ix_events_turn", "events")
    drop_index("ix_events_published", "events")
    op.drop_column("events", "turn")
