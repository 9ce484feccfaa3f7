"""Redis as Celery's broker. kombu by itself makes a client for each message that it sends, which takes longer than sending it, and takes any number of messages of one kind."""

from __future__ import annotations

import time
from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from pipeline.ledger.pool import KeepingPool
from workers.queues import fan_out_queue

MOST_PLANNING: Final = 2
"""Messages that name many events to plan, of the lane of `given`, at which one process works at once: such work is the interpreter's, which more threads do no sooner."""
MANY_BYTES: Final = 2000
"""From this size of a message on, about sixty events, it counts as such; what is planned in a moment has no limit."""
LOOK_AGAIN_SECONDS: Final = 0.05
"""How long a worker waits for other messages before it looks whether it may take one of those that it left: to wait for other queues cannot be changed once it has begun."""
FORGOTTEN_SECONDS: Final = 120.0
"""After this time a message counts no longer, should its end not have been noticed: two of them would shut the queue for ever."""
LIMITED_QUEUE: Final = fan_out_queue("given")


class CountingQoS(virtual.QoS):  # type: ignore[misc]
    """kombu's list of what was taken and not acknowledged, which is done when its task ends; counts those that have much to plan."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._planning: dict[str, float] = {}

    @property
    def planning(self) -> int:
        """How many there are."""
        now = time.monotonic()
        return sum(now - taken_at < FORGOTTEN_SECONDS for taken_at in list(self._planning.values()))

    def append(self, message: Any, delivery_tag: str) -> None:
        if message.delivery_info.get("routing_key") == LIMITED_QUEUE and len(message.body) >= MANY_BYTES:
            self._planning[delivery_tag] = time.monotonic()
        super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        self._planning.pop(delivery_tag, None)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._planning.pop(delivery_tag, None)
        super().reject(delivery_tag, requeue)


class RoomForWithdrawals(redis.Channel):  # type: ignore[misc]
    """A channel that leaves messages to plan what was given where they are while this process is at some: they would take the threads that withdrawals need which come later."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.QoS = CountingQoS  # in place of the one for `ack_emulation: False`, which is what our settings say

    def _brpop_start(self, timeout: float | None = None) -> None:
        is_full = self.qos.planning >= MOST_PLANNING
        self._queue_cycle.left = {LIMITED_QUEUE} if is_full else set()
        super()._brpop_start(LOOK_AGAIN_SECONDS if is_full else timeout)


class KeepingChannel(RoomForWithdrawals):
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


class SentinelChannel(RoomForWithdrawals, redis.SentinelChannel):  # type: ignore[misc]
    """kombu's channel for Sentinel, with room for withdrawals."""


class SentinelTransport(redis.SentinelTransport):  # type: ignore[misc]
    """kombu's transport for `sentinel://`."""

    Channel = SentinelChannel


def use_our_channels() -> None:
    """Have kombu use them."""
    for scheme, transport in {"redis": KeepingTransport, "rediss": KeepingTransport, "sentinel": SentinelTransport}.items():
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{transport.__name__}"
