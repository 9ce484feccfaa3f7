"""Checks a proof without the ledger, the archive or the network, and names what was done to it.

A chain is walked from its end to its beginning: the head fixes the last record, and each record that holds fixes the one before it. So what is named
is the record that was touched, not those that merely follow it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.evidence.merkle import LEVELS, DayRoot, Leaf, bucket_of, climb
from pipeline.evidence.records import GENESIS, canonical, digest, link_hash
from pipeline.evidence.summary import summarise

_RANGE: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
SUMMARY: Final = ("pii_principal", "pii_processing", "party_identification", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that does not hold: `code` for programs, `where` and `text` for people. A note is no fault."""

    code: str
    where: str
    text: str
    is_note: bool = False


class NoProof(ValueError):
    """What was given is no proof of this kind at all."""


def verify(document: Any, known_roots: Mapping[str, str] | None = None) -> list[Finding]:
    """What is wrong with a proof; nothing but notes if all holds. `known_roots` (day -> hash) were noted elsewhere.

    Raises NoProof for what cannot be read as a proof.
    """
    try:
        evidence = document["evidence"]
        findings = _roots(evidence["roots"], known_roots or {})
        for chain in evidence["chains"]:
            findings += _Walk(chain).findings() + _removed(chain) + _anchor(chain, evidence["roots"])
        contents = [record["content"] for chain in evidence["chains"] for record in chain["records"] if record["content"] is not None]
        keys = [chain["chain"] for chain in evidence["chains"]]
        return findings + _of_summary(document, keys, contents)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoProof(f"this is no proof of Consent Relay, or parts of it are missing ({type(error).__name__})") from error


class _Walk:
    """One chain, from its head back to its first record."""

    def __init__(self, chain: Mapping[str, Any]) -> None:
        self._name: str = chain["chain"]
        self._length: int = int(chain["length"])
        self._head: str = chain["head"]
        self._records: Sequence[Mapping[str, Any]] = chain["records"]
        self._by_hash = {record["hash"]: record for record in self._records}
        self._used: list[int] = []
        self._found: list[Finding] = []

    def findings(self) -> list[Finding]:
        self._order()
        by_number: dict[int, list[Mapping[str, Any]]] = {}
        for record in self._records:
            by_number.setdefault(int(record["sequence"]), []).append(record)
        if self._length > max(by_number, default=0):
            self._note("truncated", self._length, f"is the last one by the length of the chain, and the records end at {max(by_number, default=0)}")
        expected: str | None = self._head if self._length in by_number else None
        for number in range(max(by_number, default=0), 0, -1):
            expected = self._step(number, by_number.get(number, []), expected)
        if expected is not None and expected != GENESIS and self._length:
            self._note("removed", 1, "is not the first of its chain: what it names as the one before is missing")
        for record in self._records:
            if id(record) not in self._used:
                self._note("inserted", int(record["sequence"]), "does not belong to this chain", record)
        return sorted(self._found, key=lambda finding: finding.where)

    def _order(self) -> None:
        numbers = [int(record["sequence"]) for record in self._records]
        for before, after in itertools.pairwise(numbers):
            if after < before:
                self._note("reordered", after, f"stands after record {before}")

    def _step(self, number: int, candidates: Sequence[Mapping[str, Any]], expected: str | None) -> str | None:
        """Look at one place; returns the hash that the record before it must have, None where nobody can say any more."""
        record = self._choose(number, candidates, expected)
        if record is None:
            self._note("removed", number, "is missing")
            return None
        self._used.append(id(record))
        stated = link_hash(self._name, number, record["previous"], record["content_hash"])
        holds = stated == (expected if expected is not None else record["hash"])
        if int(record["sequence"]) != number:
            self._note("reordered", number, f"is numbered {record['sequence']}", record)
        if not holds:
            last = number == self._length and stated == record["hash"]
            text = (
                "is not the head that the chain names"
                if last
                else "does not fit its place: its content hash, the hash before it, or the whole record was changed"
            )
            self._note("altered", number, text, record)
        elif record["hash"] != stated:
            self._note("altered", number, "shows another hash than its own", record)
        if record["content"] is not None and digest(canonical(record["content"])) != record["content_hash"]:
            self._note("altered", number, "says something else than what was recorded", record)
        return record["previous"] if holds else None

    def _choose(self, number: int, candidates: Sequence[Mapping[str, Any]], expected: str | None) -> Mapping[str, Any] | None:
        fits = [each for each in candidates if link_hash(self._name, number, each["previous"], each["content_hash"]) == expected]
        if fits:
            return fits[0]
        elsewhere: Mapping[str, Any] | None = self._by_hash.get(expected or "")
        if elsewhere is not None and link_hash(self._name, number, elsewhere["previous"], elsewhere["content_hash"]) == expected:
            return elsewhere
        return next((each for each in candidates if id(each) not in self._used), None)

    def _note(self, code: str, number: int, text: str, record: Mapping[str, Any] | None = None) -> None:
        content = (record or {}).get("content") or {}
        named = f" ({content['kind']}, {content['id']})" if isinstance(content, dict) and "kind" in content and "id" in content else ""
        self._found.append(Finding(code=code, where=f"chain {self._name} record {number:06d}", text=f"record {number}{named} {text}"))


def _removed(chain: Mapping[str, Any]) -> list[Finding]:
    """Whether a record of the same chain accounts for each one whose content is gone."""
    contents = [record["content"] for record in chain["records"] if isinstance(record["content"], dict)]
    ranges = [_RANGE.fullmatch(str(text)) for content in contents if content.get("kind") == "expired" for text in content.get("records") or ()]
    accounted = [(int(found[1]), int(found[2] or found[1])) for found in ranges if found]
    gone = [record["sequence"] for record in chain["records"] if record.get("removed")]
    text = "record {} says nothing any more, and no record says that its time was over"
    return [
        Finding(code="emptied", where=f"chain {chain['chain']} record {number:06d}", text=text.format(number))
        for number in gone
        if not any(first <= number <= last for first, last in accounted)
    ]


def _anchor(chain: Mapping[str, Any], roots: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether the chain is the one that the last day root covers."""
    name, where = chain["chain"], f"chain {chain['chain']}"
    anchor = chain["anchor"]
    if anchor is None:
        text = "no day root covers this chain yet: until one does, records at its end could be left out unseen"
        return [Finding(code="not_anchored", where=where, text=text, is_note=True)]
    found = []
    if anchor["length"] > chain["length"]:
        text = f"records {chain['length'] + 1} to {anchor['length']} were removed at the end: the last day root covers {anchor['length']}"
        found.append(Finding(code="truncated", where=where, text=text))
    at_anchor = next((record["hash"] for record in chain["records"] if record["sequence"] == anchor["length"]), None)
    if at_anchor is not None and at_anchor != anchor["head"]:
        text = (
            f"its first {anchor['length']} records do not lead to the head that the last day root covers: it was rebuilt, or its place in the tree was changed"
        )
        found.append(Finding(code="rebuilt", where=where, text=text))
    path = [(step["side"], step["hash"]) for step in anchor["path"]]
    climbed = climb(Leaf(name, anchor["length"], anchor["head"]).hash(), path).hex()
    if not roots or climbed != roots[-1]["tree"] or not _is_place_of(name, [side for side, _ in path]):
        found.append(Finding(code="not_in_root", where=where, text="its place in the tree does not lead to the last day root"))
    if chain["length"] > anchor["length"]:
        text = f"{chain['length'] - anchor['length']} records came after the last day root: only the chain itself speaks for them yet"
        found.append(Finding(code="not_anchored", where=where, text=text, is_note=True))
    return found


def _is_place_of(name: str, sides: Sequence[str]) -> bool:
    """Whether the upper steps of a path lead from the bucket in which this chain has to lie."""
    bits = [1 if side == "left" else 0 for side in sides[-LEVELS:]]
    return {*sides} <= {"left", "right"} and len(bits) == LEVELS and sum(bit << level for level, bit in enumerate(bits)) == bucket_of(name)


def _roots(roots: Sequence[Mapping[str, Any]], known: Mapping[str, str]) -> list[Finding]:
    """Whether each root is what its own fields make it, and follows the one before."""
    found = []
    before: Mapping[str, Any] | None = None
    for root in roots:
        where = f"root {root['number']:06d}"
        made = DayRoot(**{name: root[name] for name in ("number", "day", "tree", "chains", "records", "previous")})
        if made.hash() != root["hash"]:
            found.append(Finding(code="root_altered", where=where, text=f"the root of {root['day']} is not the hash of what it covers"))
        if before is not None and (root["previous"] != before["hash"] or root["number"] != before["number"] + 1):
            found.append(Finding(code="roots_broken", where=where, text=f"the root of {root['day']} does not follow that of {before['day']}"))
        before = root
    return found + [_of_known(day, noted, [root["hash"] for root in roots if root["day"] == day]) for day, noted in known.items()]


def _of_known(day: str, noted: str, shown: Sequence[str]) -> Finding:
    """Whether a root that was noted elsewhere is the one that this proof shows; a day may have several."""
    if noted.lower() in shown:
        return Finding(code="root_known", where="roots", text=f"the root of {day} is the one that was noted", is_note=True)
    if shown:
        return Finding(code="root_forged", where="roots", text=f"the root of {day} is not the one that was noted")
    return Finding(code="root_missing", where="roots", text=f"this proof has no root of {day}")


def _of_summary(document: Mapping[str, Any], keys: Sequence[str], contents: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether the sections for people say what the records say."""
    made = summarise(keys, contents)
    return [
        Finding(code="summary", where=name, text=f"the section {name} does not say what the records say")
        for name in SUMMARY
        if canonical({"it": made[name]}) != canonical({"it": document[name]})
    ]
