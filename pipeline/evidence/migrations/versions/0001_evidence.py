"""The archive's first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _records()
    _chains()
    _anchors()


def _records() -> None:
    op.create_table(
        "evidence_record",
        sa.Column("chain", sa.String(64), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("record_id", sa.String(200), nullable=False),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("chain", "sequence", name="evidence_record_pkey"),
        sa.UniqueConstraint("record_id", name="evidence_record_id"),
    )
    op.create_index("evidence_record_event", "evidence_record", ["event_id"])


def _chains() -> None:
    op.create_table(
        "evidence_chain",
        sa.Column("chain", sa.String(64), primary_key=True),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("head", sa.String(64), nullable=False),
        sa.Column("bucket", sa.Integer, nullable=False),
        sa.Column("anchored_length", sa.Integer, nullable=False),
        sa.Column("anchored_head", sa.String(64), nullable=False),
    )
    op.create_index("evidence_chain_bucket", "evidence_chain", ["bucket"])
    op.create_table(
        "evidence_identifier",
        sa.Column("identifier_key", sa.String(64), nullable=False),
        sa.Column("chain", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("identifier_key", "chain", name="evidence_identifier_pkey"),
    )


def _anchors() -> None:
    op.create_table(
        "evidence_bucket",
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("root", sa.String(64), nullable=False),
    )
    op.create_table(
        "evidence_root",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tree", sa.String(64), nullable=False),
        sa.Column("chains", sa.Integer, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("made_ms", sa.BigInteger, nullable=False),
    )
    op.create_table("evidence_position", sa.Column("stream", sa.String(200), primary_key=True), sa.Column("entry", sa.String(40), nullable=False))
    op.create_table("evidence_fact", sa.Column("name", sa.String(40), primary_key=True), sa.Column("value", sa.String(200), nullable=False))


def downgrade() -> None:
    for name in ("fact", "position", "root", "bucket", "identifier", "chain", "record"):
        op.drop_table(f"evidence_{name}")
