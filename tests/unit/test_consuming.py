"""What a worker tells watchers, and what it does with its messages when the broker goes away."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import consumer as celerys
from kombu.utils.imports import symbol_by_name

from config.celery import celery_settings
from config.settings import load_settings
from workers import consuming


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(consuming.time, "monotonic", lambda: now[0])
    return now


def quiet_consumer(**parts: Any) -> consuming.Consumer:
    """One that is connected to nothing."""
    consumer = object.__new__(consuming.Consumer)
    vars(consumer).update({"_events_at": 0.0, "_flush_events_promise": "flush", **parts})
    return consumer


def test_workers_use_it_and_celery_calls_it():
    """What is overridden is what this Celery has, and what it uses for it."""
    assert symbol_by_name(celery_settings(load_settings({"CONSENT_REDIS_URL": "redis://h/0"}))["worker_consumer"]) is consuming.Consumer
    for name in ("on_send_event_buffered", "on_connection_error_after_connected", "shutdown", "_flush_events"):
        assert callable(getattr(celerys.Consumer, name))
    assert "self._flush_events_promise = " in inspect.getsource(celerys.Consumer.__init__)
    assert "on_send_buffered=c.on_send_event_buffered" in inspect.getsource(celerys.events)


def test_events_travel_together(clock: list[float]):
    """Many events within a tenth of a second ask for one sending, and the next one for another, even if that of before never came."""
    asked: list[tuple[Any, ...]] = []
    hub = SimpleNamespace(call_soon=lambda *what: asked.append(what), call_later="later")
    consumer = quiet_consumer(hub=hub)
    for _ in range(50):
        consumer.on_send_event_buffered()
        clock[0] += 0.001
    assert asked == [("later", 0.1, "flush")]
    clock[0] += 0.1
    consumer.on_send_event_buffered()
    assert asked == [("later", 0.1, "flush")] * 2


def test_the_last_events_are_sent_at_a_stop(monkeypatch: pytest.MonkeyPatch):
    """What the last tasks ended with is seen in Flower, too: it is sent before the consumer lets go."""
    steps: list[str] = []
    monkeypatch.setattr(celerys.Consumer, "shutdown", lambda _: steps.append("shut down"))
    quiet_consumer(event_dispatcher=SimpleNamespace(flush=lambda: steps.append("sent"))).shutdown()
    assert steps == ["sent", "shut down"]


def test_a_lost_connection_puts_nothing_back(monkeypatch: pytest.MonkeyPatch):
    """Whatever Celery does about it, it finds the channel told not to restore; without a channel there is nothing to tell."""
    found: list[Any] = []
    monkeypatch.setattr(
        celerys.Consumer, "on_connection_error_after_connected", lambda self, _: found.append(self.task_consumer and self.task_consumer.channel.do_restore)
    )
    for task_consumer in (SimpleNamespace(channel=SimpleNamespace(do_restore=True)), None):
        quiet_consumer(task_consumer=task_consumer).on_connection_error_after_connected(OSError())
    assert found == [False, None]
