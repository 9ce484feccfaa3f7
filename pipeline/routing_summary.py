"""The routing in words, for a person who checks it."""

from __future__ import annotations

from pipeline.routing import Destination, Pair, Routing, Source, Trigger


def describe(routing: Routing) -> list[str]:
    """The routing in lines for a person: sources, destinations with account and rate, pairs, triggers; no secret in them."""
    lines = [f"routing {routing.version_hash}", "sources"]
    lines += [
        f"  {source.name}: {source.kind}, keys: {len(source.keys) + len(source.url_keys)}, {' '.join(sorted(source.scopes))}{_describe_origin(source)}"
        for source in routing.sources.values()
    ]
    lines.append("purposes")
    lines += [f"  {purpose.name}: {purpose.title}" for purpose in routing.purposes.values()]
    lines.append("destinations")
    lines += [_describe_destination(routing, destination) for destination in routing.destinations.values()]
    lines += ["pairs"] * bool(routing.pairs)
    lines += [_describe_pair(pair) for pair in routing.pairs.values()]
    lines.append("triggers")
    lines += [f"  {_describe_trigger(trigger)} -> {', '.join(trigger.deliver_to)}" for trigger in routing.triggers]
    return lines + [f"warning: {warning}" for warning in routing.warnings]


def _describe_origin(source: Source) -> str:
    polled = f", {source.poll.asked.name} is polled every {source.poll.every_seconds:g} s" if source.poll else ""
    return f"{polled}, speaks for {', '.join(source.origin)}" if source.origin else polled


def _describe_destination(routing: Routing, destination: Destination) -> str:
    rate = destination.rate
    calls = f"{rate.calls} calls per {rate.per_seconds:g} s" if rate.calls is not None else "no known limit"
    purposes = ", ".join(sorted(routing.purposes_of(destination.name))) or "nothing"
    state = "" if destination.enabled else ", disabled (deliveries wait)"
    return f"  {destination.name}: {destination.vendor}, account {destination.account}, {calls}, {rate.concurrent} at once, told of {purposes}{state}"


def _describe_pair(pair: Pair) -> str:
    description = f" ({pair.description})" if pair.description else ""
    state = "" if pair.enabled else ", disabled (sources that poll either side rest)"
    return f"  {pair.name}: {pair.contacthub} <-> {pair.contactsend}{description}{state}"


def _describe_trigger(trigger: Trigger) -> str:
    purposes = "every purpose" if trigger.purposes is None else ", ".join(sorted(trigger.purposes))
    named = (("source", trigger.when.source), ("country", trigger.when.country), ("group", trigger.when.group))
    conditions = [f"{name} {' or '.join(sorted(values))}" for name, values in named if values is not None]
    return " ".join([purposes, "and".join(f" {state} " for state in sorted(trigger.states)).strip(), *(f"when {condition}" for condition in conditions)])
