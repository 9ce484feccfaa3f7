"""Which servers a ledger is on, and how many replicas of each must have a write before anybody builds on it: one server, or one behind Sentinel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import redis

from pipeline.errors import ConfigurationError

Command = tuple[Any, ...]
AWAY_SECONDS = 5.0
"""How long a Sentinel that did not answer is not asked again."""
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

    def refuse_unsafe(self) -> None:
        """Raise ConfigurationError where these servers could lose what they confirm, or disagree about the time."""

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

    def refuse_unsafe(self) -> None:
        """One server agrees with itself; how it keeps things is looked at with its settings."""

    def note_moved(self) -> None:
        """There is no other."""

    def replicas(self) -> Sequence[Any]:
        return []

    def close(self) -> None:
        self._client.close()


class BehindSentinel(OneServer):
    """The primary of a service that Sentinel watches. Whoever is promoted must have every accepted event, so all replicas that may be are waited for.

    Those are the ones that any Sentinel of a majority takes for live, and beside them the ones connected to the primary: WAIT counts answers and does not say whose.
    """

    replicates = True

    def __init__(self, client: redis.Redis, sentinels: Sequence[redis.Redis], service: str, *, least: int, connect: Callable[[str, int], redis.Redis]) -> None:
        super().__init__(client)
        self._sentinels: Sequence[Any] = sentinels
        self._service, self._least, self._connect = service, least, connect
        self._lock = threading.Lock()
        self._replicas: dict[tuple[str, int], Any] = {}
        self._away_until: dict[Any, float] = {}
        self._looked_at, self._wanted = float("-inf"), least

    def replicas_wanted(self, primary: Any) -> int:
        with self._lock:
            if time.monotonic() - self._looked_at < LOOK_SECONDS:
                return self._wanted
        answers = self._asked()
        connected = _connected(primary.info("replication"))
        with self._lock:
            # A minority promotes nobody, but it may be the side that is cut off: what it takes for dead the others may be promoting at this moment.
            may_lower = 2 * len(answers) > len(self._sentinels)
            counted = {address for known in answers for address in (_live(known) if may_lower else _all(known))} | connected
            self._wanted = max(self._least if may_lower else self._wanted, len(counted))
            self._looked_at = time.monotonic()
            return self._wanted

    def replicas(self) -> Sequence[Any]:
        found = sorted({address for known in self._asked() for address in _live(known)})
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
        answers = self._asked()
        if not answers:
            raise ConfigurationError(
                "CONSENT_REDIS_URL: no Sentinel of those named answers for that service: check hosts, ports, the service's name and the Sentinels' own login"
            )
        promotable = {_address(each) for known in answers for each in known if int(each.get("slave-priority", 100)) > 0}
        if len(promotable) < self._least:
            raise ConfigurationError(
                f"Sentinel knows {len(promotable)} replicas that it may promote, ledger.min_replicas asks for {self._least}: "
                "without a replica that has an accepted event its loss with the primary is certain; add a replica, or use redis://"
            )

    def _asked(self) -> list[list[Mapping[str, Any]]]:
        """The replicas as each Sentinel that answers knows them; one that has not answered is left alone for some seconds, as each accept would wait for it."""
        found = []
        for sentinel in self._sentinels:
            if time.monotonic() < self._away_until.get(sentinel, 0.0):
                continue
            try:
                found.append(list(sentinel.sentinel_slaves(self._service)))
            except (redis.RedisError, OSError):
                self._away_until[sentinel] = time.monotonic() + AWAY_SECONDS
        return found


def _live(known: Sequence[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """The addresses of those that a Sentinel does not take for dead."""
    return {_address(each) for each in known if not (each["is_sdown"] or each["is_odown"])}


def _all(known: Sequence[Mapping[str, Any]]) -> set[tuple[str, int]]:
    return {_address(each) for each in known}


def _address(replica: Mapping[str, Any]) -> tuple[str, int]:
    return str(replica["ip"]), int(replica["port"])


def _connected(replication: Mapping[str, Any]) -> set[tuple[str, int]]:
    """The addresses of a primary's replicas as it says them itself."""
    found = [value for name, value in replication.items() if name.startswith("slave") and isinstance(value, dict)]
    return {(str(each["ip"]), int(each["port"])) for each in found}
