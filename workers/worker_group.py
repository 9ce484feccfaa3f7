"""`consent worker`: as many worker processes as the settings say, under a supervisor of their own."""

from __future__ import annotations

import logging
import signal
import time

from workers.process import python
from workers.supervisor import Service, Supervisor
from workers.wiring import Parts

logger = logging.getLogger(__name__)


def run_workers(parts: Parts) -> None:
    """Run the workers until SIGTERM or SIGINT. SIGHUP starts them anew, one after the other, if the routing file is good."""
    stopping, reloading = [], []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stopping.append(number))
    signal.signal(signal.SIGHUP, lambda number, _frame: reloading.append(number))
    _check(parts)
    supervisor = Supervisor(None)
    for number in range(1, parts.settings.worker.processes + 1):
        name = f"worker-{number}"
        command = python("workers.cli", "worker", "--single", "--name", name)
        supervisor.start(Service(name=name, command=command, environment=parts.environment, stop_place=0, stop_seconds=parts.settings.worker.stop_seconds))
    while not stopping:
        supervisor.watch()
        if reloading and parts.reload():
            for child in supervisor.children:
                supervisor.restart(child)
        reloading.clear()
        time.sleep(0.1)
    supervisor.stop()


def _check(parts: Parts) -> None:
    """Refuse here what every worker would refuse, so that the reason is the command's answer and not a line in a log."""
    parts.ledger  # noqa: B018 - opening it checks it
    parts.close()
