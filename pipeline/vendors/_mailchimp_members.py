"""What a member of a Mailchimp audience is written and read as, whether the relay tells his status or a tag of his; not a vendor of its own."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final
from urllib.parse import quote

import orjson

from pipeline.domain import Instruction, Outcome, State, VendorResult
from pipeline.vendors import base
from pipeline.vendors.base import VendorRequest, VendorResponse

STATUS: Final = {State.GIVEN: "subscribed", State.WITHDRAWN: "unsubscribed"}
NOT_MAILED: Final = frozenset({"unsubscribed", "cleaned", "archived"})
COMPLIANCE_TITLE: Final = "member in compliance state"
IN_COMPLIANCE: Final = VendorResult(outcome=Outcome.REJECTED, reason="compliance_state")
JSON_HEADERS: Final = (("content-type", "application/json"),)
# Without this a list with required merge fields refuses members that come without them, withdrawals included.
QUERY: Final = (("skip_merge_validation", "true"),)


def list_path(list_id: str) -> str:
    return f"/lists/{quote(list_id, safe='')}"


def member_path(list_id: str, email: str) -> str:
    """By the MD5 of the address, the only name that every call on a member takes."""
    digest = hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()
    return f"{list_path(list_id)}/members/{digest}"


def get_member(list_id: str, email: str) -> VendorRequest:
    return VendorRequest(operation="get_member", method="GET", path=member_path(list_id, email))


def put_member(list_id: str, email: str, member: Mapping[str, Any]) -> VendorRequest:
    path = member_path(list_id, email)
    return VendorRequest(operation="put_member", method="PUT", path=path, query=QUERY, headers=JSON_HEADERS, body=orjson.dumps(member))


def described(instruction: Instruction) -> dict[str, Any]:
    """A member as every call takes him, with the evidence of a consent."""
    member: dict[str, Any] = {"email_address": instruction.subject.email}
    if instruction.state is State.GIVEN:
        member["timestamp_opt"] = instruction.event_time.astimezone(UTC).isoformat(timespec="seconds")
        if is_address(instruction.evidence.get("ip", "")):
            member["ip_opt"] = instruction.evidence["ip"]
    return member


def refusal(response: VendorResponse) -> VendorResult | None:
    """Plain HTTP with Mailchimp's own words; the calls on lists create the members they do not find, so a 404 means that the list is missing."""
    problem = response.json()
    if response.status == 403 and not isinstance(problem, dict):
        return VendorResult(outcome=Outcome.THROTTLED, reason="bare_403")
    if response.status == 404:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason="list_not_found")
    if response.status == 400 and isinstance(problem, dict) and str(problem.get("title", "")).lower() == COMPLIANCE_TITLE:
        return IN_COMPLIANCE
    return base.refusal(response)


def content(response: VendorResponse) -> dict[str, Any]:
    """The object that an answer holds; empty if it holds none."""
    answer = response.json()
    return answer if isinstance(answer, dict) else {}


def reference(member: Mapping[str, Any]) -> str:
    """Not `id`, which is a plain hash of the address."""
    return str(member.get("contact_id") or "")


def is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False
