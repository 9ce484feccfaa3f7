"""The destinations part of the routing file: builds each vendor's adapter and finds which destinations share an account."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from pipeline.domain import EMPTY, State
from pipeline.errors import ConfigurationError
from pipeline.routing import ADOPT, CONFIRMATION_DAYS, REPORT, TELL, Destination, RetryPolicy, Trigger, purposes_by_destination
from pipeline.vendors import adapter_class, has_verb, vendor_names
from pipeline.vendors.base import Adapter, Option, Rate
from pipeline.yaml_lines import LineReader, suggestion

_DESTINATION: Final = (
    *("vendor", "base_url", "credentials", "options", "options_by_purpose", "rate", "retry"),
    *("enabled", "allow_private_network", "keep_contact_for", "limit_group", "confirmation_days", "key_expires_on", "reconcile"),
)
_RATE: Final = ("calls", "per_seconds", "concurrent")
_RECONCILE: Final = {"stricter": (REPORT, ADOPT), "missing": (REPORT, TELL)}
_RETRY: Final = ("waits_seconds", "give_up_after_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A destination before it is known what it shares its account with."""

    node: yaml.Node
    destination: Destination
    identity: tuple[Any, ...] = field(repr=False)
    limit_group: str | None
    has_own_rate: bool


class DestinationReader:
    """Reads all destinations of one file."""

    def __init__(self, lines: LineReader, purposes: Collection[str], default_retry: RetryPolicy) -> None:
        self.lines = lines
        self.purposes = purposes
        self.default_retry = default_retry

    def read(self, nodes: Mapping[str, yaml.Node], triggers: Sequence[Trigger]) -> dict[str, Destination]:
        """The destinations that are right; the others have left a complaint."""
        routed = purposes_by_destination(triggers, self.purposes)
        drafts = [draft for name, node in nodes.items() if (draft := self._draft(name, node, routed.get(name, ())))]
        found = {destination.name: destination for destination in self._with_accounts(drafts)}
        return {name: found[name] for name in nodes if name in found}

    def asked_as(self, destination: Destination, node: yaml.Node | None, source: str) -> Destination:
        """A destination as a source polls it: by credentials of its own, if reading needs others than telling; those are an account of their own."""
        if node is None:
            return destination
        adapter = destination.adapter
        credentials = self._declared(node, adapter.credentials, "credential", f"the poll of {source}")
        options = {key: value for key, value in adapter.settings.items() if value is not None}
        asking = self._adapter(node, type(adapter), adapter.address, {key: value for key, value in credentials.items() if value != ""}, [options])
        return replace(destination, adapter=asking or adapter, account=f"poll:{source}")

    def warnings(self, destinations: Mapping[str, Destination]) -> Iterator[tuple[str, str]]:
        """Pairs of destination and what a person should look at."""
        for name, destination in destinations.items():
            address = urlsplit(destination.adapter.address)
            if address.scheme == "http" and not _is_loopback(address.hostname or ""):
                yield name, f"{name} is told over plain http, where anybody on the way can read it"
            elif not destination.allow_private_network and _is_private(address.hostname or ""):
                yield name, f"{name} has a private address, which is refused; expected allow_private_network: true"

    def _draft(self, name: str, node: yaml.Node, routed: Collection[str]) -> _Draft | None:
        parts = self.lines.mapping(node, f"destination {name}", _DESTINATION)
        vendor = self._vendor(name, node, parts)
        if vendor is None:
            return None
        declared = adapter_class(vendor)
        count_before = len(self.lines.complaints)
        credentials = {key: value for key, value in self._declared(parts.get("credentials"), declared.credentials, "credential", name).items() if value != ""}
        options = self._declared(parts.get("options"), declared.options, "option", name)
        by_purpose = self._options_by_purpose(parts.get("options_by_purpose"), declared, name)
        base_url = self.lines.text(parts.get("base_url"), f"base_url of {name}") or None
        adapter = None
        if len(self.lines.complaints) == count_before:  # else a vendor would miss what stands there and cannot be read
            variants = [options, *({**options, **by_purpose.get(purpose, EMPTY)} for purpose in sorted(routed))]
            adapter = self._adapter(node, declared, base_url, credentials, variants)
        is_addressed = self._is_addressed(parts.get("base_url"), base_url, name)
        settings = self._settings(parts, declared, adapter, name)
        limit_group = self.lines.text(parts.get("limit_group"), f"limit_group of {name}")
        if adapter is None or not is_addressed:
            return None
        destination = Destination(
            name=name,
            vendor=vendor,
            adapter=adapter,
            account=name,
            options={**{key: option.default for key, option in declared.options.items()}, **options},
            options_by_purpose=by_purpose,
            **settings,
        )
        identity = (vendor, adapter.address, tuple(sorted(credentials.items())))
        return _Draft(node=node, destination=destination, identity=identity, limit_group=limit_group, has_own_rate="rate" in parts)

    def _settings(self, parts: Mapping[str, yaml.Node], declared: type[Adapter], adapter: Adapter | None, name: str) -> dict[str, Any]:
        """What is not the vendor's: read, and complained of, also where there is no adapter."""
        return {
            "rate": self._rate(parts.get("rate"), declared, adapter, name),
            "retry": self._retry(parts.get("retry"), name),
            "enabled": self.lines.flag(parts.get("enabled"), f"enabled of {name}", default=True),
            "allow_private_network": self.lines.flag(parts.get("allow_private_network"), f"allow_private_network of {name}", default=False),
            "keep_contact_for": self._keep_contact_for(parts.get("keep_contact_for"), declared, name),
            "confirmation_days": self.lines.number(parts.get("confirmation_days"), f"confirmation_days of {name}") or CONFIRMATION_DAYS,
            "key_expires_on": self.lines.day(parts.get("key_expires_on"), f"key_expires_on of {name}"),
            **self._reconcile(parts.get("reconcile"), declared, name),
        }

    def _vendor(self, name: str, node: yaml.Node, parts: Mapping[str, yaml.Node]) -> str | None:
        vendor = self.lines.text(parts.get("vendor"), f"vendor of {name}")
        if vendor is None:
            if "vendor" not in parts:
                self.lines.complain(node, f"destination {name} has no vendor; expected {', '.join(_tellable())}")
            return None
        if vendor not in vendor_names():
            self.lines.complain(parts["vendor"], f"destination {name} has an unknown vendor; {suggestion(vendor, _tellable())}")
            return None
        if not _can_tell(vendor):
            self.lines.complain(parts["vendor"], f"vendor {vendor} can only be a source and cannot be told anything; expected {', '.join(_tellable())}")
            return None
        return vendor

    def _declared(self, node: yaml.Node | None, declared: Mapping[str, Option], what: str, name: str) -> dict[str, Any]:
        """The values of declared names, each read by its declared type."""
        found = self.lines.mapping(node, f"{what}s of {name}", declared)
        values = {key: self.lines.value(item, f"{what} {key} of {name}", declared[key].type) for key, item in found.items()}
        return {key: value for key, value in values.items() if value is not None}

    def _options_by_purpose(self, node: yaml.Node | None, declared: type[Adapter], name: str) -> dict[str, dict[str, Any]]:
        found = self.lines.mapping(node, f"options_by_purpose of {name}", self.purposes)
        return {purpose: self._declared(item, declared.options, "option", f"{name} for {purpose}") for purpose, item in found.items()}

    def _adapter(
        self, node: yaml.Node, declared: type[Adapter], base_url: str | None, credentials: Mapping[str, str], variants: Sequence[Mapping[str, Any]]
    ) -> Adapter | None:
        """The adapter with the destination's own options, or with those of a purpose where only the purposes make them complete.

        The options of every purpose it is told of must do; without any, its own must.
        """
        built: dict[int, Adapter] = {}
        complaints: list[str] = []
        for index, options in enumerate(variants):
            try:
                built[index] = declared(base_url=base_url, credentials=credentials, options=options)
            except ConfigurationError as error:
                if index > 0 or len(variants) == 1:
                    complaints.append(str(error))
        if not complaints and (conflict := declared.conflict([adapter for index, adapter in built.items() if index > 0])):
            complaints.append(conflict)
        for complaint in dict.fromkeys(complaints):
            self.lines.complain(node, complaint)
        return next(iter(built.values())) if built and not complaints else None

    def _is_addressed(self, node: yaml.Node | None, text: str | None, name: str) -> bool:
        if node is None or text is None:
            return True
        try:
            address = urlsplit(text)
            is_usable = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:
            is_usable = False
        if not is_usable or address.username is not None or address.query or address.fragment or not text.isascii() or " " in text:
            self.lines.complain(node, f"base_url of {name} is not usable; expected http(s)://host[:port][/path] without user, query and fragment")
            return False
        return True

    def _rate(self, node: yaml.Node | None, vendor: type[Adapter], adapter: Adapter | None, name: str) -> Rate:
        declared = vendor.rate
        parts = self.lines.mapping(node, f"rate of {name}", _RATE)
        rate = Rate(
            calls=self.lines.whole(parts.get("calls"), f"rate calls of {name}", least=1) or declared.calls,
            per_seconds=self.lines.number(parts.get("per_seconds"), f"rate per_seconds of {name}") or declared.per_seconds,
            concurrent=self.lines.whole(parts.get("concurrent"), f"rate concurrent of {name}", least=1) or declared.concurrent,
        )
        most_calls = max(adapter.most_calls(state) for state in State) if adapter else 0  # how many goes by the credentials
        if node is not None and rate.calls is not None and rate.calls < most_calls:
            self.lines.complain(
                node, f"rate calls of {name} is less than one dialogue may make; expected {most_calls} or more (a longer per_seconds is slower)"
            )
        return rate

    def _retry(self, node: yaml.Node | None, name: str) -> RetryPolicy:
        parts = self.lines.mapping(node, f"retry of {name}", _RETRY)
        waits = [self.lines.number(item, f"each wait of {name}") for item in self.lines.items(parts.get("waits_seconds"), f"waits_seconds of {name}")]
        if "waits_seconds" in parts and not waits:
            self.lines.complain(parts["waits_seconds"], f"waits_seconds of {name} is empty; expected the seconds between attempts")
        return RetryPolicy(
            waits_seconds=tuple(wait for wait in waits if wait) or self.default_retry.waits_seconds,
            give_up_after_seconds=self.lines.number(parts.get("give_up_after_seconds"), f"give_up_after_seconds of {name}")
            or self.default_retry.give_up_after_seconds,
        )

    def _reconcile(self, node: yaml.Node | None, declared: type[Adapter], name: str) -> dict[str, Any]:
        """What follows where the vendor is found to hold something else than the standing."""
        parts = self.lines.mapping(node, f"reconcile of {name}", _RECONCILE)
        if node is not None and not declared.capabilities.reads_back:
            self.lines.complain(node, f"reconcile of {name} has no meaning, as its vendor cannot be asked what it holds; expected none")
        policy = {what: self.lines.choice(parts.get(what), f"{what} in reconcile of {name}", allowed) or REPORT for what, allowed in _RECONCILE.items()}
        if policy["missing"] == TELL and declared.capabilities.double_opt_in:
            self.lines.complain(parts["missing"], f"missing in reconcile of {name} cannot be tell: its vendor would mail the person again; expected report")
        return {f"when_{what}": wanted for what, wanted in policy.items()}

    def _keep_contact_for(self, node: yaml.Node | None, declared: type[Adapter], name: str) -> frozenset[str]:
        if node is not None and declared.capabilities.scope != "contact":
            self.lines.complain(node, f"keep_contact_for of {name} has no meaning, as its vendor keeps a state for each purpose; expected none")
        pairs = self.lines.texts(node, f"keep_contact_for of {name}", may_be_single=True)
        for item, purpose in pairs:
            if purpose not in self.purposes:
                self.lines.complain(item, f"unknown purpose {item.value!r} in keep_contact_for of {name}; {suggestion(purpose, self.purposes)}")
        return frozenset(purpose for _, purpose in pairs)

    def _with_accounts(self, drafts: Sequence[_Draft]) -> Iterator[Destination]:
        firsts: dict[tuple[Any, ...], str] = {}
        for draft in sorted((draft for draft in drafts if draft.limit_group is None), key=lambda draft: draft.destination.name):
            firsts.setdefault(draft.identity, draft.destination.name)
        members: dict[str, list[_Draft]] = {}
        for draft in drafts:
            members.setdefault(draft.limit_group or firsts[draft.identity], []).append(draft)
        for account, group in members.items():
            self._check_session(account, group)
            rate = self._shared_rate(account, group)
            yield from (replace(draft.destination, account=account, rate=rate) for draft in group)

    def _check_session(self, account: str, group: Sequence[_Draft]) -> None:
        """A session belongs to an account, so a group of several credentials must do without."""
        if len({draft.identity for draft in group}) > 1 and any(draft.destination.adapter.needs_session() for draft in group):
            self.lines.complain(group[0].node, f"limit_group {account!r} joins other credentials with a vendor that signs in; expected equal credentials")

    def _shared_rate(self, account: str, group: Sequence[_Draft]) -> Rate:
        rates = {draft.destination.rate for draft in group if draft.has_own_rate} or {draft.destination.rate for draft in group}
        if len(rates) > 1:
            names = ", ".join(draft.destination.name for draft in group)
            self.lines.complain(group[-1].node, f"{names} share the account {account} but not the rate; expected one rate for all of them")
        return next(iter(rates))


def _can_tell(vendor: str) -> bool:
    return has_verb(vendor, "tell") and bool(adapter_class(vendor).capabilities.states)


def _tellable() -> list[str]:
    return [vendor for vendor in vendor_names() if _can_tell(vendor)]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return _is_loopback(host)
