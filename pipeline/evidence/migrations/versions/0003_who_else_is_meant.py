"""An index for looking up which identifiers a chain names, and until when a root covers all that was said."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("evidence_identifier_chain", "evidence_identifier", ["chain"])
    op.add_column("evidence_root", sa.Column("until", sa.String(30), nullable=False, server_default=""))
