"""What the HTTP application answers, as marshmallow schemas: printed as OpenAPI, and what tests hold real answers against."""

from __future__ import annotations

from typing import Final

from marshmallow import Schema, fields, validate

from pipeline.domain import DeliveryStatus, Outcome, State

ACCEPT_STATUSES: Final = ("accepted", "duplicate", "superseded")
EVENT_STATUSES: Final = ("accepted", "superseded", "erased")


def _time(*, required: bool = True, allow_none: bool = False) -> fields.String:
    return fields.String(required=required, allow_none=allow_none, metadata={"format": "date-time"})


def _one_of(*values: str, allow_none: bool = False) -> fields.String:
    return fields.String(required=True, allow_none=allow_none, validate=validate.OneOf([*values, None] if allow_none else values))


def _text(*, allow_none: bool = False) -> fields.String:
    return fields.String(required=True, allow_none=allow_none)


def _count() -> fields.Integer:
    return fields.Integer(required=True, strict=True, validate=validate.Range(min=0))


class AcceptedSchema(Schema):
    """An event is durable in the ledger."""

    event_id = _text()
    status = _one_of(*ACCEPT_STATUSES)


class FieldErrorSchema(Schema):
    """One thing that is wrong with a request; `path` is empty for the whole body."""

    path = _text()
    message = _text()


class ProblemSchema(Schema):
    """An error (RFC 9457)."""

    type = fields.String()
    title = _text()
    status = fields.Integer(required=True, strict=True)
    detail = fields.String()
    instance = fields.String()
    errors = fields.List(fields.Nested(FieldErrorSchema))


class BatchResultSchema(Schema):
    """What became of one item of a batch: an `event_id`, or the `errors` that refused it."""

    index = _count()
    status = _one_of(*ACCEPT_STATUSES, "rejected")
    event_id = fields.String()
    errors = fields.List(fields.Nested(FieldErrorSchema))


class BatchSchema(Schema):
    """What became of a batch, item by item in order."""

    accepted = _count()
    duplicates = _count()
    superseded = _count()
    rejected = _count()
    results = fields.List(fields.Nested(BatchResultSchema), required=True)


class DeliverySchema(Schema):
    """What one destination was told, or will be."""

    delivery_id = _text()
    destination = _text()
    status = _one_of(*(status.value for status in DeliveryStatus))
    outcome = _one_of(*(outcome.value for outcome in Outcome), allow_none=True)
    reason = _text(allow_none=True)
    attempts = _count()
    next_attempt_at = _time(allow_none=True)
    vendor_reference = _text(allow_none=True)
    updated_at = _time()


class EventSchema(Schema):
    """An accepted event without personal values; `complete` once fanned out and every delivery is final."""

    event_id = _text()
    source = _text()
    subject_key = _text()
    purpose = _text()
    state = _one_of(*(state.value for state in State))
    event_time = _time()
    order_time = _time()
    received_at = _time()
    status = _one_of(*EVENT_STATUSES)
    superseded_by = _text(allow_none=True)
    complete = fields.Boolean(required=True)
    deliveries = fields.List(fields.Nested(DeliverySchema), required=True)


class ToldSchema(Schema):
    """What a destination was told last for a purpose, and where the delivery of the newest word stands; null for what never was, or does not go there."""

    destination = _text()
    told = _one_of(*(state.value for state in State), allow_none=True)
    told_at = _time(allow_none=True)
    event_id = _text(allow_none=True)
    status = _one_of(*(status.value for status in DeliveryStatus), allow_none=True)
    reason = _text(allow_none=True)
    next_attempt_at = _time(allow_none=True)


class StandingSchema(Schema):
    """The newest word of a person on a purpose; `source` is null where its event is no longer kept."""

    purpose = _text()
    state = _one_of(*(state.value for state in State))
    order_time = _time()
    event_id = _text()
    source = _text(allow_none=True)
    destinations = fields.List(fields.Nested(ToldSchema), required=True)


class SubjectStatusSchema(Schema):
    """What holds for a person, purpose by purpose, without personal values."""

    subject_key = _text()
    purposes = fields.List(fields.Nested(StandingSchema), required=True)


class DeadLetterSchema(Schema):
    """A delivery that will not go by itself any more."""

    delivery_id = _text()
    event_id = _text()
    destination = _text()
    state = _one_of(*(state.value for state in State))
    outcome = _one_of(*(outcome.value for outcome in Outcome))
    reason = _text()
    attempts = _count()
    died_at = _time()


class DeadLetterGroupSchema(Schema):
    """How many died of one cause."""

    destination = _text()
    state = _one_of(*(state.value for state in State))
    reason = _text()
    count = _count()


class DeadLetterPageSchema(Schema):
    """One page of dead letters and the counts of all that match; `next_cursor` is null on the last page."""

    items = fields.List(fields.Nested(DeadLetterSchema), required=True)
    groups = fields.List(fields.Nested(DeadLetterGroupSchema), required=True)
    next_cursor = _text(allow_none=True)


class NotReplayedSchema(Schema):
    """A dead letter that stays as it is, and why (consent changed since, for one)."""

    delivery_id = _text()
    reason = _text()


class ReplayAnswerSchema(Schema):
    """What was, or with `dry_run` would be, sent again, and what was not."""

    dry_run = fields.Boolean(required=True)
    replayed = fields.List(fields.String(), required=True)
    not_replayed = fields.List(fields.Nested(NotReplayedSchema), required=True)


class ProofSchema(Schema):
    """A proof: sections in the terms of ISO/IEC TS 27560, and the records, chains and roots that they are made of; docs/proof.md says how it is checked."""

    context = fields.Dict(required=True, data_key="@context")
    type = fields.String(required=True, data_key="@type")
    record_metadata = fields.Dict(required=True)
    pii_principal = fields.Dict(required=True)
    pii_processing = fields.Dict(required=True)
    party_identification = fields.List(fields.Dict(), required=True)
    events = fields.List(fields.Dict(), required=True)
    labels = fields.Dict(required=True)
    evidence = fields.Dict(required=True)
