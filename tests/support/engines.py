"""The servers that a relay may stand on in tests: every combination of broker and ledger, with a way to take a primary away in mid-run."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.cluster import PRIMARIES, valkey_cluster
from tests.support.rabbitmq import RabbitNode
from tests.support.sentinel import NOBODY, Login, Server, behind_sentinel, until

AWAY_SECONDS = 1.0
"""How long a server stays away that nobody can take the place of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Running servers: what the relay's environment has to say of them, and how a primary or the broker is taken away; both return once it is back or replaced.

    `take_away_broker` is None where the broker is the ledger's own server.
    """

    environment: Mapping[str, str]
    take_away_primary: Callable[[], None]
    take_away_broker: Callable[[], None] | None = None


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
    """The ledger on three nodes without replicas: one of them after the other is killed and started again."""
    with valkey_cluster() as servers:
        turns = itertools.cycle(servers.servers)
        yield Engine(environment={"CONSENT_REDIS_URL": servers.url}, take_away_primary=lambda: _restart(next(turns)))


@contextmanager
def cluster_with_replicas() -> Iterator[Engine]:
    """The ledger on three nodes with a replica each: one is killed, and comes back as the replica of the one that took its place."""
    with valkey_cluster(replicas=True) as servers:

        def take_away() -> None:
            killed = servers.primaries()[0]
            killed.kill()
            until(lambda: len(servers.primaries()) == PRIMARIES and servers.is_well(but=killed))
            killed.start()
            until(lambda: killed not in servers.primaries() and servers.is_well())
            servers.servers.append(servers.servers.pop(servers.servers.index(killed)))  # another one the next time

        yield Engine(environment={"CONSENT_REDIS_URL": servers.url}, take_away_primary=take_away)


LEDGERS = {"one": one_server, "sentinel": sentinel, "cluster": cluster, "cluster-with-replicas": cluster_with_replicas}
BROKERS = ("valkey", "rabbitmq")


@contextmanager
def engine(broker: str, ledger: str, rabbitmq: Callable[[], RabbitNode]) -> Iterator[Engine]:
    """The servers of one combination; a broker on Valkey is the ledger's next database, and a server of its own beside a cluster."""
    with ExitStack() as stack:
        own: dict[str, str] = {}
        beside: Server | RabbitNode | None = None
        if broker == "rabbitmq":
            node = rabbitmq()
            own = {"CONSENT_BROKER_URL": node.url, "CONSENT_FLOWER_BROKER_API": node.api_url}
            beside = node
        elif ledger.startswith("cluster"):
            server = stack.enter_context(single())
            own = {"CONSENT_BROKER_URL": url_of(server)}
            beside = server
        found = stack.enter_context(LEDGERS[ledger]())
        yield Engine(environment={**found.environment, **own}, take_away_primary=found.take_away_primary, take_away_broker=beside and partial(_restart, beside))


@contextmanager
def single(login: Login = NOBODY) -> Iterator[Server]:
    """One server of its own; nothing of it stays."""
    folder = Path(tempfile.mkdtemp(prefix="consent-engine-"))
    server = Server(folder / "server", login=login)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def url_of(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def _restart(server: Server | RabbitNode) -> None:
    server.kill()
    time.sleep(AWAY_SECONDS)
    server.start()
