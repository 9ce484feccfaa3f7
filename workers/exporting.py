"""Writes the file of people to remove and its manifest: for the owner only, whole or not at all, and never over one that is there."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pipeline.domain import split_delivery_id
from pipeline.errors import ConsentRelayError
from pipeline.export import Exported

VERSION: Final = 1
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_UNWRITABLE: Final = re.compile(r"[\t\r\n\x00]")


class NotWritten(ConsentRelayError):
    """A file could not be written; nothing of it is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a file holds, without any of it: which deliveries, and by which keyed hashes the people in it are known."""

    vendor: str
    destination: str
    ledger_id: str
    file: str
    sha256: str
    rows: int
    created_at: str
    letters: tuple[Exported, ...]


def default_name(vendor: str, destination: str, now: datetime) -> str:
    """Names vendor, destination and time, and nobody."""
    return f"{vendor}-removals-{destination}-{now:%Y%m%dT%H%M%SZ}.tsv"


def check_name(path: Path, suffixes: Sequence[str]) -> str | None:
    """What is wrong with a name for the file, if anything is."""
    if not path.name.endswith(tuple(suffixes)) or not _NAME.fullmatch(path.name):
        return f"the name of the file must be of letters, digits, dots and hyphens, without spaces, and end in {' or '.join(suffixes)}"
    return next((f"{each} is there already, and nothing is overwritten" for each in (path, manifest_path(path)) if each.exists()), None)


def manifest_path(path: Path) -> Path:
    """Where the manifest of a file stands: beside it."""
    return path.with_name(f"{path.name}.manifest.json")


def write_export(path: Path, columns: Sequence[str], rows: Collection[Sequence[str]], **about: Any) -> Manifest:
    """Write the file and its manifest beside it, both or none; `about` is what the manifest says besides the file. Raises NotWritten."""
    manifest = Manifest(file=path.name, sha256=write_removals(path, columns, rows), rows=len(rows), **about)
    try:
        write_manifest(path, manifest)
    except NotWritten:
        path.unlink()
        raise
    return manifest


def write_removals(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write the file; returns its SHA-256. Raises NotWritten."""
    lines = [columns, *rows]
    if any(_UNWRITABLE.search(cell) for line in lines for cell in line):
        raise NotWritten("a value holds a tab or a line end, which such a file cannot say; nothing was written")
    content = "".join("\t".join(line) + "\n" for line in lines).encode()
    return write_new(path, gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest beside its file. Raises NotWritten."""
    letters = [{"delivery_id": each.delivery_id, "identifier_keys": list(each.identifier_keys)} for each in manifest.letters]
    fields = {name: getattr(manifest, name) for name in manifest.__slots__ if name != "letters"}
    write_new(manifest_path(path), json.dumps({"version": VERSION, **fields, "letters": letters}, indent=1).encode() + b"\n")


def read_manifest(path: Path) -> Manifest:
    """The manifest of a file. Raises ValueError saying what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        letters = tuple(Exported(delivery_id=each["delivery_id"], identifier_keys=tuple(each["identifier_keys"])) for each in found["letters"])
        manifest = Manifest(**{name: found[name] for name in Manifest.__slots__ if name != "letters"}, letters=letters)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: is no manifest of an export") from None
    if found.get("version") != VERSION:
        raise ValueError(f"{path}: is a manifest of another release")
    if not _NAME.fullmatch(str(manifest.file)):
        raise ValueError(f"{path}: names no file")
    if any(split_delivery_id(str(each.delivery_id))[1] != manifest.destination for each in letters):
        raise ValueError(f"{path}: names deliveries of another destination than {manifest.destination}")
    return manifest


def changed_since(manifest: Manifest, path: Path) -> bool:
    """Whether the file beside its manifest is another than the one that was written; one that is gone is not."""
    file = path.with_name(manifest.file)
    return file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != manifest.sha256


def write_new(path: Path, content: bytes) -> str:
    """Write a file of mode 0600 that is not there yet, durable before it has its name; returns its SHA-256. Raises NotWritten."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)
    except OSError as error:
        raise NotWritten(f"{path} cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()
    return hashlib.sha256(content).hexdigest()
