"""A server that tests kill, empty, fill, slow down and cut off: a process of the test, and where that is wanted behind a network that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.support.stack import wait_until
from workers.embedded import free_port, server_binary

SAFE = {"maxmemory": "0", "maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


class Server:
    """A Valkey that can be killed and started again on the same port, with or without its files; `namespace` runs it behind a wire of its own."""

    def __init__(self, *, host: str = "127.0.0.1", namespace: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="consent-fault-"))
        self.host, self.port, self._namespace = host, free_port(), namespace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        """Run it and return when it answers, its file read."""
        settings = {
            "port": str(self.port),
            "bind": self.host,
            "dir": str(self.folder),
            "save": "",
            "enable-debug-command": "yes",
            "protected-mode": "no",
            **SAFE,
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        inside = ["ip", "netns", "exec", self._namespace] if self._namespace else []
        self._process = subprocess.Popen([*inside, server_binary(), *arguments], stdout=subprocess.DEVNULL)
        with self.client() as client:
            wait_until(lambda: _answers(client), 30)

    def kill(self) -> None:
        """End it as a power cut would, but for the disk."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def forget(self) -> None:
        """Lose its files."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def client(self, database: int = 0) -> redis.Redis:
        return redis.Redis(host=self.host, port=self.port, db=database, socket_timeout=30)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


@contextlib.contextmanager
def faulty_server(**where: str) -> Iterator[Server]:
    """A server of the test's own, gone with it."""
    server = Server(**where)
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Wire:
    """A network namespace with a server's address in it, and the one cable that leads there. Needs root and `ip` (iproute2)."""

    def __init__(self) -> None:
        self.namespace = f"cr-{os.getpid()}-{time.time_ns() % 100_000}"
        number = os.getpid() % 250
        self.outside, self.inside = f"10.213.{number}.1", f"10.213.{number}.2"
        self._link = f"crv{time.time_ns() % 10_000_000}"

    @staticmethod
    def why_not() -> str:
        """Why there can be none here; empty if there can."""
        if os.geteuid() != 0:
            return "cutting a network link needs root (network namespaces)"
        if shutil.which("ip") is None:
            return "cutting a network link needs the command ip (iproute2)"
        probe = f"cr-probe-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
        return "" if made.returncode == 0 else "network namespaces are not allowed here"

    def lay(self) -> None:
        peer, inside = f"{self._link}p"[:15], ["netns", "exec", self.namespace, "ip"]
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", peer, "netns", self.namespace)
        _ip("addr", "add", f"{self.outside}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip(*inside, "addr", "add", f"{self.inside}/30", "dev", peer)
        _ip(*inside, "link", "set", peer, "up")
        _ip(*inside, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Whatever is sent from now on vanishes: nobody is refused, nobody hears."""
        _ip("netns", "exec", self.namespace, "ip", "route", "add", "blackhole", f"{self.outside}/32")

    def mend(self) -> None:
        _ip("netns", "exec", self.namespace, "ip", "route", "del", "blackhole", f"{self.outside}/32")

    def pull(self) -> None:
        """Take the link down at the server's end."""
        _ip("netns", "exec", self.namespace, "ip", "link", "set", f"{self._link}p"[:15], "down")

    def plug(self) -> None:
        _ip("netns", "exec", self.namespace, "ip", "link", "set", f"{self._link}p"[:15], "up")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._link], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True, timeout=10)


@contextlib.contextmanager
def laid_wire() -> Iterator[Wire]:
    wire = Wire()
    try:
        wire.lay()
        yield wire
    finally:
        wire.remove()
