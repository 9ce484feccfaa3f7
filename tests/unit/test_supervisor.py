"""Supervision: what dies is started again with growing waits, stops go in order, nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.settings import SettingsError
from workers import process
from workers.celery_processes import Watchdog
from workers.state import SAMPLE_KEYS, StateFolder, key_hash
from workers.supervisor import Service, StartFailed, Supervisor

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def supervisor(tmp_path, clock):
    supervisor = Supervisor(tmp_path, clock)
    yield supervisor
    supervisor.stop()


def service(name="child", command=SLEEP, **fields):
    return Service(**{"name": name, "command": command, "environment": dict(os.environ), "stop_place": 0, "stop_seconds": 5, **fields})


def die(child):
    child.process.kill()
    child.process.wait()


def test_a_child_that_dies_is_started_again_with_doubled_waits(supervisor, clock):
    """0.5 seconds, then 1, then 2; after a minute of life the first wait again."""
    child = supervisor.start(service())
    for number, wait in enumerate((0.5, 1.0, 2.0), start=1):
        die(child)
        supervisor.watch()
        clock.now += wait - 0.1
        supervisor.watch()
        assert child.restarts == number - 1
        clock.now += 0.2
        supervisor.watch()
        assert child.restarts == number
    clock.now += 61
    die(child)
    supervisor.watch()
    clock.now += 0.6
    supervisor.watch()
    assert (child.restarts, child.process.poll()) == (4, None)


def test_all_stop_in_the_order_of_their_places(supervisor, tmp_path):
    """Each place ends before the next is asked; what ignores SIGTERM is killed with all it started."""
    note = "import signal,sys,time,pathlib; p=pathlib.Path(sys.argv[1]); signal.signal(15, lambda *_: (p.write_text(str(time.time())), sys.exit())); p.with_suffix('.up').touch(); time.sleep(60)"
    for name, place in (("server", 2), ("ingest", 0), ("worker", 1)):
        supervisor.start(service(name, [sys.executable, "-c", note, str(tmp_path / name)], stop_place=place, is_ready=(tmp_path / f"{name}.up").exists))
    deaf = "import signal,subprocess,sys,time,pathlib; signal.signal(15, signal.SIG_IGN); c=subprocess.Popen(['sleep','60']); pathlib.Path(sys.argv[1]).write_text(str(c.pid)); time.sleep(60)"
    supervisor.start(
        service("deaf", [sys.executable, "-c", deaf, str(tmp_path / "grandchild")], stop_place=3, stop_seconds=0.2, is_ready=(tmp_path / "grandchild").exists)
    )
    for child in supervisor.children:
        supervisor.wait_ready(child)
    time.sleep(0.1)
    grandchild = int((tmp_path / "grandchild").read_text())
    supervisor.stop()
    times = [float((tmp_path / name).read_text()) for name in ("ingest", "worker", "server")]
    assert times == sorted(times)
    time.sleep(0.1)
    assert not is_alive(grandchild)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_start_that_fails_names_the_process_and_its_last_words(supervisor):
    """Whichever child dies while another is waited for, it is not tried again."""
    supervisor.start(service("broken", [sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"]))
    waited = supervisor.start(service("waited", is_ready=lambda: False))
    with pytest.raises(StartFailed, match=r"broken ended with code 3 while starting; .*broken.log says last: no such thing"):
        supervisor.wait_ready(waited)


def test_a_start_that_takes_too_long_fails(supervisor, clock):
    """The service's own time is over."""

    def never():
        clock.now += 10
        return False

    with pytest.raises(StartFailed, match="slow was not ready within 30 seconds"):
        supervisor.wait_ready(supervisor.start(service("slow", is_ready=never)))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux only")
def test_children_of_a_killed_parent_end(tmp_path):
    """SIGKILL gives a supervisor no time to stop anything."""
    code = f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(process.CHECKOUT)!r})
from workers import process
child = process.start({SLEEP!r}, os.environ, None)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")])
    until = time.monotonic() + 10
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    child = int((tmp_path / "pid").read_text())
    assert is_alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    time.sleep(0.5)
    assert not is_alive(child)


def test_a_state_folder_has_one_owner_and_private_secrets(tmp_path):
    """The second is told who the first is; what was made once stays; everything has mode 0600 in a folder of 0700."""
    folder = StateFolder(tmp_path / "state")
    folder.lock()
    with pytest.raises(SettingsError, match=f"in use by process {os.getpid()}"):
        StateFolder(tmp_path / "state").lock()
    assert folder.is_locked()
    made = folder.secrets({})
    assert made == folder.secrets({})
    assert made["CONSENT_SAMPLE_KEY_SHA256"] == key_hash(folder.sample_key())
    assert len(set(made.values())) == 3 + len(SAMPLE_KEYS)
    assert folder.secrets({"CONSENT_SUBJECT_PEPPER": "given"})["CONSENT_SUBJECT_PEPPER"] == "given"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "state").iterdir() if file.is_file()} == {0o600}


@pytest.mark.parametrize("silent,waiting,ends", [(29.0, 99, False), (31.0, 4, False), (31.0, 5, True)])
def test_the_watchdog_ends_a_worker_only_if_it_is_deaf(clock, silent, waiting, ends):
    """Silence alone may be a quiet night; silence beside waiting control messages is not."""
    ended = []
    watchdog = Watchdog(30.0, lambda: waiting, clock=clock, end=lambda: ended.append(1))
    clock.now += silent
    assert watchdog.check() is ends
    assert ended == [1] * ends
    watchdog.heard()
    assert watchdog.check() is False
