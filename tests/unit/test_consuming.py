"""What a worker tells watchers: together, soon, and to the last word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workers import consuming


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(consuming.time, "monotonic", lambda: now[0])
    return now


def quiet_consumer(**parts: Any) -> consuming.Consumer:
    """One that is connected to nothing."""
    consumer = object.__new__(consuming.Consumer)
    consumer._events_at, consumer._flush_events_promise = 0.0, "flush"
    vars(consumer).update(parts)
    return consumer


def test_events_travel_together(clock: list[float]):
    """Many events within a tenth of a second ask for one sending, and the next one for another, even if that of before never came."""
    asked: list[tuple[float, Any]] = []
    consumer = quiet_consumer(hub=SimpleNamespace(call_later=lambda *what: asked.append(what)))
    for _ in range(50):
        consumer.on_send_event_buffered()
        clock[0] += 0.001
    assert asked == [(0.1, "flush")]
    clock[0] += 0.1
    consumer.on_send_event_buffered()
    assert asked == [(0.1, "flush")] * 2


def test_the_last_events_are_sent_at_a_stop(monkeypatch: pytest.MonkeyPatch):
    """What the last tasks ended with is seen in Flower, too: it is sent before the consumer lets go."""
    steps: list[str] = []
    monkeypatch.setattr(consuming.consumer.Consumer, "shutdown", lambda _: steps.append("shut down"))
    quiet_consumer(event_dispatcher=SimpleNamespace(flush=lambda: steps.append("sent"))).shutdown()
    assert steps == ["sent", "shut down"]
