"""How far a long command is, on standard error, so that what it prints can be piped: a bar at a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from workers.commands import common

EVERY_SECONDS: Final = 10.0


class Lines(Progress):
    """A line for all tasks, not more often than every ten seconds, and one at the end."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._said_at = time.monotonic()

    def advance(self, *arguments: Any, **options: Any) -> None:
        super().advance(*arguments, **options)
        self.refresh()

    def update(self, *arguments: Any, **options: Any) -> None:
        super().update(*arguments, **options)
        self.refresh()

    def refresh(self) -> None:
        """Say how far it is, if that was not said a moment ago."""
        if time.monotonic() - self._said_at >= EVERY_SECONDS:
            self.say()

    def say(self) -> None:
        self._said_at = time.monotonic()
        if self.tasks:
            click.echo("; ".join(f"{task.description}: {task.percentage:.0f} %" for task in self.tasks), err=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """What long commands tell how far they are; a task without a total is one that has not begun."""
    console = common.console(to_error=True)
    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
        with Progress(*columns, console=console) as bars:
            yield bars
        return
    lines = Lines()
    yield lines
    lines.say()
