"""Dead letters: paged without loss or doubling, grouped by cause, replayed once, discarded with a reason."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import redis

from pipeline.domain import State
from pipeline.ledger import Ledger
from pipeline.ledger.letters import LetterFilter
from tests.support.parts import dead, new_event, open_ledger


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    return open_ledger(client)


def kill(ledger: Ledger, number: int, *, destination: str = "mail", at_ms: int = 1000, reason: str = "http_400", state: str = "withdrawn", source: str = "web"):
    """An event whose delivery died."""
    event_id = f"{number:024d}"
    ledger.events.commit([new_event(event_id, state=state, source=source)], ledger.durability)
    ledger.deliveries.plan(destination, state, [(event_id, 500)])
    ledger.events.mark_fanned_out([(event_id, [destination], "")])
    ledger.deliveries.claim(destination, state, "w", 1000, [event_id])
    letter = dead(event_id, at_ms=at_ms, reason=reason, state=state, source=source)
    ledger.deliveries.settle(destination, state, "w", [letter])
    ledger.events.fold([(event_id, destination, letter.result.encode())])
    ledger.deliveries.unfold(destination, [(event_id, letter.result.encode())])
    return f"{event_id}.{destination}"


def everything(ledger: Ledger, wanted: LetterFilter, limit: int) -> list[str]:
    """All pages, one after the other."""
    found, cursor = [], None
    while True:
        page = ledger.letters.page(wanted, cursor=cursor, limit=limit)
        assert len(page.items) <= limit
        found += [item["delivery_id"] for item in page.items]
        if (cursor := page.next_cursor) is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 11, 100])
def test_pages_show_each_letter_once(ledger: Ledger, limit: int):
    """Whatever the page size, and though many died in the same millisecond, every letter is shown once, newest first in its destination."""
    names = [kill(ledger, n, destination="ab"[n % 2], at_ms=1000 + n // 4) for n in range(11)]
    shown = everything(ledger, LetterFilter(), limit)
    assert sorted(shown) == sorted(names)
    assert shown == sorted(shown, key=lambda name: (name[-1], -int(name[:24])))


def test_item_says_what_operators_need(ledger: Ledger):
    """An item names delivery, cause, attempts and time of death, nothing of the person."""
    name = kill(ledger, 1, at_ms=1_767_614_400_000)
    assert ledger.letters.page(LetterFilter()).items == [
        {
            "delivery_id": name,
            "event_id": name.partition(".")[0],
            "destination": "mail",
            "state": "withdrawn",
            "outcome": "rejected",
            "reason": "http_400",
            "attempts": 1,
            "died_at": "2026-01-05T12:00:00Z",
        }
    ]


def test_filters_choose(ledger: Ledger):
    """Each filter keeps only what fits, in the items and in the groups alike."""
    first = kill(ledger, 1, at_ms=1000)
    second = kill(ledger, 2, at_ms=2000, reason="http_422", source="crm")
    third = kill(ledger, 3, at_ms=3000, destination="sms", state="given")
    cases = {
        LetterFilter(): [first, second, third],
        LetterFilter(destination="mail"): [first, second],
        LetterFilter(reason="http_422"): [second],
        LetterFilter(state=State.GIVEN): [third],
        LetterFilter(since=datetime.fromtimestamp(2, UTC)): [second, third],
        LetterFilter(source="crm"): [second],
        LetterFilter(source="nobody"): [],
    }
    for wanted, expected in cases.items():
        assert sorted(everything(ledger, wanted, 2)) == expected
        assert sum(group["count"] for group in ledger.letters.page(wanted).groups) == len(expected)


def test_groups_count_by_cause(ledger: Ledger):
    """Groups are counts by destination, state and reason."""
    kill(ledger, 1)
    kill(ledger, 2)
    kill(ledger, 3, reason="http_422", state="given")
    assert ledger.letters.page(LetterFilter(), limit=1).groups == [
        {"destination": "mail", "state": "given", "reason": "http_422", "count": 1},
        {"destination": "mail", "state": "withdrawn", "reason": "http_400", "count": 2},
    ]


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "YQ==", "YXxifGM=", "ÿ"])
def test_foreign_cursor_is_refused(ledger: Ledger, cursor: str):
    """A cursor that is none of ours is refused, not taken for the beginning."""
    with pytest.raises(ValueError, match="cursor"):
        ledger.letters.page(LetterFilter(), cursor=cursor)


def test_replay_happens_once(ledger: Ledger):
    """A replayed letter is dead no more, its event is open again, and a second replay finds nothing."""
    name = kill(ledger, 1)
    found, unknown = ledger.letters.by_id([name])
    assert unknown == []
    assert len(ledger.letters.reopen(found)) == 1
    assert ledger.letters.reopen(found) == []
    view = ledger.event(name.partition(".")[0])
    assert (view["complete"], view["deliveries"][0]["status"]) == (False, "waiting")
    assert ledger.letters.page(LetterFilter()).items == []
    assert ledger.letters.page(LetterFilter()).groups == []
    assert ledger.events.counts()["open"] == 1


def test_ids_that_name_no_letter_are_told(ledger: Ledger):
    """Ids of another source, of nothing dead, and of no form at all are named as unknown; nothing happens to them."""
    mine, theirs = kill(ledger, 1), kill(ledger, 2, source="crm")
    found, unknown = ledger.letters.by_id([mine, theirs, "nonsense", f"{3:024d}.mail", f"{1:024d}.nowhere"], source="web")
    assert [f"{letter.event_id}.{letter.destination}" for letter in found] == [mine]
    assert unknown == [theirs, "nonsense", f"{3:024d}.mail", f"{1:024d}.nowhere"]


def test_discard_keeps_the_reason(ledger: Ledger):
    """A discarded letter is skipped with the person's reason, its event complete, and it is gone from the dead."""
    name = kill(ledger, 1)
    found, _ = ledger.letters.by_id([name])
    assert ledger.letters.discard(found, "told by phone | ticket 7", 5000) == [name]
    assert ledger.letters.discard(found, "again", 6000) == []
    view = ledger.event(name.partition(".")[0])
    shown = view["deliveries"][0]
    assert view["complete"] is True
    assert (shown["status"], shown["reason"]) == ("skipped", "discarded: told by phone / ticket 7")
    assert ledger.deliveries.dead_counts("mail") == {}
    assert ledger.deliveries.figures("mail")["counters"]["discarded"] == 1


def test_discarded_letter_cannot_be_replayed(ledger: Ledger):
    """After a person's decision a stale replay of the same letter does nothing."""
    found, _ = ledger.letters.by_id([kill(ledger, 1)])
    ledger.letters.discard(found, "no", 5000)
    assert ledger.letters.reopen(found) == []


def test_find_stops_at_most(ledger: Ledger):
    """`most` bounds what a filter replays at once."""
    for n in range(5):
        kill(ledger, n)
    assert len(ledger.letters.find(LetterFilter(), most=3)) == 3
    assert ledger.letters.find(LetterFilter(), most=0) == []
    assert len(ledger.letters.find(LetterFilter())) == 5
