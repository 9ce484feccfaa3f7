"""The vault key is changed as the documentation says, by real processes on one ledger: at rest, and under load on two machines."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import redis

from pipeline.domain import IncomingEvent, State, Subject, utc_from_us
from pipeline.vault import Vault
from tests.flow.conftest import ROUTING
from tests.support.canaries import redis_content
from tests.support.load import Clients, Sent, invent, posts_of
from tests.support.servers import valkey_server
from tests.support.stack import ROOT, Stack, running_stack, wait_until
from tests.support.verdict import arrivals_of, wrong_states
from tests.support.world import PURPOSES, PURPOSES_OF, QUICK_VENDORS, SHORT, routing
from workers.state import new_pepper, new_vault_key
from workers.wiring import Parts

pytestmark = pytest.mark.timeout(180)

EVERY_SECONDS = 0.08
"""How often somebody posts at each machine."""
LONGEST_SECONDS = 240.0
UNREADABLE = ("payload_unreadable", "identifier_unreadable", "vault_key_missing", "heard_unreadable", '"task_failed"')


def key_id(text: str) -> str:
    from config.settings import load_settings

    return Vault(load_settings({"CONSENT_VAULT_KEYS": text}).keys_of_vault()).newest


def consent(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}
    command = [sys.executable, "-m", "workers.cli", *words]
    return subprocess.run(command, cwd=ROOT, env={**plain, **environment}, capture_output=True, text=True, timeout=60, check=False)


def accept(environment: dict[str, str], email: str) -> str:
    """Accept a withdrawal as an ingest process with this environment would; nobody fans it out."""
    parts = Parts(environment)
    event = IncomingEvent(subject=Subject(email=email), purpose="newsletter", state=State.WITHDRAWN, event_time=utc_from_us(1_767_600_000_000_000))
    (accepted,) = parts.acceptor.accept_many([(parts.routing.sources["web-forms"], event)])
    parts.close()
    return str(accepted.event_id)


def sealed_by(url: str, name: str) -> int:
    with redis.Redis.from_url(url) as client:
        return sum(bytes.fromhex(name) in content for content in redis_content(client, "").values())


def test_the_key_is_changed_while_the_relay_runs(tmp_path) -> None:
    """What was accepted under the old key is told under the new one; the old one is refused to be removed until it was freed, and not missed afterwards."""
    old, new = new_vault_key(), new_vault_key()
    (tmp_path / "consent.yaml").write_text(ROUTING)
    with valkey_server() as url:
        shared = {
            **SHORT,
            "CONSENT_REDIS_URL": url,
            "CONSENT_SUBJECT_PEPPER": new_pepper(),
            "CONSENT_CONFIG": str(tmp_path / "consent.yaml"),
            "CONSENT_STATE_DIR": str(tmp_path / "state"),
            "CONSENT_SANDBOX_PORT": "1",
        }
        event_id = accept({**shared, "CONSENT_VAULT_KEYS": old}, "ana@example.org")
        refused = consent({**shared, "CONSENT_VAULT_KEYS": new}, "serve")
        assert (refused.returncode, key_id(old) in refused.stderr, new in refused.stderr) == (2, True, False)
        with running_stack(
            routing=ROUTING,
            environment={**SHORT, **{name: shared[name] for name in ("CONSENT_REDIS_URL", "CONSENT_SUBJECT_PEPPER")}, "CONSENT_VAULT_KEYS": f"{new},{old}"},
        ) as stack:
            stack.wait_complete([event_id])
            assert set(stack.deliveries(event_id).values()) == {("delivered", None)}
            assert sealed_by(url, key_id(old)) > 0
            assert f"{key_id(old)}: opens what it sealed" in stack.consent("vault", "status").stdout
            resealed = stack.consent("vault", "reseal")
            assert (resealed.returncode, f"{key_id(old)} seals nothing any more" in resealed.stdout) == (0, True), resealed.stderr
            assert sealed_by(url, key_id(old)) == 0
            fresh = stack.accept("withdrawn", email="bo@example.org")
            stack.wait_complete([fresh])
            assert sealed_by(url, key_id(old)) == 0
            assert f"{key_id(old)}: seals nothing: may be removed" in stack.consent("vault", "status").stdout
        alone = {**shared, "CONSENT_VAULT_KEYS": new}
        assert (consent(alone, "vault", "status").returncode, consent(alone, "vault", "reseal").stdout) == (0, "0 values sealed anew\n")
        lost = consent({**shared, "CONSENT_VAULT_KEYS": old}, "vault", "status")
        assert (lost.returncode, f"{key_id(new)}: MISSING" in lost.stdout) == (1, True)
        assert consent({**shared, "CONSENT_VAULT_KEYS": old}, "vault", "forget", key_id(new), "--yes").returncode == 0
        assert consent({**shared, "CONSENT_VAULT_KEYS": old}, "vault", "status").returncode == 0


@contextmanager
def two_machines(**environment: str) -> Iterator[list[Stack]]:
    """Two whole relays on one ledger, told apart by nothing but their ports; the vendors outlive both."""
    with ExitStack() as stack:
        settings = {**SHORT, **environment, "CONSENT_WORKER_PROCESSES": "1", "CONSENT_EVIDENCE_ENABLED": "off"}
        first = stack.enter_context(running_stack(routing=routing(QUICK_VENDORS), environment=settings, vendors_apart=True))
        first.settings("dinamize", calls_per_minute=None)
        sandboxes = int(first.environment["CONSENT_SANDBOX_PORT"])
        yield [first, stack.enter_context(running_stack(routing=routing(QUICK_VENDORS), environment=settings, sandbox_port=sandboxes))]


def restarted(machine: Stack, keys: str) -> None:
    machine.process.send_signal(signal.SIGTERM)
    machine.start_again(CONSENT_VAULT_KEYS=keys)


def resealed(machine: Stack, url: str, key: str) -> None:
    """Seal anew what a key sealed; it sealed something, and seals nothing afterwards."""
    assert sealed_by(url, key) > 0
    found = machine.consent("vault", "reseal")
    assert (found.returncode, f"{key} seals nothing any more" in found.stdout) == (0, True), found.stdout + found.stderr
    assert sealed_by(url, key) == 0
    time.sleep(1.0)  # quick as it was, something is said and told meanwhile


def done_under_load(
    machines: list[Stack], events: list[Sent], steps: Mapping[str, Callable[[], None]], chance: random.Random
) -> dict[str, tuple[float, float]]:
    """Do the steps while half of the events is posted at each machine, as many as there is time for; returns when each was begun and ended."""
    halves = [posts_of(chance, events[place :: len(machines)]) for place in range(len(machines))]
    clients = [Clients(machine.url, machine.headers(), half, threads=4, every_seconds=EVERY_SECONDS) for machine, half in zip(machines, halves, strict=True)]
    times = {}
    for each in clients:
        each.start()
    try:
        wait_until(lambda: sum(bool(sent.ids) for sent in events) > 50, 30)
        for name, step in steps.items():
            begun_at = time.time()
            step()
            times[name] = begun_at, time.time()
    finally:
        for each in clients:
            each.end()
    for each in clients:
        each.join(90)
    return times


def check_all_told(machine: Stack, said: list[Sent]) -> list[float]:
    """Everything is complete, nobody is dead or unaccounted, and the vendors hold what was said last; returns when they were told."""
    machine.wait_complete([sent.event_id for sent in said], 60)
    wait_until(lambda: machine.metric("consent_unaccounted") == 0, 10)
    assert machine.metric("consent_dead_letters") == 0
    assert wrong_states(machine, said, {vendor: PURPOSES_OF[vendor] for vendor in QUICK_VENDORS}) == []
    return [arrival.at for arrivals in arrivals_of(machine, QUICK_VENDORS).values() for arrival in arrivals]


@pytest.mark.timeout(LONGEST_SECONDS)
def test_the_key_is_changed_under_load() -> None:
    """Two machines take events and tell them while the new key is added, put in front, everything sealed anew, and the old one let go, one machine after the
    other: what either accepted is told, whichever key sealed it, at no step does anything stand still, and in the end the new key opens everything.
    """
    old, new, chance = new_vault_key(), new_vault_key(), random.Random(11)
    with valkey_server() as url, two_machines(CONSENT_REDIS_URL=url, CONSENT_SUBJECT_PEPPER=new_pepper(), CONSENT_VAULT_KEYS=old) as machines:

        def on_each(what: str, keys: str) -> dict[str, Callable[[], None]]:
            return {f"{what}, machine {number}": partial(restarted, machine, keys) for number, machine in enumerate(machines)}

        steps = {
            **on_each("added behind", f"{old},{new}"),
            **on_each("put in front", f"{new},{old}"),
            "sealed anew": partial(resealed, machines[0], url, key_id(old)),
            **on_each("let go", new),
        }
        events = invent(chance, int(2 * LONGEST_SECONDS / EVERY_SECONDS), people=300, purposes=PURPOSES)
        times = done_under_load(machines, events, steps, chance)
        said = [sent for sent in events if sent.ids]
        told_at = check_all_told(machines[0], said)
        for name, (begun_at, ended_at) in times.items():
            assert any(begun_at <= sent.answered_at <= ended_at for sent in said), f"nothing was accepted while {name}"
            assert any(begun_at <= at <= ended_at for at in told_at), f"nothing was told while {name}"
        assert [word for word in UNREADABLE for machine in machines if word in machine.log()] == []
        again = machines[1].consent("vault", "reseal")
        assert (again.returncode, again.stdout) == (0, "0 values sealed anew\n"), again.stderr
        print(f"{len(said)} events, { ({name: round(ended_at - begun_at, 1) for name, (begun_at, ended_at) in times.items()}) }")
