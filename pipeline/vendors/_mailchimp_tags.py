"""A Mailchimp tag as the consent: who has it has consented, as in the recipe that Privacy Tools gives its tenants; not a vendor of its own.

- A withdrawal takes the tag away before anything is looked at. Nobody is there to take it from if the member is missing (404), but the same 404 comes
  from a missing list, so the list is asked for before the withdrawal counts as told.
- A consent looks first. Who left the audience, or bounced, is not tagged: the tag would say that mail may flow which Mailchimp does not send. An archived
  member is not brought back, because his old tags would come back with him, and with them consents that were withdrawn meanwhile.
- Whoever left the whole audience has left everything in it, so he reads as withdrawn whatever his tags say.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final

import orjson

from pipeline.domain import Instruction, Outcome, State, VendorResult
from pipeline.vendors import base
from pipeline.vendors._mailchimp_members import (
    IN_COMPLIANCE,
    JSON_HEADERS,
    NOT_MAILED,
    STATUS,
    content,
    described,
    get_member,
    list_path,
    member_path,
    put_member,
    reference,
    refusal,
)
from pipeline.vendors.base import Step, VendorRequest, VendorResponse

MOST_CALLS: Final = {State.GIVEN: 3, State.WITHDRAWN: 2}
MOST_CHARACTERS: Final = 100
MOST_SHOWN: Final = 1_000
TRANSACTIONAL: Final = "transactional"
ARCHIVED: Final = "archived"
KEPT_ARCHIVED: Final = VendorResult(outcome=Outcome.REJECTED, reason="archived")
GONE: Final = VendorResult(outcome=Outcome.UNAVAILABLE, reason="member_gone")


def tell(instruction: Instruction, list_id: str, tag: str) -> Step:
    """Set or remove the tag of one member."""
    steps = {State.GIVEN: _give, State.WITHDRAWN: _withdraw}
    return (yield from steps[instruction.state](instruction, list_id, instruction.subject.email or "", tag))


def has_tag(member: Mapping[str, Any], list_id: str, email: str, tag: str) -> Generator[VendorRequest, VendorResponse, bool | None]:
    """Whether a member who was read has the tag; a member shows fifty, so for more they are asked for. None if it cannot be told."""
    shown, count = member.get("tags"), member.get("tags_count")
    if not isinstance(shown, list):
        return None
    if _is_among(shown, tag) or not isinstance(count, int) or count <= len(shown):
        return _is_among(shown, tag)
    path = f"{member_path(list_id, email)}/tags"
    response = yield VendorRequest(operation="get_tags", method="GET", path=path, query=(("count", str(MOST_SHOWN)),))
    shown = content(response).get("tags")
    return _is_among(shown, tag) if response.status == 200 and isinstance(shown, list) else None


def _withdraw(_instruction: Instruction, list_id: str, email: str, tag: str) -> Step:
    response = yield _post_tag(list_id, email, tag, "inactive")
    if response.status != 404:
        return _read_post(response)
    response = yield VendorRequest(operation="get_list", method="GET", path=list_path(list_id), query=(("fields", "id"),))
    if refused := refusal(response):
        return refused
    return VendorResult(outcome=Outcome.UNCHANGED) if content(response).get("id") == list_id else base.unreadable()


def _give(instruction: Instruction, list_id: str, email: str, tag: str) -> Step:
    response = yield get_member(list_id, email)
    member = content(response)
    if response.status == 404 or member.get("status") == TRANSACTIONAL:
        response = yield put_member(list_id, email, _new(instruction, member.get("status")))
        member = content(response)
    if refused := refusal(response):
        return refused
    status = member.get("status")
    if not isinstance(status, str):
        return base.unreadable()
    if status in NOT_MAILED:
        return KEPT_ARCHIVED if status == ARCHIVED else IN_COMPLIANCE
    told = Outcome.APPLIED if status == STATUS[State.GIVEN] else Outcome.PENDING_CONFIRMATION
    if _is_among(member.get("tags"), tag):
        return VendorResult(outcome=Outcome.UNCHANGED if told is Outcome.APPLIED else told, vendor_reference=reference(member))
    response = yield _post_tag(list_id, email, tag, "active")
    if response.status == 404:
        return GONE
    result = _read_post(response)
    return VendorResult(outcome=told, vendor_reference=reference(member)) if result.outcome is Outcome.APPLIED else result


def _new(instruction: Instruction, status: Any) -> dict[str, Any]:
    """A member to be made; one who unsubscribed since he was looked at stays so. A transactional one never said no, and is subscribed."""
    subscribed = STATUS[State.GIVEN]
    return {**described(instruction), **({"status": subscribed} if status == TRANSACTIONAL else {}), "status_if_new": subscribed}


def _post_tag(list_id: str, email: str, tag: str, status: str) -> VendorRequest:
    body = orjson.dumps({"tags": [{"name": tag, "status": status}], "is_syncing": False})
    return VendorRequest(operation="post_tags", path=f"{member_path(list_id, email)}/tags", headers=JSON_HEADERS, body=body)


def _read_post(response: VendorResponse) -> VendorResult:
    """204 without a body is the only success that is documented."""
    if response.status == 204:
        return VendorResult(outcome=Outcome.APPLIED)
    return refusal(response) or base.unreadable()


def _is_among(shown: Any, tag: str) -> bool:
    return isinstance(shown, list) and any(isinstance(one, dict) and one.get("name") == tag for one in shown)
