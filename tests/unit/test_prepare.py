"""Prepare: what can be told is told about somebody, and what cannot ends with the reason, a withdrawal never in silence."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pipeline.domain import Outcome, State, VendorResult
from pipeline.ledger.deliveries import Leased, Row
from pipeline.prepare import Preparer
from pipeline.vendors.base import Adapter
from tests.support.relay import PlainAdapter, Relay, adapter, destination, routing

ANA, BEN, PHONE = "ana@example.org", "ben@example.org", "+5511987654321"


FRESH = Row()


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([]))


def prepare(relay: Relay, *event_ids: str, kind: type[Adapter] = PlainAdapter, row: Row = FRESH, **values: Any):
    leased = [Leased(event_id=event_id, row=row) for event_id in event_ids]
    stored = relay.ledger.events.load([each.event_id for each in leased])
    return Preparer(relay.ledger, relay.vault, lambda: relay.rules).prepare(destination("mail", kind, **values), list(zip(leased, stored, strict=True)))


def ending(prepared) -> tuple[str, str]:
    tasks, endings = prepared
    assert tasks == []
    return endings[0].result.outcome.value, endings[0].result.reason


def test_instruction_says_all_a_vendor_needs(relay: Relay):
    """A task carries the stable delivery id, the person, and the destination's options with those of the purpose laid over them."""
    event = relay.event("given", 1, email=ANA, phone=PHONE)
    tasks, endings = prepare(relay, event, options={"list": "1", "tag": "x"}, options_by_purpose={"news": {"list": "2"}})
    assert endings == []
    instruction = tasks[0].instruction
    assert (instruction.delivery_id, instruction.state, instruction.purpose) == (f"{event}.mail", State.GIVEN, "news")
    assert instruction.subject.identifiers() == {"email": ANA, "phone": PHONE}
    assert instruction.options == {"list": "2", "tag": "x"}
    assert tasks[0].contact_keys == (relay.hasher.identifier_key("email", ANA),)


def test_claim_covers_every_identifier_sent(relay: Relay):
    """A vendor that is sent two identifiers has both claimed."""
    event = relay.event("given", 1, email=ANA, phone=PHONE, external_id="7")
    tasks, _ = prepare(relay, event, kind=adapter(identifiers=("email", "phone")))
    assert set(tasks[0].contact_keys) == {relay.hasher.identifier_key("email", ANA), relay.hasher.identifier_key("phone", PHONE)}


@pytest.mark.parametrize("state", ["given", "withdrawn"])
def test_state_the_vendor_cannot_express(relay: Relay, state: str):
    """A state outside the vendor's capabilities is unsupported, by name."""
    other = State.GIVEN if state == "withdrawn" else State.WITHDRAWN
    event = relay.event(state, 1, email=ANA)
    assert ending(prepare(relay, event, kind=adapter(states=frozenset({other})))) == ("unsupported", f"cannot_express_{state}")


def test_given_without_identifier_is_not_completed(relay: Relay):
    """A `given` by phone is not applicable at a mail vendor although the e-mail is known."""
    relay.event("given", 1, email=ANA, phone=PHONE)
    event = relay.event("given", 2, phone=PHONE)
    assert ending(prepare(relay, event)) == ("not_applicable", "missing_identifier")


def test_withdrawal_is_completed(relay: Relay):
    """A withdrawal by phone is told about the e-mail once named with it, and claims that e-mail."""
    relay.event("given", 1, email=ANA, phone=PHONE)
    event = relay.event("withdrawn", 2, phone=PHONE)
    tasks, endings = prepare(relay, event)
    assert endings == []
    assert tasks[0].instruction.subject.email == ANA
    assert tasks[0].contact_keys == (relay.hasher.identifier_key("email", ANA),)


def test_withdrawal_is_completed_over_two_links(relay: Relay):
    """Phone to account, account to e-mail."""
    relay.event("given", 1, phone=PHONE, external_id="7")
    relay.event("given", 1, email=ANA, external_id="7")
    tasks, _ = prepare(relay, relay.event("withdrawn", 2, phone=PHONE))
    assert tasks[0].instruction.subject.email == ANA


def test_withdrawal_for_nobody_and_for_two(relay: Relay):
    """A withdrawal that points to nobody misses an identifier; one that points to two is ambiguous; the event is not changed."""
    nobody = relay.event("withdrawn", 2, phone=PHONE)
    assert ending(prepare(relay, nobody)) == ("not_applicable", "missing_identifier")
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.event("given", 1, email=BEN, phone=PHONE)
    assert ending(prepare(relay, nobody)) == ("not_applicable", "ambiguous_subject")


def test_ambiguity_of_another_kind_does_not_matter(relay: Relay):
    """Two e-mails linked do not keep a withdrawal from a vendor that needs the account."""
    relay.event("given", 1, email=ANA, phone=PHONE, external_id="7")
    relay.event("given", 1, email=BEN, phone=PHONE)
    event = relay.event("withdrawn", 2, phone=PHONE)
    tasks, _ = prepare(relay, event, kind=adapter(identifiers=("external_id",)))
    assert tasks[0].instruction.subject.external_id == "7"
    assert tasks[0].instruction.subject.email is None


def test_complete_withdrawal_is_told_as_it_is(relay: Relay):
    """A withdrawal that names an e-mail is told about that one although another is linked."""
    relay.event("given", 1, email=ANA, phone=PHONE)
    event = relay.event("withdrawn", 2, email=BEN, phone=PHONE)
    tasks, _ = prepare(relay, event)
    assert tasks[0].instruction.subject.email == BEN


def test_unreadable_payload_waits(relay: Relay, caplog: pytest.LogCaptureFixture):
    """A payload that cannot be opened, or an event that is gone, goes back to wait with an alert: it is not dead and nothing is told."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.ledger.store.client.delete(relay.ledger.keys.payload(event))
    tasks, endings = prepare(relay, event, "a" * 24)
    assert tasks == []
    assert [(each.result, each.back_at_ms) for each in endings] == [(None, -60_000)] * 2
    assert [record.alert for record in caplog.records] == ["payload_unreadable", "event_missing"]


def test_awaiting_where_nobody_can_be_asked_stays_so(relay: Relay):
    """What awaits confirmation at a vendor that cannot be asked is not told again: it goes on waiting, for the same reason."""
    event = relay.event("given", 1, email=ANA)
    tasks, endings = prepare(relay, event, row=Row(awaiting=True, reason="double_opt_in"))
    assert tasks == []
    assert [each.result for each in endings] == [VendorResult(outcome=Outcome.PENDING_CONFIRMATION, reason="double_opt_in")]


def test_awaiting_is_asked_alone(relay: Relay):
    """What awaits confirmation shares no dialogue with anything else."""
    events = [relay.event("given", n, email=f"p{n}@example.org") for n in range(2)]
    tasks, _ = prepare(relay, *events, kind=adapter(reads_back=True, batch_size=10), row=Row(awaiting=True))
    assert len({task.place for task in tasks}) == 2


def test_tasks_name_nobody(relay: Relay):
    """The repr of tasks and endings shows no personal value."""
    event = relay.event("given", 1, email=ANA)
    assert "ana" not in repr(prepare(relay, event))
    assert "ana" not in repr(prepare(relay, event, kind=adapter(identifiers=("phone",))))


def test_overtaken_needs_nobody(relay: Relay):
    """What a newer word overtook ends as superseded by that event, also where it could not be told: it is no dead letter."""
    relay.event("given", 1, phone=PHONE, external_id="7", purpose="sms")
    cannot = relay.event("withdrawn", 2, email=ANA)
    missing = relay.event("withdrawn", 2, phone=PHONE)
    newer = [relay.event("given", 5, email=ANA), relay.event("given", 5, external_id="7")]
    _, endings = prepare(relay, cannot, kind=adapter(states=frozenset({State.GIVEN})))
    _, more = prepare(relay, missing)
    assert [(each.result.outcome.value, each.result.reason, each.superseded_by) for each in [*endings, *more]] == [
        ("superseded", "newer_word", newer[0]),
        ("superseded", "newer_word", newer[1]),
    ]


def test_same_word_again_does_not_overtake(relay: Relay):
    """A newer withdrawal does not take an alert away from an older one that cannot be told."""
    event = relay.event("withdrawn", 1, phone=PHONE)
    relay.event("withdrawn", 5, phone=PHONE)
    assert ending(prepare(relay, event)) == ("not_applicable", "missing_identifier")


def test_awaiting_ends_when_it_is_overtaken(relay: Relay):
    """What awaits a confirmation that nobody can be asked for ends once the person has said otherwise."""
    event = relay.event("given", 1, email=ANA)
    newer = relay.event("withdrawn", 5, email=ANA)
    _, endings = prepare(relay, event, row=Row(awaiting=True, reason="double_opt_in"))
    assert (endings[0].result.outcome.value, endings[0].superseded_by) == ("superseded", newer)
