"""Waits for a ledger that is away, where to fail would have something done twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from pipeline.errors import LedgerUnavailable

log = logging.getLogger(__name__)

SECONDS: Final = 10.0
LOOK_SECONDS = 0.2


def insist(note: Callable[[], None]) -> None:
    """Note something that may be noted twice, once the ledger is there; without it for too long, go on: audit copies results, and looking again finds the rest."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            return note()
        except LedgerUnavailable:
            if time.monotonic() >= until:
                log.warning("note_given_up", extra={"seconds": SECONDS})
                return None
            time.sleep(LOOK_SECONDS)
