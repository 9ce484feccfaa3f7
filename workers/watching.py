"""Looks at the ledger every second, in a thread of each process that runs on: is it as far as it was, is it quarantined, which alerts are to be noted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from config.logging import describe
from pipeline.errors import ConsentRelayError

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0


def look_on(looks: Sequence[Callable[[], object]], *, seconds: float = LOOK_SECONDS) -> threading.Event:
    """Begin to look, in a thread that ends with the process or when the event that is returned is set. What cannot be looked at now is looked at again."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            for look in looks:
                try:
                    look()
                except ConsentRelayError:
                    pass  # every command that needs the ledger says it
                except Exception as error:  # noqa: BLE001 - the thread must live on
                    logger.error("look_failed", extra={"reason": describe(error)})  # noqa: TRY400 - a text may quote somebody

    threading.Thread(target=watch, name="lookout", daemon=True).start()
    return ended
