"""Which servers a ledger is on, and how many replicas of each must have a write before anybody builds on it: one server, or one behind Sentinel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import redis

from pipeline.errors import ConfigurationError

Command = tuple[Any, ...]
LOOK_SECONDS = 1.0
"""How long a count of replicas is trusted; one that joins meanwhile copies everything first, and none that is there is forgotten."""


class Nodes(Protocol):
    """The servers of one ledger; safe to share between threads. Whatever is asked may raise an error of redis-py where a server is away."""

    @property
    def is_spread(self) -> bool:
        """Whether keys lie on several servers, so that commands keep their order for keys of one slot only."""

    @property
    def replicates(self) -> bool:
        """Whether a replica may take the place of a primary."""

    def primaries(self) -> Sequence[Any]:
        """A client of each server that takes writes."""

    def split(self, commands: Sequence[Command]) -> list[tuple[Any, list[int]]]:
        """Which client gets which of the commands, by their places."""

    def replicas_wanted(self, primary: Any) -> int:
        """How many replicas of a primary must have a write: all that could take its place, and never fewer than were asked for."""

    def note_moved(self) -> None:
        """An answer has shown that another server is the right one by now."""

    def replicas(self) -> Sequence[Any]:
        """A client of each replica that can be reached."""

    def close(self) -> None:
        """Close all connections."""


class OneServer:
    """One server without replicas, or whose replicas nobody promotes."""

    is_spread = False
    replicates = False

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client

    def primaries(self) -> Sequence[Any]:
        return [self._client]

    def split(self, commands: Sequence[Command]) -> list[tuple[Any, list[int]]]:
        return [(self._client, list(range(len(commands))))]

    def replicas_wanted(self, primary: Any) -> int:
        del primary
        return 0

    def note_moved(self) -> None:
        """There is no other."""

    def replicas(self) -> Sequence[Any]:
        return []

    def close(self) -> None:
        self._client.close()


class BehindSentinel(OneServer):
    """The primary of a service that Sentinel watches. Whoever is promoted must have every accepted event, so all replicas that may be are waited for.

    Those are the live ones that a Sentinel knows, and beside them the ones connected to the primary: WAIT counts answers and does not say whose.
    """

    replicates = True

    def __init__(self, client: redis.Redis, sentinels: Sequence[redis.Redis], service: str, *, least: int, connect: Callable[[str, int], redis.Redis]) -> None:
        super().__init__(client)
        self._sentinels: Sequence[Any] = sentinels
        self._service, self._least, self._connect = service, least, connect
        self._lock = threading.Lock()
        self._replicas: dict[tuple[str, int], Any] = {}
        self._looked_at, self._wanted = float("-inf"), least

    def replicas_wanted(self, primary: Any) -> int:
        with self._lock:
            if time.monotonic() - self._looked_at < LOOK_SECONDS:
                return self._wanted
        known = self._known()
        connected = _connected(primary.info("replication"))
        with self._lock:
            if known is not None:  # without any Sentinel nobody is promoted, and the last count stands
                self._wanted = max(self._least, len(_live(known) | connected))
            self._wanted = max(self._wanted, len(connected))
            self._looked_at = time.monotonic()
            return self._wanted

    def replicas(self) -> Sequence[Any]:
        found = sorted(_live(self._known() or []))
        with self._lock:
            for address in found:
                if address not in self._replicas:
                    self._replicas[address] = self._connect(*address)
            return [self._replicas[address] for address in found]

    def close(self) -> None:
        super().close()
        for client in (*self._replicas.values(), *self._sentinels):
            client.close()

    def refuse_unsafe(self) -> None:
        """Raise ConfigurationError where no replica could take over what was accepted."""
        known = self._known()
        if known is None:
            raise ConfigurationError("CONSENT_REDIS_URL: no Sentinel of those named answers for that service: check hosts, ports and the service's name")
        promotable = [each for each in known if int(each.get("slave-priority", 100)) > 0]
        if len(promotable) < self._least:
            raise ConfigurationError(
                f"Sentinel knows {len(promotable)} replicas that it may promote, ledger.min_replicas asks for {self._least}: "
                "without a replica that has an accepted event its loss with the primary is certain; add a replica, or use redis://"
            )

    def _known(self) -> list[Mapping[str, Any]] | None:
        """The replicas as the first Sentinel that answers knows them, None if none does."""
        for sentinel in self._sentinels:
            try:
                return list(sentinel.sentinel_slaves(self._service))
            except (redis.RedisError, OSError):
                continue
        return None


def _live(known: Sequence[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """The addresses of those that Sentinel does not take for dead."""
    return {(str(each["ip"]), int(each["port"])) for each in known if not (each["is_sdown"] or each["is_odown"])}


def _connected(replication: Mapping[str, Any]) -> set[tuple[str, int]]:
    """The addresses of a primary's replicas as it says them itself."""
    found = [value for name, value in replication.items() if name.startswith("slave") and isinstance(value, dict)]
    return {(str(each["ip"]), int(each["port"])) for each in found}
