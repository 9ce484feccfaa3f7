"""The archive of records: written by one at a time, in one transaction for what a batch says and for how far it reaches.

So a batch that is lost is read again, and one that comes twice finds that it was archived.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any, Final, TypeVar

import orjson
from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import Table

from pipeline.evidence import engine as database
from pipeline.evidence.merkle import DayRoot, Leaf, bucket_of, bucket_root, tree_root
from pipeline.evidence.records import GENESIS, Entry, Record, link
from pipeline.evidence.retention import KeepDays, Step, remove_old
from pipeline.evidence.tables import BUCKETS, CHAINS, FACTS, IDENTIFIERS, POSITIONS, RECORDS, ROOTS

AT_ONCE: Final = 1000
"""Values that one statement asks for."""
Value = TypeVar("Value")


class Archive:
    """An archive at a URL; safe to share between threads. Raises ArchiveUnavailable, ConfigurationError."""

    def __init__(self, url: str) -> None:
        self.engine = database.open_engine(url)
        self._is_ready = False

    def prepare(self) -> None:
        """Make the tables, or bring them to this release's schema."""
        if not self._is_ready:
            database.migrate(self.engine)
            with database.writing(self.engine) as connection:
                Writer(connection).name_archive()
            self._is_ready = True

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Write; all of it or nothing, and one at a time."""
        self.prepare()
        with database.writing(self.engine) as connection:
            yield Writer(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one moment; `reader.Reader` knows what to ask."""
        self.prepare()
        with database.reading(self.engine) as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()


class Writer:
    """What is done within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fact(self, name: str) -> str:
        """Something the archive knows of itself, empty if it does not."""
        return str(self._connection.execute(select(FACTS.c.value).where(FACTS.c.name == name)).scalar() or "")

    def know(self, name: str, value: str) -> None:
        """Remember something."""
        self._upsert(FACTS, [{"name": name, "value": value}], "name", "value")

    def archive_id(self) -> str:
        """The name of this archive."""
        return self.fact("archive_id")

    def name_archive(self) -> None:
        """Give the archive its name, once and for all: before anything is written, so that no name is told that is lost with a transaction."""
        if not self.archive_id():
            self.know("archive_id", secrets.token_hex(8))

    def positions(self) -> dict[str, str]:
        """Stream -> the last entry that is archived."""
        return dict(self._connection.execute(select(POSITIONS.c.stream, POSITIONS.c.entry)).all())

    def move(self, positions: Mapping[str, str]) -> None:
        """Note how far streams are archived."""
        self._upsert(POSITIONS, [{"stream": stream, "entry": entry} for stream, entry in positions.items()], "stream", "entry")

    def received(self, event_ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Event id -> what its record of receipt says."""
        found = {}
        for some in _portions(event_ids):
            query = select(RECORDS.c.event_id, RECORDS.c.content).where(RECORDS.c.event_id.in_(some), RECORDS.c.kind == "received")
            found.update({event_id: orjson.loads(content) for event_id, content in self._connection.execute(query)})
        return found

    def append(self, entries: Sequence[Entry]) -> int:
        """Add entries to their chains, in this order; those that are known already are left out. Returns how many were new."""
        try:
            with self._connection.begin_nested():
                return self._append(list({entry.id: entry for entry in entries}.values()))
        except IntegrityError:  # rare: how far was read is in the same transaction, so that a batch does not come twice
            known = self._known({entry.id for entry in entries})
            return self._append(list({entry.id: entry for entry in entries if entry.id not in known}.values()))

    def _append(self, fresh: Sequence[Entry]) -> int:
        if not fresh:
            return 0
        before = self._heads({entry.subject_key for entry in fresh})
        heads, linked = dict(before), []
        for entry in fresh:
            length, head = heads.get(entry.subject_key, (0, GENESIS))
            record = link(entry, length + 1, head)
            heads[entry.subject_key] = (record.sequence, record.hash)
            linked.append(_row(entry, record))
        self._insert_records(linked)
        self._write_heads(before, heads)
        named = {(key, entry.subject_key) for entry in fresh for key in entry.content.get("identifiers", ())}
        if named:
            statement = self._insert(IDENTIFIERS).on_conflict_do_nothing()
            self._connection.execute(statement, [{"identifier_key": key, "chain": chain} for key, chain in sorted(named)])
        return len(fresh)

    def remove_old(self, ledger_id: str, now_ms: int, keep_days: KeepDays, after_ms: int, shortest_days: float) -> Step:
        """Take one step through what is old: `retention.remove_old`, and a record of it in each chain."""
        step = remove_old(self._connection, ledger_id, now_ms, keep_days, after_ms=after_ms, shortest_days=shortest_days)
        self.append(step.entries)
        return step

    def anchor(self, day: str, now_ms: int, until: str = "") -> DayRoot | None:
        """Make a root over all chains as they are now, chained to the one before; None while there is no chain. All that was said until `until` is archived."""
        changed = CHAINS.c.length != CHAINS.c.anchored_length
        buckets = [number for (number,) in self._connection.execute(select(CHAINS.c.bucket).where(changed).distinct())]
        self._connection.execute(update(CHAINS).where(changed).values(anchored_length=CHAINS.c.length, anchored_head=CHAINS.c.head))
        self._upsert(BUCKETS, [{"bucket": number, "root": root.hex()} for number, root in self._bucket_roots(buckets)], "bucket", "root")
        chains, records = self._connection.execute(select(func.count(), func.sum(CHAINS.c.anchored_length)).select_from(CHAINS)).one()
        if not chains:
            return None
        roots = {number: bytes.fromhex(root) for number, root in self._connection.execute(select(BUCKETS.c.bucket, BUCKETS.c.root))}
        last = self._connection.execute(select(ROOTS.c.number, ROOTS.c.hash).order_by(ROOTS.c.number.desc()).limit(1)).first()
        made = DayRoot(
            number=last.number + 1 if last else 1,
            day=day,
            tree=tree_root(roots).hex(),
            chains=chains,
            records=int(records),
            previous=last.hash if last else GENESIS,
            until=until,
        )
        self._connection.execute(ROOTS.insert(), {**made.covered(), "until": until, "hash": made.hash(), "made_ms": now_ms})
        return made

    def covered_day(self) -> str:
        """The last day that a root covers to its end, empty if there is none; a root that was made during a day does not cover it."""
        last = self._connection.execute(select(ROOTS.c.day, ROOTS.c.until).order_by(ROOTS.c.number.desc()).limit(1)).first()
        if last is None:
            return ""
        return (date.fromisoformat(last.until[:10]) - timedelta(days=1)).isoformat() if last.until else str(last.day)

    def _bucket_roots(self, buckets: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for some in _portions(buckets, 100):
            leaves: dict[int, list[Leaf]] = {}
            query = select(CHAINS.c.bucket, CHAINS.c.chain, CHAINS.c.anchored_length, CHAINS.c.anchored_head).where(CHAINS.c.bucket.in_(some))
            for number, *leaf in self._connection.execute(query):
                leaves.setdefault(number, []).append(Leaf(*leaf))
            yield from ((number, bucket_root(found)) for number, found in leaves.items())

    def _known(self, record_ids: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in _portions(record_ids):
            found.update(self._connection.execute(select(RECORDS.c.record_id).where(RECORDS.c.record_id.in_(some))).scalars())
        return found

    def _heads(self, chains: Iterable[str]) -> dict[str, tuple[int, str]]:
        found = {}
        for some in _portions(chains):
            query = select(CHAINS.c.chain, CHAINS.c.length, CHAINS.c.head).where(CHAINS.c.chain.in_(some))
            found.update({chain: (length, head) for chain, length, head in self._connection.execute(query)})
        return found

    def _insert_records(self, rows: list[tuple[Any, ...]]) -> None:
        """Past SQLAlchemy's handling of parameters, which would cost more than the database does; the columns are in the order of `_row`."""
        mark = "%s" if self._connection.dialect.name == "postgresql" else "?"
        names = [column.name for column in RECORDS.columns]
        statement = f"INSERT INTO {RECORDS.name} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))})"  # noqa: S608 (names of ours)
        self._connection.exec_driver_sql(statement, rows)

    def _write_heads(self, before: Mapping[str, tuple[int, str]], heads: Mapping[str, tuple[int, str]]) -> None:
        new = [
            {"chain": chain, "length": length, "head": head, "bucket": bucket_of(chain), "anchored_length": 0, "anchored_head": GENESIS}
            for chain, (length, head) in heads.items()
            if chain not in before
        ]
        moved = [
            {"its": chain, "length": length, "head": head} for chain, (length, head) in heads.items() if before.get(chain, (length, head)) != (length, head)
        ]
        if new:
            self._connection.execute(CHAINS.insert(), new)
        if moved:
            statement = update(CHAINS).where(CHAINS.c.chain == bindparam("its")).values(length=bindparam("length"), head=bindparam("head"))
            self._connection.execute(statement, moved)

    def _upsert(self, table: Table, rows: Sequence[Mapping[str, Any]], key: str, value: str) -> None:
        if rows:
            statement = self._insert(table)
            self._connection.execute(statement.on_conflict_do_update(index_elements=[key], set_={value: statement.excluded[value]}), rows)

    def _insert(self, table: Table) -> Any:
        return (postgresql if self._connection.dialect.name == "postgresql" else sqlite).insert(table)


def _row(entry: Entry, record: Record) -> tuple[Any, ...]:
    """The values of `RECORDS`, in the order of its columns."""
    place = (record.chain, record.sequence, entry.id, entry.event_id, entry.content["kind"], entry.at_ms)
    return (*place, record.previous, record.content, record.content_hash, record.hash)


def _portions(values: Iterable[Value], most: int = AT_ONCE) -> Iterator[Sequence[Value]]:
    every = list(values)
    return (every[first : first + most] for first in range(0, len(every), most))
