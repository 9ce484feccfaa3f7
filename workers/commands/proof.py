"""Commands about evidence: proof, verify, and evidence status|archive|anchor|accept."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workers.commands import common
from workers.commands.subject import read_person
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.evidence.findings import Finding

NOT_HELD = common.FAILED
"""Exit code of a proof that does not hold."""


@click.command(short_help="Prove what was done with an event, or for a person.")
@click.option("--event", "event_id", metavar="EVENT_ID", help="Prove what was done with this event.")
@click.option(
    "--subject",
    "subject_file",
    metavar="FILE",
    is_flag=False,
    flag_value="?",
    help="Prove everything about the person in FILE (- reads standard input); without FILE it is asked for.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the document here instead of printing it.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write the page for people, to be read or printed.")
def proof(event_id: str | None, subject_file: str | None, output: Path | None, html: Path | None) -> None:
    """Prove what was done with an event, or with everything a person said: a JSON document that `consent verify` checks anywhere.

    A person is named by identifiers as in an event, {"email": "ana@example.org"}, in a file, on standard input or at the prompt, never as an argument.
    What happened up to now is archived first. Exits 1 if nothing is recorded.

    \b
    Examples:
      consent proof --event EVENT_ID --output proof.json --html proof.html
      echo '{"email": "ana@example.org"}' | consent proof --subject - > proof.json
    """  # noqa: D301 - click reads the backspace
    if (event_id is None) == (subject_file is None):
        raise click.UsageError("give either --event or --subject")
    if subject_file not in (None, "?", "-") and not Path(str(subject_file)).is_file():
        raise click.UsageError("--subject: that is no file; a person is named in a file, on standard input (-) or at the prompt, never as an argument")
    subject = read_person(None if subject_file == "?" else subject_file) if subject_file is not None else None
    with common.opened("proof", looks_only=True) as parts:
        parts.needs_vault_keys = False
        parts.evidence.archiver.run()
        found = parts.evidence.prover.subject(subject) if subject else parts.evidence.prover.event(event_id or "")
    if found is None:
        raise click.ClickException("nothing is recorded of that")
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if html:
        from pipeline.evidence.page import render

        html.write_text(render(found), encoding="utf-8")
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    elif not html:
        click.echo(text)


def _read_json(file: str) -> Any:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError("that is no JSON") from error


@click.command(short_help="Check a proof offline.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="DAY=HASH",
    help="A day root that was noted elsewhere; the last one of the proof must be among them. May be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def verify(file: str, roots: tuple[str, ...], as_json: bool) -> None:
    """Check a proof offline: neither the ledger nor the archive is asked. FILE is what `consent proof` made, - reads standard input.

    Says which record was altered, removed, inserted or moved. Whoever can forge the whole file can forge its roots as well: compare
    with a root that was noted elsewhere (every process logs them as `evidence_root`, `consent evidence status` lists them) by --root.
    The last root of the proof must be among them: an older one does not show that nothing was made anew before the last was made.

    Exits 0 if all holds, 1 if anything does not, 2 if FILE is no proof.
    """
    from pipeline.evidence.findings import NoProof
    from pipeline.evidence.verify import verify as check

    try:
        findings = check(_read_json(file), _noted(roots))
    except NoProof as error:
        raise click.UsageError(f"{file}: {error}") from error
    faults = [finding for finding in findings if not finding.is_note]
    if as_json:
        click.echo(json.dumps({"holds": not faults, "findings": [_as_json(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{'note' if finding.is_note else 'FAIL'} {finding.code}: {finding.where}: {finding.text}")
        click.echo("holds" if not faults else f"does not hold: {counted(len(faults), 'fault')}")
    sys.exit(NOT_HELD if faults else 0)


def _as_json(finding: Finding) -> Mapping[str, Any]:
    return {"code": finding.code, "where": finding.where, "text": finding.text, "note": finding.is_note}


def _noted(roots: tuple[str, ...]) -> list[tuple[str, str]]:
    noted = [(day, value) for day, _, value in (root.partition("=") for root in roots)]
    if not all(day and len(value) == 64 for day, value in noted):
        raise click.UsageError("--root: a day and the 64 digits of its root were expected, such as 2026-01-05=4f0c...")
    return noted


@click.group()
def evidence() -> None:
    """Look after the archive of evidence (CONSENT_EVIDENCE_URL). Its tables are made, and brought to a newer release's form, by whoever opens it."""


@evidence.command("status", short_help="Show what is archived, what waits, and the day roots.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def evidence_status(as_json: bool) -> None:
    """Show what is archived, what still waits in the ledger, and the day roots."""
    from pipeline.evidence.anchors import name_of
    from pipeline.evidence.document import root_json
    from pipeline.evidence.reader import Reader

    with common.opened("evidence", looks_only=True) as parts:
        parts.needs_vault_keys = False
        waiting = parts.ledger.outbox.waiting()
        with parts.evidence.archive.reading() as connection:
            reader = Reader(connection)
            found = {
                "archive_id": reader.fact("archive_id"),
                "archived_until": reader.fact("archived_until"),
                **reader.counts(),
                "waiting": common.as_dict(waiting),
                "day_roots": [root_json(root) for root in reader.roots()],
            }

    def pretty() -> None:
        click.echo(
            f"archive {found['archive_id']}: {counted(found['records'], 'record')} in {counted(found['chains'], 'chain')}, until {found['archived_until'] or '-'}"
        )
        click.echo(
            f"waiting in the ledger: {counted(waiting.entries, 'entry', 'entries')}, {waiting.megabytes:.1f} MB, the oldest for {waiting.oldest_seconds:.0f} s"
        )
        for root in found["day_roots"]:
            click.echo(f"{name_of(root)}: {root['day']}={root['hash']}")

    common.show(found, as_json=as_json, pretty=pretty)


@evidence.command("archive", short_help="Archive now what waits in the ledger.")
def evidence_archive() -> None:
    """Archive now what waits in the ledger; beat has it done every few seconds."""
    with common.opened("evidence", looks_only=True) as parts:
        parts.needs_vault_keys = False
        added = parts.evidence.archiver.run()
        left = parts.ledger.outbox.waiting().entries
    click.echo(f"{counted(added, 'record')} archived, {counted(left, 'entry', 'entries')} left waiting")


@evidence.command("anchor", short_help="Make a root over all chains now.")
def evidence_anchor() -> None:
    """Make a root over all chains now, besides those that are made each day."""
    from pipeline.evidence.anchors import name_of

    with common.opened("evidence", looks_only=True) as parts:
        parts.needs_vault_keys = False
        parts.evidence.archiver.run()
        root = parts.evidence.archiver.anchor()
    if root is None:
        raise click.ClickException("nothing is archived yet")
    click.echo(f"{name_of(root.covered())}:", err=True)
    click.echo(f"{root.day}={root.hash()}")


@evidence.command("accept", short_help="Go on with this archive instead of a former one.")
def evidence_accept() -> None:
    """Go on with this archive although the ledger has written to another one, or to a newer copy: what is missing in it stays missing."""
    with common.opened("evidence", looks_only=True) as parts:
        parts.needs_vault_keys = False
        archive_id = parts.evidence.archiver.accept()
    click.echo(f"the ledger goes on with archive {archive_id}")
