"""What checking a proof finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that does not hold: `code` for programs, `where` and `text` for people. A note is no fault."""

    code: str
    where: str
    text: str
    is_note: bool = False


class NoProof(ValueError):
    """What was given is no proof of this kind at all."""


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """1, 2, 3, 7 as (1, 3), (7, 7)."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
