"""What a chunk has in hand: what is to be told, what is being told, and what has to be written down; and the pace of all that."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.arrivals import Arrivals
from pipeline.domain import Word
from pipeline.exchange import Work, WorkResult
from pipeline.judging import Checked
from pipeline.landing import Flight, Landing, farewell
from pipeline.ledger.accounts import Leaving, Traffic
from pipeline.prepare import Task
from pipeline.routing import Destination
from pipeline.settle import Ending
from pipeline.settler import Draft

SETTLE_AT_ONCE = 100
SETTLE_SECONDS = 0.05
SETTLE_REST = 6
FEW_FLYING = 4
"""Endings are written down at once while fewer dialogues than that are under way; else when there are so many, or this long after the last time: `SETTLE_SECONDS` at
the most, and less where writing takes little, so that no more than a seventh of the time goes into it. Where there are groups and one round trip does both, with each turn. A crash repeats the calls that were not written down."""
GATHER_SECONDS = 0.003
GAP_SECONDS = 0.001
"""How long the first dialogue that lands waits for others, and where there are groups, how long one may come after another: their connections do nothing meanwhile."""
LEAST_TURN_SECONDS = 0.02
MOST_GROUPS = 8
"""A vendor that takes several turns to answer is talked to in as many groups, so that its connections do not all wait for one turn."""
LEAST_TAKEN = 100
"""So many more are taken in at once where there are that many: each time is a lease, with its sync."""
LEAST_TRIED = 4
"""Dialogues that a chunk asks for beyond those it may surely begin, once it was refused any; twice as many after each turn that gave it all. Of what is refused the ledger has been told in vain, and read in vain."""
LOOK_SECONDS = 0.02
"""How soon to look again for what was brought, while there are connections free for it."""
BUSY_WAIT_MS = 1000
"""When to look again at a contact that another worker is talking about; talks mostly take far less than their claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What is brought to a chunk under way: `take` leases more, as those that can be told and those that end without a word, and `leased` are those that wait leased."""

    take: Callable[[int | None], tuple[Sequence[Task], Sequence[Ending]]]
    leased: Callable[[], list[str]]


@dataclass(slots=True)
class Chunk:
    """A chunk while it is being worked on, by one thread: its deliveries are leased for `token`, permits and claims of its dialogues are those of `holder`.

    `tried` are the dialogues that are asked for beyond those that ended, None for all that could be under way. `landing` is what was said of dialogues that ended, until it is answered, `is_drafted` whether its settlement was sent along; `goodbyes` are permits and claims under which nothing was sent, and
    `corrections` what was told too late, until either is written down; `settlements` are to be made known.
    """

    destination: Destination
    lane: str
    token: str
    more: Brought
    traffic: Traffic
    pending: deque[Task]
    endings: list[Ending]
    stop_at: float
    renew_at: float
    settle_at: float
    patience: int
    flight_seconds: float = 0.0
    turn_seconds: float = 0.0
    moved: bool = False
    held_until: float | None = None
    settling_ms: int = 0
    arrived: list[tuple[Flight, WorkResult]] = field(default_factory=list)
    landing: Landing | None = None
    is_drafted: bool = False
    settlements: list[tuple[Draft, Sequence[bool]]] = field(default_factory=list)
    goodbyes: list[Leaving] = field(default_factory=list)
    corrections: list[tuple[Sequence[Checked], Sequence[Word | None], Container[str]]] = field(default_factory=list)
    holder: str = field(default_factory=lambda: secrets.token_hex(6))
    next_permit: int = 0
    tried: int | None = None
    flying: dict[int, Flight] = field(default_factory=dict)
    landed: Arrivals[tuple[Flight, WorkResult, float]] = field(default_factory=Arrivals)

    @property
    def has_work(self) -> bool:
        """Whether anything is left in hand."""
        return bool(self.pending or self.flying or self.endings or self.corrections or self.goodbyes or self.settlements)

    @property
    def flying_tasks(self) -> list[Task]:
        """What is being told."""
        return [task for flight in self.flying.values() for task in flight.tasks]

    @property
    def groups(self) -> int:
        """In how many groups the vendor is talked to."""
        return min(MOST_GROUPS, max(1, int(self.flight_seconds / max(LEAST_TURN_SECONDS, self.turn_seconds))))

    @property
    def most_dialogues(self) -> int:
        """How many can be under way at once: a connection may be kept for withdrawals."""
        return max(1, self.traffic.concurrent - (self.traffic.reserved_dialogues if self.lane == "given" else 0))

    @property
    def most(self) -> int:
        """As many deliveries as can be under way at once."""
        return self.most_dialogues * self.traffic.batch_size

    @property
    def most_taken(self) -> int | None:
        """How many more to take in at the most while others are under way; None where it does not matter. Connections in groups would wait while hundreds are opened."""
        return None if self.groups == 1 else max(LEAST_TAKEN, 2 * self.most)

    @property
    def is_growing(self) -> bool:
        """Whether it had all that it tried, and may well have more at once."""
        return self.tried is not None and self.tried > LEAST_TRIED and len(self.pending) > 0 and len(self.flying) < self.most_dialogues

    @property
    def wants_more(self) -> bool:
        """Whether others are pending that are only not asked for because few are tried."""
        return self.tried is not None and len(self.pending) > 0

    def lander(self, flight: Flight) -> Callable[[Work, WorkResult], None]:
        """What the exchange calls, on its own thread, when a dialogue has ended."""
        return lambda _, result: self.landed.put((flight, result, time.monotonic()))

    def settling_at(self, now_ms: int) -> int:
        """The time of the settlement that is being tried: the same until it is known to be done."""
        self.settling_ms = self.settling_ms or now_ms
        return self.settling_ms

    def is_time_to_settle(self, landing: Landing | None = None) -> bool:
        """Whether endings are to be written down now, those of dialogues that have just landed among them; what was told too late is corrected before it counts as told."""
        count, flying = len(self.endings), len(self.flying)
        if landing is None and self.is_drafted:
            return False  # what may be settled already is said again first, in the same words
        if landing is not None and landing.leaving is not None:
            count, flying = count + len(landing.results), flying - len(landing.leaving.permits)
        in_groups = landing is not None and self.groups > 1  # a settlement apart would keep the next group waiting
        return count > 0 and not self.corrections and (in_groups or flying < FEW_FLYING or count >= SETTLE_AT_ONCE or time.monotonic() >= self.settle_at)

    def settled(self, began_at: float) -> None:
        """All endings are written down, which began then."""
        ended_at = time.monotonic()
        self.endings, self.settling_ms = [], 0
        self.settle_at = ended_at + min(SETTLE_SECONDS, SETTLE_REST * (ended_at - began_at))

    def add(self, tasks: Sequence[Task], endings: Sequence[Ending]) -> None:
        """Take in what was leased, but for what is in hand already: hints come twice. Where options differ by purpose, those of one place stand together."""
        in_hand = {each.event_id for each in self.endings} | {task.event.event_id for task in self.pending}
        in_hand.update(task.event.event_id for task in self.flying_tasks)
        self.endings += [ending for ending in endings if ending.event_id not in in_hand]
        for task in tasks:
            if task.event.event_id not in in_hand:
                in_hand.add(task.event.event_id)
                self.pending.append(task)
        if self.destination.options_by_purpose:
            self.pending = deque(sorted(self.pending, key=lambda task: task.place))

    def next_asked(self, landed: int) -> list[Task]:
        """Takes the pending deliveries to ask for: of one place where they share a call, and no more than there may be room for, `landed` of those under way having ended."""
        most = self.most - len(self.flying_tasks)
        most = landed + (most if self.tried is None else min(most, self.tried * self.traffic.batch_size))
        shares_calls, place = self.traffic.batch_size > 1, self.pending[0].place if self.pending else ""
        asked: list[Task] = []
        again: list[Task] = []
        contacts: set[str] = set()
        while self.pending and len(asked) < most and (not shares_calls or self.pending[0].place == place):
            task = self.pending.popleft()
            (asked if contacts.isdisjoint(task.contact_keys) else again).append(task)  # one talk about a person at a time
            contacts.update(task.contact_keys)
        self.pending.extendleft(reversed(again))
        return asked

    def traffic_for(self, asked: Sequence[Task]) -> Traffic:
        """The limits for these, of one place: who was refused has a dialogue to himself, or others would be refused with him."""
        return replace(self.traffic, batch_size=1) if asked and asked[0].was_refused else self.traffic

    def sort(self, asked: Sequence[Task], verdicts: Sequence[int]) -> list[tuple[Task, int]]:
        """What was admitted, with the time until which a late write may come; the refused go back to pending, the busy to the ledger."""
        is_any_busy = any(verdict < 0 for verdict in verdicts)
        ours = {key for task in self.flying_tasks for key in task.contact_keys} if is_any_busy else set()
        admitted: list[tuple[Task, int]] = []
        refused: list[Task] = []
        for task, verdict in zip(asked, verdicts, strict=True):
            if verdict >= 1:
                admitted.append((task, verdict if verdict > 1 else 0))
                ours.update(task.contact_keys)
            elif verdict == 0 or not ours.isdisjoint(task.contact_keys):
                refused.append(task)
            else:
                self.endings.append(task.ending(None, back_at_ms=-BUSY_WAIT_MS))
        self.pending.extendleft(reversed(refused))
        if 0 not in verdicts:
            self.tried = None if self.tried is None or self.tried >= self.most_dialogues else 2 * self.tried
        elif self.lane == "given":  # all that a withdrawal found no room for is counted, and kept free for it
            self.tried = LEAST_TRIED
        return admitted

    def wait(self) -> None:
        """For the next dialogue to land, if one does before endings are to be written down, and those that land with it or in the moment after.

        Each group costs round trips.
        """
        most = -(-len(self.flying) // self.groups)
        until = time.monotonic() + (LOOK_SECONDS if not self.pending and len(self.flying) < self.most_dialogues else 1.0)
        until = min(until, self.settle_at) if self.endings else until
        if self.arrived:  # left from a turn that failed
            self._gather(most - len(self.arrived), min(until, time.monotonic() + GATHER_SECONDS))
        elif self.landed.wait(1, until):
            self._gather(most, time.monotonic() + GATHER_SECONDS)

    def _gather(self, most: int, latest: float) -> None:
        """Take what lands until then, up to `most`; where there are groups, only as long as one comes soon after the other."""
        before, has_gaps = len(self.landed), self.groups > 1
        while (count := self.landed.wait(most, min(latest, time.monotonic() + GAP_SECONDS) if has_gaps else latest)) < most:
            if not has_gaps or count == before or time.monotonic() >= latest:
                break
            before = count
        for flight, result, at in self.landed.take(most):
            self.flight_seconds = at - flight.started_at
            self.arrived.append((flight, result))

    def put_back(self, tasks: Sequence[Task], permits: Iterable[int]) -> None:
        """Nothing was sent for these: they are pending again, and what the ledger may have given for them is returned when it is there."""
        self.pending.extendleft(reversed(tasks))
        ended = {permit for permit, _ in self.landing.leaving.permits} if self.landing and self.landing.leaving else set()
        ours = {key for permit, flight in self.flying.items() if permit not in ended for task in flight.tasks for key in task.contact_keys}
        farewells = [farewell(task, self.lane, definite=True) for task in tasks if ours.isdisjoint(task.contact_keys)]
        self.goodbyes.append(Leaving(permits=[(permit, 0) for permit in permits], farewells=farewells))
