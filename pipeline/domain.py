"""The words of the system as frozen values; personal fields never appear in a repr.

Terms follow W3C DPV and ISO/IEC TS 27560: a data subject gives or withdraws consent for a purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Final

from msgspec import Struct

from pipeline.errors import InvalidInput

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})

IDENTIFIER_KINDS: Final = ("external_id", "email", "phone", "national_id")
"""Kinds of identifier, strongest first: the strongest one present names the subject."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

KIND_LETTERS: Final = {"external_id": "x", "email": "e", "phone": "p", "national_id": "n"}
"""First letter of an identifier key, so that a key alone tells its kind."""


class State(StrEnum):
    """What a subject said; a withdrawal wins a tie."""

    GIVEN = "given"
    WITHDRAWN = "withdrawn"


class Outcome(StrEnum):
    """What came of telling a destination; `settle` has the table of what follows from each."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    PENDING_CONFIRMATION = "pending_confirmation"
    NOT_APPLICABLE = "not_applicable"
    SUPERSEDED = "superseded"
    UNSUPPORTED = "unsupported"
    REJECTED = "rejected"
    MISCONFIGURED = "misconfigured"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"


class DeliveryStatus(StrEnum):
    """Where a delivery stands."""

    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    AWAITING_CONFIRMATION = "awaiting_confirmation"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"
    DEAD = "dead"


FINAL_STATUSES: Final = frozenset({DeliveryStatus.DELIVERED, DeliveryStatus.SKIPPED, DeliveryStatus.SUPERSEDED, DeliveryStatus.DEAD})


class Personal(Struct, frozen=True, kw_only=True):
    """A value that may hold what is personal or secret: its repr, rich's too, shows only the fields that `SHOWN` names."""

    SHOWN: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.SHOWN]


class Subject(Personal, frozen=True, kw_only=True):
    """A data subject as named by one event; every value is normalised (see `identifiers`) and personal.

    `country` is an ISO 3166-1 alpha-2 code and not an identifier.
    """

    SHOWN = ("country",)

    external_id: str | None = None
    email: str | None = None
    phone: str | None = None
    national_id: str | None = None
    country: str | None = None

    def identifiers(self) -> dict[str, str]:
        """Kind -> value of every identifier present, strongest first."""
        every = (("external_id", self.external_id), ("email", self.email), ("phone", self.phone), ("national_id", self.national_id))
        return {kind: value for kind, value in every if value}


class Word(Struct, frozen=True, kw_only=True):
    """One entry of a standing: who said what last.

    Words are compared by order time, then `withdrawn` over `given`, then event id; `encode` keeps that order
    for plain byte comparison, so the ledger's scripts merge with a string `max`.
    """

    order_us: int
    state: State
    event_id: str

    def encode(self) -> str:
        return f"{self.order_us:016d}{self.state[0]}{self.event_id}"

    @classmethod
    @lru_cache(maxsize=8192)  # the same word is read of each identifier of its person, for each destination
    def decode(cls, text: str) -> Word:
        return cls(order_us=int(text[:16]), state=State.WITHDRAWN if text[16] == "w" else State.GIVEN, event_id=text[17:])


class IncomingEvent(Personal, frozen=True, kw_only=True):
    """A consent event as a source parsed it, before the relay has given it an id.

    `event_time` is the earliest instant it can mean and `event_time_end` the latest (equal unless the source's
    precision is lower, such as a bare date). `idempotency_key` None means that the content is the key; with `profile_is_beside` that is without the
    profile, which a system shows beside what the person said: another name does not make an old consent a new one.
    """

    SHOWN = ("subject", "purpose", "state", "event_time", "event_time_end", "group", "profile_is_beside")

    subject: Subject
    purpose: str
    state: State
    event_time: datetime
    event_time_end: datetime | None = None
    idempotency_key: str | None = None
    group: str | None = None
    profile: Mapping[str, str] = {}
    profile_is_beside: bool = False
    evidence: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}


class ConsentEvent(Personal, frozen=True, kw_only=True):
    """An accepted event: what was said, by whom, and its place in the order (all times UTC).

    `identifier_keys` are the keyed hashes of the subject's identifiers (kind -> key); they may travel, the subject may not.
    """

    SHOWN = ("event_id", "source", "subject_key", "identifier_keys", "purpose", "state", "event_time", "order_us", "received_at", "group")

    event_id: str
    source: str
    subject: Subject
    subject_key: str
    identifier_keys: Mapping[str, str]
    purpose: str
    state: State
    event_time: datetime
    order_us: int
    received_at: datetime
    group: str | None = None
    profile: Mapping[str, str] = {}
    evidence: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}

    @property
    def word(self) -> Word:
        return Word(order_us=self.order_us, state=self.state, event_id=self.event_id)


class Standing(Personal, frozen=True, kw_only=True):
    """What holds now for another purpose of the same contact at the same destination, with that purpose's options.

    A `given` is only ever named if the event that said it goes to this destination and names this contact: nobody is told of it by the way.
    """

    SHOWN = ("purpose", "state")

    purpose: str
    state: State
    options: Mapping[str, Any] = {}


class Instruction(Personal, frozen=True, kw_only=True):
    """What one destination is to be told about one subject, built from the newest accepted word just before sending.

    `delivery_id` is stable over retries and serves as the vendor's idempotency key. `options` are the
    destination's options with those of the purpose laid over them; `standings` are there for vendors that ask for them (`Capabilities.sees_standings`).
    """

    SHOWN = ("delivery_id", "event_id", "purpose", "state", "event_time", "standings")

    delivery_id: str
    event_id: str
    subject: Subject
    purpose: str
    state: State
    event_time: datetime
    options: Mapping[str, Any] = {}
    standings: tuple[Standing, ...] = ()
    profile: Mapping[str, str] = {}
    evidence: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}


class VendorResult(Struct, frozen=True, kw_only=True):
    """What came of one instruction.

    `reason` is a short code from a closed set of the vendor file or the exchange (never vendor prose, which may quote
    personal data). `definite` is False when the vendor may still apply the request later (timeout, lost answer, 5xx).
    `retry_after_seconds` is the vendor's own word on when to come back.
    """

    outcome: Outcome
    reason: str = ""
    vendor_reference: str = ""
    retry_after_seconds: float | None = None
    definite: bool = True


class Sighting(Personal, frozen=True, kw_only=True):
    """A state that a polled vendor shows without saying since when: only a change against what was seen there before is a word of the person.

    `place` and `reference` name the thing seen: the list, as `Adapter.place_of` has it, and the person there, as a `VendorResult` of a tell refers to them.
    They are kept as a keyed hash only. `profile` is what a `given` says of the person besides.
    """

    SHOWN = ("place", "purpose", "state")

    place: str
    reference: str
    subject: Subject
    purpose: str
    state: State
    profile: Mapping[str, str] = {}


class Polled(Struct, frozen=True, kw_only=True):
    """One page of what a vendor says when it is polled.

    `events` carry their own dates (an InvalidInput in the place of each that cannot be read), `sightings` do not. `position` is where to go on; with
    `more` at once, without it at the next poll, and then every thing that could be seen has been seen since the last page without `more`.
    """

    position: str
    events: Sequence[IncomingEvent | InvalidInput] = ()
    sightings: Sequence[Sighting] = ()
    more: bool = False


@lru_cache(maxsize=1024)  # an event is opened once for each destination
def utc_from_us(microseconds: int) -> datetime:
    """The instant that many microseconds after the Unix epoch."""
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).replace(microsecond=microseconds % 1_000_000)


def us_from_utc(instant: datetime) -> int:
    """Microseconds since the Unix epoch, exactly; instants before 1970 count as 0."""
    delta = instant - _EPOCH
    return max(0, (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds)


@lru_cache(maxsize=1024)  # each destination is told the time of the same event
def format_time(instant: datetime) -> str:
    """RFC 3339 in UTC with `Z`, with a fraction only where there is one."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def delivery_id(event_id: str, destination: str) -> str:
    """The id of the delivery of one event to one destination; the same for ever, so planning twice makes one delivery."""
    return f"{event_id}.{destination}"


def split_delivery_id(value: str) -> tuple[str, str]:
    """Event id and destination of a delivery id; both empty if it is none."""
    event_id, dot, destination = value.partition(".")
    return (event_id, destination) if dot and event_id and destination else ("", "")
