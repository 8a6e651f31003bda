"""Exposures are found by their unit, to forget it."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_exposures_unit", "exposures", ["unit"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_exposures_unit", "exposures")
