"""What all tests share: one Valkey for the whole run, emptied for each test that asks for it, and one RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings

from tests.support.rabbitmq import RabbitNode, rabbitmq_node
from tests.support.servers import valkey_server

settings.register_profile("consent", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("consent")


NO_SECOND_TRY = frozenset({"test_interleavings", "test_secrets_everywhere", "test_secrets_stay"})
"""Modules which, like all of tests/chaos, look for what may show once in a hundred runs."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have these never tried again, whatever `--reruns` says: one failure is a failure."""
    if item.path.stem in NO_SECOND_TRY or item.path.parent.name == "chaos":
        item.add_marker(pytest.mark.flaky(reruns=0))


@pytest.fixture(autouse=True)
def own_state_directory(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has seen of a ledger is nothing to the next one, which works with another; nothing is written into the checkout."""
    monkeypatch.setenv("CONSENT_STATE_DIR", str(tmp_path_factory.getbasetemp() / f"state-{abs(hash(request.node.nodeid))}"))


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with valkey_server() as url:
        yield url


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connected:
        connected.flushall()
        yield connected


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitNode]:
    """One RabbitMQ for the whole run; starting one takes several seconds."""
    with rabbitmq_node() as node:
        yield node
