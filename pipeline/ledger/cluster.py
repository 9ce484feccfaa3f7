"""A Redis or Valkey cluster: which node has which slot, and which replicas a node's writes are waited for at. It is asked anew once a second, and whenever an answer shows a change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis import exceptions
from redis.crc import key_slot

from pipeline.errors import ConfigurationError
from pipeline.ledger.keys import META
from pipeline.ledger.nodes import LOOK_SECONDS, Command

Host = tuple[str, int]
MOST_SKEW_SECONDS = 3.0
"""Of which one is that the clocks are read in whole seconds."""
_GONE = frozenset({"fail", "noaddr", "handshake"})
"""Flags of a node that the cluster has given up, or does not know yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who serves what: `owners` has for each slot its primary or None, `live` for each primary how many of its replicas are not given up."""

    owners: Sequence[Host | None]
    live: Mapping[Host, int]
    replica_hosts: Sequence[Host]
    has_replicas: bool

    @property
    def primaries(self) -> list[Host]:
        return sorted({host for host in self.owners if host is not None})


class Cluster:
    """The nodes of a cluster; safe to share between threads. Commands are sent to the node that has their slot, in their order for each node."""

    is_spread = True

    def __init__(self, seeds: Sequence[Host], connect: Callable[[str, int], redis.Redis], *, least: int) -> None:
        self._seeds, self._connect, self._least = list(seeds), connect, least
        self._lock = threading.RLock()
        self._clients: dict[Host, Any] = {}
        self._layout: Layout | None = None
        self._looked_at = float("-inf")

    @property
    def replicates(self) -> bool:
        return self._known().has_replicas

    def primaries(self) -> Sequence[Any]:
        return [self._client(host) for host in self._known().primaries]

    def replicas(self) -> Sequence[Any]:
        return [self._client(host) for host in self._known().replica_hosts]

    def split(self, commands: Sequence[Command]) -> list[tuple[Any, list[int]]]:
        owners = self._known().owners
        places: dict[Host, list[int]] = {}
        for place, command in enumerate(commands):
            owner = owners[slot_of(command)]
            if owner is None:
                raise exceptions.ClusterDownError("a slot has no primary")
            places.setdefault(owner, []).append(place)
        return [(self._client(host), found) for host, found in places.items()]

    def refuse_unsafe(self) -> None:
        """Raise ConfigurationError where the nodes' clocks differ: each times the waits of its own slots, and what is written down comes from one of them.

        Of a node that is away whoever needs it is told.
        """
        try:
            seconds = [(time.monotonic(), primary.time()[0]) for primary in self.primaries()]
        except (redis.RedisError, OSError):
            return
        ahead = [said - at for at, said in seconds]
        if max(ahead) - min(ahead) > MOST_SKEW_SECONDS:
            raise ConfigurationError(f"the clocks of the cluster's nodes are {max(ahead) - min(ahead):.0f} seconds apart: keep them together (NTP)")

    def replicas_wanted(self, primary: Any) -> int:
        """Without any replica in the cluster nobody can be promoted, and a node that is restarted has everything on its disk."""
        layout = self._known()
        host = next((host for host, client in self._clients.items() if client is primary), None)
        return max(self._least, layout.live.get(host, 0)) if layout.has_replicas and host else 0

    def note_moved(self) -> None:
        with self._lock:
            self._looked_at = float("-inf")

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _client(self, host: Host) -> Any:
        with self._lock:
            if host not in self._clients:
                self._clients[host] = self._connect(*host)
            return self._clients[host]

    def _known(self) -> Layout:
        with self._lock:
            if self._layout is None or time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._layout = self._asked()
                self._looked_at = time.monotonic()
            return self._layout

    def _asked(self) -> Layout:
        """What the first node says that answers and counts itself to a cluster that is well; else what the last one said."""
        known = [*(self._layout.primaries if self._layout else []), *self._seeds]
        failure: Exception = exceptions.ConnectionError("no node of the cluster answers")
        for host in dict.fromkeys(known):
            try:
                layout = read_layout(self._client(host).execute_command("CLUSTER", "NODES"), host)
            except (redis.RedisError, OSError) as error:
                failure = error
                continue
            if None not in layout.owners:
                return layout
            failure = exceptions.ClusterDownError("a slot has no primary")
        raise failure


def slot_of(command: Command) -> int:
    """The slot of a command's first key; one without keys goes where the ledger's identity is."""
    if command[0] in ("EVALSHA", "EVAL"):
        key = command[3] if int(command[2]) else META
    else:
        key = command[1] if len(command) > 1 and command[0] not in ("CONFIG GET", "INFO", "SCRIPT LOAD") else META
    return int(key_slot(key if isinstance(key, bytes) else str(key).encode()))


def read_layout(reply: Any, asked: Host) -> Layout:
    """The answer to CLUSTER NODES, however redis-py hands it on; a node that does not know its own address is the one that was asked."""
    owners: list[Host | None] = [None] * 16_384
    hosts: dict[str, Host] = {}
    primaries_of: dict[Host, str] = {}
    is_gone: dict[Host, bool] = {}
    for line in _lines(reply):
        node_id, address, flags, primary_id, *rest = line
        name = address.partition("@")[0]
        host, port = name.rpartition(":")[0], int(name.rpartition(":")[2])
        where = (host or asked[0], port)
        hosts[node_id], is_gone[where] = where, bool(_GONE & set(flags.split(",")))
        if "slave" in flags.split(","):
            primaries_of[where] = primary_id
            continue
        if is_gone[where]:
            continue
        for slots in rest[4:]:
            first, _, last = slots.partition("-")
            if not first.startswith("["):
                for slot in range(int(first), int(last or first) + 1):
                    owners[slot] = where
    live: dict[Host, int] = {}
    for replica, primary_id in primaries_of.items():
        if primary_id in hosts and not is_gone[replica]:
            live[hosts[primary_id]] = live.get(hosts[primary_id], 0) + 1
    return Layout(owners=owners, live=live, replica_hosts=[host for host in primaries_of if not is_gone[host]], has_replicas=bool(primaries_of))


def _lines(reply: Any) -> list[list[str]]:
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    return [line.split() for line in text.splitlines() if line.strip()]
