"""The question before what cannot be undone."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from workers.commands import common


@click.command()
def dare() -> None:
    common.confirm("Go on?")
    click.echo("done")


@pytest.mark.parametrize(
    "answer,code,said",
    [
        ("y\n", 0, "Go on? [y/N]: y\ndone\n"),
        ("n\n", 1, "Go on? [y/N]: n\nAborted!\n"),
        ("", 1, "Go on? [y/N]: \nAborted!\n"),
    ],
)
def test_only_a_yes_goes_on(answer: str, code: int, said: str) -> None:
    """Where standard input is closed nobody has ended the question's line, so that is done."""
    done = CliRunner().invoke(dare, input=answer)
    assert (done.exit_code, done.output) == (code, said)
