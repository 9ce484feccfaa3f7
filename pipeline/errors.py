"""Everything the pipeline raises; what a vendor answers is a value (`domain.VendorResult`), never an exception.

    ConsentRelayError
    ├── ConfigurationError    a setting or the routing file is wrong: nothing starts
    ├── InvalidInput          what came in cannot be accepted: field by field, nothing was written
    ├── KeyReused             the idempotency key already stands for other content
    ├── LedgerUnavailable     the ledger cannot be reached or cannot confirm a write: try again later
    ├── LedgerMismatch        this ledger is not the one we worked with: refuse until a person accepts it
    ├── ArchiveUnavailable    the evidence archive cannot be reached or written: what waits for it is kept in the ledger
    ├── ArchiveMismatch       this evidence archive is not the one the ledger wrote to: refuse until a person accepts it
    └── PayloadUnreadable     a sealed payload cannot be opened with the keys at hand

No message of these carries a personal value or a secret: they end up in logs and answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


class ConsentRelayError(Exception):
    """Base of every error raised on purpose."""


class ConfigurationError(ConsentRelayError):
    """A setting or the routing file cannot be used; the text names what, where and what was expected."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with an input.

    `path` is dotted (`subject.email`), empty for the whole body; `message` never repeats the value.
    """

    path: str
    message: str


_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def shown_name(name: object) -> str:
    """The name of a field or parameter as a path may show it: `?` for what does not look like a name, since it may be somebody's address."""
    text = str(name)
    return text if _NAME.fullmatch(text) else "?"


class InvalidInput(ConsentRelayError):
    """What came in cannot be accepted; `errors` names each field.

    `status` is the HTTP status that fits: 400 for unreadable bytes, 413 for too much, 415 for a wrong media type, 422 for wrong content.
    """

    def __init__(self, errors: Sequence[FieldError], *, status: int = 422) -> None:
        super().__init__("; ".join(f"{error.path or 'body'}: {error.message}" for error in errors))
        self.errors = tuple(errors)
        self.status = status


class KeyReused(ConsentRelayError):
    """The idempotency key already stands for an event with other content (HTTP 409)."""


class LedgerUnavailable(ConsentRelayError):
    """The ledger cannot be reached, is full, or cannot confirm that a write is durable (HTTP 503)."""


class LedgerMismatch(ConsentRelayError):
    """The ledger is empty, older, or made with another pepper than the one expected."""


class ArchiveUnavailable(ConsentRelayError):
    """The evidence archive cannot be reached, read or written (HTTP 503)."""


class ArchiveMismatch(ConsentRelayError):
    """The evidence archive lacks records that the ledger knows to be archived: it is empty, older, or another one."""


class BackupFailed(ConsentRelayError):
    """A backup could not be made or read; nothing of it is left, or nothing was changed."""


class PayloadUnreadable(ConsentRelayError):
    """A sealed payload cannot be opened: its vault key is missing or the bytes were changed."""
