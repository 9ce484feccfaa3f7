"""Backups of the ledger: a file of Redis commands that makes it again on any server, and a manifest beside it that says what it holds.

What is sealed stays sealed. Pepper and vault keys are not in it: without them a backup is of no use to anybody, its owner included.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import hiredis
import redis

from pipeline.domain import format_time, utc_from_us
from pipeline.errors import BackupFailed, ConsentRelayError, LedgerUnavailable
from pipeline.ledger import snapshot
from pipeline.ledger.snapshot import Command
from workers.embedded import server_binary
from workers.private_folder import private_folder
from workers.process import die_with_parent

VERSION: Final = 1
SUFFIX: Final = ".resp.gz"
LOAD_SECONDS: Final = 600.0
CUTS: Final = 3
"""How often a snapshot is asked for if the server hands out one that it had begun for somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds: all that was accepted before `taken_at`. `counts` are of keys and of events."""

    ledger_id: str
    schema_version: int
    partitions: int
    pepper_fingerprint: str
    taken_at: str
    taken_at_ms: int
    made_at: str
    server: str
    counts: dict[str, int]
    file: str
    file_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Who is told how far it is: bytes of the snapshot, then keys."""

    on_bytes: Callable[[int, int], object] = lambda _came, _all: None
    on_keys: Callable[[int, int], object] = lambda _done, _all: None


def default_name(ledger_id: str, now: datetime) -> str:
    """Names the ledger and the time."""
    return f"consent-ledger-{ledger_id}-{now:%Y%m%dT%H%M%SZ}{SUFFIX}"


def manifest_path(path: Path) -> Path:
    """Where the manifest of a backup stands: beside it."""
    return path.with_name(f"{path.name}.manifest.json")


def back_up(client: Any, database: int, path: Path, progress: Progress, *, rdb: Path | None = None) -> Manifest:
    """Write a backup of the ledger as it is at one moment, and read it again. `rdb` is a snapshot that was made by other means. Raises BackupFailed, LedgerUnavailable."""
    for each in (path, manifest_path(path)):
        if each.exists():
            raise BackupFailed(f"{each} is there already, and nothing is overwritten")
    with private_folder(path.parent) as folder:
        if rdb is not None:
            taken_ms = _time_of(rdb)
            shutil.copyfile(rdb, folder / "snapshot.rdb")
            with frozen(folder, database) as copy:
                return _write(copy, path, folder, taken_ms, progress)
        for _ in range(CUTS):
            cut = snapshot.begin_cut(client)
            with (folder / "snapshot.rdb").open("wb") as file:
                snapshot.receive(client, file, progress.on_bytes)
            with frozen(folder, database) as copy:
                if snapshot.holds(copy, cut):
                    return _write(copy, path, folder, cut.at_ms, progress)
    raise LedgerUnavailable("the server keeps handing out a snapshot that it began earlier, for a replica: try again when its replicas have caught up")


def _write(copy: Any, path: Path, folder: Path, taken_ms: int, progress: Progress) -> Manifest:
    record = snapshot.identity_of(copy)
    if not {"id", "schema", "partitions", "pepper"} <= record.keys():
        raise BackupFailed("the snapshot holds no ledger: is this the server and the database of the ledger?")
    total = snapshot.count_keys(copy)
    fresh, done = folder / "fresh", 0
    with fresh.open("xb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=6) as file:
        fresh.chmod(0o600)
        for group in snapshot.commands_of(copy, lambda count: progress.on_keys(count, total)):
            for command in group:
                file.write(hiredis.pack_command(command))
                done += 1
        file.flush()
    sha256 = _sha256(fresh)
    counts = {"keys": total, "commands": done, **_events(copy, int(record["partitions"]))}
    manifest = Manifest(
        ledger_id=record["id"],
        schema_version=int(record["schema"]),
        partitions=int(record["partitions"]),
        pepper_fingerprint=record["pepper"],
        taken_at=format_time(utc_from_us(taken_ms * 1000)),
        taken_at_ms=taken_ms,
        made_at=format_time(utc_from_us(int(time.time()) * 1_000_000)),
        server=_server(copy),
        counts=counts,
        file=path.name,
        file_bytes=fresh.stat().st_size,
        sha256=sha256,
    )
    if sum(len(group) for group in read_commands(fresh)) != done:
        raise BackupFailed("the backup reads otherwise than it was written: is the disk well?")
    _publish(fresh, path, manifest)
    return manifest


def _events(copy: Any, partitions: int) -> dict[str, int]:
    from pipeline.ledger.keys import Keys

    keys = Keys(partitions)
    rows = [copy.hgetall(keys.event(partition, "n")) for partition in keys.all]
    accepted, finished = (sum(int(row.get(name, 0)) for row in rows) for name in (b"accepted", b"finished"))
    return {"events_accepted": accepted, "events_unfinished": accepted - finished}


def _server(copy: Any) -> str:
    found = copy.info("server")
    return f"read by Valkey {found.get('valkey_version') or found.get('redis_version')}"


def _publish(fresh: Path, path: Path, manifest: Manifest) -> None:
    """Give both files their names, the manifest last: a backup without one is none."""
    from workers.exporting import write_new

    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
        write_new(manifest_path(path), json.dumps({"version": VERSION, **asdict(manifest)}, indent=1).encode() + b"\n")
    except OSError as error:
        raise BackupFailed(f"{path} cannot be written ({error.strerror})") from error
    except ConsentRelayError:
        path.unlink()
        raise


def read_manifest(path: Path) -> Manifest:
    """The manifest beside a backup, the file being what it says. Raises BackupFailed."""
    beside = manifest_path(path)
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        if found.pop("version") != VERSION:
            raise BackupFailed(f"{beside} is a manifest of another release")
        manifest = Manifest(**{each.name: found[each.name] for each in fields(Manifest)})
        size = path.stat().st_size
    except OSError as error:
        raise BackupFailed(f"{error.filename} cannot be read ({error.strerror}): a backup is a file and its manifest") from None
    except (ValueError, KeyError, TypeError):
        raise BackupFailed(f"{beside} is no manifest of a backup") from None
    if size != manifest.file_bytes or _sha256(path) != manifest.sha256:
        raise BackupFailed(f"{path} is not the file of its manifest: it was cut short or changed")
    return manifest


def read_commands(path: Path) -> Iterator[list[Command]]:
    """The commands of a backup in groups; the ledger's own record is the first group. Raises BackupFailed."""
    reader, is_first = hiredis.Reader(), True
    try:
        with gzip.open(path, "rb") as file:
            while part := file.read(snapshot.READ_BYTES):
                reader.feed(part)
                group: list[Command] = []
                while (command := reader.gets()) is not False:
                    if is_first:
                        is_first = False
                        yield [tuple(command)]
                    else:
                        group.append(tuple(command))
                if group:
                    yield group
    except (OSError, EOFError, hiredis.HiredisError) as error:
        raise BackupFailed(f"{path} cannot be read to its end ({type(error).__name__})") from error


@contextlib.contextmanager
def frozen(folder: Path, database: int) -> Iterator[Any]:
    """A server of our own that holds `snapshot.rdb` of a private folder and that nobody else can reach; raises BackupFailed."""
    socket = folder / "socket"
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "dbfilename": "snapshot.rdb",
        "appendonly": "no",
        "save": "",
        "daemonize": "no",
        "rdb-version-check": "relaxed",
    }
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own binary
            [server_binary(), *(part for name, value in settings.items() for part in (f"--{name}", value))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - no lock is taken in there
        )
    try:
        with contextlib.closing(redis.Redis(unix_socket_path=str(socket), db=database, socket_timeout=60)) as client:
            _wait_loaded(process, client, folder)
            yield client
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


def _wait_loaded(process: subprocess.Popen[bytes], client: Any, folder: Path) -> None:
    until = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(redis.RedisError, OSError):
            if client.ping():
                return
        if process.poll() is not None:
            said = (folder / "server.log").read_text(errors="replace").strip().splitlines()[-3:]
            raise BackupFailed("the server that comes along cannot read the snapshot: " + " / ".join(line.partition("# ")[2] or line for line in said))
        time.sleep(0.02)
    raise BackupFailed("the snapshot was not read in time")


def _time_of(rdb: Path) -> int:
    """When a snapshot was begun, by its own header. Raises BackupFailed."""
    with rdb.open("rb") as file:
        head = file.read(512)
    _, mark, rest = head.partition(b"\x05ctime\xc2")
    if head[:5] not in (b"REDIS", b"VALKE") or not mark or len(rest) < 4:
        raise BackupFailed(f"{rdb} is no snapshot of Redis or Valkey that says when it was made")
    return int.from_bytes(rest[:4], "little") * 1000


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
