"""Acts on a step back of the server's clock: what waits goes on at once instead of waiting until the clock has come round again.

Everything that waits does so until a time of the server's clock. Put back by an hour, it would make retries, rescues, pauses, rate windows and claims last an hour longer.
Beat notices within a second. What is written down (receipts, results) goes by the ledger's own clock, which never goes back (`pipeline.ledger.clock`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.domain import State
from pipeline.ledger import Ledger
from pipeline.limits import LimitOptions, traffic_of
from pipeline.routing import Routing

log = logging.getLogger(__name__)

SLACK_SECONDS = 15.0
"""What a busy machine may take beyond a chunk's own time to give back what it had in hand when the clock was put back."""


class Mending:
    """Looks at the clock in each round of beat; safe to run twice at once."""

    def __init__(self, ledger: Ledger, routing: Callable[[], Routing], limits: LimitOptions) -> None:
        self._ledger, self._routing, self._limits = ledger, routing, limits

    def run(self) -> bool:
        """Note the time, and put right what waits if the server's clock was put back since; whether it was."""
        lately_ms = int((self._limits.start_window_seconds + self._limits.claim_margin_seconds + SLACK_SECONDS) * 1000)
        step_ms, late_step_ms = self._ledger.clock.tick(lately_ms)
        if late_step_ms:
            for name in self._routing().destinations:
                self._ledger.steps_back.latecomers(name, late_step_ms, lately_ms)
        if not step_ms:
            return False
        log.error("alert", extra={"alert": "clock_put_back", "seconds": round(step_ms / 1000, 1)})
        routing, steps = self._routing(), self._ledger.steps_back
        steps.events(step_ms)
        lease_ms = int(max(self._limits.lease_seconds * 1000, self._ledger.push_rescue_ms))
        for name in sorted({*routing.destinations, *self._ledger.deliveries.known_destinations()}):
            steps.destination(name, step_ms, lease_ms)
        widest = {each.account: traffic_of(each, State.WITHDRAWN.value, self._limits) for each in routing.destinations.values()}
        for traffic in widest.values():
            steps.account(traffic, step_ms)
        steps.sources(sorted(name for name, source in routing.sources.items() if source.poll is not None), step_ms)
        self._ledger.clock.accept_step(step_ms)
        return True
