"""How far each destination has been compared with the standings, what was found, and whom its vendor refuses; one destination, one slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.domain import VendorResult
from pipeline.ledger.keys import Keys
from pipeline.ledger.store import Store, pairs_of, text

FULL: Final = "full"
SAMPLE: Final = "sample"
VOUCHED: Final = "!"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTimes:
    """How often a pass begins, in milliseconds (0: never by itself), and how many people a sample asks about."""

    sample_every_ms: int
    sample_size: int
    full_every_ms: int
    lease_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How far a pass is: the cursor of the next page, identifiers left of this one, and how many people a sample has left (-1: it is no sample).

    `witness` is the identifier about which the vendor last answered; with `is_vouched` it did so again, since it has failed with the one who is asked about next.
    """

    mode: str
    cursor: int
    pending: tuple[str, ...]
    left: int
    witness: str = ""
    is_vouched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTurn:
    """The right to go on with a destination, until it is given back or runs out."""

    destination: str
    token: str
    walk: Walk


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFigures:
    """What is known of a destination's comparing: counts of the pass under way, of the last that ended, and of all; times are milliseconds, 0 for never.

    `failures` is how often in a row the vendor could not be asked, `failed_with` and `reason` what came of it the last time.
    """

    mode: str = ""
    looked: int = 0
    started_ms: int = 0
    running: Mapping[str, int] = field(default_factory=dict)
    last_mode: str = ""
    last_ms: int = 0
    last: Mapping[str, int] = field(default_factory=dict)
    last_by_mode: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    full_ms: int = 0
    total: Mapping[str, int] = field(default_factory=dict)
    due_ms: int = 0
    failures: int = 0
    failed_with: str = ""
    reason: str = ""


class Sweeps:
    """The sweep part of the ledger."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    def take(self, destination: str, token: str, times: SweepTimes, server: str, *, full: bool = False) -> SweepTurn | None:
        """The turn to go on with a destination, None if it is not due or somebody has it; with `full` a full sweep begins now, if none is under way."""
        arguments = [token, times.lease_ms, times.sample_every_ms, times.sample_size, times.full_every_ms, server, int(full)]
        reply = self._store.call("take_sweep", [self._name(destination)], arguments)
        if not reply:
            return None
        mode, cursor, pending, left, witness = (text(value or b"") for value in reply)
        walk = Walk(
            mode=mode,
            cursor=int(cursor),
            pending=tuple(pending.split()),
            left=int(left),
            witness=witness.removesuffix(VOUCHED),
            is_vouched=witness.endswith(VOUCHED),
        )
        return SweepTurn(destination=destination, token=token, walk=walk)

    def keep(self, turn: SweepTurn, walk: Walk, counts: Mapping[str, int], looked: int, *, lease_ms: int, asked: bool) -> bool:
        """Note how far it is and what was found, and go on; False if the turn was lost."""
        return self._keep(turn, walk, counts, looked, ended=0, again_ms=-1, lease_ms=lease_ms, failed=0 if asked else 2) >= 0

    def give_back(self, turn: SweepTurn, walk: Walk, again_ms: int, *, ended: bool = False) -> None:
        """End a turn; the next one is due after `again_ms`."""
        self._keep(turn, walk, {}, 0, ended=int(ended), again_ms=again_ms, lease_ms=0, failed=2)

    def give_up(self, turn: SweepTurn, walk: Walk, again_ms: int, failure: VendorResult) -> int:
        """End a turn in which the vendor could not be asked; returns how often in a row that was so by now."""
        why = f"{failure.outcome} {failure.reason}"
        return self._keep(turn, walk, {}, 0, ended=0, again_ms=again_ms, lease_ms=0, failed=1, why=why)

    def _keep(
        self, turn: SweepTurn, walk: Walk, counts: Mapping[str, int], looked: int, *, ended: int, again_ms: int, lease_ms: int, failed: int, why: str = ""
    ) -> int:
        witness = walk.witness + (VOUCHED if walk.is_vouched else "")
        arguments = [turn.token, walk.cursor, " ".join(walk.pending), walk.left, ended, again_ms, lease_ms, failed, looked, witness, why]
        arguments += [value for item in counts.items() if item[1] for value in item]
        return int(self._store.call("keep_sweep", [self._name(turn.destination)], arguments))

    def due(self, destinations: Sequence[str], now_ms: int) -> list[str]:
        """Those of the destinations whose turn has come and that nobody is comparing."""
        replies = self._store.run([("HMGET", self._name(name), "due", "until") for name in destinations])
        return [name for name, times in zip(destinations, replies, strict=True) if all(int(each or 0) <= now_ms for each in times)]

    def failures(self, destination: str) -> int:
        """How often in a row its vendor could not be asked."""
        return int(self._store.run([("HGET", self._name(destination), "failures")])[0] or 0)

    def figures(self, destination: str) -> SweepFigures:
        """What is known of a destination's comparing."""
        held = {text(name): text(value) for name, value in pairs_of(self._store.run([("HGETALL", self._name(destination))])[0])}

        def counts(prefix: str) -> dict[str, int]:
            return {name[len(prefix) :]: int(value) for name, value in sorted(held.items()) if name.startswith(prefix)}

        numbers = {name: int(held.get(name, 0)) for name in ("looked", "started", "last_at", "full_at", "due", "failures")}
        failed_with, _, reason = held.get("failure", "").partition(" ")
        return SweepFigures(
            mode=held.get("mode", ""),
            looked=numbers["looked"],
            started_ms=numbers["started"],
            running=counts("n:"),
            last_mode=held.get("last_mode", ""),
            last_ms=numbers["last_at"],
            last=counts("l:"),
            last_by_mode={FULL: counts("lf:"), SAMPLE: counts("ls:")},
            full_ms=numbers["full_at"],
            total=counts("t:"),
            due_ms=numbers["due"],
            failures=numbers["failures"],
            failed_with=failed_with,
            reason=reason,
        )

    def note(self, destination: str, counts: Mapping[str, int]) -> None:
        """Add what a pass found that keeps no place in the ledger, because a person made it."""
        self._store.run([("HINCRBY", self._name(destination), f"t:{name}", step) for name, step in counts.items() if step])

    def note_sample(self, destination: str, counts: Mapping[str, int]) -> None:
        """What a whole sample found that a person made; it is the last one from now on."""
        name = self._name(destination)
        old = [field for field in map(text, self._store.run([("HKEYS", name)])[0]) if field.startswith("ls:")]
        found = [part for field, count in counts.items() for part in (f"ls:{field}", count)]
        self._store.run([*([("HDEL", name, *old)] if old else []), *([("HSET", name, *found)] if found else [])])

    def park(self, destination: str, refused: Mapping[str, int]) -> None:
        """Remember what the vendor refuses for good (keyed hash -> ms of the refusal): it is not told again by comparing."""
        if refused:
            self._store.run([("HSET", self._parked(destination), *(value for item in refused.items() for value in item))])

    def parked_ms(self, destination: str, things: Sequence[str]) -> list[int]:
        """When the vendor refused each thing, 0 if it did not."""
        if not things:
            return []
        return [int(value or 0) for value in self._store.run([("HMGET", self._parked(destination), *things)])[0]]

    def unpark(self, destination: str, things: Sequence[str]) -> None:
        """Forget refusals: what was refused has been told since."""
        if things:
            self._store.run([("HDEL", self._parked(destination), *things)])

    def _name(self, destination: str) -> str:
        return self._keys.destination(destination, "sweep")

    def _parked(self, destination: str) -> str:
        return self._keys.destination(destination, "parked")
