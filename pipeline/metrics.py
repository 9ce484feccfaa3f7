"""What operators watch, in the Prometheus text format, from one snapshot of the ledger.

Nothing is counted in a process: every figure comes from the ledger, so it is the same whichever process is asked and survives all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyHistogram:
    """Times from accept to told: `buckets` are (upper bound in seconds, cumulative count), without the one for infinity."""

    buckets: Sequence[tuple[float, int]] = ()
    sum_seconds: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSnapshot:
    """Every figure at one moment; names of destinations, accounts and reasons only, never a person.

    `deliveries` are (destination, outcome, state, count), `dead_letters` (destination, state, reason, count), `waiting` (destination, lane, count).
    `last_beat_seconds` is the age of the last beat, None if there was none yet. `drift` is (destination, mode, class, people) of the last sample and the last full sweep
    that ended, `drift_found` (destination, class, people) of all, `drift_repaired` (destination, how, count), `last_sweep_seconds` the age of the last full sweep.
    """

    unaccounted: int = 0
    rescued_total: int = 0
    stale_sends_total: int = 0
    deliveries: Sequence[tuple[str, str, str, int]] = ()
    dead_letters: Sequence[tuple[str, str, str, int]] = ()
    oldest_untold_withdrawal_seconds: Mapping[str, float] = field(default_factory=dict)
    last_beat_seconds: float | None = None
    accept_to_told: LatencyHistogram = LatencyHistogram()
    waiting: Sequence[tuple[str, str, int]] = ()
    breaker_open: Mapping[str, bool] = field(default_factory=dict)
    paused: Mapping[str, bool] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    last_heard_seconds: Mapping[str, float] = field(default_factory=dict)
    key_expires_in_days: Mapping[str, int] = field(default_factory=dict)
    quarantined: bool = False
    drift: Sequence[tuple[str, str, str, int]] = ()
    drift_found: Sequence[tuple[str, str, int]] = ()
    drift_repaired: Sequence[tuple[str, str, int]] = ()
    last_sweep_seconds: Mapping[str, float] = field(default_factory=dict)
    evidence_waiting_seconds: float = 0.0
    ready: bool | None = None
    last_backup_seconds: float | None = None


def render_metrics(snapshot: MetricsSnapshot) -> bytes:
    """The snapshot in the text format of Prometheus (`CONTENT_TYPE`)."""
    registry = CollectorRegistry()
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: MetricsSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from self._totals()
        yield from self._by_destination()
        yield from self._by_source()
        yield from self._drift()
        yield self._latency()

    def _totals(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield GaugeMetricFamily("consent_evidence_waiting_seconds", "Age of the oldest evidence that is not archived yet.", snapshot.evidence_waiting_seconds)
        yield GaugeMetricFamily("consent_unaccounted", "Unfinished events and deliveries that no index would bring back; always 0.", snapshot.unaccounted)
        yield CounterMetricFamily("consent_rescued", "Work brought back by the ledger after a lost message or a dead worker.", snapshot.rescued_total)
        yield CounterMetricFamily(
            "consent_stale_sends", "Requests that went out after a newer word was accepted; each was corrected.", snapshot.stale_sends_total
        )
        if snapshot.ready is not None:
            yield GaugeMetricFamily("consent_ready", "1 if events can be taken and work progresses, as /health/ready says.", int(snapshot.ready))
        yield GaugeMetricFamily("consent_quarantined", "1 while the ledger may have forgotten withdrawals and tells no `given`.", int(snapshot.quarantined))
        if snapshot.last_beat_seconds is not None:
            yield GaugeMetricFamily("consent_last_beat_seconds", "Seconds since the beat last released due work.", snapshot.last_beat_seconds)
        if snapshot.last_backup_seconds is not None:
            yield GaugeMetricFamily("consent_last_backup_seconds", "Seconds since the moment of the newest backup.", snapshot.last_backup_seconds)
        events = CounterMetricFamily("consent_events", "Events received, by the status they were answered with.", labels=("status",))
        for status, count in sorted(snapshot.events.items()):
            events.add_metric((status,), count)
        yield events

    def _by_destination(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        deliveries = CounterMetricFamily("consent_deliveries", "Deliveries settled.", labels=("destination", "outcome", "state"))
        for destination, outcome, state, count in snapshot.deliveries:
            deliveries.add_metric((destination, outcome, state), count)
        dead = GaugeMetricFamily("consent_dead_letters", "Deliveries given up and not yet replayed or discarded.", labels=("destination", "state", "reason"))
        for destination, state, reason, count in snapshot.dead_letters:
            dead.add_metric((destination, state, reason), count)
        waiting = GaugeMetricFamily("consent_waiting", "Deliveries that wait for their time.", labels=("destination", "lane"))
        for destination, lane, count in snapshot.waiting:
            waiting.add_metric((destination, lane), count)
        oldest = GaugeMetricFamily("consent_oldest_untold_withdrawal_seconds", "Age of the oldest withdrawal not yet told.", labels=("destination",))
        for destination, seconds in sorted(snapshot.oldest_untold_withdrawal_seconds.items()):
            oldest.add_metric((destination,), seconds)
        breakers = GaugeMetricFamily("consent_breaker_open", "1 while calls to an account are held back after failures.", labels=("account",))
        for account, is_open in sorted(snapshot.breaker_open.items()):
            breakers.add_metric((account,), int(is_open))
        paused = GaugeMetricFamily("consent_paused", "1 while a destination is told nothing because a person paused or disabled it.", labels=("destination",))
        for destination, is_paused in sorted(snapshot.paused.items()):
            paused.add_metric((destination,), int(is_paused))
        keys = GaugeMetricFamily("consent_key_expires_in_days", "Days until the key of a destination expires; 0 or less once it has.", labels=("destination",))
        for destination, days in sorted(snapshot.key_expires_in_days.items()):
            keys.add_metric((destination,), days)
        yield from (deliveries, dead, waiting, oldest, breakers, paused, keys)

    def _by_source(self) -> Iterator[Metric]:
        heard = GaugeMetricFamily("consent_last_heard_seconds", "Seconds since a polled source could last be heard.", labels=("source",))
        for source, seconds in sorted(self._snapshot.last_heard_seconds.items()):
            heard.add_metric((source,), seconds)
        yield heard

    def _drift(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        drift = GaugeMetricFamily(
            "consent_drift", "What vendors were found to hold against the standings by the last pass of the mode.", labels=("destination", "mode", "class")
        )
        found = CounterMetricFamily("consent_drift_found", "The same of every pass so far.", labels=("destination", "class"))
        for destination, mode, name, count in snapshot.drift:
            drift.add_metric((destination, mode, name), count)
        for destination, name, count in snapshot.drift_found:
            found.add_metric((destination, name), count)
        repaired = CounterMetricFamily("consent_drift_repaired", "Drift that was repaired.", labels=("destination", "how"))
        for destination, how, count in snapshot.drift_repaired:
            repaired.add_metric((destination, how), count)
        swept = GaugeMetricFamily("consent_last_sweep_seconds", "Seconds since everybody was last compared at a destination.", labels=("destination",))
        for destination, seconds in sorted(snapshot.last_sweep_seconds.items()):
            swept.add_metric((destination,), seconds)
        yield from (drift, found, repaired, swept)

    def _latency(self) -> Metric:
        latency = self._snapshot.accept_to_told
        buckets = [*((str(float(bound)), count) for bound, count in latency.buckets), ("+Inf", latency.count)]
        return HistogramMetricFamily(
            "consent_accept_to_told_seconds", "Time from accepting an event to its delivery.", buckets=buckets, sum_value=latency.sum_seconds
        )
