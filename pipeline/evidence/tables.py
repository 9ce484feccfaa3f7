"""The archive's tables; `migrations` makes them, and a test holds the two against each other."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, PrimaryKeyConstraint, String, Table, UniqueConstraint, text

METADATA: Final = MetaData()

RECORDS: Final = Table(
    "evidence_record",
    METADATA,
    Column("chain", String(64), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("record_id", String(200), nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    PrimaryKeyConstraint("chain", "sequence", name="evidence_record_pkey"),
    UniqueConstraint("record_id", name="evidence_record_id"),
    Index("evidence_record_event", "event_id"),
    Index("evidence_record_said", "at_ms", sqlite_where=text("length(content) > 0"), postgresql_where=text("length(content) > 0")),
)
"""Only ever added to; what a record says (`content`, `event_id`) is emptied when its time is over, and the chain holds by the hash of it."""

CHAINS: Final = Table(
    "evidence_chain",
    METADATA,
    Column("chain", String(64), primary_key=True),
    Column("length", Integer, nullable=False),
    Column("head", String(64), nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("anchored_length", Integer, nullable=False),
    Column("anchored_head", String(64), nullable=False),
    Index("evidence_chain_bucket", "bucket"),
)
"""Where each chain ends, and where it ended when the last root was made."""

IDENTIFIERS: Final = Table(
    "evidence_identifier",
    METADATA,
    Column("identifier_key", String(64), nullable=False),
    Column("chain", String(64), nullable=False),
    PrimaryKeyConstraint("identifier_key", "chain", name="evidence_identifier_pkey"),
    Index("evidence_identifier_chain", "chain"),
)
"""The chains that an identifier (keyed hash) was named in."""

BUCKETS: Final = Table(
    "evidence_bucket",
    METADATA,
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("root", String(64), nullable=False),
)
"""The tree's buckets as of the last root."""

ROOTS: Final = Table(
    "evidence_root",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("day", String(10), nullable=False),
    Column("tree", String(64), nullable=False),
    Column("chains", Integer, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("until", String(30), nullable=False, server_default=""),
)
"""The day roots, each chained to the one before."""

POSITIONS: Final = Table(
    "evidence_position",
    METADATA,
    Column("stream", String(200), primary_key=True),
    Column("entry", String(40), nullable=False),
)
"""How far each stream of the ledger's outbox has been archived."""

FACTS: Final = Table(
    "evidence_fact",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("value", String(200), nullable=False),
)
"""What the archive knows of itself: its id, the ledger it belongs to, how far it reaches."""
