"""Polls the sources that have to be asked: takes the turn, asks page by page within the account's limits, accepts what is news, and keeps the position.

Events are accepted before the position moves, so a crash hears a page twice, which changes nothing; it never skips one.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.accept import Acceptor
from pipeline.domain import IncomingEvent, Outcome, Polled, State, VendorResult
from pipeline.errors import InvalidInput
from pipeline.exchange import Exchange, Work
from pipeline.landing import gate_word
from pipeline.ledger import Ledger
from pipeline.ledger.polls import Turn
from pipeline.limits import LimitOptions, traffic_of
from pipeline.ports import Publisher
from pipeline.routing import Poll, Routing, Source
from pipeline.sightings import Sightings

log = logging.getLogger(__name__)

OVERDUE_TURNS: Final = 3
"""After so many turns without a call the poll takes one that is kept for withdrawals: it may be withdrawals that wait to be heard."""
NO_ROOM: Final = "no_room"
ALERT_AFTER: Final = 5
"""Failures in a row after which a person should look."""
AT_ONCE: Final = 500
"""Events accepted in one write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenOptions:
    """`lease_seconds`: how soon another worker may go on if this one dies; `turn_seconds`: how long one turn takes pages before others get the thread."""

    lease_seconds: float = 60.0
    turn_seconds: float = 10.0
    allowed_skew_seconds: float = 300.0

    @property
    def lease_ms(self) -> int:
        return int(self.lease_seconds * 1000)


class Listen:
    """Polls sources; safe to share between threads and to run in several processes: the ledger gives each source's turn to one of them."""

    def __init__(
        self,
        ledger: Ledger,
        exchange: Exchange,
        acceptor: Acceptor,
        sightings: Sightings,
        publisher: Publisher,
        routing: Callable[[], Routing],
        limits: LimitOptions,
        options: ListenOptions,
    ) -> None:
        self._ledger, self._exchange, self._acceptor, self._sightings = ledger, exchange, acceptor, sightings
        self._publisher, self._routing, self._limits, self._options = publisher, routing, limits, options

    def push_due(self) -> list[str]:
        """Ask workers to poll every source whose turn has come; returns their names."""
        routing = self._routing()
        polled = [name for name, source in routing.sources.items() if source.poll is not None and not routing.rests(source)]
        due = self._ledger.polls.due(polled, self._ledger.now_ms()) if polled else []
        for name in due:
            self._publisher.listen(name)
        return due

    def run(self, name: str) -> int:
        """Poll one source if it is its turn, for as long as there is more and time; returns how many events were accepted."""
        routing = self._routing()
        source = routing.sources.get(name)
        if source is None or source.poll is None or routing.rests(source):
            return 0
        turn = self._ledger.polls.take(name, secrets.token_hex(8), self._options.lease_ms)
        return self._hear(source, source.poll, turn) if turn is not None else 0

    def _hear(self, source: Source, poll: Poll, turn: Turn) -> int:
        stop_at = time.monotonic() + self._options.turn_seconds
        again_ms, position, count = int(poll.every_seconds * 1000), turn.position, 0
        while True:
            asked_ms = self._ledger.clock_ms()
            page = self._ask(source, poll, position)
            if isinstance(page, VendorResult):
                failures = self._ledger.polls.give_up(turn, position, self._wait_ms(poll, page), asked=page.reason != NO_ROOM)
                if failures:
                    self._complain(source, page, failures)
                return count
            count += self._take_in(source, poll, turn, page, asked_ms)
            position, unreadable = page.position, sum(isinstance(each, InvalidInput) for each in page.events)
            if not page.more or time.monotonic() > stop_at:
                self._ledger.polls.give_back(turn, position, 0 if page.more else again_ms, swept=not page.more, unreadable=unreadable)
                return count
            if not self._ledger.polls.keep(turn, position, lease_ms=self._options.lease_ms, unreadable=unreadable):
                return count

    def _ask(self, source: Source, poll: Poll, position: str) -> Polled | VendorResult:
        """One page, within the limits of the account; a refusal to be polled says nothing about telling, and closes no gate."""
        lane = self._lane(source, poll)
        asked, traffic, token = poll.asked, traffic_of(poll.asked, lane, self._limits), secrets.token_hex(8)
        admission = self._ledger.accounts.admit(traffic, lane, token, 0, [()])
        if not admission.dialogues:
            wait_ms = max(100, admission.retry_at_ms - self._ledger.now_ms())
            return VendorResult(outcome=Outcome.THROTTLED, reason=NO_ROOM, retry_after_seconds=wait_ms / 1000)
        settings = source.settings(allowed_skew_seconds=self._options.allowed_skew_seconds)
        work = Work(
            adapter=asked.adapter,
            dialogue=asked.adapter.poll(position, settings, self._ledger.now()),
            account=asked.account,
            size=0,
            allow_private_network=asked.allow_private_network,
            deadline=time.monotonic() + self._limits.start_window_seconds,
        )
        result = self._exchange.run(work)
        gate, pause_seconds = gate_word([result.failure] if result.failure else [], self._limits.misconfigured_probe_seconds)
        gate, pause_ms = (gate, int(pause_seconds * 1000)) if gate == "paused" else ("", 0)
        self._ledger.accounts.leave(traffic, token, [(0, result.calls)], [], gate=gate, pause_ms=pause_ms)
        if isinstance(result.results, Polled):
            return result.results
        return result.failure or VendorResult(outcome=Outcome.UNAVAILABLE, reason="unreadable_answer")

    def _lane(self, source: Source, poll: Poll) -> str:
        """The lane whose calls a poll may take: as a rule not what is kept for withdrawals."""
        heard_ms = self._ledger.polls.heard_ms([source.name])[0]
        is_overdue = self._ledger.now_ms() - heard_ms > OVERDUE_TURNS * poll.every_seconds * 1000
        return State.WITHDRAWN.value if is_overdue else State.GIVEN.value

    def _take_in(self, source: Source, poll: Poll, turn: Turn, page: Polled, asked_ms: int) -> int:
        """Accept what is news on a page, then remember what was seen."""
        for problem in (each for each in page.events if isinstance(each, InvalidInput)):
            for error in problem.errors:
                log.error("alert", extra={"alert": "heard_unreadable", "source": source.name, "path": error.path, "problem": error.message})
        heard = [each for each in page.events if isinstance(each, IncomingEvent)]
        heard += self._sightings.news(poll.asked.name, page.sightings, turn.swept_ms, asked_ms)
        for first in range(0, len(heard), AT_ONCE):
            self._acceptor.accept_many([(source, each) for each in heard[first : first + AT_ONCE]])
        self._sightings.note_seen(poll.asked.name, page.sightings, asked_ms)
        if heard:
            log.info("heard", extra={"source": source.name, "events": len(heard)})
        return len(heard)

    def _wait_ms(self, poll: Poll, refused: VendorResult) -> int:
        """When to try again a source that could not be heard: as the vendor says, and seldom where it needs a person."""
        if refused.outcome in (Outcome.MISCONFIGURED, Outcome.REJECTED):
            return int(max(poll.every_seconds, self._limits.misconfigured_probe_seconds) * 1000)
        return int((refused.retry_after_seconds or poll.every_seconds) * 1000)

    def _complain(self, source: Source, refused: VendorResult, failures: int) -> None:
        """Say that a source could not be heard: aloud where it needs a person, by its kind or because it goes on."""
        extra = {"source": source.name, "reason": refused.reason, "failures": failures}
        if refused.outcome in (Outcome.MISCONFIGURED, Outcome.REJECTED) or failures >= ALERT_AFTER:
            log.error("alert", extra={"alert": "source_not_heard", **extra})
        else:
            log.warning("not_heard", extra=extra)
