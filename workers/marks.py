"""How far the ledger was seen, in a file of the state directory: what a process that starts anew compares the ledger with.

All processes of a state directory share the file. Where it cannot be written, each remembers for itself, and says so once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.ledger.lookout import Mark
from workers.embedded import write_private

logger = logging.getLogger(__name__)

SEEN_FILE: Final = "ledger_seen.json"
MOST_LEDGERS: Final = 20


class MarksFile:
    """Marks by ledger id; safe to use from several processes and threads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / SEEN_FILE
        self._read_at: tuple[int, int] | None = None
        self._marks: dict[str, Mark] = {}
        self._said = False

    def newest(self) -> str | None:
        """The ledger that was looked at last."""
        marks = self._current()
        return max(marks, key=lambda ledger_id: marks[ledger_id].past[:1], default=None)

    def recall(self, ledger_id: str) -> Mark | None:
        """What was seen of a ledger."""
        return self._current().get(ledger_id)

    def _current(self) -> dict[str, Mark]:
        """All marks; the file is read again only if it changed."""
        try:
            state = self._file.stat()
            if (state.st_mtime_ns, state.st_ino) != self._read_at:
                self._marks = _read(self._file)
                self._read_at = (state.st_mtime_ns, state.st_ino)
        except FileNotFoundError:
            self._marks = {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._complain(error)
        return self._marks

    def keep(self, mark: Mark) -> None:
        """Join a mark to the file's, one process at a time."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._folder / f".{SEEN_FILE}.lock"):
                marks = _read(self._file) if self._file.exists() else {}
                known = marks.get(mark.ledger_id)
                marks[mark.ledger_id] = mark.joined(known) if known else mark
                for gone in sorted(marks, key=lambda name: marks[name].past[:1])[:-MOST_LEDGERS]:
                    del marks[gone]
                write_private(self._file, json.dumps({name: _plain(each) for name, each in marks.items()}))
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            logger.warning("marks_not_kept", extra={"file": str(self._file), "reason": type(error).__name__})


def _plain(mark: Mark) -> dict[str, object]:
    return {"era": mark.era, "accepted": mark.accepted, "past": mark.past}


def _read(file: Path) -> dict[str, Mark]:
    found = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: Mark(ledger_id=name, era=int(each["era"]), accepted=tuple(each["accepted"]), past=tuple((int(at), tuple(counts)) for at, counts in each["past"]))
        for name, each in found.items()
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
