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
            yield self._as_table(options.max_width)
        else:
            yield from self._as_lines()

    def room(self) -> int:
        """The narrowest width at which nothing that belongs together is taken apart."""
        return 1 + sum(EDGES + _longest([column, *cells]) for column, cells in self._by_column())

    def _by_column(self) -> list[tuple[str, list[Text]]]:
        return [(column, [Text.from_markup(row[place]) for row in self.rows]) for place, column in enumerate(self.columns)]

    def _as_table(self, max_width: int) -> Table:
        built = Table(title=self.title, title_justify="left", header_style="bold")
        for column, width in zip(self.columns, self._widths(max_width), strict=True):
            built.add_column(column, overflow="fold", width=width)
        for row in self.rows:
            built.add_row(*row)
        return built

    def _widths(self, max_width: int) -> list[int]:
        """The width of each column: its longest word and a fair share of what is over; rich's own choice may be wider than the terminal, and is cut there."""
        texts = [[Text(column), *cells] for column, cells in self._by_column()]
        widths = [_longest(each) for each in texts]
        wanted = [max(text.cell_len for text in each) - width for each, width in zip(texts, widths, strict=True)]
        spare = max_width - self.room()
        for done, place in enumerate(sorted(range(len(widths)), key=wanted.__getitem__)):
            share = min(wanted[place], spare // (len(widths) - done))
            widths[place] += share
            spare -= share
        return widths

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
