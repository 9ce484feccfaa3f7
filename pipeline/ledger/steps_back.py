"""Puts the times that scripts wait for right after the server's clock was put back, so that nothing waits for the clock to come round again.

Rate windows, leases, claims and permits are never shortened below what they would have lasted: an entry is brought forward only if it lies further ahead than any written since could.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.ledger.accounts import Traffic
from pipeline.ledger.keys import LANES, PREFIX, Keys
from pipeline.ledger.store import Store, text

KEYS_AT_ONCE = 500


class StepsBack:
    """What is done after a step; every method may be repeated, and takes the step in milliseconds."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    def events(self, step_ms: int) -> None:
        """Events that somebody must look at."""
        for partition in self._keys.all:
            self._earlier(self._keys.event(partition, "open"), step_ms)

    def destination(self, name: str, step_ms: int, lease_ms: int) -> None:
        """Deliveries that wait are due as they were, those pushed or leased are missed as soon as they were, and the turn to compare comes as it did."""
        self._store.call("earlier_fields", [self._keys.destination(name, "sweep")], [step_ms, "", "due", "until"])
        for lane in LANES:
            self._earlier(self._keys.destination(name, f"due:{lane}"), step_ms)
            self._earlier(self._keys.destination(name, f"out:{lane}"), step_ms, lease_ms)

    def latecomers(self, name: str, step_ms: int, lately_ms: int) -> None:
        """Deliveries that a worker gave back since, until a time that it had been told before: they lie about a step ahead, and too early does no harm."""
        for lane in LANES:
            self._store.call("earlier", [self._keys.destination(name, f"due:{lane}")], [step_ms, max(0, step_ms - lately_ms), 0])

    def account(self, traffic: Traffic, step_ms: int) -> None:
        """The account's pause, breaker, rate window, connections and claims; what withdrawals asked for is asked again within a second."""
        gate, window, flight, wants = (self._keys.account(traffic.account, suffix) for suffix in ("gate", "window", "flight", "wants"))
        hold_ms = traffic.hold_ms or traffic.claim_ms
        self._store.call("earlier_fields", [gate], [step_ms, "at", "until"])
        self._store.call("earlier_fields", [gate], [step_ms, "", "probe"])
        self._earlier(window, step_ms, traffic.claim_ms + traffic.per_ms)
        self._earlier(flight, step_ms, hold_ms)
        self._store.run([("DEL", wants, *(self._keys.account(traffic.account, f"hungry:{lane}") for lane in (*LANES, "ask")))])
        self._keys_of(traffic.account, "c:", step_ms, hold_ms)
        self._keys_of(traffic.account, "m:", step_ms, traffic.claim_ms + traffic.late_write_ms)

    def sources(self, names: Iterable[str], step_ms: int) -> None:
        """Turns of polled sources."""
        for name in names:
            self._store.call("earlier_fields", [self._keys.source(name, "poll")], [step_ms, "", "due", "until"])

    def _earlier(self, name: str, step_ms: int, longest_ms: int = 0) -> None:
        """Without a longest time every entry ahead of now is brought forward, since too early does no harm there; else one that lies further ahead was written before the step."""
        self._store.call("earlier", [name], [step_ms, longest_ms, int(longest_ms > 0)])

    def _keys_of(self, account: str, suffix: str, step_ms: int, longest_ms: int) -> None:
        """All claims or marks of an account: they are named by contact, so the whole ledger is gone over, a little at a time."""
        pattern = f"{PREFIX}:{{a:{_literal(account)}}}:{suffix}*"
        found: list[str] = []
        for name in self._store.scan(pattern, 1000):
            found.append(text(name))
            if len(found) == KEYS_AT_ONCE:
                self._store.call("earlier_keys", found, [step_ms, longest_ms])
                found = []
        if found:
            self._store.call("earlier_keys", found, [step_ms, longest_ms])


def _literal(name: str) -> str:
    """A name as a pattern that only it fits."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in name)
