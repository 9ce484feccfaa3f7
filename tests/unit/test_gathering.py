"""Fan-out hints: at once while the workers keep up, together while they are behind, never lost by a stop."""

from __future__ import annotations

import time

import pytest

from workers import gathering
from workers.gathering import GatheringPublisher
from workers.queues import CeleryPublisher


@pytest.fixture
def sent(monkeypatch):
    """Every hint that went to the broker as (lane, ids)."""
    found = []
    monkeypatch.setattr(CeleryPublisher, "fan_out", lambda _, lane, event_ids: found.append((lane, list(event_ids))))
    return found


@pytest.fixture
def publisher(monkeypatch):
    """A publisher whose queue is as long as `publisher.length`."""
    publisher = GatheringPublisher(None, {}, pause_seconds=1.0)
    publisher.length = 0
    monkeypatch.setattr(publisher, "queue_depth", lambda _queue: publisher.length)
    yield publisher
    publisher.close()


def wait_for(condition):
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_hint_goes_at_once_while_the_queue_is_short(publisher, sent):
    """Nothing is held back from workers that keep up."""
    publisher.length = gathering.SHORT_QUEUE
    for number in range(3):
        publisher.fan_out("given", [f"e{number}"])
        wait_for(lambda number=number: sent[number:] == [("given", [f"e{number}"])])


def test_hints_travel_together_while_the_queue_is_long(publisher, sent, monkeypatch):
    """What comes within the longest wait makes one message; a lane with a short queue is not held up by the other."""
    monkeypatch.setattr(gathering, "LONGEST_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(publisher, "queue_depth", lambda queue: 5 if queue == "fan_out.given" else 0)
    for number in range(5):
        publisher.fan_out("given", [f"e{number}"])
    publisher.fan_out("withdrawn", ["w"])
    wait_for(lambda: sent == [("withdrawn", ["w"])])
    wait_for(lambda: len(sent) == 2)
    assert sent[1] == ("given", [f"e{number}" for number in range(5)])


def test_hints_do_not_pile_up_in_a_long_queue(publisher, sent, monkeypatch):
    """What would only wait there is kept until the queue is shorter, and makes one message then; what fills one goes out."""
    monkeypatch.setattr(gathering, "LONGEST_WAIT_SECONDS", 0.02)
    publisher.length = gathering.LONG_QUEUE
    for number in range(5):
        publisher.fan_out("given", [f"e{number}"])
        time.sleep(0.05)
    assert sent == []
    publisher.length = gathering.LONG_QUEUE - 1
    wait_for(lambda: sent == [("given", [f"e{number}" for number in range(5)])])
    publisher.length = 10_000
    publisher.fan_out("given", ["e"] * gathering.MOST_EVENTS)
    wait_for(lambda: len(sent) == 2)


def test_a_message_is_never_larger_than_the_most(publisher, sent, monkeypatch):
    """Many events at once go out at once, cut into messages."""
    monkeypatch.setattr(gathering, "LONGEST_WAIT_SECONDS", 60)
    publisher.length = 50
    ids = [f"e{number}" for number in range(gathering.MOST_EVENTS + 1)]
    publisher.fan_out("given", ids)
    wait_for(lambda: len(sent) == 2)
    assert sent == [("given", ids[:-1]), ("given", ids[-1:])]


def test_closing_sends_what_is_left(publisher, sent, monkeypatch):
    """A stop in order loses no hint."""
    monkeypatch.setattr(gathering, "LONGEST_WAIT_SECONDS", 60)
    publisher.length = 50
    publisher.fan_out("given", ["e1"])
    publisher.close()
    assert sent == [("given", ["e1"])]


@pytest.mark.parametrize(
    "known_seconds,together,asked_before", [(60, 1, [0, 1]), (60, 2, [0, 1, 2, 3]), (0, 1, [0, 1, 1, 2, 2, 3])], ids=["one by one", "together", "seldom"]
)
def test_who_sends_now_and_then_does_not_ask_first(publisher, sent, monkeypatch, known_seconds, together, asked_before):
    """A queue that was short after a hint counts as short for a moment, and no longer; after hints of several events it is asked about again."""
    asked = []
    monkeypatch.setattr(publisher, "queue_depth", lambda _queue: asked.append(len(sent)) or publisher.length)
    monkeypatch.setattr(gathering, "KNOWN_SECONDS", known_seconds)
    for number in range(3):
        publisher.fan_out("given", [f"e{number}"] * together)
        wait_for(lambda number=number: len(sent) > number)
    publisher.close()
    assert asked == asked_before
