"""The frame of all chaos work: what a scenario is, where it is found, how it is run within its time, and what its figures say.

A scenario is a module `tests/chaos/test_<name>.py`: a short form that pytest runs, and a `SCENARIO` whose `run(scale, seed)` is the long form of
`make chaos`. Dropping the file in is enough. `make chaos` takes everything from the figures, so a figure that is not returned is not published.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import machine

FOLDER = Path(__file__).parent
SEED_VARIABLE = "CONSENT_CHAOS_SEED"
DOUBLED_SHARE = 0.01
"""Vendor calls that may have been made before, as a share of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much the long form does: `kills` and `seconds` (of the soak) as wanted, `share` for everything else, 1.0 in full. `say` tells the terminal."""

    share: float = 1.0
    kills: int = 1000
    seconds: float = 1800.0
    say: Callable[[str], None] = field(default=print, compare=False)

    def times(self, full: int) -> int:
        """What is done `full` times in full is done so often at this scale, at least once."""
        return max(1, round(full * self.share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Something that must hold: a figure with the most or the least it may be."""

    what: str
    found: float
    most: float | None = None
    least: float | None = None

    @property
    def is_met(self) -> bool:
        return (self.most is None or self.found <= self.most) and (self.least is None or self.found >= self.least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Lines over one time axis: `lines` are name -> values at `at_seconds`."""

    title: str
    unit: str
    at_seconds: Sequence[float]
    lines: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a long form did and found.

    `done` is what was done to the relay, and how often. `lost` are events answered 202 that did not reach their final state, `stale` contacts of which a vendor
    holds something else than the newest word in the end, `doubled` vendor calls that had been made before. None: this scenario cannot tell, or does not count.
    `checks` are what must hold beside lost = 0, stale = 0 and a doubled share below `doubled_share`.
    """

    done: Mapping[str, int]
    events: int
    calls: int | None
    lost: int | None = None
    stale: int | None = None
    doubled: int | None = None
    doubled_share: float = DOUBLED_SHARE
    checks: Sequence[Check] = ()
    more: Mapping[str, float | str] = field(default_factory=dict)
    plots: Sequence[Plot] = ()

    def all_checks(self) -> list[Check]:
        """The promises every scenario is held to, and its own checks."""
        promised = []
        if self.lost is not None:
            promised.append(Check(what="events answered 202 that did not reach their final state", found=self.lost, most=0))
        if self.stale is not None:
            promised.append(Check(what="contacts that a vendor holds otherwise than the newest word says", found=self.stale, most=0))
        if self.doubled is not None:
            share = round(self.doubled / max(1, self.calls or 0), 5)
            promised.append(Check(what="vendor calls that had been made before, as a share of all", found=share, most=self.doubled_share))
        return [*promised, *self.checks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario's long form; `told` says in a paragraph, for readers of docs/reliability.md, what is done and what must hold.

    `longest_seconds` bounds the run: a scenario that takes longer is broken off and has failed.
    """

    name: str
    title: str
    told: str
    run: Callable[[Scale, int], Figures]
    longest_seconds: Callable[[Scale], float]


class TookTooLong(Exception):
    """A scenario was not over within its time."""


def scenarios() -> dict[str, Scenario]:
    """All scenarios by name, from the modules in this folder that have one."""
    found = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        scenario = getattr(importlib.import_module(f"tests.chaos.{path.stem}"), "SCENARIO", None)
        if scenario is not None:
            found[scenario.name] = scenario
    return found


def new_seed() -> int:
    """The seed that the environment asks for, to repeat a run, or a fresh one."""
    return int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(1_000_000))


def carry_out(scenario: Scenario, scale: Scale, seed: int) -> dict[str, Any]:
    """Run a long form within its time; what is stored of it: machine, versions, seed, scale, every figure and every check, or why it failed."""
    begun_at = time.monotonic()
    stored = {
        "title": scenario.title,
        "told": " ".join(scenario.told.split()),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.describe(),
        "versions": machine.versions({}, ()),
        "code": _code(),
        "seed": seed,
        "scale": {"share": scale.share, "kills": scale.kills, "seconds": scale.seconds},
        "failure": None,
    }
    try:
        with _within(scenario.longest_seconds(scale)):
            figures = scenario.run(scale, seed)
        stored |= {"figures": asdict(figures), "checks": [{**asdict(check), "is_met": check.is_met} for check in figures.all_checks()]}
    except Exception as error:
        stored["failure"] = f"{type(error).__name__}: {str(error)[:2000]}"
        scale.say(traceback.format_exc())
    return {**stored, "took_seconds": round(time.monotonic() - begun_at, 1)}


def _code() -> str:
    """The commit that was run, with a word if files were changed since; empty outside of a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../../pipeline", "../../workers", "../../config")
    return git("rev-parse", "--short=10", "HEAD") + (" and changes" if changed else "")


def has_failed(stored: Mapping[str, Any]) -> bool:
    """Whether a stored run broke off or did not keep what must hold."""
    return stored["failure"] is not None or not all(check["is_met"] for check in stored["checks"])


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the main thread after so many seconds, so that what the scenario started is stopped on the way out."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLong(f"not over within {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
