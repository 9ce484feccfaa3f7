"""The pairs part of the routing file: which Contacthub node is kept equal with which Contactsend user database, one to one.

What belongs together is compared as the vendors see it, so one node stays one however its address is written.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from pipeline.routing import Destination, Pair, Trigger, purposes_by_destination
from pipeline.yaml_lines import LineReader, suggestion

SIDES: Final = ("contacthub", "contactsend")
"""The names of the two sides, which are also the vendors that they must be of."""
_PAIR: Final = ("description", *SIDES, "enabled")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Told = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """What a pair ties together, for comparing; None stands for what is not known, because its destination could not be read.

    `nodes`, `databases` and `mappings` have one member each in a pair that is right. `subscriptions` are of the purposes that both sides are told of:
    subscription id, webform code and registration field.
    """

    nodes: frozenset[tuple[str, str, str]] | None = None
    token: str | None = field(default=None, repr=False)
    databases: frozenset[tuple[str, str]] | None = None
    api_key: str | None = field(default=None, repr=False)
    user_key: str | None = field(default=None, repr=False)
    mappings: frozenset[frozenset[tuple[str, str]]] | None = None
    subscriptions: Mapping[str, tuple[str, str, str]] | None = None


def tie(pair: Pair, destinations: Mapping[str, Destination], told: Told) -> Tie:
    """What the destinations of a pair say; `told` are the purposes that each may be told of."""
    hub, send = destinations.get(pair.contacthub), destinations.get(pair.contactsend)
    facts: dict[str, Any] = {}
    if hub:
        facts["nodes"] = frozenset((_address(hub), *_texts(options, "workspace_id", "node_id")) for options in _variants(hub, told))
        facts["token"] = hub.adapter.credential_digest("token")
    if send:
        facts["databases"] = frozenset((_address(send), *_texts(options, "source_id")) for options in _variants(send, told))
        facts["mappings"] = frozenset(frozenset((options.get("fields") or {}).items()) for options in _variants(send, told))
        facts["api_key"], facts["user_key"] = (send.adapter.credential_digest(name) for name in ("api_key", "user_key"))
    if hub and send:
        facts["subscriptions"] = {purpose: _subscription(hub, send, purpose) for purpose in sorted(_both(hub, send, told))}
    return Tie(**facts)


class PairReader:
    """Reads all pairs of one file, whose destinations have been read; `warnings` are what a person should look at."""

    def __init__(
        self, lines: LineReader, nodes: Collection[str], destinations: Mapping[str, Destination], triggers: Iterable[Trigger], purposes: Iterable[str]
    ) -> None:
        self.lines = lines
        self.nodes = nodes
        self.destinations = destinations
        self.told: Told = purposes_by_destination(triggers, purposes)
        self.warnings: list[str] = []
        self._owners: dict[Hashable, str] = {}

    def read(self, nodes: Mapping[str, yaml.Node]) -> dict[str, Pair]:
        """The pairs; what is wrong with them has left a complaint."""
        return {name: pair for name, node in nodes.items() if (pair := self._pair(name, node)) is not None}

    def _pair(self, name: str, node: yaml.Node) -> Pair | None:
        parts = self.lines.mapping(node, f"pair {name}", _PAIR)
        contacthub, contactsend = (self._side(name, node, parts, side) for side in SIDES)
        pair = Pair(
            name=name,
            contacthub=contacthub or "",
            contactsend=contactsend or "",
            description=self.lines.text(parts.get("description"), f"description of pair {name}") or "",
            enabled=self.lines.flag(parts.get("enabled"), f"enabled of pair {name}", default=True),
        )
        if contacthub is None or contactsend is None:
            return None
        self._check(node, pair)
        return pair

    def _side(self, pair: str, node: yaml.Node, parts: Mapping[str, yaml.Node], side: str) -> str | None:
        """The name of the destination on one side, if it is one and of the right vendor."""
        if side not in parts:
            self.lines.complain(node, f"pair {pair} has no {side}; expected the name of a destination of vendor {side}")
        name = self.lines.text(parts.get(side), f"{side} of pair {pair}")
        if name is None:
            return None
        if name not in self.nodes:
            self.lines.complain(parts[side], f"unknown destination {parts[side].value!r} in pair {pair}; {suggestion(name, self.nodes)}")
            return None
        destination = self.destinations.get(name)
        if destination and destination.vendor != side:
            self.lines.complain(parts[side], f"{side} of pair {pair} is a destination of vendor {destination.vendor}; expected one of vendor {side}")
            return None
        return name

    def _check(self, node: yaml.Node, pair: Pair) -> None:
        found = tie(pair, self.destinations, self.told)
        for name in (pair.contacthub, pair.contactsend):
            self._claim(node, pair, f"destination {name}", name)
        if found.nodes is not None:
            self._check_one(node, pair, "node", pair.contacthub, found.nodes)
        if found.databases is not None:
            self._check_one(node, pair, "user database", pair.contactsend, frozenset((each, found.api_key) for each in found.databases))
        if found.mappings is not None:
            self._check_mapping(node, pair, found.mappings)
        if found.subscriptions is not None:
            self._check_subscriptions(node, pair, found.subscriptions)
            self._warn_of_half_told(node, pair)

    def _check_one(self, node: yaml.Node, pair: Pair, what: str, destination: str, values: frozenset[Any]) -> None:
        if len(values) > 1:
            self.lines.complain(node, f"pair {pair.name}: the purposes of {destination} name more than one {what}; expected one {what} in a pair")
        for value in values:
            self._claim(node, pair, f"the {what} of {destination}", (what, value))

    def _claim(self, node: yaml.Node, pair: Pair, what: str, key: Hashable) -> None:
        owner = self._owners.setdefault(key, pair.name)
        if owner != pair.name:
            self.lines.complain(node, f"pair {pair.name}: {what} is in pair {owner} already; expected one node and one user database in one pair")

    def _check_mapping(self, node: yaml.Node, pair: Pair, mappings: frozenset[frozenset[tuple[str, str]]]) -> None:
        if len(mappings) > 1:
            self.lines.complain(node, f"pair {pair.name}: the fields of {pair.contactsend} differ by purpose; expected one mapping in a pair")
        elif not all(mappings):
            self.lines.complain(node, f"pair {pair.name}: {pair.contactsend} has no fields; expected at least one, our name: its name in the user database")

    def _check_subscriptions(self, node: yaml.Node, pair: Pair, subscriptions: Mapping[str, tuple[str, str, str]]) -> None:
        """Two purposes share both the subscription id and the webform code, or neither."""
        for (one, (its_id, its_code, _)), (other, (other_id, other_code, _)) in combinations(subscriptions.items(), 2):
            if (its_id == other_id) is not (its_code == other_code):
                shared, apart = ("subscription_id", "webform_code") if its_id == other_id else ("webform_code", "subscription_id")
                text = f"pair {pair.name}: {one} and {other} share their {shared} but not their {apart}; expected one {apart} for each {shared}"
                self.lines.complain(node, text)

    def _warn_of_half_told(self, node: yaml.Node, pair: Pair) -> None:
        hub, send = (self.told.get(name, frozenset()) for name in (pair.contacthub, pair.contactsend))
        for purposes, told, untold in ((hub - send, pair.contacthub, pair.contactsend), (send - hub, pair.contactsend, pair.contacthub)):
            self.warnings += [f"{self.lines.at(node)}: pair {pair.name}: {purpose} is told to {told} but not to {untold}" for purpose in sorted(purposes)]


def _both(hub: Destination, send: Destination, told: Told) -> frozenset[str]:
    return told.get(hub.name, frozenset()) & told.get(send.name, frozenset())


def _subscription(hub: Destination, send: Destination, purpose: str) -> tuple[str, str, str]:
    (subscription_id,) = _texts(hub.options_for(purpose), "subscription_id")
    webform_code, registration_field = _texts(send.options_for(purpose), "webform_code", "registration_field")
    return subscription_id, webform_code, registration_field


def _variants(destination: Destination, told: Told) -> Sequence[Mapping[str, Any]]:
    """The options with which a destination is told: those of each purpose, or its own where it is told of none."""
    return [destination.options_for(purpose) for purpose in sorted(told.get(destination.name, ()))] or [destination.options]


def _texts(options: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    return tuple("" if options.get(name) is None else str(options[name]) for name in names)


def _address(destination: Destination) -> str:
    """The base_url in one way of writing: letter case of scheme and host, the scheme's own port and a last slash make no difference."""
    address = urlsplit(destination.adapter.address)
    port = address.port if address.port != _DEFAULT_PORTS.get(address.scheme) else None
    return f"{address.scheme}://{address.hostname}{f':{port}' if port else ''}{address.path.rstrip('/')}"
