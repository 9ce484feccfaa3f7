"""Redis as Celery's broker. kombu by itself makes a client for each message that it sends, which takes longer than sending it."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from pipeline.ledger.pool import KeepingPool


class KeepingChannel(redis.Channel):  # type: ignore[misc]
    """A channel that keeps its client for what it sends, as long as the connections are those that the client was made for."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _get_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._get_pool(asynchronous=asynchronous)
        return pool if asynchronous else KeepingPool(pool.connection_class, pool.max_connections, **pool.connection_kwargs)


class KeepingTransport(redis.Transport):  # type: ignore[misc]
    """kombu's transport for `redis://` and `rediss://`."""

    Channel = KeepingChannel


def keep_clients() -> None:
    """Have kombu use it."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{KeepingTransport.__name__}"
