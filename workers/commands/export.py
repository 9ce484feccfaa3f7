"""`consent export <vendor>-removals`: one command for each vendor that takes a file of people to remove."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.export import Collected, RemovalExport
    from workers.wiring import Parts

_SUFFIX = "-removals"
_HELP = """Write a file that removes at {title} everybody who withdrew, since {title} cannot be told of a withdrawal by a call.

Collects the dead withdrawals (`cannot_express_withdrawn`), one file for each destination, mode 0600, with a manifest beside it that names deliveries and no
people. Who has given again since is left out. Hand the file to {title}. Once it says that it took it, --confirm closes exactly those dead letters as
delivered (`exported`); until then they stay dead, with their alert, and may be exported again.

Exits 1 if some withdrawals could not be written, or not be confirmed; they stay dead and are named by delivery id.

\b
Examples:
  consent export {command} --dry-run
  consent export {command} --output removals.tsv.gz --destination retargetly-crm
  consent export {command} --confirm removals.tsv.gz.manifest.json
"""


class RemovalCommands(click.Group):
    """Finds its commands among the vendor files."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        from pipeline.vendors import adapter_class, vendor_names
        from pipeline.vendors._removing import RemovesByFile

        return [vendor.replace("_", "-") + _SUFFIX for vendor in vendor_names() if issubclass(adapter_class(vendor), RemovesByFile)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return _command(cmd_name, cmd_name.removesuffix(_SUFFIX).replace("-", "_"))


@click.group(cls=RemovalCommands, short_help="Write files of people to remove at vendors that take files.")
def export() -> None:
    """Write files for vendors that take people to remove by a file, and confirm that they took them."""


def _command(name: str, vendor: str) -> click.Command:
    from pipeline.vendors import adapter_class

    options = [
        click.Option(["--destination", "destinations"], multiple=True, help="Only this destination; may be repeated. By default all of the vendor."),
        click.Option(
            ["--output"], type=click.Path(path_type=Path, dir_okay=False), help="Name of the file, for one destination. By default it says what and when."
        ),
        click.Option(
            ["--confirm", "manifests"], multiple=True, type=click.Path(path_type=Path), help="The vendor took the file of this manifest; may be repeated."
        ),
        click.Option(["--dry-run"], is_flag=True, help="Only say what would be written, or closed."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for programs."),
    ]
    title = adapter_class(vendor).title
    short = f"Write or confirm the file of removals at {title}."
    return click.Command(name, params=list(options), callback=_callback(vendor), help=_HELP.format(title=title, command=name), short_help=short)


def _callback(vendor: str) -> Any:
    def run(destinations: tuple[str, ...], output: Path | None, manifests: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
        if manifests and (destinations or output):
            raise click.UsageError("--confirm takes destination and file from the manifest: give nothing else but --dry-run and --json")
        with common.opened("export") as parts:
            reports = _confirm(parts, vendor, manifests, dry_run) if manifests else _export(parts, vendor, destinations, output, dry_run)
        pretty = _show_confirmed if manifests else _show_collected
        common.show({"dry_run": dry_run, "destinations": reports}, as_json=as_json, pretty=lambda: pretty(reports, dry_run))
        sys.exit(common.FAILED if any(report[name] for report in reports for name in ("unreadable", "unnamed", "outgrown") if name in report) else 0)

    return run


def _exporter(parts: Parts) -> RemovalExport:
    from pipeline.export import RemovalExport

    return RemovalExport(parts.ledger, parts.vault, lambda: parts.routing)


def _export(parts: Parts, vendor: str, wanted: Sequence[str], output: Path | None, dry_run: bool) -> list[dict[str, Any]]:
    from workers.exporting import check_name, default_name

    exporter = _exporter(parts)
    mine = [name for name, each in parts.routing.destinations.items() if each.vendor == vendor]
    for name in wanted:
        common.refuse_unknown_destination(name, mine)
    waiting = {name: count for name in wanted or mine if (count := exporter.count(name))}
    if output is not None and len(waiting) > 1:
        raise click.UsageError(f"--output names one file, and withdrawals wait for {', '.join(sorted(waiting))}: choose one with --destination")
    now = parts.ledger.now()
    paths = {name: output or Path(default_name(vendor, name, now)) for name in waiting}
    for name, path in paths.items():
        if wrong := check_name(path, parts.routing.destinations[name].adapter.removal_suffixes):  # type: ignore[attr-defined]
            raise click.UsageError(wrong)
    return [_export_one(parts, exporter, vendor, name, count, paths[name], dry_run) for name, count in waiting.items()]


def _export_one(parts: Parts, exporter: RemovalExport, vendor: str, name: str, count: int, path: Path, dry_run: bool) -> dict[str, Any]:
    from pipeline.domain import format_time
    from workers.exporting import manifest_path, write_export

    with click.progressbar(length=count, label=f"collecting {name}", file=sys.stderr) as bar:
        collected = exporter.collect(name, bar.update)
    is_written = bool(collected.exported) and not dry_run
    if is_written:
        adapter: Any = parts.routing.destinations[name].adapter
        about = {"vendor": vendor, "destination": name, "ledger_id": parts.ledger.identity.ledger_id, "created_at": format_time(parts.ledger.now())}
        write_export(path, adapter.removal_columns, collected.rows, letters=tuple(collected.exported), **about)
    return {
        "destination": name,
        "file": str(path) if is_written else None,
        "manifest": str(manifest_path(path)) if is_written else None,
        **_counted(collected),
    }


def _counted(collected: Collected) -> dict[str, Any]:
    return {
        "exported": len(collected.exported),
        "rows": len(collected.rows),
        "overtaken": collected.overtaken,
        "unreadable": collected.unreadable,
        "unnamed": {name: list(kinds) for name, kinds in collected.unnamed.items()},
    }


def _confirm(parts: Parts, vendor: str, manifests: Sequence[Path], dry_run: bool) -> list[dict[str, Any]]:
    from workers.exporting import changed_since, read_manifest

    try:
        read = [(path, read_manifest(path)) for path in manifests]
    except ValueError as error:
        raise click.UsageError(f"--confirm: {error}") from error
    for path, manifest in read:
        if manifest.vendor != vendor:
            raise click.UsageError(f"--confirm: {path}: is of {manifest.vendor}")
        if manifest.ledger_id != parts.ledger.identity.ledger_id:
            raise click.UsageError(f"--confirm: {path}: was made from another ledger ({manifest.ledger_id}); check CONSENT_REDIS_URL")
        if changed_since(manifest, path):
            raise click.UsageError(f"--confirm: {path}: {manifest.file} is not the file that was written; nobody knows whom it removes")
    exporter = _exporter(parts)
    reports = []
    for _, manifest in read:
        confirmed = exporter.confirm(manifest.destination, manifest.letters, manifest.file, dry_run=dry_run)
        reports.append({"destination": manifest.destination, "file": manifest.file, **common.as_dict(confirmed)})
    return reports


def _show_collected(reports: Sequence[dict[str, Any]], dry_run: bool) -> None:
    if not reports:
        click.echo("no withdrawal waits for a file")
    for report in reports:
        verb = "would go" if dry_run else "went"
        click.echo(f"{report['destination']}: {counted(report['exported'], 'withdrawal')} {verb} into {counted(report['rows'], 'row')}")
        if report["file"]:
            click.echo(
                f"  file      {report['file']}\n  manifest  {report['manifest']}\n  hand over the file; once it was taken, --confirm {report['manifest']}"
            )
        _name(report["overtaken"], "left out, because a newer word or a written rule says otherwise (`consent dead replay` closes them)")
        _name(report["unreadable"], "cannot be opened: the payload is gone, or its vault key is missing")
        for name, kinds in report["unnamed"].items():
            why = f"the file cannot name a person by {' and '.join(kinds)}" if kinds else "the vendor was sent nothing that names this person"
            click.echo(f"  {name}: not written, {why}", err=True)


def _show_confirmed(reports: Sequence[dict[str, Any]], dry_run: bool) -> None:
    for report in reports:
        verb = "would be closed" if dry_run else "closed"
        click.echo(f"{report['destination']}: {counted(len(report['closed']), 'dead withdrawal')} {verb} as exported in {report['file']}")
        _name(report["closed_before"], "closed by an earlier confirmation")
        _name(report["not_dead"], "not dead any more: replayed or discarded since")
        _name(report["told_again"], "a given that the file undid, told again")
        _name(report["outgrown"], "stays dead: more is known of the person by now than the file named, export again")


def _name(delivery_ids: Iterable[str], why: str) -> None:
    for name in delivery_ids:
        click.echo(f"  {name}: {why}", err=True)
