"""Tables of commands: whoever copies an id from one gets all of it, however narrow the terminal is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from workers.commands import common

IDS = ["wxdvrztajiavcbll25qya2jbav", "b4q7zk2lm5x4a6n2c7d3e4f5aa"]
COLUMNS = ("destination", "told", "at", "event", "newest word there", "reason", "next attempt")
ROWS = [
    ["retargetly-audience", "given", "2026-01-05T13:00:00.123Z", IDS[0], "awaiting_confirmation", "cannot express it at all", "2026-01-05T14:00:00.123Z"],
    ["crm", "", "", IDS[1], "dead", "", ""],
]


def shown(width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(common.table(f"newsletter: given, event {IDS[0]}", COLUMNS, ROWS))
    return out.getvalue()


@pytest.mark.parametrize("width", [30, 40, 80, 100, 120, 131, 132, 133, 134, 135, 136, 140, 150, 200])
def test_no_id_is_taken_apart(width: int) -> None:
    """Nor a time, nor a name; and no line is longer than the terminal is wide, or it would be cut there."""
    text = shown(width)
    words = {word for row in ROWS for cell in row for word in cell.split()}
    assert {word for word in words if word not in text} == set()
    assert max(map(len, text.splitlines())) <= width


def test_where_there_is_room_it_is_a_table() -> None:
    """Else each row begins with its name, and what is empty is left out."""
    assert "│ crm " in shown(200)
    assert shown(40).splitlines()[-3:] == ["crm", f"  event: {IDS[1]}", "  newest word there: dead"]


def test_prose_is_wrapped_between_words() -> None:
    """A column of sentences takes what the others leave."""
    out = io.StringIO()
    rows = [[IDS[0], "a reason that has a good many words, each of them short"], [IDS[1], f"see {IDS[0]}"]]
    Console(file=out, width=70, highlight=False).print(common.table("", ("event", "reason"), rows))
    assert "│" in out.getvalue()
    assert out.getvalue().count(IDS[0]) == 2


@pytest.mark.parametrize("width", range(120, 260, 5))
def test_wide_cells_take_nothing_from_others(width: int) -> None:
    """Where several columns hold sentences, every line still ends with the table's border, so nothing was cut there."""
    prose = "a reason that has a good many words, each of them short, and goes on for longer than most do"
    rows = [["audience", "given", ROWS[0][2], IDS[0], "awaits the person's word by mail", prose, IDS[1]], ["crm", "", "", IDS[1], "dead", IDS[0] + IDS[1], ""]]
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(common.table("", COLUMNS, rows))
    text = out.getvalue()
    assert {word for row in rows for cell in row for word in cell.split() if word not in text} == set()
    assert max(map(len, text.splitlines())) <= width
    assert "│" not in text or {line[-1] for line in text.splitlines()} <= set("┓┃┩│┘")
