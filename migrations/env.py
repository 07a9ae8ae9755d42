"""Alembic's entry point: it runs on the connection that `memit_vc.store.migrate` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from memit_vc.store.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("migrations run through `memitvc upgrade`, which makes a backup first")

# SQLite can hardly alter a table, so Alembic copies it: render_as_batch
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
