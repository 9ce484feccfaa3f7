"""What has to be said of dialogues that have ended: what came of each delivery, what its account is told, and what is looked up once more."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from msgspec import Struct

from pipeline.domain import Outcome, State, VendorResult
from pipeline.exchange import Work, WorkResult
from pipeline.judging import Checked, Judge
from pipeline.ledger.accounts import Farewell, Leaving
from pipeline.outgoing import Sent
from pipeline.prepare import DIFFERS_THERE, Task
from pipeline.routing import Destination
from pipeline.settle import Ending
from pipeline.vendors.base import Held


class Flight(Struct, frozen=True, kw_only=True):
    """One dialogue under way."""

    permit: int
    tasks: tuple[Task, ...]
    late_until_ms: tuple[int, ...]
    started_at: float


class Landing(Struct, frozen=True, kw_only=True):
    """Dialogues that have ended: what came of each task, what is said to the account (None if none has), and what is looked up.

    `is_refusal_personal`: whoever was not let in is refused for himself, and nothing is wrong with the account.
    """

    results: Sequence[tuple[Task, VendorResult, int, Sequence[Sent]]]
    leaving: Leaving | None
    checked: Sequence[Checked]
    is_refusal_personal: bool = False

    def endings(self, lost: Container[str] = ()) -> list[Ending]:
        """What is to be written down of each task; a withdrawal whose claim had not lasted (`lost` by event id) is told again, since a word told meanwhile may have come after it."""
        return [
            task.ending(
                result,
                retell_at_ms=late or (-1 if task.event.event_id in lost and task.event.state is State.WITHDRAWN else 0),
                sent=sent,
                refused_alone=self.is_refusal_personal and result.outcome is Outcome.MISCONFIGURED,
            )
            for task, result, late, sent in self.results
        ]


def landing_of(
    landed: Sequence[tuple[Flight, WorkResult]],
    judge: Judge,
    destination: Destination,
    lane: str,
    misconfigured_probe_seconds: float,
    is_held_back: Callable[[str], bool],
) -> Landing:
    """Of dialogues that have landed: permits and claims go back, and the account's gate may move."""
    results = [
        (task, result, late, work.sent)
        for flight, work in landed
        for task, result, late in zip(flight.tasks, results_of(flight, work), flight.late_until_ms, strict=True)
    ]
    answers = [(task, result) for task, result, *_ in results]
    is_personal = may_be_personal(answers) and not is_held_back(destination.account)
    said = [result for _, result in answers if not (is_personal and result.outcome is Outcome.MISCONFIGURED)]
    gate, pause_seconds = gate_word(said, misconfigured_probe_seconds)
    leaving = Leaving(
        permits=[(flight.permit, work.calls) for flight, work in landed],
        farewells=[farewell(task, lane, definite=result.definite) for task, result, *_ in results],
        gate=gate,
        pause_ms=int(pause_seconds * 1000),
    )
    checked = judge.checks(destination, answers)
    return Landing(results=results, leaving=leaving if landed else None, checked=checked, is_refusal_personal=is_personal)


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


PERSONAL = frozenset({"http_401", "http_403"})
"""Reasons by which a vendor may refuse one person: a firewall in front of it answers so to a body that it dislikes. Others name what is wrong with our settings."""


def may_be_personal(answers: Sequence[tuple[Task, VendorResult]]) -> bool:
    """Whether some were not let in, each of them not for the first time.

    The first time closed the account's gate, and only somebody who is let in opens it: if it is not closed now, these are refused for themselves.
    """
    refused = [(task, result) for task, result in answers if result.outcome is Outcome.MISCONFIGURED]
    return bool(refused) and all(task.was_refused and result.reason in PERSONAL for task, result in refused)


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
