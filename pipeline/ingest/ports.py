"""What the HTTP application is given: its limits, and the shapes of the parts it calls (all blocking, all thread-safe)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pipeline.domain import IncomingEvent, Subject
from pipeline.errors import InvalidInput, KeyReused
from pipeline.routing import Source

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits:
    """How much one process takes at once; beyond it callers are asked to come back (429) rather than queued without end.

    `max_pending` counts events waiting for a group commit. Large bodies are bounded apart, by `max_concurrent_batches`,
    because each may hold `max_batch_bytes` in memory. `max_queued` bounds what waits for a thread or a place.
    """

    max_body_bytes: int = MEBIBYTE
    max_batch_bytes: int = 16 * MEBIBYTE
    max_batch: int = 5000
    max_concurrent_batches: int = 8
    max_pending: int = 10_000
    group_commit_events: int = 200
    group_commit_wait_seconds: float = 0.002
    body_timeout_seconds: float = 30.0
    allowed_skew_seconds: float = 300.0
    blocking_threads: int = 8
    max_queued: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether events can be taken and work progresses; `problems` says what stands in the way, `notices` what to know besides, without secrets."""

    ready: bool
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


class AcceptedEvent(Protocol):
    """The answer to one accepted event."""

    @property
    def event_id(self) -> str: ...

    @property
    def status(self) -> str: ...


Answer = AcceptedEvent | KeyReused | InvalidInput
Item = tuple[Source, IncomingEvent]


class Acceptor(Protocol):
    """Writes events durably; one answer for each item, in order. Raises LedgerUnavailable when nothing can be promised."""

    def accept_many(self, items: Sequence[Item]) -> Sequence[Answer]: ...


class DeadLetterPage(Protocol):
    """One page of dead letters, and all of them counted by cause."""

    @property
    def items(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def next_cursor(self) -> str | None: ...


class ReplayReport(Protocol):
    """Delivery ids that were (would be) replayed, and `{"delivery_id", "reason"}` of those that were not."""

    @property
    def replayed(self) -> Sequence[str]: ...

    @property
    def skipped(self) -> Sequence[Mapping[str, str]]: ...


class Prover(Protocol):
    """Makes proofs; None where nothing is recorded that this source (None: any) may see. Raises ArchiveUnavailable."""

    def event(self, event_id: str, source: str | None) -> Mapping[str, Any] | None: ...

    def subject(self, subject: Subject, source: str | None) -> Mapping[str, Any] | None: ...


class Ledger(Protocol):
    """The reading side of the ledger, and replay. Every call raises LedgerUnavailable if the server cannot answer.

    `event` and the items of a page are in the form of the public answer; `dead_letters` raises ValueError for a cursor that is none of its own.
    """

    def event(self, event_id: str) -> Mapping[str, Any] | None: ...

    def subject(self, subject: Subject, source: str | None) -> Mapping[str, Any]: ...

    def dead_letters(
        self,
        *,
        destination: str | None = None,
        reason: str | None = None,
        state: str | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
        source: str | None = None,
    ) -> DeadLetterPage: ...

    def replay(self, ids: Sequence[str], dry_run: bool) -> ReplayReport: ...

    def gauges(self) -> Any: ...
