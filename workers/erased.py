"""The list of erasures, in a file of the state directory: keyed hashes and times only. It outlives the ledger, so that a backup that is put back brings nobody back.

Written before anything is erased. Whoever works from several machines copies it where backups are put back.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.errors import ConfigurationError
from pipeline.ledger.erasures import Erasure

if TYPE_CHECKING:
    from pipeline.erasing import Erasing
    from workers.wiring import Parts

ERASED_FILE: Final = "erased.ndjson"


class ErasedFile:
    """Erasures, a line each; keys of another pepper say nothing here and are passed by."""

    def __init__(self, path: Path, pepper_fingerprint: str) -> None:
        self.path, self._fingerprint = path, pepper_fingerprint

    def append(self, erasure: Erasure) -> None:
        """Write one down, and return when it is on the disk. Raises ConfigurationError."""
        line = json.dumps({"pepper": self._fingerprint, "at_us": erasure.at_us, "keys": erasure.keys}) + "\n"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)  # what a killed command left of a line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigurationError(
                f"the list of erasures {self.path} cannot be written ({error.strerror}), and without it a backup that is put back would bring the person back: "
                "name a directory in CONSENT_STATE_DIR that is kept"
            ) from error

    def read(self) -> list[Erasure]:
        """All of them; none if there is no file. Raises ConfigurationError for a line that is none, save a last one that was cut short."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigurationError(f"the list of erasures {self.path} cannot be read ({error.strerror})") from error
        return [erasure for number, line in enumerate(lines, start=1) if line.endswith("\n") and (erasure := self._erasure(line, number)) is not None]

    def _erasure(self, line: str, number: int) -> Erasure | None:
        try:
            found = json.loads(line)
            erasure = Erasure(at_us=int(found["at_us"]), keys=tuple(map(str, found["keys"])))
            return erasure if found["pepper"] == self._fingerprint else None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ConfigurationError(f"{self.path}, line {number}: is no erasure; put the file back as it was") from error


def erasing(parts: Parts) -> Erasing:
    """What erases persons, in this process."""
    from pipeline.erasing import Erasing

    return parts.built("_erasing", lambda: Erasing(parts.ledger, parts.vault, lambda: parts.routing))


def look_after(parts: Parts) -> None:
    """Beat's part: end erasures that were begun, and take what is personal from identifiers of whom nothing was said for long."""
    from pipeline.quiet import Quiet

    erasing(parts).go_on()
    Quiet(parts.ledger, days=parts.settings.retention.identifier_days).run()


def list_of(parts: Parts, path: Path | None = None) -> ErasedFile:
    """The list of the state directory, or another one."""
    return ErasedFile(path or parts.settings.state_path() / ERASED_FILE, parts.hasher.fingerprint())


def erase_again(parts: Parts, path: Path | None, progress: Callable[[int], object]) -> tuple[int, int]:
    """Carry out every erasure of a list in a ledger that was put back; returns how many there are, and how many wait for a withdrawal to be told."""
    erasures = list_of(parts, path).read()
    return len(erasures), erasing(parts).again(erasures, progress) if erasures else 0
