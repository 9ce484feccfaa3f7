"""What holds for a person: the newest word of everybody linked to them, what each destination was told last, and nothing of other sources or people."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from pipeline.archiving import Archiver, ArchiverOptions
from pipeline.desk import Desk
from pipeline.domain import Subject
from pipeline.evidence.archive import Archive
from pipeline.proving import Prover
from pipeline.routing import Conditions, Source, Trigger
from tests.support.relay import Relay, destination, routing

ANA = "ana@example.org"


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail"), destination("sms")]), seconds=30)


def status(relay: Relay, source: str | None = None, **identifiers: str):
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    return desk.subject(Subject(**identifiers), source)


def test_newest_word_and_what_was_told(relay: Relay):
    """Once told, every destination shows the state, the event and the time."""
    event = relay.event("given", 1, email=ANA)
    relay.drain()
    (purpose,) = status(relay, email=ANA)["purposes"]
    assert (purpose["state"], purpose["event_id"], purpose["source"]) == ("given", event, "web")
    assert [(each["destination"], each["told"], each["event_id"], each["status"]) for each in purpose["destinations"]] == [
        ("mail", "given", event, "delivered"),
        ("sms", "given", event, "delivered"),
    ]
    assert all(each["told_at"] for each in purpose["destinations"])


def test_untold_withdrawal_shows_what_the_vendor_still_holds(client: redis.Redis, tmp_path: Path):
    """While a vendor does not answer, the last word it was told stands beside the one it has yet to learn: the evidence has it, as the ledger keeps the newest word only."""
    relay = Relay(client, routing([destination("mail"), destination("sms")]), seconds=30, evidence=True)
    archive = Archive(f"sqlite:///{tmp_path / 'evidence.sqlite'}")
    prover = Prover(archive, relay.hasher, lambda: relay.rules, relay.ledger.now)
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher, recorded=prover.told)
    given = relay.event("given", 1, email=ANA, external_id="C-1")
    relay.drain()
    relay.vendors["mail"].answers = [503] * 5
    withdrawn = relay.event("withdrawn", 2, external_id="C-1", email=ANA)
    relay.drain()
    Archiver(relay.ledger, archive, ArchiverOptions(), lambda: relay.rules).run()
    (purpose,) = desk.subject(Subject(external_id="C-1"))["purposes"]
    mail, sms = purpose["destinations"]
    assert (purpose["state"], purpose["event_id"]) == ("withdrawn", withdrawn)
    assert (sms["told"], sms["event_id"], sms["status"]) == ("withdrawn", withdrawn, "delivered")
    assert (mail["told"], mail["event_id"], mail["status"]) == ("given", given, "waiting")
    assert mail["told_at"]
    (purpose,) = status(relay, external_id="C-1")["purposes"]
    assert [(each["destination"], each["told"]) for each in purpose["destinations"]] == [("mail", None), ("sms", "withdrawn")]
    (purpose,) = desk.subject(Subject(external_id="C-1"), "another")["purposes"] or [None]
    assert purpose is None
    archive.close()


def test_word_of_a_linked_identifier_counts(relay: Relay):
    """What was said by another identifier that an event named together with this one is found."""
    relay.event("given", 1, email=ANA, external_id="C-1")
    relay.drain()
    withdrawn = relay.event("withdrawn", 2, external_id="C-1")
    relay.drain()
    (purpose,) = status(relay, email=ANA)["purposes"]
    assert (purpose["state"], purpose["event_id"]) == ("withdrawn", withdrawn)


def test_what_another_source_had_told_stays_out(client: redis.Redis):
    """Where the newest word is a source's own, what another's older one made destinations know is shown to somebody who may see all sources, and to nobody else."""
    triggers = [Trigger(deliver_to=(name,), when=Conditions(source=frozenset({source}))) for source, name in (("web", "mail"), ("clinic", "clinic-crm"))]
    relay = Relay(client, routing([destination("mail"), destination("clinic-crm")], triggers=triggers, sources=[Source(name="web"), Source(name="clinic")]))
    at_clinic = relay.event("given", 1, source="clinic", email=ANA, phone="+5551999999999")
    relay.drain()
    on_web = relay.event("given", 2, email=ANA)
    relay.drain()
    for source, told in (("web", [("mail", on_web)]), (None, [("clinic-crm", at_clinic), ("mail", on_web)])):
        (purpose,) = status(relay, source, email=ANA)["purposes"]
        assert [(each["destination"], each["event_id"]) for each in purpose["destinations"]] == told
    assert status(relay, "clinic", email=ANA)["purposes"] == []


def test_other_sources_and_other_people_stay_out(relay: Relay):
    """A key that sees one source sees what came from it; a person nobody spoke of has no purposes."""
    relay.event("given", 1, email=ANA)
    relay.drain()
    assert status(relay, "web", email=ANA)["purposes"]
    assert status(relay, "another", email=ANA)["purposes"] == []
    nobody = status(relay, email="ben@example.org")
    assert nobody["purposes"] == []
    assert ANA not in str(status(relay, email=ANA))
