"""Reads the keys of sources: their hashes, never the keys, and until when each is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import yaml

from pipeline.yaml_lines import VARIABLE, LineReader

_KEY: Final = re.compile(r"sha256:([0-9a-f]{64})(?: +until +(\S+))?", re.IGNORECASE)
_WRITTEN: Final = re.compile(r"sha256:([0-9a-f]{64})(?![0-9a-f])", re.IGNORECASE)
_HELD: Final = re.compile(r"(?:sha256:)?\b([0-9a-f]{64})\b", re.IGNORECASE)
"""In a variable; `sha256:` may stand before it in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlace:
    """Where the hash of a key stands: in a line of the file, or in the `variable` that the line names."""

    line: int
    key: str
    variable: str | None = None


def key_places(text: str, environment: Mapping[str, str]) -> Iterator[KeyPlace]:
    """Every hash of a key in a routing file, whether or not the file is good."""
    for number, line in enumerate(text.splitlines(), start=1):
        yield from (KeyPlace(line=number, key=key.lower()) for key in _WRITTEN.findall(line))
        for variable in (match[1] for match in VARIABLE.finditer(line)):
            yield from (KeyPlace(line=number, key=key.lower(), variable=variable) for key in _HELD.findall(environment.get(variable, "")))


def is_key_hash(text: str) -> bool:
    """Whether a text is the hash of a key, which is no secret."""
    return bool(_KEY.fullmatch(text))


class KeyReader:
    """Reads the keys of all sources of one routing file; `ends` are the last days on which a key is taken, by its hash."""

    def __init__(self, lines: LineReader) -> None:
        self._lines = lines
        self._owners: dict[str, str] = {}
        self.ends: dict[str, date] = {}

    def read(self, node: yaml.Node | None, what: str, source: str) -> tuple[str, ...]:
        """The hex hashes; an empty text (an unset variable with an empty default) is no key."""
        found = []
        for item, text in self._lines.texts(node, f"{what} of {source}"):
            match = _KEY.fullmatch(text)
            if not match:
                if text:
                    self._lines.complain(item, f'each of {what} of {source} must be "sha256:" and 64 hex digits, the hash of the key and not the key')
                continue
            found.append(match[1].lower())
            if match[2]:
                self._note_end(item, found[-1], match[2], f"{what} of {source}")
            if self._owners.setdefault(found[-1], source) != source:
                self._lines.complain(item, f"source {source} has a key of source {self._owners[found[-1]]}; expected each key in one source")
        return tuple(dict.fromkeys(found))

    def _note_end(self, item: yaml.Node, key: str, text: str, what: str) -> None:
        try:
            self.ends[key] = date.fromisoformat(text)
        except ValueError:
            self._lines.complain(item, f"a key of {what} has no date behind `until`; expected its last day, such as 2027-01-31")
