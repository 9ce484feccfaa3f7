"""Beat's schedule: every entry once in its interval, whatever the machine's clock does, and nothing piled up while no worker runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from config.celery import CONTROL_QUEUE, MOST_WAITING
from config.settings import load_settings
from workers.app import create_app
from workers.beating import SteadyScheduler
from workers.queues import CeleryPublisher


@pytest.fixture
def app(valkey_url: str, client: redis.Redis) -> Iterator[Celery]:
    app = create_app(load_settings({"CONSENT_REDIS_URL": valkey_url, "CONSENT_BROKER_URL": valkey_url.replace("/0", "/1")}), [])
    every = {"release_due": 1.0, "listen_due": 1.0, "audit": 10.0}
    app.conf.beat_schedule = {name: {**app.conf.beat_schedule[name], "schedule": seconds} for name, seconds in every.items()}
    yield app
    with app.connection_for_write() as connection:
        connection.channel().queue_purge(CONTROL_QUEUE)
    app.close()


class Scheduler(SteadyScheduler):
    """Beat's scheduler on a clock of the test's."""

    at = 0.0

    def clock(self) -> float:
        return self.at


def waiting(app: Celery) -> int:
    with app.connection_for_write() as connection:
        return int(connection.channel().queue_declare(queue=CONTROL_QUEUE, passive=True).message_count)


def test_every_entry_once_in_its_interval(app: Celery):
    """All at once at the start, then each in its own time; nothing between, and beat sleeps until the next is due."""
    scheduler = Scheduler(app=app)
    assert [scheduler.tick(), waiting(app)] == [1, 3]
    scheduler.at = 0.5
    assert [scheduler.tick(), waiting(app)] == [0.5, 3]
    scheduler.at = 1.0
    assert [scheduler.tick(), waiting(app)] == [1.0, 5]
    scheduler.at = 10.0
    scheduler.tick()
    assert waiting(app) == 8
    scheduler.close()


def test_looking_opens_no_connections(app: Celery, client: redis.Redis):
    """Nor anything else that grows with each second, whether the queue is empty or not; a connection that breaks is opened again."""
    scheduler = Scheduler(app=app)

    def opened() -> int:
        return int(client.info("stats")["total_connections_received"])

    scheduler.tick()
    before = opened()
    for scheduler.at in range(1, 40):
        scheduler.tick()
        if scheduler.at % 10 == 0:
            client.execute_command("SELECT", 1)
            client.delete(CONTROL_QUEUE)
            client.execute_command("SELECT", 0)
    assert opened() - before <= 2  # that of `client`, perhaps
    client.client_kill_filter(_type="normal", skipme=True)
    scheduler.at = 100
    scheduler.tick()
    scheduler.at = 200
    scheduler.tick()
    assert waiting(app) > 0
    scheduler.close()


def test_machine_clock_put_back_changes_nothing(app: Celery, monkeypatch: pytest.MonkeyPatch):
    """Celery's own scheduler would be silent for an hour."""
    scheduler = Scheduler(app=app)
    scheduler.tick()
    monkeypatch.setattr(app, "now", lambda: pytest.fail("the machine's clock decides nothing here"))
    scheduler.at = 1.0
    scheduler.tick()
    assert waiting(app) == 5
    scheduler.close()


def test_nothing_piles_up_while_no_worker_runs(app: Celery):
    """An hour without workers leaves some messages, none of which can be too old; once they are taken beat goes on."""
    scheduler = Scheduler(app=app)
    for second in range(3600 // 10):
        scheduler.at = second * 10.0
        scheduler.tick()
    assert MOST_WAITING <= waiting(app) <= MOST_WAITING + 2
    with app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.basic_get(CONTROL_QUEUE, no_ack=True).headers["expires"] is None
        channel.queue_purge(CONTROL_QUEUE)
    scheduler.at += 1.0
    scheduler.tick()
    assert waiting(app) == 2
    scheduler.close()


def test_a_source_is_not_asked_for_more_often_than_workers_listen(app: Celery):
    """Asking for a source goes by the same measure, and carries no expiry time either."""
    publisher = CeleryPublisher(app, {}, pause_seconds=1.0)
    for _ in range(MOST_WAITING + 10):
        publisher.listen("crm")
    assert waiting(app) == MOST_WAITING
    with app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.basic_get(CONTROL_QUEUE, no_ack=True).headers["expires"] is None
    publisher.close()


def test_beat_uses_this_scheduler(app: Celery):
    """Celery makes it from its name in the settings."""
    assert app.Beat().scheduler_cls == "workers.beating:SteadyScheduler"
    assert isinstance(app.Beat().Service(app=app, scheduler_cls=app.Beat().scheduler_cls).scheduler, SteadyScheduler)
