"""`consent up`: everything on one machine, from the embedded server to Flower, under one supervisor."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from config.logging import setup_logging
from config.settings import Settings, SettingsError, check_invariants, load_settings
from workers.embedded import EmbeddedServer, free_port, is_free, server_environment
from workers.process import python
from workers.state import LEDGER_FILE, StateFolder
from workers.supervisor import Child, Service, Supervisor
from workers.wiring import Parts

logger = logging.getLogger(__name__)

INGEST, BEAT, WORKER, FLOWER, SANDBOX, SERVER = range(6)
"""Places in the order of stopping: first nothing comes in, then nothing is released, then work under way ends, the server last."""


class Relay:
    """All processes of one `consent up`; use it from the main thread."""

    def __init__(self, environment: Mapping[str, str], *, sandbox: bool) -> None:
        settings = load_settings(environment)
        check_invariants(settings)
        self.state = StateFolder(settings.state_path())
        self.state.lock()
        self.sandbox = sandbox
        self.environment = {
            "CONSENT_LEDGER_EXPECTED_ID": self.state.recall(LEDGER_FILE),
            **environment,
            "CONSENT_STATE_DIR": str(self.state.path.resolve()),
            **self._ports(settings),
            **self.state.secrets(environment),
        }
        if settings.evidence.enabled == "auto" and not settings.evidence.url:
            self.environment["CONSENT_EVIDENCE_ENABLED"] = "on"
        self.settings = load_settings(self.environment)
        self.supervisor = Supervisor(self.state.logs)
        self.stopping = False
        self.reloading = False
        self.parts = Parts(self.environment)  # a wrong routing file stops the start before anything runs

    @property
    def ingest_url(self) -> str:
        section = self.settings.ingest
        host = "127.0.0.1" if section.host in ("0.0.0.0", "::") else section.host  # noqa: S104 - compared, not bound
        return f"http://{host}:{section.port}"

    @property
    def flower_url(self) -> str:
        return f"http://{self.settings.flower.host}:{self.settings.flower.port}"

    @property
    def sandbox_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.sandbox.port}"

    def start(self) -> None:
        """Start all and return when events can be sent. Raises StartFailed or ConfigurationError; call `stop` in any case."""
        if not self.settings.redis_url:
            self._start_server()
        self.parts = Parts(self.environment)
        if SERVER in {child.service.stop_place for child in self.supervisor.children}:
            self.parts.ledger.upkeep.migrate()  # nobody but us works with it
        self.parts.refuse_orphans(self.parts.routing)  # what every process would refuse is refused here, in plain words and before any of them starts
        self._remember_ledger()
        self.state.remember_environment(self.environment)
        first = [self._started(self._sandbox())] if self.sandbox else []
        workers = [self._started(self._worker(number)) for number in range(1, self.settings.worker.processes + 1)]
        others = [self._started(self._ours("beat", BEAT)), self._started(self._ours("ingest", INGEST, "serve", ready=self._answers_ready))]
        self._started(self._ours("flower", FLOWER))
        for child in (*first, *workers, *others):
            self.supervisor.wait_ready(child, lambda: self.stopping)

    def watch(self) -> None:
        """Restart what died; call it a few times a second."""
        self.supervisor.watch()
        if self.reloading:
            self.reloading = False
            self.reload()

    def reload(self) -> None:
        """Take a changed routing file: ingest reads it again, workers start anew one after the other. A wrong one changes nothing."""
        if not self.parts.reload():
            return
        for child in self.supervisor.children:
            if child.service.stop_place == INGEST:
                child.signal(signal.SIGHUP)
            elif child.service.stop_place == WORKER:
                self.supervisor.restart(child)

    def stop(self) -> None:
        """Stop all in order."""
        self.parts.close()
        self.supervisor.stop()

    def _ports(self, settings: Settings) -> dict[str, str]:
        """Ports as variables, with 0 replaced by a free one. Raises SettingsError naming the setting of one in use."""
        wanted = {"INGEST": (settings.ingest.host, settings.ingest.port), "FLOWER": (settings.flower.host, settings.flower.port)}
        if self.sandbox:
            wanted["SANDBOX"] = ("127.0.0.1", settings.sandbox.port)
        for name, (host, port) in wanted.items():
            if port and not is_free(port, host):
                raise SettingsError(f"port {port} on {host} is in use: stop what listens there or set CONSENT_{name}_PORT")
        return {f"CONSENT_{name}_PORT": str(port or free_port()) for name, (_, port) in wanted.items()}

    def _start_server(self) -> None:
        server = EmbeddedServer(self.state.server)
        command = server.prepare()
        child = self._started(
            Service(name="server", command=command, environment=server_environment(), stop_place=SERVER, stop_seconds=30, is_ready=server.answers)
        )
        self.supervisor.wait_ready(child, lambda: self.stopping)
        self.environment["CONSENT_REDIS_URL"] = server.url
        self.settings = load_settings(self.environment)

    def _remember_ledger(self) -> None:
        """From now on only this ledger will do: an empty or another one in its place is refused, at the next start and by a child that starts again."""
        if not self.environment.get("CONSENT_LEDGER_EXPECTED_ID"):
            self.environment["CONSENT_LEDGER_EXPECTED_ID"] = self.parts.ledger.identity.ledger_id
            self.state.remember(LEDGER_FILE, self.parts.ledger.identity.ledger_id)

    def _sandbox(self) -> Service:
        ready_file = self.state.path / "sandbox-ready"
        ready_file.unlink(missing_ok=True)
        command = python("tests.sandboxes", "--port", str(self.settings.sandbox.port), "--ready-file", str(ready_file))
        return Service(name="sandbox", command=command, environment=self.environment, stop_place=SANDBOX, is_ready=ready_file.exists)

    def _worker(self, number: int) -> Service:
        name = f"worker-{number}"
        command = python("workers.cli", "worker", "--single", "--name", name)
        return Service(name=name, command=command, environment=self.environment, stop_place=WORKER, stop_seconds=self.settings.worker.stop_seconds)

    def _ours(self, name: str, place: int, command: str = "", ready: Callable[[], bool] = lambda: True) -> Service:
        return Service(
            name=name, command=python("workers.cli", command or name), environment=self.environment, stop_place=place, is_ready=ready, stop_seconds=15
        )

    def _started(self, service: Service) -> Child:
        return self.supervisor.start(service)

    def _answers_ready(self) -> bool:
        section = self.settings.ingest
        connection = http.client.HTTPConnection(self.ingest_url.removeprefix("http://").rpartition(":")[0].strip("[]"), section.port, timeout=2)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        return False


@contextmanager
def running(environment: Mapping[str, str], *, sandbox: bool) -> Iterator[Relay]:
    """A started relay; the signals of the main thread stop and reload it, and leaving stops every process in order."""
    umask = os.umask(0o077)  # the state directory is the owner's, and so is what each process writes there: evidence, logs, the server's files
    try:
        with _running(environment, sandbox=sandbox) as relay:
            yield relay
    finally:
        os.umask(umask)


@contextmanager
def _running(environment: Mapping[str, str], *, sandbox: bool) -> Iterator[Relay]:
    relay = Relay(environment, sandbox=sandbox)
    setup_logging(relay.settings, "up", relay.state.logs / "up.log")

    def stop(_number: int, _frame: FrameType | None) -> None:
        relay.stopping = True

    def reread(_number: int, _frame: FrameType | None) -> None:
        relay.reloading = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reread)
    try:
        relay.start()
        yield relay
    finally:
        relay.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def watch_until_stopped(relay: Relay, done: Callable[[], bool] = lambda: False) -> None:
    """Look after the children until a signal, or until `done`."""
    while not relay.stopping and not done():
        relay.watch()
        time.sleep(0.1)
