"""A Valkey cluster for tests: primaries, with a replica each if wanted, on free ports of loopback."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.sentinel import NOBODY, Login, Server, until
from workers.embedded import free_port

SLOTS = 16_384
NODE_TIMEOUT_MS = 2000
PRIMARIES = 3


class ClusterSet:
    """Three primaries that share the slots; the servers after them are their replicas."""

    def __init__(self, folder: Path, *, replicas: bool, login: Login = NOBODY) -> None:
        self._bus_ports = [free_port() for _ in range(6 if replicas else 3)]
        self.servers = [
            Server(
                folder / f"node-{number}",
                ["cluster-enabled yes", "cluster-config-file nodes.conf", f"cluster-node-timeout {NODE_TIMEOUT_MS}", f"cluster-port {port}"],
                login=login,
            )
            for number, port in enumerate(self._bus_ports)
        ]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{server.port}' for server in self.servers[:3])}"

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for server, bus_port in zip(self.servers[1:], self._bus_ports[1:], strict=True):
            self.servers[0].client.execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus_port)
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for number in range(3):
            self.servers[number].client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        until(lambda: all(server.client.execute_command("CLUSTER INFO")["cluster_known_nodes"] == str(len(self.servers)) for server in self.servers))
        for number, replica in enumerate(self.servers[3:]):
            primary_id = self.servers[number].client.execute_command("CLUSTER", "MYID")
            until(lambda replica=replica, primary_id=primary_id: _follows(replica, primary_id))
        until(self.is_well)

    def is_well(self, *, but: Server | None = None) -> bool:
        return all(server.client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for server in self.servers if server is not but)

    def primaries(self) -> list[Server]:
        """Those that answer and say that they take writes."""
        return [server for server in self.servers if server.answers() and server.client.info("replication")["role"] == "master"]

    def close(self) -> None:
        for server in self.servers:
            server.close()


def _follows(replica: Server, primary_id: bytes) -> bool:
    with contextlib.suppress(Exception):  # until it has heard of the primary
        replica.client.execute_command("CLUSTER REPLICATE", primary_id)
    return bool(replica.client.info("replication").get("master_link_status") == "up")


@contextlib.contextmanager
def valkey_cluster(*, replicas: bool = False, login: Login = NOBODY) -> Iterator[ClusterSet]:
    """Run a cluster; nothing of it stays."""
    folder = Path(tempfile.mkdtemp(prefix="consent-cluster-"))
    servers = ClusterSet(folder, replicas=replicas, login=login)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()
        shutil.rmtree(folder, ignore_errors=True)
