"""Proofs as they are asked for over HTTP, and checked on the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from pipeline import proving
from pipeline.archiving import Archiver, ArchiverOptions
from pipeline.evidence.archive import Archive
from pipeline.evidence.page import render
from pipeline.evidence.verify import verify
from pipeline.proving import Prover
from pipeline.routing import Source
from tests.support.evidence import changed
from tests.support.relay import Relay, destination, routing
from tests.support.stack import ROOT
from tests.unit.ingest_fakes import KEYS, NOW, FakeLedger, errors_of, make_relay, make_routing, paths_of
from workers.cli import main

SOURCES = (Source(name="web-forms"), Source(name="reader"))
ANA = {"email": "ana@example.org"}


class Proofs:
    """An application with evidence of two sources about one person."""

    def __init__(self, client: redis.Redis, folder: Path) -> None:
        self.relay = Relay(client, routing([destination("crm")], sources=SOURCES), evidence=True)
        self.archive = Archive(f"sqlite:///{folder / 'evidence.sqlite'}")
        self.given = self.relay.event("given", 1, source="web-forms", email="ana@example.org", external_id="C-1")
        self.withdrawn = self.relay.event("withdrawn", 2, source="reader", email="ana@example.org", external_id="C-1")
        self.relay.drain()
        Archiver(self.relay.ledger, self.archive, ArchiverOptions(), lambda: self.relay.rules).run()
        prover = Prover(self.archive, self.relay.hasher, lambda: self.relay.rules, lambda: NOW)
        self.http = make_relay(ledger=FakeLedger(), routing=make_routing(), prover=prover)

    def event(self, event_id: str, key: str = "web-forms", **options: Any) -> Any:
        return self.http.get(f"/v1/consent-events/{event_id}/proof", key=KEYS[key], **options)

    def subject(self, body: Any, key: str = "auditor", **options: Any) -> Any:
        return self.http.post("/v1/subjects/proof", key=KEYS[key], json=body, **options)


@pytest.fixture
def proofs(client: redis.Redis, tmp_path: Path) -> Iterator[Proofs]:
    made = Proofs(client, tmp_path)
    yield made
    made.archive.close()


def test_the_proof_of_an_event(proofs: Proofs) -> None:
    """It holds, it is about that event alone, and other records of the person are there by their hash only."""
    answer = proofs.event(proofs.given)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert [finding for finding in verify(answer.json) if not finding.is_note] == []
    assert [event["event_id"] for event in answer.json["events"]] == [proofs.given]
    records = answer.json["evidence"]["chains"][0]["records"]
    assert {record["content"]["event_id"] for record in records if record["content"]} == {proofs.given}
    assert any(record["content"] is None for record in records)
    assert answer.json["labels"]["destinations"] == {"crm": "Plain"}


def test_a_source_sees_its_own_events_only(proofs: Proofs) -> None:
    """One of another source is not found; a key for all sources sees every one."""
    assert proofs.event(proofs.withdrawn).status_code == 404
    assert proofs.event("unknown").status_code == 404
    assert proofs.event(proofs.withdrawn, key="auditor").status_code == 200
    own = proofs.subject({"subject": ANA}, key="reader").json
    assert [event["event_id"] for event in own["events"]] == [proofs.withdrawn]
    assert "web-forms" not in json.dumps(own["evidence"])
    every = proofs.subject({"subject": ANA}).json
    assert [event["event_id"] for event in every["events"]] == [proofs.given, proofs.withdrawn]
    assert [purpose["consent_status"] for purpose in every["pii_processing"]["purposes"]] == ["dpv:ConsentWithdrawn"]


def test_a_person_is_found_by_any_identifier(proofs: Proofs) -> None:
    """Also by one that does not name the chain."""
    for subject in ({"email": "ANA@example.org "}, {"external_id": "C-1"}, {"external_id": "C-1", "email": "other@example.org"}):
        answer = proofs.subject({"subject": subject})
        assert answer.status_code == 200
        assert "ana@example.org" not in answer.text.lower()
        assert "C-1" not in answer.text
    assert proofs.subject({"subject": {"email": "nobody@example.org"}}).status_code == 404


def test_a_proof_of_one_event_or_one_source_does_not_say_what_stands(proofs: Proofs) -> None:
    """A newer word lies in the same chain, by its hash only: what is said is what these records said, in the document and on the page."""
    for document, shows in ((proofs.event(proofs.given).json, "one event"), (proofs.subject({"subject": ANA}, key="web-forms").json, "one source")):
        assert document["record_metadata"]["shows"] == shows
        (purpose,) = document["pii_processing"]["purposes"]
        assert purpose["said"] == "dpv:ConsentGiven"
        assert "consent_status" not in purpose
        assert {(finding.code, finding.is_note) for finding in verify(document)} == {("hidden", True), ("not_anchored", True)}
        page = render(document)
        assert "What stands" not in page
        assert "Not what stands" in page
        assert "not shown: there by its hash only" in page
    every = proofs.subject({"subject": ANA}).json
    assert every["record_metadata"]["shows"] == "all records"
    assert "<h2>What stands</h2>" in render(every)


def test_a_withdrawal_by_another_identifier_is_in_the_proof(proofs: Proofs) -> None:
    """A consent names account, e-mail and phone, the withdrawal the phone alone: the proof by e-mail has both, and says what stands."""
    names = {"external_id": "C-2", "email": "bruno@example.org", "phone": "+5511987654321"}
    proofs.relay.event("given", 3, source="web-forms", **names)
    withdrawn = proofs.relay.event("withdrawn", 4, source="reader", phone=names["phone"])
    proofs.relay.drain()
    Archiver(proofs.relay.ledger, proofs.archive, ArchiverOptions(), lambda: proofs.relay.rules).run()
    for name, value in names.items():
        document = proofs.subject({"subject": {name: value}}).json
        (purpose,) = document["pii_processing"]["purposes"]
        assert (purpose["consent_status"], purpose["event_id"]) == ("dpv:ConsentWithdrawn", withdrawn), name
        assert len(document["evidence"]["chains"]) == 2
        assert "followed_at_most" not in document["record_metadata"]
        assert [finding for finding in verify(document) if not finding.is_note] == []


@pytest.mark.parametrize("late", [3.0, 1.0])
def test_a_newer_word_whose_records_were_lost_is_not_passed_over(proofs: Proofs, tmp_path: Path, late: float) -> None:
    """An older copy of the archive knows a consent and not its withdrawal; a consent that comes late, newer than the known one or older, names it: what stands is unknown."""
    relay, copy, eva = proofs.relay, tmp_path / "copy.sqlite", {"email": "eva@example.org"}

    def archived(archive: Archive) -> None:
        archiver = Archiver(relay.ledger, archive, ArchiverOptions(), lambda: relay.rules)
        archiver.accept()
        archiver.run()

    def proven(archive: Archive) -> dict[str, Any]:
        prover = Prover(archive, relay.hasher, lambda: relay.rules, lambda: NOW)
        http = make_relay(ledger=FakeLedger(), routing=make_routing(), prover=prover)
        return dict(http.post("/v1/subjects/proof", key=KEYS["auditor"], json={"subject": eva}).json)

    relay.event("given", 2, source="web-forms", **eva)
    relay.drain()
    archived(proofs.archive)
    shutil.copy(tmp_path / "evidence.sqlite", copy)
    withdrawn = relay.event("withdrawn", 4, source="reader", **eva)
    relay.drain()
    archived(proofs.archive)
    with contextlib.closing(Archive(f"sqlite:///{copy}")) as lost:
        archived(lost)
        relay.event("given", late, source="web-forms", **eva)
        relay.drain()
        archived(lost)
        document = proven(lost)
        (purpose,) = document["pii_processing"]["purposes"]
        assert (purpose["consent_status"], purpose["since"], purpose["event_id"]) == ("dpv:ConsentUnknown", None, withdrawn)
        (note,) = [finding for finding in verify(document) if finding.code == "newer_word"]
        assert (note.is_note, note.where, withdrawn in note.text) == (True, "purpose news", True)
        assert [finding for finding in verify(document) if not finding.is_note] == []
        page = render(document)
        assert '<td class="unknown">unknown</td>' in page
        assert note.text in page
        (event, *_) = document["events"]
        stated = {"consent_status": "dpv:ConsentGiven", "since": event["order_time"], "event_id": event["event_id"]}
        claim = changed(document, lambda it: it["pii_processing"]["purposes"][0].update(stated))
        assert [(finding.code, finding.where) for finding in verify(claim) if not finding.is_note] == [("summary", "pii_processing")]
        anew = relay.event("given", 5, source="web-forms", **eva)
        relay.drain()
        archived(lost)
        (purpose,) = proven(lost)["pii_processing"]["purposes"]
        assert (purpose["consent_status"], purpose["event_id"]) == ("dpv:ConsentGiven", anew)


def test_where_too_many_are_named_together_it_is_said(proofs: Proofs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that did not follow all of them does not say what stands."""
    monkeypatch.setattr(proving, "MAX_REACH", 1)
    document = proofs.subject({"subject": {"email": "ana@example.org"}}).json
    assert document["record_metadata"]["shows"] == "all records"
    proofs.relay.event("given", 3, source="web-forms", email="ana@example.org", external_id="C-3")
    proofs.relay.drain()
    Archiver(proofs.relay.ledger, proofs.archive, ArchiverOptions(), lambda: proofs.relay.rules).run()
    document = proofs.subject({"subject": {"email": "ana@example.org"}}).json
    assert (document["record_metadata"]["shows"], document["record_metadata"]["followed_at_most"]) == ("the nearest chains", 1)
    assert "consent_status" not in str(document["pii_processing"])
    assert [finding for finding in verify(document) if not finding.is_note] == []


WRONG = [
    ([], [""]),
    ({}, ["subject"]),
    ({"subject": {}}, ["subject"]),
    ({"subject": {"email": "no address"}}, ["subject.email"]),
    ({"subject": ANA, "more": 1}, ["more"]),
    ({"subject": "ana@example.org"}, ["subject"]),
]


@pytest.mark.parametrize("body, paths", WRONG)
def test_a_wrong_question_is_refused_by_path(proofs: Proofs, body: Any, paths: list[str]) -> None:
    """And what was asked for is not repeated."""
    answer = proofs.subject(body)
    assert answer.status_code == 422
    assert paths_of(answer) == paths
    assert "no address" not in answer.text


def test_a_key_needs_the_scope_to_read(proofs: Proofs) -> None:
    """No key, a wrong one, or one that may not read."""
    assert proofs.http.get(f"/v1/consent-events/{proofs.given}/proof", key=None).status_code == 401
    assert proofs.http.post("/v1/subjects/proof", key=KEYS["hooks"], json={"subject": ANA}).status_code == 403


def test_where_no_evidence_is_kept_it_says_so() -> None:
    """404, and why."""
    answer = make_relay().get("/v1/consent-events/some-event/proof")
    assert answer.status_code == 404
    assert errors_of(answer) == [("", "no evidence is kept here")]


def test_an_archive_that_is_away_is_503(proofs: Proofs, tmp_path: Path) -> None:
    """Come back later; the address is not told."""
    away = Prover(Archive("postgresql://relay:secret-word@127.0.0.1:1/x"), proofs.relay.hasher, lambda: proofs.relay.rules, lambda: NOW)
    answer = make_relay(prover=away).get("/v1/consent-events/some-event/proof")
    assert answer.status_code == 503
    assert "secret-word" not in answer.text


def test_whoever_prefers_html_gets_the_page(proofs: Proofs) -> None:
    """It loads nothing, and says what checking it said."""
    answer = proofs.event(proofs.given, headers={"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "The chains of this proof hold" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_the_page_of_a_proof_that_was_altered_says_so_and_escapes_it(proofs: Proofs) -> None:
    """Whatever was written into it."""
    document = proofs.event(proofs.given).json
    mark = "<script>alert(1)</script>"
    altered = changed(document, lambda it: it["evidence"]["chains"][0]["records"][0]["content"].update(purpose=mark, kind=mark, vendor_reference=mark))
    page = render(altered)
    assert "This proof does not hold" in page
    assert mark not in page
    assert "&lt;script&gt;" in page


def test_a_proof_is_verified_without_the_relay(proofs: Proofs, tmp_path: Path) -> None:
    """By a process that knows neither ledger nor archive nor secrets: 0 where it holds, 1 where it does not, 2 where it is none."""
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    document = proofs.event(proofs.given).json
    good.write_text(json.dumps(document))
    bad.write_text(json.dumps(changed(document, lambda it: it["evidence"]["chains"][0]["records"][0]["content"].update(state="withdrawn"))))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}
    command = [sys.executable, "-m", "workers.cli", "verify"]
    held = subprocess.run([*command, str(good)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (held.returncode, held.stdout.splitlines()[-1]) == (0, "holds"), held
    run = CliRunner().invoke(main, ["verify", str(bad)])
    assert run.exit_code == 1
    assert "FAIL altered: chain" in run.output
    assert "record 1 (received" in run.output
    as_json = json.loads(CliRunner().invoke(main, ["verify", str(bad), "--json"]).output)
    assert (as_json["holds"], as_json["findings"][0]["code"]) == (False, "altered")


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"evidence": {"chains": [{}], "roots": []}}'])
def test_what_is_no_proof_is_a_wrong_usage(tmp_path: Path, text: str) -> None:
    """Exit code 2, whatever it is."""
    file = tmp_path / "file"
    file.write_text(text)
    assert CliRunner().invoke(main, ["verify", str(file)]).exit_code == 2
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "missing")]).exit_code == 2
    assert CliRunner().invoke(main, ["verify", str(file), "--root", "today"]).exit_code == 2


def test_a_person_is_never_named_as_an_argument() -> None:
    """An address that is given where a file is expected is no file; both or neither of event and subject are refused."""
    for arguments in (["--subject", "ana@example.org"], [], ["--event", "x", "--subject", "-"]):
        run = CliRunner().invoke(main, ["proof", *arguments], input="{}")
        assert run.exit_code == 2
