"""Deliveries in the ledger: planned, leased, settled, released when due, dead and replayed. One destination, one slot.

An unfinished delivery stands in exactly one of two indexes of its destination and lane, each with the time at which somebody must
look at it again: `due` (waiting) or `out` (pushed to a queue or leased to a worker).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

from msgspec import structs

from pipeline.domain import DeliveryStatus
from pipeline.ledger.identity import Lifetimes
from pipeline.ledger.keys import DESTINATIONS, LANES, Keys
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.results import DeliveryResult
from pipeline.ledger.rows import UNASKED, DeadLetter, Lasted, Leased, Row, Settlement, Verb
from pipeline.ledger.store import Store, pairs_of, scores_of, text

__all__ = ["NO_LEASES", "DeadLetter", "Deliveries", "Leased", "Leases", "Owed", "Place", "Planned", "Row", "Settlement", "Verb", "read_claim"]

Place = tuple[str, str]
"""A destination and a lane."""
Owed = Mapping[Place, Sequence[tuple[str, int]]]
"""Deliveries as (event id, owed since in ms)."""
Leases = Mapping[Place, tuple[str, int]]
"""For whom (a token) and for how many ms deliveries are leased by who plans them."""
NO_LEASES: Leases = {}


class Planned(IntEnum):
    """What came of planning a delivery."""

    KNOWN = 0
    PUSHED = 1
    LEASED = 2


class Deliveries:
    """The delivery part of the ledger. All methods take chunks of one destination and need one round trip."""

    def __init__(self, store: Store, keys: Keys, lifetimes: Lifetimes, outbox: Outbox) -> None:
        self._store, self._keys, self._lifetimes, self._outbox = store, keys, lifetimes, outbox

    def plan(self, destination: str, lane: str, events: Sequence[tuple[str, int]], row: Row | None = None) -> list[bool]:
        """Plan deliveries of events (id, owed since in ms); True for those that are new.

        The caller pushes them at once; with a `row` they wait in the due index instead, for beat to push at the destination's pace.
        """
        return [bool(value) for value in self._store.run(self.plan_commands({(destination, lane): events}, row), replicated=True)[-1]]

    def plan_commands(
        self, wanted: Owed, row: Row | None = None, leases: Leases = NO_LEASES, record: Callable[[str], str] | None = None
    ) -> list[tuple[Any, ...]]:
        """What plans for many destinations and lanes, for a round trip with other commands; the last answers, one for each, say of every delivery what is `Planned`.

        `record` names the record of an event where one server has it as well: if it is noted there that it was planned, nothing of it is planned again.
        """
        commands: list[tuple[Any, ...]] = [("SADD", DESTINATIONS, *sorted({destination for destination, _ in wanted}))] if wanted else []
        for (destination, lane), events in wanted.items():
            names = [*self._lane(destination, lane), *self._names(destination, "dead", "result", "untold", "n", "row", "lease", "flags")]
            lease = leases.get((destination, lane), ("", 0))
            arguments: list[Any] = [self._lifetimes.push_rescue_ms, int(lane == LANES[0]), row.encode() if row else "", *lease]
            arguments += [value for event in events for value in event]
            if row:  # what fan-out plans is recorded when it is noted in the event's record
                names += self._outbox.of_destination(destination)
                arguments += self._outbox.said("again", [event_id for event_id, _ in events], reason=row.reason)
            elif record:
                names += [record(event_id) for event_id, _ in events]
            commands.append(self._store.script("plan", names, arguments))
        return commands

    def claim(self, destination: str, lane: str, token: str, lease_ms: int, event_ids: Sequence[str]) -> list[Leased]:
        """Lease those of the deliveries that are free; none while the destination is paused."""
        return read_claim(self._store.run([self.claim_command(destination, lane, token, lease_ms, event_ids)])[0])

    def claim_command(self, destination: str, lane: str, token: str, lease_ms: int, event_ids: Sequence[str]) -> tuple[Any, ...]:
        """What `claim` sends, for a round trip with other commands; `read_claim` reads its answer."""
        names = [*self._lane(destination, lane), *self._names(destination, "lease", "row", "flags"), *self._outbox.of_destination(destination)]
        return self._store.script("claim", names, [token, lease_ms, *event_ids])

    def renew(self, destination: str, lane: str, token: str, lease_ms: int, event_ids: Sequence[str]) -> set[str]:
        """Extend leases; returns the event ids whose lease is lost."""
        names = [self._lane(destination, lane)[0], *self._names(destination, "lease")]
        return {text(value) for value in self._store.call("renew", names, [token, lease_ms, *event_ids])}

    def settle(self, destination: str, lane: str, token: str, settlements: Sequence[Settlement]) -> list[bool]:
        """End leased deliveries; False for those whose lease somebody else has taken meanwhile, which are left alone."""
        return [bool(value) for value in self._store.run([self.settle_command(destination, lane, token, settlements)])[0]]

    def settle_command(self, destination: str, lane: str, token: str, settlements: Sequence[Settlement], lasted: Lasted = UNASKED) -> tuple[Any, ...]:
        """What `settle` sends, for a round trip with other commands; on one server it can be bound to the claims of dialogues that were left right before."""
        names = [*self._lane(destination, lane), *self._names(destination, "lease", "row", "result", "dead", "untold", "n", "dead_counts")]
        arguments: list[Any] = [token, *lasted]
        for settlement in settlements:
            row = settlement.row
            result = settlement.result.encode() if settlement.result else ""
            arguments += [settlement.event_id, settlement.verb.value, settlement.at_ms, row.encode(), result, f"{row.state}|{row.reason}", settlement.counted()]
        if any(settlement.is_recorded for settlement in settlements):
            names += self._outbox.of_destination(destination)
            arguments += self._outbox.said("settle", [settlement.said() for settlement in settlements])
        return self._store.script("settle", names, arguments)

    def release(self, destination: str, lane: str, most: int, *, rescue_after_ms: int | None) -> tuple[list[Leased], list[str]]:
        """Take what is due to be pushed, and rescue what was pushed or leased too long ago, if it has been overdue for so long (None: nothing is rescued)."""
        names = [*self._lane(destination, lane), *self._names(destination, "lease", "row", "n", "flags"), *self._outbox.of_destination(destination)]
        due, rows, rescued = self._store.call("release", names, [most, self._lifetimes.push_rescue_ms, "" if rescue_after_ms is None else rescue_after_ms])
        return [Leased(event_id=text(i), row=Row.decode(row)) for i, row in zip(due, rows, strict=True)], [text(i) for i in rescued]

    def reopen(self, destination: str, lane: str, events: Sequence[tuple[str, int, str]], row: Row, *, only_dead: bool) -> list[bool]:
        """Bring ended deliveries (event id, receipt in ms, reason it died of) back to be told again."""
        names = [*self._lane(destination, lane), *self._names(destination, "row", "result", "dead", "untold", "n", "dead_counts", "lease")]
        arguments: list[Any] = [int(only_dead), int(lane == LANES[0]), row.encode()]
        for event_id, received_ms, reason in events:
            arguments += [event_id, received_ms, f"{row.state}|{reason}"]
        names += self._outbox.of_destination(destination)
        arguments += self._outbox.said("again", [event_id for event_id, _, _ in events], reason=row.reason)
        return [bool(value) for value in self._store.call("reopen", names, arguments)]

    def discard(self, destination: str, letters: Sequence[DeadLetter], result: DeliveryResult, counter: str) -> list[bool]:
        """Close dead letters with a result, and count them as `counter`; False for one that is not dead."""
        names = self._names(destination, "dead", "row", "result", "untold", "n", "dead_counts")
        closed = [(letter.event_id, result.encode(), f"{letter.row.state}|{letter.row.reason}") for letter in letters]
        arguments: list[Any] = [counter, *(value for values in closed for value in values)]
        names += self._outbox.of_destination(destination)
        arguments += self._outbox.said("close", [(event_id, result_text) for event_id, result_text, _ in closed])
        return [bool(value) for value in self._store.call("discard", names, arguments)]

    def results(self, destination: str, most: int) -> list[tuple[str, str]]:
        """Results that are not yet copied into their events' records."""
        reply = self._store.run([("HSCAN", self._keys.destination(destination, "result"), 0, "COUNT", most)])[0]
        return [(text(event_id), text(result)) for event_id, result in pairs_of(reply[1])]

    def unfold(self, destination: str, results: Sequence[tuple[str, str]]) -> None:
        """Drop results that have been copied."""
        self._store.run([self.unfold_command(destination, results)])

    def unfold_command(self, destination: str, results: Sequence[tuple[str, str]]) -> tuple[Any, ...]:
        """What `unfold` sends, for a round trip with other commands."""
        return self._store.script("unfold", self._names(destination, "result"), [value for item in results for value in item])

    def is_known(self, destination: str, event_ids: Sequence[str]) -> list[bool]:
        """Whether each delivery stands in some index of its destination."""
        names = [name for lane in LANES for name in self._lane(destination, lane)] + self._names(destination, "dead")
        commands: list[tuple[Any, ...]] = [("ZMSCORE", name, *event_ids) for name in names]
        commands.append(("HMGET", self._keys.destination(destination, "result"), *event_ids))
        answers = self._store.run(commands) if event_ids else []
        return [any(value is not None for value in found) for found in zip(*answers, strict=True)]

    def look_up(self, event_id: str, destinations: Sequence[str]) -> dict[str, tuple[DeliveryStatus, Row, int | None]]:
        """Where unfinished deliveries of an event stand: status, row, and when they are looked at again (ms, None while that is not known).

        What waits for a paused destination has the reason `paused`, whatever it waited for before.
        """
        commands: list[tuple[Any, ...]] = []
        for name in destinations:
            commands += [("ZSCORE", key, event_id) for lane in LANES for key in self._lane(name, lane)]
            commands += [("HGET", self._keys.destination(name, "lease"), event_id), ("HGET", self._keys.destination(name, "row"), event_id)]
            commands.append(("HEXISTS", self._keys.destination(name, "flags"), "paused"))
        replies = self._store.run(commands)
        found = {}
        for n, name in enumerate(destinations):
            out_w, due_w, out_g, due_g, lease, row_value, paused = replies[n * 7 : n * 7 + 7]
            row = Row.decode(row_value or b"")
            due, out = due_w if due_w is not None else due_g, out_w if out_w is not None else out_g
            at = due if due is not None else out
            status = _live_status(row, is_leased=bool(lease) and out is not None)
            if paused and status is DeliveryStatus.WAITING:
                row, at = structs.replace(row, reason="paused"), None
            found[name] = (status, row, int(at) if at is not None else None)
        return found

    def dead(self, destination: str, *, before: tuple[int, str] | None, most: int) -> list[DeadLetter]:
        """Dead letters of a destination, newest first, after the (time of death, event id) `before`."""
        highest = str(before[0]) if before else "+inf"
        names = self._names(destination, "dead", "row")
        offset = 0
        found: list[DeadLetter] = []
        while len(found) < most:
            page = self._store.run([("ZREVRANGEBYSCORE", names[0], highest, "-inf", "WITHSCORES", "LIMIT", offset, most)])[0]
            pairs = [(text(entry[0]), int(entry[1])) for entry in scores_of(page)]
            rows = self._store.run([("HGET", names[1], event_id) for event_id, _ in pairs])
            for (event_id, died_ms), row in zip(pairs, rows, strict=True):
                if before is None or (died_ms, event_id) < before:
                    found.append(DeadLetter(event_id=event_id, destination=destination, row=Row.decode(row or b""), died_ms=died_ms))
            if len(pairs) < most:
                break
            offset += most
        return found[:most]

    def find_dead(self, destination: str, event_ids: Sequence[str]) -> list[DeadLetter]:
        """Those of the events whose delivery to this destination is dead."""
        names = self._names(destination, "dead", "row")
        commands: list[tuple[Any, ...]] = [("ZSCORE", names[0], event_id) for event_id in event_ids]
        commands += [("HGET", names[1], event_id) for event_id in event_ids]
        replies = self._store.run(commands)
        scores, rows = replies[: len(event_ids)], replies[len(event_ids) :]
        return [
            DeadLetter(event_id=event_id, destination=destination, row=Row.decode(row or b""), died_ms=int(score))
            for event_id, score, row in zip(event_ids, scores, rows, strict=True)
            if score is not None
        ]

    def dead_counts(self, destination: str) -> dict[tuple[str, str], int]:
        """(state, reason) -> number of dead letters."""
        reply = self._store.run([("HGETALL", self._keys.destination(destination, "dead_counts"))])[0]
        counts = {tuple(text(name).split("|", 1)): int(value) for name, value in pairs_of(reply)}
        return {(state, reason): count for (state, reason), count in counts.items() if count > 0}

    def known_destinations(self) -> list[str]:
        """Every destination that ever had a delivery."""
        return sorted(text(name) for name in self._store.run([("SMEMBERS", DESTINATIONS)])[0])

    def pause(self, destination: str, *, paused: bool) -> None:
        """Hold back (or let go) all deliveries of a destination; they wait in the ledger."""
        name = self._keys.destination(destination, "flags")
        self._store.run([("HSET", name, "paused", 1) if paused else ("HDEL", name, "paused")])

    def untold(self, destination: str) -> int:
        """Withdrawals this destination has not been told of, the dead ones included."""
        return int(self._store.run([("ZCARD", self._keys.destination(destination, "untold"))])[0])

    def now_ms(self) -> int:
        """The server's clock."""
        return self._store.now_ms()

    def overdue(self, destination: str, milliseconds: int, lanes: Iterable[str] = LANES) -> bool:
        """Whether something of these lanes was pushed or leased so long ago that it should have been rescued since then."""
        latest = self.now_ms() - milliseconds
        names = [self._lane(destination, lane)[0] for lane in lanes]
        return any(self._store.run([("ZCOUNT", name, "-inf", latest) for name in names]))

    def figures(self, destination: str) -> dict[str, Any]:
        """Counters, index sizes, oldest untold withdrawal (ms) and whether it is paused."""
        names = [name for lane in LANES for name in self._lane(destination, lane)]
        counted, oldest, paused = self._store.run(
            [
                self._store.script("count", [self._keys.destination(destination, "n"), *names], []),
                ("ZRANGE", self._keys.destination(destination, "untold"), 0, 0, "WITHSCORES"),
                ("HEXISTS", self._keys.destination(destination, "flags"), "paused"),
            ]
        )
        sizes = counted[1:]
        return {
            "waiting": {lane: sizes[2 * n] + sizes[2 * n + 1] for n, lane in enumerate(LANES)},
            "counters": {text(name): float(value) for name, value in pairs_of(counted[0])},
            "oldest_untold_ms": next((int(score) for _, score in scores_of(oldest)), None),
            "paused": bool(paused),
        }

    def _lane(self, destination: str, lane: str) -> list[str]:
        return [self._keys.destination(destination, f"out:{lane}"), self._keys.destination(destination, f"due:{lane}")]

    def _names(self, destination: str, *suffixes: str) -> list[str]:
        return [self._keys.destination(destination, suffix) for suffix in suffixes]


def _live_status(row: Row, *, is_leased: bool) -> DeliveryStatus:
    if row.awaiting:
        return DeliveryStatus.AWAITING_CONFIRMATION
    return DeliveryStatus.SENDING if is_leased else DeliveryStatus.WAITING


def read_claim(reply: Sequence[Any]) -> list[Leased]:
    """What was leased, from the answer to `claim_command`."""
    return [Leased(event_id=text(reply[n]), row=Row.decode(reply[n + 1])) for n in range(2, len(reply), 2)]
