"""The command `consent`."""

from __future__ import annotations

import click

from workers.commands import admin, backup, erase, events, export, forward, ledger, processes, proof, reconcile, subject, vault, vendors
from workers.commands.check import check
from workers.commands.common import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Tells every vendor about every consent event, in order, with proof.

    Settings come from config/defaults.toml and CONSENT_<SECTION>_<KEY> variables, the routing from CONSENT_CONFIG. Commands that look
    at events work on CONSENT_REDIS_URL, or else on a running `consent up` of the same state directory. Exit codes: 0 done, 1
    failed, 2 wrong usage or configuration.

    \b
    Begin with:
      consent demo                 everything with sandboxes and sample events
      consent up --sandbox         the same without the samples
      consent check                is the routing file good, and what does it do
    """  # noqa: D301 - click reads the backspace


for command in (
    processes.up,
    processes.serve,
    processes.worker,
    processes.beat,
    processes.flower,
    processes.sandbox,
    processes.demo,
    events.send,
    events.status,
    events.dead,
    check,
    proof.proof,
    proof.verify,
    proof.evidence,
    admin.doctor,
    admin.keys,
    admin.destination,
    admin.backfill,
    vault.vault,
    vendors.authorize,
    export.export,
    ledger.ledger,
    reconcile.reconcile,
    subject.subject,
    erase.erase,
    backup.backup,
    backup.restore,
):
    main.add_command(command)
for command in (forward.ledger_show, forward.bring_forward, forward.ledger_quarantine, forward.ledger_migrate):
    ledger.ledger.add_command(command)

if __name__ == "__main__":
    main(prog_name="consent")
