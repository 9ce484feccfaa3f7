"""Permits and claims of questions: they stand as long as somebody waits for the answer, and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import redis

from pipeline.asking import Question
from pipeline.domain import Subject
from pipeline.exchange import Work, WorkResult
from pipeline.vendors.base import Held, Rate
from tests.support.comparing import ComparingRelay, asked_adapter, asked_destination
from tests.support.relay import routing

ANA = "ana@example.org"
HOLD_MS = 1500
"""How long a claim stands by itself here: the time in which dialogues may start, and the margin."""


class SlowExchange:
    """Answers every question after some seconds, on a thread of its own."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def start(self, work: Work, on_done: Callable[[Work, WorkResult], None]) -> None:
        result = WorkResult(results=Held(state=None), calls=1, definite=True)
        threading.Timer(self.seconds, on_done, [work, result]).start()


def asked_relay(client: redis.Redis, seconds: float) -> ComparingRelay:
    """One whose vendor may take a minute for an answer."""
    slow = type("Adapter", (asked_adapter(),), {"timeout_seconds": 60.0})
    limits = {"start_window_seconds": 1.0, "claim_margin_seconds": 0.5, "lease_seconds": 0.1}
    return ComparingRelay(client, routing([asked_destination("crm", slow, rate=Rate(concurrent=1))]), limits=limits, exchange=SlowExchange(seconds))


def claim_of(relay: ComparingRelay) -> str:
    return f"cr:{{a:crm}}:c:{relay.hasher.identifier_key('email', ANA)}"


def question(relay: ComparingRelay) -> Question:
    return Question(subject=Subject(email=ANA), contact_keys=(relay.hasher.identifier_key("email", ANA),), options={"purpose": "news"})


@pytest.mark.parametrize("part", ["a:crm", "a:sweep:crm"])
def test_a_question_of_a_dead_process_lets_others_go_on_long_before_the_vendor_must_answer(client: redis.Redis, part: str) -> None:
    """Connection and contact are free when nobody renews them, although the vendor may take a minute: a worker that was killed costs seconds."""
    relay = asked_relay(client, 0.0)
    with relay.asker.asked(relay.rules.destinations["crm"], [question(relay)]):
        [(_, until_ms)] = client.zrange(f"cr:{{{part}}}:flight", 0, -1, withscores=True)
        assert until_ms - relay.ledger.now_ms() <= HOLD_MS
        assert 0 < client.pttl(claim_of(relay)) <= HOLD_MS


def test_a_question_that_takes_longer_keeps_connection_and_contact(client: redis.Redis) -> None:
    """Nobody tells the vendor about the person while it is asked, however long that takes; and the answer may be acted on."""
    relay = asked_relay(client, 1.5 * HOLD_MS / 1000)
    with relay.asker.asked(relay.rules.destinations["crm"], [question(relay)]) as replies:
        assert replies.held == (Held(state=None),)
        assert client.get(claim_of(relay)) is not None
        assert (client.zcard("cr:{a:crm}:flight"), client.zcard("cr:{a:sweep:crm}:flight")) == (1, 1)
        assert replies.until > time.monotonic()


def test_an_answer_whose_claim_was_lost_meanwhile_is_not_to_be_acted_on(client: redis.Redis) -> None:
    """Somebody else may have told the vendor since: what it held is no measure."""
    relay = asked_relay(client, 1.5 * HOLD_MS / 1000)
    taken = threading.Timer(HOLD_MS / 3000, client.set, [claim_of(relay), "worker"])
    taken.start()
    with relay.asker.asked(relay.rules.destinations["crm"], [question(relay)]) as replies:
        assert replies.until <= time.monotonic()
    assert client.get(claim_of(relay)) == b"worker"
