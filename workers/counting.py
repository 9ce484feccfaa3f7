"""Numbers in what is printed for people."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 event`, `2 events`; `plural` where an s does not make it."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
