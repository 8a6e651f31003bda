"""Alembic's entry: runs the migrations of the ledger on the connection that ``serving.ledger.migrate`` opened."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
