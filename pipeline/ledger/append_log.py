"""The servers' append-only files: what was erased stands in them until they are written anew."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from redis import exceptions

from pipeline.ledger.store import Store

LOOK_SECONDS: Final = 0.5


class Rewritten(StrEnum):
    """What became of it: `none` has no such file, `refused` must be asked for by whoever runs the server."""

    DONE = "done"
    NONE = "none"
    REFUSED = "refused"
    FAILED = "failed"
    LATE = "not_in_time"


def begin_rewrite(store: Store) -> bool:
    """Have every server, replicas too, write its append-only file anew in the background; False if one refuses, or is at it already."""
    try:
        store.on_each([("BGREWRITEAOF",)], and_replicas=True)
    except exceptions.ResponseError:
        return False
    return True


def rewrite(store: Store, wait: Callable[[float], object], seconds: float) -> Rewritten:
    """The same, and wait until it is done; a rewrite that was begun earlier does not count. `wait` lets a moment pass."""
    try:
        if not any(each.get("aof_enabled") for each in _states(store)):
            return Rewritten.NONE
        left = _until_idle(store, wait, seconds)
        if left <= 0:
            return Rewritten.LATE
        if not begin_rewrite(store):
            return Rewritten.REFUSED
        if _until_idle(store, wait, left) <= 0:
            return Rewritten.LATE
        return Rewritten.DONE if all(each.get("aof_last_bgrewrite_status") == "ok" for each in _states(store)) else Rewritten.FAILED
    except exceptions.ResponseError:
        return Rewritten.REFUSED


def _until_idle(store: Store, wait: Callable[[float], object], seconds: float) -> float:
    """Wait until no server is at it; returns the seconds that are left."""
    while any(each.get("aof_rewrite_in_progress") or each.get("aof_rewrite_scheduled") for each in _states(store)) and seconds > 0:
        wait(LOOK_SECONDS)
        seconds -= LOOK_SECONDS
    return seconds


def _states(store: Store) -> list[dict[str, Any]]:
    return [answers[0] for answers in store.on_each([("INFO", "persistence")], and_replicas=True)]
