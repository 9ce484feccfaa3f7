"""What is read from the archive for a proof, all of one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, or_, select

from pipeline.evidence.merkle import DayRoot, Leaf, bucket_of, tree_path
from pipeline.evidence.records import Record
from pipeline.evidence.tables import BUCKETS, CHAINS, FACTS, IDENTIFIERS, RECORDS, ROOTS


@dataclass(frozen=True, slots=True)
class Found:
    """The chains of a person, and whether these are all."""

    chains: list[str]
    is_all: bool


class Reader:
    """Reads within one transaction of `Archive.reading`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fact(self, name: str) -> str:
        """Something the archive knows of itself, empty if it does not."""
        return str(self._connection.execute(select(FACTS.c.value).where(FACTS.c.name == name)).scalar() or "")

    def chain_of(self, event_id: str) -> str | None:
        """The chain in which an event is recorded."""
        return self._connection.execute(select(RECORDS.c.chain).where(RECORDS.c.event_id == event_id).limit(1)).scalar()

    def chains_of(self, identifier_keys: Iterable[str], most: int) -> Found:
        """Every chain that is named by one of these identifiers, or has an event that named one, and those of the identifiers that are named in them.

        Of identifiers and chains that are found on the way `most` are followed: a person with more is not one person.
        """
        asked = set(identifier_keys)
        near = self._chains_naming(asked)
        few = sorted(near)[:most]
        query = select(IDENTIFIERS.c.identifier_key).where(IDENTIFIERS.c.chain.in_(few)).distinct().order_by(IDENTIFIERS.c.identifier_key).limit(most + 1)
        named = sorted({*few, *self._connection.execute(query).scalars()} - asked)
        far = sorted(self._chains_naming(named[:most], most + len(near) + 1) - near)
        left = max(0, most - len(near))
        return Found(chains=sorted({*near, *far[:left]}), is_all=len(near) <= most and len(named) <= most and len(far) <= left)

    def _chains_naming(self, keys: Iterable[str], most: int | None = None) -> set[str]:
        some = sorted(keys)
        own = self._connection.execute(select(CHAINS.c.chain).where(CHAINS.c.chain.in_(some))).scalars()
        query = select(IDENTIFIERS.c.chain).where(IDENTIFIERS.c.identifier_key.in_(some)).distinct().order_by(IDENTIFIERS.c.chain)
        return {*own, *self._connection.execute(query.limit(most)).scalars()}

    def head(self, chain: str) -> tuple[int, str]:
        """How long a chain is, and its last hash, as the archive has noted it."""
        found = self._connection.execute(select(CHAINS.c.length, CHAINS.c.head).where(CHAINS.c.chain == chain)).one()
        return found.length, found.head

    def records(self, chain: str) -> list[Record]:
        """A whole chain."""
        query = select(RECORDS.c.chain, RECORDS.c.sequence, RECORDS.c.previous, RECORDS.c.content, RECORDS.c.content_hash, RECORDS.c.hash)
        found = self._connection.execute(query.where(RECORDS.c.chain == chain).order_by(RECORDS.c.sequence))
        return [Record(row.chain, row.sequence, row.previous, bytes(row.content), row.content_hash, row.hash) for row in found]

    def anchor(self, chain: str) -> tuple[Leaf, list[tuple[str, str]]] | None:
        """A chain's leaf in the tree of the last root, and the path from there to it; None while no root covers it."""
        query = select(CHAINS.c.chain, CHAINS.c.anchored_length, CHAINS.c.anchored_head)
        leaves = [Leaf(*row) for row in self._connection.execute(query.where(CHAINS.c.bucket == bucket_of(chain), CHAINS.c.anchored_length > 0))]
        own = next((leaf for leaf in leaves if leaf.chain == chain), None)
        if own is None:
            return None
        roots = {number: bytes.fromhex(root) for number, root in self._connection.execute(select(BUCKETS.c.bucket, BUCKETS.c.root))}
        return own, tree_path(leaves, chain, roots)

    def roots(self, since_day: str = "") -> list[DayRoot]:
        """The day roots from a day on, in order; always the last one, which may cover what came early on the day after its own."""
        last = select(func.max(ROOTS.c.number)).scalar_subquery()
        query = select(ROOTS).where(or_(ROOTS.c.day >= since_day, ROOTS.c.number == last)).order_by(ROOTS.c.number)
        return [_root(row) for row in self._connection.execute(query)]

    def counts(self) -> dict[str, int]:
        """How much is archived."""
        records, chains = (self._connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (RECORDS, CHAINS))
        return {"records": records, "chains": chains, "roots": self._connection.execute(select(func.count()).select_from(ROOTS)).scalar_one()}


def _root(row: Any) -> DayRoot:
    return DayRoot(number=row.number, day=row.day, tree=row.tree, chains=row.chains, records=row.records, previous=row.previous, until=row.until)
