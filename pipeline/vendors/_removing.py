"""For vendors that cannot be told of a withdrawal by a call, and take a file of people to remove instead."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.domain import Instruction
from pipeline.vendors import base


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One withdrawal as rows of the file.

    `unnamed` are the kinds of identifier by which the vendor was told of the person, and which the file has no way to name: then it does not remove
    the person for certain, and the withdrawal must not count as told.
    """

    rows: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    unnamed: tuple[str, ...] = ()


class RemovesByFile(base.Adapter):
    """Such a vendor: the columns of its file, and the endings that its name may have (one that ends in .gz is compressed)."""

    removal_columns: ClassVar[tuple[str, ...]]
    removal_suffixes: ClassVar[tuple[str, ...]] = (".tsv", ".tsv.gz")

    @abstractmethod
    def export_removals(self, instructions: Sequence[Instruction]) -> Sequence[Removal]:
        """What removes each of these people, in order; one row for each identifier."""
