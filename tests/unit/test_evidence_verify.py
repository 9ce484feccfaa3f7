"""Evidence: whatever is done to a proof is found, and named."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evidence.archive import Archive
from pipeline.evidence.merkle import Leaf, bucket_of, bucket_root, climb, path_of, root_of, tree_path, tree_root
from pipeline.evidence.records import FIELDS, GENESIS, KINDS, canonical, digest, link_hash
from pipeline.evidence.summary import summarise
from pipeline.evidence.verify import Finding, NoProof, verify
from tests.support.evidence import ANA, BRUNO, EVERY_FIELD, changed, entry, one_of_each, proof

COUNT = len(KINDS)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A proof about Ana, one record of every kind, two day roots over her chain and others, and two records that came after them."""
    archive = Archive(f"sqlite:///{tmp_path_factory.mktemp('evidence') / 'evidence.sqlite'}")
    with archive.writing() as writer:
        writer.append([*one_of_each(ANA), *one_of_each(BRUNO), *(entry(100 + n, subject_key=f"p{n:024}", event_id=f"{n:024}") for n in range(50))])
        writer.anchor("2026-01-05", 1)
        writer.append([entry(200, subject_key=BRUNO)])
        writer.anchor("2026-01-06", 2)
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
    document.update(summarise([chain["chain"]], [record["content"] for record in chain["records"]]))


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


@pytest.mark.parametrize("name", ["previous", "content_hash", "hash", "sequence"])
def test_a_changed_link_is_found(document: dict[str, Any], name: str) -> None:
    """The fields that join records are covered too: the record whose field was changed is named."""
    for number in (1, 7, len(records(document))):
        altered = changed(document, lambda it, number=number: records(it)[number - 1].update({name: 99 if name == "sequence" else "f" * 64}))
        assert number in [int(place) for _, place in codes(altered) if place.isdigit()], (name, number, codes(altered))


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
    assert codes(changed(document, lambda it: it["evidence"]["chains"][0].update(head="f" * 64))) == [("altered", last)]
    assert codes(changed(document, lambda it: it["evidence"]["chains"][0].update(length=99))) == [("truncated", "99")]


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


@pytest.mark.parametrize("name", ["number", "day", "tree", "chains", "records", "previous", "hash"])
def test_a_forged_root_is_found(document: dict[str, Any], name: str) -> None:
    """Each field of a root is covered by its hash, and each root names the one before."""

    def forge(it: dict[str, Any]) -> None:
        root = it["evidence"]["roots"][0]
        root[name] = _other(root[name]) if isinstance(root[name], int) else "2026-01-01" if name == "day" else "f" * 64

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

    noted = {root["day"]: root["hash"] for root in document["evidence"]["roots"]}
    forged = changed(document, forge)
    assert faults(forged) == []
    assert faults(document, known_roots=noted) == []
    assert sorted(codes(forged, known_roots=noted)) == [("root_forged", "roots"), ("root_missing", "roots")]


def test_the_sections_for_people_say_what_the_records_say(document: dict[str, Any]) -> None:
    """A summary that was made more pleasant is found."""
    for name in ("pii_principal", "pii_processing", "party_identification", "events"):
        altered = changed(document, lambda it, name=name: it.update({name: []}))
        assert [(finding.code, finding.where) for finding in faults(altered)] == [("summary", name)]


def test_records_that_are_not_shown_still_hold_the_chain(tmp_path: Path) -> None:
    """A proof of one event shows other records by their hash only; changing that hash is found, and nothing of them can be read."""
    archive = Archive(f"sqlite:///{tmp_path / 'evidence.sqlite'}")
    with archive.writing() as writer:
        writer.append([entry(1, event_id="one", purpose="news"), entry(2, event_id="other", purpose="health"), entry(3, event_id="one", purpose="news")])
        writer.anchor("2026-01-05", 1)
    shown = proof(archive, [ANA], lambda content: content["event_id"] == "one")
    archive.close()
    assert faults(shown) == []
    assert "health" not in str(shown)
    assert [event["event_id"] for event in shown["events"]] == ["one"]
    assert codes(changed(shown, lambda it: records(it)[1].update(content_hash="f" * 64))) == [("altered", "2")]


@pytest.mark.parametrize("broken", [None, [], {}, {"evidence": {}}, {"evidence": {"chains": [{}], "roots": []}}, {"evidence": {"chains": [], "roots": [{}]}}])
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
