"""The state directory of `consent up`: its lock, generated secrets and logs, readable by the owner only."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from config.settings import SettingsError
from workers.embedded import write_private


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
        for folder in (self.path, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self._lock_file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._lock_file, 20).decode(errors="replace").strip() or "?"
            raise SettingsError(
                f"{self.path} is in use by process {owner}: stop that `consent up`, or give this one its own CONSENT_STATE_DIR and ports (CONSENT_INGEST_PORT, CONSENT_FLOWER_PORT, CONSENT_SANDBOX_PORT)"
            ) from error
        os.ftruncate(self._lock_file, 0)
        os.write(self._lock_file, str(os.getpid()).encode())

    def secrets(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment's secrets, completed by ones that are made once and kept here."""
        key = self.sample_key()
        return {
            "CONSENT_SUBJECT_PEPPER": environment.get("CONSENT_SUBJECT_PEPPER") or self._kept("subject_pepper", new_pepper),
            "CONSENT_VAULT_KEYS": environment.get("CONSENT_VAULT_KEYS") or self._kept("vault_keys", new_vault_key),
            "CONSENT_FLOWER_LOGIN": environment.get("CONSENT_FLOWER_LOGIN") or self._kept("flower_login", lambda: f"operator:{secrets.token_urlsafe(12)}"),
            "CONSENT_SAMPLE_KEY_SHA256": environment.get("CONSENT_SAMPLE_KEY_SHA256") or key_hash(key),
        }

    def sample_key(self) -> str:
        """The key with which the samples are sent."""
        return self._kept("sample_key", new_source_key)

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
    """SHA-256 of a source key in hex, as the routing file names it."""
    return hashlib.sha256(key.encode()).hexdigest()
