"""Computes every figure that operators watch from the ledger, so that it is right whichever process is asked and after any crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.expiry import key_expiries
from pipeline.ledger import Ledger
from pipeline.ledger.keys import LANES
from pipeline.metrics import LatencyHistogram, MetricsSnapshot
from pipeline.routing import Routing
from pipeline.settle import LATENCY_BUCKETS_SECONDS


def collect(ledger: Ledger, routing: Routing) -> MetricsSnapshot:
    """One snapshot; reads a few keys for each destination and partition, never a whole index."""
    events = ledger.events.counts()
    names = sorted({*ledger.deliveries.known_destinations(), *routing.destinations})
    figures = {name: ledger.deliveries.figures(name) for name in names}
    now_ms = ledger.clock_ms()
    return MetricsSnapshot(
        unaccounted=unaccounted(events, {name: (figure["counters"], figure["waiting"]) for name, figure in figures.items()}),
        rescued_total=events["rescued"] + sum(int(figure["counters"].get("rescued", 0)) for figure in figures.values()),
        stale_sends_total=ledger.stale_sends(),
        deliveries=[
            (name, outcome, state, int(count))
            for name, figure in figures.items()
            for field, count in sorted(figure["counters"].items())
            if field.startswith("o|")
            for _, outcome, state in [field.split("|")]
        ],
        dead_letters=[(name, state, reason, count) for name in names for (state, reason), count in sorted(ledger.deliveries.dead_counts(name).items())],
        oldest_untold_withdrawal_seconds={
            name: max(0.0, (now_ms - figure["oldest_untold_ms"]) / 1000) if figure["oldest_untold_ms"] else 0.0 for name, figure in figures.items()
        },
        last_beat_seconds=ledger.last_beat_seconds(),
        accept_to_told=_latency([figure["counters"] for figure in figures.values()]),
        waiting=[(name, lane, figure["waiting"][lane]) for name, figure in figures.items() for lane in LANES],
        breaker_open={account: ledger.accounts.gate_is_open(account) for account in sorted({each.account for each in routing.destinations.values()})},
        paused={name: figure["paused"] or not _is_enabled(routing, name) for name, figure in figures.items()},
        key_expires_in_days={expiry.destination: expiry.days for expiry in key_expiries(routing, ledger.now().date())},
        events={"accepted": events["accepted"], "duplicate": events["duplicates"]},
        last_heard_seconds=last_heard_seconds(ledger, routing),
        quarantined=ledger.quarantine is not None,
        evidence_waiting_seconds=ledger.outbox.waiting().oldest_seconds,
        last_backup_seconds=last_backup_seconds(ledger),
        **_drift(ledger, [name for name, each in routing.destinations.items() if each.adapter.capabilities.reads_back]),
    )


def _drift(ledger: Ledger, names: Sequence[str]) -> dict[str, Any]:
    """What comparing has found, by destination; how something was repaired is counted beside, as `class:how`."""
    figures = {name: ledger.sweeps.figures(name) for name in names}
    repaired: Counter[tuple[str, str]] = Counter()
    for name, each in figures.items():
        for field, count in each.total.items():
            if ":" in field:
                repaired[name, field.partition(":")[2]] += count
    return {
        "drift": [
            (name, mode, field, count)
            for name, each in figures.items()
            for mode, counts in each.last_by_mode.items()
            for field, count in counts.items()
            if ":" not in field
        ],
        "drift_found": [(name, field, count) for name, each in figures.items() for field, count in each.total.items() if ":" not in field],
        "drift_repaired": [(name, how, count) for (name, how), count in sorted(repaired.items())],
        "last_sweep_seconds": {name: (ledger.clock_ms() - each.full_ms) / 1000 for name, each in figures.items() if each.full_ms},
    }


def last_backup_seconds(ledger: Ledger) -> float | None:
    """How old the newest backup is, None if there was none yet."""
    at_ms = ledger.lookout.backed_up_ms
    return max(0.0, (ledger.clock_ms() - at_ms) / 1000) if at_ms else None


def last_heard_seconds(ledger: Ledger, routing: Routing) -> dict[str, float]:
    """How long ago each polled source could be heard; one that never could, since the ledger was made."""
    polled = [source.name for source in routing.sources.values() if source.poll is not None]
    heard = ledger.polls.heard_ms(polled)
    return {name: max(0, ledger.now_ms() - at_ms) / 1000 if at_ms else ledger.age_seconds() for name, at_ms in zip(polled, heard, strict=True)}


def _is_enabled(routing: Routing, name: str) -> bool:
    destination = routing.destinations.get(name)
    return destination is None or destination.enabled


def unaccounted(events: Mapping[str, int], destinations: Mapping[str, tuple[Mapping[str, float], Mapping[str, int]]]) -> int:
    """Accepted events that are neither finished nor in the open index, and planned deliveries that are neither done nor in an index; always 0.

    `destinations`: name -> (counters, unfinished deliveries by lane).
    """
    lost = abs(events["accepted"] - events["finished"] - events["open"])
    for counters, waiting in destinations.values():
        lost += abs(int(counters.get("planned", 0) - counters.get("done", 0)) - sum(waiting.values()))
    return lost


def _latency(counters: list[Mapping[str, float]]) -> LatencyHistogram:
    buckets, total = [], 0
    for bound in LATENCY_BUCKETS_SECONDS:
        total += sum(int(each.get(f"h|{bound}", 0)) for each in counters)
        buckets.append((bound, total))
    told = sum(int(each.get("told", 0)) for each in counters)
    return LatencyHistogram(buckets=buckets, sum_seconds=sum(each.get("told_seconds", 0.0) for each in counters), count=told)
