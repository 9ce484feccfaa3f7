"""`consent doctor`: what stands in the way, one finding for each thing that must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from config.logging import describe
from workers.queues import queue_names
from workers.wiring import Parts

BEAT_SECONDS: Final = 15.0
"""Beat releases every second; this long without it means that beat or every worker is away."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    good: bool
    text: str


def examine(parts: Parts, what: str | None = None) -> list[Finding]:
    """All findings, or those for the health check of one kind of process."""
    checks: dict[str, Callable[[Parts], str]] = {"worker": _workers, "beat": _beat}
    if what:
        return [_finding(what, checks[what], parts)]
    return [Finding("settings", good=True, text="good"), Finding("routing", good=True, text=str(parts.settings.routing_path())), *_findings(parts, checks)]


def _findings(parts: Parts, checks: dict[str, Callable[[Parts], str]]) -> Iterator[Finding]:
    for name, check in {"secrets": _secrets, "ledger": _ledger, "broker": _broker, **checks}.items():
        yield _finding(name, check, parts)


def _finding(name: str, check: Callable[[Parts], str], parts: Parts) -> Finding:
    try:
        return Finding(name, good=True, text=check(parts))
    except Exception as error:  # noqa: BLE001 - any failure is the finding
        return Finding(name, good=False, text=describe(error))


class NotWell(Exception):
    """A check found something wrong."""


def _secrets(parts: Parts) -> str:
    parts.settings.pepper()
    return f"pepper and {len(parts.settings.keys_of_vault())} vault key(s) can be read"


def _ledger(parts: Parts) -> str:
    parts.ledger.ping()
    return f"id {parts.ledger.identity.ledger_id}, durability {parts.ledger.durability.mode}"


def _broker(parts: Parts) -> str:
    with parts.app.connection_for_read(connect_timeout=3) as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
    waiting = {name: depth for name in queue_names(parts.routing.destinations) if (depth := parts.publisher.queue_depth(name))}
    return "answers; waiting: " + (", ".join(f"{name} {depth}" for name, depth in waiting.items()) or "nothing")


def _workers(parts: Parts) -> str:
    found = parts.app.control.ping(timeout=2.0)
    names = sorted(name for answer in found for name in answer)
    if not names:
        raise NotWell("no worker answers: is `consent worker` running?")
    return ", ".join(names)


def _beat(parts: Parts) -> str:
    seconds = parts.ledger.last_beat_seconds()
    if seconds is None or seconds > BEAT_SECONDS:
        raise NotWell("nothing was released lately: are `consent beat` and a worker running?")
    return f"last release {seconds:.1f} seconds ago"
