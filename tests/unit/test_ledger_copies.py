"""Results on their way into their events' records: each is copied with the settlement after its own, or when the task has nothing more to settle; a crash leaves them to the audit, an outage to the next call."""

from __future__ import annotations

import pytest
import redis

from pipeline.errors import LedgerUnavailable
from pipeline.ledger import Ledger
from pipeline.ledger.copies import Settling
from pipeline.ledger.deliveries import Settlement, Verb
from tests.support.parts import result, two_leased

ANNA, BEN = "a" * 24, "b" * 24


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    return two_leased(client, "w", ANNA, BEN)


def settle(ledger: Ledger, event_id: str) -> list[bool]:
    settlements = [Settlement(event_id=event_id, verb=Verb.FINAL, result=result("delivered", 5))]
    return ledger.copies.settle(Settling(destination="mail", lane="given", token="w", settlements=settlements))


def is_complete(ledger: Ledger, event_id: str) -> bool:
    return ledger.events.load([event_id])[0].complete


def left(ledger: Ledger) -> list[str]:
    return sorted(event_id for event_id, _ in ledger.deliveries.results("mail", 100))


def test_next_settlement_takes_the_results_along(ledger: Ledger):
    """The second settlement copies the first, the flush the second; nothing is left beside the records."""
    assert settle(ledger, ANNA) == [True]
    assert not is_complete(ledger, ANNA)
    assert settle(ledger, BEN) == [True]
    assert (is_complete(ledger, ANNA), is_complete(ledger, BEN)) == (True, False)
    ledger.copies.flush("mail")
    assert is_complete(ledger, BEN)
    assert left(ledger) == []


def test_lost_lease_copies_nothing(ledger: Ledger):
    """What somebody else has leased meanwhile is theirs to end."""
    ledger.deliveries.renew("mail", "given", "w", -1, [ANNA])
    ledger.deliveries.claim("mail", "given", "other", 60_000, [ANNA])
    assert settle(ledger, ANNA) == [False]
    ledger.copies.flush("mail")
    assert not is_complete(ledger, ANNA)


def test_what_could_not_be_copied_is_copied_later(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """While the server is away the results stay with their destination, and in hand."""
    settle(ledger, ANNA)

    def away(_commands, **_options):
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.store, "round_trip", away)
        with pytest.raises(LedgerUnavailable):
            settle(ledger, BEN)
    assert left(ledger) == [ANNA]
    ledger.copies.flush("mail")
    assert (is_complete(ledger, ANNA), is_complete(ledger, BEN), left(ledger)) == (True, False, [])
