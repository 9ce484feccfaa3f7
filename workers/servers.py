"""Connects to the servers that CONSENT_REDIS_URL names."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from config.ledger_url import Address
from config.settings import Settings, SettingsError
from pipeline.ledger.cluster import Cluster
from pipeline.ledger.nodes import BehindSentinel, Nodes, OneServer
from pipeline.ledger.pool import KeepingPool

SENTINEL_SECONDS = 0.5
"""How long one Sentinel is waited for before the next is asked."""


def ledger_servers(settings: Settings) -> Nodes:
    """The ledger's servers. Raises SettingsError for a URL that names none, ConfigurationError where they cannot keep what is promised."""
    address = settings.ledger_address()
    if address.kind == "one":
        return OneServer(_one(address.url))
    if address.kind == "cluster":
        return _cluster(address, settings.ledger.min_replicas)
    return _behind_sentinel(address, settings.ledger.min_replicas)


def whole(servers: Nodes) -> Any:
    """A client of the one server that has the whole ledger. Raises SettingsError where it lies on several."""
    if servers.is_spread:
        raise SettingsError("CONSENT_REDIS_URL: this cannot be done with a cluster, whose nodes are not of one moment: keep copies of each node's own files")
    return servers.primaries()[0]


def _options(connections: int = 128) -> dict[str, Any]:
    """A client that never repeats a write by itself: the ledger decides what may be repeated."""
    return {
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 15,
        "max_connections": connections,
        "retry": Retry(NoBackoff(), 0),
    }


def _one(url: str) -> redis.Redis:
    try:
        return redis.Redis.from_pool(KeepingPool.from_url(url, **_options()))
    except ValueError:
        # Its text may quote the URL.
        raise SettingsError("CONSENT_REDIS_URL: an option after the ? cannot be read; redis://127.0.0.1:6379/0 would be a good URL") from None


def _cluster(address: Address, least: int) -> Cluster:
    def connect(host: str, port: int) -> redis.Redis:
        return redis.Redis(host=host, port=port, username=address.username, password=address.password, **address.tls_settings(), **_options())

    servers = Cluster(address.hosts, connect, least=least)
    servers.refuse_unsafe()
    return servers


def _behind_sentinel(address: Address, least: int) -> BehindSentinel:
    short = {"socket_timeout": SENTINEL_SECONDS, "socket_connect_timeout": SENTINEL_SECONDS, "retry": Retry(NoBackoff(), 0)}
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        list(address.hosts), sentinel_kwargs={**short, **address.sentinel_login(), **address.tls_settings()}
    )
    login: dict[str, Any] = {"username": address.username, "password": address.password, "db": address.database, **address.tls_settings()}
    client = sentinel.master_for(address.service, **login, **_options())

    def connect(host: str, port: int) -> redis.Redis:
        return redis.Redis(host=host, port=port, **login, **_options(2))

    servers = BehindSentinel(client, sentinel.sentinels, address.service, least=least, connect=connect)
    servers.refuse_unsafe()
    return servers
