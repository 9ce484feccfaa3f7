"""The last look before sending: is this word still the newest of everybody who could be meant, and does it hold for this contact?

Pure; the caller reads the standings just before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.domain import ConsentEvent, Outcome, State, VendorResult, Word
from pipeline.ledger.letters import ERASED
from pipeline.ledger.standings import Reach, newest_of
from pipeline.routing import Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the fence says: tell (`result` None), or end with `result`.

    With `unless_told_by`, tell only if that newer event, which says the same, does not itself tell this contact.
    """

    result: VendorResult | None = None
    superseded_by: str = ""
    unless_told_by: str = ""


TELL = Judgement()


def judge(event: ConsentEvent, reach: Reach, destination: Destination, purposes: Iterable[str]) -> Judgement:
    """Judge one delivery by the standings of all identifiers of its event and of those linked to them.

    `purposes` are all that are routed to the destination: where the vendor keeps one state for a contact, they share it.
    """
    if event.state is State.GIVEN and reach.is_erased(event.order_us):
        return Judgement(result=VendorResult(outcome=Outcome.NOT_APPLICABLE, reason=ERASED))
    newest = reach.newest(event.purpose)
    unless_told_by = ""
    if newest is not None and newest.event_id != event.event_id and newest.encode() > event.word.encode():
        if newest.state is not event.state:
            return Judgement(result=VendorResult(outcome=Outcome.SUPERSEDED, reason="newer_word"), superseded_by=newest.event_id)
        unless_told_by = newest.event_id
        if event.state is State.GIVEN and (withdrawn := _withdrawn_since(event, reach)) is not None:
            return Judgement(result=VendorResult(outcome=Outcome.SUPERSEDED, reason="newer_word"), superseded_by=withdrawn.event_id)
    if destination.adapter.capabilities.scope == "contact":
        kept = _judge_contact(event, reach, destination, purposes)
        if kept is not None:
            return Judgement(result=kept)
    return Judgement(unless_told_by=unless_told_by) if unless_told_by else TELL


def sharing(purpose: str, destination: Destination, purposes: Iterable[str]) -> list[str]:
    """The other purposes whose words fall on the same contact, where the vendor keeps one state for it; none elsewhere."""
    if destination.adapter.capabilities.scope != "contact":
        return []
    places = {each: destination.adapter.place_of(destination.options_for(each)) for each in {purpose, *purposes}}
    return sorted(other for other, place in places.items() if other != purpose and place == places[purpose])


def _withdrawn_since(event: ConsentEvent, reach: Reach) -> Word | None:
    """The newer withdrawal of one of the event's own identifiers: what was given later for another says nothing for this one, since a `given` is never completed."""
    words = (record.words.get(event.purpose) for record in reach.rings[0])
    return newest_of(word for word in words if word is not None and word.state is State.WITHDRAWN and word.encode() > event.word.encode())


def _judge_contact(event: ConsentEvent, reach: Reach, destination: Destination, purposes: Iterable[str]) -> VendorResult | None:
    """One state stops everything: a withdrawal wins unless the routing file says, in writing, that another purpose keeps the contact."""
    others = {purpose: word.state for purpose in sharing(event.purpose, destination, purposes) if (word := reach.newest(purpose)) is not None}
    if event.state is State.GIVEN:
        own = {word.state for record in reach.rings[0] for purpose in others if (word := record.words.get(purpose)) is not None}
        if event.purpose in destination.keep_contact_for or State.WITHDRAWN not in own | set(others.values()):
            return None
        return VendorResult(outcome=Outcome.NOT_APPLICABLE, reason="contact_withdrawn")
    if any(state is State.GIVEN and purpose in destination.keep_contact_for for purpose, state in others.items()):
        return VendorResult(outcome=Outcome.NOT_APPLICABLE, reason="contact_kept")
    return None
