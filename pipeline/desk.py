"""What operators read and decide: events, dead letters, replay that looks at the standing again, discarding with a reason, readiness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline.domain import Outcome, State, Subject, delivery_id
from pipeline.envelope import open_if_readable
from pipeline.errors import ConsentRelayError
from pipeline.fence import judge
from pipeline.figures import collect
from pipeline.identifiers import Hasher
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import DeadLetter
from pipeline.ledger.keys import LANES
from pipeline.ledger.ledger import time_of
from pipeline.ledger.letters import DeadLetterPage, LetterFilter, ReplayReport
from pipeline.metrics import MetricsSnapshot
from pipeline.routing import Routing
from pipeline.subject_status import Recorded, subject_status, with_recorded
from pipeline.vault import Vault

BEAT_SECONDS = 30.0
"""Beat releases every second or two; without it for this long, waiting work does not progress."""
STUCK_MS = 120_000
"""Work pushed or leased this long ago and not rescued means that nothing progresses."""

FENCED = frozenset({Outcome.SUPERSEDED, Outcome.NOT_APPLICABLE})


class Desk:
    """The operators' side of the relay; safe to share between threads. Raises LedgerUnavailable if the ledger is away."""

    def __init__(
        self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing], hasher: Hasher, *, recorded: Callable[[Subject], Recorded] = lambda _: {}
    ) -> None:
        """`recorded` is what the evidence knows of what a person's destinations were told."""
        self._recorded = recorded
        self._ledger, self._vault, self._routing, self._hasher = ledger, vault, routing, hasher

    def event(self, event_id: str) -> dict[str, Any] | None:
        """One event and its deliveries in the public form, None if unknown."""
        return self._ledger.event(event_id)

    def subject(self, subject: Subject, source: str | None = None) -> dict[str, Any]:
        """What holds for a person, and what every destination was told of it; with a `source`, only what came from there."""
        status = subject_status(self._ledger, self._hasher, subject, source=source)
        return with_recorded(status, self._recorded(subject), source=source) if status["purposes"] else status

    def dead_letters(
        self,
        *,
        destination: str | None = None,
        reason: str | None = None,
        state: str | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
        source: str | None = None,
    ) -> DeadLetterPage:
        """A page of dead letters, newest first by destination, and all of them counted by cause. Raises ValueError for a wrong cursor."""
        wanted = LetterFilter(destination=destination, reason=reason, state=State(state) if state else None, since=since, source=source)
        return self._ledger.letters.page(wanted, cursor=cursor, limit=limit)

    def replay(self, ids: Sequence[str] | None = None, dry_run: bool = False, *, filter: Mapping[str, str] | None = None) -> ReplayReport:  # noqa: A002 (the contract's word)
        """Tell dead deliveries again, by id or by filter.

        What a newer word has overtaken, or a written rule keeps, is not told: it is reported as skipped and, unless this is a dry run, closed as that.
        """
        if ids is not None:
            letters, unknown = self._ledger.letters.by_id(ids)
        else:
            chosen = filter or {}
            state = State(chosen["state"]) if "state" in chosen else None
            wanted = LetterFilter(destination=chosen.get("destination"), reason=chosen.get("reason"), state=state)
            letters, unknown = self._ledger.letters.find(wanted), []
        reasons = self._why_not(letters)
        skipped = [{"delivery_id": name, "reason": "not_found"} for name in unknown]
        skipped += [{"delivery_id": _name(letter), "reason": reasons[_name(letter)]} for letter in letters if _name(letter) in reasons]
        if not dry_run:
            # What the fence holds back goes the same way: it ends without a word to the vendor.
            self._ledger.letters.reopen([letter for letter in letters if reasons.get(_name(letter), Outcome.SUPERSEDED) in FENCED], reason="replayed")
        return ReplayReport(replayed=[_name(letter) for letter in letters if _name(letter) not in reasons], skipped=skipped)

    def discard(self, ids: Sequence[str], reason: str) -> list[str]:
        """Close dead letters without telling anybody; returns the delivery ids that were dead."""
        letters, _ = self._ledger.letters.by_id(ids)
        return self._ledger.letters.discard(letters, reason, self._ledger.clock_ms())

    def gauges(self) -> MetricsSnapshot:
        """Every figure that operators watch."""
        return collect(self._ledger, self._routing())

    def problems(self) -> list[str]:
        """What keeps events from being taken or told; empty means ready. Never raises for a ledger that is away."""
        try:
            self._ledger.check()
            self._ledger.ping()
            found = []
            beat = self._ledger.last_beat_seconds()
            if beat is None and self._ledger.age_seconds() > BEAT_SECONDS:
                found.append("beat has never released due work: are `consent beat` and a worker running?")
            if beat is not None and beat > BEAT_SECONDS:
                found.append(f"beat has not released due work for {beat:.0f} seconds")
            return found + [f"deliveries to {name} do not progress" for name in self.overdue()]
        except ConsentRelayError as error:
            return [str(error)]

    def notices(self) -> list[str]:
        """What operators should know though events can be taken; empty if there is nothing."""
        found = self._ledger.quarantine
        if found is None:
            return []
        return [f"quarantined: withdrawals from {time_of(found.from_ms)} on may be missing, so `given` wait; `consent ledger bring-forward` says what to do"]

    def overdue(self) -> list[str]:
        """Destinations whose work should have been done or rescued long ago; those that a person holds back are none."""
        deliveries = self._ledger.deliveries
        enabled = [name for name, destination in self._routing().destinations.items() if destination.enabled]
        lanes = [lane for lane in LANES if not self._ledger.holds(lane)]
        return [name for name in enabled if deliveries.overdue(name, STUCK_MS, lanes) and not deliveries.figures(name)["paused"]]

    def _why_not(self, letters: Sequence[DeadLetter]) -> dict[str, str]:
        """Delivery id -> why it is not worth replaying."""
        routing = self._routing()
        stored = self._ledger.events.load([letter.event_id for letter in letters])
        reasons: dict[str, str] = {}
        for letter, event in zip(letters, stored, strict=True):
            destination = routing.destinations.get(letter.destination)
            if destination is None:
                reasons[_name(letter)] = "destination_not_configured"
                continue
            opened = open_if_readable(event, self._vault)
            if opened is None:
                reasons[_name(letter)] = "payload_unreadable"
                continue
            reach = self._ledger.standings.reach([opened.identifier_keys.values()])[0]
            verdict = judge(opened, reach, destination, routing.purposes_of(destination.name))
            if verdict.result is not None:
                reasons[_name(letter)] = verdict.result.outcome.value
        return reasons


def _name(letter: DeadLetter) -> str:
    return delivery_id(letter.event_id, letter.destination)
