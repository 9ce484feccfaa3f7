"""How fast everybody is compared, and in how much memory: `python benchmarks/sweep.py [standings] [connections] [http or memory]`.

A ledger of that many people, each told to one destination whose vendor has lost, kept or changed some of them: a Mailchimp audience over HTTP, its sandbox in a process of its own, or
(`memory`) a vendor that answers within the process, so that what is measured is the ledger's side. One worker's turns follow each other without the vendor's limits (share 1). What it finds
is held against what was changed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis
import requests

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.domain import DeliveryStatus, IncomingEvent, Outcome, State, Subject
from pipeline.exchange import Exchange
from pipeline.ledger.results import DeliveryResult
from pipeline.transports.curl import CurlTransport
from pipeline.vendors import mailchimp
from pipeline.vendors._mailchimp_members import STATUS
from pipeline.vendors.base import Rate
from tests.support.comparing import ComparingRelay, asked_destination
from tests.support.relay import BASE_TIME, destination, routing
from tests.support.servers import valkey_server
from tests.support.two_way import Sessions
from workers.embedded import free_port

AT_ONCE = 1000
DRIFTS = {17: "vendor_looser", 18: "vendor_stricter", 19: "missing"}
"""Of each hundred people, whose state differs at the vendor, and how."""


def main(count: int, connections: int, vendor: str) -> None:
    if vendor == "memory":
        in_memory(count, connections)
    else:
        over_http(count, connections)


def in_memory(count: int, connections: int) -> None:
    with valkey_server("--appendfsync", "everysec") as url, redis.Redis.from_url(url) as client:
        relay = ComparingRelay(client, routing([asked_destination("list", rate=Rate(concurrent=connections))]), seconds=30.0)
        fill(relay, count)
        held = {number: held_by_vendor(number) for number in range(count)}
        relay.vendors["list"].held = {(email(number), "news"): state.value for number, state in held.items() if state is not None}
        measure(relay, count, f"{connections} at once, in memory")


def over_http(count: int, connections: int) -> None:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}/mailchimp"

    class Audience(mailchimp.Adapter):
        def __init__(self) -> None:
            super().__init__(base_url=f"{base_url}/3.0", credentials={"api_key": "test-mailchimp-key-us1"}, options={"list_id": "L1"})

    with valkey_server("--appendfsync", "everysec") as url, redis.Redis.from_url(url) as client, sandbox(port):
        list_of = destination("list", Audience, rate=Rate(concurrent=connections), options={"list_id": "L1"}, allow_private_network=True)
        exchange = Exchange(CurlTransport(), Sessions())
        relay = ComparingRelay(client, routing([list_of]), seconds=30.0, exchange=exchange)
        fill(relay, count)
        fill_vendor(port, count)
        measure(relay, count, f"{connections} connections")
        exchange.close()


def measure(relay: ComparingRelay, count: int, how: str) -> None:
    before, looked = memory_mib(), relay.ledger.store.client.info("stats")["total_commands_processed"]
    began, used = time.monotonic(), time.process_time()
    found = relay.sweep("list", turns=1_000_000)
    seconds, cpu = time.monotonic() - began, time.process_time() - used
    looked = relay.ledger.store.client.info("stats")["total_commands_processed"] - looked
    expected = {drift: sum(number % 100 == rest for number in range(count)) for rest, drift in DRIFTS.items()}
    assert {drift: found.get(drift, 0) for drift in expected} == expected, (found, expected)
    rate, own_us, commands = count / seconds, cpu / count * 1e6, looked / count
    print(f"{count} standings, {how}: {seconds:.1f} s, {rate:.0f} people/s, {own_us:.0f} us of our CPU and {commands:.1f} commands a person")
    print(
        f"memory of the process: {before:.0f} MiB before, {memory_mib():.0f} MiB after, {memory_mib('VmHWM'):.0f} MiB at the most; load {os.getloadavg()[0]:.0f}; found {found}"
    )


def state_of(number: int) -> State:
    """What a person said: whoever is to be found too loose has withdrawn."""
    return State.WITHDRAWN if number % 100 == 17 or (number % 2 and number % 100 not in DRIFTS) else State.GIVEN


def held_by_vendor(number: int) -> State | None:
    """What the vendor holds: what was told, but for those who have drifted."""
    drifted = {"vendor_looser": State.GIVEN, "vendor_stricter": State.WITHDRAWN, "missing": None}
    drift = DRIFTS.get(number % 100)
    return drifted[drift] if drift else state_of(number)


def fill(relay: ComparingRelay, count: int) -> None:
    """Accept everybody, and note that the destination has taken it, as its deliveries would have."""
    source = relay.rules.sources["web"]
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        events = [IncomingEvent(subject=Subject(email=email(number)), purpose="news", state=state_of(number), event_time=BASE_TIME) for number in numbers]
        ids = [accepted.event_id for accepted in relay.acceptor.accept_many([(source, event) for event in events])]  # type: ignore[union-attr]
        relay.ledger.events.mark_fanned_out([(event_id, ["list"], "") for event_id in ids])
        told = DeliveryResult(status=DeliveryStatus.DELIVERED, updated_ms=1, outcome=Outcome.APPLIED, attempts=1).encode()
        relay.ledger.events.fold([(event_id, "list", told) for event_id in ids])
        relay.queue.messages.clear()


def fill_vendor(port: int, count: int) -> None:
    """Put the members there."""
    with requests.Session() as session:
        session.trust_env = False
        for first in range(0, count, AT_ONCE):
            states = {number: held_by_vendor(number) for number in range(first, min(first + AT_ONCE, count))}
            members = [{"email": email(number), "list_id": "L1", "status": STATUS[state]} for number, state in states.items() if state is not None]
            session.post(f"http://127.0.0.1:{port}/_sandbox/mailchimp/contacts", json=members, timeout=60).raise_for_status()


def email(number: int) -> str:
    return f"p{number}@example.org"


@contextlib.contextmanager
def sandbox(port: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.sandboxes", "--port", str(port), "--vendor", "mailchimp"], cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/", timeout=5)
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def memory_mib(what: str = "VmRSS") -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *("100000", "64", "memory")[len(sys.argv) - 1 :]]
    main(int(arguments[0]), int(arguments[1]), arguments[2])
