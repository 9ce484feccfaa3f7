"""Alerts in the ledger: what processes noted lately, and what was posted of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.ledger.keys import ALERTS, NOTED_ALERTS
from pipeline.ledger.store import Store, pairs_of, text

MOST_NOTED = 500


class AlertBook:
    """The part of the ledger about alerts. An alert is named by kind and where it is, `kind|where`; never by a person."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, names: Iterable[str], now_ms: int) -> None:
        """Remember that something was said to be wrong now."""
        pairs = [value for name in names for value in (now_ms, name)]
        if pairs:
            self._store.run([("ZADD", NOTED_ALERTS, *pairs), ("ZREMRANGEBYRANK", NOTED_ALERTS, 0, -MOST_NOTED - 1)])

    def noted(self, since_ms: int) -> list[str]:
        """What was said to be wrong since then; what was said before is forgotten."""
        return [text(name) for name in self._store.run([("ZREMRANGEBYSCORE", NOTED_ALERTS, "-inf", f"({since_ms}"), ("ZRANGE", NOTED_ALERTS, 0, -1)])[1]]

    def kept(self) -> dict[str, bytes]:
        """What was kept of each alert."""
        return {text(name): value for name, value in pairs_of(self._store.run([("HGETALL", ALERTS)])[0])}

    def keep(self, alerts: Mapping[str, bytes]) -> None:
        if alerts:
            self._store.run([("HSET", ALERTS, *(value for item in alerts.items() for value in item))])

    def forget(self, names: Iterable[str]) -> None:
        if gone := list(names):
            self._store.run([("HDEL", ALERTS, *gone)])
