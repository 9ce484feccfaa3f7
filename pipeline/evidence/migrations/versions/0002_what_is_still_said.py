"""An index of the records that still say something, for looking up those whose time is over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    says = sa.text("length(content) > 0")
    op.create_index("evidence_record_said", "evidence_record", ["at_ms"], sqlite_where=says, postgresql_where=says)
