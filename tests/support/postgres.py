"""A real PostgreSQL for tests: fresh, on a free port, run by an unprivileged user, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers.embedded import free_port

USER = "relay"


def programs() -> Path:
    """Where the newest PostgreSQL of this machine has its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("PostgreSQL is not installed: tests/support/system_packages.sh does it")
    return found[-1].parent


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run a server and yield the URL of its database; root hands it to the user `postgres`, since PostgreSQL refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="consent-postgres-"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)
    port, data, quiet = free_port(), folder / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    subprocess.run([programs() / "initdb", "-D", data, "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8"], check=True, cwd=folder, **quiet, **user)
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c shared_buffers=16MB"
    control = [programs() / "pg_ctl", "-D", data, "-w", "-t", "60"]
    try:
        subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], check=True, cwd=folder, **quiet, **user)
        yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, cwd=folder, **quiet, **user)
        shutil.rmtree(folder, ignore_errors=True)
