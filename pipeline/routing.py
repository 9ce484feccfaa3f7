"""Who is told what: the routing file as frozen values, and the pure choice of destinations for an event.

Reading and checking the YAML is `routing_file`; `load_routing` there makes a `Routing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any, Final

from pipeline.dates import DEFAULT_SKEW_SECONDS
from pipeline.domain import EMPTY, ConsentEvent, State
from pipeline.vendors.base import Adapter, Rate, SourceSettings

FORWARD_AND_DELETE: Final = "forward_and_delete"
NATIVE: Final = "native"
"""The kind of source that sends our own JSON."""
SCOPES: Final = ("ingest", "read", "replay")
CONFIRMATION_DAYS: Final = 30.0
TELL_WITHIN_SECONDS: Final = 3600.0
REPORT, ADOPT, TELL = "report", "adopt", "tell"
"""What follows when a vendor holds something else than the standing: nothing by itself, its word counts, or it is told again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """How a source is asked for what has changed: which destination's vendor, how often, and as whom (`asked` has the adapter and the account)."""

    asked: Destination = field(repr=False)
    every_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where events come from, and what its keys may do.

    `keys` and `url_keys` are the hex SHA-256 of the keys, never the keys; `key_ends` has the last day (UTC) of those that end. With `all_sources`, `read` and `replay` see every source.
    `links` says whether its events may teach which identifiers belong to one person. `country` helps to read phone numbers. `dedup_days` None means the ledger's setting,
    and so do `payload_days` and `evidence_days`, unless the purpose has its own; the shortest counts.
    `origin` names the destinations for which it speaks: what they say is not told back to them. `partners` are kept equal with those as pairs.
    """

    name: str
    kind: str = "native"
    keys: tuple[str, ...] = field(default=(), repr=False)
    url_keys: tuple[str, ...] = field(default=(), repr=False)
    key_ends: Mapping[str, date] = field(default_factory=dict, repr=False)
    scopes: frozenset[str] = frozenset({"ingest"})
    all_sources: bool = False
    date_order: str = "day_first"
    time_zone: str = "UTC"
    country: str | None = None
    purposes: Mapping[str, str] = field(default_factory=dict)
    retention: str | None = None
    links: bool = True
    dedup_days: int | None = None
    payload_days: float | None = None
    payload_days_by_purpose: Mapping[str, float] = field(default_factory=dict)
    evidence_days: float | None = None
    signing_secret: str | None = field(default=None, repr=False)
    origin: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    poll: Poll | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything can come by it: somebody has a key or the secret, or it is polled."""
        return bool(self.keys or self.url_keys or self.signing_secret or self.poll)

    @property
    def teaches_links(self) -> bool:
        """Whether the ledger may remember which identifiers its events name together; never where they are to be forgotten at once."""
        return self.links and not self.forgets

    @property
    def echoes(self) -> frozenset[str]:
        """The destinations whose being told `given` may come back by this source."""
        return frozenset((*self.origin, *self.partners))

    @property
    def forgets(self) -> bool:
        """Whether what is personal in its events is erased as soon as every delivery has ended."""
        return self.retention == FORWARD_AND_DELETE

    def payload_ms(self, purpose: str) -> int | None:
        """How long what is personal in its events is kept when all is told, in milliseconds; None: as long as the ledger says."""
        if self.forgets:
            return 0
        days = [each for each in (self.payload_days, self.payload_days_by_purpose.get(purpose)) if each is not None]
        return int(min(days) * 86_400_000) if days else None

    def settings(self, *, allowed_skew_seconds: float = DEFAULT_SKEW_SECONDS) -> SourceSettings:
        """What a vendor's `hear` may know of this source."""
        return SourceSettings(
            name=self.name,
            kind=self.kind,
            purposes=self.purposes,
            date_order=self.date_order,
            time_zone=self.time_zone,
            country=self.country,
            allowed_skew_seconds=allowed_skew_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What consent is given for, and how soon everybody should be told of it."""

    name: str
    title: str
    tell_within_seconds: float = TELL_WITHIN_SECONDS
    payload_days: float | None = None
    evidence_days: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The waits between attempts; the last one repeats. After `give_up_after_seconds` a `given` dies and a withdrawal raises the alert."""

    waits_seconds: tuple[float, ...] = (5.0, 30.0, 120.0, 600.0, 3600.0)
    give_up_after_seconds: float = 172_800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One configured account or list at a vendor.

    `account` names what shares rate, concurrency, pause, breaker and session: the first destination, by name, of those with equal
    vendor, base_url and credentials, unless the routing file sets `limit_group`. Deliveries to a destination that is not `enabled` wait.
    A `given` that nobody has confirmed for `confirmation_days` ends unconfirmed; `key_expires_on` is what a person wrote down, as no vendor tells it.
    `when_stricter` and `when_missing` say what follows where the vendor is found to permit less than the standing, or to have lost a consent.
    """

    name: str
    vendor: str
    adapter: Adapter = field(repr=False)
    account: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options_by_purpose: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    rate: Rate = field(default_factory=Rate)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    enabled: bool = True
    allow_private_network: bool = False
    keep_contact_for: frozenset[str] = frozenset()
    is_polled: bool = False
    is_heard: bool = False
    confirmation_days: float = CONFIRMATION_DAYS
    key_expires_on: date | None = None
    when_stricter: str = REPORT
    when_missing: str = REPORT

    def options_for(self, purpose: str) -> Mapping[str, Any]:
        """The destination's options, defaults included, with those of the purpose laid over them."""
        return {**self.options, **self.options_by_purpose.get(purpose, EMPTY)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a trigger fires; None means any.

    A withdrawal that does not say its country or group is let through, since telling too many does no harm and telling too few does;
    a `given` that does not say it is held back, since unknown is not consent.
    """

    source: frozenset[str] | None = None
    country: frozenset[str] | None = None
    group: frozenset[str] | None = None

    def met_by(self, event: ConsentEvent) -> bool:
        return (
            (self.source is None or event.source in self.source)
            and _stated_in(self.country, event.subject.country, event.state)
            and _stated_in(self.group, event.group, event.state)
        )

    def covers(self, other: Conditions) -> bool:
        """Whether every event that meets `other` also meets this."""
        pairs = ((self.source, other.source), (self.country, other.country), (self.group, other.group))
        return all(mine is None or (theirs is not None and theirs <= mine) for mine, theirs in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Tells every destination in `deliver_to` of the events that match; `purposes` None means every purpose."""

    deliver_to: tuple[str, ...]
    purposes: frozenset[str] | None = None
    states: frozenset[State] = frozenset(State)
    when: Conditions = Conditions()

    def fires_for(self, event: ConsentEvent) -> bool:
        return self.concerns(event.purpose, event.state) and self.when.met_by(event)

    def concerns(self, purpose: str, state: State) -> bool:
        return state in self.states and (self.purposes is None or purpose in self.purposes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A Contacthub and a Contactsend destination that the vendor keeps equal in both directions (its "source"); `contacthub` and `contactsend` name them.

    While a pair is not `enabled`, the sources that poll either side of it rest; both sides are told as before.
    """

    name: str
    contacthub: str
    contactsend: str
    description: str = ""
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class Routing:
    """One reading of the routing file. `version_hash` names that reading in evidence; `warnings` are what a person should look at.

    `unset` names the variables that were missing where the file was read for looking only, each with its line.
    """

    version_hash: str
    sources: Mapping[str, Source]
    purposes: Mapping[str, Purpose]
    destinations: Mapping[str, Destination]
    triggers: tuple[Trigger, ...]
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()

    def route(self, event: ConsentEvent) -> tuple[str, ...]:
        """The names of all destinations to tell of this event, sorted, each once, the disabled ones too."""
        return tuple(sorted({name for trigger in self.triggers if trigger.fires_for(event) for name in trigger.deliver_to}))

    def told_conditionally(self, purpose: str) -> frozenset[str]:
        """The destinations that some withdrawals of this purpose reach, but not every one: whom they told `given` must be remembered."""
        triggers = [trigger for trigger in self.triggers if trigger.concerns(purpose, State.WITHDRAWN)]
        always = {name for trigger in triggers if trigger.when == Conditions() for name in trigger.deliver_to}
        return frozenset(name for trigger in triggers for name in trigger.deliver_to if name not in always)

    def origin_of(self, source: str) -> frozenset[str]:
        """The destinations that a source speaks for; none for a source that is not known any more."""
        known = self.sources.get(source)
        return frozenset(known.origin) if known is not None else frozenset()

    def echoes_of(self, source: str) -> frozenset[str]:
        """The destinations whose being told may come back by a source."""
        known = self.sources.get(source)
        return known.echoes if known is not None else frozenset()

    def partners_of(self, destination: str) -> tuple[str, ...]:
        """The other side of each pair that a destination is in."""
        sides = [(pair.contacthub, pair.contactsend) for pair in self.pairs.values()]
        return tuple(other for one, two in sides for own, other in ((one, two), (two, one)) if own == destination)

    def speakers_for(self, destination: str) -> list[Source]:
        """The sources by which being told would come back, as far as anything comes by them now."""
        return [source for source in self.sources.values() if destination in source.echoes and source.is_open and not self.rests(source)]

    def rests(self, source: Source) -> bool:
        """Whether a source is not polled, because a pair of what it asks is not enabled."""
        return source.poll is not None and source.poll.asked.name in self.resting_destinations

    def purposes_of(self, destination: str) -> frozenset[str]:
        """Every purpose of which this destination may be told."""
        return self._purposes_by_destination.get(destination, frozenset())

    @cached_property
    def resting_destinations(self) -> frozenset[str]:
        """Both sides of every pair that is not enabled: what is polled there is not asked until the pair is enabled again."""
        return frozenset(name for pair in self.pairs.values() if not pair.enabled for name in (pair.contacthub, pair.contactsend))

    @cached_property
    def _purposes_by_destination(self) -> dict[str, frozenset[str]]:
        return purposes_by_destination(self.triggers, self.purposes)


def with_partners(routing: Routing) -> Routing:
    """The same, with every source knowing what is kept equal with the destinations for which it speaks, and every destination whether it is heard."""
    partners = {name: tuple(other for own in source.origin for other in routing.partners_of(own)) for name, source in routing.sources.items()}
    sources = {name: replace(source, partners=partners[name]) for name, source in routing.sources.items()}
    heard = {name for source in sources.values() for name in source.echoes}
    destinations = {name: replace(each, is_heard=name in heard) for name, each in routing.destinations.items()}
    return replace(routing, sources=sources, destinations=destinations)


def purposes_by_destination(triggers: Iterable[Trigger], purposes: Iterable[str]) -> dict[str, frozenset[str]]:
    """Every purpose of which a destination may be told; `purposes` are all that there are."""
    every = frozenset(purposes)
    found: dict[str, frozenset[str]] = {}
    for trigger in triggers:
        for name in trigger.deliver_to:
            found[name] = found.get(name, frozenset()) | (every if trigger.purposes is None else trigger.purposes)
    return found


def _stated_in(allowed: frozenset[str] | None, stated: str | None, state: State) -> bool:
    if allowed is None:
        return True
    return state is State.WITHDRAWN if stated is None else stated in allowed
