"""What a person should look at in a routing file that is good: nothing of it stops the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pipeline.domain import State
from pipeline.routing import Destination, Purpose, Source, Trigger, purposes_by_destination

SOURCES: Final = "sources"
PURPOSES: Final = "purposes"
DESTINATIONS: Final = "destinations"

Warned = Iterator[tuple[str, str, str]]
"""Part of the file, name in it, and what is to be looked at."""


def doubts(sources: Mapping[str, Source], purposes: Mapping[str, Purpose], destinations: Mapping[str, Destination], triggers: tuple[Trigger, ...]) -> Warned:
    """Everything that reads as if it were not meant so."""
    told = purposes_by_destination(triggers, purposes)
    for source in sources.values():
        yield from _of_source(source, sources, destinations, told)
    for purpose in purposes:
        if not any(trigger.concerns(purpose, state) for trigger in triggers for state in State):
            yield PURPOSES, purpose, f"no trigger tells anybody of purpose {purpose}"
        for destination in destinations:
            if _lacks_withdrawal(purpose, destination, triggers):
                yield DESTINATIONS, destination, f"{destination} is told given for {purpose} but no trigger tells it of every withdrawal"


def _of_source(source: Source, sources: Mapping[str, Source], destinations: Mapping[str, Destination], told: Mapping[str, frozenset[str]]) -> Warned:
    if not source.is_open:
        yield SOURCES, source.name, f"source {source.name} has no key, so nobody can send as it"
    for destination in destinations.values():
        shared = ", ".join(sorted(told.get(destination.name, frozenset()).intersection(source.purposes.values())))
        if source.kind == destination.vendor and shared and not any(destination.name in each.origin for each in sources.values()):
            text = f"source {source.name} hears {source.kind}, and no origin names {destination.name}, which is told of {shared}"
            yield SOURCES, source.name, f"{text}: our own word coming back would count as news"
    if source.poll is not None and source.poll.asked.adapter.polls_undated(source.settings()):
        text = f"source {source.name} shows states without saying since when: whoever stands withdrawn at {source.poll.asked.name} when it is polled"
        yield SOURCES, source.name, f"{text} for the first time withdraws now, for every destination; bring its state in line before"


def _lacks_withdrawal(purpose: str, destination: str, triggers: tuple[Trigger, ...]) -> bool:
    mine = [trigger for trigger in triggers if destination in trigger.deliver_to]
    withdrawing = [trigger for trigger in mine if trigger.concerns(purpose, State.WITHDRAWN)]
    giving = (trigger for trigger in mine if trigger.concerns(purpose, State.GIVEN))
    return any(not any(other.when.covers(trigger.when) for other in withdrawing) for trigger in giving)
