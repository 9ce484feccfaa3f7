"""Events in the ledger: committed once with their dedup key and fan-out mark, folded in any order, unfinished ones always found."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ledger import Ledger
from pipeline.ledger.events import OVERDUE_MS
from tests.support.parts import new_event, open_ledger, result
from tests.support.servers import fake_server

ANNA, BEN = "a" * 24, "b" * 24


@pytest.fixture(params=["valkey", "fake"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """The same questions to a real server and to the quick imitation that other tests use."""
    if request.param == "valkey":
        yield open_ledger(request.getfixturevalue("client"))
    else:
        with fake_server() as client:
            yield open_ledger(client, durability="none")


def commit(ledger: Ledger, *events):
    return ledger.events.commit(list(events), ledger.durability)


def open_count(ledger: Ledger) -> int:
    return ledger.events.counts()["open"]


def test_commit_writes_event_dedup_key_and_mark_together(ledger: Ledger):
    """A new event has its record, payload and fan-out mark; it is not fanned out and not complete."""
    assert commit(ledger, new_event(ANNA, state="withdrawn", minute=5)) == [True]
    stored = ledger.events.load([ANNA])[0]
    assert stored.payload == b"sealed"
    assert stored.facts.state == "withdrawn"
    assert stored.facts.order_us == 300_000_000
    assert (stored.fanned_out, stored.complete, stored.planned) == (False, False, None)
    assert ledger.events.counts() == {"accepted": 1, "finished": 0, "rescued": 0, "duplicates": 0, "open": 1}


def test_duplicate_gets_the_facts_first_accepted(ledger: Ledger):
    """The same id and content again answers the first facts and changes nothing but the counter of duplicates."""
    commit(ledger, new_event(ANNA, minute=5))
    answers = commit(ledger, new_event(ANNA, minute=9, payload=b"other sealing"))
    assert answers[0].order_us == 300_000_000
    assert ledger.events.load([ANNA])[0].payload == b"sealed"
    assert ledger.events.counts() == {"accepted": 1, "finished": 0, "rescued": 0, "duplicates": 1, "open": 1}


def test_id_of_other_content_is_refused(ledger: Ledger):
    """An id that stands for other content is refused and nothing is written."""
    commit(ledger, new_event(ANNA))
    assert commit(ledger, new_event(ANNA, content="other", payload=b"other")) == [False]
    assert ledger.events.load([ANNA])[0].payload == b"sealed"
    assert ledger.events.counts()["duplicates"] == 0


def test_one_batch_may_name_an_event_twice(ledger: Ledger):
    """In one batch over several partitions the answers keep their order, and a repeat inside it is a duplicate."""
    names = [f"{n:024d}" for n in range(20)]
    answers = commit(ledger, *(new_event(name) for name in names), new_event(names[3]), new_event(names[4], content="other"))
    assert answers[:20] == [True] * 20
    assert answers[20].source == "web"
    assert answers[21] is False
    assert ledger.events.counts()["accepted"] == 20


def test_finished_event_still_knows_its_key(ledger: Ledger):
    """A duplicate that comes after everything is told is still a duplicate."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, [], "")])
    assert commit(ledger, new_event(ANNA))[0] is not True
    assert open_count(ledger) == 0


def test_event_without_destinations_is_complete_at_once(ledger: Ledger):
    """An event that concerns no destination is complete as soon as it is fanned out, and leaves the open index."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, [], "")])
    stored = ledger.events.load([ANNA])[0]
    assert stored.complete
    assert ledger.events.counts() == {"accepted": 1, "finished": 1, "rescued": 0, "duplicates": 0, "open": 0}


def test_marking_twice_counts_once(ledger: Ledger):
    """Fan-out repeated after the event finished neither reopens nor counts it again."""
    commit(ledger, new_event(ANNA))
    for _ in range(3):
        ledger.events.mark_fanned_out([(ANNA, [], BEN)])
    assert ledger.events.counts()["finished"] == 1
    assert ledger.events.load([ANNA])[0].superseded_by == BEN


def test_second_plan_does_not_replace_the_first(ledger: Ledger):
    """What was planned first stands, even if the routing has changed when fan-out is repeated."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mail"], "")])
    ledger.events.mark_fanned_out([(ANNA, ["mail", "sms"], "")])
    assert ledger.events.load([ANNA])[0].destinations == ("mail",)


def test_complete_only_when_every_destination_is_final(ledger: Ledger):
    """With two destinations the event completes with the second result."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mail", "sms"], "")])
    ledger.events.fold([(ANNA, "mail", result("delivered", 5).encode())])
    assert not ledger.events.load([ANNA])[0].complete
    ledger.events.fold([(ANNA, "sms", result("skipped", 6).encode())])
    assert ledger.events.load([ANNA])[0].complete
    assert (open_count(ledger), ledger.events.counts()["finished"]) == (0, 1)


def test_fold_repeated_counts_once(ledger: Ledger):
    """The same result folded again and again neither completes too early nor counts twice."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mail", "sms"], "")])
    for _ in range(3):
        ledger.events.fold([(ANNA, "mail", result("delivered", 5).encode())])
    assert not ledger.events.load([ANNA])[0].finished
    for _ in range(3):
        ledger.events.fold([(ANNA, "sms", result("delivered", 5).encode())])
    assert ledger.events.counts()["finished"] == 1


def test_older_result_never_overwrites_a_newer_one(ledger: Ledger):
    """Folding is monotone: a late copy of an older result is ignored."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mail"], "")])
    ledger.events.fold([(ANNA, "mail", result("delivered", 9, vendor_reference="new").encode())])
    ledger.events.fold([(ANNA, "mail", result("dead", 5).encode())])
    kept = ledger.events.load([ANNA])[0].results["mail"]
    assert (kept.status, kept.updated_ms, kept.vendor_reference) == ("delivered", 9, "new")


def test_result_before_the_mark_counts(ledger: Ledger):
    """A delivery that ended before its event was marked as fanned out completes the event with the mark."""
    commit(ledger, new_event(ANNA))
    ledger.events.fold([(ANNA, "mail", result("delivered", 5).encode())])
    assert not ledger.events.load([ANNA])[0].complete
    ledger.events.mark_fanned_out([(ANNA, ["mail"], "")])
    assert ledger.events.load([ANNA])[0].complete
    assert open_count(ledger) == 0


def test_reopened_delivery_reopens_its_event(ledger: Ledger):
    """A replayed delivery makes its event unfinished again, back in the open index, until it ends again."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mail", "sms"], "")])
    ledger.events.fold([(ANNA, "mail", result("dead", 5).encode()), (ANNA, "sms", result("delivered", 5).encode())])
    ledger.events.fold([(ANNA, "mail", result("waiting", 6).encode())])
    assert not ledger.events.load([ANNA])[0].complete
    assert (open_count(ledger), ledger.events.counts()["finished"]) == (1, 0)
    ledger.events.fold([(ANNA, "mail", result("delivered", 7).encode())])
    assert ledger.events.load([ANNA])[0].complete
    assert (open_count(ledger), ledger.events.counts()["finished"]) == (0, 1)


def test_result_for_an_unknown_event_is_dropped(ledger: Ledger):
    """Folding into an event that is gone leaves no trace of a record."""
    ledger.events.fold([(ANNA, "mail", result("delivered", 5).encode())])
    assert ledger.events.load([ANNA]) == [None]


def test_unfinished_events_are_found_again(ledger: Ledger):
    """An event whose fan-out was lost is found to fan out again, and counted once that was asked for; one with open deliveries is found to audit."""
    commit(ledger, new_event(ANNA), new_event(BEN, received_us=ledger.now_ms() * 1000))
    ledger.events.mark_fanned_out([(BEN, ["mail"], "")])
    assert ledger.events.take_due(10) == ([], [])
    time.sleep(0.11)
    assert ledger.events.take_due(10) == ([ANNA], [BEN])
    assert ledger.events.counts()["rescued"] == 0
    ledger.events.note_rescued([ANNA])
    assert ledger.events.counts()["rescued"] == 1
    assert ledger.events.take_due(10) == ([], [])
    time.sleep(0.25)
    assert ledger.events.take_due(10) == ([ANNA], [BEN])


def test_what_stays_open_is_looked_at_ever_more_seldom(ledger: Ledger):
    """Within its age, an hour at most; where something does not add up, all of it soon."""
    now_us = ledger.now_ms() * 1000
    commit(ledger, new_event(ANNA, received_us=now_us - 300_000_000), new_event(BEN, received_us=now_us - 86_400_000_000))
    ledger.events.mark_fanned_out([(ANNA, ["mail"], ""), (BEN, ["mail"], "")])
    time.sleep(0.11)
    assert sorted(ledger.events.take_due(10)[1]) == [ANNA, BEN]
    index = {
        member.decode(): score for n in ledger.keys.all for member, score in ledger.store.client.zrange(ledger.keys.event(n, "open"), 0, -1, withscores=True)
    }
    waits = {event_id: score - ledger.now_ms() for event_id, score in index.items()}
    assert 290_000 < waits[ANNA] < 310_000
    assert 3_590_000 < waits[BEN] < 3_610_000
    assert ledger.events.take_due(10) == ([], [])
    assert ledger.events.look_soon(10) == 2
    assert sorted(ledger.events.take_due(10)[1]) == [ANNA, BEN]


def lifetime(ledger: Ledger, event_id: str) -> tuple[bool, bool]:
    """Whether record and payload are kept without end."""
    keys = ledger.keys
    return ledger.store.client.pttl(keys.record(event_id)) < 0, ledger.store.client.pttl(keys.payload(event_id)) < 0


def test_unfinished_and_dead_never_expire(ledger: Ledger):
    """Record and payload have no expiry while unfinished or dead, one when finished, and none again after a replay."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mail"], "")])
    assert lifetime(ledger, ANNA) == (True, True)
    ledger.events.fold([(ANNA, "mail", result("dead", 5).encode())])
    assert lifetime(ledger, ANNA) == (True, True)
    ledger.events.fold([(ANNA, "mail", result("waiting", 6).encode())])
    ledger.events.fold([(ANNA, "mail", result("delivered", 7).encode())])
    assert lifetime(ledger, ANNA) == (False, False)
    ledger.events.fold([(ANNA, "mail", result("waiting", 8).encode())])
    assert lifetime(ledger, ANNA) == (True, True)


def test_dead_before_the_mark_never_expires(ledger: Ledger):
    """A delivery that died before its event was marked as fanned out keeps its event for ever too."""
    commit(ledger, new_event(ANNA))
    ledger.events.fold([(ANNA, "mail", result("dead", 5).encode())])
    ledger.events.mark_fanned_out([(ANNA, ["mail"], "")])
    assert lifetime(ledger, ANNA) == (True, True)


def test_finished_event_is_kept_for_its_days(client: redis.Redis):
    """The idempotency key is known for `dedup_days`, the payload for `payload_days`."""
    ledger = open_ledger(client, dedup_days=90, payload_days=30)
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, [], "")])
    assert 89.9 < client.pttl(ledger.keys.record(ANNA)) / 86_400_000 <= 90
    assert 29.9 < client.pttl(ledger.keys.payload(ANNA)) / 86_400_000 <= 30


def test_record_is_kept_in_one_piece(client: redis.Redis):
    """With three results of the usual length no field is so long that the server would spread the record over many allocations."""
    ledger = open_ledger(client)
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mailchimp-main", "dinamize-news", "contacthub"], "")])
    ledger.events.fold([(ANNA, name, result("delivered", 1).encode()) for name in ("mailchimp-main", "dinamize-news", "contacthub")])
    record = ledger.keys.record(ANNA)
    assert client.object("encoding", record) == b"listpack"
    assert client.memory_usage(record) <= 350


def test_record_of_the_first_layout_is_still_read(client: redis.Redis):
    """Facts and times once were one field, and a result had all its bars."""
    ledger = open_ledger(client)
    commit(ledger, new_event(ANNA, minute=5))
    record = ledger.keys.record(ANNA)
    client.hset(record, mapping={"f": "web|eben|news|w|1|2|3", "d:mail": "D|7|applied||1|ref"})
    client.hdel(record, "t")
    stored = ledger.events.load([ANNA])[0]
    assert (stored.facts.event_us, stored.facts.order_us, stored.facts.received_us) == (1, 2, 3)
    assert (stored.results["mail"].attempts, stored.results["mail"].vendor_reference) == (1, "ref")
    assert commit(ledger, new_event(ANNA, minute=5))[0].order_us == 2


def test_texts_with_separators_stay_readable(ledger: Ledger):
    """A vendor's reference or a person's reason may hold the separator of results without breaking the record."""
    commit(ledger, new_event(ANNA))
    ledger.events.mark_fanned_out([(ANNA, ["mail"], "")])
    ledger.events.fold([(ANNA, "mail", result("skipped", 5, reason="a|b", vendor_reference="c|d", attempts=3).encode())])
    kept = ledger.events.load([ANNA])[0].results["mail"]
    assert (kept.reason, kept.attempts, kept.vendor_reference) == ("a/b", 3, "c/d")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["mail", "sms"]), st.sampled_from(["delivered", "dead", "waiting", "superseded"]), st.integers(1, 6)), min_size=1, max_size=8
    ).flatmap(lambda results: st.tuples(st.just(results), st.permutations(results)))
)
def test_folding_is_independent_of_order(results):
    """Whatever order results arrive in, the newest of each destination stands and the counters agree with the record."""
    first, second = results
    newest = {}
    for item in first:  # one result for a time: two of the same millisecond do not occur for one delivery
        newest.setdefault((item[0], item[2]), item)
    first = list(newest.values())
    second = [item for item in second if item in first]
    seen = []
    for order in (first, second):
        with fake_server() as client:
            ledger = open_ledger(client, durability="none")
            commit(ledger, new_event(ANNA))
            ledger.events.mark_fanned_out([(ANNA, ["mail", "sms"], "")])
            ledger.events.fold([(ANNA, name, result(status, at).encode()) for name, status, at in order])
            stored = ledger.events.load([ANNA])[0]
            counts = ledger.events.counts()
            assert counts["accepted"] == counts["finished"] + counts["open"]
            seen.append((dict(stored.results), stored.complete, counts["open"]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("is_behind,waits_ms", [(True, OVERDUE_MS), (False, 100)])
def test_what_is_overdue_is_put_off_for_longer_only_behind_a_long_queue(ledger: Ledger, is_behind: bool, waits_ms: int):
    """However old an event is: after an outage of hours each is looked at as soon as a fresh one, unless the queue may still hold it."""
    commit(ledger, new_event(ANNA, received_us=(ledger.now_ms() - 7_200_000) * 1000))
    time.sleep(0.11)
    assert ledger.events.take_due(10, is_behind=is_behind) == ([ANNA], [])
    (score,) = (score for n in ledger.keys.all for _, score in ledger.store.client.zrange(ledger.keys.event(n, "open"), 0, -1, withscores=True))
    assert waits_ms - 5_000 < score - ledger.now_ms() <= waits_ms
