"""`consent backup` and `consent restore`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from workers.backups import Manifest
    from workers.wiring import Parts


@click.command(short_help="Write a backup of the ledger, while everything runs.")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--rdb", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Make it from this snapshot file (BGSAVE, or a managed service's own)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def backup(target: Path, rdb: Path | None, *, as_json: bool) -> None:
    """Write a backup of the ledger, while everything runs, to a file or into a directory.

    It is of one moment: the server is asked for a snapshot as a replica asks for one, and everything accepted before `taken_at` is in it. Beside the
    file, mode 0600, stands its manifest. What is sealed stays sealed: CONSENT_SUBJECT_PEPPER and CONSENT_VAULT_KEYS are NOT in it, and without them it
    cannot be used, so keep them elsewhere. Needs twice the room of the server's snapshot on disk, and its size in memory, for as long as it takes.
    """
    from workers.backups import back_up, default_name
    from workers.borrowed import database_of, opened_anywhere
    from workers.process import ending_in_order

    with ending_in_order(), opened_anywhere("backup") as parts:
        ledger_id = parts.ledger.identity.ledger_id
        path = target / default_name(ledger_id, parts.ledger.now()) if target.is_dir() else target
        with _Bars("snapshot (bytes)", "keys") as progress:
            manifest = back_up(parts.redis, database_of(parts), path, progress, rdb=rdb)
        parts.ledger.upkeep.note_backup(manifest.taken_at_ms)
    shown = _shown(manifest, path)
    common.show(shown, as_json=as_json, pretty=lambda: _print(shown))
    if not as_json:
        click.echo("pepper and vault keys are not in it: keep CONSENT_SUBJECT_PEPPER and CONSENT_VAULT_KEYS elsewhere, or it is of no use")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only check the backup and the database.")
@click.option(
    "--erased",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The list of erasures, if it is not the one of CONSENT_STATE_DIR (erased.ndjson).",
)
@click.option("--even-expired", is_flag=True, help="Even if it is older than retention.backup_days.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def restore(file: Path, *, is_sure: bool, dry_run: bool, erased: Path | None, even_expired: bool, as_json: bool) -> None:
    """Put a backup back into an empty database, quarantined.

    Refuses a database in which there is a ledger, a file that is not what its manifest says, and another pepper. The ledger is older than what people
    said since, so it tells withdrawals only, and `given` wait, until `consent ledger bring-forward`. Stop all processes of the relay first. Without CONSENT_REDIS_URL
    it goes to the embedded server of CONSENT_STATE_DIR, while no `consent up` runs there: move the folder `server` out of the way before.
    Persons who were erased since are erased again, by the list of erasures.
    """
    from workers.backups import read_manifest
    from workers.borrowed import opened_anywhere

    manifest = read_manifest(file)
    shown = _shown(manifest, file)
    if not as_json:
        _print(shown)
    with opened_anywhere("restore") as parts:
        _refuse(parts, manifest)
        _refuse_expired(parts, manifest, even_expired=even_expired)
        if dry_run:
            common.show({**shown, "restored": False}, as_json=as_json, pretty=lambda: click.echo("the backup is good and the database is empty"))
            return
        if not is_sure:
            common.confirm("Restore it?")
        report = {**_restore(parts, file, manifest), **_erase_again(parts, erased)}
    common.show({**shown, "restored": True, **report}, as_json=as_json, pretty=lambda: _print_restored(report))


def _refuse(parts: Parts, manifest: Manifest) -> None:
    """Whatever would make the restored ledger one that cannot be used."""
    from pipeline.errors import LedgerMismatch
    from pipeline.ledger import identity, snapshot
    from pipeline.ledger.store import Store

    if manifest.pepper_fingerprint != parts.hasher.fingerprint():
        raise LedgerMismatch("the backup is of a ledger with another CONSENT_SUBJECT_PEPPER: set that one")
    identity.refuse_schema(manifest.schema_version)
    section = parts.settings.ledger
    store = Store(parts.redis)
    identity.confirmable(store, identity.settings_of(store), section.durability, section.wait_aof_milliseconds)
    snapshot.refuse_occupied(parts.redis, manifest.sha256)


def _restore(parts: Parts, file: Path, manifest: Manifest) -> dict[str, Any]:
    from pipeline.ledger import snapshot
    from pipeline.ledger.ledger import time_of
    from workers.backups import read_commands

    with click.progressbar(length=manifest.counts["keys"], label="restoring keys", file=sys.stderr) as bar:
        found = snapshot.restore(parts.redis, read_commands(file), at_ms=manifest.taken_at_ms, sha256=manifest.sha256, on_keys=bar.update)
    parts.ledger.upkeep.migrate()
    counts = parts.ledger.events.counts()
    return {"quarantined_since": time_of(found.since_ms), "post_again_from": time_of(found.from_ms), "events": counts["accepted"], "unfinished": counts["open"]}


def _refuse_expired(parts: Parts, manifest: Manifest, *, even_expired: bool) -> None:
    """What was to be deleted by now may hold persons whose erasure nobody remembers."""
    from pipeline.errors import LedgerMismatch

    days = (time.time() - manifest.taken_at_ms / 1000) / 86_400
    if days > parts.settings.retention.backup_days and not even_expired:
        raise LedgerMismatch(
            f"the backup is {counted(round(days), 'day')} old and was to be deleted after {parts.settings.retention.backup_days:g} (retention.backup_days): --even-expired restores it"
        )


def _erase_again(parts: Parts, erased: Path | None) -> dict[str, Any]:
    from workers.erased import erase_again, list_of

    with click.progressbar(length=parts.ledger.events.counts()["accepted"], label="looking for persons who were erased", file=sys.stderr) as bar:
        count, waits = erase_again(parts, erased, bar.update)
    return {"erasures": count, "erasures_waiting": waits, "erasures_list": str(list_of(parts, erased).path)}


def _print_restored(report: dict[str, Any]) -> None:
    click.echo(f"restored {counted(report['events'], 'event')}, {report['unfinished']} of them unfinished; quarantined: withdrawals are told, `given` wait")
    click.echo(
        f"persons erased again: {report['erasures']}, of whom {report['erasures_waiting']} have withdrawals to be told first (list: {report['erasures_list']})"
    )
    click.echo(f"start the relay, have every source post again what it said from {report['post_again_from']} on, then: consent ledger bring-forward")


def _shown(manifest: Manifest, path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "ledger_id": manifest.ledger_id,
        "schema_version": manifest.schema_version,
        "taken_at": manifest.taken_at,
        "bytes": manifest.file_bytes,
        "sha256": manifest.sha256,
        **manifest.counts,
    }


def _print(shown: dict[str, Any]) -> None:
    for name, value in shown.items():
        click.echo(f"{name.replace('_', ' '):18} {value}")


class _Bars:
    """Two progress bars, one after the other, as far as there is anybody to see them."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self._bars: dict[str, Any] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> Any:
        from workers.backups import Progress

        return Progress(on_bytes=self._show(self._labels[0], absolute=True), on_keys=self._show(self._labels[1], absolute=False))

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.render_finish()

    def _show(self, label: str, *, absolute: bool) -> Callable[[int, int], None]:
        def show(count: int, total: int) -> None:
            if label not in self._bars:
                self._bars[label] = click.progressbar(length=total, label=label, file=sys.stderr)
                self._bars[label].render_progress()
            self._bars[label].update(count - self._done.get(label, 0) if absolute else count)
            self._done[label] = count

        return show
