"""Webhook: any receiver that follows Standard Webhooks (https://www.standardwebhooks.com), one event a call or many.

`webhook-id` is the delivery's id and stays the same over retries, so a receiver can drop what it already has. Any 2xx means applied.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import orjson
from msgspec import structs

from pipeline.domain import EMPTY, IDENTIFIER_KINDS, Instruction, Outcome, State, VendorResult, format_time
from pipeline.errors import ConfigurationError
from pipeline.signatures import sign_standard_webhooks
from pipeline.vendors import base
from pipeline.vendors.base import Capabilities, Option, Rate, VendorRequest, VendorResponse

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the mark of the format, not a secret
MOST_EVENTS: Final = 1000
KEY_BYTES: Final = range(24, 65)
"""What Standard Webhooks allows."""


class Adapter(base.Adapter):
    """Posts signed events to one address."""

    title = "Webhook (Standard Webhooks)"
    docs_url = "https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"
    base_url = ""
    credentials: ClassVar = {"secret": Option(description="signing secret shared with the receiver: whsec_ and base64 of 24 to 64 bytes", required=True)}
    options: ClassVar = {"batch_size": Option(description=f"events in one call, 1 to {MOST_EVENTS}; above 1 the body is a consent.batch", default=1, type=int)}
    capabilities = Capabilities(identifiers=IDENTIFIER_KINDS, batch_size=MOST_EVENTS)
    rate = Rate(concurrent=16)

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        if not self.address:
            raise ConfigurationError("missing 'base_url': the address that a webhook is posted to")
        if not 1 <= self.settings["batch_size"] <= MOST_EVENTS:
            raise ConfigurationError(f"option 'batch_size' must be from 1 to {MOST_EVENTS}")
        self._key = _decode(self._secrets["secret"])

    def batch_size(self, state: State) -> int:  # noqa: ARG002 (the same for both)
        return int(self.settings["batch_size"])

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        """One call for all; without any identifier there is nothing to tell a receiver."""
        usable = [instruction for instruction in instructions if instruction.subject.identifiers()]
        if not usable:
            return [base.missing_identifier() for _ in instructions]
        if self.settings["batch_size"] == 1:
            results = []
            for instruction in usable:
                response = yield _post("post_event", instruction.delivery_id, _event(instruction))
                results.append(_read(response))
        else:
            response = yield _post("post_batch", _batch_id(usable), _batch(usable))
            results = [_read(response)] * len(usable)
        told = iter(results)
        return [next(told) if instruction.subject.identifiers() else base.missing_identifier() for instruction in instructions]

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        signed = sign_standard_webhooks(self._key, dict(request.headers)["webhook-id"], request.body, int(request.sent_at or time.time()))
        return structs.replace(request, headers=(*request.headers, *signed))


def _event(instruction: Instruction) -> dict[str, Any]:
    return {"type": f"consent.{instruction.state}", "timestamp": format_time(instruction.event_time), "data": _data(instruction)}


def _batch(instructions: Sequence[Instruction]) -> dict[str, Any]:
    newest = max(instruction.event_time for instruction in instructions)
    return {"type": "consent.batch", "timestamp": format_time(newest), "data": [_data(instruction) for instruction in instructions]}


def _data(instruction: Instruction) -> dict[str, Any]:
    return {
        "event_id": instruction.event_id,
        "subject": instruction.subject.identifiers(),
        "purpose": instruction.purpose,
        "state": instruction.state,
        "event_time": format_time(instruction.event_time),
    }


def _batch_id(instructions: Sequence[Instruction]) -> str:
    """The same for the same deliveries, however often and in whatever order they are sent."""
    joined = "\n".join(sorted(instruction.delivery_id for instruction in instructions))
    return f"batch-{hashlib.sha256(joined.encode()).hexdigest()[:32]}"


def _post(operation: str, message_id: str, body: Mapping[str, Any]) -> VendorRequest:
    return VendorRequest(operation=operation, headers=(("content-type", "application/json"), ("webhook-id", message_id)), body=orjson.dumps(body))


def _read(response: VendorResponse) -> VendorResult:
    if response.status == 410:
        return VendorResult(outcome=Outcome.REJECTED, reason="gone")
    return base.refusal(response) or VendorResult(outcome=Outcome.APPLIED)


def _decode(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True) if secret.startswith(SECRET_PREFIX) else b""
    except binascii.Error:
        key = b""
    if len(key) not in KEY_BYTES:
        raise ConfigurationError("credential 'secret' must be whsec_ followed by the base64 of 24 to 64 bytes")
    return key
