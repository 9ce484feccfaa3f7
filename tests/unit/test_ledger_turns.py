"""What a chunk asks of the ledger in one round trip: nothing is settled by a dialogue whose claim had not lasted, and what was settled is known as settled when it is said again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis

from pipeline.errors import LedgerUnavailable
from pipeline.ledger import Ledger
from pipeline.ledger.accounts import Asking, Farewell, Leaving
from pipeline.ledger.copies import Settling
from pipeline.ledger.deliveries import Settlement
from pipeline.ledger.turns import Turn
from tests.support.parts import final, traffic, two_leased
from tests.support.relay import Relay, destination, routing

ANNA, BEN = "a" * 24, "b" * 24
KEYS = {ANNA: "email:anna", BEN: "email:ben"}
CHUNK = "chunk"


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    """Two deliveries are leased, and their dialogues under way."""
    ledger = two_leased(client, "task", ANNA, BEN)
    asking = Asking(first_permit=0, contacts=[[KEYS[ANNA]], [KEYS[BEN]]])
    ledger.turns.take(traffic(), "given", CHUNK, leaving=None, checks=[], asking=asking, named=[])
    return ledger


def ended(ledger: Ledger, *, settlements: Sequence[Settlement] = (final(ANNA), final(BEN))) -> Turn:
    """The turn that ends both dialogues and settles."""
    farewells = [Farewell(lane="given", definite=True, identifier_keys=(key,)) for key in KEYS.values()]
    leaving = Leaving(permits=[(0, 1), (1, 1)], farewells=farewells, gate="ok")
    settling = Settling(destination="mail", lane="given", token="task", settlements=settlements)
    return ledger.turns.take(traffic(), "given", CHUNK, leaving=leaving, checks=[], asking=None, named=[], settling=settling)


def lose_claim(ledger: Ledger, event_id: str) -> None:
    ledger.store.client.delete(ledger.keys.account("shop", f"c:{KEYS[event_id]}"))


def statuses(ledger: Ledger) -> list[str]:
    ledger.copies.flush("mail")
    return [ledger.event(event_id)["deliveries"][0]["status"] for event_id in (ANNA, BEN)]  # type: ignore[index]


def test_a_turn_ends_dialogues_and_settles_in_one_round_trip(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    trips = counted_trips(ledger, monkeypatch)

    turn = ended(ledger)

    assert (turn.lasted, turn.settled, len(trips)) == ([True, True], [True, True], 1)
    assert statuses(ledger) == ["delivered", "delivered"]


def test_where_one_claim_had_not_lasted_nothing_is_settled(ledger: Ledger) -> None:
    """Whoever told it has to look first what somebody else was told meanwhile."""
    lose_claim(ledger, BEN)

    turn = ended(ledger)

    assert (turn.lasted, list(turn.settled)) == ([True, False], [])
    assert statuses(ledger) == ["sending", "sending"]


def test_what_is_said_again_is_known(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was lost: claims that are gone by then count as they did, and what was settled as settled, once."""
    lose_answer(ledger, monkeypatch)
    with pytest.raises(LedgerUnavailable):
        ended(ledger)

    turn = ended(ledger)

    assert (turn.lasted, turn.settled) == ([True, True], [True, True])
    assert statuses(ledger) == ["delivered", "delivered"]
    assert ledger.deliveries.figures("mail")["counters"]["done"] == 2


def test_what_was_refused_is_refused_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_claim(ledger, ANNA)
    lose_answer(ledger, monkeypatch)
    with pytest.raises(LedgerUnavailable):
        ended(ledger)

    assert list(ended(ledger).settled) == []
    assert statuses(ledger) == ["sending", "sending"]


def test_nothing_is_settled_by_the_answer_to_other_dialogues(ledger: Ledger) -> None:
    """A settlement that is bound to a leave is never carried out without it."""
    settling = Settling(destination="mail", lane="given", token="task", settlements=[final(ANNA)])
    bound = ("cr:{a:shop}:left:chunk", 0)

    assert ledger.store.run(ledger.copies.begin(settling, bound).commands)[0] == []
    ended(ledger, settlements=[final(BEN)])
    assert ledger.store.run(ledger.copies.begin(settling, (bound[0], 7)).commands)[0] == []
    assert statuses(ledger) == ["sending", "delivered"]


def test_a_lone_delivery_is_settled_when_its_dialogue_is_left(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the vendor's answer and the settlement lies one round trip: a crash there is what repeats a call."""
    relay = Relay(client, routing([destination("mail")]))
    event_id = relay.event("given", 1, email="ana@example.org")
    relay.step()
    trips = counted_trips(relay.ledger, monkeypatch)
    after: list[int] = []
    relay.vendors["mail"].answers = [200]
    relay.exchange.before = lambda _: after.append(len(trips))

    relay.step()

    settle = relay.ledger.store.script("settle", [], [])[1]
    assert [any(settle in command for command in trip) for trip in trips[after[0] :]].index(True) == 0
    assert relay.deliveries(event_id)["mail"][0] == "delivered"


def counted_trips(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Any]]:
    trips: list[Sequence[Any]] = []
    round_trip = ledger.store.round_trip

    def counted(commands: Sequence[Any], **options: Any) -> list[Any]:
        trips.append(commands)
        return round_trip(commands, **options)

    monkeypatch.setattr(ledger.store, "round_trip", counted)
    return trips


def lose_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the next round trip, which is carried out."""
    round_trip = ledger.store.round_trip

    def lost(commands: Sequence[Any], **options: Any) -> list[Any]:
        monkeypatch.setattr(ledger.store, "round_trip", round_trip)
        round_trip(commands, **options)
        raise LedgerUnavailable("no answer in time")

    monkeypatch.setattr(ledger.store, "round_trip", lost)
