"""What is heard from vendors, in the ledger: whose turn it is to poll a source and how far it was heard, what each destination showed, who awaits a confirmation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.domain import State
from pipeline.ledger.keys import Keys
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.results import DeliveryResult
from pipeline.ledger.store import Store, text

GIVEN_KEPT_MS = 7 * 86_400_000
"""How long it is remembered whom a destination was told to have consented; no setting of the time in which a copy may turn up is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The right to poll a source, until it is given back or runs out.

    `swept_ms` is when the last full sweep began (0: there was none): whatever shows another state now has changed since then.
    """

    source: str
    token: str
    position: str
    swept_ms: int


class Polls:
    """Turns and positions of polled sources; one source, one slot."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    def take(self, source: str, token: str, lease_ms: int) -> Turn | None:
        """The turn to poll a source, None if it is not due or somebody has it."""
        reply = self._store.call("take_poll", [self._keys.source(source, "poll")], [token, lease_ms])
        return Turn(source=source, token=token, position=text(reply[0]), swept_ms=int(reply[1])) if reply else None

    def keep(self, turn: Turn, position: str, *, lease_ms: int, unreadable: int = 0) -> bool:
        """Note how far the source was heard, and go on; False if the turn was lost."""
        return self._keep(turn, position, [0, -1, lease_ms, 1, unreadable]) >= 0

    def give_back(self, turn: Turn, position: str, again_ms: int, *, swept: bool = False, unreadable: int = 0) -> None:
        """End a turn in which the source was heard; the next one is due after `again_ms`."""
        self._keep(turn, position, [int(swept), again_ms, 0, 1, unreadable])

    def give_up(self, turn: Turn, position: str, again_ms: int, *, asked: bool) -> int:
        """End a turn in which it was not, because there was no room to ask (`asked` False) or by the vendor's fault; returns how often in a row it failed by now."""
        return self._keep(turn, position, [0, again_ms, 0, 0 if asked else 2, 0])

    def _keep(self, turn: Turn, position: str, values: Sequence[int]) -> int:
        return int(self._store.call("keep_poll", [self._keys.source(turn.source, "poll")], [turn.token, position, *values]))

    def due(self, sources: Sequence[str], now_ms: int) -> list[str]:
        """Those of the sources whose turn has come and that nobody is polling."""
        replies = self._store.run([("HMGET", self._keys.source(name, "poll"), "due", "until") for name in sources])
        return [name for name, times in zip(sources, replies, strict=True) if all(int(each or 0) <= now_ms for each in times)]

    def heard_ms(self, sources: Sequence[str]) -> list[int]:
        """When each source was last heard, 0 if never."""
        return [int(value or 0) for value in self._store.run([("HGET", self._keys.source(name, "poll"), "heard") for name in sources])]

    def unreadable(self, sources: Sequence[str]) -> list[int]:
        """How many changes of each source could not be read so far."""
        return [int(value or 0) for value in self._store.run([("HGET", self._keys.source(name, "poll"), "unreadable") for name in sources])]


class Shown:
    """What a destination's vendor showed or was told, which contacts await a confirmation there, and whom it was told to have consented; one destination, one slot."""

    def __init__(self, store: Store, keys: Keys, outbox: Outbox) -> None:
        self._store, self._keys, self._outbox = store, keys, outbox

    def states(self, destination: str, things: Sequence[str]) -> list[tuple[str, int]]:
        """The state in which each thing was seen or told last, and when (ms); "" and 0 if never."""
        if not things:
            return []
        values = self._store.run([("HMGET", self._keys.destination(destination, "seen"), *things)])[0]
        return [(state, int(at_ms or 0)) for state, _, at_ms in (text(value or "").partition("|") for value in values)]

    def note(self, destination: str, states: Mapping[str, str], at_ms: int = 0) -> None:
        """Remember the state of things as of `at_ms` (0: now), where nothing later is known of them."""
        if states:
            self._store.call("see", [self._keys.destination(destination, "seen")], [at_ms, *(value for item in states.items() for value in item)])

    def note_given(self, destination: str, contact_keys: Sequence[str], now_ms: int) -> None:
        """Remember that these contacts may have been told `given` by now; it is forgotten when no copy of it can turn up any more."""
        if contact_keys:
            name = self._keys.destination(destination, "gave")
            members = [value for key in contact_keys for value in (now_ms, key)]
            self._store.run([("ZADD", name, "GT", *members), ("ZREMRANGEBYSCORE", name, "-inf", now_ms - GIVEN_KEPT_MS)], replicated=True)

    def given_ms(self, destinations: Sequence[str], contact_keys: Sequence[str]) -> int:
        """When any of these contacts was last told `given`, or may have been, at any of these destinations; 0 if not lately."""
        if not contact_keys:
            return 0
        replies = self._store.run([("ZMSCORE", self._keys.destination(name, "gave"), *contact_keys) for name in destinations])
        return max((int(float(score)) for scores in replies for score in scores if score is not None), default=0)

    def await_confirmation(self, destination: str, contacts: Mapping[str, str]) -> None:
        """Remember which event of a contact (key -> event id) awaits a confirmation."""
        if contacts:
            self._store.call("await", self._awaiting(destination), [value for item in contacts.items() for value in item])

    def hasten(self, destination: str, ended: Sequence[tuple[str, Sequence[str]]]) -> None:
        """For deliveries (event id, contact keys) that ended: have an older one that awaits its confirmation looked at now."""
        names = self._awaiting(destination)
        self._store.run([self._store.script("hasten", names, [event_id, *contact_keys]) for event_id, contact_keys in ended if contact_keys])

    def confirm(self, destination: str, lane: str, event_ids: Sequence[str], result: DeliveryResult) -> list[bool]:
        """End deliveries that await a confirmation, because the vendor has told of it by itself."""
        names = [self._keys.destination(destination, suffix) for suffix in (f"due:{lane}", "row", "result", "n", "awaiting")]
        encoded = result.encode()
        arguments: list[Any] = [f"o|{result.outcome}|{lane}", *(value for event_id in event_ids for value in (event_id, encoded))]
        names += self._outbox.of_destination(destination)
        arguments += self._outbox.said("confirm", [(event_id, encoded) for event_id in event_ids])
        return [bool(value) for value in self._store.call("confirm", names, arguments)]

    def _awaiting(self, destination: str) -> list[str]:
        return [self._keys.destination(destination, suffix) for suffix in (f"due:{State.GIVEN}", "awaiting")]
