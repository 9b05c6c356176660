"""Where an event's trace comes from, and which events of other systems were taken.

Revision ID: 0010
Revises: 0009

Expands only: processes of the previous release neither read nor write the column or the table.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")


def upgrade() -> None:
    op.add_column("events", sa.Column("traceparent", sa.String(128)))
    op.create_table(
        "cloud_events",
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", "id", name=op.f("pk_cloud_events")),
    )
    op.create_index("ix_cloud_events_event_id", "cloud_events", ["event_id"])
    op.create_index("ix_cloud_events_recorded_at", "cloud_events", ["recorded_at"])


def downgrade() -> None:
    op.drop_table("cloud_events")
    op.drop_column("events", "traceparent")
