"""Hints over Redis: one client and one connection for all that a channel sends, and a broker that was restarted is found again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from config.settings import load_settings
from workers.app import create_app
from workers.queues import CeleryPublisher, fan_out_queue


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
