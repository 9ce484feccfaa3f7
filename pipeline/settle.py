"""What follows from each outcome: the one table.

outcome               a given becomes                a withdrawal becomes                 counts as attempt
applied, unchanged    delivered                      delivered (told again while a        yes
                                                     late write may still come)
pending_confirmation  awaiting confirmation, in the  awaiting confirmation; not found     yes
                      end skipped                    confirmed: told again, in the end
                                                     alert, tried on
not_applicable        skipped                        dead, alert; skipped if a written    no
                                                     rule keeps the contact
superseded            superseded                     superseded                           no
unsupported           skipped                        dead, alert                          no
rejected              dead                           dead, alert                          yes
misconfigured         waiting, account probed        waiting, account probed, alert       no
the same, but others  waiting, in the end dead       waiting, in the end alert, tried on  yes
are let in
throttled             waiting until then             waiting until then                   no
unavailable           waiting, in the end dead       waiting, in the end alert, tried on  yes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from msgspec import Struct, structs

from pipeline.domain import ConsentEvent, DeliveryStatus, Outcome, State, VendorResult
from pipeline.identifiers import names_person
from pipeline.ledger.deliveries import Row, Settlement, Verb
from pipeline.ledger.results import DeliveryResult
from pipeline.outgoing import Sent
from pipeline.retry import gives_up, is_overdue, wait_seconds
from pipeline.routing import Destination

WRITTEN_RULES = frozenset({"contact_kept"})
"""Reasons by which the routing file itself says that a withdrawal is not told."""
TOLD = frozenset({Outcome.APPLIED, Outcome.UNCHANGED})
CONFIRMATION_LOOK_SECONDS = 3600.0
"""How often a delivery that awaits confirmation is looked at, where nobody tells us of it."""
DAY_SECONDS = 86_400.0
PROBED_LAST: Final = 1.1
"""How much longer than its account whoever was refused waits: others are to be the next probe, as it may be he alone who is refused."""
LATENCY_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


class Ending(Struct, frozen=True, kw_only=True):
    """What came of one leased delivery.

    `retell_at_ms`: told, but a late write may still undo it until then. `back_at_ms`: given back untouched, to be looked at again then
    (negative: that many milliseconds from now). `refused_alone`: misconfigured, while the account lets others in.
    """

    event: ConsentEvent | None
    event_id: str
    row: Row
    result: VendorResult | None = None
    superseded_by: str = ""
    contact_keys: tuple[str, ...] = ()
    retell_at_ms: int = 0
    back_at_ms: int = 0
    sent: Sequence[Sent] = ()
    asked: str = ""
    refused_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleOptions:
    """`misconfigured_probe_seconds`: how long a destination with bad credentials rests between probes."""

    misconfigured_probe_seconds: float = 180.0


class Decision(Struct, frozen=True, kw_only=True):
    """What an ending becomes in the ledger."""

    settlement: Settlement
    status: DeliveryStatus
    alert: str = ""


def decide(ending: Ending, destination: Destination, *, now_ms: int, random: Random, options: SettleOptions) -> Decision:
    """The table: what one ending becomes. Pure, so that every row of the table is a test."""
    result, event = ending.result, ending.event
    if result is None or event is None:
        return Decision(settlement=given_back(ending), status=DeliveryStatus.WAITING)
    withdrawn = event.state is State.WITHDRAWN
    now_ms = max(now_ms, ending.row.updated_ms)  # what is told after a reopening is written down after it, whoever's clock is behind
    row = _row(ending, event, result, now_ms)
    match result.outcome:
        case Outcome.APPLIED | Outcome.UNCHANGED if ending.retell_at_ms:
            return _waiting(ending, structs.replace(row, retell=True), ending.retell_at_ms)
        case Outcome.APPLIED | Outcome.UNCHANGED:
            return _final(ending, structs.replace(row, reason=row.reason or row.cause), DeliveryStatus.DELIVERED, now_ms)
        case Outcome.SUPERSEDED:
            return _final(ending, row, DeliveryStatus.SUPERSEDED, now_ms, reference=ending.superseded_by)
        case Outcome.NOT_APPLICABLE | Outcome.UNSUPPORTED:
            if withdrawn and result.reason not in WRITTEN_RULES:
                return _dead(ending, row, now_ms, alert="withdrawal_dead")
            return _final(ending, row, DeliveryStatus.SKIPPED, now_ms)
        case Outcome.REJECTED:
            return _dead(ending, row, now_ms, alert="withdrawal_dead" if withdrawn else "")
        case Outcome.MISCONFIGURED if ending.refused_alone:
            return _failed(ending, row, destination, result, now_ms, random)
        case Outcome.MISCONFIGURED:
            return _waiting(ending, row, _in(PROBED_LAST * options.misconfigured_probe_seconds), alert="withdrawal_held_up" if withdrawn else "")
        case Outcome.THROTTLED:
            return _waiting(ending, row, _in(result.retry_after_seconds if result.retry_after_seconds is not None else 1.0))
        case Outcome.PENDING_CONFIRMATION | Outcome.UNAVAILABLE if _awaits(ending.row, event.state, result.outcome):
            return _awaiting(ending, row, event, destination, now_ms)
        case Outcome.PENDING_CONFIRMATION | Outcome.UNAVAILABLE:
            return _failed(ending, structs.replace(row, awaiting=False), destination, result, now_ms, random)


def _failed(ending: Ending, row: Row, destination: Destination, result: VendorResult, now_ms: int, random: Random) -> Decision:
    """Tell it again on the schedule, until a `given` has failed for too long; a withdrawal raises the alert then, and goes on.

    Time that passed while the account let in nobody is held against nobody: who is refused alone is tried on the whole schedule first.
    """
    event, policy = ending.event, destination.retry
    if event is None:
        raise AssertionError("an outcome belongs to an event")
    age_seconds = _age_seconds(ending.row, event, now_ms)
    has_been_tried = not ending.refused_alone or row.attempts >= len(policy.waits_seconds)
    if has_been_tried and gives_up(policy, event.state, age_seconds):
        return _dead(ending, row, now_ms)
    wait = max(wait_seconds(policy, row.attempts, random), result.retry_after_seconds or 0.0)
    overdue = event.state is State.WITHDRAWN and is_overdue(policy, age_seconds)
    return _waiting(ending, row, _in(wait), alert="withdrawal_overdue" if overdue else "")


def _awaits(row: Row, state: State, outcome: Outcome) -> bool:
    """Whether it awaits confirmation from now on; a withdrawal that a look did not find confirmed is told again instead."""
    return state is State.GIVEN if row.awaiting else outcome is Outcome.PENDING_CONFIRMATION


def _awaiting(ending: Ending, row: Row, event: ConsentEvent, destination: Destination, now_ms: int) -> Decision:
    """Look again, until a `given` has waited in vain: a person who does not confirm has not consented. A withdrawal is looked at once."""
    left_seconds = destination.confirmation_days * DAY_SECONDS - _age_seconds(ending.row, event, now_ms)
    if event.state is State.GIVEN and left_seconds <= 0:
        return _final(ending, structs.replace(row, outcome=Outcome.NOT_APPLICABLE.value, reason="not_confirmed"), DeliveryStatus.SKIPPED, now_ms)
    look_seconds = CONFIRMATION_LOOK_SECONDS if event.state is State.WITHDRAWN else min(left_seconds, CONFIRMATION_LOOK_SECONDS)
    return _waiting(ending, structs.replace(row, awaiting=True), _in(look_seconds), status=DeliveryStatus.AWAITING_CONFIRMATION)


def _age_seconds(row: Row, event: ConsentEvent, now_ms: int) -> float:
    """How long this delivery has been owed: since the receipt, or since a person asked for it anew."""
    return max(0.0, now_ms / 1000 - max(event.received_at.timestamp(), row.since_ms / 1000))


def _row(ending: Ending, event: ConsentEvent, result: VendorResult, now_ms: int) -> Row:
    counts = ending.refused_alone or result.outcome in {*TOLD, Outcome.PENDING_CONFIRMATION, Outcome.REJECTED, Outcome.UNAVAILABLE}
    return Row(
        attempts=ending.row.attempts + int(counts and not ending.row.awaiting),  # a look tells nobody
        outcome=result.outcome.value,
        reason=result.reason,
        updated_ms=now_ms,
        awaiting=ending.row.awaiting,
        vendor_reference=_reference(result, event) or ending.row.vendor_reference,
        state=event.state.value,
        source=event.source,
        since_ms=ending.row.since_ms,
        cause=ending.row.cause,
    )


def _reference(result: VendorResult, event: ConsentEvent) -> str:
    """The vendor's reference, unless it names the person: it is kept unsealed and shown."""
    return result.vendor_reference if result.vendor_reference and not names_person(result.vendor_reference, event.subject) else ""


def _result(row: Row, status: DeliveryStatus, now_ms: int, reference: str = "") -> DeliveryResult:
    return DeliveryResult(
        status=status,
        updated_ms=now_ms,
        outcome=row.outcome,
        reason=row.reason,
        attempts=row.attempts,
        vendor_reference=reference or row.vendor_reference,
    )


def given_back(ending: Ending) -> Settlement:
    return Settlement(event_id=ending.event_id, verb=Verb.GIVE_BACK, at_ms=ending.back_at_ms)


def _final(ending: Ending, row: Row, status: DeliveryStatus, now_ms: int, reference: str = "") -> Decision:
    result = _result(row, status, now_ms, reference)
    return Decision(settlement=Settlement(event_id=ending.event_id, verb=Verb.FINAL, row=row, result=result), status=status)


def _dead(ending: Ending, row: Row, now_ms: int, alert: str = "") -> Decision:
    result = _result(row, DeliveryStatus.DEAD, now_ms)
    settlement = Settlement(event_id=ending.event_id, verb=Verb.DEAD, at_ms=now_ms, row=row, result=result)
    return Decision(settlement=settlement, status=DeliveryStatus.DEAD, alert=alert)


def _waiting(ending: Ending, row: Row, at_ms: int, *, alert: str = "", status: DeliveryStatus = DeliveryStatus.WAITING) -> Decision:
    return Decision(settlement=Settlement(event_id=ending.event_id, verb=Verb.WAIT, at_ms=at_ms, row=row), status=status, alert=alert)


def _in(seconds: float) -> int:
    """A time that many seconds after the ledger's now."""
    return -max(1, int(seconds * 1000))


def counted_as(ending: Ending, now_ms: int) -> tuple[tuple[str, ...], float]:
    """The counters that go up by an ending when it is settled, so that every figure comes from the ledger, and the seconds from receipt to told."""
    result = ending.result
    if result is None or ending.event is None or (ending.row.awaiting and result.outcome is Outcome.PENDING_CONFIRMATION):
        return (), 0.0  # a look that found nothing new is none
    outcome = f"o|{result.outcome}|{ending.event.state}"
    if result.outcome not in TOLD or ending.row.retell:
        return (outcome,), 0.0
    seconds = _age_seconds(ending.row, ending.event, now_ms)
    return (outcome, "told", f"h|{next((bucket for bucket in LATENCY_BUCKETS_SECONDS if seconds <= bucket), '+Inf')}"), seconds
