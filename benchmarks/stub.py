"""The vendors that everybody posts to: nginx where it is installed, else a server of ours; unprivileged, on loopback, and shown not to be the bottleneck."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Failed, Process, running
from workers.embedded import free_port

START_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.02
STALL_SECONDS: Final = 20.0
LATE_SECONDS: Final = 1.5
"""How long after the last expected event it is looked once more, for repeats."""
FLUSH_SECONDS: Final = 0.3
"""By then nginx has written out what it buffers of its log."""
NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 8m; default_type application/json;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  log_format arrivals '$msec $uri $http_webhook_id';
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location = /_status {{ stub_status; }}
    location / {{ access_log {folder}/arrivals.log arrivals buffer=256k flush=100ms; return 200 '{{"code":"SUCCESS"}}'; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call as it reached a vendor; `message_id` is its webhook-id."""

    at: float
    path: str
    message_id: str


class Stub:
    """A running stub. `count` is the number of events it was told: of calls with nginx, of events in their bodies with ours."""

    def __init__(self, process: Process, port: int, log: Path | None) -> None:
        self.process, self.port, self._log = process, port, log
        self.url = f"http://127.0.0.1:{port}"
        self.kind = "nginx" if log else "own"
        self._asked = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def count(self) -> int:
        if self._log is None:
            return int(json.loads(self._get("/_counts"))["events"])
        text = self._get("/_status").decode().splitlines()
        self._asked += 1
        return int(text[2].split()[2]) - self._asked

    def mark(self) -> int:
        """Where the record of arrivals ends now; `arrivals` begins there."""
        if self._log is None:
            return int(json.loads(self._get("/_counts"))["calls"])
        time.sleep(FLUSH_SECONDS)
        return self._log.stat().st_size

    def arrivals(self, mark: int = 0) -> list[Arrival]:
        """Every call since the mark, in the order of arrival."""
        if self._log is None:
            lines = self._get("/_log").decode().splitlines()[mark:]
        else:
            time.sleep(FLUSH_SECONDS)
            with self._log.open() as file:
                file.seek(mark)
                lines = file.read().splitlines()
        return [Arrival(float(at), path, message_id) for at, path, message_id in (line.split(" ", 2) for line in lines)]

    def wait_for(self, wanted: int, still_runs: Callable[[], None] = lambda: None) -> bool:
        """Return True once that many events were told, False when nothing has come for long."""
        seen, moved_at = -1, time.monotonic()
        while (count := self.count()) < wanted:
            still_runs()
            if count != seen:
                seen, moved_at = count, time.monotonic()
            elif time.monotonic() - moved_at > STALL_SECONDS:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def repeats(self, wanted: int, mark: int) -> int:
        """What came too often, looked for a little later: calls with an id that was seen before, or where a call carries many events, events beyond what was wanted."""
        time.sleep(LATE_SECONDS)
        return max(0, self.count() - wanted) if self._log is None else repeated(self.arrivals(mark))

    def forget(self) -> None:
        """Begin anew after an address that did not answer yet."""
        self._connection.close()
        self._asked = 0

    def _get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        return self._connection.getresponse().read()


def repeated(arrivals: list[Arrival]) -> int:
    """Calls that came more than once with the same id on the same path."""
    seen = Counter((arrival.path, arrival.message_id) for arrival in arrivals)
    return sum(count - 1 for count in seen.values())


@contextlib.contextmanager
def running_stub(folder: Path, *, own: bool = False) -> Iterator[Stub]:
    """nginx if there is one and `own` does not ask for ours, which can count events in batches and answer slowly."""
    place = folder / f"stub-{time.monotonic_ns()}"
    place.mkdir(parents=True)
    program = None if own else nginx_program()
    with running(_nginx(program, place) if program else _own(place)) as process:
        port = int((place / "port").read_text()) if program else int(process.hear())
        stub = Stub(process, port, place / "arrivals.log" if program else None)
        _await_answer(stub)
        yield stub


def nginx_program() -> str | None:
    """Where nginx is, if it is installed."""
    return shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")


def _nginx(program: str, place: Path) -> Process:
    port = free_port()
    (place / "port").write_text(str(port))
    (place / "arrivals.log").touch()
    user = "user root;" if os.geteuid() == 0 else ""  # nginx would hand its workers to another user, who cannot write here
    (place / "nginx.conf").write_text(NGINX.format(folder=place, port=port, user=user))
    return Process("nginx", [program, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", str(place / "error.log")], {}, place / "log")


def _own(place: Path) -> Process:
    return Process("stub", [sys.executable, "-P", "-m", "benchmarks.stub_server"], {}, place / "log", talks=True)


def _await_answer(stub: Stub) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        stub.process.check()
        try:
            stub.count()
        except (OSError, http.client.HTTPException):
            stub.forget()
            if time.monotonic() > until:
                raise Failed(f"the stub did not answer: {stub.process.last_words()}") from None
            time.sleep(0.05)
        else:
            return
