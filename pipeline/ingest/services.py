"""What every resource of one application shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import falcon
import orjson

from pipeline.ingest.authentication import Doorkeeper
from pipeline.ingest.blocking import BlockingCalls
from pipeline.ingest.committer import GroupCommitter
from pipeline.ingest.ports import Acceptor, IngestLimits, Ledger, Prover, Readiness
from pipeline.ingest.reading import Reader
from pipeline.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of one application; its threads are apart, so that large batches never keep a status page waiting, and who has no key (`unproven`, `probes`) nobody who has."""

    routing: Callable[[], Routing]
    reader: Reader
    doorkeeper: Doorkeeper
    acceptor: Acceptor
    ledger: Ledger
    committer: GroupCommitter
    reads: BlockingCalls
    batches: BlockingCalls
    unproven: BlockingCalls
    probes: BlockingCalls
    limits: IngestLimits
    now: Callable[[], datetime]
    readiness: Callable[[], Readiness]
    prover: Prover | None

    def start(self) -> None:
        for calls in (self.reads, self.batches, self.unproven, self.probes):
            calls.start()
        self.committer.start()

    def close(self) -> None:
        """Write what was taken, finish what is under way."""
        self.committer.close()
        for calls in (self.unproven, self.batches, self.reads, self.probes):
            calls.close()


def answer_json(response: falcon.Response, status: int, body: object) -> None:
    """A JSON answer that nobody may keep: consent changes."""
    answer_bytes(response, status, body if isinstance(body, bytes) else orjson.dumps(body))


def answer_bytes(response: falcon.Response, status: int, body: bytes, content_type: str = "application/json") -> None:
    """An answer of ready bytes."""
    response.status = status
    response.content_type = content_type
    response.data = body
    response.set_header("Cache-Control", "no-store")
