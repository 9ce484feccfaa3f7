"""Commands about the ledger as a whole."""

from __future__ import annotations

import click


@click.group()
def ledger() -> None:
    """The ledger as a whole."""
