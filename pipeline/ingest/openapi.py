"""The OpenAPI 3.1 document, made from the same schemas that read events and check answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

from pipeline import VERSION
from pipeline.answers import AcceptedSchema, BatchSchema, DeadLetterPageSchema, EventSchema, ProblemSchema, ProofSchema, ReplayAnswerSchema, SubjectStatusSchema
from pipeline.domain import IDENTIFIER_KINDS
from pipeline.ingest import examples
from pipeline.ingest.problems import BY_STATUS, MEDIA_TYPE, Kind, Problem
from pipeline.ingest.queries import PageSchema, ReplayRequestSchema, SubjectRequestSchema
from pipeline.schemas import ConsentEventSchema

Json = dict[str, Any]

DESCRIPTION: Final = """\
Post consent events here; every destination they concern is told, withdrawals first, and a `202` means that the event is durable.
The same event may be sent again at any time: it is recognised and answered `duplicate`.
Every refusal is a problem document (RFC 9457) whose `errors` name each wrong field, parameter or header by its path.
Whatever needs no key answers `HEAD` as it answers `GET`.
"""
READ: Final = {"Bearer": ["read"]}
INGEST: Final = {"Bearer": ["ingest"]}
REPLAY: Final = {"Bearer": ["replay"]}
SIGNED: Final[Mapping[str, Sequence[str]]] = {"WebhookId": [], "WebhookTimestamp": [], "WebhookSignature": []}
POST_REFUSALS: Final = (400, 401, 403, 408, 413, 415, 422, 429, 503)


class ReadinessSchema(Schema):
    """Whether events can be taken and work progresses, and what stands in the way."""

    ready = fields.Boolean(required=True)
    problems = fields.List(fields.String(), required=True)
    notices = fields.List(fields.String(), metadata={"description": "What operators should know though events can be taken."})


class ReplayReportSchema(ReplayAnswerSchema):
    """What was, or with `dry_run` would be, sent again, what was not and why, and whether more is left for another call."""

    more = fields.Boolean(required=True)


COMPONENTS: Final[Mapping[str, type[Schema]]] = {
    "ConsentEvent": ConsentEventSchema,
    "Accepted": AcceptedSchema,
    "BatchAnswer": BatchSchema,
    "Event": EventSchema,
    "Proof": ProofSchema,
    "SubjectRequest": SubjectRequestSchema,
    "SubjectStatus": SubjectStatusSchema,
    "DeadLetterPage": DeadLetterPageSchema,
    "ReplayRequest": ReplayRequestSchema,
    "ReplayAnswer": ReplayReportSchema,
    "Problem": ProblemSchema,
    "Readiness": ReadinessSchema,
}


def build_document() -> Json:
    """The whole document as JSON material; built once per process."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        "Consent Relay", VERSION, "3.1.0", plugins=[plugin], info={"description": DESCRIPTION, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}}
    )
    for name, schema in COMPONENTS.items():
        spec.components.schema(name, {"description": (schema.__doc__ or "").strip()}, schema=schema)
    _security(spec)
    for kind in Kind:
        spec.components.response(f"Problem{kind.status}", _problem_response(kind))
    for path, operations in _paths(plugin).items():
        spec.path(path, operations=operations)
    document = spec.to_dict()
    document["tags"] = [{"name": name} for name in ("Events", "Proofs", "Sources", "Subjects", "Dead letters", "Operations")]
    _close(document["components"]["schemas"])
    return document


def _security(spec: APISpec) -> None:
    bearer = {"type": "http", "scheme": "bearer", "description": "A key of a source, with the scopes `ingest`, `read` or `replay`."}
    spec.components.security_scheme("Bearer", bearer)
    for name in ("id", "timestamp", "signature"):
        described = f"`webhook-{name}` of a Standard Webhooks signature, for sources that have a signing secret; at most five minutes old."
        spec.components.security_scheme(f"Webhook{name.title()}", {"type": "apiKey", "in": "header", "name": f"webhook-{name}", "description": described})


def _close(schemas: Json) -> None:
    """Say what no field says for itself: unknown ones are refused in everything that is read, and which of them there must be."""
    for name in ("ConsentEvent", "Subject", "Profile", "Evidence", "ReplayRequest", "Filter", "SubjectRequest"):
        if name in schemas:
            schemas[name]["additionalProperties"] = False
    schemas["ReplayRequest"]["oneOf"] = [{"required": ["ids"]}, {"required": ["filter"]}]
    schemas["Subject"]["anyOf"] = [{"required": [kind]} for kind in IDENTIFIER_KINDS]


def _paths(plugin: MarshmallowPlugin) -> dict[str, dict[str, Json]]:
    return {**_event_paths(), **_proof_paths(), **_source_paths(), **_subject_paths(), **_dead_letter_paths(plugin), **_operation_paths()}


def _event_paths() -> dict[str, dict[str, Json]]:
    single = _operation("postEvent", "Events", "Post one consent event", [INGEST], {202: _accepted(), **_refusals(*POST_REFUSALS, 409)})
    single["requestBody"] = _request({"application/json": ("ConsentEvent", examples.EVENT)})
    batch = _operation("postBatch", "Events", "Post up to 5,000 consent events", [INGEST], {**_batch_answers(), **_refusals(*POST_REFUSALS)})
    batch["description"] = "A JSON array, or NDJSON with one event on each line. Good events are accepted even if others are refused (207)."
    batch["requestBody"] = {"required": True, "content": {**_array(), "application/x-ndjson": {"schema": {"type": "string"}, "example": examples.NDJSON}}}
    event = _operation(
        "getEvent",
        "Events",
        "See one event and its deliveries",
        [READ],
        {200: _json("The event", "Event", examples.EVENT_VIEW), **_refusals(401, 403, 404, 429, 503)},
    )
    event["parameters"] = [_in_path("event_id", "As answered when the event was posted.")]
    return {"/v1/consent-events": {"post": single}, "/v1/consent-events/batch": {"post": batch}, "/v1/consent-events/{event_id}": {"get": event}}


def _proof_paths() -> dict[str, dict[str, Json]]:
    answers = {200: _proof(), **_refusals(401, 403, 404, 429, 503)}
    event = _operation("getEventProof", "Proofs", "Prove what was done with one event", [READ], answers)
    event["parameters"] = [_in_path("event_id", "As answered when the event was posted.")]
    subject = _operation("postSubjectProof", "Proofs", "Prove everything about a person", [READ], {**answers, **_refusals(*POST_REFUSALS)})
    subject["requestBody"] = _request({"application/json": ("SubjectRequest", {"subject": {"email": "ana@example.com"}})})
    subject["description"] = "The person is named in the body, since addresses end up in logs. Records of other sources are there by their hash only."
    return {"/v1/consent-events/{event_id}/proof": {"get": event}, "/v1/subjects/proof": {"post": subject}}


def _proof() -> Json:
    """The document, or the page of it for whoever asks for HTML."""
    found = _json("The proof", "Proof", examples.PROOF)
    found["content"]["text/html"] = {"schema": {"type": "string"}}
    return found


def _source_paths() -> dict[str, dict[str, Json]]:
    answers = {**_batch_answers(_accepted()["content"]["application/json"]), **_refusals(*POST_REFUSALS, 409)}
    body = {
        "required": True,
        "description": "The source's own body, as its system sends it; a native source posts native events.",
        "content": {"*/*": {"schema": {}}},
    }
    own = _operation("postSource", "Sources", "Post a source's own body", [INGEST, SIGNED], answers)
    own |= {"parameters": [_in_path("source", "The source's name.")], "requestBody": body}
    own["description"] = "A body of one event is answered as one event, a list as a batch. A signed list of more than 1 MiB must declare its length."
    keyed = _operation("postSourceAddress", "Sources", "Post to an address that carries its key", [], answers)
    keyed |= {
        "requestBody": body,
        "description": "For senders that can set no header. The key in the address is a secret; a source that has a signing secret signs as well.",
    }
    probe = _operation("probeSourceAddress", "Sources", "Probe an address", [], {200: {"description": "The address is right"}, **_refusals(401, 403)})
    parameters = [_in_path("source", "The source's name."), _in_path("url_key", "The key in the address.")]
    return {
        "/v1/sources/{source}": {"post": own},
        "/v1/sources/{source}/{url_key}": {"post": {**keyed, "parameters": parameters}, "get": {**probe, "parameters": parameters}},
    }


def _subject_paths() -> dict[str, dict[str, Json]]:
    status = _operation(
        "subjectStatus",
        "Subjects",
        "See what holds for a person",
        [READ],
        {200: _json("Purpose by purpose", "SubjectStatus", examples.SUBJECT_STATUS), **_refusals(400, 401, 403, 408, 413, 415, 422, 429, 503)},
    )
    status["description"] = (
        "The person is named in the body, never in the address. A key without `all_sources` sees the purposes whose newest word came from its own source, "
        "and what destinations were told of that source's events."
    )
    status["requestBody"] = _request({"application/json": ("SubjectRequest", examples.SUBJECT)})
    return {"/v1/subjects/status": {"post": status}}


def _dead_letter_paths(plugin: MarshmallowPlugin) -> dict[str, dict[str, Json]]:
    page = _operation(
        "listDeadLetters",
        "Dead letters",
        "List what was given up",
        [READ],
        {200: _json("A page", "DeadLetterPage", examples.DEAD_LETTERS), **_refusals(401, 403, 422, 429, 503)},
    )
    page["parameters"] = plugin.converter.schema2parameters(PageSchema, location="query") if plugin.converter else []
    again = _operation(
        "replayDeadLetters",
        "Dead letters",
        "Send dead letters again",
        [REPLAY],
        {200: _json("What was done", "ReplayAnswer", examples.REPLAYED), **_refusals(*POST_REFUSALS)},
    )
    again["requestBody"] = _request({"application/json": ("ReplayRequest", examples.REPLAY)})
    again["description"] = "The standing is checked again: what consent has overtaken is not sent. With `dry_run` nothing is changed."
    return {"/v1/dead-letters": {"get": page}, "/v1/dead-letters/replay": {"post": again}}


def _operation_paths() -> dict[str, dict[str, Json]]:
    live = _operation("live", "Operations", "Is the process alive", [], {200: {"description": "It answers"}})
    ready_answers = {
        200: _json("Events can be taken", "Readiness", {"ready": True, "problems": []}),
        503: _json("They cannot", "Readiness", examples.NOT_READY),
    }
    ready = _operation("ready", "Operations", "Can events be taken, does work progress", [], {**ready_answers, **_refusals(429)})
    text = {"description": "Figures", "content": {"text/plain": {"schema": {"type": "string"}, "example": "consent_unaccounted 0.0\n"}}}
    metrics = _operation("metrics", "Operations", "Figures for Prometheus", [], {200: text, **_refusals(429, 503)})
    document = _operation(
        "openapi", "Operations", "This document", [], {200: {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}}
    )
    page = _operation(
        "docs", "Operations", "This document as a page", [], {200: {"description": "A page", "content": {"text/html": {"schema": {"type": "string"}}}}}
    )
    gets = {"/health/live": live, "/health/ready": ready, "/metrics": metrics, "/openapi.json": document, "/docs": page}
    return {path: {"get": operation} for path, operation in gets.items()}


def _operation(name: str, tag: str, summary: str, security: Sequence[Mapping[str, Sequence[str]]], answers: Mapping[int, Any]) -> Json:
    every = {**answers, **_refusals(500)}
    responses = {str(status): every[status] for status in sorted(every)}
    return {"operationId": name, "tags": [tag], "summary": summary, "security": list(security), "responses": responses}


def _refusals(*statuses: int) -> dict[int, Any]:
    return {status: f"Problem{status}" for status in statuses}


def _problem_response(kind: Kind) -> Json:
    example = Problem(kind, examples.ERRORS.get(kind.status, ())).as_json()
    response: Json = {"description": kind.title, "content": {MEDIA_TYPE: {"schema": "Problem", "example": example}}}
    if kind in (BY_STATUS[429], BY_STATUS[503]):
        response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    if kind is Kind.UNAUTHENTICATED:
        response["headers"] = {"WWW-Authenticate": {"description": "How to say who is calling.", "schema": {"type": "string"}}}
    return response


def _json(description: str, schema: str, example: Any) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


def _accepted() -> Json:
    return _json("Durable; `duplicate` and `superseded` events are answered alike", "Accepted", examples.ACCEPTED)


def _batch_answers(single: Json | None = None) -> dict[int, Json]:
    batch = _ref("BatchAnswer")
    schema = {"oneOf": [_ref("Accepted"), batch]} if single else batch
    return {
        202: {"description": "All accepted", "content": {"application/json": {"schema": schema, "example": examples.BATCH_ACCEPTED}}},
        207: {
            "description": "Some refused, each named; the others accepted",
            "content": {"application/json": {"schema": batch, "example": examples.BATCH_PARTLY}},
        },
    }


def _array() -> Json:
    return {"application/json": {"schema": {"type": "array", "items": _ref("ConsentEvent"), "minItems": 1, "maxItems": 5000}, "example": [examples.EVENT]}}


def _request(content: Mapping[str, tuple[str, Any]]) -> Json:
    return {"required": True, "content": {media_type: {"schema": schema, "example": example} for media_type, (schema, example) in content.items()}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _in_path(name: str, description: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}
