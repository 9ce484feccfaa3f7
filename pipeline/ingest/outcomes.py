"""Outcomes of events as the contract shows them: one event's answer, a batch's answer, and the refusal that fits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pipeline.errors import ArchiveUnavailable, ConsentRelayError, FieldError, InvalidInput, KeyReused, LedgerMismatch, LedgerUnavailable
from pipeline.ingest.committer import Outcome
from pipeline.ingest.problems import BY_STATUS, Kind, Problem, errors_json, failure_of, problem, unavailable

logger = logging.getLogger(__name__)

COUNTS = {"accepted": "accepted", "duplicate": "duplicates", "superseded": "superseded", "rejected": "rejected"}
"""Status of one item -> the counter of the batch's answer."""

KEY_REUSED = FieldError("idempotency_key", "stands for an event with other content already")


def refusal_of(error: Exception) -> Problem | None:
    """The problem that fits an exception that callers are meant to see; None for one that is a fault of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidInput):
        return Problem(BY_STATUS.get(error.status, Kind.INVALID), error.errors)
    if isinstance(error, KeyReused):
        return Problem(Kind.KEY_REUSED, (KEY_REUSED,))
    if isinstance(error, LedgerUnavailable | LedgerMismatch):
        return unavailable("the ledger cannot confirm a write; sending the same event again is safe")
    if isinstance(error, ArchiveUnavailable):
        return unavailable("the evidence archive cannot be read now")
    return None


def refused(error: Exception, method: str, route: str | None) -> Problem:
    """The problem that answers an exception. A fault of ours is logged by where it happened and the route's template, because an address may carry a key; the caller is told nothing else."""
    refusal = refusal_of(error)
    if refusal is None:
        logger.error("request_failed", extra={"method": method, "route": route, **failure_of(error)})
        refusal = problem(Kind.INTERNAL, "the request could not be processed; sending the same event again is safe")
    return refusal


def single_answer(outcome: Outcome) -> dict[str, str]:
    """The 202 body of one event; raises the refusal if it was not accepted."""
    if isinstance(outcome, Exception):
        raise refusal_of(outcome) or outcome
    return {"event_id": outcome.event_id, "status": outcome.status}


def batch_answer(outcomes: Sequence[Outcome]) -> tuple[int, dict[str, Any]]:
    """Status and body of a batch: 202, or 207 if any item was refused; raises if the ledger failed, since then a resend is due."""
    results = [_item_answer(index, outcome) for index, outcome in enumerate(outcomes)]
    counts = dict.fromkeys(COUNTS.values(), 0)
    for result in results:
        counts[COUNTS[result["status"]]] += 1
    return 207 if counts["rejected"] else 202, {**counts, "results": results}


def _item_answer(index: int, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, KeyReused):
        return {"index": index, "status": "rejected", "errors": errors_json([KEY_REUSED])}
    if isinstance(outcome, InvalidInput):
        return {"index": index, "status": "rejected", "errors": errors_json(outcome.errors)}
    if isinstance(outcome, ConsentRelayError):
        raise outcome
    if isinstance(outcome, Exception):
        return {"index": index, "status": "rejected", "errors": [{"path": "", "message": "could not be processed; it may be sent again"}]}
    return {"index": index, "status": outcome.status, "event_id": outcome.event_id}
