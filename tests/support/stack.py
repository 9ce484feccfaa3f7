"""A whole relay for flow tests: `consent up --sandbox` in processes of its own, on free ports, with its own state directory and routing file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from config.settings import load_settings

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0
KEEP_VARIABLE = "CONSENT_KEEP_LOGS"
"""Names a folder into which the logs of every relay are copied when it has ended."""


class Stack:
    """A running relay. `environment` is what its processes see; secrets and ports are read back from its state directory."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, url: str, start: Callable[[Mapping[str, str]], subprocess.Popen[str]]) -> None:
        self.process, self.folder, self.url = process, folder, url
        self._start = start
        self.environment: dict[str, str] = json.loads((folder / "environment.json").read_text())
        self.sandbox_url = f"http://127.0.0.1:{self.environment['CONSENT_SANDBOX_PORT']}"
        self.flower_url = f"http://127.0.0.1:{self.environment['CONSENT_FLOWER_PORT']}"
        self.flower_login = tuple(self.environment["CONSENT_FLOWER_LOGIN"].split(":", 1))
        self.session = requests.Session()
        self.session.trust_env = False

    @property
    def broker_url(self) -> str:
        """The broker's address; by default the next database of the ledger's server."""
        return load_settings(self.environment).celery_broker_url()

    def key(self, source: str = "native") -> str:
        return (self.folder / f"sample_{source}_key").read_text().strip()

    def headers(self, source: str = "native") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key(source)}"}

    def post(self, path: str, body: Any, *, source: str = "native", **options: Any) -> requests.Response:
        return self.session.post(self.url + path, json=body, headers=self.headers(source), timeout=10, **options)

    def get(self, path: str, *, source: str = "native") -> requests.Response:
        return self.session.get(self.url + path, headers=self.headers(source), timeout=10)

    def accept(self, state: str, *, minute: float = 0, purpose: str = "newsletter", key: str | None = None, **subject: str) -> str:
        """Post one event of the native source; returns its id."""
        event = {"subject": subject, "purpose": purpose, "state": state, "event_time": f"2026-01-05T{10 + int(minute // 60):02d}:{int(minute % 60):02d}:00Z"}
        answer = self.post("/v1/consent-events", {**event, **({"idempotency_key": key} if key else {})})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["event_id"])

    def event(self, event_id: str) -> dict[str, Any]:
        return dict(self.get(f"/v1/consent-events/{event_id}").json())

    def deliveries(self, event_id: str) -> dict[str, tuple[str, str | None]]:
        """Destination -> (status, reason)."""
        return {each["destination"]: (each["status"], each["reason"]) for each in self.event(event_id)["deliveries"]}

    def wait_complete(self, event_ids: Sequence[str], seconds: float = 30) -> None:
        """Return once all events are complete; fails naming what is not."""
        left = list(event_ids)

        def done() -> bool:
            left[:] = [event_id for event_id in left if not self.event(event_id)["complete"]]
            return not left

        wait_until(done, seconds, lambda: f"not complete: {[self.event(event_id) for event_id in left[:3]]}")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all series that carry these labels."""
        total = 0.0
        for line in self.session.get(self.url + "/metrics", timeout=10).text.splitlines():
            series, _, value = line.rpartition(" ")
            if (series == name or series.startswith(name + "{")) and all(f'{label}="{wanted}"' in series for label, wanted in labels.items()):
                total += float(value)
        return total

    def sandbox(self, vendor: str) -> dict[str, Any]:
        return dict(self.session.get(f"{self.sandbox_url}/_sandbox/{vendor}/state", timeout=10).json())

    def fault(self, vendor: str, *faults: Mapping[str, Any]) -> None:
        """Replace the faults of a sandbox; none clears them."""
        answer = self.session.post(f"{self.sandbox_url}/_sandbox/{vendor}/faults", json=list(faults), timeout=10)
        assert answer.status_code < 300, answer.text

    def settings(self, vendor: str, **settings: Any) -> None:
        """Change settings of a sandbox."""
        answer = self.session.post(f"{self.sandbox_url}/_sandbox/{vendor}/settings", json=settings, timeout=10)
        assert answer.status_code < 300, answer.text

    def take(self, vendor: str) -> dict[str, Any]:
        """A sandbox's state; it forgets calls and history with it, not what contacts hold."""
        return dict(self.session.post(f"{self.sandbox_url}/_sandbox/{vendor}/take", timeout=30).json())

    def reset(self, vendor: str) -> None:
        """Have a sandbox forget contacts, calls and faults; settings stay."""
        answer = self.session.post(f"{self.sandbox_url}/_sandbox/{vendor}/reset", timeout=10)
        assert answer.status_code < 300, answer.text

    def pids(self, word: str) -> list[int]:
        """The relay's processes whose command line has this word, oldest first."""
        found = []
        for child in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                if word in Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0"):
                    found.append(child)
        return sorted(found)

    def is_ready(self) -> bool:
        """Whether it says that events can be taken and work progresses."""
        try:
            return self.get("/health/ready").status_code == 200
        except requests.RequestException:
            return False

    def kinds(self) -> dict[str, list[int]]:
        """Kind of process -> those that run now: supervisor, server, ingest, ingest-group (if there are several ingest), worker-1, ..., beat, flower."""
        found: dict[str, list[int]] = {"supervisor": [self.process.pid]} if self.process.poll() is None else {}
        for pid in descendants(self.process.pid):
            if kind := _kind(pid):
                found.setdefault(kind, []).append(pid)
        return found

    def start_again(self, seconds: float = 90, **more: str) -> None:
        """Start `consent up` anew after it ended, as an init system does: on the same ports, again and again until what the dead one left is gone; `more` is set for it."""
        ports = {name: value for name, value in self.environment.items() if name.endswith("_PORT")}
        until = time.monotonic() + seconds
        while True:
            self.process.wait(max(0.1, until - time.monotonic()))
            _close(self.process)
            self.process = self._start(ports | more)
            try:
                _ready_url(self.process, self.folder)
                self.environment = json.loads((self.folder / "environment.json").read_text())  # its server has another port now
                return
            except AssertionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def consent(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a `consent` command against this relay."""
        return subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, "CONSENT_KEY": self.key()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    def log(self) -> str:
        """Everything the processes wrote."""
        return "\n".join(path.read_text(errors="replace") for path in sorted((self.folder / "logs").glob("*")))


@contextlib.contextmanager
def running_stack(
    *,
    routing: str | None = None,
    environment: Mapping[str, str] | None = None,
    vendors_apart: bool = False,
    folder: Path | None = None,
    sandbox_port: int = 0,
    checkout: Path = ROOT,
) -> Iterator[Stack]:
    """Start a relay with its sandboxes and stop it in the end; nothing of it stays. With `vendors_apart` the sandboxes outlive the relay's supervisor.

    With a `folder` of the caller's its state stays there; with a `sandbox_port` it works with sandboxes that the caller runs; `checkout` is the release it runs.
    """
    stays = folder is not None
    folder = folder or Path(tempfile.mkdtemp(prefix="consent-flow-"))
    settings = {"CONSENT_STATE_DIR": str(folder), "CONSENT_INGEST_PORT": "0", "CONSENT_FLOWER_PORT": "0", "CONSENT_SANDBOX_PORT": str(sandbox_port)}
    if routing is not None:
        (folder / "consent.yaml").write_text(routing)
        settings["CONSENT_CONFIG"] = str(folder / "consent.yaml")
    settings |= environment or {}

    def start(more: Mapping[str, str]) -> subprocess.Popen[str]:
        return _start_relay(folder, {**settings, **more}, sandbox=not (vendors_apart or sandbox_port), checkout=checkout)

    with contextlib.ExitStack() as leaving:
        if not stays:
            leaving.callback(shutil.rmtree, folder, ignore_errors=True)
        leaving.callback(_keep_logs, folder)
        if vendors_apart:
            settings["CONSENT_SANDBOX_PORT"] = leaving.enter_context(_vendors(folder))
        process = start({})
        leaving.callback(_stop, process)
        stack = Stack(process, folder, _ready_url(process, folder), start)
        leaving.callback(stack.session.close)
        leaving.callback(lambda: _stop(stack.process))
        yield stack


def _start_relay(folder: Path, settings: Mapping[str, str], *, sandbox: bool, checkout: Path) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}
    with (folder / "up.stderr").open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "up", *(["--sandbox"] if sandbox else [])],
            cwd=checkout,
            env={**inherited, **settings},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def _keep_logs(folder: Path) -> None:
    if kept := os.environ.get(KEEP_VARIABLE):
        shutil.copytree(folder / "logs", Path(kept) / folder.name, dirs_exist_ok=True)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask a relay to stop and wait for its end, or kill it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    finally:
        process.kill()
        _close(process)


def _close(process: subprocess.Popen[str]) -> None:
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def _vendors(folder: Path) -> Iterator[str]:
    """Run the sandboxes in a process of their own and yield their port."""
    ready_file = folder / "vendors-ready"
    with (folder / "vendors.stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sandboxes", "--ready-file", str(ready_file)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, text=True
        )
    try:
        wait_until(ready_file.exists, READY_SECONDS)
        yield ready_file.read_text().strip()
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "") -> None:
    """Return once a condition holds; fails after that many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {seconds} seconds; {explain()}")
        time.sleep(0.05)


def _ready_url(process: subprocess.Popen[str], folder: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return line.split()[1]
    logs = "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in [folder / "up.stderr", *(folder / "logs").glob("*")])
    raise AssertionError(f"the relay did not start\n{logs}")


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def _kind(pid: int) -> str:
    """What a process of a relay is; empty for one that is just starting or no process of its own."""
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text().startswith("valkey"):
            return "server"
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if "--name" in words:
            return words[words.index("--name") + 1]
        if "serve" in words:
            return "ingest" if "--single" in words else "ingest-group"
        return next((word for word in ("beat", "flower") if word in words), "")
    return ""
