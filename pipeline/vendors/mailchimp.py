"""Mailchimp Marketing API v3: one idempotent PUT for a member, or 500 members in one call to their list.

The bulk call answers 200 although members failed, and may silently leave an unsubscribed member as he is: only the status that comes back counts.
It cannot carry marketing permissions, so those go one by one. Documentation: https://mailchimp.com/developer/marketing/api/list-members/ (2026-11).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import quote

import orjson

from pipeline.domain import EMPTY, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import base
from pipeline.vendors.base import Capabilities, Held, Option, Rate, VendorRequest, VendorResponse

STATUS: Final = {State.GIVEN: "subscribed", State.WITHDRAWN: "unsubscribed"}
NOT_MAILED: Final = frozenset({"unsubscribed", "cleaned", "archived"})
COMPLIANCE_TITLE: Final = "member in compliance state"
MOST_MEMBERS: Final = 500
MOST_CALLS: Final = 4
KEPT_OUT: Final = VendorResult(outcome=Outcome.NOT_APPLICABLE, reason="withdrawn_for_another_purpose")
JSON_HEADERS: Final = (("content-type", "application/json"),)
# Without this a list with required merge fields refuses members that come without them, withdrawals included.
QUERY: Final = (("skip_merge_validation", "true"),)


@dataclass(slots=True)
class _Call:
    """What one request tells: to which list, and for each address the places of its instructions in the chunk."""

    list_id: str
    permission: str | None
    places: dict[str, list[int]] = field(default_factory=dict, repr=False)


class Adapter(base.Adapter):
    """Tells a Mailchimp audience who is subscribed; one status for each member, so a withdrawal stops all mail of that list."""

    title = "Mailchimp"
    docs_url = "https://mailchimp.com/developer/marketing/api/list-members/"
    base_url = "https://<dc>.api.mailchimp.com/3.0"
    credentials: ClassVar = {"api_key": Option(description="API key; what follows its last hyphen names the data centre", required=True)}
    options: ClassVar = {
        "list_id": Option(description="id of the audience", required=True),
        "marketing_permission_id": Option(description="id of the audience's marketing permission that stands for the purpose; members then go one by one"),
    }
    capabilities = Capabilities(scope="contact", reads_back=True, batch_size=MOST_MEMBERS, max_calls=MOST_CALLS)
    rate = Rate(concurrent=8)  # Ten connections for all programs of the account together, so two are left to others.
    timeout_seconds = 60.0  # Mailchimp itself works up to 120 s; a later answer counts as unknown and is told again.

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        if not base_url:
            centre = re.search(r"-([a-z]+[0-9]+)\Z", self._secrets["api_key"])
            if not centre:
                raise ConfigurationError("credential 'api_key' names no data centre (it ends in -us1 or the like), and there is no 'base_url'")
            self.address = self.base_url.replace("<dc>", centre[1])

    def batch_size(self) -> int:
        return 1 if self.settings["marketing_permission_id"] else MOST_MEMBERS

    def place_of(self, options: Mapping[str, Any]) -> str:
        return str(self.option(options, "list_id"))

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        """One call for each list, one for each member with a permission; what is more than four calls is handed back for the next dialogue."""
        later = VendorResult(outcome=Outcome.THROTTLED, reason="next_dialogue", retry_after_seconds=0.0)
        results = [later if instruction.subject.email else base.missing_identifier() for instruction in instructions]
        for call in self._calls(instructions)[:MOST_CALLS]:
            told = {email: _deciding([instructions[place] for place in places]) for email, places in call.places.items()}
            is_single = bool(call.permission) or len(instructions) == 1
            response = yield _put_member(call, told) if is_single else _post_members(call, told)
            refused = _refusal(response)
            reports = dict.fromkeys(told, _object(response)) if is_single else _by_email(_object(response))
            for email, places in call.places.items():
                state = told[email].state
                result = refused or (base.unreadable() if reports is None else _read_report(reports.get(email), state, call.permission))
                for place in places:
                    results[place] = result if instructions[place].state is state else KEPT_OUT
        return results

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """What the audience holds; a member who is only `pending` or `transactional` has said nothing yet."""
        if not subject.email:
            return Held(readable=False)
        response = yield VendorRequest(operation="get_member", method="GET", path=_member_path(self.option(options, "list_id"), subject.email))
        if response.status == 404:
            return Held()
        member = _object(response)
        if response.status != 200 or not isinstance(member.get("status"), str):
            return Held(readable=False)
        state = _held_state(member, self.option(options, "marketing_permission_id"))
        return Held(state=state, changed_at=_instant(member.get("last_changed")), vendor_reference=str(member.get("contact_id") or ""))

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        login = base64.b64encode(f"relay:{self._secrets['api_key']}".encode()).decode()
        return replace(request, headers=(*request.headers, ("authorization", f"Basic {login}")))

    def _calls(self, instructions: Sequence[Instruction]) -> list[_Call]:
        """Group by list; a person who is in the chunk twice is sent once, because Mailchimp takes the first and refuses the second."""
        calls: dict[tuple[str, ...], _Call] = {}
        for place, instruction in enumerate(instructions):
            email = (instruction.subject.email or "").lower()
            if email:
                list_id, permission = (self.option(instruction.options, name) for name in ("list_id", "marketing_permission_id"))
                call = calls.setdefault((list_id, permission, email) if permission else (list_id,), _Call(list_id, permission))
                call.places.setdefault(email, []).append(place)
        return list(calls.values())


def _deciding(said: Sequence[Instruction]) -> Instruction:
    """The word that holds for a member named more than once: a withdrawal, because one status stands for all purposes of a list."""
    return next((one for one in said if one.state is State.WITHDRAWN), said[-1])


def _put_member(call: _Call, told: Mapping[str, Instruction]) -> VendorRequest:
    ((email, instruction),) = told.items()
    member = {**_member(instruction), "status_if_new": STATUS[instruction.state]}
    if call.permission:
        member["marketing_permissions"] = [{"marketing_permission_id": call.permission, "enabled": instruction.state is State.GIVEN}]
    path = _member_path(call.list_id, email)
    return VendorRequest(operation="put_member", method="PUT", path=path, query=QUERY, headers=JSON_HEADERS, body=orjson.dumps(member))


def _post_members(call: _Call, told: Mapping[str, Instruction]) -> VendorRequest:
    body = orjson.dumps({"members": [_member(instruction) for instruction in told.values()], "update_existing": True})
    return VendorRequest(operation="post_members", path=f"/lists/{quote(call.list_id, safe='')}", query=QUERY, headers=JSON_HEADERS, body=body)


def _member(instruction: Instruction) -> dict[str, Any]:
    """A member as both calls take it, with the evidence of a consent."""
    member: dict[str, Any] = {"email_address": instruction.subject.email, "status": STATUS[instruction.state]}
    if instruction.state is State.GIVEN:
        member["timestamp_opt"] = instruction.event_time.astimezone(UTC).isoformat(timespec="seconds")
        if _is_address(instruction.evidence.get("ip", "")):
            member["ip_opt"] = instruction.evidence["ip"]
    return member


def _member_path(list_id: str, email: str) -> str:
    digest = hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()
    return f"/lists/{quote(list_id, safe='')}/members/{digest}"


def _refusal(response: VendorResponse) -> VendorResult | None:
    problem = response.json()
    if response.status == 403 and not isinstance(problem, dict):
        return VendorResult(outcome=Outcome.THROTTLED, reason="bare_403")
    if response.status == 404:
        # Both calls create the members they do not find, so it is the list that is missing: nobody was told.
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason="list_not_found")
    if response.status == 400 and isinstance(problem, dict) and str(problem.get("title", "")).lower() == COMPLIANCE_TITLE:
        return VendorResult(outcome=Outcome.REJECTED, reason="compliance_state")
    return base.refusal(response)


def _object(response: VendorResponse) -> dict[str, Any]:
    answer = response.json()
    return answer if isinstance(answer, dict) else {}


def _read_member(member: Mapping[str, Any], wanted: State, permission: str | None) -> VendorResult:
    """A member as it came back against what was told."""
    status = member.get("status")
    reference = str(member.get("contact_id") or "")  # Not `id`, which is a plain hash of the address.
    if not isinstance(status, str):
        return base.unreadable()
    if wanted is State.GIVEN and _permission(member, permission) is False:
        return VendorResult(outcome=Outcome.REJECTED, reason="permission_not_set")
    if status == STATUS[wanted]:
        return VendorResult(outcome=Outcome.APPLIED, vendor_reference=reference)
    if wanted is State.WITHDRAWN:
        done = status in NOT_MAILED
        return VendorResult(outcome=Outcome.UNCHANGED if done else Outcome.REJECTED, reason="" if done else "status_not_set", vendor_reference=reference)
    if status == "pending":
        return VendorResult(outcome=Outcome.PENDING_CONFIRMATION, vendor_reference=reference)
    return VendorResult(outcome=Outcome.REJECTED, reason="compliance_state")


def _by_email(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]] | None:
    """What the bulk answer says of each address, errors last; None if it is no bulk answer."""
    parts = [answer.get(name) for name in ("new_members", "updated_members", "errors")]
    if not all(isinstance(part, list) for part in parts):
        return None
    return {str(item.get("email_address", "")).lower(): item for part in parts for item in part or () if isinstance(item, dict)}


def _read_report(report: Mapping[str, Any] | None, wanted: State, permission: str | None) -> VendorResult:
    """The result of one member; one whom a bulk answer does not show was left as he is."""
    if report is None:
        return VendorResult(outcome=Outcome.REJECTED, reason="compliance_state") if wanted is State.GIVEN else base.unreadable()
    if not report.keys() & {"error", "error_code"}:
        return _read_member(report, wanted, permission)
    if "compliance state" in str(report.get("error", "")).lower():
        return VendorResult(outcome=Outcome.REJECTED, reason="compliance_state")
    exists = report.get("error_code") == "ERROR_CONTACT_EXISTS"
    return VendorResult(outcome=Outcome.REJECTED, reason="contact_exists" if exists else "member_refused")


def _held_state(member: Mapping[str, Any], permission: str | None) -> State | None:
    if member["status"] in NOT_MAILED:
        return State.WITHDRAWN
    if member["status"] != STATUS[State.GIVEN]:
        return None
    return State.GIVEN if _permission(member, permission) is not False else State.WITHDRAWN


def _permission(member: Mapping[str, Any], wanted: str | None) -> bool | None:
    """Whether a marketing permission is on; None if none is asked for or the answer does not show it."""
    shown = member.get("marketing_permissions")
    for permission in shown if wanted and isinstance(shown, list) else ():
        if isinstance(permission, dict) and permission.get("marketing_permission_id") == wanted:
            return bool(permission.get("enabled"))
    return None


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _instant(text: Any) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
