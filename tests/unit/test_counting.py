"""Numbers in what is printed: one event is no "1 events"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import workers
from workers.counting import counted

SOURCES = sorted(Path(workers.__file__).parent.rglob("*.py"))
NOUNS = "event|record|chain|entry|entries|deliver|withdrawal|value|key|row|identifier|erasure|destination|fault|pair|standing|change|day"
FORCED = re.compile(rf"\{{[^{{}}]*(?:len\(|count|records|events|entries|added|left|resealed|damaged|unreadable|unsupported)[^{{}}]*\}} (?:{NOUNS})(?:ie)?s\b")


@pytest.mark.parametrize("count,text", [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")])
def test_one_is_one(count: int, text: str) -> None:
    assert counted(count, "entry", "entries") == text
    assert counted(count, "event") == text.replace("entries", "events").replace("entry", "event")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_command_writes_a_plural_by_hand(path: Path) -> None:
    """Where a number that may be 1 stands before a noun, `counted` writes both; two numbers that are always more may stay."""
    found = [line.strip() for line in path.read_text().splitlines() if FORCED.search(line)]
    assert [line for line in found if "the hashes of {count} keys" not in line] == []
