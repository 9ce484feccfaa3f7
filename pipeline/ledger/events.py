"""Events in the ledger: accepted, fanned out, and what became of their deliveries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from pipeline.domain import FINAL_STATUSES, DeliveryStatus, State, Word
from pipeline.ledger.identity import Lifetimes
from pipeline.ledger.keys import Keys
from pipeline.ledger.lookout import Lookout
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.results import DeliveryResult
from pipeline.ledger.store import Durability, Store, pairs_of, text

OVERDUE_MS = 120_000
"""What was not heard of for so long is sent again even where a long queue may still hold it: whoever had taken it may be dead."""


class Facts(Struct, frozen=True, kw_only=True):
    """What the ledger knows of an event without opening it: nothing personal. Times are microseconds since 1970."""

    source: str
    subject_key: str
    purpose: str
    state: State
    event_us: int
    order_us: int
    received_us: int

    def encode(self, *, apart: bool = True) -> tuple[str, str]:
        """What is said and when: apart, since a server keeps a record in one piece only while its fields are short; programs of schema 1 read one field."""
        if not apart:
            return f"{self.source}|{self.subject_key}|{self.purpose}|{self.state[0]}|{self.event_us}|{self.order_us}|{self.received_us}", ""
        order_us = "" if self.order_us == self.event_us else self.order_us
        return f"{self.source}|{self.subject_key}|{self.purpose}|{self.state[0]}", f"{self.event_us}|{order_us}|{self.received_us}"

    @classmethod
    def decode(cls, value: bytes | str) -> Facts:
        """From both, joined by a bar."""
        source, subject_key, purpose, state, event_us, order_us, received_us = text(value).split("|")
        return cls(
            source=source,
            subject_key=subject_key,
            purpose=purpose,
            state=State.WITHDRAWN if state == "w" else State.GIVEN,
            event_us=int(event_us),
            order_us=int(order_us or event_us),
            received_us=int(received_us),
        )

    def word(self, event_id: str) -> Word:
        return Word(order_us=self.order_us, state=self.state, event_id=event_id)


class NewEvent(Struct, frozen=True, kw_only=True):
    """An event about to be accepted: `content_hash` tells a duplicate from a reused key, `payload` is sealed.

    `record_ms` and `payload_ms` are lifetimes after completion that differ from the ledger's; a payload of 0 is erased at once. `other_keys` are those of identifiers beside the subject key.
    """

    event_id: str
    facts: Facts
    content_hash: str
    payload: bytes
    record_ms: int | None = None
    payload_ms: int | None = None
    other_keys: tuple[str, ...] = ()

    def lifetimes(self, usual: Lifetimes) -> str:
        """Those that differ; no payload outlives its event's record, or the ledger's own lifetime of payloads."""
        payload_ms = min(each for each in (usual.payload_ms, self.payload_ms, self.record_ms) if each is not None)
        values = ("" if self.record_ms is None else str(self.record_ms), "" if payload_ms == usual.payload_ms else str(payload_ms))
        return ",".join(values) if any(values) else ""


class StoredEvent(Struct, frozen=True, kw_only=True):
    """An event as the ledger holds it; `payload` None once it has expired or was erased."""

    event_id: str
    facts: Facts
    payload: bytes | None
    superseded_by: str = ""
    planned: tuple[str, ...] | None = None
    results: Mapping[str, DeliveryResult]
    finished: bool = False
    is_erased: bool = False

    @property
    def fanned_out(self) -> bool:
        return self.planned is not None or self.finished

    @property
    def destinations(self) -> tuple[str, ...]:
        """Every destination it was planned for, in a stable order."""
        return tuple(sorted({*(self.planned or ()), *self.results}))

    @property
    def complete(self) -> bool:
        return self.finished and all(result.status in FINAL_STATUSES for result in self.results.values())

    @property
    def status(self) -> str:
        """`erased` once nothing personal of it is kept any more, whatever else became of it."""
        if self.payload is None or self.is_erased:
            return "erased"
        return "superseded" if self.superseded_by else "accepted"


class Events:
    """The event part of the ledger. All methods take chunks and need one round trip."""

    def __init__(self, store: Store, keys: Keys, lifetimes: Lifetimes, lookout: Lookout, outbox: Outbox) -> None:
        self._store, self._keys, self._lifetimes, self._lookout, self._outbox = store, keys, lifetimes, lookout, outbox

    def commit(self, events: Sequence[NewEvent], durability: Durability) -> list[Facts | bool]:
        """Accept events: True if new, the facts first accepted if it is a duplicate, False if its id stands for other content.

        Returns once the write is as durable as `durability` says; raises LedgerUnavailable if that is not confirmed in time.
        """
        return self.read_commit(events, self._store.run(self.commit_commands(events), durability=durability))

    def commit_commands(self, events: Sequence[NewEvent]) -> list[tuple[Any, ...]]:
        """What `commit` sends, for a round trip with other commands; `read_commit` reads the answers."""
        groups = self._keys.by_partition([event.event_id for event in events])
        commands = []
        for partition, positions in groups.items():
            keys = [self._keys.event(partition, "open"), self._keys.event(partition, "n")]
            arguments: list[Any] = [self._lifetimes.fan_out_rescue_ms]
            chosen = [events[position] for position in positions]
            for event in chosen:
                keys += [self._keys.event(partition, f"e:{event.event_id}"), self._keys.event(partition, f"p:{event.event_id}")]
                arguments += [event.event_id, *self.facts_kept(event), event.content_hash, event.payload, event.lifetimes(self._lifetimes)]
            keys += self._outbox.of_partition(partition)
            arguments += self._outbox.said("commit", [(each.event_id, "|".join(each.facts.encode()), each.content_hash, each.other_keys) for each in chosen])
            commands.append(self._store.script("commit", keys, arguments))
        return [*commands, *(("HGET", self._keys.event(partition, "n"), "accepted") for partition in groups)]

    def read_commit(self, events: Sequence[NewEvent], replies: Sequence[Any]) -> list[Facts | bool]:
        """The answers of `commit`; how many each partition has accepted is noted for the next look at the ledger."""
        groups = self._keys.by_partition([event.event_id for event in events])
        self._lookout.note({partition: int(count or 0) for partition, count in zip(groups, replies[len(groups) :], strict=True)})
        answers: list[Facts | bool] = [False] * len(events)
        for positions, facts in zip(groups.values(), replies, strict=False):
            for position, fact in zip(positions, facts, strict=True):
                answers[position] = True if fact == b"" else False if fact == b"!" else Facts.decode(fact)
        return answers

    def facts_kept(self, event: NewEvent) -> tuple[str, str]:
        """The facts of an event as its record gets them."""
        return event.facts.encode(apart=self._lookout.facts_apart)

    def load(self, event_ids: Sequence[str], *, payloads: bool = True) -> list[StoredEvent | None]:
        """Events as stored, None for unknown ones."""
        return self.read_loaded(event_ids, self._store.run(self.load_commands(event_ids, payloads=payloads)), payloads=payloads)

    def load_commands(self, event_ids: Sequence[str], *, payloads: bool = True) -> list[tuple[Any, ...]]:
        """What `load` sends, for a round trip with other commands; `read_loaded` reads the answers."""
        kinds = ("e:", "p:") if payloads else ("e:",)
        return [
            self._store.script("read", [self._keys.event(partition, kind + event_ids[position]) for kind in kinds for position in positions], [len(positions)])
            for partition, positions in self._keys.by_partition(event_ids).items()
        ]

    def read_loaded(self, event_ids: Sequence[str], replies: Sequence[Any], *, payloads: bool = True) -> list[StoredEvent | None]:
        """The events, from the answers to `load_commands`."""
        answers: list[StoredEvent | None] = [None] * len(event_ids)
        for positions, reply in zip(self._keys.by_partition(event_ids).values(), replies, strict=True):
            sealed = reply[len(positions) :] if payloads else [None] * len(positions)
            for position, record, payload in zip(positions, reply, sealed, strict=False):
                answers[position] = _stored(event_ids[position], record, payload)
        return answers

    def mark_fanned_out(self, plans: Sequence[tuple[str, Sequence[str], str]]) -> None:
        """Note for each event (id, destinations, superseding event id or "") what it was planned for."""
        self._store.run(self.mark_commands(plans))

    def mark_commands(self, plans: Sequence[tuple[str, Sequence[str], str]]) -> list[tuple[Any, ...]]:
        """What `mark_fanned_out` sends, for a round trip with other commands."""
        return self._per_event("mark_fanned", [(event_id, [",".join(destinations), superseded]) for event_id, destinations, superseded in plans])

    def fold(self, results: Sequence[tuple[str, str, str]]) -> None:
        """Copy delivery results (event id, destination, encoded result) into their events' records."""
        self._store.run(self.fold_commands(results), replicated=True)

    def fold_commands(self, results: Sequence[tuple[str, str, str]]) -> list[tuple[Any, ...]]:
        """What `fold` sends, for a round trip with other commands."""
        return self._per_event("fold", [(event_id, [destination, result]) for event_id, destination, result in results])

    def reopen_for(self, destination: str, event_ids: Sequence[str], now_ms: int) -> None:
        """Add a planned delivery to events that are fanned out already."""
        waiting = DeliveryResult(status=DeliveryStatus.WAITING, updated_ms=now_ms).encode()
        self.fold([(event_id, destination, waiting) for event_id in event_ids])

    def restore(self, event_id: str, facts: Facts, payload: bytes) -> None:
        """Give an event whose payload (or whole record) has expired a payload again; one that still has it is left alone."""
        partition = self._keys.partition(event_id)
        names = [self._keys.event(partition, "n"), self._keys.record(event_id), self._keys.payload(event_id)]
        self._store.call("restore", names, [self._lifetimes.record_ms, self._lifetimes.payload_ms, *facts.encode(apart=self._lookout.facts_apart), payload])

    def take_due(self, most: int, *, is_behind: bool = False) -> tuple[list[str], list[str]]:
        """Events to fan out again, and events whose deliveries should be audited; each is put off by its own interval.

        `is_behind`: a long queue may still hold what is overdue, which is sent again all the same: so it is put off for longer.
        """
        rescue_ms = self._lifetimes.fan_out_rescue_ms
        fixed = [most, rescue_ms, self._lifetimes.audit_ms]
        overdue = [OVERDUE_MS, max(OVERDUE_MS, rescue_ms) if is_behind else rescue_ms]
        parts = [([self._keys.event(partition, "open")], [*fixed, self._keys.event(partition, "e:"), *overdue]) for partition in self._keys.all]
        lost: list[str] = []
        stale: list[str] = []
        for reply in self._store.run([self._store.script("open_due", keys, arguments) for keys, arguments in parts]):
            lost += map(text, reply[0])
            stale += map(text, reply[1])
        return lost, stale

    def look_soon(self, most: int) -> int:
        """Have open events audited soon, up to `most` of each partition; returns how many would have been much later."""
        names = [[self._keys.event(partition, "open")] for partition in self._keys.all]
        return sum(self._store.run([self._store.script("look_soon", keys, [most, self._lifetimes.audit_ms]) for keys in names]))

    def note_rescued(self, event_ids: Sequence[str]) -> None:
        """Count events whose fan-out was asked for again; one that merely waits in a long queue is none of them."""
        groups = self._keys.by_partition(event_ids)
        self._store.run([("HINCRBY", self._keys.event(partition, "n"), "rescued", len(places)) for partition, places in groups.items()])

    def counts(self) -> dict[str, int]:
        """Sums over all partitions: accepted, finished, unfinished, rescued, duplicates."""
        names = [[self._keys.event(partition, "n"), self._keys.event(partition, "open")] for partition in self._keys.all]
        sums = {"accepted": 0, "finished": 0, "rescued": 0, "duplicates": 0, "open": 0}
        for counters, unfinished in self._store.run([self._store.script("count", keys, []) for keys in names]):
            sums["open"] += unfinished
            for name, value in pairs_of(counters):
                sums[text(name)] = sums.get(text(name), 0) + int(value)
        return sums

    def _per_event(self, script: str, items: Sequence[tuple[str, list[Any]]]) -> list[tuple[Any, ...]]:
        groups = self._keys.by_partition([event_id for event_id, _ in items])
        commands = []
        for partition, positions in groups.items():
            keys = [self._keys.event(partition, "open"), self._keys.event(partition, "n")]
            arguments: list[Any] = [self._lifetimes.audit_ms, self._lifetimes.record_ms, self._lifetimes.payload_ms]
            for position in positions:
                event_id, values = items[position]
                keys += [self._keys.event(partition, f"e:{event_id}"), self._keys.event(partition, f"p:{event_id}")]
                arguments += [event_id, *values]
            keys += self._outbox.of_partition(partition)
            arguments += self._outbox.said("plan", [(items[position][0], *items[position][1]) for position in positions]) if script == "mark_fanned" else []
            commands.append(self._store.script(script, keys, arguments))
        return commands


class _Results(Mapping[str, DeliveryResult]):
    """Results that are decoded when they are looked at: most readers of an event only ask whether there are any."""

    def __init__(self, encoded: Mapping[str, bytes]) -> None:
        self._encoded = encoded

    def __getitem__(self, name: str) -> DeliveryResult:
        return DeliveryResult.decode(self._encoded[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)


def _stored(event_id: str, record: Any, payload: bytes | None) -> StoredEvent | None:
    if not record:
        return None
    fields = {text(name): value for name, value in pairs_of(record)}
    planned = fields.get("n")
    return StoredEvent(
        event_id=event_id,
        facts=Facts.decode(fields["f"] + b"|" + fields["t"] if "t" in fields else fields["f"]),
        payload=payload,
        superseded_by=text(fields.get("s", "")),
        planned=tuple(name for name in text(planned).split(",") if name) if planned is not None else None,
        results=_Results({name[2:]: value for name, value in fields.items() if name.startswith("d:")}),
        finished="z" in fields,
        is_erased="x" in fields,
    )
