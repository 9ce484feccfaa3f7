"""The folder in which a backup is made holds everybody: it goes with whoever made it, or else with the next backup, and never under one that is being made."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipeline.identifiers import Hasher
from tests.support.parts import open_ledger
from tests.support.stack import ROOT, wait_until
from workers.backups import Progress, back_up
from workers.private_folder import QUIET_SECONDS, private_folder

PEPPER = "pepper-for-tests-pepper-for-tests"


@pytest.fixture
def short_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where short names are made, which nobody else looks at."""
    folder = tmp_path / "short"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


@pytest.fixture
def running(client: redis.Redis, valkey_url: str, target: Path, short_names: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A backup that is being made: it waits for somebody to write the snapshot that it was given."""
    open_ledger(client, hasher=Hasher(PEPPER.encode()))
    os.mkfifo(snapshot := target / "snapshot")
    ours = {"REDIS_URL": valkey_url, "SUBJECT_PEPPER": PEPPER, "VAULT_KEYS": base64.b64encode(b"k" * 32).decode(), "STATE_DIR": str(target / "state")}
    with subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "backup", str(target), "--rdb", str(snapshot)],
        cwd=ROOT,
        env={**os.environ, **{f"CONSENT_{name}": value for name, value in ours.items()}, "TMPDIR": str(short_names)},
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - under nohup it is ignored, and no lock is taken in there
    ) as backup:
        wait_until(lambda: len(left(target, short_names)) == 2, 30)
        yield backup
        backup.kill()


def left(target: Path, short_names: Path) -> list[Path]:
    return [*target.glob(".consent-backup-*"), *short_names.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_backup_that_is_told_to_end_leaves_nothing(running: subprocess.Popen[bytes], target: Path, short_names: Path, number: int) -> None:
    """Neither the folder nor the short name, and no traceback is printed."""
    running.send_signal(number)
    _, printed = running.communicate(timeout=30)
    assert running.returncode == 128 + number, printed
    assert left(target, short_names) == []
    assert b"Traceback" not in printed


def test_what_a_killed_backup_left_goes_with_the_next_one(running: subprocess.Popen[bytes], client: redis.Redis, target: Path, short_names: Path) -> None:
    """And not before: while it runs, another one makes its backup beside it."""
    theirs = left(target, short_names)
    back_up(client, 0, target / "one.resp.gz", Progress())
    assert left(target, short_names) == theirs
    running.kill()
    running.wait()
    assert left(target, short_names) == theirs
    back_up(client, 0, target / "two.resp.gz", Progress())
    assert left(target, short_names) == []
    assert {each.name for each in target.glob("*.gz")} == {"one.resp.gz", "two.resp.gz"}


def test_a_folder_without_a_lock_goes_when_it_is_quiet(target: Path, short_names: Path) -> None:
    """Of an earlier release, which may be at it, or of one that was only just made; what has another name, or leads elsewhere, is nobody's to remove."""
    busy, quiet, other, elsewhere = (target / name for name in (".consent-backup-busy", ".consent-backup-quiet", "consent-backup-mine", ".consent-backup-link"))
    for folder in (busy, quiet, other):
        folder.mkdir()
        (folder / "snapshot.rdb").write_bytes(b"REDIS")
    elsewhere.symlink_to(other)
    long_ago = time.time() - QUIET_SECONDS - 60
    for path in (busy, quiet, quiet / "snapshot.rdb", other, other / "snapshot.rdb"):
        os.utime(path, (long_ago, long_ago))
    (short_names / "consent-theirs").symlink_to(quiet)
    (short_names / "consent-others").symlink_to(other)
    with private_folder(target) as own:
        assert own.is_dir()
        assert (own / "lock").exists()
    assert [each.name for each in short_names.iterdir()] == ["consent-others"]
    assert sorted(target.iterdir()) == sorted([busy, other, elsewhere])
    assert (other / "snapshot.rdb").exists()


def test_a_folder_goes_with_an_error_too(target: Path, short_names: Path) -> None:
    """Whatever it was."""
    with contextlib.suppress(ZeroDivisionError), private_folder(target) as own:
        (own / "snapshot.rdb").write_bytes(b"REDIS")
        raise ZeroDivisionError
    assert left(target, short_names) == []
