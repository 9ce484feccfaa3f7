"""The command: `python -m benchmarks run` measures and publishes once all is measured, `python -m benchmarks render` publishes what is stored."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from benchmarks import machine, report
from benchmarks.figures import summary
from benchmarks.jobs import JOBS
from benchmarks.measure import Context, Meter
from benchmarks.peers.catalogue import ENVIRONMENT, PACKAGES, SAQ_ENVIRONMENT, described
from benchmarks.processes import Failed, python_of
from benchmarks.relay import load
from benchmarks.stub import running_stub
from workers.process import ending_in_order

OURS: Final = (
    "`consent serve`, `worker` and `beat` with default settings, 2 worker processes, 3 webhook destinations with 64 connections each (B: 500 events a call; "
    "G: one process, 50 connections), events for Flower on, no archive of evidence (docs/proof.md says what it costs); the load is a raw asyncio client, and its CPU is not ours"
)
CEILING_POSTS: Final = 40_000


@click.group()
def main() -> None:
    """Measure the product beside its peers, on loopback, bounded in time."""


@main.command()
@click.option("--jobs", default="".join(JOBS), show_default=True, help="Letters of the jobs to run.")
@click.option("--rounds", default=None, type=click.IntRange(1, 20), help="Rounds of every comparison; 3, or 1 with --quick.")
@click.option("--seconds", default=None, type=click.FloatRange(0.5, 60), help="About how long a round takes; 4, or 1.5 with --quick.")
@click.option("--quick", is_flag=True, help="One short round of each: under 3 minutes.")
@click.option("--keep", is_flag=True, help="Keep the stored figures of the jobs that are not run.")
def run(jobs: str, rounds: int | None, seconds: float | None, quick: bool, keep: bool) -> None:
    """Run jobs, then write benchmarks/results/latest.json and docs/benchmarks.md; a run that is interrupted changes nothing."""
    unknown = set(jobs.upper()) - set(JOBS)
    if unknown:
        raise click.BadParameter(f"there is no job {', '.join(sorted(unknown))}; there are {', '.join(JOBS)}")
    folder = Path(tempfile.mkdtemp(prefix="consent-bench-"))
    console = Console(stderr=True)
    begun_at = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - begun_at:6.1f} s] {text}", markup=False, highlight=False)

    context = Context(folder=folder, rounds=rounds or (1 if quick else 3), seconds=seconds or (1.5 if quick else 4.0), is_quick=quick, say=say)
    try:
        with ending_in_order():
            code = machine.code()
            results = first_facts(context, code, kept(report.stored(), jobs.upper(), is_quick=quick) if keep else {})
            for letter in jobs.upper():
                results["jobs"][letter] = {"run": results["date"], "figures": measure(context, letter), "notes": list(context.notes)}
            if missing := sorted(JOBS.keys() - results["jobs"].keys()):
                results["notes"].append(f"Not measured: {', '.join(missing)}.")
            if machine.code() != code:
                results["notes"].append("The code was changed while it was measured: rounds differ in what ran.")
            results["took_minutes"] = round((time.monotonic() - begun_at) / 60, 1)
            report.write(report.finish(results))
    except Failed as error:
        console.print(f"benchmarks: {error}", markup=False, highlight=False)
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    met = [goal["met"] for found in results["jobs"].values() for goal in found["goals"]]
    say(f"{sum(met)} of {len(met)} goals met; see {report.PAGE.relative_to(Path.cwd()) if report.PAGE.is_relative_to(Path.cwd()) else report.PAGE}")


@main.command()
def render() -> None:
    """Write docs/benchmarks.md and its plot again from the stored results."""
    report.publish(report.finish(report.stored()))


def kept(before: dict[str, Any], letters: str, *, is_quick: bool) -> dict[str, Any]:
    """The jobs of stored results that are kept, each with the run it is of. Raises Failed for results of the other form, whose figures do not belong beside these."""
    if before["quick"] != is_quick:
        raise Failed("--keep: the stored results are of the other form, quick or full")
    return {letter: found for letter, found in before["jobs"].items() if letter not in letters}


def first_facts(context: Context, code: str, before: dict[str, Any]) -> dict[str, Any]:
    """All of the results but the figures, which come job by job."""
    pythons = {name: python_of(name) for name in (ENVIRONMENT, SAQ_ENVIRONMENT)}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "code": code,
        "machine": {**machine.describe(), "sync_ms": machine.sync_ms(context.folder)},
        "versions": machine.versions(pythons, PACKAGES),
        "quick": context.is_quick,
        "rounds": context.rounds,
        "seconds": context.seconds,
        "ours": OURS,
        "contenders": described(),
        "stubs": ceilings(context),
        "jobs": before,
        "notes": [],
    }


def measure(context: Context, letter: str) -> dict[str, Any]:
    """Run a job; one that fails as a whole is noted, and the others go on."""
    context.say(f"{letter}: {JOBS[letter].title}")
    context.notes.clear()
    try:
        return summary(JOBS[letter].run(context))
    except Exception as error:  # noqa: BLE001 - a fault in one job must not lose what the others have measured
        context.note(f"the job failed ({type(error).__name__}: {str(error)[:300]})")
        return {}


def ceilings(context: Context) -> list[dict[str, Any]]:
    """What the stubs bear: that of most jobs, and ours, which B and G use everywhere and all of them where there is no nginx."""
    found = ceiling(context, own=False)
    return [found] if found["kind"] == "own" else [found, ceiling(context, own=True)]


def ceiling(context: Context, *, own: bool) -> dict[str, Any]:
    """How many posts the stub answers when nothing else runs: it must be far above what is measured with it."""
    with running_stub(context.folder, own=own) as stub:
        producer = load(stub.url, "", context.folder / "ceiling.log", count=CEILING_POSTS, run=context.run())
        meter = Meter({"stub": stub.process})
        producer.begin()
        done = producer.report()
        if done["statuses"].get("200") != CEILING_POSTS:
            raise Failed(f"the stub answered {done['statuses']}")
        used, seconds = meter.used()["stub"], done["ended_at"] - done["begun_at"]
    return {"kind": stub.kind, "ceiling_per_second": round(CEILING_POSTS / seconds), "cpu_us_per_call": round(used / CEILING_POSTS * 1e6, 1)}


if __name__ == "__main__":
    main()
