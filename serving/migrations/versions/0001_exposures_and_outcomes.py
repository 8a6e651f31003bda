"""Exposures and outcomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "exposures",
        sa.Column("request", sa.String(64), primary_key=True),
        sa.Column("endpoint", sa.String(63), nullable=False),
        sa.Column("experiment", sa.String(63), index=True),
        sa.Column("arm", sa.String(63), nullable=False),
        sa.Column("unit", sa.String(64), nullable=False),
        sa.Column("has_unit", sa.Boolean, nullable=False),
        sa.Column("probabilities", sa.JSON, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("time_s", sa.Float(53), nullable=False, index=True),
        sa.Column("latency_s", sa.Float(53)),
        sa.Column("first_token_s", sa.Float(53)),
        sa.Column("tokens_in", sa.Integer, nullable=False),
        sa.Column("tokens_out", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("kept", sa.JSON, nullable=False),
        sa.Column("consent", sa.Boolean, nullable=False),
    )
    op.create_table(
        "outcomes",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("request", sa.String(64), nullable=False, index=True),
        sa.Column("time_s", sa.Float(53), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("value", sa.Float(53)),
        sa.Column("label", sa.Text),
        sa.Column("correction", sa.Text),
        sa.Column("source", sa.String(63), nullable=False),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("outcomes")
    op.drop_table("exposures")
