"""A real RabbitMQ for tests: a private node on free ports, with its own directories, cookie and port mapper, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import descendants
from workers.embedded import free_port

SCRIPTS = Path("/usr/lib/rabbitmq/bin")
"""Where Debian's package has the scripts that do not change to another user."""
START_SECONDS = 90.0
NODE = "consent@localhost"


class RabbitNode:
    """One node with its management API; `start` it, `kill` it without a word, and start it again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.distribution_port, self.api_port, self.mapper_port = (free_port() for _ in range(4))
        self._running: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = None
        (folder / "plugins").write_text("[rabbitmq_management].\n")
        (folder / "environment").touch()
        settings = {
            "listeners.tcp.local": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": self.api_port,
            "log.file.level": "error",
            "disk_free_limit.absolute": "50MB",
        }
        (folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(20))
        cookie.chmod(0o400)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def api_url(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self.api_port}/api/"

    def start(self) -> None:
        """Start the node and return when it accepts connections."""
        if self._mapper is None:
            self._mapper = subprocess.Popen(["epmd", "-port", str(self.mapper_port), "-address", "127.0.0.1"], stderr=subprocess.DEVNULL)
        with (self.folder / "output").open("ab") as output:
            self._running = subprocess.Popen([str(SCRIPTS / "rabbitmq-server")], env=self._environment(), stdout=output, stderr=output, start_new_session=True)
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._running.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < until, "RabbitMQ did not start"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut would: first the node, so that the script that started it takes note of its end."""
        if self._running is None:
            return
        for pid in descendants(self._running.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._running.wait(20)
        self._running = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()

    def _signal(self, number: int) -> None:
        if self._running is not None:
            os.killpg(self._running.pid, number)

    def _answers(self) -> bool:
        """Whether it greets: it listens before it can be worked with."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(1)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        own = {
            "HOME": folder,
            "ERL_EPMD_PORT": self.mapper_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self.distribution_port,
            "RABBITMQ_MNESIA_BASE": folder / "data",
            "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_CONFIG_FILE": folder / "rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": folder / "environment",
            "RABBITMQ_PID_FILE": folder / "pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return {**inherited, **{name: str(value) for name, value in own.items()}}


def needs_rabbitmq() -> None:
    """Skip the calling test where RabbitMQ is not installed; in CI it has to be."""
    if (SCRIPTS / "rabbitmq-server").exists() and shutil.which("epmd"):
        return
    reason = "RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def rabbitmq_node() -> Iterator[RabbitNode]:
    """Run a node; nothing of it stays."""
    needs_rabbitmq()
    folder = Path(tempfile.mkdtemp(prefix="consent-rabbitmq-"))
    node = RabbitNode(folder)
    try:
        node.start()
        yield node
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)
