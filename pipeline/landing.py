"""What a chunk has in hand, and what has to be said of its dialogues that have ended: what came of each delivery, what its account is told, and what is looked up once more."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from msgspec import Struct

from pipeline.domain import Outcome, State, VendorResult, Word
from pipeline.exchange import Work, WorkResult
from pipeline.judging import Checked, Judge
from pipeline.ledger.accounts import Farewell, Leaving, Traffic
from pipeline.outgoing import Sent
from pipeline.prepare import DIFFERS_THERE, Task
from pipeline.routing import Destination
from pipeline.settle import Ending
from pipeline.settler import Draft
from pipeline.vendors.base import Held

SETTLE_AT_ONCE = 100
SETTLE_SECONDS = 0.05
SETTLE_REST = 6
FEW_FLYING = 4
"""Endings are written down at once while fewer dialogues than that are under way; else when there are so many, or this long after the last time: `SETTLE_SECONDS` at
the most, and less where writing takes little, so that no more than a seventh of the time goes into it. A crash repeats the calls that were not written down."""
GATHER_SECONDS = 0.003
LEAST_TURN_SECONDS = 0.02
MOST_GROUPS = 8
"""A vendor that takes several turns to answer is talked to in as many groups, so that its connections do not all wait for one turn."""
LOOK_SECONDS = 0.02
"""How soon to look again for what was brought, while there are connections free for it."""
BUSY_WAIT_MS = 1000
"""When to look again at a contact that another worker is talking about; talks mostly take far less than their claim."""


class Flight(Struct, frozen=True, kw_only=True):
    """One dialogue under way."""

    permit: int
    tasks: tuple[Task, ...]
    late_until_ms: tuple[int, ...]
    started_at: float


class Landing(Struct, frozen=True, kw_only=True):
    """Dialogues that have ended: what came of each task, what is said to the account (None if none has), and what is looked up."""

    results: Sequence[tuple[Task, VendorResult, int, Sequence[Sent]]]
    leaving: Leaving | None
    checked: Sequence[Checked]

    def endings(self, lost: Container[str] = ()) -> list[Ending]:
        """What is to be written down of each task; a withdrawal whose claim had not lasted (`lost` by event id) is told again, since a word told meanwhile may have come after it."""
        return [
            task.ending(
                result,
                retell_at_ms=late or (-1 if task.event.event_id in lost and task.event.state is State.WITHDRAWN else 0),
                sent=sent,
            )
            for task, result, late, sent in self.results
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What is brought to a chunk under way: `take` leases more, as those that can be told and those that end without a word, and `leased` are those that wait leased."""

    take: Callable[[], tuple[Sequence[Task], Sequence[Ending]]]
    leased: Callable[[], list[str]]


@dataclass(slots=True)
class Chunk:
    """A chunk while it is being worked on, by one thread: its deliveries are leased for `token`, permits and claims of its dialogues are those of `holder`.

    `landing` is what was said of dialogues that ended, until it is answered, `is_drafted` whether its settlement was sent along; `goodbyes` are permits and claims under which nothing was sent, and
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
    flying: dict[int, Flight] = field(default_factory=dict)
    landed: SimpleQueue[tuple[Flight, WorkResult, float]] = field(default_factory=SimpleQueue)

    @property
    def has_work(self) -> bool:
        """Whether anything is left in hand."""
        return bool(self.pending or self.flying or self.endings or self.corrections or self.goodbyes or self.settlements)

    @property
    def flying_tasks(self) -> list[Task]:
        """What is being told."""
        return [task for flight in self.flying.values() for task in flight.tasks]

    @property
    def most(self) -> int:
        """As many deliveries as can be under way at once."""
        return self.traffic.concurrent * self.traffic.batch_size

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
        return count > 0 and not self.corrections and (flying < FEW_FLYING or count >= SETTLE_AT_ONCE or time.monotonic() >= self.settle_at)

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
        """Takes the pending deliveries to ask for: of one place, and no more than there may be room for, `landed` of those under way having ended."""
        most = self.most - len(self.flying_tasks) + landed
        place = self.pending[0].place if self.pending else ""
        asked: list[Task] = []
        again: list[Task] = []
        contacts: set[str] = set()
        while self.pending and len(asked) < most and self.pending[0].place == place:
            task = self.pending.popleft()
            (asked if contacts.isdisjoint(task.contact_keys) else again).append(task)  # one talk about a person at a time
            contacts.update(task.contact_keys)
        self.pending.extendleft(reversed(again))
        return asked

    def sort(self, asked: Sequence[Task], verdicts: Sequence[int]) -> list[tuple[Task, int]]:
        """What was admitted, with the time until which a late write may come; the refused go back to pending, the busy to the ledger."""
        ours = {key for task in self.flying_tasks for key in task.contact_keys}
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
        return admitted

    def wait(self) -> None:
        """For the next dialogue to land, if one does before endings are to be written down, and those that land with it or in the moment after.

        Each group costs round trips.
        """
        landed = self.arrived
        groups = min(MOST_GROUPS, max(1, int(self.flight_seconds / max(LEAST_TURN_SECONDS, self.turn_seconds))))
        most = -(-len(self.flying) // groups)
        until = time.monotonic() + (LOOK_SECONDS if not self.pending and len(self.flying) < self.traffic.concurrent else 1.0)
        until = min(until, self.settle_at) if self.endings else until
        try:
            while len(landed) < most:
                flight, result, at = self.landed.get(timeout=max(0.0, until - time.monotonic()))
                if not landed:
                    until = time.monotonic() + GATHER_SECONDS
                self.flight_seconds = at - flight.started_at
                landed.append((flight, result))
        except Empty:
            pass

    def put_back(self, tasks: Sequence[Task], permits: Iterable[int]) -> None:
        """Nothing was sent for these: they are pending again, and what the ledger may have given for them is returned when it is there."""
        self.pending.extendleft(reversed(tasks))
        ended = {permit for permit, _ in self.landing.leaving.permits} if self.landing and self.landing.leaving else set()
        ours = {key for permit, flight in self.flying.items() if permit not in ended for task in flight.tasks for key in task.contact_keys}
        farewells = [farewell(task, self.lane, definite=True) for task in tasks if ours.isdisjoint(task.contact_keys)]
        self.goodbyes.append(Leaving(permits=[(permit, 0) for permit in permits], farewells=farewells))


def landing_of(landed: Sequence[tuple[Flight, WorkResult]], judge: Judge, destination: Destination, lane: str, misconfigured_probe_seconds: float) -> Landing:
    """Of dialogues that have landed: permits and claims go back, and the account's gate may move."""
    results = [
        (task, result, late, work.sent)
        for flight, work in landed
        for task, result, late in zip(flight.tasks, results_of(flight, work), flight.late_until_ms, strict=True)
    ]
    gate, pause_seconds = gate_word([result for _, result, *_ in results], misconfigured_probe_seconds)
    leaving = Leaving(
        permits=[(flight.permit, work.calls) for flight, work in landed],
        farewells=[farewell(task, lane, definite=result.definite) for task, result, *_ in results],
        gate=gate,
        pause_ms=int(pause_seconds * 1000),
    )
    checked = judge.checks(destination, [(task, result) for task, result, *_ in results])
    return Landing(results=results, leaving=leaving if landed else None, checked=checked)


def work_of(destination: Destination, flight: Flight, deadline: float) -> Work:
    """What the exchange is to do for one dialogue; no request of it starts after the deadline."""
    adapter, first = destination.adapter, flight.tasks[0]
    if first.asks:
        dialogue: Any = adapter.ask(first.instruction.subject, first.instruction.options)
    else:
        dialogue = adapter.tell([task.instruction for task in flight.tasks])
    return Work(
        adapter=adapter,
        dialogue=dialogue,
        account=destination.account,
        size=len(flight.tasks),
        allow_private_network=destination.allow_private_network,
        deadline=deadline,
    )


def farewell(task: Task, lane: str, *, definite: bool) -> Farewell:
    """The end of one instruction's part in a dialogue."""
    return Farewell(lane=lane, definite=definite, identifier_keys=task.contact_keys)


OWN_WAITS = frozenset({"deadline_passed", "next_dialogue", DIFFERS_THERE})
"""Reasons of waits that we chose ourselves: they say nothing about the account, and must not keep its breaker open."""


def gate_word(results: Sequence[VendorResult], misconfigured_probe_seconds: float) -> tuple[str, float]:
    """What a set of answers says about the account, and for how many seconds it should rest."""
    outcomes = {result.outcome for result in results}
    if Outcome.MISCONFIGURED in outcomes:
        return "misconfigured", misconfigured_probe_seconds
    throttled = [result for result in results if result.outcome is Outcome.THROTTLED and result.reason not in OWN_WAITS]
    if throttled:
        return "paused", max(result.retry_after_seconds if result.retry_after_seconds is not None else 1.0 for result in throttled)
    if outcomes - {Outcome.UNAVAILABLE, Outcome.THROTTLED}:
        return "ok", 0.0
    return ("failed", 0.0) if Outcome.UNAVAILABLE in outcomes else ("", 0.0)


def results_of(flight: Flight, work: WorkResult) -> Sequence[VendorResult]:
    """One result for each task; what a vendor says it holds settles a delivery that awaited confirmation, or that was heard from it."""
    if not isinstance(work.results, Held):
        return work.results if isinstance(work.results, tuple) else ()
    held, task = work.results, flight.tasks[0]
    is_held = held.readable and held.state is task.event.state
    if not task.leased.row.awaiting:
        told = VendorResult(outcome=Outcome.UNCHANGED, vendor_reference=held.vendor_reference)
        return [told if is_held else VendorResult(outcome=Outcome.THROTTLED, reason=DIFFERS_THERE, retry_after_seconds=0.0)]
    outcome = Outcome.APPLIED if is_held else Outcome.PENDING_CONFIRMATION
    return [VendorResult(outcome=outcome, reason="" if outcome is Outcome.APPLIED else "not_confirmed_yet", vendor_reference=held.vendor_reference)]
