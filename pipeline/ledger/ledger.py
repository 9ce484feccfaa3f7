"""The ledger: the only place that knows Redis, and the truth about every event, standing and delivery."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import redis
from msgspec import structs

from pipeline.domain import DeliveryStatus, State, format_time, utc_from_us
from pipeline.errors import ConfigurationError, LedgerMismatch, LedgerUnavailable
from pipeline.ledger import identity
from pipeline.ledger.acceptance import Acceptance
from pipeline.ledger.accounts import Accounts
from pipeline.ledger.alerts import AlertBook
from pipeline.ledger.backlog import Backlog
from pipeline.ledger.clock import Clock
from pipeline.ledger.copies import Copies
from pipeline.ledger.deliveries import NO_LEASES, Deliveries, Leased, Leases, Owed, Planned, read_claim
from pipeline.ledger.drifts import Drifts
from pipeline.ledger.erasures import Erasures
from pipeline.ledger.events import Events, StoredEvent
from pipeline.ledger.keys import BEAT, COUNTERS, META, OLD_STALE, Keys
from pipeline.ledger.letters import Letters
from pipeline.ledger.lookout import Lookout, Quarantine
from pipeline.ledger.nodes import Nodes
from pipeline.ledger.options import LedgerOptions
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.polls import Polls, Shown
from pipeline.ledger.seals import Seals
from pipeline.ledger.standings import Standings
from pipeline.ledger.steps_back import StepsBack
from pipeline.ledger.store import Durability, Store
from pipeline.ledger.sweeps import Sweeps
from pipeline.ledger.trays import Trays
from pipeline.ledger.turns import Turns
from pipeline.ledger.upkeep import Upkeep
from pipeline.ledger.walks import Walks
from pipeline.vault import Vault

QUARANTINED = "quarantined"
"""Reason of a `given` that waits because the ledger may have forgotten withdrawals."""


class Ledger:
    """Events, standings, deliveries and accounts on one Redis or Valkey server; safe to share between threads.

    Opening it checks that it is the ledger it should be and that it can confirm durability.
    Raises LedgerMismatch, ConfigurationError, LedgerUnavailable.
    """

    def __init__(self, client: redis.Redis | Nodes, vault: Vault, options: LedgerOptions) -> None:
        self._options = options
        self._looking = Store(client, wait_milliseconds=options.wait_aof_milliseconds)
        known: dict[str, Any] = {"partitions": options.partitions, "pepper_fingerprint": options.pepper_fingerprint, "may_make": options.may_make}
        self._recognised = partial(identity.recognise, self._looking, **known)
        self.identity = self._recognised(expected_id=options.expected_id, seen=options.marks.newest)
        self._settings = identity.settings_of(self._looking)
        self._durability = self._confirmable(self._settings)
        self.store = Store(self._looking.nodes, check=self.check, wait_milliseconds=options.wait_aof_milliseconds)
        self.store.load_if_possible()
        self.clock = Clock(self.store)
        self.keys = Keys(self.identity.partitions)
        lifetimes = identity.Lifetimes(
            record_ms=int(options.dedup_days * 86_400_000),
            payload_ms=int(options.payload_days * 86_400_000),
            fan_out_rescue_ms=int(options.fan_out_rescue_seconds * 1000),
            audit_ms=int(options.audit_seconds * 1000),
            push_rescue_ms=int(options.push_rescue_seconds * 1000),
        )
        self.lookout = Lookout(self._looking, self.keys, self.identity.ledger_id, self.identity.created_seconds, options.marks)
        self.lookout.look()
        self.outbox, self.trays = Outbox(self.store, self.keys, options.evidence), Trays(self.store, self.keys)
        self.events = Events(self.store, self.keys, lifetimes, self.lookout, self.outbox)
        self.standings = Standings(self.store, self.keys, vault)
        self.acceptance = Acceptance(self.store, self.keys, self.events, self.standings, self.trays)
        self.deliveries = Deliveries(self.store, self.keys, lifetimes, self.outbox)
        self.copies = Copies(self.store, self.deliveries, self.events)
        self.accounts = Accounts(self.store, self.keys, vault)
        self.turns = Turns(self.store, self.accounts, self.standings, self.copies)
        self.seals = Seals(self.store, self.keys, vault)
        self.alerts, self.upkeep = AlertBook(self.store), Upkeep(self.store, self.keys, self.lookout)
        self.letters, self.push_rescue_ms = Letters(self.deliveries, self.events), lifetimes.push_rescue_ms
        self.backlog, self.steps_back = Backlog(self.store, self.keys, self.outbox), StepsBack(self.store, self.keys)
        self.polls, self.shown = Polls(self.store, self.keys), Shown(self.store, self.keys, self.outbox)
        self.walks, self.sweeps = Walks(self.store, self.keys), Sweeps(self.store, self.keys)
        self.drifts = Drifts(self.store, self.keys, self.outbox)
        self.erasures = Erasures(self.store, self.keys, lifetimes, self.outbox)
        if options.needs_vault_keys:
            self.seals.refuse_missing()
            self.seals.note()

    @property
    def durability(self) -> Durability:
        """How a write is confirmed now; raises what `check` raises where it is time for a look."""
        self.store.look()
        return self._durability

    def check(self) -> None:
        """Check again that this is the ledger we work with and that it keeps what it confirms; done once a second by whoever uses it.

        A server that was set up anew meanwhile is asked to confirm writes in the way it now can; a ledger that a person accepted in the place of ours is ours
        from now on. Raises LedgerMismatch, LedgerUnavailable.
        """
        self._follow(self._recognised(expected_id=self.identity.ledger_id))
        self.lookout.look()
        settings = identity.settings_of(self._looking)
        try:
            if self._looking.nodes.is_spread:
                self._looking.nodes.refuse_unsafe()
            if settings != self._settings:
                self._durability = self._confirmable(settings)
        except ConfigurationError as error:
            raise LedgerUnavailable(str(error)) from error
        self._settings = settings

    def _follow(self, found: identity.Identity) -> None:
        """Work with a ledger that was accepted in the place of ours."""
        if found.partitions != self.identity.partitions:
            raise LedgerMismatch(f"the ledger now has {found.partitions} partitions, this process works with {self.identity.partitions}: start it again")
        if found.ledger_id != self.identity.ledger_id:
            self.lookout.follow(found.ledger_id, found.created_seconds)
        self.identity = found

    def _confirmable(self, settings: identity.ServerSettings) -> Durability:
        return identity.confirmable(self._looking, settings, self._options.durability, self._options.wait_aof_milliseconds)

    def look(self) -> None:
        """Look whether the ledger is still what it was, as far as it was, and whether it is quarantined. Raises what `check` does."""
        self.store.look(now=True)

    @property
    def quarantine(self) -> Quarantine | None:
        """Why `given` are not told now, as the last look at the ledger found; None if they are."""
        return self.lookout.quarantine

    def holds(self, lane: str) -> bool:
        """Whether nothing of a lane may be told now: a ledger that may have forgotten withdrawals tells no `given`."""
        return lane == State.GIVEN and self.quarantine is not None

    def quarantine_by_hand(self, from_ms: int) -> Quarantine:
        """Quarantine it because a person knows that words said from then on may be missing."""
        return self.lookout.begin_quarantine("restored", from_ms)

    def lift(self, looked_at: Quarantine, until_ms: int) -> bool:
        """End the quarantine that a person has looked at, everything said until then having been posted again; False if it is another one by now."""
        lifted = bool(self.store.call("lift", [META], [looked_at.encode(), until_ms]))
        self.lookout.look()
        return lifted

    def ping(self) -> None:
        """Write something small, as durably as an event. Raises LedgerUnavailable if the ledger cannot be written."""
        self.store.run([("SET", f"{BEAT}:write", 1)], durability=self.durability)

    def now_ms(self) -> int:
        """The server's own clock, the only one that times waits."""
        return self.clock.server_ms()

    def clock_ms(self) -> int:
        """The time by which things are written down: it never goes back, and the server is asked for it once a second."""
        return self.clock.now_ms()

    def now(self) -> datetime:
        """The server's time, by which every receipt is stamped, so that processes with different clocks agree."""
        return utc_from_us(self.clock_ms() * 1000)

    def carried_now(self) -> datetime:
        """The same without ever asking the server, for a thread that must not wait."""
        return utc_from_us(self.clock.carried_ms() * 1000)

    def plan(self, wanted: Owed, plans: Sequence[tuple[str, Sequence[str], str]], leases: Leases = NO_LEASES) -> list[list[Planned]]:
        """Plan deliveries, leased if `leases` says for whom, and then note in the events' records what each was planned for.

        Never the note without the plan: an event that bears it is looked at by its deliveries only.
        """
        record = None if self.store.nodes.is_spread else self.keys.record
        planning = self.deliveries.plan_commands(wanted, leases=leases, record=record)
        replies = self.store.run_in_order([planning, self.events.mark_commands(plans)], replicated=True)
        return [[Planned(value) for value in planned] for planned in replies[1 : len(wanted) + 1]] if wanted else []

    def lease(self, destination: str, lane: str, token: str, lease_ms: int, event_ids: Sequence[str]) -> list[tuple[Leased, StoredEvent | None]]:
        """Lease those of the deliveries that are free and read their events, in one round trip; None for an event that is unknown."""
        claim = self.deliveries.claim_command(destination, lane, token, lease_ms, event_ids)
        reply, *records = self.store.run([claim, *self.events.load_commands(event_ids)])
        stored = dict(zip(event_ids, self.events.read_loaded(event_ids, records), strict=True))
        return [(leased, stored[leased.event_id]) for leased in read_claim(reply)]

    def note_stale(self, count: int) -> None:
        """Count sends of a `given` during which a newer withdrawal was accepted."""
        self.store.run([("HINCRBY", COUNTERS, "stale", count)])

    def stale_sends(self) -> int:
        """How many such sends there have been."""
        return sum(int(count or 0) for count in self.store.run([("HGET", COUNTERS, "stale"), ("GET", OLD_STALE)]))

    def beat(self) -> None:
        """Note that beat's work was done now."""
        self.store.run([("SET", BEAT, self.clock_ms())])

    def last_beat_seconds(self) -> float | None:
        """Seconds since beat's work was last done, None if never."""
        last, now = self.store.run([("GET", BEAT)])[0], self.clock_ms()
        return max(0, now - int(last)) / 1000 if last else None

    def age_seconds(self) -> float:
        """Seconds since this ledger was made."""
        return max(0.0, self.clock_ms() / 1000 - self.identity.created_seconds)

    def once(self, name: str, milliseconds: int) -> bool:
        """True for one caller within that time: keeps periodic work from running twice at once."""
        return bool(self.store.run([("SET", f"{BEAT}:{name}", 1, "NX", "PX", milliseconds)])[0])

    def again(self, name: str) -> None:
        """What is done `once` may be done again at once."""
        self.store.run([("DEL", f"{BEAT}:{name}")])

    def event(self, event_id: str) -> dict[str, Any] | None:
        """An event and its deliveries as `GET /v1/consent-events/<id>` answers, None if unknown; nothing personal."""
        stored = self.events.load([event_id])[0]
        return self.view(stored) if stored else None

    def view(self, stored: StoredEvent) -> dict[str, Any]:
        """The public form of a stored event."""
        facts = stored.facts
        return {
            "event_id": stored.event_id,
            "source": facts.source,
            "subject_key": facts.subject_key,
            "purpose": facts.purpose,
            "state": facts.state.value,
            "event_time": format_time(utc_from_us(facts.event_us)),
            "order_time": format_time(utc_from_us(facts.order_us)),
            "received_at": format_time(utc_from_us(facts.received_us)),
            "status": stored.status,
            "superseded_by": stored.superseded_by or None,
            "complete": stored.complete,
            "deliveries": self._deliveries(stored),
        }

    def _deliveries(self, stored: StoredEvent) -> list[dict[str, Any]]:
        waiting = [name for name in stored.destinations if name not in stored.results or stored.results[name].encode()[0] in "WA"]
        live = self.deliveries.look_up(stored.event_id, waiting) if waiting else {}
        shown = []
        for name in stored.destinations:
            if name in live:
                status, row, at_ms = live[name]
                if status is DeliveryStatus.WAITING and self.holds(stored.facts.state):
                    row, at_ms = structs.replace(row, reason=QUARANTINED), None
                values: tuple[Any, ...] = (status, row.outcome, row.reason, row.attempts, at_ms, row.vendor_reference, row.updated_ms)
            else:
                result = stored.results[name]
                values = (result.status, result.outcome, result.reason, result.attempts, None, result.vendor_reference, result.updated_ms)
            shown.append(_delivery(stored.event_id, name, *values))
        return shown


def _delivery(
    event_id: str, destination: str, status: Any, outcome: str, reason: str, attempts: int, at_ms: int | None, reference: str, updated_ms: int
) -> Any:
    return {
        "delivery_id": f"{event_id}.{destination}",
        "destination": destination,
        "status": status.value,
        "outcome": outcome or None,
        "reason": reason or None,
        "attempts": attempts,
        "next_attempt_at": time_of(at_ms),
        "vendor_reference": reference or None,
        "updated_at": time_of(updated_ms),
    }


def time_of(milliseconds: int | None) -> str | None:
    """A ledger time as RFC 3339, None for none."""
    return format_time(utc_from_us(milliseconds * 1000)) if milliseconds else None
