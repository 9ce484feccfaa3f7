"""From the results of chaos runs to what is published: `results/latest.json`, docs/reliability.md and its plots. Nothing here runs anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos.drawing import draw
from tests.chaos.frame import has_failed, scenarios

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "tests" / "chaos" / "results" / "latest.json"
PAGE: Final = ROOT / "docs" / "reliability.md"
HEAD: Final = """# What was done to it

This page is written by `make chaos` from `tests/chaos/results/latest.json`; do not edit it. Every scenario runs the whole relay with real processes, a real server and real HTTP, under
load from clients that repeat what was not answered; vendors are the sandboxes, which note every call. In the end what each of them holds is compared with what people said.

- **lost**: events answered 202 that did not reach their final state. **stale**: contacts of which a vendor holds something else than the newest word in the end. Both must be 0.
- **doubled**: vendor calls that had been made before. A killed process cannot know whether its call arrived, so some are made again, under the same idempotency key; the share must stay small.

What a scenario says of itself is its full form: share 1, 1,000 kills, a soak of 1,800 s. Each section says how much of that its last run did, and the tables have what was really done: with share 0.1 it was a tenth of the events, kills, examples and minutes.
"""
FOOT: Final = """## What else is tested

These need no long form; they run in `make test`, with real processes, servers and HTTP where it says flow.

| what | where |
|---|---|
| canaries in every personal field and credential, sought in every key, log line, page, metric, answer, argument, process list and dump | `tests/flow/test_secrets_everywhere.py`, `tests/flow/test_secrets_stay.py` |
| the vault's key changes under load | `tests/flow/test_vault_rotation.py` |
| keys that are wrong, expired, revoked or another source's; smuggled and slow requests; comparison in constant time | `tests/flow/test_hostile_clients.py`, `tests/unit/test_ingest_authentication.py`, `tests/unit/test_timing_safe.py` |
| addresses that lead inside: by redirect, by a look-up that changes, mapped, decimal | `tests/flow/test_rebinding.py` |
| backup, restore, and the quarantine of an older ledger | `tests/flow/test_restore.py`, `tests/unit/test_backup.py` |
| an older ledger with work in progress, older and newer workers side by side | `tests/flow/test_rolling.py`, `tests/unit/test_migrations.py` |
| every interleaving of events, losses, crashes and vendor faults that Hypothesis finds, against an oracle | `tests/flow/test_interleavings.py` |
| Prometheus rules, and alerts posted to a webhook | `tests/unit/test_prometheus_rules.py`, `tests/unit/test_alerts.py` |

## How to repeat

`make chaos` (about five hours in full; Linux, loopback only). `make chaos KILLS=150 SECONDS=300 SHARE=0.2` is shorter: kills, seconds of the soak, and the share of everything else; `ONLY=kills,soak`
chooses scenarios and keeps the stored results of the others; `SEED=` repeats a run's choices (what was killed when, who said what; not the machine's timing). The exit code is 0 if everything held.
The short forms run in `make test`. `.venv/bin/python -m tests.chaos render` writes this page again from the stored results.
"""


def stored(path: Path = RESULTS) -> dict[str, Any]:
    """The stored results: scenario -> what is kept of its latest run."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(results: Mapping[str, Any]) -> None:
    """Write the JSON, the page and the plots."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(encoded(results))
    publish(results)


def encoded(results: Mapping[str, Any]) -> str:
    """The results as JSON, a scenario's parts each on a line, so that runs of different scenarios merge as text."""
    blocks = []
    for name, run in sorted(results.items()):
        lines = ",\n".join(f"  {json.dumps(part)}: {json.dumps(value)}" for part, value in run.items())
        blocks.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def publish(results: Mapping[str, Any]) -> None:
    """Write the page and the plots."""
    PAGE.write_text(page(results))
    pictures = plots(results)
    for path in PAGE.parent.glob("reliability-*.svg"):
        if path.name not in pictures:
            path.unlink()
    for name, text in pictures.items():
        (PAGE.parent / name).write_text(text)


def plots(results: Mapping[str, Any]) -> dict[str, str]:
    """File name in docs/ -> picture, for each scenario with curves."""
    return {_plot_name(name): draw(run["figures"]["plots"]) for name, run in sorted(results.items()) if run.get("figures", {}).get("plots")}


def page(results: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    return "\n".join([HEAD, _overview(results), *(_section(name, run) for name, run in sorted(results.items())), FOOT])


def _overview(results: Mapping[str, Any]) -> str:
    lines = ["| scenario | done to it | events | vendor calls | lost | stale | doubled | held |", "|---|---|---|---|---|---|---|---|"]
    for name, run in sorted(results.items()):
        held = "**no**" if has_failed(run) else "yes"
        if run["failure"] is not None:
            lines.append(f"| [{name}](#{name}) | broke off | | | | | | {held} |")
            continue
        found = run["figures"]
        doubled = "-" if found["doubled"] is None else f"{found['doubled'] / max(1, found['calls']):.2%}"
        counts = f"{found['events']:,} | {_count(found['calls'])} | {_count(found['lost'])} | {_count(found['stale'])} | {doubled}"
        lines.append(f"| [{name}](#{name}) | {sum(found['done'].values()):,} | {counts} | {held} |")
    lines += [f"| {name} | not run yet | | | | | | |" for name in sorted(scenarios().keys() - results.keys())]
    return "\n".join(lines) + "\n"


def _section(name: str, run: Mapping[str, Any]) -> str:
    used = run["machine"]
    scale = ", ".join(f"{key} {value:g}" for key, value in run["scale"].items())
    lines = [f"## {name}\n", f"**{run['title']}.** {run['told']}\n"]
    lines.append(
        f"Run on {run['date']}{_of(run)} for {run['took_seconds'] / 60:.1f} minutes, seed {run['seed']} ({scale}), on {used['cores']} cores of {used['processor']}, "
        f"{used['memory_gib']} GiB, Linux {used['kernel']}, Python {used['python']}, load before {used['load_before']}. "
        "Versions: " + ", ".join(f"{package} {version}" for package, version in sorted(run["versions"].items())) + ".\n"
    )
    if run["failure"] is not None:
        return "\n".join([*lines, f"It broke off: `{run['failure'].splitlines()[0][:300]}`\n"])
    found = run["figures"]
    lines += ["| done to it | times |", "|---|---|", *(f"| {what} | {count:,} |" for what, count in found["done"].items()), ""]
    lines += ["| must hold | found | limit | held |", "|---|---|---|---|", *(_check(check) for check in run["checks"]), ""]
    if found["more"]:
        lines += ["| figure | |", "|---|---|", *(f"| {what} | {_shown(value)} |" for what, value in found["more"].items()), ""]
    if found["plots"]:
        lines.append(f"![{run['title']}: curves over time]({_plot_name(name)})\n")
    return "\n".join(lines)


def _check(check: Mapping[str, Any]) -> str:
    limits = [f"{word} {_shown(check[word])}" for word in ("most", "least") if check[word] is not None]
    return f"| {check['what']} | {_shown(check['found'])} | at {' and at '.join(limits)} | {'yes' if check['is_met'] else '**no**'} |"


def _of(run: Mapping[str, Any]) -> str:
    return f" of {run['code']}" if run.get("code") else ""


def _plot_name(name: str) -> str:
    return f"reliability-{name}.svg"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
