"""The servers that a relay may stand on in tests: every combination of broker and ledger, with a way to take a primary away in mid-run."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster import valkey_cluster
from tests.support.rabbitmq import RabbitNode
from tests.support.sentinel import Server, behind_sentinel

AWAY_SECONDS = 1.0
"""How long a server stays away that nobody can take the place of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Running servers: what the relay's environment has to say of them, and `take_away_primary`, which returns once the ledger can be written again."""

    environment: Mapping[str, str]
    take_away_primary: Callable[[], None]


@contextmanager
def one_server() -> Iterator[Engine]:
    """The ledger on one server, which is killed and started again."""
    with single() as server:
        yield Engine(environment={"CONSENT_REDIS_URL": url_of(server)}, take_away_primary=lambda: _restart(server))


@contextmanager
def sentinel() -> Iterator[Engine]:
    """The ledger behind Sentinel: its primary is killed for good, and comes back as a replica of the one that took its place."""
    with behind_sentinel() as servers:
        yield Engine(environment={"CONSENT_REDIS_URL": servers.url}, take_away_primary=lambda: servers.kill_primary().start())


@contextmanager
def cluster() -> Iterator[Engine]:
    """The ledger on three nodes without replicas: one is killed and started again."""
    with valkey_cluster() as servers:
        yield Engine(environment={"CONSENT_REDIS_URL": servers.url}, take_away_primary=lambda: _restart(servers.servers[1]))


@contextmanager
def cluster_with_replicas() -> Iterator[Engine]:
    """The ledger on three nodes with a replica each: one is killed, and comes back as the replica of the one that took its place."""
    with valkey_cluster(replicas=True) as servers:

        def take_away() -> None:
            killed = servers.servers[0]
            killed.kill()
            time.sleep(AWAY_SECONDS + servers.failover_seconds)
            killed.start()
            servers.servers.append(servers.servers.pop(0))

        yield Engine(environment={"CONSENT_REDIS_URL": servers.url}, take_away_primary=take_away)


LEDGERS = {"one": one_server, "sentinel": sentinel, "cluster": cluster, "cluster-with-replicas": cluster_with_replicas}
BROKERS = ("valkey", "rabbitmq")


@contextmanager
def engine(broker: str, ledger: str, rabbitmq: Callable[[], RabbitNode]) -> Iterator[Engine]:
    """The servers of one combination; a broker on Valkey is the ledger's next database, and a server of its own beside a cluster."""
    with ExitStack() as stack:
        own: dict[str, str] = {}
        if broker == "rabbitmq":
            node = rabbitmq()
            own = {"CONSENT_BROKER_URL": node.url, "CONSENT_FLOWER_BROKER_API": node.api_url}
        elif ledger.startswith("cluster"):
            own = {"CONSENT_BROKER_URL": url_of(stack.enter_context(single()))}
        found = stack.enter_context(LEDGERS[ledger]())
        yield Engine(environment={**found.environment, **own}, take_away_primary=found.take_away_primary)


@contextmanager
def single() -> Iterator[Server]:
    """One server of its own; nothing of it stays."""
    folder = Path(tempfile.mkdtemp(prefix="consent-engine-"))
    server = Server(folder / "server")
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def url_of(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def _restart(server: Server) -> None:
    server.kill()
    time.sleep(AWAY_SECONDS)
    server.start()
