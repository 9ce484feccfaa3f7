"""Works through one chunk of leased deliveries: admit, judge, talk, land, until nothing is left in hand.

The fence is read right before each dialogue starts, under an exclusive claim of the contact. Whatever cannot go now (limit, pause, breaker,
busy contact, no time left) goes back to the ledger with a time; nobody waits in a worker for anything but an answer under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from pipeline.errors import LedgerUnavailable
from pipeline.exchange import Exchange
from pipeline.in_hand import Brought, Chunk
from pipeline.judging import Judge
from pipeline.landing import Flight, Landing, farewell, landing_of, work_of
from pipeline.ledger import Ledger
from pipeline.ledger.accounts import Admission, Asking, Leaving
from pipeline.ledger.standings import Records
from pipeline.ledger.turns import Turn
from pipeline.limits import DeliverOptions, LimitOptions, traffic_of
from pipeline.prepare import Task
from pipeline.routing import Destination
from pipeline.settle import Ending
from pipeline.settler import Draft, Settler

log = logging.getLogger(__name__)

DOZE_SECONDS = 0.01
HOLD_ON_SECONDS = 60.0
"""How long a chunk keeps in memory what it told, while the ledger is away."""
HOLD_LOOK_SECONDS = 0.2
RETURNED_MS = 500
"""When to look again at what was returned since a part of the ledger is away."""
MOST_ALONG = 500
"""Endings that are written down in a turn at the most: while the server carries it out it serves nobody else."""


class ChunkWorker:
    """Works through chunks; safe to share between threads, one chunk a thread.

    While the ledger is away nothing is started, and what was told is kept until it can be written down. Raises LedgerUnavailable if that takes too long:
    leases then run out, the deliveries are rescued, and told again. Once `is_stopping`, nothing more is started either.
    """

    def __init__(
        self, ledger: Ledger, exchange: Exchange, judge: Judge, settler: Settler, limits: LimitOptions, options: DeliverOptions, is_stopping: Callable[[], bool]
    ) -> None:
        self._ledger, self._exchange, self._judge, self._settler = ledger, exchange, judge, settler
        self._limits, self._options, self._is_stopping = limits, options, is_stopping
        self._doze = threading.Event()

    def work(self, destination: Destination, lane: str, token: str, tasks: Sequence[Task], endings: Sequence[Ending], more: Brought) -> bool:
        """Tell the destination of these tasks, leased for `token`, and of more while it is at it, and write down the endings; False if there was no room for any."""
        chunk = self._chunk(destination, lane, token, more)
        chunk.add(tasks, endings)
        while chunk.has_work:
            try:
                if chunk.flying and chunk.landing is None and not chunk.is_growing and not self._refill(chunk):
                    chunk.wait()
                began = time.monotonic()
                self._turn(chunk)
                self._make_known(chunk)
                self._correct(chunk)
                self._settle(chunk)
                self._renew(chunk)
                chunk.turn_seconds = time.monotonic() - began
            except LedgerUnavailable:
                if not self._holds_on(chunk):
                    raise
        return chunk.moved

    def _holds_on(self, chunk: Chunk) -> bool:
        """Start nothing more, and keep what was told for another try; False once that has lasted too long, or if there is nothing to keep and what was leased cannot be returned.

        Where only a part of the ledger is away, what lies in the others goes on: leases must not lapse over it.
        """
        told = chunk.flying or chunk.corrections or chunk.settlements or any(ending.result is not None for ending in chunk.endings)
        self._return_pending(chunk, -RETURNED_MS)
        now = time.monotonic()
        chunk.stop_at = min(chunk.stop_at, now)
        chunk.held_until = chunk.held_until or now + HOLD_ON_SECONDS
        gives_up = not told or now >= chunk.held_until
        for step in (self._make_known, self._say_goodbye, self._correct, self._settle, self._renew):
            with suppress(LedgerUnavailable):
                step(chunk)
        if not gives_up:
            self._doze.wait(HOLD_LOOK_SECONDS)
        return not (gives_up and chunk.has_work)

    def _refill(self, chunk: Chunk) -> bool:
        """Take in more before the last dialogues end, so that no connection waits for the next lease; whether there is more to start."""
        if len(chunk.pending) >= chunk.most or self._is_over(chunk):
            return False
        before = len(chunk.pending)
        chunk.add(*chunk.more.take(chunk.most_taken))
        return len(chunk.pending) > before and len(chunk.flying) < chunk.most_dialogues

    def _is_over(self, chunk: Chunk) -> bool:
        """Whether nothing more is started: its time is up, or that of this process."""
        return time.monotonic() >= chunk.stop_at or self._is_stopping()

    def _chunk(self, destination: Destination, lane: str, token: str, more: Brought) -> Chunk:
        now = time.monotonic()
        return Chunk(
            destination=destination,
            lane=lane,
            token=token,
            more=more,
            traffic=traffic_of(destination, lane, self._limits),
            pending=deque(),
            endings=[],
            stop_at=now + self._options.chunk_seconds,
            renew_at=now + self._options.lease_seconds / 3,
            settle_at=now,  # the first answer is written down at once: a chunk of a few has no many to wait for
            patience=self._patience,
        )

    @property
    def _patience(self) -> int:
        """How often to look again for a connection, since the last one that there was: chunks that share one have it in turn."""
        return int(self._options.patience_seconds / DOZE_SECONDS)

    def _settle(self, chunk: Chunk) -> None:
        """Write endings down: many at once while dialogues are under way, but never long after they came."""
        began_at = time.monotonic()
        if chunk.is_time_to_settle():
            self._settler.settle(chunk.destination, chunk.lane, chunk.token, chunk.endings, chunk.settling_at(self._ledger.clock_ms()))
            chunk.settled(began_at)

    def _turn(self, chunk: Chunk) -> None:
        """End what has landed, write it down if it is time to, and start as many pending deliveries as there is room for, in one round trip."""
        if self._is_over(chunk) or self._ledger.holds(chunk.lane):
            self._return_pending(chunk, -1)
        self._say_goodbye(chunk)
        landing = self._landing(chunk)
        began_at, draft = time.monotonic(), self._draft(chunk, landing)
        asked = chunk.next_asked(len(landing.results))
        if not (landing.leaving or asked):
            return
        first, under_way = chunk.next_permit, len(chunk.flying) - (len(landing.leaving.permits) if landing.leaving else 0)
        contacts = [task.contact_keys for task in asked]
        asking = Asking(first_permit=first, contacts=contacts, under_way=under_way, wants_more=chunk.wants_more) if asked else None
        checks = [check for each in landing.checked for check in each.checks]
        named = dict.fromkeys(key for task in asked for key in task.event.identifier_keys.values())
        settling = draft.settling if draft else None
        try:
            turn = self._ledger.turns.take(
                chunk.traffic_for(asked), chunk.lane, chunk.holder, leaving=landing.leaving, checks=checks, asking=asking, named=named, settling=settling
            )
        except LedgerUnavailable:
            chunk.next_permit += len(asked)
            if asked:
                chunk.put_back(asked, range(first, chunk.next_permit))
            raise
        started_at = time.monotonic()
        self._land(chunk, landing, turn)
        if draft and turn.settled:
            chunk.settlements.append((draft, turn.settled))
            chunk.settled(began_at)
        if turn.admission:
            self._start(chunk, asked, turn.admission, turn.read, started_at)

    def _draft(self, chunk: Chunk, landing: Landing) -> Draft | None:
        """What is to be written down in the turn that ends these dialogues, should all their claims have lasted; None if it is not time to, or cannot be done in one."""
        if landing.leaving is None or not self._ledger.turns.may_settle or not chunk.is_time_to_settle(landing):
            return None
        endings = [*chunk.endings, *landing.endings()]
        if len(endings) > MOST_ALONG:
            return None
        draft = self._settler.draft(chunk.destination, chunk.lane, chunk.token, endings, chunk.settling_at(self._ledger.clock_ms()))
        chunk.is_drafted = True
        return draft

    def _make_known(self, chunk: Chunk) -> None:
        """What turns have settled, once what they admitted has been started."""
        while chunk.settlements:
            self._settler.make_known(chunk.destination, *chunk.settlements[0])
            chunk.settlements.pop(0)

    def _landing(self, chunk: Chunk) -> Landing:
        """What has landed; what was said of an earlier landing and not answered is said again first, as it was, to get that answer."""
        if chunk.landing is not None:
            return chunk.landing
        probe_seconds, is_held_back = self._limits.misconfigured_probe_seconds, self._ledger.accounts.gate_is_open
        landing = landing_of(chunk.arrived, self._judge, chunk.destination, chunk.lane, probe_seconds, is_held_back)
        chunk.landing, chunk.arrived = landing if chunk.arrived else None, []
        return landing

    def _start(self, chunk: Chunk, asked: Sequence[Task], admission: Admission, read: Records, started_at: float) -> None:
        """Judge what was admitted, and start its dialogues; give the rest back when nothing moves."""
        first = chunk.next_permit
        chunk.next_permit += admission.dialogues
        admitted = chunk.sort(asked, admission.verdicts)
        if admitted:
            chunk.moved, chunk.patience = True, self._patience
        self._launch(chunk, admitted, first, read, started_at)
        # One that is growing is not: a few are talked about elsewhere, the others were not asked for.
        is_idle = chunk.pending and not chunk.flying and not admitted and not chunk.is_growing
        if is_idle and not self._waits_for_connection(chunk, admission):
            self._compact(chunk)
            self._return_pending(chunk, admission.retry_at_ms)

    def _waits_for_connection(self, chunk: Chunk, admission: Admission) -> bool:
        """Whether to ask again in a moment, since another process holds every connection: it takes less than giving all back and leasing it again."""
        if admission.why != "concurrency" or chunk.patience <= 0:
            return False
        chunk.patience -= 1
        self._doze.wait(DOZE_SECONDS)
        return True

    def _launch(self, chunk: Chunk, admitted: Sequence[tuple[Task, int]], first_permit: int, read: Records, started_at: float) -> None:
        """Judge the admitted by the standings as they are now, and start a dialogue for each batch of those still to be told."""
        try:
            judged = self._judge.endings(chunk.destination, [task for task, _ in admitted], read)
            told = self._judge.with_standings(chunk.destination, [task for task, _ in admitted if judged[task.event.event_id] is None], read)
        except LedgerUnavailable:
            chunk.put_back([task for task, _ in admitted], range(first_permit, chunk.next_permit))
            raise
        to_tell = {task.event.event_id: task for task in told}
        size = chunk.traffic_for([task for task, _ in admitted[:1]]).batch_size
        dropped: list[Task] = []
        idle: list[tuple[int, int]] = []
        for permit, start in enumerate(range(0, len(admitted), size), first_permit):
            batch = [(to_tell[task.event.event_id], late) for task, late in admitted[start : start + size] if task.event.event_id in to_tell]
            for task, _ in admitted[start : start + size]:
                if (ending := judged[task.event.event_id]) is not None:
                    chunk.endings.append(ending)
                    dropped.append(task)
            if batch:
                tasks, late_until_ms = tuple(task for task, _ in batch), tuple(late for _, late in batch)
                flight = Flight(permit=permit, tasks=tasks, late_until_ms=late_until_ms, started_at=time.monotonic())
                chunk.flying[permit] = flight
                deadline = started_at + self._limits.start_window_seconds
                self._exchange.start(work_of(chunk.destination, flight, deadline), chunk.lander(flight))
            else:
                idle.append((permit, 0))
        if dropped or idle:
            chunk.goodbyes.append(Leaving(permits=idle, farewells=[farewell(task, chunk.lane, definite=True) for task in dropped]))
            self._say_goodbye(chunk)

    def _say_goodbye(self, chunk: Chunk) -> None:
        """Return permits and claims under which nothing was sent; after the leave that is still to be answered, as both may name a contact."""
        if chunk.goodbyes and chunk.landing is None:
            self._ledger.accounts.leave_all([(chunk.traffic, chunk.holder, each) for each in chunk.goodbyes])
            chunk.goodbyes.clear()

    def _compact(self, chunk: Chunk) -> None:
        """While nothing can be sent, end at least what a newer word has overtaken, so that a backlog holds only the newest."""
        judged = self._judge.endings(chunk.destination, list(chunk.pending))
        chunk.endings += [ending for ending in judged.values() if ending is not None]
        chunk.pending = deque(task for task in chunk.pending if judged[task.event.event_id] is None)

    def _return_pending(self, chunk: Chunk, at_ms: int) -> None:
        chunk.endings += [task.ending(None, back_at_ms=at_ms) for task in chunk.pending]
        chunk.pending.clear()

    def _land(self, chunk: Chunk, landing: Landing, turn: Turn) -> None:
        """Note what came of each delivery, and what was told too late."""
        if landing.leaving is None:
            return
        if turn.moved:
            gate = landing.leaving.gate
            log.log(logging.INFO if gate == "ok" else logging.ERROR, "account_gate", extra={"account": chunk.destination.account, "gate": gate})
        lost = {task.event.event_id for (task, *_), ours in zip(landing.results, turn.lasted, strict=True) if not ours}
        if any(turn.words):
            chunk.corrections.append((landing.checked, turn.words, lost))
        for permit, _ in landing.leaving.permits:
            del chunk.flying[permit]
        chunk.landing, chunk.is_drafted = None, False
        if not turn.settled:
            chunk.endings += landing.endings(lost)

    def _correct(self, chunk: Chunk) -> None:
        """Correct what was told too late, before it counts as told."""
        while chunk.corrections:
            self._judge.correct_stale(chunk.destination, *chunk.corrections[0])
            chunk.corrections.pop(0)

    def _renew(self, chunk: Chunk) -> None:
        """Keep the leases of what is still in hand; what was lost meanwhile must not be started any more."""
        now = time.monotonic()
        if now < chunk.renew_at or not chunk.has_work:
            return
        held = [task.event.event_id for task in (*chunk.pending, *chunk.flying_tasks)] + [ending.event_id for ending in chunk.endings] + chunk.more.leased()
        lost = self._ledger.deliveries.renew(chunk.destination.name, chunk.lane, chunk.token, self._options.lease_ms, held)
        if chunk.flying:
            flying_keys = [key for task in chunk.flying_tasks for key in task.contact_keys]
            self._ledger.accounts.hold(chunk.traffic, chunk.holder, list(chunk.flying), flying_keys)
        chunk.pending = deque(task for task in chunk.pending if task.event.event_id not in lost)
        chunk.renew_at = now + self._options.lease_seconds / 3
