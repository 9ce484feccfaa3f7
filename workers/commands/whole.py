"""Tables of which no id is ever cut: where the columns have no room, each row is written as lines of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

EDGES = 3
"""What a column takes besides its text."""


class WholeTable:
    """Cells of one word (ids, times, states) are never wrapped, others between words; `cells` may have rich's markup."""

    def __init__(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self.title, self.columns, self.rows = title, columns, [list(row) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.room() <= options.max_width:
            yield self._as_table()
        else:
            yield from self._as_lines()

    def room(self) -> int:
        """The narrowest width at which nothing that belongs together is taken apart."""
        return 1 + sum(EDGES + _longest([column, *cells]) for column, cells in self._by_column())

    def _by_column(self) -> list[tuple[str, list[Text]]]:
        return [(column, [Text.from_markup(row[place]) for row in self.rows]) for place, column in enumerate(self.columns)]

    def _as_table(self) -> Table:
        built = Table(title=self.title, title_justify="left", header_style="bold")
        for column, cells in self._by_column():
            built.add_column(column, overflow="fold", no_wrap=all(" " not in cell.plain for cell in cells), min_width=_longest([column, *cells]))
        for row in self.rows:
            built.add_row(*row)
        return built

    def _as_lines(self) -> Iterable[Text]:
        if self.title:
            yield Text(self.title, style="italic")
        for first, *others in self.rows:
            if first:
                yield Text.from_markup(first, style="bold")
            for column, cell in zip(self.columns[1:], others, strict=True):
                if cell:
                    yield Text.assemble(f"  {column}: ", Text.from_markup(cell))


def _longest(texts: Iterable[str | Text]) -> int:
    """The longest word; a heading may be wrapped between words too."""
    return max((Text(word).cell_len for text in texts for word in str(text).split()), default=0)
