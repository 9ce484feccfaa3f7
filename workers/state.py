"""The state directory of `consent up`: its lock, generated secrets and logs, readable by the owner only."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from config.settings import SettingsError
from pipeline.routing_keys import is_key_hash
from workers.embedded import write_private

ENVIRONMENT_FILE: Final = "environment.json"
"""What a running `consent up` tells other commands of the same user: addresses, secrets of its own, hashes of keys."""
LEDGER_FILE: Final = "ledger_id"
"""The id of the ledger that this folder worked with."""
LARGEST_LOG_BYTES: Final = 20_000_000
SAMPLE_KEYS: Final = {
    "native": "CONSENT_SAMPLE_KEY_SHA256",
    "privacy_tools": "CONSENT_SAMPLE_PRIVACY_TOOLS_KEY_SHA256",
    "cmxorganize": "CONSENT_SAMPLE_CMX_KEY_SHA256",
    "mailchimp": "CONSENT_SAMPLE_MAILCHIMP_KEY_SHA256",
    "maileon": "CONSENT_SAMPLE_MAILEON_KEY_SHA256",
    "operator": "CONSENT_SAMPLE_OPERATOR_KEY_SHA256",
}
"""Sources of the example routing file and the variables in which it looks for the hashes of their keys."""


class StateFolder:
    """One `consent up` works on a folder at a time; hold it from `lock` to the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file: int | None = None

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def server(self) -> Path:
        return self.path / "server"

    def lock(self) -> None:
        """Make the folder and take it. Raises SettingsError when another process has it."""
        try:
            for folder in (self.path, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self._lock_file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(
                f"CONSENT_STATE_DIR: {self.path} cannot be used as a directory of our own ({error.strerror}): a path that can be made was expected"
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._lock_file, 20).decode(errors="replace").strip() or "?"
            raise SettingsError(
                f"{self.path} is in use by process {owner}: stop that `consent up`, or give this one its own CONSENT_STATE_DIR and ports (CONSENT_INGEST_PORT, CONSENT_FLOWER_PORT, CONSENT_SANDBOX_PORT)"
            ) from error
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > LARGEST_LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))
        os.ftruncate(self._lock_file, 0)
        os.write(self._lock_file, str(os.getpid()).encode())

    def secrets(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment's secrets, completed by ones that are made once and kept here."""
        return {
            "CONSENT_SUBJECT_PEPPER": environment.get("CONSENT_SUBJECT_PEPPER") or self._kept("subject_pepper", new_pepper),
            "CONSENT_VAULT_KEYS": environment.get("CONSENT_VAULT_KEYS") or self._kept("vault_keys", new_vault_key),
            "CONSENT_FLOWER_LOGIN": environment.get("CONSENT_FLOWER_LOGIN") or self._kept("flower_login", lambda: f"operator:{secrets.token_urlsafe(12)}"),
            **{name: environment.get(name) or key_hash(self.sample_key(source)) for source, name in SAMPLE_KEYS.items()},
        }

    def sample_key(self, source: str = "native") -> str:
        """The key with which the samples of a source are sent."""
        return self._kept(f"sample_{source}_key", new_source_key)

    def remember(self, name: str, value: str) -> None:
        """Keep a value for the next start and for commands that look in here."""
        write_private(self.path / name, value)

    def remember_environment(self, environment: Mapping[str, str]) -> None:
        """Keep what other commands need to look at the relay: our own settings and the hashes of keys, but no secret of a vendor."""
        told = {name: value for name, value in environment.items() if name.startswith("CONSENT_") or is_key_hash(value)}
        self.remember(ENVIRONMENT_FILE, json.dumps(told))

    def recall(self, name: str) -> str:
        """A remembered value, empty if there is none."""
        file = self.path / name
        return file.read_text(encoding="utf-8").strip() if file.exists() else ""

    def is_locked(self) -> bool:
        """Whether a `consent up` works on this folder now."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _kept(self, name: str, make: Callable[[], str]) -> str:
        file = self.path / name
        if not file.exists():
            write_private(file, make())
        return file.read_text(encoding="utf-8").strip()


def new_pepper() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def new_vault_key() -> str:
    """A new AES-256 key in base64."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def new_source_key() -> str:
    """A new key of a source; only its hash is ever stored by the relay."""
    return f"crk_{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> str:
    """The hash of a source key as the routing file names it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
