"""Job I: bytes in the server for an event, unfinished and finished, by families of keys; peak memory of every process."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from benchmarks import machine
from benchmarks.figures import Figure, Figures, Goal, add
from benchmarks.invented import VENDORS
from benchmarks.jobs.base import Job, fill_relay, running_relay
from benchmarks.measure import Context
from benchmarks.processes import Failed
from benchmarks.relay import Relay, destination, routing
from benchmarks.stub import Stub, running_stub

UNFINISHED: Final = "ours, unfinished"
FINISHED: Final = "ours, finished, payload expired"
PEAKS: Final = "ours, peak memory"
EVENTS: Final = 10_000
QUICK_EVENTS: Final = 1_000
AT_ONCE: Final = 2000
FAMILIES: Final = {
    "payloads": re.compile(r"cr:\{e\d+\}:p:"),
    "records": re.compile(r"cr:\{e\d+\}:e:"),
    "event indexes": re.compile(r"cr:\{e\d+\}:"),
    "standings": re.compile(r"cr:\{i\d+\}:"),
    "deliveries": re.compile(r"cr:\{d:"),
    "accounts": re.compile(r"cr:\{a:"),
}
"""Families by the shape of a key's name, the first that fits; a record of an identifier holds its standings and its aliases."""
PEOPLE: Final = "standings"


def run(context: Context) -> Figures:
    """Events whose three destinations are switched off; then switched on, told, and their payloads removed as their expiry would."""
    figures: Figures = {}
    count = QUICK_EVENTS if context.is_quick else EVENTS
    with running_stub(context.folder) as stub, running_relay(context, _routing(stub, enabled=False)) as relay:
        relay.start()
        with relay.store.client() as client:
            empty, used = families(client), used_memory(client)
            context.say(f"{count:,} unfinished events")
            fill_relay(context, relay, count)
            _settle(relay, client, lambda: planned(client) >= count * len(VENDORS))
            grown = (used_memory(client) - used) / count
            add(figures, UNFINISHED, {**per_event(families(client), empty, count), "bytes_of_the_whole_server": grown})
            context.say(f"{count:,} finished events")
            _tell_all(stub, relay, count)
            _settle(relay, client, lambda: planned(client) == 0)
            time.sleep(1.0)
            add(figures, FINISHED, per_event(families(client), empty, count, expire=expiring(client)))
            peaks = {name: machine.peak_megabytes(process.pid) for name, process in relay.processes.items()}
            add(figures, PEAKS, {f"{name}_megabytes": value for name, value in peaks.items()})
    return figures


def families(client: Any) -> dict[str, float]:
    """Bytes of all keys by family, as MEMORY USAGE counts them with every element looked at."""
    totals: dict[str, float] = defaultdict(float)
    names = list(client.scan_iter(count=AT_ONCE))
    for first in range(0, len(names), AT_ONCE):
        chunk = names[first : first + AT_ONCE]
        with client.pipeline(transaction=False) as pipe:
            for name in chunk:
                pipe.memory_usage(name, samples=0)
            for name, size in zip(chunk, pipe.execute(), strict=True):
                totals[family(name.decode())] += size or 0
    return dict(totals)


def used_memory(client: Any) -> float:
    """What the server says it uses for everything, the broker's database and its own overhead included."""
    return float(client.info("memory")["used_memory"])


def family(name: str) -> str:
    """The family of a key."""
    return next((title for title, shape in FAMILIES.items() if shape.match(name)), "others")


def per_event(now: Mapping[str, float], before: Mapping[str, float], count: int, *, expire: Iterable[str] = ()) -> dict[str, float]:
    """Bytes for one event by family; the sum leaves standings and aliases out, which belong to people and stay as the fence."""
    gone = set(expire)
    grown = {name: max(0.0, size - before.get(name, 0.0)) / count for name, size in now.items() if name not in gone}
    return {"bytes": sum(size for name, size in grown.items() if name != PEOPLE), **{f"bytes_{name.replace(' ', '_')}": size for name, size in grown.items()}}


def planned(client: Any) -> int:
    """Deliveries that stand in an index of their destination."""
    return sum(int(client.zcard(f"cr:{{d:{name}}}:{index}:given")) for name in VENDORS for index in ("due", "out"))


def expiring(client: Any) -> list[str]:
    """The family of payloads, once every one of them is seen to have an expiry. Raises Failed if one would stay."""
    for name in client.scan_iter(match="cr:{e*}:p:*", count=AT_ONCE):
        if client.pttl(name) < 0:
            raise Failed("a payload of a finished event has no expiry")
    return ["payloads"]


def _tell_all(stub: Stub, relay: Relay, count: int) -> None:
    for name in ("beat", "worker"):
        relay.end(name)
    relay.route(_routing(stub, enabled=True))
    relay.start("worker", "beat")
    if not stub.wait_for(count * len(VENDORS), relay.check):
        raise Failed("the events were not told")


def _settle(relay: Relay, client: Any, done: Any, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not done():
        relay.check()
        if time.monotonic() > until:
            raise Failed(f"the ledger did not come to rest; {planned(client)} deliveries stand in indexes")
        time.sleep(0.2)


def _routing(stub: Stub, *, enabled: bool) -> str:
    return routing({"newsletter": [destination(name, f"{stub.url}/{name}", enabled=enabled) for name in VENDORS]})


def _i(contender: str) -> Figure:
    return Figure(job="I", contender=contender, metric="bytes")


JOBS: Final = (
    Job(
        letter="I",
        title="memory",
        measured="bytes in the server for an event with 3 deliveries, standings and aliases apart; peak MB of each process",
        contenders=(UNFINISHED, FINISHED, PEAKS),
        goals=(
            Goal(text="at most 1,200 bytes unfinished", ours=_i(UNFINISHED), limit=1200, lower_is_better=True),
            Goal(text="at most 350 bytes finished, after the payload expired", ours=_i(FINISHED), limit=350, lower_is_better=True),
        ),
        run=run,
        chart="bytes",
    ),
)
