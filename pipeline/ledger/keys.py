"""The names of all keys; braces mark the part that decides the cluster slot, and no script leaves one slot (but for `merge`, `settle`, `lay` and `plan` where one server has them all).

cr:{e<n>}:…       events of partition n: record `e:<id>`, sealed payload `p:<id>`, index of unfinished ones `open`, counters `n`, outbox `evidence`, on a cluster the ledger's `id`
cr:{i<n>}:…       identifiers of partition n: record `i:<key>` (standings, links, sealed value), deliveries that miss it `m:<key>`, outbox `evidence`, on a cluster the ledger's `id`
cr:{d:<name>}:…   one destination: due and out indexes by lane, leases, rows, dead letters, results, counters, what was seen there, how far it was compared, outbox
cr:{a:<name>}:…   one vendor account: gate, rate window, dialogues under way, claims, late-write marks; as `<name>:<hash>`, the session of one login
cr:{s:<name>}:…   one polled source: whose turn it is, how far it was heard
cr:{meta}:…       identity of the ledger, known destinations, beat, processes that live, counters `n`, ids of the vault keys in use, `tray:<lane>` and who attends it
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

PREFIX = "cr"
SCHEMA_VERSION = 2
OLDEST_SCHEMA = 1
"""A release works with its own schema and the one before, so that old and new processes may run side by side."""
META = f"{PREFIX}:{{meta}}:ledger"
DESTINATIONS = f"{PREFIX}:{{meta}}:destinations"
BEAT = f"{PREFIX}:{{meta}}:beat"
PROCESSES = f"{PREFIX}:{{meta}}:processes"
ALERTS = f"{PREFIX}:{{meta}}:alerts"
NOTED_ALERTS = f"{PREFIX}:{{meta}}:noted"
COUNTERS = f"{PREFIX}:{{meta}}:n"
OLD_STALE = f"{BEAT}:stale"
"""Where schema 1 counts stale sends."""
VAULT_KEYS = f"{PREFIX}:{{meta}}:vault"
LANES = ("withdrawn", "given")
"""A lane for each state, withdrawals first."""


class Keys:
    """Key names for a ledger with a fixed number of partitions (fixed at its creation, part of its identity)."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.all = range(partitions)

    def partition(self, name: str) -> int:
        """The partition of an event id or identifier key; the same on every machine and release."""
        return _hashed(name) % self.partitions if self.partitions > 1 else 0

    def event(self, partition: int, suffix: str) -> str:
        return f"{PREFIX}:{{e{partition}}}:{suffix}"

    def record(self, event_id: str) -> str:
        return f"{PREFIX}:{{e{self.partition(event_id)}}}:e:{event_id}"

    def payload(self, event_id: str) -> str:
        return f"{PREFIX}:{{e{self.partition(event_id)}}}:p:{event_id}"

    def identifier(self, key: str) -> str:
        return f"{PREFIX}:{{i{self.partition(key)}}}:i:{key}"

    def missing(self, key: str) -> str:
        return f"{PREFIX}:{{i{self.partition(key)}}}:m:{key}"

    @staticmethod
    def identifier_part(partition: int, suffix: str) -> str:
        return f"{PREFIX}:{{i{partition}}}:{suffix}"

    @staticmethod
    def destination(name: str, suffix: str) -> str:
        return f"{PREFIX}:{{d:{name}}}:{suffix}"

    @staticmethod
    def account(name: str, suffix: str) -> str:
        return f"{PREFIX}:{{a:{name}}}:{suffix}"

    @staticmethod
    def tray(lane: str) -> str:
        return f"{PREFIX}:{{meta}}:tray:{lane}"

    @staticmethod
    def attended(lane: str) -> str:
        return f"{PREFIX}:{{meta}}:attended:{lane}"

    @staticmethod
    def source(name: str, suffix: str) -> str:
        return f"{PREFIX}:{{s:{name}}}:{suffix}"

    def by_partition(self, names: Sequence[str]) -> dict[int, list[int]]:
        """Partition -> positions of the names that live there, in order."""
        if self.partitions == 1:
            return {0: list(range(len(names)))} if names else {}
        groups: dict[int, list[int]] = {}
        for position, name in enumerate(names):
            groups.setdefault(self.partition(name), []).append(position)
        return groups


@lru_cache(maxsize=16_384)  # an event's or an identifier's is asked for some twenty times while it is worked on
def _hashed(name: str) -> int:
    return zlib.crc32(name.encode())
