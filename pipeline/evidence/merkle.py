"""The tree over all chains whose root is published each day, so that a chain cannot be shortened, or left out, unseen.

A leaf is a chain's name, length and head. The chains lie in 4,096 buckets by the hash of their name; a bucket is a tree as in RFC 6962, and the buckets' roots
are the leaves of a tree of twelve levels. So a proof reads one bucket, and a day with little news costs little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.evidence.records import canonical, digest

LEVELS: Final = 12
BUCKETS: Final = 1 << LEVELS
_EMPTY: Final = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True, order=True)
class Leaf:
    """A chain as a day's tree has it: its name, how many records it had, and the hash of the last one."""

    chain: str
    length: int
    head: str

    def hash(self) -> bytes:
        return hashlib.sha256(b"\0" + canonical({"chain": self.chain, "head": self.head, "length": self.length})).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRoot:
    """What is published of a day: the tree's root, how much it covers, and the root published before it.

    What was said until `until` is in it; empty in one that an earlier release made.
    """

    number: int
    day: str
    tree: str
    chains: int
    records: int
    previous: str
    until: str = ""

    def covered(self) -> dict[str, Any]:
        until = {"until": self.until} if self.until else {}
        return {"chains": self.chains, "day": self.day, "number": self.number, "previous": self.previous, "records": self.records, "tree": self.tree, **until}

    def hash(self) -> str:
        return digest(canonical(self.covered()))


def bucket_of(chain: str) -> int:
    """The bucket in which a chain lies."""
    return int.from_bytes(hashlib.sha256(chain.encode()).digest()[:2], "big") >> (16 - LEVELS)


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over leaves in their order; of a single one, itself."""
    if not hashes:
        return _EMPTY
    if len(hashes) == 1:
        return hashes[0]
    split = _split(len(hashes))
    return _node(root_of(hashes[:split]), root_of(hashes[split:]))


def path_of(hashes: Sequence[bytes], place: int) -> list[tuple[str, str]]:
    """What must be hashed with the leaf at `place`, on which side, from below to the root."""
    if len(hashes) == 1:
        return []
    split = _split(len(hashes))
    if place < split:
        return [*path_of(hashes[:split], place), ("right", root_of(hashes[split:]).hex())]
    return [*path_of(hashes[split:], place - split), ("left", root_of(hashes[:split]).hex())]


def climb(start: bytes, path: Iterable[tuple[str, str]]) -> bytes:
    """The root that a path leads to."""
    for side, other in path:
        start = _node(bytes.fromhex(other), start) if side == "left" else _node(start, bytes.fromhex(other))
    return start


def bucket_root(leaves: Iterable[Leaf]) -> bytes:
    """The root of one bucket."""
    return root_of([leaf.hash() for leaf in sorted(leaves)])


def tree_root(roots: Mapping[int, bytes]) -> bytes:
    """The root over all buckets, of which the empty ones need not be named."""
    return root_of(_all_buckets(roots))


def tree_path(leaves: Iterable[Leaf], chain: str, roots: Mapping[int, bytes]) -> list[tuple[str, str]]:
    """The way from a chain's leaf, among the leaves of its bucket, to the root of the whole tree."""
    ordered = sorted(leaves)
    place = [leaf.chain for leaf in ordered].index(chain)
    return [*path_of([leaf.hash() for leaf in ordered], place), *path_of(_all_buckets(roots), bucket_of(chain))]


def _all_buckets(roots: Mapping[int, bytes]) -> list[bytes]:
    return [roots.get(number, _EMPTY) for number in range(BUCKETS)]


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
