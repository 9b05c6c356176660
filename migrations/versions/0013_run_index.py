"""An index by which a run is found whose user is not given.

Revision ID: 0013
Revises: 0012

Expands only: processes of the previous release do not use it.
"""

from collections.abc import Sequence

from delivery.ledger.index_builds import create_index, drop_index

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    create_index("ix_runs_run_id", "runs", ["run_id"])


def downgrade() -> None:
    drop_index("ix_runs_run_id", "runs")
