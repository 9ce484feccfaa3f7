"""Checks a proof without the ledger, the archive or the network, and names what was done to it."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from pipeline.evidence.anchors import check_anchor, check_roots
from pipeline.evidence.findings import Finding, NoProof, ranges
from pipeline.evidence.records import canonical
from pipeline.evidence.summary import ALL_RECORDS, FIRST_FORM, FORM, NEAREST, SHOWS, summarise
from pipeline.evidence.walk import Walk

_RANGE: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
SUMMARY: Final = ("pii_principal", "pii_processing", "party_identification", "events")


def verify(document: Any, noted_roots: Collection[tuple[str, str]] = ()) -> list[Finding]:
    """What is wrong with a proof; nothing but notes if all holds. `noted_roots` (day, hash) were noted elsewhere.

    Raises NoProof for what is no proof at all.
    """
    try:
        chains, roots = document["evidence"]["chains"], document["evidence"]["roots"]
        if not chains or not all(isinstance(each, dict) for each in (*chains, *roots)):
            raise NoProof("this is no proof of Consent Relay: it has no chains")
        about = document.get("record_metadata", {})
        shows = about.get("shows")
        form = FIRST_FORM if FIRST_FORM in (about.get("schema_version") or ()) else FORM
    except (KeyError, TypeError, AttributeError) as error:
        raise NoProof(f"this is no proof of Consent Relay, or parts of it are missing ({type(error).__name__})") from error
    findings = check_roots(roots, noted_roots)
    walks = [Walk(chain) for chain in chains]
    for walk, chain in zip(walks, chains, strict=True):
        findings += walk.findings()
        findings += [*_removed(walk), *_hidden(walk, shows), *check_anchor(walk, chain.get("anchor", ""), roots, is_noted=bool(noted_roots))]
    contents = [record["content"] for chain in chains for record in chain["records"] if isinstance(record, dict) and isinstance(record.get("content"), dict)]
    return findings + _of_shows(shows, contents) + _of_summary(document, [walk.name for walk in walks], contents, stands=shows == ALL_RECORDS, form=form)


def _removed(walk: Walk) -> list[Finding]:
    """Whether a record of the same chain accounts for each one whose content is gone."""
    said = [link.content["records"] for link in walk.placed.values() if link.content and link.content.get("kind") == "expired" and "records" in link.content]
    found = [_RANGE.fullmatch(str(text)) for texts in said if isinstance(texts, list) for text in texts]
    accounted = sorted((int(each[1]), int(each[2] or each[1])) for each in found if each)
    reached = list(itertools.accumulate((last for _, last in accounted), max))
    text = "record {} says nothing any more, and no record says that its time was over"
    return [
        Finding(code="emptied", where=f"{walk.where} record {number:06d}", text=text.format(number))
        for number, link in sorted(walk.placed.items())
        if link.is_removed and not _is_within(number, accounted, reached)
    ]


def _is_within(number: int, accounted: Sequence[tuple[int, int]], reached: Sequence[int]) -> bool:
    """Whether one of these ranges, in order, has a number; `reached` is how far each and those before it go."""
    before = bisect.bisect_right(accounted, (number, number + 10**9))
    return before > 0 and reached[before - 1] >= number


def _hidden(walk: Walk, shows: Any) -> list[Finding]:
    """Which records are there by their hash only; none may be where everything is said to be shown."""
    hidden = [number for number, link in walk.placed.items() if link.content is None and not link.is_removed and not link.flaw]
    found = []
    for first, last in ranges(hidden):
        those = f"record {first} is" if first == last else f"records {first} to {last} are"
        is_fault = shows in (ALL_RECORDS, NEAREST)
        text = f"{those} shown by hash only" + (", and the proof says that it shows everything" if is_fault else "")
        found.append(Finding(code="hidden", where=f"{walk.where} record {first:06d}", text=text, is_note=not is_fault))
    return found


def _of_shows(shows: Any, contents: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether a proof that says that it is about one event, or one source, shows no other."""
    if not isinstance(shows, str) or shows not in SHOWS:
        return [Finding(code="shows", where="record_metadata", text="it does not say whether the proof shows all records")]
    name = SHOWS[shows]
    others = {str(content.get(name)) for content in contents if content.get("kind") != "expired"} if name else set()
    if len(others) > 1:
        return [Finding(code="shows", where="record_metadata", text=f"the proof says that it shows {shows}, and shows {len(others)}")]
    return []


def _of_summary(document: Mapping[str, Any], keys: Sequence[str], contents: Sequence[Mapping[str, Any]], *, stands: bool, form: str) -> list[Finding]:
    """Whether the sections for people say what the records say."""
    try:
        made = summarise(keys, contents, stands=stands, form=form)
    except (TypeError, AttributeError):  # a record was given values that none has: it is named already
        made = {}
    return [
        Finding(code="summary", where=name, text=f"the section {name} does not say what the records say")
        for name in SUMMARY
        if name not in made or _canonical(made[name]) != _canonical(document.get(name))
    ] + _lost(made)


def _lost(made: Mapping[str, Any]) -> list[Finding]:
    """Of which purposes nobody can say what stands, since the records name a newer word and have nothing of it."""
    shown = {event["event_id"] for event in made.get("events", ())}
    text = "a newer word exists of which there is no record, so nobody can say here what stands: {}"
    return [
        Finding(code="newer_word", where=f"purpose {each['purpose']}", text=text.format(each["event_id"]), is_note=True)
        for each in made.get("pii_processing", {}).get("purposes", ())
        if each["event_id"] not in shown
    ]


def _canonical(value: Any) -> bytes | None:
    try:
        return canonical({"it": value})
    except TypeError:
        return None
