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
    """The parts of one application; `reads` and `batches` are separate, so that large batches never keep a status page waiting."""

    routing: Callable[[], Routing]
    reader: Reader
    doorkeeper: Doorkeeper
    acceptor: Acceptor
    ledger: Ledger
    committer: GroupCommitter
    reads: BlockingCalls
    batches: BlockingCalls
    limits: IngestLimits
    now: Callable[[], datetime]
    readiness: Callable[[], Readiness]
    prover: Prover | None

    def start(self) -> None:
        self.reads.start()
        self.batches.start()
        self.committer.start()

    def close(self) -> None:
        """Write what was taken, finish what is under way."""
        self.committer.close()
        self.batches.close()
        self.reads.close()


def answer_json(response: falcon.Response, status: int, body: object) -> None:
    """A JSON answer that nobody may keep: consent changes."""
    answer_bytes(response, status, body if isinstance(body, bytes) else orjson.dumps(body))


def answer_bytes(response: falcon.Response, status: int, body: bytes, content_type: str = "application/json") -> None:
    """An answer of ready bytes."""
    response.status = status
    response.content_type = content_type
    response.data = body
    response.set_header("Cache-Control", "no-store")
