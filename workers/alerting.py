"""Takes note of alerts where they are logged, so that they can be posted: kind, and destination or source, nothing else of a line."""

from __future__ import annotations

import logging
import threading
from typing import Final

from pipeline.ledger import Ledger

MOST: Final = 100
"""What is remembered until it can be written down; there are fewer kinds and places than that."""


class Notes(logging.Handler):
    """A logging handler; `flush_to` writes down what came since, and keeps it if the ledger is away."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._names: set[str] = set()
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg != "alert":
            return
        found = vars(record)
        name = f"{found.get('alert', '')}|{found.get('destination') or found.get('source') or ''}"
        with self._guard:
            if len(self._names) < MOST:
                self._names.add(name)

    def flush_to(self, ledger: Ledger) -> None:
        """Write down what was noted. Raises LedgerUnavailable."""
        with self._guard:
            names = set(self._names)
        if names:
            ledger.alerts.note(sorted(names), ledger.now_ms())
            with self._guard:
                self._names -= names


def take_notes() -> Notes:
    """Begin to take notes of what this process logs; call it when its logging is set up."""
    notes = Notes()
    logging.getLogger().addHandler(notes)
    return notes
