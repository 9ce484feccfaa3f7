"""Several processes of one kind under a supervisor of their own: `consent worker`, and `consent serve` with more than one process."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from workers.process import python
from workers.supervisor import Service, Supervisor
from workers.wiring import Parts


def run_group(parts: Parts, name: str, command: Sequence[str], count: int, stop_seconds: float, *, rereads: bool = False) -> None:
    """Run `count` processes until SIGTERM or SIGINT.

    SIGHUP makes them take a changed routing file, if it is good: those that can read it again do, others start anew one after the other.
    """
    stopping: list[int] = []
    reloading: list[int] = []
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda number, _frame: stopping.append(number))
    signal.signal(signal.SIGHUP, lambda number, _frame: reloading.append(number))
    # What every process would refuse, the command refuses; and one that is started again later must not take an emptied ledger for a new one.
    environment = {**parts.environment, "CONSENT_LEDGER_EXPECTED_ID": parts.ledger.identity.ledger_id}
    parts.close()
    supervisor = Supervisor(None)
    for number in range(1, count + 1):
        own = ["--name", f"{name}-{number}"] if name == "worker" else []
        service = Service(
            name=f"{name}-{number}", command=python("workers.cli", *command, *own), environment=environment, stop_place=0, stop_seconds=stop_seconds + 5
        )
        supervisor.start(service)
    while not stopping:
        supervisor.watch()
        if reloading and parts.reload():
            for child in supervisor.children:
                child.signal(signal.SIGHUP) if rereads else supervisor.restart(child)
        reloading.clear()
        time.sleep(0.1)
    supervisor.stop()
