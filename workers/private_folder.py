"""The folder in which a backup is made: for its owner only, on the disk of the backup, and gone when it is done.

It holds a whole snapshot, and nobody deletes that in time. Who is killed leaves it behind, so the next backup there removes what nobody is at any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.errors import BackupFailed

PREFIX: Final = ".consent-backup-"
SHORT: Final = "consent-"
LOCK: Final = "lock"
QUIET_SECONDS: Final = 3600.0
"""After so long without a write a folder that has no lock is nobody's: it is of an earlier release, or its maker was killed at once."""


@contextlib.contextmanager
def private_folder(beside: Path) -> Iterator[Path]:
    """A folder by a short name: the path of a socket may have 100 characters. Raises BackupFailed."""
    _remove_left_behind(beside)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
    except OSError as error:
        raise BackupFailed(f"{beside} cannot be written ({error.strerror})") from error
    short = Path(tempfile.gettempdir()) / f"{SHORT}{secrets.token_hex(6)}"
    try:
        with _locked(folder):
            short.symlink_to(folder.resolve())
            yield short
    finally:
        short.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock that says that somebody is at it. It has its name only once it is held: without one a folder is nobody's after a while only."""
    unnamed = folder / f"{LOCK}.new"
    with unnamed.open("xb") as file:
        with contextlib.suppress(OSError):  # a disk without locks: nobody can take one there, so nobody removes anything
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(folder / LOCK)
        yield


def _remove_left_behind(beside: Path) -> None:
    """Remove the folders of backups that were killed, and the short names that led to them."""
    for folder in beside.glob(f"{PREFIX}*"):
        if folder.is_symlink() or not _is_left_behind(folder):
            continue
        for short in Path(tempfile.gettempdir()).glob(f"{SHORT}*"):
            with contextlib.suppress(OSError):
                if short.readlink() == folder.resolve():
                    short.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def _is_left_behind(folder: Path) -> bool:
    """Whether nobody is at it: the kernel takes a lock from whoever ends, however that happens."""
    try:
        with (folder / LOCK).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            return max(each.stat().st_mtime for each in (folder, *folder.iterdir())) < time.time() - QUIET_SECONDS
        return False
    except OSError:
        return False
    return True
