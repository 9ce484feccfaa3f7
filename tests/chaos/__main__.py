"""The command: `python -m tests.chaos run` runs long forms and publishes, `list` names the scenarios, `render` publishes what is stored."""

from __future__ import annotations

import sys
import time

import click
from rich.console import Console

from tests.chaos import report
from tests.chaos.frame import Scale, carry_out, has_failed, new_seed, scenarios

FULL = Scale()


@click.group()
def main() -> None:
    """Disturb the whole relay, on loopback, bounded in time, and compare what vendors hold with what people said."""


@main.command()
@click.option("--only", default="", help="Names of scenarios, comma separated; all by default. Stored results of the others are kept.")
@click.option(
    "--share", default=FULL.share, type=click.FloatRange(0.001, 100), show_default=True, help="How much is done of everything that has no option of its own."
)
@click.option("--kills", type=click.IntRange(1, 100_000), help=f"Kills; {FULL.kills} times the share by default.")
@click.option("--seconds", type=click.FloatRange(10, 86_400), help=f"Seconds of the soak; {FULL.seconds:g} times the share by default.")
@click.option("--seed", type=click.IntRange(0), help="Repeats a run's choices; fresh by default.")
def run(only: str, share: float, kills: int | None, seconds: float | None, seed: int | None) -> None:
    """Run scenarios, write tests/chaos/results/latest.json and docs/reliability.md; exits 1 if anything did not hold."""
    known = scenarios()
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise click.BadParameter(f"there is no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    console, begun_at = Console(stderr=True), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - begun_at:7.1f} s] {text}", markup=False, highlight=False)

    seed = new_seed() if seed is None else seed
    scale = Scale(share=share, kills=kills or max(1, round(FULL.kills * share)), seconds=seconds or max(10.0, FULL.seconds * share), say=say)
    say(f"seed {seed}, {scale.kills} kills, a soak of {scale.seconds:g} s, share {share:g} of everything else")
    failed = []
    for name in wanted:
        say(f"{name}: {known[name].title} (at most {known[name].longest_seconds(scale) / 60:.0f} minutes)")
        done = carry_out(known[name], scale, seed)
        report.write({**report.stored(), name: done})
        failed += [name] if has_failed(done) else []
        say(f"{name}: {'did NOT hold' if has_failed(done) else 'held'}")
        for check in done.get("checks", ()):
            say(f"  {'held' if check['is_met'] else 'NOT HELD'}: {check['what']}: {check['found']:g}")
    say(f"see {report.PAGE}; " + (f"did not hold: {', '.join(failed)}" if failed else "everything held"))
    sys.exit(1 if failed else 0)


@main.command("list")
def list_() -> None:
    """Name the scenarios."""
    for name, scenario in scenarios().items():
        click.echo(f"{name:12} {scenario.title}")


@main.command()
def render() -> None:
    """Write docs/reliability.md and its plots again from the stored results."""
    report.publish(report.stored())


if __name__ == "__main__":
    main()
