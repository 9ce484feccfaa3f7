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

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0


class Stack:
    """A running relay. `environment` is what its processes see; secrets and ports are read back from its state directory."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, url: str) -> None:
        self.process, self.folder, self.url = process, folder, url
        self.environment: dict[str, str] = json.loads((folder / "environment.json").read_text())
        self.sandbox_url = f"http://127.0.0.1:{self.environment['CONSENT_SANDBOX_PORT']}"
        self.flower_url = f"http://127.0.0.1:{self.environment['CONSENT_FLOWER_PORT']}"
        self.flower_login = tuple(self.environment["CONSENT_FLOWER_LOGIN"].split(":", 1))
        self.session = requests.Session()
        self.session.trust_env = False

    @property
    def broker_url(self) -> str:
        """The broker's database, which is the embedded server's next one."""
        server = self.folder / "server"
        password, port = ((server / name).read_text().strip() for name in ("password", "port"))
        return f"redis://:{password}@127.0.0.1:{port}/1"

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

    def pids(self, word: str) -> list[int]:
        """The relay's processes whose command line has this word, oldest first."""
        found = []
        for child in _descendants(self.process.pid):
            with contextlib.suppress(OSError):
                if word in Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0"):
                    found.append(child)
        return sorted(found)

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
def running_stack(*, routing: str | None = None, environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start a relay with its sandboxes and stop it in the end; nothing of it stays."""
    folder = Path(tempfile.mkdtemp(prefix="consent-flow-"))
    settings = {"CONSENT_STATE_DIR": str(folder), "CONSENT_INGEST_PORT": "0", "CONSENT_FLOWER_PORT": "0", "CONSENT_SANDBOX_PORT": "0"}
    if routing is not None:
        (folder / "consent.yaml").write_text(routing)
        settings["CONSENT_CONFIG"] = str(folder / "consent.yaml")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}
    errors = (folder / "up.stderr").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "up", "--sandbox"],
        cwd=ROOT,
        env={**inherited, **settings, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    stack = None
    try:
        stack = Stack(process, folder, _ready_url(process, folder))
        yield stack
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
            errors.close()
            if stack is not None:
                stack.session.close()
            shutil.rmtree(folder, ignore_errors=True)


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


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found
