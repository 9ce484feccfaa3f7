"""`consent doctor`: what stands in the way, one finding for each thing that must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kombu.exceptions import OperationalError

from config.logging import describe, mask
from config.settings import SettingsError
from pipeline.domain import Outcome, State
from pipeline.errors import ConfigurationError, ConsentRelayError
from pipeline.expiry import NOTICE_DAYS, key_expiries
from pipeline.figures import last_heard_seconds
from pipeline.probing import Probed
from pipeline.routing import Routing, Source
from workers.counting import counted
from workers.queues import queue_names
from workers.wiring import Parts

BEAT_SECONDS: Final = 15.0
"""Beat releases every second; this long without it means that beat or every worker is away."""


SOURCE_SECONDS: Final = 60.0
"""How long a polled source may be silent at least, however often it is asked."""


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


def examine(parts: Parts, what: str | None = None, *, ask_vendors: bool = False) -> list[Finding]:
    """All findings, or those for the health check of one kind of process; vendors are asked only where it is wanted."""
    running: dict[str, Check] = {"worker": _workers, "beat": _beat}
    routing = _finding("routing", _routing, parts)
    if what:
        return [_finding(what, running[what], parts)]
    found = [Finding("settings", good=True, text="good"), routing, *_findings(parts, {"secrets": _secrets, "ledger": _ledger, "broker": _broker, **running})]
    by_routing: dict[str, Check] = {"accounts": _accounts, "overdue": _overdue, "sources": _sources, "keys": _keys}
    if all(finding.good for finding in found if finding.name in ("secrets", "ledger")):
        found += _findings(parts, {"dead letters": _dead_letters, "paused": _paused, "evidence": _evidence, **(by_routing if routing.good else {})})
        if ask_vendors and routing.good:
            return [*found, *vendor_findings(parts.prober.run())]
    if not routing.good:
        return [*found, Finding(", ".join((*by_routing, "vendors")), good=True, text="not looked at, as the routing file is wrong", note=True)]
    why = "their limits are kept in the ledger" if ask_vendors else "`consent doctor --vendors` asks them"
    return [*found, Finding("vendors", good=True, text=f"not asked ({why})", note=True)]


def vendor_findings(probed: Iterable[Probed]) -> Iterator[Finding]:
    """One finding for each destination: what works, and what does not and why."""
    by_destination: dict[str, list[Probed]] = {}
    for each in probed:
        by_destination.setdefault(each.destination, []).append(each)
    for name, tried in by_destination.items():
        said: dict[str, list[str]] = {}
        for each in tried:
            said.setdefault(_word(each), []).append(each.what)
        text = "; ".join(f"{', '.join(dict.fromkeys(filter(None, whats)))} {word}".strip() for word, whats in said.items())
        yield Finding(f"vendor {name}", good=all(each.works or _is_open(each) for each in tried), text=text, note=any(map(_is_open, tried)))


def _is_open(probed: Probed) -> bool:
    """Whether nothing came of a probe, neither good nor bad."""
    return probed.result is None or probed.result.outcome is Outcome.THROTTLED


def _word(probed: Probed) -> str:
    """What came of a probe, in words; the reason is a code of ours and quotes nobody."""
    result = probed.result
    if result is None:
        return f"not asked: {probed.untried}"
    if probed.works:
        return "works"
    where = f" for {', '.join(probed.purposes)}" if probed.purposes else ""
    if result.reason.startswith("http_403"):
        return f"is missing{where} ({result.reason})"
    words = {
        Outcome.THROTTLED: "was put off",
        Outcome.UNAVAILABLE: "could not be reached",
        Outcome.MISCONFIGURED: "refused: look at credentials, options and base_url",
    }
    return f"{words.get(result.outcome, 'refused')}{where} ({result.reason})"


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
        return mask("; ".join(str(error).splitlines()))
    if isinstance(error, OperationalError | OSError):
        return "the broker cannot be reached (CONSENT_BROKER_URL; by default the server of CONSENT_REDIS_URL)"
    return f"could not be looked at: {describe(error)}"


def _routing(parts: Parts) -> str:
    """Where the file is wrong the relay may run on by the old one, which nobody else knows: the other checks go by none."""
    try:
        parts.routing = parts.read_routing()
    except ConfigurationError:
        parts.routing = Routing(version_hash="", sources={}, purposes={}, destinations={}, triggers=())
        raise
    return str(parts.settings.routing_path())


def _secrets(parts: Parts) -> str:
    parts.settings.pepper()
    return f"pepper and {counted(len(parts.settings.keys_of_vault()), 'vault key')} can be read"


def _ledger(parts: Parts) -> str:
    parts.ledger.ping()
    if notices := parts.desk.notices():
        raise NotWell("; ".join(notices))
    found = f"id {parts.ledger.identity.ledger_id}, durability {parts.ledger.durability.mode}"
    if parts.ledger.store.nodes.is_spread and parts.ledger.identity.partitions == 1:
        raise Noted(f"{found}; it lies on a cluster and has 1 partition: all events are on one node, and all identifiers on one")
    nodes = parts.ledger.store.nodes
    if not (nodes.is_spread or nodes.replicates) and any(reply[0].get("connected_slaves") for reply in parts.ledger.store.on_each([("INFO", "replication")])):
        raise Noted(f"{found}; its server has replicas that no 202 waits for: where one may be promoted, name its Sentinels in CONSENT_REDIS_URL (sentinel://)")
    return found


def _broker(parts: Parts) -> str:
    with parts.app.connection_for_read(connect_timeout=3) as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
    if not parts.routing.destinations:
        return "answers"
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


def _keys(parts: Parts) -> str:
    expiries = key_expiries(parts.routing, parts.ledger.now().date())
    near = "; ".join(str(expiry) for expiry in expiries if expiry.is_near)
    if any(expiry.is_past for expiry in expiries):
        raise NotWell(near)
    if near:
        raise Noted(near)
    return f"none expires within {NOTICE_DAYS} days" if expiries else "no destination has key_expires_on"


def _evidence(parts: Parts) -> str:
    """Whether evidence is archived as it should be; the archive itself is asked only by whoever writes to it."""
    if not parts.settings.evidence_url():
        raise Noted("none is kept: set CONSENT_EVIDENCE_URL")
    waiting, section = parts.ledger.outbox.waiting(), parts.settings.evidence
    said = f"{counted(waiting.entries, 'entry', 'entries')} waiting, the oldest for {waiting.oldest_seconds:.0f} s, {waiting.megabytes:.1f} MB"
    if waiting.oldest_seconds >= section.alert_seconds or waiting.megabytes >= section.alert_megabytes:
        raise NotWell(f"{said}: is its archive reachable, and the one it was? The log's alert evidence_not_archived says why")
    return said


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


def _sources(parts: Parts) -> str:
    """Every polled source could be heard within the last few turns, unless its pair rests."""
    routing, seconds = parts.routing, last_heard_seconds(parts.ledger, parts.routing)
    if not seconds:
        return "none is polled"
    resting = sorted(name for name in seconds if routing.rests(routing.sources[name]))
    deaf = {name: ago for name, ago in seconds.items() if name not in resting and ago > _patience(routing.sources[name])}
    if deaf:
        text = ", ".join(f"{name} (not for {ago:.0f} seconds)" for name, ago in sorted(deaf.items()))
        raise NotWell(f"cannot be heard: {text}; the log says why (`source_not_heard`, `not_heard`)")
    unreadable = dict(zip(seconds, parts.ledger.polls.unreadable(list(seconds)), strict=True))
    if any(unreadable.values()):
        raise Noted(
            f"changes that could not be read so far: {_counted({name: count for name, count in unreadable.items() if count})} (alert `heard_unreadable`)"
        )
    if resting:
        raise Noted(f"not polled, as a pair of theirs is not enabled: {', '.join(resting)}")
    return f"heard: {', '.join(sorted(seconds))}"


def _patience(source: Source) -> float:
    return max(SOURCE_SECONDS, 3 * source.poll.every_seconds) if source.poll else SOURCE_SECONDS


def _overdue(parts: Parts) -> str:
    if names := parts.desk.overdue():
        raise NotWell(f"deliveries to {', '.join(names)} do not progress: are workers running, and is the broker well?")
    return "nothing"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
