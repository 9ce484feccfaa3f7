"""Tells one destination about one event to see what it answers, outside the ledger: no event, no delivery, no other destination.

So nothing may come back of it: a `given` is not tried where a source would hear it as the person's own. What the ledger knows still holds: a test neither contradicts a standing nor talks about a contact at the same time as a worker, and it counts against
the account's limits.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import structs

from pipeline.domain import ConsentEvent, IncomingEvent, Outcome, State, VendorResult
from pipeline.errors import ConsentRelayError
from pipeline.exchange import Exchange, Work
from pipeline.fence import sharing
from pipeline.identifiers import Hasher
from pipeline.judging import Judge
from pipeline.landing import gate_word
from pipeline.ledger import Ledger
from pipeline.ledger.accounts import Farewell, Traffic
from pipeline.ledger.deliveries import Leased, Row
from pipeline.limits import LimitOptions, traffic_of
from pipeline.prepare import Preparer, Task, contact_keys_of, instruction_of
from pipeline.routing import Destination, Routing, Source
from pipeline.sightings import Sightings
from pipeline.vault import Vault
from pipeline.vendors.base import VendorRequest, VendorResponse

TAKEN: Final = frozenset({Outcome.APPLIED, Outcome.UNCHANGED, Outcome.PENDING_CONFIRMATION})


class TrialRefused(ConsentRelayError):
    """A test that must not be sent, and why; nothing was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """What was sent, by labels that are safe to show, and what came of it."""

    state: State
    purpose: str
    operations: tuple[str, ...]
    calls: int
    seconds: float
    result: VendorResult

    @property
    def is_taken(self) -> bool:
        return self.result.outcome in TAKEN


class Trial:
    """Tests destinations one event at a time; without a `ledger` it cannot know who stands withdrawn, and the caller must have been told so."""

    def __init__(self, exchange: Exchange, routing: Routing, hasher: Hasher, limits: LimitOptions) -> None:
        self._exchange, self._routing, self._hasher, self._limits = exchange, routing, hasher, limits
        self._ledger: Ledger | None = None
        self._judge: Judge | None = None
        self._sightings: Sightings | None = None

    def ask_first(self, ledger: Ledger, vault: Vault) -> None:
        """From now on ask this ledger before anything is sent, and note there what a poll will see of it."""
        self._sightings = Sightings(ledger, self._hasher)
        self._ledger, self._judge = ledger, Judge(ledger, Preparer(ledger, vault, lambda: self._routing), lambda: self._routing)

    def event_of(self, source: Source, incoming: IncomingEvent) -> ConsentEvent:
        """An event for a test: its id is its own, so that a receiver that tells repeats by it does not take the real one for a repeat, and every word is newer."""
        return ConsentEvent(
            event_id=f"test-{secrets.token_hex(10)}",
            source=source.name,
            subject=incoming.subject,
            subject_key=self._hasher.subject_key(incoming.subject),
            identifier_keys=self._hasher.identifier_keys(incoming.subject),
            purpose=incoming.purpose,
            state=incoming.state,
            event_time=incoming.event_time,
            order_us=0,
            received_at=incoming.event_time,
            group=incoming.group,
            profile=incoming.profile,
            evidence=incoming.evidence,
            metadata=incoming.metadata,
        )

    def refuse_hopeless(self, destination: Destination, event: ConsentEvent) -> None:
        """Raises TrialRefused for what this vendor cannot be told at all, and for a consent that would come back from it as a real one."""
        can = destination.adapter.capabilities
        if event.state not in can.states:
            told = " and ".join(f"`{state}`" for state in sorted(can.states))
            raise TrialRefused(f"{destination.adapter.title} cannot be told of `{event.state}`, only of {told}")
        if not destination.adapter.contact_of(event.subject):
            raise TrialRefused(f"the event names nobody whom {destination.name} could find: it needs one of {', '.join(can.identifiers)}")
        if event.state is State.GIVEN and (hearing := self._hearing(destination, event.purpose)):
            raise TrialRefused(
                f"{' and '.join(hearing)} would hear this from {destination.name} as the person's own consent, and everybody would be told: "
                "test a destination of its own, which no source hears, or let that source rest until the person is out of the list again"
            )

    def _hearing(self, destination: Destination, purpose: str) -> list[str]:
        """The sources that would take what we write there for the person's word; a mark is seen only where it was left, so not by a source of the pair's other side."""
        is_marked = destination.adapter.marks_own_writes(destination.options_for(purpose))
        speakers = self._routing.speakers_for(destination.name)
        return [source.name for source in speakers if not (is_marked and source.kind == destination.vendor and destination.name in source.origin)]

    def tell(self, destination: Destination, event: ConsentEvent) -> TrialReport:
        """Tell it, if nothing stands against it. Raises TrialRefused, LedgerUnavailable."""
        self.refuse_hopeless(destination, event)
        task = Task(
            leased=Leased(event_id=event.event_id, row=Row(state=event.state.value)),
            event=event,
            instruction=instruction_of(destination, event),
            contact_keys=contact_keys_of(destination, event),
            place="",
        )
        if self._ledger is None or self._judge is None:
            return self._talk(destination, task)
        return self._tell_under_claim(self._ledger, self._judge, destination, task)

    def _tell_under_claim(self, ledger: Ledger, judge: Judge, destination: Destination, task: Task) -> TrialReport:
        """As a worker does: admit, claim the contact, ask the standing, talk, and hand all of it back whatever happens."""
        traffic, token = replace(traffic_of(destination, task.event.state.value, self._limits), hold_ms=0), f"test.{secrets.token_hex(4)}"
        self._admit(ledger, destination, traffic, token, task)
        report: TrialReport | None = None
        calls, result = traffic.calls_per_dialogue, VendorResult(outcome=Outcome.UNAVAILABLE, reason="interrupted", definite=False)
        try:
            if against := self._standing_against(ledger, destination, task.event):
                calls, result = 0, VendorResult(outcome=Outcome.SUPERSEDED)
                raise TrialRefused(against)
            report = self._talk(destination, task)
            calls, result = report.calls, report.result
        finally:
            gate, pause_seconds = gate_word([result], self._limits.misconfigured_probe_seconds) if report else ("", 0.0)
            farewell = Farewell(lane=task.event.state.value, definite=result.definite, identifier_keys=task.contact_keys)
            _, (has_lasted,) = ledger.accounts.leave(traffic, token, [(0, calls)], [farewell], gate=gate, pause_ms=int(pause_seconds * 1000))
            if calls:
                checked = judge.checks(destination, [(task, result)])
                words = ledger.standings.newer([check for each in checked for check in each.checks])
                judge.correct_stale(destination, checked, words, () if has_lasted else (task.event.event_id,))
                self._note_told(destination, task, result)
        return report

    def _note_told(self, destination: Destination, task: Task, result: VendorResult) -> None:
        """A poll that shows this state shows what we wrote."""
        if self._sightings is not None and destination.is_polled and result.outcome in TAKEN:
            self._sightings.note_told(destination, [(task.event.purpose, task.event.state, result.vendor_reference)])

    def _admit(self, ledger: Ledger, destination: Destination, traffic: Traffic, token: str, task: Task) -> None:
        if ledger.deliveries.figures(destination.name)["paused"]:
            raise TrialRefused(f"{destination.name} is paused; `consent destination resume {destination.name}` lets it be told again")
        admission = ledger.accounts.admit(traffic, task.event.state.value, token, 0, [task.contact_keys])
        (verdict,) = admission.verdicts
        if verdict < 0:
            raise TrialRefused(f"a worker is telling {destination.name} about this person right now; try again in a few seconds")
        if verdict == 0:
            raise TrialRefused(f"the account of {destination.name} takes no call now ({admission.why}); try again later")

    def _standing_against(self, ledger: Ledger, destination: Destination, event: ConsentEvent) -> str:
        """Why a test would contradict what the ledger knows of this person, or of anybody linked; empty if it would not."""
        reach = ledger.standings.reach([event.identifier_keys.values()])[0]
        purposes = [event.purpose, *sharing(event.purpose, destination, self._routing.purposes_of(destination.name))]
        for purpose in purposes:
            own = {word.state for record in reach.rings[0] if (word := record.words.get(purpose)) is not None}
            newest = reach.newest(purpose)
            if event.state is State.GIVEN and (State.WITHDRAWN in own or (newest is not None and newest.state is State.WITHDRAWN)):
                return f"this person stands withdrawn for {purpose} in the ledger: a test must not overtake that"
            if event.state is State.WITHDRAWN and newest is not None and newest.state is State.GIVEN:
                return f"this person stands given for {purpose} in the ledger: send the withdrawal itself, so that every destination hears of it"
        return ""

    def _talk(self, destination: Destination, task: Task) -> TrialReport:
        operations: list[str] = []
        started_at = time.monotonic()
        work = Work(
            adapter=destination.adapter,
            dialogue=_noting(destination.adapter.tell([task.instruction]), operations),
            account=destination.account,
            size=1,
            allow_private_network=destination.allow_private_network,
            deadline=started_at + self._limits.start_window_seconds,
        )
        done = self._exchange.run(work)
        (result,) = done.results if isinstance(done.results, tuple) else (VendorResult(outcome=Outcome.UNAVAILABLE, reason="adapter_error"),)
        return TrialReport(
            state=task.event.state,
            purpose=task.event.purpose,
            operations=tuple(operations),
            calls=done.calls,
            seconds=time.monotonic() - started_at,
            result=structs.replace(result, definite=result.definite and done.definite),
        )


def _noting(
    dialogue: Generator[VendorRequest, VendorResponse, Sequence[VendorResult]], operations: list[str]
) -> Generator[VendorRequest, VendorResponse, Sequence[VendorResult]]:
    """The same dialogue, with the label of each request noted."""
    advance: Callable[[Any], VendorRequest] = dialogue.send
    response: VendorResponse | None = None
    while True:
        try:
            request = advance(response)
        except StopIteration as end:
            found: Sequence[VendorResult] = end.value
            return found
        operations.append(request.operation)
        response = yield request
