"""What each stage of one event costs, in CPU time of ours and of the server: `python benchmarks/stage_costs.py [events] [evidence]`.

One process, one thread, and a vendor that answers at once in memory, so that nothing waits and nothing is counted twice. HTTP, queues and waiting are left out;
`python -m benchmarks` measures the whole. All is done twice: once for the CPU time of both processes, once to see which scripts take the server's. With the word `evidence` every step is recorded, and what archiving it costs, on the side, is told as well. Figures are microseconds for one event with three deliveries.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import cpu_seconds
from pipeline.archiving import Archiver, ArchiverOptions
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.evidence.archive import Archive
from pipeline.ledger.store import load_scripts
from pipeline.vendors import webhook
from pipeline.vendors.base import Rate, VendorResponse
from tests.support.relay import BASE_TIME, Relay, Vendor, destination, routing
from tests.support.servers import valkey_server

DESTINATIONS = 3
AT_ONCE = 500


class Hook(webhook.Adapter):
    """The webhook vendor with a secret of its own, as job A has it."""

    def __init__(self) -> None:
        super().__init__(base_url="http://127.0.0.1:9", credentials={"secret": "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="})


class Answering(Vendor):
    """Answers at once and keeps nothing."""

    def receive(self, _body: bytes) -> VendorResponse | None:
        return VendorResponse(status=200, body=b'{"code":"SUCCESS"}')


class Meter:
    """Counts CPU time by stage, ours and that of the server's process; or, with `looks_into_trips`, which disturbs both, the time of scripts by those of each round trip."""

    def __init__(self, relay: Relay, probe: redis.Redis, *, looks_into_trips: bool) -> None:
        store = relay.ledger.store
        self._probe, self._send, self._send_in_order = probe, store.run, store.run_in_order
        self._names = {script.sha: script.name for script in load_scripts().values()}
        self._server_pid, self._looks = int(probe.info("server")["process_id"]), looks_into_trips
        self.scripts_us: dict[str, Counter[str]] = defaultdict(Counter)
        self.trips: Counter[str] = Counter()
        self.own_us: dict[str, float] = {}
        self.server_us: dict[str, float] = {}
        self._stage = ""
        store.run, store.run_in_order = self._run, self._run_in_order  # type: ignore[method-assign]

    def stage(self, name: str, work: Callable[[], object]) -> None:
        self._stage = name
        began, server_began = time.process_time(), cpu_seconds(self._server_pid)
        work()
        self.own_us[name] = (time.process_time() - began) * 1e6
        self.server_us[name] = (cpu_seconds(self._server_pid) - server_began) * 1e6

    def _run(self, commands: Sequence[tuple[Any, ...]], **options: Any) -> list[Any]:
        return self._measured(commands, lambda: self._send(commands, **options))

    def _run_in_order(self, stages: Sequence[Sequence[tuple[Any, ...]]], **options: Any) -> list[Any]:
        return self._measured([command for stage in stages for command in stage], lambda: self._send_in_order(stages, **options))

    def _measured(self, commands: Sequence[tuple[Any, ...]], send: Callable[[], list[Any]]) -> list[Any]:
        if not commands:
            return []
        self.trips[self._stage] += 1
        if not self._looks:
            return send()
        before = self._in_scripts()
        replies = send()
        kinds = sorted({self._names.get(command[1], "") if command[0] == "EVALSHA" else str(command[0]) for command in commands})
        self.scripts_us[self._stage]["+".join(kinds)] += self._in_scripts() - before
        return replies

    def _in_scripts(self) -> float:
        """Microseconds that the server has spent in scripts; its sockets, parsing and append-only file come on top."""
        return float(self._probe.info("commandstats").get("cmdstat_evalsha", {"usec": 0})["usec"])


def main(count: int, *, evidence: bool) -> None:
    limits(count * 10)
    report(measured(count, evidence=evidence, looks_into_trips=False), measured(count, evidence=evidence, looks_into_trips=True), count)


def limits(count: int) -> None:
    """What no stage can cost less than: redis-py's pipeline with the least that each has to say to the server, for an event."""
    stages: dict[str, Callable[[Any, int], object]] = {
        "accept": lambda pipe, number: pipe.set(f"e{number}", b"x" * 400),
        "fan out": lambda pipe, number: (pipe.get(f"e{number}"), *(pipe.zadd(f"d{place}", {f"e{number}": number}) for place in range(DESTINATIONS))),
        "deliver": lambda pipe, _number: [pipe.zpopmin(f"d{place}") for place in range(DESTINATIONS)],
    }
    with valkey_server() as url, redis.Redis.from_url(url) as client:
        pid = int(client.info("server")["process_id"])
        for name, say in stages.items():
            began, server_began = time.process_time(), cpu_seconds(pid)
            for first in range(0, count, AT_ONCE):
                with client.pipeline(transaction=False) as pipe:
                    for number in range(first, min(count, first + AT_ONCE)):
                        say(pipe, number)
                    pipe.execute()
            own, server = time.process_time() - began, cpu_seconds(pid) - server_began
            print(f"at least, {name:8} ours {own / count * 1e6:7.1f}   server {server / count * 1e6:7.1f}")


def measured(count: int, *, evidence: bool, looks_into_trips: bool) -> Meter:
    """Accept, plan and tell that many events on a fresh server."""
    with valkey_server() as url, redis.Redis.from_url(url) as client, redis.Redis.from_url(url) as probe:
        destinations = [destination(f"hook-{number}", Hook, rate=Rate(concurrent=64)) for number in range(DESTINATIONS)]
        relay = Relay(client, routing(destinations), seconds=30.0, chunk_size=250, evidence=evidence)
        relay.exchange.vendors = {each.account: Answering() for each in destinations}
        meter = Meter(relay, probe, looks_into_trips=looks_into_trips)
        meter.stage("accept", lambda: accept(relay, count))
        meter.stage("fan out", lambda: fan_out(relay))
        meter.stage("deliver", lambda: deliver(relay))
        if evidence and not looks_into_trips:
            archive(relay, count)
    return meter


def accept(relay: Relay, count: int) -> None:
    events = [
        (
            relay.rules.sources["web"],
            IncomingEvent(
                subject=Subject(email=f"p{number}@example.org", external_id=f"C-{number}", country="BR"),
                purpose="news",
                state=State.GIVEN,
                event_time=BASE_TIME,
                profile={"first_name": "Ana", "last_name": "Souza"},
                evidence={"ip": "192.0.2.10"},
                metadata={"campaign": "summer"},
            ),
        )
        for number in range(count)
    ]
    for first in range(0, count, 1000):
        relay.acceptor.accept_many(events[first : first + 1000])


def fan_out(relay: Relay) -> None:
    messages, relay.queue.messages = relay.queue.messages, []
    for kind, values in messages:
        relay.carry_out(kind, values)


def deliver(relay: Relay) -> None:
    """As a worker does it: what many messages bring of one destination goes together."""
    brought: dict[tuple[str, str], list[str]] = defaultdict(list)
    for _, (name, lane, event_ids, *_) in relay.queue.messages:
        brought[name, lane] += event_ids
    relay.queue.messages = []
    for (name, lane), event_ids in brought.items():
        for first in range(0, len(event_ids), AT_ONCE):
            relay.deliver.run(name, lane, event_ids[first : first + AT_ONCE])


def archive(relay: Relay, count: int) -> None:
    """Bring the records to an archive in SQLite, as a worker does now and then."""
    waiting = relay.ledger.outbox.waiting()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Archive(f"sqlite:///{folder}/evidence.sqlite")) as opened:
        opened.prepare()
        began = time.process_time()
        added = Archiver(relay.ledger, opened, ArchiverOptions(), lambda: relay.rules).run()
        spent_us = (time.process_time() - began) * 1e6
    print(f"archiving  ours {spent_us / count:7.1f}   {added / count:.1f} records and {waiting.megabytes * 1e6 / count:.0f} bytes in the outbox for one event")


def report(meter: Meter, looking: Meter, count: int) -> None:
    for stage, own_us in meter.own_us.items():
        print(f"{stage:8} ours {own_us / count:7.1f}   server {meter.server_us[stage] / count:7.1f}   round trips for {count} events: {meter.trips[stage]}")
        for kinds, spent in looking.scripts_us[stage].most_common(8):
            if spent / count >= 0.5:
                print(f"           {spent / count:7.1f}  in {kinds}")
    total = sum(meter.own_us.values()) / count, sum(meter.server_us.values()) / count
    print(
        f"one event, {DESTINATIONS} deliveries: ours {total[0]:.0f}, server {total[1]:.0f}; one delivery: {sum(total) / DESTINATIONS:.0f} microseconds of CPU without HTTP"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, evidence="evidence" in sys.argv)
