"""What `--help` says at a glance."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from workers.cli import main


def groups(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each group of commands, as it is called, with the names in it."""
    names = group.list_commands(context := click.Context(group))
    yield path, names
    for name in names:
        if isinstance(command := group.get_command(context, name), click.Group):
            yield from groups(command, *path, name)


@pytest.mark.parametrize("path,names", list(groups(main)), ids="-".join)
def test_no_summary_is_cut_at_80_columns(path: tuple[str, ...], names: list[str]) -> None:
    """Each command has one line that ends as a sentence."""
    shown = CliRunner().invoke(main, [*path, "--help"], env={"COLUMNS": "80"}).output
    lines = shown.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(names)
    assert [line for line in lines if not line.endswith(".") or line.endswith("..")] == []
