"""Hints over Redis: one client and one connection for all that a channel sends, a broker that was restarted is found again, and what a worker takes while it has enough to plan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from kombu import Connection

import workers.redis_broker
from config.settings import load_settings
from workers.app import create_app
from workers.queues import CeleryPublisher, deliver_queue, fan_out_queue, plain_queue
from workers.redis_broker import LIMITED_QUEUE, MOST_PLANNING, KeepingTransport, RoomForWithdrawals, SentinelTransport, use_our_channels

WITHDRAWN = deliver_queue("list", "withdrawn")


@pytest.fixture
def publisher(valkey_url: str, client: redis.Redis) -> Iterator[CeleryPublisher]:
    del client  # has emptied the server
    settings = load_settings({"CONSENT_REDIS_URL": valkey_url, "CONSENT_BROKER_URL": valkey_url})
    opened = CeleryPublisher(create_app(settings, []), {"priority_steps": [0]}, pause_seconds=0.0)
    yield opened
    opened.close()


def test_all_hints_share_one_client_and_one_connection(publisher: CeleryPublisher, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher.fan_out("given", ["e0"])
    made = []
    before = client.info("stats")["total_connections_received"]
    monkeypatch.setattr(redis.Redis, "__init__", lambda *_, **__: made.append(1))

    for number in range(1, 6):
        publisher.fan_out("given", [f"e{number}"])
        assert publisher.fan_out_depth("given") == number + 1

    assert made == []
    assert client.info("stats")["total_connections_received"] == before
    assert client.llen(fan_out_queue("given")) == 6


def test_after_a_lost_connection_hints_go_on(publisher: CeleryPublisher, client: redis.Redis) -> None:
    """One hint may be lost with it; the ledger finds what it was about."""
    publisher.fan_out("given", ["e0"])
    client.client_kill_filter(_type="normal", skipme=True)

    for number in range(3):
        publisher.fan_out("given", [f"e{number}"])

    assert client.llen(fan_out_queue("given")) >= 3


class Taker:
    """Takes messages as a worker of sixteen threads does, and acknowledges when it is told to."""

    def __init__(self, connection):
        self.taken, self._connection = [], connection
        self._producer = connection.Producer()
        self._consumer = connection.Consumer([plain_queue(name) for name in (LIMITED_QUEUE, fan_out_queue("withdrawn"), WITHDRAWN)], callbacks=[self._take])
        self._consumer.qos(prefetch_count=16)
        self._consumer.consume()

    def send(self, *queues, events=250):
        for queue in queues:
            self._producer.publish({"event_ids": ["e" * 26] * events}, exchange="", routing_key=queue)

    def take_all(self, seconds=0.3):
        """The queues of what can be taken now."""
        before = len(self.taken)
        try:
            while True:
                self._connection.drain_events(timeout=seconds)
        except TimeoutError:
            return [message.delivery_info["routing_key"] for message in self.taken[before:]]

    def end(self, queue):
        """The task of one message ends."""
        message = next(each for each in self.taken if each.delivery_info["routing_key"] == queue and not each.acknowledged)
        message.ack()

    def _take(self, _body, message):
        self.taken.append(message)


@pytest.fixture
def taker(valkey_url: str, client: redis.Redis) -> Iterator[Taker]:
    del client  # has emptied the server
    with create_app(load_settings({"CONSENT_REDIS_URL": valkey_url, "CONSENT_BROKER_URL": valkey_url}), ["list"]).connection_for_read() as connection:
        yield Taker(connection)


def test_plans_of_what_was_given_leave_room_for_withdrawals(taker):
    """A backlog of them would have every thread; what comes behind it is taken at once, and the backlog as it is worked off."""
    taker.send(*[LIMITED_QUEUE] * 5)
    assert taker.take_all() == [LIMITED_QUEUE] * MOST_PLANNING
    taker.send(WITHDRAWN, fan_out_queue("withdrawn"))
    assert sorted(taker.take_all()) == sorted([WITHDRAWN, fan_out_queue("withdrawn")])
    taker.end(LIMITED_QUEUE)
    assert taker.take_all() == [LIMITED_QUEUE]
    assert taker.take_all() == []


def test_other_queues_have_no_limit_but_that_of_the_threads(taker):
    taker.send(*[WITHDRAWN] * 20)
    assert taker.take_all() == [WITHDRAWN] * 16


def test_what_is_planned_in_a_moment_has_no_limit(taker):
    """Single posts, where no tray is used: each would wait for the place of another, which takes longer than planning it."""
    taker.send(*[LIMITED_QUEUE] * 20, events=1)
    assert taker.take_all() == [LIMITED_QUEUE] * 16


def test_messages_whose_end_was_not_noticed_do_not_shut_the_queue_for_ever(taker, monkeypatch):
    taker.send(*[LIMITED_QUEUE] * 3)
    assert taker.take_all() == [LIMITED_QUEUE] * MOST_PLANNING
    monkeypatch.setattr(workers.redis_broker, "FORGOTTEN_SECONDS", 0.0)
    assert taker.take_all() == [LIMITED_QUEUE]


def test_what_is_refused_frees_its_place(taker):
    taker.send(*[LIMITED_QUEUE] * 3)
    taker.take_all()
    taker.taken[0].reject()
    assert taker.take_all() == [LIMITED_QUEUE]
    taker.taken[1].requeue()
    assert taker.take_all() == [LIMITED_QUEUE]


def test_a_place_that_is_free_again_is_used_soon(taker):
    """The worker waits for other messages meanwhile, and cannot be called off: so it never waits long."""
    taker.send(*[LIMITED_QUEUE] * (MOST_PLANNING + 1))
    assert taker.take_all() == [LIMITED_QUEUE] * MOST_PLANNING
    with pytest.raises(TimeoutError):
        taker._connection.drain_events(timeout=0.02)  # now it waits, without that queue
    taker.end(LIMITED_QUEUE)
    assert taker.take_all(seconds=0.5) == [LIMITED_QUEUE]


@pytest.mark.parametrize("url, transport", [("redis://h", KeepingTransport), ("rediss://h", KeepingTransport), ("sentinel://h", SentinelTransport)])
def test_every_kind_of_redis_has_the_limit(url, transport):
    """Sentinel has a channel of its own in kombu."""
    use_our_channels()
    assert Connection(url).get_transport_cls() is transport
    assert issubclass(transport.Channel, RoomForWithdrawals)
