"""Local times of a source at a change of its clocks: in an hour that comes twice, or not at all, the withdrawal is the later word."""

from __future__ import annotations

import itertools

import pytest
import redis

from pipeline.dates import parse_source_date
from pipeline.domain import IncomingEvent, State, Subject
from tests.support.relay import Relay, destination, routing

ANA = "ana@example.org"
TWICE = ("17/02/2018 23:10:00", "17/02/2018 23:40:00")
"""In São Paulo clocks went back from 00:00 to 23:00 at the end of this day."""
SKIPPED = ("04/11/2018 00:10:00", "04/11/2018 00:40:00")
"""And forward from 00:00 to 01:00 at the beginning of this one."""


def say(relay: Relay, state: str, date: str) -> None:
    earliest, latest = parse_source_date(date, "day_first", "America/Sao_Paulo")
    said = IncomingEvent(subject=Subject(email=ANA), purpose="news", state=State(state), event_time=earliest, event_time_end=latest)
    relay.acceptor.accept_many([(relay.rules.sources["web"], said)])


@pytest.mark.parametrize("dates", [TWICE, SKIPPED], ids=["an hour that comes twice", "an hour that is skipped"])
@pytest.mark.parametrize("withdrawn_is_posted_first", [True, False])
def test_withdrawal_wins_where_the_order_is_open(client: redis.Redis, dates: tuple[str, str], withdrawn_is_posted_first: bool):
    """Which of two words came first cannot be known from such times: the withdrawal stands, although its text is the earlier one, in whatever order they arrive."""
    relay = Relay(client, routing([destination("mail")]))
    words = [("withdrawn", dates[0]), ("given", dates[1])]
    for state, date in words if withdrawn_is_posted_first else reversed(words):
        say(relay, state, date)
    relay.drain()
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"


def test_order_is_known_outside_of_that_hour(client: redis.Redis):
    """An hour later, and an hour before, the texts are in order, whichever way the clocks go."""
    for (first, second), day in itertools.product([("given", "withdrawn"), ("withdrawn", "given")], ["17/02/2018", "04/11/2018"]):
        client.flushall()
        relay = Relay(client, routing([destination("mail")]))
        say(relay, second, f"{day} 22:59:59" if day == "17/02/2018" else f"{day} 02:00:00")
        say(relay, first, f"{day} 21:59:59" if day == "17/02/2018" else f"{day} 01:00:00")
        relay.drain()
        assert relay.vendors["mail"].held[ANA, "news"] == second
