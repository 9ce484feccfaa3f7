"""Figures of a run and what follows from them: median and spread, goals, whether one is met."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, dict[str, list[float]]]
"""Contender -> metric -> one value for each round."""
Results = Mapping[str, Any]
"""Letter of a job -> contender -> metric -> spread, as `latest.json` has it under `jobs`."""


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, lowest and highest."""
    return {"median": _rounded(statistics.median(values)), "low": _rounded(min(values)), "high": _rounded(max(values)), "values": [_rounded(v) for v in values]}


def add(figures: Figures, contender: str, values: Mapping[str, float]) -> None:
    """Note one round of a contender."""
    for metric, value in values.items():
        figures.setdefault(contender, {}).setdefault(metric, []).append(value)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of sorted values lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure in the results: the median of the rounds, or where each of them counts the worst, `low` or `high`."""

    job: str
    contender: str
    metric: str
    of: str = "median"

    def read(self, jobs: Results) -> float | None:
        found = jobs.get(self.job, {}).get("figures", {}).get(self.contender, {}).get(self.metric)
        return None if found is None else float(found[self.of])


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Ours against the best of others, or against a fixed `limit`: at least `factor` times as much, or with `lower_is_better` at most."""

    text: str
    ours: Figure
    against: Sequence[Figure] = ()
    limit: float | None = None
    factor: float = 1.0
    lower_is_better: bool = False

    def judge(self, jobs: Results, left_out: Collection[str] = ()) -> Verdict:
        """Compare medians; with a figure missing there is no ratio and the goal is not met, unless it is of a contender that was left out on purpose."""
        ours = self.ours.read(jobs)
        read = [figure.read(jobs) for figure in self.against if figure.contender not in left_out]
        others = [value for value in read if value is not None]
        theirs = self.limit if self.limit is not None else (min if self.lower_is_better else max)(others, default=None)
        if ours is None or not theirs or len(others) < len(read):
            return Verdict(goal=self, ours=ours, theirs=theirs, ratio=None, is_met=False)
        ratio = ours / theirs
        return Verdict(goal=self, ours=ours, theirs=theirs, ratio=ratio, is_met=ratio <= self.factor if self.lower_is_better else ratio >= self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a goal."""

    goal: Goal = field(repr=False)
    ours: float | None
    theirs: float | None
    ratio: float | None
    is_met: bool


def summary(figures: Figures) -> dict[str, dict[str, Any]]:
    """The figures with their spread, ready for JSON."""
    return {contender: {metric: spread(values) for metric, values in metrics.items()} for contender, metrics in figures.items()}


def judge_all(goals: Iterable[Goal], jobs: Results, left_out: Collection[str]) -> list[dict[str, Any]]:
    """The verdicts, ready for JSON."""
    return [
        {"goal": verdict.goal.text, "ours": verdict.ours, "theirs": verdict.theirs, "ratio": verdict.ratio and round(verdict.ratio, 3), "met": verdict.is_met}
        for verdict in (goal.judge(jobs, left_out) for goal in goals)
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
