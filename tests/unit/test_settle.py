"""Settle: every row of the table for both states, what is counted, what alerts, and what is made known."""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import redis
from msgspec import structs

from pipeline.domain import DeliveryStatus, Outcome, State, Subject, VendorResult
from pipeline.ledger.deliveries import Row, Verb
from pipeline.routing import RetryPolicy
from pipeline.settle import Ending, SettleOptions, decide
from tests.support.parts import said
from tests.support.relay import BASE_TIME, Relay, destination, routing

FRESH = Row()
NOW_MS = int(BASE_TIME.timestamp() * 1000) + 1000
MAIL = destination("mail", retry=RetryPolicy(waits_seconds=(10.0, 20.0), give_up_after_seconds=100.0))
HOUR_MS, PROBE_MS = 3_600_000, 180_000


def made(
    state: str,
    outcome: str,
    *,
    row: Row = FRESH,
    age_seconds: float = 1,
    retell_at_ms: int = 0,
    superseded_by: str = "",
    refused_alone: bool = False,
    **result: Any,
):
    event = structs.replace(said(state), received_at=BASE_TIME + timedelta(seconds=1 - age_seconds))
    answer = VendorResult(outcome=Outcome(outcome), **result)
    said_of_it: dict[str, Any] = {"retell_at_ms": retell_at_ms, "superseded_by": superseded_by, "refused_alone": refused_alone}
    ending = Ending(event=event, event_id=event.event_id, row=row, result=answer, **said_of_it)
    return decide(ending, MAIL, now_ms=NOW_MS, random=Random(1), options=SettleOptions())


FINAL, DEAD, WAIT = Verb.FINAL, Verb.DEAD, Verb.WAIT
TABLE = [
    # outcome, reason, (given: status, verb, alert), (withdrawn: status, verb, alert), counts as attempt
    ("applied", "", ("delivered", FINAL, ""), ("delivered", FINAL, ""), 1),
    ("unchanged", "", ("delivered", FINAL, ""), ("delivered", FINAL, ""), 1),
    ("pending_confirmation", "", ("awaiting_confirmation", WAIT, ""), ("awaiting_confirmation", WAIT, ""), 1),
    ("not_applicable", "missing_identifier", ("skipped", FINAL, ""), ("dead", DEAD, "withdrawal_dead"), 0),
    ("not_applicable", "ambiguous_subject", ("skipped", FINAL, ""), ("dead", DEAD, "withdrawal_dead"), 0),
    ("not_applicable", "contact_withdrawn", ("skipped", FINAL, ""), ("dead", DEAD, "withdrawal_dead"), 0),
    ("not_applicable", "contact_kept", ("skipped", FINAL, ""), ("skipped", FINAL, ""), 0),
    ("superseded", "newer_word", ("superseded", FINAL, ""), ("superseded", FINAL, ""), 0),
    ("unsupported", "cannot_express", ("skipped", FINAL, ""), ("dead", DEAD, "withdrawal_dead"), 0),
    ("rejected", "http_400", ("dead", DEAD, ""), ("dead", DEAD, "withdrawal_dead"), 1),
    ("misconfigured", "http_401", ("waiting", WAIT, ""), ("waiting", WAIT, "withdrawal_held_up"), 0),
    ("throttled", "http_429", ("waiting", WAIT, ""), ("waiting", WAIT, ""), 0),
    ("unavailable", "http_503", ("waiting", WAIT, ""), ("waiting", WAIT, ""), 1),
]


def test_the_table_names_every_outcome():
    """No outcome of the closed list is without a row."""
    assert {row[0] for row in TABLE} == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("position, state", [(0, "given"), (1, "withdrawn")])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_row_of_the_table(row, position: int, state: str):
    """Each outcome becomes what the table says, with its reason kept, its alert, and its attempt counted or not."""
    outcome, reason, *columns, counts = row
    status, verb, alert = columns[position]
    decision = made(state, outcome, reason=reason, row=Row(attempts=2), vendor_reference="ref")
    assert (decision.status, decision.settlement.verb, decision.alert) == (status, verb, alert)
    kept = decision.settlement.row
    assert (kept.attempts, kept.outcome, kept.reason, kept.state, kept.source) == (2 + counts, outcome, reason, state, "web")
    result = decision.settlement.result
    if verb is WAIT:
        assert result is None
    else:
        assert (result.status, result.outcome, result.reason, result.attempts, result.updated_ms) == (status, outcome, reason, 2 + counts, NOW_MS)


@pytest.mark.parametrize(
    "outcome, seconds, at_ms",
    [
        ("misconfigured", None, -PROBE_MS - PROBE_MS // 10),
        ("throttled", None, -1000),
        ("throttled", 7.5, -7500),
        ("throttled", 0.0, -1),
        ("pending_confirmation", None, -HOUR_MS),
    ],
)
def test_when_to_look_again(outcome: str, seconds: float | None, at_ms: int):
    """Waiting is a time in the ledger: the probe, when others had the chance to be it, the vendor's own word, a second if it has none."""
    assert made("withdrawn", outcome, retry_after_seconds=seconds).settlement.at_ms == at_ms


DAY = 86_400
AWAITING = Row(attempts=1, awaiting=True, outcome="pending_confirmation", vendor_reference="ref")


@pytest.mark.parametrize(
    "state, age, status, at_ms",
    [
        ("given", 29 * DAY, "awaiting_confirmation", -HOUR_MS),
        ("given", 30 * DAY - 90, "awaiting_confirmation", -90_000),
        ("given", 30 * DAY, "skipped", 0),
    ],
)
def test_a_consent_that_nobody_confirms_ends(state: str, age: float, status: str, at_ms: int):
    """After confirmation_days it is skipped as not confirmed, and looked at right then."""
    decision = made(state, "pending_confirmation", row=AWAITING, age_seconds=age, reason="not_confirmed_yet")
    assert (decision.status, decision.settlement.at_ms, decision.alert) == (status, at_ms, "")
    row = decision.settlement.row
    expected = ("not_applicable", "not_confirmed") if status == "skipped" else ("pending_confirmation", "not_confirmed_yet")
    assert (row.outcome, row.reason, row.attempts, row.vendor_reference) == (*expected, 1, "ref")


@pytest.mark.parametrize("outcome", ["unavailable", "throttled", "misconfigured"])
def test_a_look_in_vain_leaves_it_awaiting(outcome: str):
    """A vendor that cannot be asked just now does not end what awaits confirmation, however old it is, nor has it told again."""
    decision = made("given", outcome, row=AWAITING, age_seconds=5 * DAY, reason="x")
    assert (decision.settlement.verb, decision.settlement.row.awaiting, decision.settlement.row.attempts) == (WAIT, True, 1)
    assert (decision.settlement.row.outcome, decision.settlement.row.reason) == (outcome, "x")


@pytest.mark.parametrize("outcome", ["pending_confirmation", "unavailable"])
@pytest.mark.parametrize("age, alert", [(99.9, ""), (100, "withdrawal_overdue"), (90 * DAY, "withdrawal_overdue")])
def test_a_withdrawal_that_is_not_found_confirmed_is_told_again(outcome: str, age: float, alert: str):
    """One look in vain puts it back on its schedule, which raises the alert in the end: it never just awaits."""
    decision = made("withdrawn", outcome, row=AWAITING, age_seconds=age, reason="not_confirmed_yet")
    assert (decision.status, decision.settlement.verb, decision.alert) == ("waiting", WAIT, alert)
    assert -10_000 <= decision.settlement.at_ms <= -200
    row = decision.settlement.row
    assert (row.awaiting, row.attempts, row.outcome, row.reason, row.vendor_reference) == (False, 1, outcome, "not_confirmed_yet", "ref")


@pytest.mark.parametrize("attempts, longest", [(0, 10_000), (1, 20_000), (9, 20_000)])
def test_unavailable_waits_on_the_schedule(attempts: int, longest: int):
    """The wait is drawn below the schedule's entry for that attempt, the last one repeating."""
    waited = [
        -decide(
            Ending(
                event=structs.replace(said("given"), received_at=BASE_TIME),
                event_id="a",
                row=Row(attempts=attempts),
                result=VendorResult(outcome=Outcome.UNAVAILABLE),
            ),
            MAIL,
            now_ms=NOW_MS,
            random=Random(seed),
            options=SettleOptions(),
        ).settlement.at_ms
        for seed in range(200)
    ]
    assert 200 <= min(waited) < longest * 0.1
    assert longest * 0.9 < max(waited) <= longest


def test_vendor_says_longer_than_the_schedule():
    """A Retry-After on an outage is honoured when it is longer than our own wait."""
    assert made("given", "unavailable", retry_after_seconds=500.0).settlement.at_ms == -500_000


@pytest.mark.parametrize(
    "state, age, status, alert",
    [
        ("given", 99.9, "waiting", ""),
        ("given", 100, "dead", ""),
        ("withdrawn", 99.9, "waiting", ""),
        ("withdrawn", 100, "waiting", "withdrawal_overdue"),
        ("withdrawn", 10_000_000, "waiting", "withdrawal_overdue"),
    ],
)
def test_giving_up(state: str, age: float, status: str, alert: str):
    """Past the limit a `given` dies; a withdrawal alerts and is tried on for ever."""
    decision = made(state, "unavailable", age_seconds=age, row=Row(attempts=50))
    assert (decision.status, decision.alert) == (status, alert)


@pytest.mark.parametrize("outcome", ["throttled", "misconfigured"])
def test_waiting_for_a_limit_is_never_giving_up(outcome: str):
    """A `given` that waits for a limit or for credentials does not die of it."""
    assert made("given", outcome, age_seconds=10_000).status == "waiting"


@pytest.mark.parametrize(
    "state, attempts, age, status, alert",
    [
        ("given", 0, 10_000, "waiting", ""),
        ("given", 1, 99.9, "waiting", ""),
        ("given", 1, 100, "dead", ""),
        ("withdrawn", 0, 99.9, "waiting", ""),
        ("withdrawn", 50, 10_000, "waiting", "withdrawal_overdue"),
    ],
)
def test_refused_alone(state: str, attempts: int, age: float, status: str, alert: str):
    """While others are let in it is an attempt as any other, given up once the schedule, which is of two waits, has been gone through as well."""
    decision = made(state, "misconfigured", reason="http_403", age_seconds=age, row=Row(attempts=attempts), refused_alone=True)
    assert (decision.status, decision.alert) == (status, alert)
    row = decision.settlement.row
    assert (row.outcome, row.reason, row.attempts) == ("misconfigured", "http_403", attempts + 1)
    assert status == "dead" or -20_000 <= decision.settlement.at_ms <= -200


def test_told_while_a_late_write_may_come():
    """A withdrawal told under a late-write mark waits until the mark's end, to be told again, with its answer kept."""
    decision = made("withdrawn", "applied", retell_at_ms=NOW_MS + 500, vendor_reference="ref")
    assert (decision.status, decision.settlement.verb, decision.settlement.at_ms) == ("waiting", WAIT, NOW_MS + 500)
    assert (decision.settlement.row.retell, decision.settlement.row.vendor_reference) == (True, "ref")
    assert decision.settlement.result is None


@pytest.mark.parametrize("outcome", ["rejected", "superseded", "not_applicable"])
def test_late_write_does_not_hide_other_endings(outcome: str):
    """Only a confirmed telling is repeated for a late write; every other ending stands."""
    assert made("withdrawn", outcome, retell_at_ms=NOW_MS + 500).settlement.verb in (FINAL, DEAD)


EMAIL = "Ana.Placeholder@example.org"


@pytest.mark.parametrize(
    "reference, kept",
    [
        ("4711", "4711"),
        ("c7", "c7"),
        (EMAIL, ""),
        (f"contact/{EMAIL.lower()}", ""),
        (EMAIL.upper(), ""),
        (hashlib.md5(EMAIL.lower().encode()).hexdigest(), ""),
        (hashlib.sha256(EMAIL.lower().encode()).hexdigest().upper(), ""),
        (hashlib.md5(b"somebody else").hexdigest(), hashlib.md5(b"somebody else").hexdigest()),
        ("C-7", ""),
        ("list-C-7-x", "list-C-7-x"),
    ],
)
def test_a_reference_that_names_the_person_is_not_kept(reference: str, kept: str):
    """Some vendor may call a contact by the address: what is kept unsealed and shown is then nothing. A short id within a longer text is chance."""
    event = structs.replace(said("given"), subject=Subject(email=EMAIL, external_id="C-7"))
    ending = Ending(event=event, event_id=event.event_id, row=FRESH, result=VendorResult(outcome=Outcome.APPLIED, vendor_reference=reference))
    decision = decide(ending, MAIL, now_ms=NOW_MS, random=Random(1), options=SettleOptions())
    assert (decision.settlement.row.vendor_reference, decision.settlement.result.vendor_reference) == (kept, kept)


def test_superseded_names_the_newer_event():
    """The record of a superseded delivery names the event that overtook it."""
    assert made("given", "superseded", superseded_by="z" * 24).settlement.result.vendor_reference == "z" * 24


def test_given_back_untouched():
    """Without an outcome the delivery goes back with its time and its history."""
    ending = Ending(event=said(), event_id="a" * 24, row=Row(attempts=3), back_at_ms=-500)
    decision = decide(ending, MAIL, now_ms=NOW_MS, random=Random(1), options=SettleOptions())
    assert (decision.settlement.verb, decision.settlement.at_ms, decision.status, decision.alert) == (Verb.GIVE_BACK, -500, DeliveryStatus.WAITING, "")


# Written into the ledger


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail")]))


def test_dead_is_published_and_logged_without_the_person(relay: Relay, caplog: pytest.LogCaptureFixture):
    """Dead deliveries of a chunk are published once by reason with their ids; a dead withdrawal alerts; nobody is named."""
    relay.vendors["mail"].answers = [400, 400]
    with caplog.at_level(logging.DEBUG):
        given = relay.event("given", 1, email="ana@example.org")
        withdrawn = relay.event("withdrawn", 1, email="ben@example.org")
        relay.drain()
    assert sorted(relay.queue.dead) == sorted([("mail", "http_400", (f"{given}.mail",)), ("mail", "http_400", (f"{withdrawn}.mail",))])
    alerts = [(record.alert, record.delivery_id, record.destination, record.reason) for record in caplog.records if record.message == "alert"]
    assert alerts == [("withdrawal_dead", f"{withdrawn}.mail", "mail", "http_400")]
    assert "example.org" not in str([vars(record) for record in caplog.records])
    assert relay.figures().dead_letters == [("mail", "given", "http_400", 1), ("mail", "withdrawn", "http_400", 1)]
    assert relay.figures().unaccounted == 0


def test_dead_withdrawal_never_expires(relay: Relay):
    """The record and payload of a dead withdrawal have no expiry; of a told one they have."""
    relay.vendors["mail"].answers = [400]
    dead = relay.event("withdrawn", 1, email="ana@example.org")
    told = relay.event("withdrawn", 2, email="ben@example.org")
    relay.drain()
    client, keys = relay.ledger.store.client, relay.ledger.keys
    for event, kept in ((dead, True), (told, False)):
        assert (client.pttl(keys.record(event)) == -1, client.pttl(keys.payload(event)) == -1) == (kept, kept)


def test_counters_tell_outcomes_and_latency(relay: Relay):
    """Every answer is counted by outcome and state, and the time from receipt to told goes into one bucket."""
    relay.vendors["mail"].answers = [503]
    relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()
    relay.again()
    figures = relay.figures()
    assert figures.deliveries == [("mail", "applied", "withdrawn", 1), ("mail", "unavailable", "withdrawn", 1)]
    assert figures.accept_to_told.count == 1
    assert figures.accept_to_told.buckets[-1][1] == 1


def test_worker_that_died_between_settle_and_copy(relay: Relay):
    """A result that was settled but not copied into the event's record is copied by the next beat."""
    flush = relay.ledger.copies.flush
    relay.ledger.copies.flush = lambda _: (_ for _ in ()).throw(SystemExit)
    event = relay.event("withdrawn", 1, email="ana@example.org")
    with pytest.raises(SystemExit):
        relay.drain()
    relay.ledger.copies.flush = flush
    assert relay.ledger.event(event)["complete"] is False
    relay.beat()
    assert relay.ledger.event(event)["complete"] is True
    assert len(relay.vendors["mail"].calls) == 1
    assert relay.figures().unaccounted == 0


def test_discarded_withdrawal_is_closed(relay: Relay):
    """A person may close a dead withdrawal with a reason: its event completes, and it is not untold any more."""
    relay.vendors["mail"].answers = [400]
    event = relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()
    letters, _ = relay.ledger.letters.by_id([f"{event}.mail"])
    assert relay.figures().oldest_untold_withdrawal_seconds["mail"] > 0
    relay.ledger.letters.discard(letters, "told by phone", relay.ledger.now_ms())
    assert relay.deliveries(event) == {"mail": ("skipped", "discarded: told by phone")}
    assert relay.figures().oldest_untold_withdrawal_seconds["mail"] == 0
    assert relay.figures().unaccounted == 0


def test_states_are_closed():
    """The two states of the table are all there are."""
    assert list(State) == ["given", "withdrawn"]
