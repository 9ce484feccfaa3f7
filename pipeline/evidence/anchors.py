"""Checks the day roots of a proof, and whether its chains are the ones that the last of them covers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from pipeline.evidence.findings import Finding
from pipeline.evidence.merkle import LEVELS, DayRoot, Leaf, bucket_of, climb
from pipeline.evidence.walk import Walk

Root = Mapping[str, Any]
_UNANCHORED: Final = "no day root covers this chain"


def check_roots(roots: Sequence[Root], noted: Collection[tuple[str, str]]) -> list[Finding]:
    """Whether each root is what its own fields make it, and follows the one before; and what roots that were `noted` elsewhere (day, hash) say to that."""
    found = []
    before: Root | None = None
    for place, root in enumerate(roots, 1):
        where = f"root {root.get('number', place)}"
        if _hash_of(root) != root.get("hash"):
            found.append(Finding(code="root_altered", where=where, text=f"{name_of(root)} is not the hash of what it covers"))
        if before is not None and (root.get("previous") != before.get("hash") or root.get("number") != _next(before)):
            found.append(Finding(code="roots_broken", where=where, text=f"{name_of(root)} does not follow {name_of(before)}"))
        before = root
    found += [_of_noted(day, value.lower(), roots) for day, value in noted]
    if before is not None and noted and before.get("hash") not in {value.lower() for _, value in noted}:
        text = f"every chain leads to {name_of(before)}, which was not noted: older ones do not show that nothing was made anew before it was made"
        found.append(Finding(code="root_not_noted", where="roots", text=text))
    return found


def name_of(root: Root) -> str:
    """A root in words: a day may have several, which only their number and time tell apart."""
    until = f" (with all until {root['until']})" if root.get("until") else ""
    return f"root {root.get('number', '?')} of {root.get('day')}{until}"


def check_anchor(walk: Walk, anchor: Any, roots: Sequence[Root], *, is_noted: bool) -> list[Finding]:
    """Whether a chain that was walked is the one that the last day root covers."""
    if anchor is None:
        return [_without(walk, roots, is_noted=is_noted)]
    leaf, path = _place(walk.name, anchor)
    if leaf is None:
        return [Finding(code="not_in_root", where=walk.where, text="its place in the tree cannot be read")]
    found = []
    if leaf.length > walk.stated:
        text = f"records {walk.stated + 1} to {leaf.length} were removed at the end: the last day root covers {leaf.length}"
        found.append(Finding(code="truncated", where=walk.where, text=text))
    if walk.hashes.get(leaf.length, leaf.head) != leaf.head:
        text = f"its first {leaf.length} records do not lead to the head that the last day root covers: it was rebuilt, or its place in the tree was changed"
        found.append(Finding(code="rebuilt", where=walk.where, text=text))
    if not roots or _climb(leaf, path) != roots[-1].get("tree") or not _is_place_of(walk.name, [side for side, _ in path]):
        found.append(Finding(code="not_in_root", where=walk.where, text="its place in the tree does not lead to the last day root"))
    if walk.stated > leaf.length:
        count = walk.stated - leaf.length
        text = f"{count} record{'s' if count > 1 else ''} came after the last day root: only the chain itself speaks for {'them' if count > 1 else 'it'} yet"
        found.append(Finding(code="not_anchored", where=walk.where, text=text, is_note=True))
    return found


def _without(walk: Walk, roots: Sequence[Root], *, is_noted: bool) -> Finding:
    """A chain that no root covers: it must be younger than the last one, or the place that it had was taken away."""
    if not roots:
        text = f"{_UNANCHORED} yet: until one does, records at its end could be left out unseen"
        return Finding(code="not_anchored", where=walk.where, text=text, is_note=True)
    first = walk.placed.get(1)
    began = first.content.get("at") if first and first.content else None
    if not isinstance(began, str):
        text = f"{_UNANCHORED}, and its first record is not shown: nobody can say whether it is younger than the last one"
        return Finding(code="not_anchored", where=walk.where, text=text, is_note=not is_noted)
    if _covers(roots[-1], began):
        text = f"{_UNANCHORED}, although it began at {began} and the last root is {name_of(roots[-1])}: its place in the tree was taken away"
        return Finding(code="not_anchored", where=walk.where, text=text)
    text = f"{_UNANCHORED} yet: it says of itself that it began at {began}, after the last one; until the next, records at its end could be left out unseen"
    return Finding(code="not_anchored", where=walk.where, text=text, is_note=True)


def _covers(root: Root, moment: str) -> bool:
    """Whether a chain that began then has to be in this root; one of an earlier release does not say until when it covers all, so that its whole day counts."""
    until = root.get("until")
    return moment <= until if isinstance(until, str) and until else moment[:10] <= str(root.get("day"))


def _of_noted(day: str, noted: str, roots: Sequence[Root]) -> Finding:
    """Whether a root that was noted elsewhere is the one that this proof shows; a day may have several."""
    shown = [root for root in roots if root.get("day") == day]
    known = next((root for root in shown if root.get("hash") == noted), None)
    if known is not None:
        return Finding(code="root_known", where="roots", text=f"{name_of(known)} is one that was noted", is_note=True)
    if shown:
        return Finding(code="root_forged", where="roots", text=f"{' and '.join(map(name_of, shown))}: not what was noted of that day")
    if roots and day < str(roots[0].get("day")):
        return Finding(code="root_older", where="roots", text=f"the root of {day} is older than all that this proof shows", is_note=True)
    return Finding(code="root_missing", where="roots", text=f"this proof has no root of {day}")


def _hash_of(root: Root) -> str | None:
    try:
        return DayRoot(**{name: value for name, value in root.items() if name != "hash"}).hash()
    except TypeError:  # a field that is missing, or too many, or that cannot be written canonically
        return None


def _next(root: Root) -> int | None:
    return root["number"] + 1 if isinstance(root.get("number"), int) else None


def _place(name: str, anchor: Any) -> tuple[Leaf | None, list[tuple[str, str]]]:
    try:
        length, head, path = anchor["length"], anchor["head"], [(str(step["side"]), str(step["hash"])) for step in anchor["path"]]
    except (KeyError, TypeError):
        return None, []
    return (Leaf(name, length, head), path) if isinstance(head, str) and type(length) is int else (None, [])


def _climb(leaf: Leaf, path: Sequence[tuple[str, str]]) -> str | None:
    try:
        return climb(leaf.hash(), path).hex()
    except (TypeError, ValueError):  # a hash that is no hexadecimal number
        return None


def _is_place_of(name: str, sides: Sequence[str]) -> bool:
    """Whether the upper steps of a path lead from the bucket in which this chain has to lie."""
    bits = [1 if side == "left" else 0 for side in sides[-LEVELS:]]
    return {*sides} <= {"left", "right"} and len(bits) == LEVELS and sum(bit << level for level, bit in enumerate(bits)) == bucket_of(name)
