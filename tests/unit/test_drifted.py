"""Who has drifted: by event, until he is seen in sync again, with the questions that showed it as evidence; and what samples find does not hide what the full sweep found."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from pipeline.archiving import Archiver, ArchiverOptions
from pipeline.evidence.archive import Archive
from pipeline.ledger import drifts
from pipeline.reconcile import ReconcileOptions
from pipeline.vendors.base import Rate
from tests.support.comparing import ComparingRelay, asked_adapter, asked_destination, crm
from tests.support.relay import routing
from tests.unit.test_evidence_steps import Case
from workers.passes import Pass, standing

ANA, BEN = "ana@example.org", "ben@example.org"


def relay_of(client: redis.Redis, *, more: Any = None, **values: Any) -> ComparingRelay:
    return ComparingRelay(client, routing([asked_destination("crm", asked_adapter(), rate=Rate(concurrent=1), **values)]), **(more or {}))


@pytest.fixture
def relay(client: redis.Redis) -> ComparingRelay:
    return relay_of(client)


def happen(relay: ComparingRelay, state: str, minute: float = 1, email: str = ANA) -> str:
    event = relay.event(state, minute, email=email)
    relay.drain()
    return event


def listed(relay: ComparingRelay) -> list[tuple[str, str, str]]:
    return [(each.event_id, each.drift, each.repaired) for each in relay.ledger.drifts.of("crm")]


def test_who_has_drifted_is_listed_until_he_is_in_sync_again(relay: ComparingRelay) -> None:
    """By event and class, with when; a newer word of the same person does not leave the old one behind."""
    first = happen(relay, "given")
    other = happen(relay, "given", email=BEN)
    crm(relay).sets(ANA, "withdrawn")
    crm(relay).sets(BEN, None)
    relay.sweep()
    assert sorted(listed(relay)) == sorted([(first, "vendor_stricter", ""), (other, "missing", "")])
    assert all(abs(each.at_ms - relay.ledger.now_ms()) < 10_000 for each in relay.ledger.drifts.of("crm"))
    crm(relay).sets(BEN, "given")
    happen(relay, "given", 2)
    relay.sweep()
    assert listed(relay) == []


def test_what_is_repaired_says_so(relay: ComparingRelay) -> None:
    event = happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    relay.sweep()
    assert listed(relay) == [(event, "vendor_looser", "told_again")]
    relay.again()
    relay.sweep()
    assert listed(relay) == []


def test_only_so_many_are_listed_and_all_are_counted(relay: ComparingRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drifts, "MOST_KEPT", 3)
    for number in range(5):
        happen(relay, "given", email=f"person-{number}@example.org")
        crm(relay).sets(f"person-{number}@example.org", None)
    assert relay.sweep() == {"missing": 5}
    assert len(listed(relay)) == 3


def test_whom_a_full_sweep_does_not_find_any_more_is_forgotten(relay: ComparingRelay, client: redis.Redis) -> None:
    """His identifiers were erased, say: nobody would ever see him in sync."""
    happen(relay, "given")
    crm(relay).sets(ANA, None)
    relay.sweep()
    for name in client.keys("cr:{i*}:i:*"):
        client.delete(name)
    client.hdel("cr:{d:crm}:sweep", "full_at")
    relay.sweep()
    assert listed(relay) == []


def test_nothing_personal_is_listed(relay: ComparingRelay, client: redis.Redis) -> None:
    happen(relay, "given")
    crm(relay).sets(ANA, None)
    relay.sweep()
    held = client.hgetall("cr:{d:crm}:drift")
    assert len(held) == 1
    assert b"ana" not in b"".join([*held, *held.values()])
    assert relay.hasher.identifier_key("email", ANA).encode() not in held


def test_what_a_full_sweep_found_is_not_hidden_by_the_next_sample(client: redis.Redis) -> None:
    """The gauge has both, by mode; a sample that met nobody who drifted says so of itself only."""
    options = ReconcileOptions(sample_size=1, sample_every_seconds=0.001, full_every_seconds=0)
    relay = relay_of(client, more={"options": options})
    for email, held in ((ANA, None), (BEN, "given")):
        happen(relay, "given", email=email)
        crm(relay).sets(email, held)
    relay.sweep()
    crm(relay).sets(ANA, "given")
    client.hset("cr:{d:crm}:sweep", mapping={"due": 0})
    assert relay.reconcile.run("crm")
    assert relay.ledger.sweeps.figures("crm").last_mode == "sample"
    shown = {(mode, name): count for _, mode, name, count in relay.figures().drift if count}
    assert shown == {("full", "missing"): 1, ("full", "in_sync"): 1, ("sample", "in_sync"): 1}


# For people and programs


def parts(relay: ComparingRelay) -> Any:
    return SimpleNamespace(ledger=relay.ledger, routing=relay.rules)


def sampled(relay: ComparingRelay, *, dry_run: bool = False) -> dict[str, Any]:
    """What a sample that meets everybody found."""
    one = Pass(parts(relay), relay.reconcile, "crm", full=False, dry_run=dry_run, sample=10)
    while not one.has_ended:
        one.go_on()
    return one.row()


def test_a_sample_forgets_whom_it_sees_in_sync(relay: ComparingRelay) -> None:
    """A mere look does not."""
    happen(relay, "given")
    crm(relay).sets(ANA, None)
    sampled(relay)
    happen(relay, "given", 2)
    sampled(relay, dry_run=True)
    assert len(listed(relay)) == 1
    sampled(relay)
    assert listed(relay) == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_command_lists_them(relay: ComparingRelay, dry_run: bool) -> None:
    """A mere look lists what it saw itself, and keeps nothing."""
    event = happen(relay, "given")
    crm(relay).sets(ANA, None)
    drifted = sampled(relay, dry_run=dry_run)["drifted"]
    assert (drifted["count"], drifted["items"][0]["event_id"], drifted["items"][0]["class"]) == (1, event, "missing")
    assert len(listed(relay)) == int(not dry_run)


def test_what_was_found_is_shown_without_asking(relay: ComparingRelay) -> None:
    event = happen(relay, "given")
    crm(relay).sets(ANA, None)
    relay.sweep()
    asked = len(crm(relay).asks)
    shown = standing(parts(relay), "crm")
    assert shown["last"]["full"]["missing"] == 1
    assert [(each["event_id"], each["class"], each["repaired"]) for each in shown["drifted"]["items"]] == [(event, "missing", None)]
    assert len(crm(relay).asks) == asked


# Evidence


def case_of(client: redis.Redis, folder: Path) -> Case:
    case = Case.__new__(Case)
    case.relay = relay_of(client, more={"evidence": True})
    case.archive = Archive(f"sqlite:///{folder / 'evidence.sqlite'}")
    case.archiver = Archiver(case.relay.ledger, case.archive, ArchiverOptions(), lambda: case.relay.rules)
    return case


def test_a_repair_is_recorded_with_the_question_that_called_for_it(client: redis.Redis, tmp_path: Path) -> None:
    """What was asked, what came back, what it showed; then that it is told again. Who is in sync leaves no record."""
    case = case_of(client, tmp_path)
    event, other = happen(case.relay, "withdrawn"), happen(case.relay, "withdrawn", email=BEN)
    crm(case.relay).sets(ANA, "given")
    case.relay.sweep()
    found = [record for record in case.records(event) if record["kind"] in ("asked", "repaired")]
    assert [record["kind"] for record in found] == ["asked", "repaired"]
    asked = found[0]
    assert (asked["destination"], asked["operation"], asked["status_code"], asked["reason"]) == ("crm", "ask", 200, "vendor_looser")
    assert len(asked["request_hmac"]) > 20
    assert asked["subject_key"] == found[1]["subject_key"]
    assert "asked" not in case.kinds(other)


def test_what_is_only_reported_is_recorded_too(client: redis.Redis, tmp_path: Path) -> None:
    case = case_of(client, tmp_path)
    event = happen(case.relay, "given")
    crm(case.relay).sets(ANA, None)
    case.relay.sweep()
    assert [(record["reason"]) for record in case.records(event) if record["kind"] == "asked"] == ["missing"]
