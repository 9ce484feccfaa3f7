"""From the results to what is published: `results/latest.json`, docs/benchmarks.md and its plot. Nothing here measures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import judge_all
from benchmarks.jobs import JOBS
from benchmarks.plot import draw, panels_of
from benchmarks.processes import ROOT

RESULTS: Final = ROOT / "benchmarks" / "results" / "latest.json"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
PLOT: Final = ROOT / "docs" / "benchmarks.svg"
HIDDEN: Final = ("seconds", "missing", "repeats", "others_cores", "backlog")
"""Metrics of the JSON that the page says in other words or not at all."""
CALM_CORES: Final = 0.15
"""Strangers that use more than this share of a core make a figure noise."""
FOOT: Final = """## How to repeat

`make bench` (up to 20 minutes) or `make bench-quick` (under 3) on a machine that does nothing else; Linux, loopback only. The first run makes `.venv-bench` and `.venv-bench-saq` for
the peers, from locked requirements. nginx is used as the vendor where it is installed, and jemalloc in the server (Debian: `apt install nginx-light libjemalloc2`). Both write
`benchmarks/results/latest.json` and this page. `.venv/bin/python -m benchmarks --help` chooses jobs and rounds; `render` writes the page again from the stored results.
"""


def finish(results: dict[str, Any]) -> dict[str, Any]:
    """The results with the verdicts on every goal of the jobs that were run; figures of two runs are not held against each other."""
    jobs = results["jobs"]
    for letter, found in jobs.items():
        job, same_run = JOBS[letter], {name: other for name, other in jobs.items() if other["run"] == found["run"]}
        found["goals"] = judge_all(job.goals, same_run, job.left_out if results["quick"] else ())
    return results


def write(results: Mapping[str, Any]) -> None:
    """Write the JSON, the page and the plot."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    publish(results)


def publish(results: Mapping[str, Any]) -> None:
    """Write the page and the plot."""
    PAGE.write_text(page(results))
    PLOT.write_text(plot(results))


def plot(results: Mapping[str, Any]) -> str:
    """The plot as SVG: every job that compares."""
    shown = {letter: (f"{job.title} ({job.chart.replace('_', ' ')})", job.chart) for letter, job in JOBS.items()}
    return draw(panels_of(results["jobs"], shown))


def page(results: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    parts = [_head(results), _goals(results["jobs"]), "![The figures of every job that compares, on logarithmic scales](benchmarks.svg)\n"]
    parts += [_job(letter, found, results) for letter, found in sorted(results["jobs"].items())]
    return "\n".join([*parts, _who(results), _notes(results["notes"]), FOOT])


def _head(results: Mapping[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    quick = " This was the quick form: short rounds, so take the figures as a sketch." if results["quick"] else ""
    return f"""# Benchmarks

Written by `make bench`; do not edit. Ours and the peers take turns on one machine, with the same events, the same vendor stub in each job and the same server settings
(Valkey, `appendonly yes`, `appendfsync always`). **Quote ratios of one run, not absolute figures.**{quick}

{results["date"]}{_code(results)}, {machine["cores"]} cores ({machine["processor"]}), {machine["memory_gib"]} GiB, Linux {machine["kernel"]}, Python {machine["python"]}; {results["rounds"]} rounds{_length(results)};
vendor stub: {_stubs(results["stubs"])};
the server allocates by {machine["server_allocator"]}, and a small write takes {machine["sync_ms"]:g} ms until the disk has it; load of the machine before the run {machine["load_before"]}. {_versions(versions)}
"""


def _code(results: Mapping[str, Any]) -> str:
    return f", code of {results['code']}" if results["code"] else ""


def _length(results: Mapping[str, Any]) -> str:
    """How long rounds were meant to be and the shortest was, since they are paced by guesses at first, and all of them together."""
    lows = [values["seconds"]["low"] for found in results["jobs"].values() for values in found["figures"].values() if "seconds" in values]
    shortest = f" (the shortest took {min(lows):.1f})" if lows else ""
    return f" of about {results['seconds']:g} s{shortest} where rates are measured, {results['took_minutes']:.0f} minutes in all"


def _stubs(stubs: Sequence[Mapping[str, Any]]) -> str:
    first, *others = (
        f"{stub['kind']}, which alone answers {stub['ceiling_per_second']:,.0f} posts/s at {stub['cpu_us_per_call']:.0f} µs of CPU each" for stub in stubs
    )
    return first + "".join(f" (B and G: the suite's {text}; it counts the events in a body and waits as long as it is told)" for text in others)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "."


def _goals(jobs: Mapping[str, Any]) -> str:
    lines = ["## Goals\n", "| job | goal | ours | against | ratio | met |", "|---|---|---|---|---|---|"]
    for letter, found in sorted(jobs.items()):
        for goal in found["goals"]:
            ratio = "-" if goal["ratio"] is None else f"{goal['ratio']:,.2f}"
            lines.append(f"| {letter} | {goal['goal']} | {_shown(goal['ours'])} | {_shown(goal['theirs'])} | {ratio} | {'yes' if goal['met'] else '**no**'} |")
    missed = [letter for letter, found in sorted(jobs.items()) if not all(goal["met"] for goal in found["goals"]) and JOBS[letter].why_missed]
    if missed:
        lines += [
            "",
            "Why goals are missed ([performance.md](performance.md) has what each stage costs):",
            "",
            *(f"- **{letter}**: {JOBS[letter].why_missed}." for letter in missed),
        ]
    return "\n".join(lines) + "\n"


def _job(letter: str, found: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    job = JOBS[letter]
    if not found["figures"]:
        return f"## {letter}: {job.title}\n\nNothing was measured.\n{_listed(found['notes'])}"
    metrics = job.columns or _metrics(found["figures"])
    lines = [f"## {letter}: {job.title}\n", f"Measured: {job.measured}. Median (lowest to highest).\n"]
    lines += ["| | " + " | ".join(metric.replace("_", " ") for metric in metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for name, values in found["figures"].items():
        lines.append(f"| {name}{_mark(values)} | " + " | ".join(_cell(values.get(metric)) for metric in metrics) + " |")
    remark = [f"\nTo read this: {job.remark}."] if job.remark else []
    earlier = [f"\nMeasured in an earlier run, {found['run']}."] if found["run"] != results["date"] else []
    return "\n".join([*lines, *remark, *earlier, *_oddities(found["figures"])]) + "\n" + _listed(found["notes"])


def _metrics(figures: Mapping[str, Any]) -> list[str]:
    """The metrics that any contender has, in order."""
    names = dict.fromkeys(name for metrics in figures.values() for name in metrics)
    return [name for name in names if name not in HIDDEN]


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    if len(value["values"]) == 1:
        return _shown(value["median"])
    return f"{_shown(value['median'])} ({_shown(value['low'])} to {_shown(value['high'])})"


def _shown(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _mark(values: Mapping[str, Any]) -> str:
    """A mark beside figures of which one was taken while strangers used the machine."""
    return " ¹" if values.get("others_cores", {}).get("high", 0.0) > CALM_CORES else ""


def _oddities(figures: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, values in figures.items():
        if values.get("told_share", {}).get("low", 1) < 1:
            lines.append(f"\n{name}: in a round only {values['told_share']['low']:.1%} had been told when the waiting ended; the percentiles are of those.")
        for metric, words in (("missing", "deliveries that did not come within the time"), ("repeats", "deliveries more than wanted")):
            if values.get(metric, {}).get("high", 0) > 0:
                lines.append(f"\n{name}: up to {_shown(values[metric]['high'])} {words} in a round.")
    if any(_mark(values) for values in figures.values()):
        lines.append(f"\n¹ In a round other programs used more than {CALM_CORES} of a core: noise.")
    return lines


def _who(results: Mapping[str, Any]) -> str:
    lines = ["## Who is compared\n", "- **ours**: " + results["ours"]]
    lines += [f"- **{name}**: {how}." for name, how in results["contenders"].items()]
    lines.append(
        "\nEvery call of everybody carries an HMAC signature, as ours does. CPU is of all processes that a contender itself needs, without stub and client:"
    )
    lines.append("for ours ingest, workers, beat and server; for a queue its producer, workers and server; for a loop the loop and the server.")
    return "\n".join(lines) + "\n"


def _notes(notes: Sequence[str]) -> str:
    return f"## Of this run\n{_listed(notes)}" if notes else ""


def _listed(notes: Sequence[str]) -> str:
    return "\n" + "".join(f"- {note}\n" for note in notes) if notes else ""


def stored(path: Path = RESULTS) -> dict[str, Any]:
    """The stored results."""
    return dict(json.loads(path.read_text()))
