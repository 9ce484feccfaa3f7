"""Reads the routing file into a `Routing`; every problem is named at once, with its line and what was expected, and never with a secret."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

import yaml

from pipeline.dates import DATE_ORDERS
from pipeline.domain import State
from pipeline.identifiers import normalise_country
from pipeline.routing import (
    ADOPT,
    FORWARD_AND_DELETE,
    NATIVE,
    SCOPES,
    TELL_WITHIN_SECONDS,
    Conditions,
    Destination,
    Poll,
    Purpose,
    RetryPolicy,
    Routing,
    Source,
    Trigger,
    with_partners,
)
from pipeline.routing_destinations import DestinationReader
from pipeline.routing_keys import KeyReader
from pipeline.routing_pairs import PairReader
from pipeline.routing_warnings import doubts
from pipeline.vendors import has_verb, vendor_names
from pipeline.yaml_lines import LineReader, suggestion

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
RETENTIONS: Final = (FORWARD_AND_DELETE,)

_TOP: Final = ("version", "sources", "purposes", "destinations", "pairs", "triggers")
_DAYS: Final = ("payload_days", "evidence_days")
_SOURCE: Final = (
    *("kind", "keys", "url_keys", "scopes", "all_sources", "signing_secret", "links", "dedup_days", *_DAYS),
    *("date_order", "time_zone", "country", "purposes", "retention", "origin", "poll"),
)
_POLL: Final = ("destination", "every_seconds", "credentials")
LEAST_POLL_SECONDS: Final = 1.0
_TRIGGER: Final = ("purposes", "states", "when", "deliver_to")
_CONDITIONS: Final = ("source", "country", "group")


def load_routing(text: str, *, filename: str, environment: Mapping[str, str], default_retry: RetryPolicy | None = None, may_be_unset: bool = False) -> Routing:
    """The routing that a file says, checked whole; `default_retry` is for destinations without their own.

    With `may_be_unset`, for looking only: destinations whose variables are not set are left out, instead of being problems.
    Raises ConfigurationError listing every problem as `file:line: what is wrong; what was expected`.
    """
    lines = LineReader(filename, environment, may_be_unset=may_be_unset)
    root = lines.root(text)
    top = lines.mapping(root, "the routing file", _TOP)
    if "version" not in top or lines.text(top["version"], "version") != "1":
        lines.complain(top.get("version", root), "version must be 1")
    return _File(lines, top, hashlib.sha256(text.encode()).hexdigest()[:16], default_retry or RetryPolicy()).routing()


def source_kinds() -> list[str]:
    """`native`, and every vendor file that can `hear` or be polled."""
    return [NATIVE, *(name for name in vendor_names() if has_verb(name, "hear") or has_verb(name, "poll"))]


class _File:
    """The parts of one routing file, read in the order in which they refer to each other."""

    def __init__(self, lines: LineReader, top: Mapping[str, yaml.Node], version_hash: str, default_retry: RetryPolicy) -> None:
        self.lines = lines
        self.top = top
        self.version_hash = version_hash
        self.key_reader = KeyReader(lines)
        self.polled_by: dict[str, str] = {}
        self.nodes = {part: self._required(part) for part in ("sources", "purposes", "destinations")}
        self.destination_reader = DestinationReader(lines, self.nodes["purposes"], default_retry)

    def routing(self) -> Routing:
        purposes = {name: self._purpose(name, node) for name, node in self.nodes["purposes"].items()}
        self.payload_days = {name: each.payload_days for name, each in purposes.items() if each.payload_days is not None}
        triggers = tuple(self._trigger(node) for node in self.lines.items(self.top.get("triggers"), "triggers"))
        destinations = self.destination_reader.read(self.nodes["destinations"], triggers)
        sources = {name: self._source(name, node, destinations) for name, node in self.nodes["sources"].items()}
        self._refuse_unspoken(destinations, sources)
        polled = {source.poll.asked.name for source in sources.values() if source.poll}
        destinations = {name: replace(destination, is_polled=name in polled) for name, destination in destinations.items()}
        pair_reader = PairReader(self.lines, self.nodes["destinations"], destinations, triggers, purposes)
        pairs = pair_reader.read(self._named("pairs"))
        self.lines.raise_complaints()
        return with_partners(
            Routing(
                version_hash=self.version_hash,
                sources=sources,
                purposes=purposes,
                destinations=destinations,
                triggers=triggers,
                pairs=pairs,
                warnings=(*self._warnings(sources, purposes, destinations, triggers), *pair_reader.warnings),
                unset=self.lines.unset(),
            )
        )

    def _refuse_unspoken(self, destinations: Mapping[str, Destination], sources: Mapping[str, Source]) -> None:
        """What a vendor says by its state is accepted as a source that speaks for it."""
        spoken = {name for source in sources.values() for name in source.origin}
        for name in (name for name, each in destinations.items() if each.when_stricter == ADOPT and name not in spoken):
            self.lines.complain(
                self.nodes["destinations"][name], f"stricter: adopt of {name} needs a source that speaks for it; expected one with origin {name}"
            )

    def _required(self, part: str) -> dict[str, yaml.Node]:
        if part not in self.top:
            self.lines.complaints.append((1, f"{part} is missing; expected a mapping of names to {part}"))
        return self._named(part)

    def _named(self, part: str) -> dict[str, yaml.Node]:
        found = self.lines.mapping(self.top.get(part), part)
        for name, node in found.items():
            if not NAME.fullmatch(name):
                self.lines.complain(node, f"the name {name!r} in {part} is not usable; expected a-z, 0-9 and -, at most 40, not beginning with -")
        return found

    def _purpose(self, name: str, node: yaml.Node) -> Purpose:
        parts = self.lines.mapping(node, f"purpose {name}", ("title", "tell_within_seconds", *_DAYS))
        return Purpose(
            name=name,
            title=self.lines.text(parts.get("title"), f"title of {name}") or name,
            tell_within_seconds=self.lines.number(parts.get("tell_within_seconds"), f"tell_within_seconds of {name}") or TELL_WITHIN_SECONDS,
            payload_days=self._days("payload_days", name, parts),
            evidence_days=self._days("evidence_days", name, parts),
        )

    def _days(self, kept: str, name: str, parts: Mapping[str, yaml.Node]) -> float | None:
        return self.lines.number(parts.get(kept), f"{kept} of {name}")

    def _source(self, name: str, node: yaml.Node, destinations: Mapping[str, Destination]) -> Source:
        parts = self.lines.mapping(node, f"source {name}", _SOURCE)
        kind = self._kind(name, node, parts)
        scopes = self._choices(parts.get("scopes"), f"scopes of {name}", SCOPES)
        poll = self._poll(name, kind, parts["poll"], destinations) if "poll" in parts else None
        self._refuse_deaf(name, node, kind, parts)
        origin = [
            *self._references(parts.get("origin"), "destinations", f"origin of {name}", instead="leave it out for none, or name some"),
            *([poll.asked.name] if poll else []),
        ]
        return Source(
            name=name,
            kind=kind,
            keys=self.key_reader.read(parts.get("keys"), "keys", name),
            url_keys=self.key_reader.read(parts.get("url_keys"), "url_keys", name),
            key_ends=self.key_reader.ends,
            scopes=frozenset({"ingest"}) if scopes is None else scopes,
            all_sources=self.lines.flag(parts.get("all_sources"), f"all_sources of {name}", default=False),
            date_order=self.lines.choice(parts.get("date_order"), f"date_order of {name}", DATE_ORDERS) or "day_first",
            time_zone=self.lines.time_zone(parts.get("time_zone"), f"time_zone of {name}") or "UTC",
            country=self._country(parts.get("country"), f"country of {name}"),
            purposes=self._source_purposes(parts.get("purposes"), name),
            retention=self.lines.choice(parts.get("retention"), f"retention of {name}", RETENTIONS),
            links=self.lines.flag(parts.get("links"), f"links of {name}", default=True),
            dedup_days=self.lines.whole(parts.get("dedup_days"), f"dedup_days of {name}", least=1),
            payload_days=self._days("payload_days", name, parts),
            evidence_days=self._days("evidence_days", name, parts),
            payload_days_by_purpose=self.payload_days,
            signing_secret=self.lines.text(parts.get("signing_secret"), f"signing_secret of {name}") or None,
            origin=tuple(dict.fromkeys(origin)),
            poll=poll,
        )

    def _refuse_deaf(self, name: str, node: yaml.Node, kind: str, parts: Mapping[str, yaml.Node]) -> None:
        """A kind that sends nothing by itself has to be polled, and nobody posts for it."""
        if kind == NATIVE or kind not in source_kinds() or has_verb(kind, "hear"):
            return
        if "poll" not in parts:
            self.lines.complain(node, f"source {name} of kind {kind} can only be polled; expected poll")
        for key in ("keys", "url_keys", "signing_secret"):
            if key in parts:
                self.lines.complain(parts[key], f"source {name} of kind {kind} can only be polled, so nobody posts for it; expected no {key}")

    def _poll(self, name: str, kind: str, node: yaml.Node, destinations: Mapping[str, Destination]) -> Poll | None:
        parts = self.lines.mapping(node, f"poll of {name}", _POLL)
        every_seconds = self.lines.number(parts.get("every_seconds"), f"every_seconds of {name}")
        if every_seconds is not None and every_seconds < LEAST_POLL_SECONDS:
            self.lines.complain(parts["every_seconds"], f"every_seconds of {name} must be {LEAST_POLL_SECONDS:g} or more")
        if "destination" not in parts or every_seconds is None:
            self.lines.complain(node, f"poll of {name} needs the destination to ask and every_seconds")
            return None
        named = self._references(parts["destination"], "destinations", "destination", instead="name one")
        asked = next((destinations[each] for each in named if each in destinations), None)
        if asked is None:
            return None
        if asked.vendor != kind or not has_verb(kind, "poll"):
            self.lines.complain(parts["destination"], f"source {name} of kind {kind} cannot poll {asked.name}, which is {asked.vendor}; expected {_pollable()}")
            return None
        if (other := self.polled_by.setdefault(asked.name, name)) != name:
            self.lines.complain(parts["destination"], f"{asked.name} is polled by source {other} already; expected one source for each")
        return Poll(asked=self.destination_reader.asked_as(asked, parts.get("credentials"), name), every_seconds=every_seconds)

    def _kind(self, name: str, node: yaml.Node, parts: Mapping[str, yaml.Node]) -> str:
        if "kind" not in parts:
            self.lines.complain(node, f"source {name} has no kind; expected {', '.join(source_kinds())}")
        kind = self.lines.text(parts.get("kind"), f"kind of {name}")
        if kind is not None and kind not in source_kinds():
            self.lines.complain(parts["kind"], f"source {name} has an unknown kind; {suggestion(kind, source_kinds())}")
        return kind or NATIVE

    def _country(self, node: yaml.Node | None, what: str) -> str | None:
        text = self.lines.text(node, what)
        try:
            return normalise_country(text) if text is not None else None
        except ValueError as error:
            if node is not None:
                self.lines.complain(node, f"{what} {error}")
            return None

    def _source_purposes(self, node: yaml.Node | None, name: str) -> dict[str, str]:
        found = {}
        for key, value in self.lines.mapping(node, f"purposes of {name}").items():
            self._require_purpose(value, purpose := self.lines.text(value, f"purpose of {key} in {name}"))
            found[key] = purpose or ""
        return found

    def _trigger(self, node: yaml.Node) -> Trigger:
        parts = self.lines.mapping(node, "a trigger", _TRIGGER)
        states = self._choices(parts.get("states"), "states", [state.value for state in State])
        purposes = self._references(parts.get("purposes"), "purposes")
        return Trigger(
            deliver_to=tuple(dict.fromkeys(self._deliver_to(node, parts))),
            purposes=None if "purposes" not in parts else frozenset(purposes),
            states=frozenset(State) if states is None else frozenset(State(state) for state in states),
            when=self._conditions(parts.get("when")),
        )

    def _deliver_to(self, node: yaml.Node, parts: Mapping[str, yaml.Node]) -> list[str]:
        if "deliver_to" not in parts:
            self.lines.complain(node, "a trigger has no deliver_to; expected a list of destinations")
        return self._references(parts.get("deliver_to"), "destinations", "deliver_to", instead="name at least one")

    def _references(self, node: yaml.Node | None, part: str, what: str | None = None, *, instead: str = "leave it out for any, or name some") -> list[str]:
        """Names of purposes, sources or destinations of this file."""
        pairs = self.lines.texts(node, what or part, may_be_single=True)
        if node is not None and not pairs and isinstance(node, yaml.SequenceNode) and not node.value:
            self.lines.complain(node, f"{what or part} is empty; {instead}")
        for item, name in pairs:
            if name not in self.nodes[part]:
                self.lines.complain(item, f"unknown {part[:-1]} {item.value!r} in {what or part}; {suggestion(name, self.nodes[part])}")
        return [name for _, name in pairs]

    def _require_purpose(self, node: yaml.Node, name: str | None) -> None:
        if name is not None and name not in self.nodes["purposes"]:
            self.lines.complain(node, f"unknown purpose {node.value!r}; {suggestion(name, self.nodes['purposes'])}")

    def _conditions(self, node: yaml.Node | None) -> Conditions:
        parts = self.lines.mapping(node, "when", _CONDITIONS)
        countries = [self._country(item, "country in when") for item in self.lines.items(parts.get("country"), "country in when", may_be_single=True)]
        groups = self.lines.texts(parts.get("group"), "group in when", may_be_single=True)
        return Conditions(
            source=frozenset(self._references(parts["source"], "sources", "source")) if "source" in parts else None,
            country=frozenset(country for country in countries if country) if "country" in parts else None,
            group=frozenset(text for _, text in groups) if "group" in parts else None,
        )

    def _choices(self, node: yaml.Node | None, what: str, allowed: Collection[str]) -> frozenset[str] | None:
        if node is None:
            return None
        items = self.lines.items(node, what, may_be_single=True)
        if not items:
            self.lines.complain(node, f"{what} is empty; expected some of {', '.join(allowed)}")
        return frozenset(text for item in items if (text := self.lines.choice(item, what, allowed)) is not None)

    def _warnings(
        self, sources: Mapping[str, Source], purposes: Mapping[str, Purpose], destinations: Mapping[str, Destination], triggers: tuple[Trigger, ...]
    ) -> Iterator[str]:
        for part, name, text in doubts(sources, purposes, destinations, triggers):
            yield f"{self.lines.at(self.nodes[part][name])}: {text}"
        for destination, text in self.destination_reader.warnings(destinations):
            yield f"{self.lines.at(self.nodes['destinations'][destination])}: {text}"


def _pollable() -> str:
    """Kinds that can be polled, for a person."""
    kinds = [name for name in vendor_names() if has_verb(name, "poll")]
    return f"a destination of the source's own kind, one of {', '.join(kinds)}"
