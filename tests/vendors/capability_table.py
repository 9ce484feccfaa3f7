"""The capability table of the documentation, printed from what the vendor files declare: `python -m tests.vendors.capability_table > docs/capabilities.md`."""

from __future__ import annotations

from pipeline.vendors import adapter_class, has_verb, vendor_names
from pipeline.vendors.base import Adapter, Rate

COLUMNS = ("vendor", "can be told", "is heard", "names a person by", "one state for each", "double opt-in", "read back", "session", "in one call", "limit")
WAYS = {"hear": "by post", "poll": "by polling"}
OPENING = """# What each vendor can do

Printed from the vendor files by `.venv/bin/python -m tests.vendors.capability_table`; a test compares the two.

- *can be told*: the states that the vendor can express. A withdrawal that cannot be expressed is a dead letter with an alert, never dropped.
- *is heard*: by what it posts to the relay, or by being polled.
- *names a person by*: one of these is enough, in this order of preference.
- *one state for each*: `purpose`, or `contact` where one state stops everything at once.
- *read back*: the vendor's own state can be asked for.
- *in one call*: how many people one call can carry.
"""


def render() -> str:
    """The page as it must stand in the documentation: one row for each system, also for those that are only heard."""
    rows = [_row(name, adapter_class(name)) for name in vendor_names()]
    table = "\n".join(["| " + " | ".join(cells) + " |" for cells in (COLUMNS, ("---",) * len(COLUMNS), *rows)])
    return f"{OPENING}\n{table}\n"


def _row(name: str, adapter: type[Adapter]) -> tuple[str, ...]:
    can = adapter.capabilities
    return (
        f"[{adapter.title}](vendors/{name}.md) (`{name}`)",
        ", ".join(sorted(can.states)) or "nothing",
        " and ".join(way for verb, way in WAYS.items() if can.sends_events and has_verb(name, verb)) or "no",
        ", ".join(f"`{kind}`" for kind in can.identifiers),
        *(_telling(adapter) if can.states else ("",) * len(COLUMNS[4:])),
    )


def _telling(adapter: type[Adapter]) -> tuple[str, ...]:
    """The columns that mean something only where a vendor is told."""
    can = adapter.capabilities
    return can.scope, _yes(can.double_opt_in), _yes(can.reads_back), _yes(can.signs_in), f"{can.batch_size:,}", _limit(adapter.rate)


def _limit(rate: Rate) -> str:
    calls = f"{rate.calls} calls in {rate.per_seconds:g} s, " if rate.calls else ""
    return f"{calls}{rate.concurrent} at once"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    print(render(), end="")
