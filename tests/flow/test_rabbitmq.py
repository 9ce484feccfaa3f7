"""RabbitMQ as the broker: hints are confirmed or given up at once, and every process finds its way back to a node that was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import requests

from config.celery import publish_options, queue_arguments
from config.settings import load_settings
from tests.flow.conftest import ROUTING
from tests.support.rabbitmq import RabbitNode
from tests.support.stack import Stack, running_stack, wait_until
from tests.support.world import SHORT
from workers.app import create_app
from workers.queues import CeleryPublisher

SETTLED_SECONDS = 5.0
"""RabbitMQ 3.10 forgets the log of a quorum queue that was made right before a power cut, and then answers nothing about that queue; see docs/deployment.md."""


@pytest.fixture
def publisher(rabbitmq: RabbitNode) -> Iterator[CeleryPublisher]:
    settings = load_settings({"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_BROKER_URL": rabbitmq.url})
    publisher = CeleryPublisher(create_app(settings, ["alone"]), publish_options(settings), pause_seconds=0.1, queue_arguments=queue_arguments(settings))
    yield publisher
    publisher.close()


def test_a_hint_is_confirmed_or_given_up_within_a_second(publisher: CeleryPublisher, rabbitmq: RabbitNode, caplog: pytest.LogCaptureFixture) -> None:
    """A queue that nobody declared is empty, depth counts what waits, and a node that stands still costs a second and a log line."""
    assert publisher.depth("alone", "given") == 0
    for _ in range(3):
        publisher.deliver("alone", "given", ["e1"], 1)
    assert publisher.depth("alone", "given") == 3
    rabbitmq.freeze()
    begun = time.monotonic()
    try:
        publisher.deliver("alone", "given", ["e2"], 1)
        assert 0.5 < time.monotonic() - begun < 2.5
        time.sleep(0.2)
        assert publisher.depth("alone", "given") == 0
    finally:
        rabbitmq.thaw()
    assert [record.message for record in caplog.records] == ["hint_not_sent", "queue_depth_unknown"]
    wait_until(lambda: publisher.depth("alone", "given") >= 3, 10)


@pytest.fixture
def stack(rabbitmq: RabbitNode) -> Iterator[Stack]:
    environment = {**SHORT, "CONSENT_BROKER_URL": rabbitmq.url, "CONSENT_FLOWER_BROKER_API": rabbitmq.api_url}
    with running_stack(routing=ROUTING, environment=environment) as relay:
        yield relay


@pytest.mark.timeout(150)
def test_all_processes_find_back_to_a_node_that_was_killed(stack: Stack, rabbitmq: RabbitNode) -> None:
    """With it dies a worker. What is accepted while it is away is told once it is back; beat, workers and ingest go on by themselves, Flower shows the queues."""
    begun = time.monotonic()
    first = stack.accept("given", email="ana@example.org")
    stack.wait_complete([first])
    wait_until(lambda: time.monotonic() - begun > SETTLED_SECONDS, 2 * SETTLED_SECONDS)
    os.kill(stack.pids("worker")[0], signal.SIGKILL)
    rabbitmq.kill()
    second = stack.accept("withdrawn", minute=1, email="ana@example.org")
    rabbitmq.start()
    third = stack.accept("given", email="ben@example.org")
    stack.wait_complete([second, third], 60)
    assert {told["state"] for key, told in stack.sandbox("webhook")["contacts"].items() if "ana@" in key} == {"withdrawn"}
    wait_until(lambda: stack.metric("consent_last_beat_seconds") < 5, 20)
    assert "ok   broker: answers" in stack.consent("doctor").stdout

    def flower(path: str) -> requests.Response:
        return stack.session.get(stack.flower_url + path, auth=stack.flower_login, timeout=20)

    def lengths() -> dict[str, int | None]:
        """What Flower shows of the queues; the management API knows their numbers some seconds after the queues themselves."""
        flower("/api/workers?refresh=1")
        return {queue["name"]: queue.get("messages") for queue in flower("/api/queues/length").json()["active_queues"]}

    wait_until(
        lambda: all(lengths().get(name) is not None for name in ("control", "fan_out.withdrawn", "deliver.crm-webhook.given")), 30, lambda: str(lengths())
    )
    arguments = stack.session.get(rabbitmq.api_url + "queues/%2F/control", timeout=10).json()["arguments"]
    assert arguments == {"x-queue-type": "quorum", "x-delivery-limit": 20}
