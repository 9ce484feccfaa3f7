"""The parts that keep evidence, built when one is first asked for: archive, archiver, prover."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.archiving import Archiver
    from pipeline.domain import Subject
    from pipeline.proving import Prover
    from pipeline.subject_status import Recorded
    from workers.wiring import Parts


def recorded_of(parts: Parts) -> Callable[[Subject], Recorded]:
    """What the evidence knows of what a person's destinations were told; nothing where none is kept."""
    return parts.evidence.prover.told if parts.settings.evidence_url() else lambda _: {}


class EvidenceParts:
    """What a process needs to archive evidence and to prove with it. Raises ConfigurationError if none is kept."""

    def __init__(self, parts: Parts) -> None:
        from pipeline.evidence.archive import Archive

        self._parts = parts
        if not parts.settings.evidence_url():
            raise ConfigurationError("no evidence is kept here: set CONSENT_EVIDENCE_URL, or CONSENT_EVIDENCE_ENABLED=on")
        self.archive = Archive(parts.settings.evidence_url())

    @cached_property
    def archiver(self) -> Archiver:
        from pipeline.archiving import Archiver, ArchiverOptions

        section = self._parts.settings.evidence
        options = ArchiverOptions(alert_seconds=section.alert_seconds, alert_megabytes=section.alert_megabytes, keep_days=section.keep_days)
        return Archiver(self._parts.ledger, self.archive, options, lambda: self._parts.routing)

    @cached_property
    def prover(self) -> Prover:
        from pipeline.proving import Prover

        parts = self._parts
        return Prover(self.archive, parts.hasher, lambda: parts.routing, parts.ledger.now)

    def close(self) -> None:
        self.archive.close()
