"""Walks one chain of a proof from its end to its beginning: the head fixes the last record, and each record that holds fixes the one before it.

So what is named is the record that was touched, not those that merely follow it. Whatever stands in a record, or is missing there, the walk goes on.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.evidence.findings import Finding, NoProof
from pipeline.evidence.records import GENESIS, canonical, digest, link_hash

_TEXTS: Final = ("previous", "content_hash", "hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A record as a proof shows it, at its place in the list (from 1): what is missing, or is no such value, is empty here and named by `flaw`."""

    place: int
    number: int
    previous: str
    content_hash: str
    hash: str
    content: Mapping[str, Any] | None
    is_removed: bool
    flaw: str


class Walk:
    """One chain. Raises NoProof for what has neither a name nor records."""

    def __init__(self, chain: Any) -> None:
        if not isinstance(chain, dict) or not isinstance(chain.get("chain"), str) or not isinstance(chain.get("records"), list):
            raise NoProof("a chain has no name, or no records")
        self.name: str = chain["chain"]
        self.where = f"chain {self.name}"
        self.placed: dict[int, Link] = {}
        """The record at each number, as far as there is one."""
        self.hashes: dict[int, str] = {}
        """The hash of the record at each number: what the one after it says, else what its own fields make."""
        self._links = [_read(place, record) for place, record in enumerate(chain["records"], 1)]
        self._by_hash = {link.hash: link for link in self._links}
        self._head = chain["head"] if isinstance(chain.get("head"), str) else ""
        self._missing: list[tuple[int, int]] = []
        self._found: dict[tuple[str, int], Finding] = {}
        self._used: set[int] = set()
        self.length, self._last_hash = self._end(chain.get("length"))

    def findings(self) -> list[Finding]:
        """What does not hold, in the order of the records; to be called once."""
        claims = self._claims()
        stops = sorted(claims)
        number, expected = self.length, self._last_hash
        while number > 0:
            link = self._choose(number, claims.get(number, ()), expected)
            if link is None:
                self.hashes.update({number: expected} if expected is not None else {})
                below = bisect.bisect_left(stops, number)
                lower = stops[below - 1] if below else 0
                self._missing.append((lower + 1, number))
                number, expected = lower, None
            else:
                expected = self._step(number, link, expected)
                number -= 1
        if expected is not None and expected != GENESIS and self._links:
            self._note("removed", 1, "is not the first of its chain: what it names as the one before is missing")
        self._order()
        self._left_over()
        return sorted(self._found.values(), key=lambda finding: finding.where)

    def _end(self, stated: Any) -> tuple[int, str | None]:
        """The number of the last record, and the hash that it must have if anybody can say: as stated, unless there is no such record."""
        numbers, count = [link.number for link in self._links], len(self._links)
        self.stated = stated if _is_number(stated) else count
        """How many records the chain says it has."""
        if not _is_number(stated) or not self._links:
            text = "it does not say how many records it has" if self._links else "it shows no record"
            self._found["altered", 0] = Finding(code="altered", where=self.where, text=text)
            return count, self._head if self._ends_at(count) else None
        if self._ends_at(stated):
            return self.stated, self._head
        last = max((number for number in numbers if number <= count), default=count)
        other = next((number for number in (count, last) if self._ends_at(number)), None)
        is_unnumbered = stated == count and not 1 <= numbers[-1] <= count
        if other is None and (stated in numbers or is_unnumbered):
            return self.stated, self._head
        shown = other if other is not None else max((number for number in numbers if 0 < number < stated), default=count)
        self._other_end(stated, shown)
        return shown, None if other is None else self._head

    def _other_end(self, stated: int, number: int) -> None:
        if number < stated:
            self._note("truncated", stated, f"is the last one by the length of the chain, and the records end at {number}")
        else:
            text = f"it says that it has {stated} records, and its head is that of record {number}"
            self._found["altered", 0] = Finding(code="altered", where=self.where, text=text)

    def _claims(self) -> dict[int, list[Link]]:
        """The records by the number they state; by their place where no record can have that number."""
        claims: dict[int, list[Link]] = {}
        for link in self._links:
            number = link.number if 1 <= link.number <= self.length else link.place
            if number <= self.length:
                claims.setdefault(number, []).append(link)
        return claims

    def _choose(self, number: int, candidates: Sequence[Link], expected: str | None) -> Link | None:
        if expected is not None:
            for link in (*candidates, *self._named(expected)):
                if self._hash_at(number, link) == expected:
                    return link
        return next((link for link in candidates if link.place not in self._used), None)

    def _step(self, number: int, link: Link, expected: str | None) -> str | None:
        """Look at one place; returns the hash that the record before it must have, None where nobody can say any more."""
        made = self._hash_at(number, link)
        holds = made == (expected if expected is not None else link.hash)
        self._used.add(link.place)
        self.placed[number], self.hashes[number] = link, expected if expected is not None else made
        if link.flaw:
            self._note("altered", number, f"has no {link.flaw}, or one that is none", link)
        elif not holds:
            is_last = number == self.length and made == link.hash
            changed = "does not fit its place: its content hash, the hash before it, or the whole record was changed"
            self._note("altered", number, "is not the head that the chain names" if is_last else changed, link)
        elif link.hash != made:
            self._note("altered", number, "shows another hash than its own", link)
        elif link.number != number:
            self._note("reordered" if 1 <= link.number <= self.length else "altered", number, f"is numbered {link.number}", link)
        elif link.content is not None and _digest(link.content) != link.content_hash:
            self._note("altered", number, "says something else than what was recorded", link)
        return link.previous if holds else None

    def _order(self) -> None:
        numbers = [number for number, _ in sorted(self.placed.items(), key=lambda item: item[1].place)]
        for before, after in itertools.pairwise(numbers):
            if after < before:
                self._note("reordered", after, f"stands after record {before}")

    def _left_over(self) -> None:
        for first, last in self._missing:
            text = f"record {first} is missing" if first == last else f"records {first} to {last} are missing"
            self._found["removed", first] = Finding(code="removed", where=self._at(first), text=text)
        for link in self._links:
            if link.place not in self._used:
                number = link.number or link.place
                self._found["inserted", -link.place] = Finding(
                    code="inserted", where=self._at(number), text=f"{_named(number, link)} does not belong to this chain"
                )

    def _named(self, value: str) -> Sequence[Link]:
        return [self._by_hash[value]] if value in self._by_hash else []

    def _ends_at(self, number: int) -> bool:
        """Whether the head is the hash of a record at this number."""
        candidates = [link for link in self._links if number in (link.number, link.place)]
        return any(self._hash_at(number, link) == self._head for link in (*candidates, *self._named(self._head)))

    def _hash_at(self, number: int, link: Link) -> str:
        """The hash that the record's fields make at this number; empty where they make none."""
        try:
            return link_hash(self.name, number, link.previous, link.content_hash)
        except TypeError:  # a text that is no Unicode, a number without end
            return ""

    def _at(self, number: int) -> str:
        return f"{self.where} record {number:06d}"

    def _note(self, code: str, number: int, text: str, link: Link | None = None) -> None:
        self._found.setdefault((code, number), Finding(code=code, where=self._at(number), text=f"{_named(number, link)} {text}"))


def _read(place: int, record: Any) -> Link:
    said = record if isinstance(record, dict) else {}
    number, content, removed = said.get("sequence"), said.get("content", ""), said.get("removed", False)
    flaws = [name for name in _TEXTS if not isinstance(said.get(name), str)]
    flaws += [] if _is_number(number) and number else ["sequence"]
    flaws += [] if content is None or isinstance(content, dict) else ["content"]
    flaws += [] if removed is False or (removed is True and content is None) else ["reason to be called removed"]
    texts = {name: said[name] if name not in flaws else "" for name in _TEXTS}
    return Link(
        place=place,
        number=int(number or 0) if "sequence" not in flaws else 0,
        content=content if isinstance(content, dict) else None,
        is_removed=removed is True and content is None,
        flaw=" and no ".join(flaws),
        **texts,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _digest(content: Mapping[str, Any]) -> str:
    try:
        return digest(canonical(content))
    except TypeError:  # what cannot be written canonically was never recorded
        return ""


def _named(number: int, link: Link | None) -> str:
    content = (link.content if link else None) or {}
    return f"record {number} ({content['kind']}, {content['id']})" if "kind" in content and "id" in content else f"record {number}"
