"""Maileon's requests and refusals: what every call shares, the form of the key, and the calls that unsubscribe; no I/O."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import quote

from pipeline.domain import Instruction, Outcome, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import base
from pipeline.vendors.base import Step, VendorRequest, VendorResponse

MEDIA_TYPE: Final = "application/vnd.maileon.api+xml"
READ_HEADERS: Final = (("accept", MEDIA_TYPE),)
HEADERS: Final = (("content-type", f"{MEDIA_TYPE}; charset=utf-8"), *READ_HEADERS)


def login_of(api_key: str, key_form: str) -> str:
    """What follows `Basic`: the key encoded exactly once, whichever way it was given."""
    try:
        plain = base64.b64decode(api_key, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        plain = ""
    is_encoded = len(plain) >= 8 and plain.isprintable()
    if key_form not in {"raw", "encoded"}:
        raise ConfigurationError("option 'key_form' must be raw or encoded")
    if re.search(r"\s", api_key) or is_encoded != (key_form == "encoded"):
        found = "is already encoded; expected 'key_form': encoded" if is_encoded else "is not encoded; expected 'key_form': raw"
        raise ConfigurationError(
            "credential 'api_key' must be the key alone, without 'Basic' and blanks" if " " in api_key else f"credential 'api_key' {found}"
        )
    return api_key if is_encoded else base64.b64encode(api_key.encode()).decode()


def path_of(subject: Subject) -> str:
    return f"/contacts/email/{quote(subject.email, safe='')}" if subject.email else f"/contacts/externalid/{quote(subject.external_id or '', safe='')}"


def get(operation: str, path: str) -> VendorRequest:
    return VendorRequest(operation=operation, method="GET", path=path, headers=READ_HEADERS)


def is_foreign(response: VendorResponse) -> bool:
    """Whether an answer has a body that is not Maileon's XML, whole or cut: a proxy's, or another service's at a wrong address."""
    start = response.body[:200].strip().lower()
    return bool(start) and (not start.startswith(b"<") or b"<!doctype" in start or b"<html" in start)


def refusal_of(response: VendorResponse, verb: str) -> VendorResult | None:
    """Plain HTTP, with the right that the key lacks; a 404 that nothing explains comes from a wrong address, so nobody was told."""
    if response.status == 403:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason=f"http_403_{verb}")
    if response.status == 404:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason=f"http_404_{verb}")
    return base.refusal(response)


def unsubscribe(instruction: Instruction, path: str) -> Step:
    response = yield VendorRequest(operation="unsubscribe", method="DELETE", path=f"{path}/unsubscribe", headers=READ_HEADERS)
    if is_foreign(response) and response.status < 400:
        return refusal_of(response, "delete") or base.unreadable()
    is_unknown = response.status == 404 and not is_foreign(response)
    if not is_unknown and (refused := refusal_of(response, "delete")):
        return refused
    done = VendorResult(outcome=Outcome.UNCHANGED if is_unknown else Outcome.APPLIED)
    if not instruction.subject.email:
        return done
    response = yield VendorRequest(operation="set_marker", method="PUT", path=f"{path}/unsubscription", headers=HEADERS)
    if response.status == 404:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason="http_404_put")
    refused = refusal_of(response, "put") or (base.unreadable() if is_foreign(response) else None)
    return refused or (VendorResult(outcome=Outcome.APPLIED) if response.status == 201 else done)
