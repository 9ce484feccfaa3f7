"""Alembic's way in: works on the connection that the archive hands over, and on no other."""

from __future__ import annotations

from alembic import context

from pipeline.evidence.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table="evidence_version", render_as_batch=True, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
