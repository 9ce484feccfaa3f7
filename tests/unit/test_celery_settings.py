"""Celery's settings, the order of the queues and the sending of hints."""

import json
import socket
import threading
import time

import kombu
import pytest
from celery.app.defaults import NAMESPACES, flatten
from celery.worker.consumer import Consumer
from kombu.utils.imports import symbol_by_name

from config.celery import celery_settings, publish_options
from config.settings import load_settings
from workers.app import create_app
from workers.queues import CeleryPublisher, WithdrawalsFirst, is_urgent, queue_names
from workers.rabbitmq import DELAYS, ConsumerWithoutDelays, LanePool
from workers.tasks import DeadLettered, dead_letter

SETTINGS = load_settings({"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_BROKER_URL": "memory://"})


@pytest.fixture
def app():
    return create_app(SETTINGS, ["b-list", "a-list"])


@pytest.fixture
def publisher(app):
    publisher = CeleryPublisher(app, {}, pause_seconds=2.0)
    yield publisher
    publisher.close()


def received(app, queue):
    """Every message in a queue as (task name, shadow, arguments, what Flower is shown)."""
    found = []
    with app.connection_for_read() as connection:
        box = connection.channel()
        while message := box.basic_get(queue, no_ack=True):
            body = json.loads(message.body)
            found.append((message.headers["task"], message.headers["shadow"], body[1], message.headers["kwargsrepr"]))
    return found


def test_what_evidence_asked_for_is_set():
    """The settings whose stock values lose, double or leak messages."""
    found = celery_settings(load_settings({"CONSENT_REDIS_URL": "redis://h/0"}))
    assert found["broker_url"] == "redis://h/1"
    assert (found["task_acks_late"], found["task_reject_on_worker_lost"], found["worker_prefetch_multiplier"]) == (True, True, 1)
    assert (found["accept_content"], found["task_serializer"], found["task_ignore_result"]) == (["json"], "json", True)
    assert (found["task_create_missing_queues"], found["task_publish_retry"], found["broker_connection_max_retries"]) == (False, False, None)
    options = found["broker_transport_options"]
    assert (options["ack_emulation"], options["priority_steps"]) == (False, [0])
    assert "retry_on_timeout" not in options
    keepalive = options["socket_keepalive_options"]
    assert keepalive[socket.TCP_KEEPIDLE] + keepalive[socket.TCP_KEEPCNT] * keepalive[socket.TCP_KEEPINTVL] < 15


def test_every_setting_is_one_that_celery_knows(app):
    """A misspelt name would leave a default in place unseen."""
    assert set(celery_settings(SETTINGS)) - {name for name, _ in flatten(NAMESPACES)} == set()
    from kombu.transport.redis import Channel

    assert set(celery_settings(SETTINGS)["broker_transport_options"]) - set(Channel.from_transport_options) == set()


@pytest.fixture
def on_rabbitmq():
    return load_settings({"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_BROKER_URL": "amqps://user:secret@broker.example//"})


def test_rabbitmq_gets_quorum_queues_with_a_prefetch_of_their_own(on_rabbitmq):
    """A prefetch of the whole channel is refused by quorum queues; Celery leaves it out where it looks for them."""
    app = create_app(on_rabbitmq, ["a-list"])
    assert {queue.name: queue.queue_arguments for queue in app.amqp.queues.values()} == {
        key: {"x-queue-type": "quorum", "x-delivery-limit": 20} for key in queue_names(["a-list"])
    }
    found = celery_settings(on_rabbitmq)
    assert found["worker_detect_quorum_queues"]
    assert (found["task_acks_late"], found["task_reject_on_worker_lost"], found["worker_prefetch_multiplier"]) == (True, True, 1)
    assert set(found) - {name for name, _ in flatten(NAMESPACES)} == set()
    assert issubclass(symbol_by_name(found["worker_consumer"]), symbol_by_name(celery_settings(SETTINGS)["worker_consumer"]))
    for name in ("worker_consumer", "worker_pool", "beat_scheduler"):
        assert symbol_by_name(found[name]).__module__ == "workers.rabbitmq"


def test_rabbitmq_confirms_hints_within_a_second(on_rabbitmq):
    """Only the connection that sends hints waits for a confirmation; events for Flower would be slow with one."""
    options = publish_options(on_rabbitmq)
    assert (options["confirm_publish"], options["connect_timeout"], options["read_timeout"], options["write_timeout"]) == (True, 1.0, 1.0, 1.0)
    assert "confirm_publish" not in celery_settings(on_rabbitmq)["broker_transport_options"]


def test_long_countdowns_make_no_queues_on_rabbitmq():
    """Celery would declare 28 quorum queues for them, and each start of a worker would wait for it."""
    assert DELAYS in Consumer.Blueprint.default_steps
    assert sorted([*ConsumerWithoutDelays.Blueprint.default_steps, DELAYS]) == sorted(Consumer.Blueprint.default_steps)


def test_withdrawals_have_threads_that_no_given_takes():
    """With every other thread taken and more waiting, what came from an urgent queue is worked on at once."""
    pool, release, done = LanePool(2, app=None), threading.Event(), threading.Event()
    try:
        request = {"delivery_info": {"routing_key": "deliver.a-list.given"}}
        for _ in range(6):
            pool.apply_async(lambda *_: release.wait(20), ("deliver", "id", request))
        pool.apply_async(lambda *_: done.set(), ("deliver", "id", {"delivery_info": {"routing_key": "deliver.a-list.withdrawn"}}))
        assert done.wait(10)
    finally:
        release.set()
        pool.on_stop()


def test_a_hint_gives_up_after_a_second():
    """Both timeouts of the sending connection are short."""
    options = publish_options(SETTINGS)
    assert (options["socket_timeout"], options["socket_connect_timeout"], options["max_retries"]) == (1.0, 1.0, 0)


def test_periodic_messages_do_not_expire():
    """An expiry time is written by one clock and read by another: workers a little ahead of beat would drop all of them."""
    schedule = celery_settings(SETTINGS)["beat_schedule"]
    assert {name: (entry["task"], entry["schedule"], entry["options"]) for name, entry in schedule.items()} == {
        "release_due": ("release_due", 1.0, {"queue": "control"}),
        "listen_due": ("listen_due", 1.0, {"queue": "control"}),
        "sweep_due": ("sweep_due", 2.0, {"queue": "control"}),
        "audit": ("audit", 10.0, {"queue": "control"}),
    }


def test_queues_are_plain_and_one_per_destination_and_lane(app):
    """All on the default exchange, whose routing needs no binding that could be lost."""
    names = [
        "control",
        "sweep",
        "fan_out.withdrawn",
        "fan_out.given",
        "deliver.a-list.withdrawn",
        "deliver.a-list.given",
        "deliver.b-list.withdrawn",
        "deliver.b-list.given",
    ]
    assert queue_names(["b-list", "a-list"]) == names
    assert [(queue.name, queue.exchange.name, queue.routing_key) for queue in app.amqp.queues.values()] == [(name, "", name) for name in names]


def test_withdrawals_and_control_come_first_and_the_rest_takes_turns():
    """After each message its queue goes to the end of its group."""
    cycle = WithdrawalsFirst()
    cycle.update(["d.a.given", "d.a.withdrawn", "control", "d.b.given", "d.b.withdrawn"])
    assert cycle.consume(5) == ["d.a.withdrawn", "control", "d.b.withdrawn", "d.a.given", "d.b.given"]
    cycle.rotate("d.a.given")
    cycle.rotate("d.a.withdrawn")
    assert cycle.consume(5) == ["control", "d.b.withdrawn", "d.a.withdrawn", "d.b.given", "d.a.given"]
    assert cycle.rotate("unknown") == "unknown"


def test_kombu_builds_our_order_by_name():
    """The transport option names the class; a kombu that reads it otherwise must not pass unseen."""
    from kombu.transport.redis import Channel
    from kombu.utils.scheduling import cycle_by_name

    assert cycle_by_name(celery_settings(SETTINGS)["broker_transport_options"]["queue_order_strategy"]) is WithdrawalsFirst
    assert hasattr(Channel, "_brpop_start")
    assert kombu.__version__.startswith("5.7.")


def test_urgent_is_what_carries_withdrawals_or_control():
    """Lane words inside a destination's name do not count."""
    assert [name for name in queue_names(["x.withdrawn.y"]) if is_urgent(name)] == ["control", "fan_out.withdrawn", "deliver.x.withdrawn.y.withdrawn"]


def test_hints_carry_ids_and_are_named_for_people(app, publisher):
    """Flower is shown destination, lane and a few ids."""
    publisher.fan_out("withdrawn", ["e1", "e2"])
    publisher.deliver("a-list", "given", ["e1", "e2", "e3", "e4"], 1)
    publisher.deliver("a-list", "given", ["e5"], 3)
    publisher.dead_letter("a-list", "http_400", ["e1.a-list"])
    assert received(app, "fan_out.withdrawn") == [
        ("fan_out", "fan_out withdrawn", {"lane": "withdrawn", "event_ids": ["e1", "e2"]}, "{'lane': 'withdrawn', 'count': 2, 'event_ids': ['e1', 'e2']}")
    ]
    first, second = received(app, "deliver.a-list.given")
    assert first[1:] == (
        "deliver a-list",
        {"destination": "a-list", "lane": "given", "attempt": 1, "event_ids": ["e1", "e2", "e3", "e4"]},
        "{'destination': 'a-list', 'lane': 'given', 'attempt': 1, 'count': 4, 'event_ids': ['e1', 'e2', 'e3', '...']}",
    )
    assert second[1] == "deliver a-list attempt 3"
    assert received(app, "control")[0][:3] == (
        "dead_letter",
        "dead_letter a-list",
        {"destination": "a-list", "reason": "http_400", "delivery_ids": ["e1.a-list"]},
    )


def test_depth_counts_waiting_messages(app, publisher):
    """A queue that does not exist is an empty one."""
    assert publisher.depth("a-list", "withdrawn") == 0
    publisher.deliver("a-list", "withdrawn", ["e1"], 1)
    publisher.deliver("a-list", "withdrawn", ["e2"], 1)
    assert publisher.depth("a-list", "withdrawn") == 2
    publisher.fan_out("given", ["e1"])
    assert publisher.fan_out_depth("given") == 1
    received(app, "fan_out.given")
    received(app, "deliver.a-list.withdrawn")


def test_a_dead_broker_costs_a_log_line_and_then_nothing(caplog):
    """The caller never sees an error, and for two seconds nothing is tried at all."""
    settings = load_settings({"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0"})
    now = [100.0]
    publisher = CeleryPublisher(create_app(settings, []), publish_options(settings), pause_seconds=2.0, clock=lambda: now[0])
    begin = time.monotonic()
    publisher.fan_out("given", ["e1"])
    publisher.fan_out("given", ["e2"])
    assert time.monotonic() - begin < 5
    assert [record.message for record in caplog.records] == ["hint_not_sent"]
    now[0] += 2.1
    publisher.fan_out("given", ["e3"])
    assert [(record.message, record.queue) for record in caplog.records] == [("hint_not_sent", "fan_out.given")] * 2
    assert publisher.depth("x", "given") == publisher.fan_out_depth("given") == 0


def test_a_dead_letter_shows_as_a_failure_without_anything_personal():
    """The text has destination, reason and count."""
    with pytest.raises(DeadLettered, match=r"^a-list: http_400 \(2\)$"):
        dead_letter("a-list", "http_400", ["e1.a-list", "e2.a-list"], added_by_a_later_version=1)
