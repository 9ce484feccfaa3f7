"""What ended and is brought back: it is told whatever is left of its event, and ends again whoever's clock is behind."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from pipeline.domain import DeliveryStatus
from pipeline.ledger.letters import LetterFilter
from pipeline.routing import FORWARD_AND_DELETE, Source
from tests.support.parts import result
from tests.support.relay import Relay, destination, routing

ANA = "ana@example.org"


def test_withdrawal_that_was_forgotten_is_told_again_when_a_late_given_undid_it(client: redis.Redis):
    """Of a source that forgets at once nothing is left of the withdrawal but its word; the late `given` names whom it is about."""
    forgetful = Source(name="forms", retention=FORWARD_AND_DELETE)
    relay = Relay(client, routing([destination("mail")], sources=(Source(name="web"), forgetful)), seconds=0.03)
    relay.event("given", 1, email=ANA)
    relay.step()
    withdrawal: list[str] = []

    def paused(_work: Any) -> None:
        if not withdrawal:
            time.sleep(0.1)  # longer than claim, mark and lease
            withdrawal.append(relay.event("withdrawn", 5, email=ANA, source="forms"))
            relay.step()
            relay.step()
            assert relay.deliveries(withdrawal[0])["mail"] == ("delivered", None)
            assert relay.ledger.event(withdrawal[0])["status"] == "erased"

    relay.exchange.before = paused
    relay.drain()
    assert relay.vendors["mail"].held == {(ANA, "news"): "given"}
    relay.again(2)
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}
    view = relay.ledger.event(withdrawal[0])
    assert (view["complete"], view["status"], view["deliveries"][0]["status"]) == (True, "erased", "delivered")
    assert relay.figures().unaccounted == 0


def test_result_after_a_reopening_counts_although_the_clock_is_behind(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """A worker whose clock is five seconds behind tells a dead letter that was replayed: the event is complete."""
    relay = Relay(client, routing([destination("mail")]))
    relay.vendors["mail"].answers = [400]
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    assert len(relay.ledger.letters.reopen(relay.ledger.letters.find(LetterFilter()), reason="replayed")) == 1
    clock_ms = relay.ledger.clock_ms
    monkeypatch.setattr(relay.ledger, "clock_ms", lambda: clock_ms() - 5000)
    relay.again()
    assert len(relay.vendors["mail"].calls) == 2
    view = relay.ledger.event(event)
    assert (view["complete"], view["deliveries"][0]["status"]) == (True, "delivered")
    assert relay.figures().unaccounted == 0


def test_result_that_was_not_copied_yet_does_not_end_what_was_reopened(client: redis.Redis):
    """A copy of the result from before comes after the reopening: the event stays open, and with it what it needs to be told again."""
    relay = Relay(client, routing([destination("mail")]))
    relay.vendors["mail"].answers = [400]
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    (letter,) = relay.ledger.letters.find(LetterFilter())
    before = result(DeliveryStatus.DEAD, relay.ledger.now_ms(), reason="http_400", attempts=1).encode()
    relay.ledger.letters.reopen([letter], reason="replayed")
    relay.ledger.events.fold([(event, "mail", before)])
    assert relay.ledger.event(event)["complete"] is False
    assert relay.deliveries(event)["mail"] == ("waiting", "replayed")
