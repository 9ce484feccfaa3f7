"""`consent doctor`: what stands in the way, one finding for each thing that must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kombu.exceptions import OperationalError

from config.logging import describe, mask
from config.settings import SettingsError
from pipeline.domain import State
from pipeline.errors import ConsentRelayError
from workers.queues import queue_names
from workers.wiring import Parts

BEAT_SECONDS: Final = 15.0
"""Beat releases every second; this long without it means that beat or every worker is away."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `note` marks what an operator should know and what is no fault."""

    name: str
    good: bool
    text: str
    note: bool = False

    @property
    def mark(self) -> str:
        return "FAIL" if not self.good else "note" if self.note else "ok"


class NotWell(Exception):
    """A check found something wrong."""


class Noted(Exception):
    """A check found something to be known that is no fault."""


Check = Callable[[Parts], str]


def examine(parts: Parts, what: str | None = None) -> list[Finding]:
    """All findings, or those for the health check of one kind of process."""
    running: dict[str, Check] = {"worker": _workers, "beat": _beat}
    if what:
        return [_finding(what, running[what], parts)]
    found = [Finding("settings", good=True, text="good"), Finding("routing", good=True, text=str(parts.settings.routing_path()))]
    found += _findings(parts, {"secrets": _secrets, "ledger": _ledger, "broker": _broker, **running})
    if all(finding.good for finding in found if finding.name in ("secrets", "ledger")):
        found += _findings(parts, {"dead letters": _dead_letters, "accounts": _accounts, "paused": _paused, "overdue": _overdue})
    return found


def _findings(parts: Parts, checks: Mapping[str, Check]) -> Iterator[Finding]:
    for name, check in checks.items():
        yield _finding(name, check, parts)


def _finding(name: str, check: Check, parts: Parts) -> Finding:
    try:
        return Finding(name, good=True, text=check(parts))
    except Noted as noted:
        return Finding(name, good=True, text=str(noted), note=True)
    except Exception as error:  # noqa: BLE001 - any failure is the finding
        return Finding(name, good=False, text=_in_words(error))


def _in_words(error: Exception) -> str:
    """What an operator reads of a failure; somebody else's text may quote what it was given and is left out."""
    if isinstance(error, NotWell | SettingsError | ConsentRelayError):
        return mask(str(error))
    if isinstance(error, OperationalError | OSError):
        return "the broker cannot be reached (CONSENT_BROKER_URL; by default the server of CONSENT_REDIS_URL)"
    return f"could not be looked at: {describe(error)}"


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
    return f"answers; waiting: {_counted(waiting) or 'nothing'}"


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


def _dead_letters(parts: Parts) -> str:
    counts: dict[str, dict[str, int]] = {state.value: {} for state in State}
    for destination, state, _, count in parts.desk.gauges().dead_letters:
        counts[state][destination] = counts[state].get(destination, 0) + count
    if withdrawn := counts[State.WITHDRAWN]:
        raise NotWell(f"withdrawals that nobody will tell unless you act: {_counted(withdrawn)} (`consent dead list --state withdrawn`)")
    if given := counts[State.GIVEN]:
        raise Noted(f"no withdrawals; given: {_counted(given)} (`consent dead list`)")
    return "none"


def _accounts(parts: Parts) -> str:
    accounts = sorted({destination.account for destination in parts.routing.destinations.values()})
    reasons = {account: parts.ledger.accounts.open_because(account) for account in accounts}
    refused = [account for account, reason in reasons.items() if reason == "misconfigured"]
    failing = [account for account, reason in reasons.items() if reason and reason != "misconfigured"]
    held_back = f"calls to {', '.join(failing)} are held back after failures"
    if refused:
        raise NotWell(f"{', '.join(refused)} refused our credentials or settings" + (f"; {held_back}" if failing else ""))
    if failing:
        raise Noted(held_back)
    return "none is held back"


def _paused(parts: Parts) -> str:
    waiting = {name: 0 for name, is_paused in parts.desk.gauges().paused.items() if is_paused}
    for name, _, count in parts.desk.gauges().waiting:
        if name in waiting:
            waiting[name] += count
    if waiting:
        raise Noted(f"deliveries wait at paused or disabled destinations: {_counted(waiting)} (`consent destination resume`, or `enabled` in the routing file)")
    return "none"


def _overdue(parts: Parts) -> str:
    if names := parts.desk.overdue():
        raise NotWell(f"deliveries to {', '.join(names)} do not progress: are workers running, and is the broker well?")
    return "nothing"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
