"""Evidence: whatever is done to a proof is found, and named."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from pipeline.evidence.archive import Archive
from pipeline.evidence.findings import Finding, NoProof
from pipeline.evidence.merkle import Leaf, bucket_of, bucket_root, climb, path_of, root_of, tree_path, tree_root
from pipeline.evidence.page import render
from pipeline.evidence.records import FIELDS, GENESIS, KINDS, canonical, digest, link_hash
from pipeline.evidence.summary import FIRST_FORM, summarise
from pipeline.evidence.tables import CHAINS, RECORDS
from pipeline.evidence.verify import SUMMARY, verify
from tests.support.evidence import ANA, BRUNO, EVERY_FIELD, changed, entry, one_of_each, proof

COUNT = len(KINDS)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A proof about Ana, one record of every kind, two day roots over her chain and others, and two records that came after them."""
    archive = Archive(f"sqlite:///{tmp_path_factory.mktemp('evidence') / 'evidence.sqlite'}")
    with archive.writing() as writer:
        writer.append([*one_of_each(ANA), *one_of_each(BRUNO), *(entry(100 + n, subject_key=f"p{n:024}", event_id=f"{n:024}") for n in range(50))])
        writer.anchor("2026-01-05", 1, "2026-01-06T00:00:05Z")
        writer.append([entry(200, subject_key=BRUNO)])
        writer.anchor("2026-01-06", 2, "2026-01-07T00:00:05Z")
        writer.append([entry(300), entry(301)])
    found = proof(archive, [ANA])
    archive.close()
    return found


def faults(document: Any, **options: Any) -> list[Finding]:
    return [finding for finding in verify(document, **options) if not finding.is_note]


def codes(document: Any, **options: Any) -> list[tuple[str, str]]:
    """What is wrong, by code and the number of the record."""
    return [(finding.code, finding.where.rpartition(" ")[2].lstrip("0")) for finding in faults(document, **options) if finding.code != "summary"]


def records(document: dict[str, Any]) -> list[dict[str, Any]]:
    return document["evidence"]["chains"][0]["records"]


def noted_of(document: dict[str, Any]) -> list[tuple[str, str]]:
    """The day roots of a proof, as somebody may have noted them."""
    return [(root["day"], root["hash"]) for root in document["evidence"]["roots"]]


def rehash(document: dict[str, Any], first: int = 0, *, head: bool = True) -> None:
    """Do as a forger would: make every hash fit again from a record on."""
    chain = document["evidence"]["chains"][0]
    previous = chain["records"][first - 1]["hash"] if first else GENESIS
    for number, record in enumerate(chain["records"][first:], first + 1):
        record["sequence"], record["previous"] = number, previous
        record["content_hash"] = digest(canonical(record["content"]))
        previous = record["hash"] = link_hash(chain["chain"], number, previous, record["content_hash"])
    if head:
        chain["head"], chain["length"] = previous, len(chain["records"])
    document.update(summarise([chain["chain"]], [record["content"] for record in chain["records"]], stands=True))


def test_a_proof_that_nobody_touched_holds(document: dict[str, Any]) -> None:
    """Nothing is wrong with it, and a note says how much no day root covers yet."""
    assert faults(document) == []
    assert [finding.text for finding in verify(document)] == ["2 records came after the last day root: only the chain itself speaks for them yet"]
    assert len(records(document)) == COUNT + 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_field_of_any_record_is_found(document: dict[str, Any], kind: str) -> None:
    """Each field of each kind of record, changed or taken out: that record is named, and no other."""
    number = list(KINDS).index(kind) + 1
    assert set(records(document)[number - 1]["content"]) == set(FIELDS) == {"id", "kind", "at", "subject_key", "event_id", *EVERY_FIELD}
    for name in FIELDS:
        for change in (_other, None):
            altered = changed(document, lambda it, name=name, change=change: _change(records(it)[number - 1]["content"], name, change))
            assert codes(altered) == [("altered", str(number))], (kind, name)


def _other(value: Any) -> Any:
    return value + 1 if isinstance(value, int) else [*value, "more"] if isinstance(value, list) else value + "x"


def _change(content: dict[str, Any], name: str, change: Callable[[Any], Any] | None) -> None:
    if change is None:
        del content[name]
    else:
        content[name] = change(content[name])


WRONG: list[Any] = [None, True, 0, -1, 5, 99, 10**12, 10**30, 1.5, "", "x", "f" * 64, "\ud800", [], ["x"], {}, {"at": []}, [[[]]]]
"""What somebody may write into any field."""


@pytest.mark.parametrize("name", ["previous", "content_hash", "hash", "sequence", "content", "removed"])
def test_a_changed_link_is_found(document: dict[str, Any], name: str) -> None:
    """The fields that join records are covered too, whatever is written there or if they are taken out: that record is named, and no other."""
    for number, record in enumerate(records(document), 1):
        if name in record:
            assert codes(changed(document, lambda it, number=number: records(it)[number - 1].pop(name))) == [("altered", str(number))]
        for value in WRONG:
            if value == record.get(name) or (name == "sequence" and value == number):
                continue
            altered = changed(document, lambda it, number=number, value=value: records(it)[number - 1].update({name: value}))
            hides, moves = name == "content" and value is None, name == "sequence" and value == 5
            assert codes(altered) == [("hidden" if hides else "reordered" if moves else "altered", str(number))], (number, value)


@pytest.mark.parametrize("value", WRONG)
def test_what_stands_in_the_place_of_a_record_is_found(document: dict[str, Any], value: Any) -> None:
    """Whatever it is: the place is named, and no other."""
    for number in (1, 7, COUNT, len(records(document))):
        found = codes(changed(document, lambda it, number=number: records(it).__setitem__(number - 1, value)))
        assert found == [("altered", str(number))], (number, value)


def test_a_removed_record_is_found(document: dict[str, Any]) -> None:
    """The missing place is named, wherever it is."""
    last = len(records(document))
    for number in range(1, last):
        assert codes(changed(document, lambda it, number=number: records(it).pop(number - 1))) == [("removed", str(number))]
    assert codes(changed(document, lambda it: records(it).pop())) == [("truncated", str(last))]


def test_an_inserted_record_is_found(document: dict[str, Any]) -> None:
    """A record that does not belong is told from the one whose place it takes."""

    def insert(it: dict[str, Any]) -> None:
        forged = copy.deepcopy(records(it)[4])
        forged["content"]["outcome"] = "applied by nobody"
        forged["content_hash"] = digest(canonical(forged["content"]))
        forged["hash"] = link_hash(ANA, forged["sequence"], forged["previous"], forged["content_hash"])
        records(it).insert(4, forged)

    assert codes(changed(document, insert)) == [("inserted", "5")]
    assert codes(changed(document, lambda it: records(it).insert(9, copy.deepcopy(records(it)[8])))) == [("inserted", "9")]


def test_reordered_records_are_found(document: dict[str, Any]) -> None:
    """Two records that changed places are named, whether or not their numbers were changed as well."""

    def swap(it: dict[str, Any]) -> None:
        records(it)[2], records(it)[3] = records(it)[3], records(it)[2]

    def renumber(it: dict[str, Any]) -> None:
        swap(it)
        records(it)[2]["sequence"], records(it)[3]["sequence"] = 3, 4

    assert codes(changed(document, swap)) == [("reordered", "3")]
    assert codes(changed(document, renumber)) == [("reordered", "3"), ("reordered", "4")]


def test_a_chain_that_was_rebuilt_is_found_by_the_day_root(document: dict[str, Any]) -> None:
    """A forger who makes all hashes of the chain fit again is left with a head that no root covers."""

    def rebuild(it: dict[str, Any]) -> None:
        records(it)[3]["content"]["state"] = "withdrawn"
        rehash(it, 3)

    assert codes(changed(document, rebuild)) == [("rebuilt", ANA)]


def test_a_chain_that_was_shortened_is_found_by_the_day_root(document: dict[str, Any]) -> None:
    """Records left out at the end, with length and head made to fit: the root knows how many there were."""

    def shorten(it: dict[str, Any]) -> None:
        del records(it)[COUNT - 3 :]
        rehash(it)

    assert codes(changed(document, shorten)) == [("truncated", ANA)]


def test_a_changed_head_or_length_is_found(document: dict[str, Any]) -> None:
    """What the chain says of its own end is held against its records."""
    last = str(len(records(document)))

    def chain(**fields: Any) -> list[tuple[str, str]]:
        return codes(changed(document, lambda it: it["evidence"]["chains"][0].update(fields)))

    assert chain(head="f" * 64) == chain(head=None) == chain(head=[]) == [("altered", last)]
    assert chain(length=99) == [("truncated", "99")]
    assert chain(length=10**12) == [("truncated", str(10**12))]
    assert chain(length=19) == chain(length="x") == chain(length=None) == chain(length=-1) == chain(length=True) == [("altered", ANA)]


def test_a_length_and_a_number_without_end_are_found_at_once(document: dict[str, Any]) -> None:
    """Nothing is counted through that does not exist, and what is missing is named as one."""

    def forge(it: dict[str, Any]) -> None:
        it["evidence"]["chains"][0]["length"] = records(it)[-1]["sequence"] = 10**12
        del records(it)[3:6]

    assert codes(changed(document, forge)) == [("removed", "4"), ("removed", "20"), ("altered", str(10**12))]


def test_a_place_in_the_tree_cannot_be_forged(document: dict[str, Any]) -> None:
    """A leaf that was made to fit a shortened chain, and a path that was changed, lead to no root."""

    def forge(it: dict[str, Any]) -> None:
        del records(it)[COUNT - 3 :]
        rehash(it)
        chain = it["evidence"]["chains"][0]
        chain["anchor"].update(length=chain["length"], head=chain["head"])

    assert codes(changed(document, forge)) == [("not_in_root", ANA)]
    for step in range(len(document["evidence"]["chains"][0]["anchor"]["path"])):
        for change in ({"hash": "f" * 64}, {"side": "other"}):
            altered = changed(document, lambda it, step=step, change=change: it["evidence"]["chains"][0]["anchor"]["path"][step].update(change))
            assert codes(altered) == [("not_in_root", ANA)]
    for name in ("length", "head", "path"):
        for value in ("gone", *WRONG[:-2]):
            altered = changed(document, lambda it, name=name, value=value: it["evidence"]["chains"][0]["anchor"].update({name: value}))
            assert ("not_in_root", ANA) in codes(altered), (name, value)
        assert codes(changed(document, lambda it, name=name: it["evidence"]["chains"][0]["anchor"].pop(name))) == [("not_in_root", ANA)]


@pytest.mark.parametrize("name", ["number", "day", "tree", "chains", "records", "previous", "hash", "until"])
def test_a_forged_root_is_found(document: dict[str, Any], name: str) -> None:
    """Each field of a root is covered by its hash, and each root names the one before."""

    def forge(it: dict[str, Any]) -> None:
        root = it["evidence"]["roots"][0]
        root[name] = _other(root[name]) if isinstance(root[name], int) else "2026-01-01" if name == "day" else "f" * 64

    for gone in (True, False):
        altered = changed(document, lambda it, gone=gone: it["evidence"]["roots"][0].pop(name) if gone else it["evidence"]["roots"][0].update({name: [{}]}))
        assert "root_altered" in [code for code, _ in codes(altered)]
    assert "root_altered" in [code for code, _ in codes(changed(document, forge))]
    assert "roots_broken" in [code for code, _ in codes(changed(document, lambda it: it["evidence"]["roots"].insert(1, it["evidence"]["roots"].pop(0))))]


def test_a_proof_forged_as_a_whole_is_found_by_a_root_that_was_noted(document: dict[str, Any]) -> None:
    """Whoever forges records, chain, tree and roots makes a proof that holds by itself; a root noted elsewhere tells."""

    def forge(it: dict[str, Any]) -> None:
        records(it)[0]["content"]["state"] = "withdrawn"
        rehash(it)
        chain = it["evidence"]["chains"][0]
        leaf = Leaf(ANA, chain["length"], chain["head"])
        chain["anchor"] = {"length": leaf.length, "head": leaf.head}
        path = tree_path([leaf], ANA, {})
        chain["anchor"]["path"] = [{"side": side, "hash": value} for side, value in path]
        roots = it["evidence"]["roots"] = it["evidence"]["roots"][-1:]
        roots[0]["tree"] = climb(leaf.hash(), path).hex()
        roots[0]["hash"] = digest(canonical({field: value for field, value in roots[0].items() if field != "hash"}))

    noted = noted_of(document)
    forged = changed(document, forge)
    assert faults(forged) == []
    assert faults(document, noted_roots=noted) == []
    assert sorted(codes(forged, noted_roots=noted[1:])) == [("root_forged", "roots"), ("root_not_noted", "roots")]
    assert sorted(codes(forged, noted_roots=[("2026-01-08", "f" * 64)])) == [("root_missing", "roots"), ("root_not_noted", "roots")]


def cut(it: dict[str, Any]) -> None:
    del records(it)[COUNT - 3 :]
    rehash(it)


def rewrite(it: dict[str, Any]) -> None:
    records(it)[3]["content"]["state"] = "withdrawn"
    rehash(it, 3)


@pytest.mark.parametrize("forge", [cut, rewrite])
def test_a_chain_whose_place_in_the_tree_was_taken_away_is_found(document: dict[str, Any], forge: Callable[[dict[str, Any]], None]) -> None:
    """Cut off or made anew, with the real roots: a chain that began before the last root was made is covered by it."""

    def hide(it: dict[str, Any]) -> None:
        forge(it)
        it["evidence"]["chains"][0]["anchor"] = None

    forged = changed(document, hide)
    assert codes(forged) == codes(forged, noted_roots=noted_of(document)) == [("not_anchored", ANA)]
    (finding,) = [each for each in verify(forged) if each.code == "not_anchored"]
    assert "its place in the tree was taken away" in finding.text


def test_a_chain_that_is_younger_than_the_last_root_needs_no_place_yet(tmp_path: Path) -> None:
    """It is a note; of one whose beginning is not shown nobody can say, so that a noted root does not speak for it. A root without `until` counts for its whole day."""
    with contextlib.closing(Archive(f"sqlite:///{tmp_path / 'evidence.sqlite'}")) as archive:
        with archive.writing() as writer:
            writer.append([entry(1, subject_key=BRUNO)])
            writer.anchor("2026-01-05", 1, entry(2).content["at"])
            writer.append([entry(3), entry(4, event_id="other")])
        young, beheaded = proof(archive, [ANA]), proof(archive, [ANA], lambda content: content["event_id"] == "other")
        noted = noted_of(young)
        assert faults(young) == faults(young, noted_roots=noted) == faults(beheaded) == []
        assert codes(beheaded, noted_roots=noted) == [("not_anchored", ANA)]
        with archive.writing() as writer:
            writer.append([entry(3, subject_key="e" + "c" * 24)])
            writer.anchor("2026-01-05", 2)
            writer.append([entry(30, subject_key="e" + "d" * 24), entry(100_000, subject_key="e" + "f" * 24)])
        assert codes(proof(archive, ["e" + "d" * 24])) == [("not_anchored", "e" + "d" * 24)]
        assert faults(proof(archive, ["e" + "f" * 24])) == []


def test_an_archive_that_was_made_anew_is_found_by_the_last_root_alone(document: dict[str, Any], tmp_path: Path) -> None:
    """The operator rewrites what is archived and makes a root, which follows the real one: whoever noted only older ones is told that they do not speak for it."""
    with contextlib.closing(Archive(f"sqlite:///{tmp_path / 'evidence.sqlite'}")) as archive:
        with archive.writing() as writer:
            writer.append(one_of_each(ANA))
            writer.anchor("2026-01-05", 1, "2026-01-06T00:00:05Z")
        noted = noted_of(proof(archive, [ANA]))
        assert faults(proof(archive, [ANA]), noted_roots=noted) == []
        with archive.writing() as writer:
            for table in (RECORDS, CHAINS):
                writer._connection.execute(delete(table))
            writer.append([replace(each, content={**each.content, "state": "withdrawn"}) for each in one_of_each(ANA)])
            writer.anchor("2026-01-06", 2, "2026-01-07T00:00:05Z")
        forged = proof(archive, [ANA])
    assert forged["events"][0]["event_state"] == "dpv:ConsentWithdrawn"
    assert faults(forged) == []
    assert codes(forged, noted_roots=noted) == [("root_not_noted", "roots")]
    assert "root_known" in [finding.code for finding in verify(forged, noted)]
    assert codes(document, noted_roots=noted_of(document)[:1]) == [("root_not_noted", "roots")]


def test_roots_of_one_day_are_told_apart_in_words(tmp_path: Path) -> None:
    """By number and time, in what checking says and on the page."""
    archive = Archive(f"sqlite:///{tmp_path / 'evidence.sqlite'}")
    with archive.writing() as writer:
        writer.append(one_of_each(ANA))
        for number, until in enumerate(("2026-01-05T12:00:00Z", "2026-01-05T18:00:00Z"), 1):
            writer.anchor("2026-01-05", number, until)
    found = proof(archive, [ANA])
    archive.close()
    (first, _), (_, last) = noted_of(found)[0], noted_of(found)[1]
    assert [finding.text for finding in verify(found, [(first, last)])] == ["root 2 of 2026-01-05 (with all until 2026-01-05T18:00:00Z) is one that was noted"]
    older = verify(found, noted_of(found)[:1])
    assert "leads to root 2 of 2026-01-05 (with all until 2026-01-05T18:00:00Z), which was not noted" in str([finding.text for finding in older])
    page = render(found)
    assert "<td>1</td><td>2026-01-05 12:00:00</td>" in page
    assert "<td>2</td><td>2026-01-05 18:00:00</td>" in page


def test_two_roots_of_a_day_may_both_be_noted(document: dict[str, Any]) -> None:
    """One that was made by hand, and that of the day; one from before all that is shown says nothing, and is no fault."""
    last = noted_of(document)[-1]
    assert faults(document, noted_roots=[("2026-01-01", "f" * 64), last]) == []
    assert codes(document, noted_roots=[last, (last[0], "f" * 64)]) == [("root_forged", "roots")]


def test_the_sections_for_people_say_what_the_records_say(document: dict[str, Any]) -> None:
    """A summary that was made more pleasant is found."""
    for name in ("pii_principal", "pii_processing", "party_identification", "events"):
        altered = changed(document, lambda it, name=name: it.update({name: []}))
        assert [(finding.code, finding.where) for finding in faults(altered)] == [("summary", name)]


@pytest.fixture
def unreached(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A proof of a consent that one destination took, and four did not."""
    archive = Archive(f"sqlite:///{tmp_path / 'evidence.sqlite'}")
    facts = {"source": "web", "purpose": "news", "state": "given"}
    with archive.writing() as writer:
        writer.append(
            [
                entry(1, "received", **facts),
                entry(2, "planned", destinations=["crm", "later", "mail", "sms", "wary"], **facts),
                entry(3, "skipped", destination="mail", status="skipped", outcome="not_applicable", reason="missing_identifier", **facts),
                entry(4, "told", destination="sms", **facts),
                entry(5, "dead", destination="sms", status="dead", outcome="refused", reason="http_400", **facts),
                entry(6, "answered", destination="crm", status="delivered", outcome="applied", **facts),
                entry(7, "answered", destination="wary", status="awaiting_confirmation", outcome="pending_confirmation", **facts),
                entry(8, "reopened", destination="crm", status="waiting", **facts),
            ]
        )
    yield proof(archive, [ANA])
    archive.close()


def test_only_those_that_were_told_are_recipients(unreached: dict[str, Any]) -> None:
    """The others are named apart, with the reason; on the page too. What was told stays told, whatever came later."""
    (purpose,) = unreached["pii_processing"]["purposes"]
    assert purpose["recipient_third_parties"] == ["crm", "wary"]
    assert [tuple(each.values()) for each in purpose["recipients_not_told"]] == [
        ("later", 0, None, None, None, None),
        ("mail", 0, "skipped", "skipped", "not_applicable", "missing_identifier"),
        ("sms", 1, "dead", "dead", "refused", "http_400"),
    ]
    roles = {each["party_id"]: each["party_role"] for each in unreached["party_identification"]}
    assert {name for name, role in roles.items() if role == "dpv:Recipient"} == {"crm", "wary"}
    assert faults(unreached) == []
    page = render(unreached)
    assert "<td>crm, wary</td>" in page
    assert "mail: skipped, skipped, not_applicable, missing_identifier; sms: dead, dead, refused, http_400" in page


def test_a_document_of_an_earlier_release_still_holds(unreached: dict[str, Any]) -> None:
    """It named everybody that was to be told as a recipient; one that says so in the form of today does not hold."""
    everybody = ["crm", "later", "mail", "sms", "wary"]

    def as_it_was(it: dict[str, Any]) -> None:
        (purpose,) = it["pii_processing"]["purposes"]
        purpose.pop("recipients_not_told")
        purpose["recipient_third_parties"] = everybody
        it["party_identification"] = [{"party_id": "web", "party_role": "dpv:DataSource"}] + [
            {"party_id": name, "party_role": "dpv:Recipient"} for name in everybody
        ]

    older = changed(unreached, as_it_was)
    assert {finding.where for finding in faults(older)} == {"pii_processing", "party_identification"}
    older["record_metadata"]["schema_version"][0] = FIRST_FORM
    assert faults(older) == []
    assert "<td>crm, later, mail, sms, wary</td>" in render(older)


def test_records_that_are_not_shown_still_hold_the_chain(tmp_path: Path) -> None:
    """A proof of one event shows other records by their hash only; changing that hash is found, and nothing of them can be read."""
    shown = partial(tmp_path)
    assert faults(shown) == []
    assert "health" not in str(shown)
    assert [event["event_id"] for event in shown["events"]] == ["one"]
    assert codes(changed(shown, lambda it: records(it)[1].update(content_hash="f" * 64))) == [("altered", "2")]


def partial(folder: Path) -> dict[str, Any]:
    """A proof of one event out of two, which shows the first and the last of four records."""
    with contextlib.closing(Archive(f"sqlite:///{folder / 'evidence.sqlite'}")) as archive:
        with archive.writing() as writer:
            writer.append(
                [entry(number, event_id="one" if number in (1, 4) else "other", purpose="news" if number in (1, 4) else "health") for number in range(1, 5)]
            )
            writer.anchor("2026-01-05", 1)
        return proof(archive, [ANA], lambda content: content["event_id"] == "one")


def test_a_proof_that_hides_records_does_not_say_what_stands(tmp_path: Path) -> None:
    """It says what its records said, and which are not shown; one that claims to show everything does not hold."""
    document = partial(tmp_path)
    assert document["record_metadata"]["shows"] == "one event"
    assert [set(purpose) & {"said", "said_at", "consent_status", "since"} for purpose in document["pii_processing"]["purposes"]] == [{"said", "said_at"}]
    assert "records 2 to 3 are shown by hash only" in [finding.text for finding in verify(document)]

    def claim(it: dict[str, Any]) -> None:
        it["record_metadata"]["shows"] = "all records"
        it.update(summarise([ANA], [record["content"] for record in records(it) if record["content"]], stands=True))

    assert [(finding.code, finding.text) for finding in faults(changed(document, claim))] == [
        ("hidden", "records 2 to 3 are shown by hash only, and the proof says that it shows everything")
    ]
    for shows in (None, "nearly all", []):
        assert codes(changed(document, lambda it, shows=shows: it["record_metadata"].update(shows=shows))) == [("shows", "record_metadata")]


def test_a_withdrawal_cannot_be_hidden_from_a_proof_of_everything(tmp_path: Path) -> None:
    """Its records are emptied and the sections made again: what is hidden is named, or else the proof no longer says what stands."""
    with contextlib.closing(Archive(f"sqlite:///{tmp_path / 'evidence.sqlite'}")) as archive:
        with archive.writing() as writer:
            said = {"purpose": "news", "order_time": "2026-01-05T12:00:00Z"}
            writer.append([entry(1, "received", event_id="a", state="given", **said), entry(2, "received", event_id="b", state="withdrawn", **said)])
            writer.anchor("2026-01-05", 1)
        document = proof(archive, [ANA])
    assert [purpose["consent_status"] for purpose in document["pii_processing"]["purposes"]] == ["dpv:ConsentWithdrawn"]

    def hide(it: dict[str, Any], shows: str) -> None:
        records(it)[1]["content"] = None
        it["record_metadata"]["shows"] = shows
        it.update(summarise([ANA], [records(it)[0]["content"]], stands=shows == "all records"))

    assert codes(changed(document, lambda it: hide(it, "all records"))) == [("hidden", "2")]
    weaker = changed(document, lambda it: hide(it, "one event"))
    assert codes(weaker) == []
    assert "consent_status" not in str(weaker["pii_processing"])
    assert codes(changed(document, lambda it: it["record_metadata"].update(shows="one event"))) == [("shows", "record_metadata")]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"evidence": {}},
        {"evidence": {"chains": [{}], "roots": []}},
        {"evidence": {"chains": [], "roots": []}},
        {"evidence": {"chains": [], "roots": [{}]}},
    ],
)
def test_what_is_no_proof_is_refused(broken: Any) -> None:
    """Not as something that was tampered with, but as something else."""
    with pytest.raises(NoProof):
        verify(broken)


@given(st.integers(1, 70), st.data())
@settings(max_examples=40, deadline=None)
def test_every_leaf_has_a_path_to_the_root(count: int, data: st.DataObject) -> None:
    """And that path leads nowhere for another leaf."""
    hashes = [bytes([number]) * 32 for number in range(count)]
    place = data.draw(st.integers(0, count - 1))
    path = path_of(hashes, place)
    assert climb(hashes[place], path) == root_of(hashes)
    assert climb(b"x" * 32, path) != root_of(hashes)


def test_the_tree_is_that_of_rfc_6962() -> None:
    """Three leaves: the last one stays alone on its level."""
    a, b, c = (bytes([number]) * 32 for number in range(3))
    inner = hashlib.sha256(b"\1" + a + b).digest()
    assert root_of([a, b, c]) == hashlib.sha256(b"\1" + inner + c).digest()
    assert root_of([]) == hashlib.sha256(b"").digest()


def test_a_path_of_the_whole_tree_leads_to_its_root() -> None:
    """From a bucket with several chains, over the twelve levels above it."""
    leaves = [Leaf(f"chain-{number}", number + 1, "a" * 64) for number in range(5)]
    own = [leaf for leaf in leaves if bucket_of(leaf.chain) == bucket_of("chain-3")]
    roots = {bucket_of(leaf.chain): bucket_root([other for other in leaves if bucket_of(other.chain) == bucket_of(leaf.chain)]) for leaf in leaves}
    assert climb(leaves[3].hash(), tree_path(own, "chain-3", roots)) == tree_root(roots)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything that stands in a document."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*way, key)
        yield from places(value[key], (*way, key))


def test_nothing_that_a_proof_says_can_be_changed_unseen(document: dict[str, Any]) -> None:
    """Anything of its sections, chains and roots, taken out or replaced by whatever: it does not hold, or is no proof; and it is never anything else that happens."""
    proven = {name: document[name] for name in (*SUMMARY, "evidence")}
    proven["evidence"] = {name: value for name, value in document["evidence"].items() if name != "hash"}
    for way in places(proven):
        for value in ("gone", {"x": [1]}, 10**30):
            if way == ("evidence", "roots", 0) and value == "gone":
                continue  # older roots may be left out: the last one names the one before
            copied = changed(document, lambda it, way=way, value=value: put(it, way, value))
            with contextlib.suppress(NoProof):
                assert faults(copied) != [], (way, value)


def put(document: Any, way: tuple[Any, ...], value: Any) -> None:
    for key in way[:-1]:
        document = document[key]
    if value == "gone":
        document.pop(way[-1])
    elif document[way[-1]] == value:
        document[way[-1]] = "something else"
    else:
        document[way[-1]] = value
