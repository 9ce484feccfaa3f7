"""The ledger's server for commands that must work whether or not the relay runs: the one that is named, that of a running `consent up`, or the embedded one, started for the time of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from config.settings import load_settings
from workers import process
from workers.commands import common
from workers.embedded import EmbeddedServer, ServerFailed, server_environment
from workers.state import StateFolder
from workers.wiring import Parts

START_SECONDS: Final = 60.0
SECRETS: Final = {"CONSENT_SUBJECT_PEPPER": "subject_pepper", "CONSENT_VAULT_KEYS": "vault_keys"}


@contextmanager
def opened_anywhere(role: str) -> Iterator[Parts]:
    """The parts of a short command that looks after the ledger as a whole. Raises SettingsError, ServerFailed."""
    environment = common.environment(of_running=True)
    if environment.get("CONSENT_REDIS_URL"):
        with common.opened(role, looks_only=True) as parts:
            yield parts
        return
    state = StateFolder(load_settings(environment).state_path())
    kept = {name: environment.get(name) or state.recall(file) for name, file in SECRETS.items()}
    with embedded_url(state) as url:
        built = Parts({**environment, **kept, "CONSENT_REDIS_URL": url}, looks_only=True)
        try:
            yield built
        finally:
            built.close()


def database_of(parts: Parts) -> int:
    """The database of the ledger on its server."""
    address = parts.settings.ledger_address()
    path = urlsplit(address.url).path.strip("/")
    return int(path) if path.isdigit() and not address.hosts else address.database


@contextmanager
def embedded_url(state: StateFolder) -> Iterator[str]:
    """The embedded server of a state directory that no `consent up` works on, started for the time of it. Raises SettingsError if one does, ServerFailed."""
    if not state.path.exists():
        raise ServerFailed(f"there is no {state.path}: name the directory of a `consent up` in CONSENT_STATE_DIR, or the server in CONSENT_REDIS_URL")
    state.lock()
    server = EmbeddedServer(state.server)
    child = process.start(server.prepare(), server_environment(), state.logs / "server.log")
    try:
        until = time.monotonic() + START_SECONDS
        while not server.answers():
            if child.poll() is not None or time.monotonic() > until:
                raise ServerFailed(f"the embedded server did not start; see {state.logs / 'server.log'}")
            time.sleep(0.05)
        yield server.url
    finally:
        server.shut_down()
        process.reap(child, START_SECONDS)
