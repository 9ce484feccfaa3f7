"""`/v1/subjects/status`: what holds for a person, who is named in the body because an address may be logged."""

from __future__ import annotations

from typing import Any

import falcon.asgi

from pipeline.domain import Subject
from pipeline.errors import FieldError, InvalidInput, shown_name
from pipeline.identifiers import normalise_subject
from pipeline.ingest.body import media_type_of, read_body
from pipeline.ingest.resources_dead_letters import own_only
from pipeline.ingest.services import Services, answer_json
from pipeline.schemas import JSON_TYPES, read_json


class SubjectStatus:
    """`POST /v1/subjects/status`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        services = self._services
        source = services.doorkeeper.caller(request, "read")
        media_type_of(request, JSON_TYPES)
        body = await read_body(request, cap_bytes=services.limits.max_body_bytes, timeout_seconds=services.limits.body_timeout_seconds)
        subject = read_subject(read_json(body), source.country)
        answer_json(response, 200, await services.reads.run(services.ledger.subject, subject, own_only(source)))


def read_subject(document: Any, default_country: str | None) -> Subject:
    """The person that `{"subject": {...}}` names; raises InvalidInput by path."""
    if not isinstance(document, dict):
        raise InvalidInput([FieldError("", "must be an object")])
    errors = [FieldError(shown_name(name), "unknown field") for name in document if name != "subject"]
    if not isinstance(document.get("subject"), dict):
        errors.append(FieldError("subject", "must be an object with at least one identifier"))
    if errors:
        raise InvalidInput(errors)
    return normalise_subject(document["subject"], default_country=default_country)
