"""Accept: what it answers is durable and merged, a duplicate keeps its first place, a reused key changes nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis

from pipeline.accept import FAN_OUT_CHUNK, Accepted, order_time
from pipeline.domain import IncomingEvent, State, Subject, us_from_utc
from pipeline.errors import KeyReused, LedgerUnavailable
from pipeline.ledger.acceptance import Took
from pipeline.routing import Source
from tests.support.parts import CANARY, CANARY_PHONE, everything_stored
from tests.support.relay import BASE_TIME, Relay, destination, routing

ANA = "ana@example.org"
SOURCES = (Source(name="web"), Source(name="crm"), Source(name="list", links=False))


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail")], sources=SOURCES))


def incoming(state: str = "given", minute: float = 0, *, key: str | None = "k", end: float | None = None, **subject: str) -> IncomingEvent:
    return IncomingEvent(
        subject=Subject(**(subject or {"email": ANA})),
        purpose="news",
        state=State(state),
        event_time=BASE_TIME + timedelta(minutes=minute),
        event_time_end=None if end is None else BASE_TIME + timedelta(minutes=end),
        idempotency_key=key,
    )


def standing(relay: Relay, **subject: str):
    keys = relay.hasher.identifier_keys(Subject(**subject)).values()
    return relay.ledger.standings.reach([keys], depth=0)[0].newest("news")


def accept(relay: Relay, *events: IncomingEvent, source: int = 0):
    return relay.acceptor.accept_many([(SOURCES[source], event) for event in events])


def test_accepted_event_is_stored_merged_and_announced(relay: Relay):
    """A new event is in the ledger, its word stands for each of its identifiers, and one message asks for its fan-out."""
    answer = accept(relay, incoming("withdrawn", 3, email=ANA, phone="+5511987654321"))[0]
    assert answer == Accepted(event_id=answer.event_id, status="accepted")
    for subject in ({"email": ANA}, {"phone": "+5511987654321"}):
        assert standing(relay, **subject).event_id == answer.event_id
    assert relay.queue.messages == [("fan_out", ("withdrawn", (answer.event_id,)))]
    assert relay.ledger.event(answer.event_id)["status"] == "accepted"


def test_duplicate_is_answered_and_not_announced(relay: Relay):
    """The same key with the same content answers the same id as a duplicate; nothing is asked for again."""
    first = accept(relay, incoming())[0]
    second = accept(relay, incoming())[0]
    assert (second.event_id, second.status) == (first.event_id, "duplicate")
    assert len(relay.queue.messages) == 1


def test_duplicate_keeps_its_first_place(relay: Relay):
    """An event whose clock ran ahead keeps the place of its first receipt, so that its repetition beats no later withdrawal."""
    ahead = incoming("given", 60 * 24 * 365 * 10, key="ahead")
    accept(relay, ahead)
    first_place = standing(relay, email=ANA).order_us
    assert first_place <= us_from_utc(relay.now())
    relay.clock_offset = timedelta(hours=1)
    withdrawal = accept(relay, IncomingEvent(subject=Subject(email=ANA), purpose="news", state=State.WITHDRAWN, event_time=relay.now()))[0]
    relay.clock_offset = timedelta(hours=2)
    assert accept(relay, ahead)[0].status == "duplicate"
    assert standing(relay, email=ANA).event_id == withdrawal.event_id
    assert relay.ledger.event(accept(relay, ahead)[0].event_id)["order_time"] < relay.ledger.event(withdrawal.event_id)["order_time"]


def test_reused_key_changes_nothing(relay: Relay):
    """Other content under a known key is refused as a value: no word, no message, and the others of the batch are accepted."""
    accept(relay, incoming("withdrawn", 5))
    relay.queue.messages.clear()
    answers = accept(relay, incoming("given", 9), incoming("given", 1, key="other", email="ben@example.org"))
    assert isinstance(answers[0], KeyReused)
    assert answers[1].status == "accepted"
    assert standing(relay, email=ANA).state is State.WITHDRAWN
    assert relay.queue.messages == [("fan_out", ("given", (answers[1].event_id,)))]


def test_keys_belong_to_their_source(relay: Relay):
    """Two sources may use the same key for different events."""
    assert accept(relay, incoming("given"))[0].status == "accepted"
    assert accept(relay, incoming("withdrawn"), source=1)[0].status == "accepted"


def test_without_a_key_the_content_is_the_key(relay: Relay):
    """The same content twice without a key is one event; any difference makes another; a key never equals a content."""
    first = accept(relay, incoming(key=None))[0]
    assert accept(relay, incoming(key=None))[0].status == "duplicate"
    assert accept(relay, incoming(minute=1, key=None))[0].status == "accepted"
    content_hash = relay.hasher.content_hash(incoming(key=None))
    assert accept(relay, incoming(key=content_hash))[0].event_id != first.event_id


def test_older_event_is_recorded_as_superseded(relay: Relay):
    """A late older event is accepted and recorded, and changes nothing."""
    newer = accept(relay, incoming("withdrawn", 5, key="new"))[0]
    older = accept(relay, incoming("given", 4, key="old"))[0]
    assert older.status == "superseded"
    assert standing(relay, email=ANA).event_id == newer.event_id


def test_tie_goes_to_the_withdrawal_in_one_batch(relay: Relay):
    """Given and withdrawn at the same instant, in either order of one batch: the withdrawal stands."""
    for states in (("given", "withdrawn"), ("withdrawn", "given")):
        email = f"{states[0]}@example.org"
        answers = accept(relay, *(incoming(state, 1, key=f"{states[0]}-{state}", email=email) for state in states))
        assert standing(relay, email=email).event_id == answers[states.index("withdrawn")].event_id
        assert answers[states.index("withdrawn")].status == "accepted"


def test_superseded_through_any_identifier(relay: Relay):
    """A newer withdrawal of any of its identifiers supersedes an event."""
    accept(relay, incoming("withdrawn", 5, key="a", phone="+5511987654321"))
    assert accept(relay, incoming("given", 4, key="b", email=ANA, phone="+5511987654321"))[0].status == "superseded"


def test_repeat_inside_a_batch(relay: Relay):
    """One batch with the same event twice, and a third time with other content, answers each for itself."""
    answers = accept(relay, incoming(), incoming(), incoming("withdrawn"))
    assert [getattr(answer, "status", "reused") for answer in answers] == ["accepted", "duplicate", "reused"]
    assert relay.queue.messages == [("fan_out", ("given", (answers[0].event_id,)))]


def test_withdrawals_travel_apart_and_in_chunks(relay: Relay):
    """A batch is announced withdrawals first, in messages of bounded size."""
    events = [incoming("given" if n % 3 else "withdrawn", n, key=f"k{n}", email=f"p{n}@example.org") for n in range(600)]
    accept(relay, *events)
    sizes = [(lane, len(ids)) for _, (lane, ids) in relay.queue.messages]
    assert sizes == [("withdrawn", 200), ("given", FAN_OUT_CHUNK), ("given", 400 - FAN_OUT_CHUNK)]


@pytest.mark.parametrize(
    "state, start, end, expected",
    [
        ("given", 0, None, 0),
        ("withdrawn", 0, None, 0),
        ("given", 0, 60, 0),  # a `given` of low precision counts at its beginning
        ("withdrawn", 0, 60, 60),  # a withdrawal at its end
        ("withdrawn", 0, 2000, 1000),  # at most the receipt
        ("given", 2000, None, 1000),
        ("withdrawn", 2000, 3000, 1000),
    ],
)
def test_place_in_the_order(state: str, start: float, end: float | None, expected: float):
    """The order time is the earlier of event time and receipt; lower precision favours the withdrawal."""
    received_at = BASE_TIME + timedelta(minutes=1000)
    assert order_time(incoming(state, start, end=end), received_at) == BASE_TIME + timedelta(minutes=expected)


def test_bare_date_of_a_withdrawal_beats_a_given_of_that_day(relay: Relay):
    """A withdrawal dated by the day alone wins over anything given during that day; a `given` dated so loses to a withdrawal of that day."""
    accept(relay, incoming("given", 300, key="a"))
    accept(relay, incoming("withdrawn", 0, end=1439, key="b"))
    assert standing(relay, email=ANA).state is State.WITHDRAWN
    accept(relay, incoming("withdrawn", 300, key="c", email="ben@example.org"))
    accept(relay, incoming("given", 0, end=1439, key="d", email="ben@example.org"))
    assert standing(relay, email="ben@example.org").state is State.WITHDRAWN


def by_day(state: str = "withdrawn", key: str | None = None) -> IncomingEvent:
    """Dated by a bare date: the day that began twelve hours before the base time."""
    return incoming(state, -12 * 60, end=12 * 60, key=key)


def at(relay: Relay, hour: float, event: IncomingEvent, source: int = 0) -> Accepted:
    """Accept an event that is received so many hours after the base time, and carry everything out."""
    relay.acceptor._now = lambda: BASE_TIME + timedelta(hours=hour)
    (answer,) = accept(relay, event, source=source)
    relay.drain()
    return answer


def told(relay: Relay) -> list[str]:
    return [call["state"] for call in relay.vendors["mail"].calls]


def test_second_withdrawal_of_a_day_is_no_duplicate(relay: Relay):
    """Withdrawn by date, given, and withdrawn by the same date: the same content is a new word and told; its repeat changes nothing."""
    first = at(relay, 1, by_day())
    at(relay, 2, incoming(minute=100), source=1)
    second = at(relay, 3, by_day())
    assert (first.status, second.status, told(relay)) == ("accepted", "accepted", ["withdrawn", "given", "withdrawn"])
    assert standing(relay, email=ANA).event_id == second.event_id != first.event_id
    assert relay.ledger.event(second.event_id)["order_time"] == "2026-01-05T15:00:00Z"
    assert at(relay, 4, by_day()) == Accepted(event_id=first.event_id, status="duplicate")
    at(relay, 5, incoming(minute=250, key="b"), source=1)
    assert at(relay, 6, by_day()).event_id not in {first.event_id, second.event_id}
    assert told(relay)[3:] == ["given", "withdrawn"]
    assert relay.figures().unaccounted == 0


@pytest.mark.parametrize(
    "repeated, between, given_minute",
    [
        (by_day(), False, 0),
        (by_day(key="k"), True, 100),
        (by_day("given"), True, 100),
        (incoming("withdrawn", 0, key=None), True, 100),
        (incoming("withdrawn", 0, end=0, key=None), True, 100),
        (by_day(), True, 13 * 60),  # on the next day: the withdrawal was said before it, whenever on its day
        (by_day(), True, -1),  # older than the first one
    ],
)
def test_repeat_that_can_be_no_new_word_stays_a_duplicate(relay: Relay, repeated: IncomingEvent, between: bool, given_minute: float):
    """With a key of its own, with an exact time, as a consent, or without a consent in between that it may have followed; nothing is told."""
    first = at(relay, 1, repeated)
    if between:
        at(relay, 14, incoming(minute=given_minute, key="other"), source=1)
    before = told(relay)
    assert at(relay, 15, repeated) == Accepted(event_id=first.event_id, status="duplicate")
    assert told(relay) == before


def test_crash_while_a_second_withdrawal_of_a_day_is_taken_heals(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """If its merge fails nothing is answered; sent again it is the same event, merged before the answer, and told once."""
    at(relay, 1, by_day())
    at(relay, 2, incoming(minute=100), source=1)
    in_two_steps(relay, monkeypatch)
    merge, merges = relay.ledger.standings.merge, []

    def fail_second(items):
        merges.append(items)
        return merge(items) if len(merges) == 1 else _away()

    monkeypatch.setattr(relay.ledger.standings, "merge", fail_second)
    with pytest.raises(LedgerUnavailable):
        at(relay, 3, by_day())
    monkeypatch.setattr(relay.ledger.standings, "merge", merge)
    counted = relay.ledger.events.counts()["accepted"]
    answer = at(relay, 4, by_day())
    assert (answer.status, relay.ledger.events.counts()["accepted"]) == ("duplicate", counted)
    assert standing(relay, email=ANA).event_id == answer.event_id
    assert relay.ledger.event(answer.event_id)["order_time"] == "2026-01-05T15:00:00Z"
    relay.again(2)
    relay.hurry(pushed=True)
    relay.again()
    assert told(relay) == ["withdrawn", "given", "withdrawn"]


def test_ledger_that_fails_before_the_commit_takes_nothing(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """If the commit fails there is no answer, no word and no message."""
    monkeypatch.setattr(relay.ledger.acceptance, "take", _away)
    with pytest.raises(LedgerUnavailable):
        accept(relay, incoming("withdrawn"))
    assert standing(relay, email=ANA) is None
    assert relay.queue.messages == []


def test_crash_between_commit_and_merge_heals(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """If the merge fails nothing is answered; sending it again answers a duplicate only once it is merged; fan-out comes by rescue."""
    in_two_steps(relay, monkeypatch)
    merge = relay.ledger.standings.merge
    relay.ledger.standings.merge = _away
    with pytest.raises(LedgerUnavailable):
        accept(relay, incoming("withdrawn"))
    assert relay.queue.messages == []
    relay.ledger.standings.merge = merge
    assert accept(relay, incoming("withdrawn"))[0].status == "duplicate"
    assert standing(relay, email=ANA).state is State.WITHDRAWN
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}


def test_nobody_asks_again_and_it_still_heals(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """The commit alone is enough: without another word from the producer the withdrawal is merged and told."""
    in_two_steps(relay, monkeypatch)
    merge = relay.ledger.standings.merge
    relay.ledger.standings.merge = _away
    with pytest.raises(LedgerUnavailable):
        accept(relay, incoming("withdrawn"))
    relay.ledger.standings.merge = merge
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}
    assert relay.figures().unaccounted == 0


def test_source_that_may_not_link_teaches_nothing(relay: Relay):
    """Events of a source without `links` leave no link and no sealed identifier, but their words stand."""
    accept(relay, incoming("withdrawn", email=ANA, phone="+5511987654321"), source=2)
    keys = relay.hasher.identifier_keys(Subject(email=ANA, phone="+5511987654321")).values()
    for record in relay.ledger.standings.reach([keys], depth=0)[0].rings[0]:
        assert record.words["news"].state is State.WITHDRAWN
        assert (record.links, record.value) == (frozenset(), None)


def test_no_personal_value_is_readable(relay: Relay, caplog: pytest.LogCaptureFixture):
    """Neither key names nor stored values, messages, log lines, reprs or views show a personal value in the clear."""
    event = IncomingEvent(
        subject=Subject(email=CANARY, phone=CANARY_PHONE, external_id="canary-id", national_id="12345678909"),
        purpose="news",
        state=State.WITHDRAWN,
        event_time=BASE_TIME,
        idempotency_key="canary-key",
        profile={"name": "Canary Name"},
        evidence={"ip": "203.0.113.77"},
        metadata={"note": "canary note"},
    )
    answer = accept(relay, event)[0]
    relay.drain()
    relay.ledger.accounts.put("mail", "canary-token", 60)
    stored = relay.ledger.events.load([answer.event_id])[0]
    seen = [repr(everything_stored(relay.ledger.store.client)), repr(relay.queue.messages), caplog.text, repr(event), repr(stored), str(answer)]
    seen += [repr(relay.ledger.event(answer.event_id)), repr(list(relay.ledger.standings.scan()))]
    for text in seen:
        for value in (CANARY, CANARY_PHONE, "canary", "Canary", "12345678909", "203.0.113.77"):
            assert value not in text
    assert relay.vendors["mail"].held == {(CANARY, "news"): "withdrawn"}


def in_two_steps(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the keys of events and identifiers lie on several servers: merged in a round trip after the commit."""
    monkeypatch.setattr(
        relay.ledger.acceptance, "take", lambda events, _merges, durability: Took(relay.ledger.events.commit(events, durability), [None] * len(events))
    )


def _away(*_: object, **__: object) -> None:
    raise LedgerUnavailable("away")
