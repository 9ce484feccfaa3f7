"""What a worker takes from Redis while it has enough to plan, with a real server."""

import pytest
from kombu import Connection

from config.settings import load_settings
from tests.support.servers import valkey_server
from workers.app import create_app
from workers.queues import deliver_queue, fan_out_queue, plain_queue
from workers.redis_broker import LIMITED_QUEUE, MOST_PLANNING, KeepingTransport, SentinelTransport, use_our_channels

WITHDRAWN = deliver_queue("list", "withdrawn")


class Taker:
    """Takes messages as a worker of sixteen threads does, and acknowledges when it is told to."""

    def __init__(self, connection):
        self.taken, self._connection = [], connection
        self._producer = connection.Producer()
        self._consumer = connection.Consumer([plain_queue(name) for name in (LIMITED_QUEUE, fan_out_queue("withdrawn"), WITHDRAWN)], callbacks=[self._take])
        self._consumer.qos(prefetch_count=16)
        self._consumer.consume()

    def send(self, *queues):
        for queue in queues:
            self._producer.publish({}, exchange="", routing_key=queue)

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
def taker():
    with valkey_server() as url, create_app(load_settings({"CONSENT_REDIS_URL": url}), ["list"]).connection_for_read() as connection:
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


def test_a_place_that_is_free_again_is_used_soon(taker):
    """The worker waits for other messages meanwhile, for which it must not wait long: nobody tells it that a task has ended."""
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
    assert transport.Channel.__mro__[1].__name__ == "RoomForWithdrawals"
