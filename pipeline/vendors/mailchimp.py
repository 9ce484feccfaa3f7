"""Mailchimp Marketing API v3: one idempotent PUT for a member, 500 members in one call to their list, or a tag for each purpose; heard by webhooks.

The bulk call answers 200 although members failed, and may silently leave an unsubscribed member as he is: only the status that comes back counts.
It cannot carry marketing permissions, so those go one by one. Documentation: https://mailchimp.com/developer/marketing/api/list-members/ (2026-11).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import orjson
from msgspec import structs

from pipeline import signatures
from pipeline.domain import EMPTY, IncomingEvent, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, FieldError, InvalidInput
from pipeline.vendors import _mailchimp_members as members
from pipeline.vendors import _mailchimp_tags as tags
from pipeline.vendors import _mailchimp_webhooks as webhooks
from pipeline.vendors import base
from pipeline.vendors._mailchimp_members import IN_COMPLIANCE, NOT_MAILED, STATUS
from pipeline.vendors.base import Capabilities, Held, Option, Rate, VendorRequest, VendorResponse

MOST_MEMBERS: Final = 500
MOST_CALLS: Final = 4
KEPT_OUT: Final = VendorResult(outcome=Outcome.NOT_APPLICABLE, reason="withdrawn_for_another_purpose")
LATER: Final = VendorResult(outcome=Outcome.THROTTLED, reason="next_dialogue", retry_after_seconds=0.0)
SIGNATURE_HEADER: Final = "x-mailchimp-signature"
OLDEST_SIGNATURE_SECONDS: Final = 4800
"""Beyond the 75 minutes for which Mailchimp tries again, as it does not say whether each try is signed anew: a withdrawal that waited for us must not be refused for its age.
A replay within that time is harmless: it says the same of the same second, so it is a duplicate, and a changed body fits no signature."""


@dataclass(slots=True)
class _Call:
    """What is told together: to which list, and for each address the places of its instructions in the chunk; a permission or tag is one person's."""

    list_id: str
    permission: str | None
    tag: str | None
    places: dict[str, list[int]] = field(default_factory=dict, repr=False)

    @property
    def is_single(self) -> bool:
        return bool(self.permission or self.tag)


class Adapter(base.Adapter):
    """Tells a Mailchimp audience who is subscribed, one status for each member, so that a withdrawal stops all mail of that list; or who has a tag."""

    title = "Mailchimp"
    docs_url = "https://mailchimp.com/developer/marketing/api/list-members/"
    base_url = "https://<dc>.api.mailchimp.com/3.0"
    credentials: ClassVar = {"api_key": Option(description="API key; what follows its last hyphen names the data centre", required=True)}
    options: ClassVar = {
        "list_id": Option(description="id of the audience", required=True),
        "marketing_permission_id": Option(description="id of the audience's marketing permission that stands for the purpose; members then go one by one"),
        "tag": Option(description="name of the tag whose presence is the consent, instead of the status; members then go one by one"),
    }
    # The state is a list's or a tag's: purposes that share one share its state, others do not touch each other (`place_of`).
    capabilities = Capabilities(scope="contact", reads_back=True, sends_events=True, batch_size=MOST_MEMBERS, max_calls=MOST_CALLS)
    probes = ("audience",)
    rate = Rate(concurrent=8)  # Ten connections for all programs of the account together, so two are left to others.
    timeout_seconds = 60.0  # Mailchimp itself works up to 120 s; a later answer counts as unknown and is told again.

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        if not base_url:
            centre = re.search(r"-([a-z]+[0-9]+)\Z", self._secrets["api_key"])
            if not centre:
                raise ConfigurationError("credential 'api_key' names no data centre (it ends in -us1 or the like), and there is no 'base_url'")
            self.address = self.base_url.replace("<dc>", centre[1])
        if self.settings["tag"] and self.settings["marketing_permission_id"]:
            raise ConfigurationError("option 'tag' excludes 'marketing_permission_id': one of them is the consent")
        if len(self.settings["tag"] or "") > tags.MOST_CHARACTERS:
            raise ConfigurationError(f"option 'tag' must have at most {tags.MOST_CHARACTERS} characters")

    def batch_size(self, state: State) -> int:  # noqa: ARG002 (the same for both)
        return 1 if self.settings["marketing_permission_id"] or self.settings["tag"] else MOST_MEMBERS

    def place_of(self, options: Mapping[str, Any]) -> str:
        tag = self.option(options, "tag")
        return f"{self.option(options, 'list_id')} {tag}" if tag else str(self.option(options, "list_id"))

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        """One call for each list, or for each member with a permission or a tag; what is more than four requests is handed back for the next dialogue."""
        results = [LATER if instruction.subject.email else base.missing_identifier() for instruction in instructions]
        requests_left = MOST_CALLS
        for call in self._calls(instructions):
            told = {email: _deciding([instructions[place] for place in places]) for email, places in call.places.items()}
            most = max(tags.MOST_CALLS[instruction.state] for instruction in told.values()) if call.tag else 1
            if most > requests_left:
                continue
            requests_left -= most
            reports = yield from _tell_together(call, told, is_single=call.is_single or len(instructions) == 1)
            for email, places in call.places.items():
                for place in places:
                    results[place] = reports[email] if instructions[place].state is told[email].state else KEPT_OUT
        return results

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """What the audience holds; a member who is only `pending` or `transactional` has said nothing yet."""
        if not subject.email:
            return Held(readable=False)
        list_id, tag = str(self.option(options, "list_id")), self.option(options, "tag")
        response = yield members.get_member(list_id, subject.email)
        if response.status == 404:
            return Held()
        member = members.content(response)
        if response.status != 200 or not isinstance(member.get("status"), str):
            return Held(readable=False)
        state = _held_state(member, self.option(options, "marketing_permission_id"))
        if tag and state is State.GIVEN:
            is_tagged = yield from tags.has_tag(member, list_id, subject.email, tag)
            if is_tagged is None:
                return Held(readable=False)
            state = State.GIVEN if is_tagged else State.WITHDRAWN
        return Held(state=state, changed_at=_instant(member.get("last_changed")), vendor_reference=members.reference(member))

    @classmethod
    def hear(cls, notification: base.Notification, source: base.SourceSettings) -> Sequence[IncomingEvent | InvalidInput]:
        """One webhook of an audience; the source's `purposes` tie ids of audiences to purposes."""
        return webhooks.read(notification, source)

    @classmethod
    def signature_error(cls, secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> FieldError | None:
        return signatures.timed_hex(SIGNATURE_HEADER, secret, headers, body, now, oldest_seconds=OLDEST_SIGNATURE_SECONDS)

    def probe(self, options: Mapping[str, Any]) -> base.ProbeDialogue:
        """The audience by its id, which needs the key and the list."""
        path = members.list_path(str(self.option(options, "list_id")))
        response = yield VendorRequest(operation="get_list", method="GET", path=path, query=(("fields", "id"),))
        refused = members.refusal(response) or (None if isinstance(members.content(response).get("id"), str) else base.unreadable())
        return [refused or VendorResult(outcome=Outcome.UNCHANGED)]

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        login = base64.b64encode(f"relay:{self._secrets['api_key']}".encode()).decode()
        return structs.replace(request, headers=(*request.headers, ("authorization", f"Basic {login}")))

    def _calls(self, instructions: Sequence[Instruction]) -> list[_Call]:
        """Group by list; a person who is in the chunk twice is sent once, because Mailchimp takes the first and refuses the second."""
        calls: dict[tuple[str, ...], _Call] = {}
        for place, instruction in enumerate(instructions):
            email = (instruction.subject.email or "").lower()
            if email:
                call = _Call(*(self.option(instruction.options, name) for name in ("list_id", "marketing_permission_id", "tag")))
                key = (call.list_id, call.permission or "", call.tag or "", email) if call.is_single else (call.list_id,)
                calls.setdefault(key, call).places.setdefault(email, []).append(place)
        return list(calls.values())


def _deciding(said: Sequence[Instruction]) -> Instruction:
    """The word that holds for a member named more than once: a withdrawal, because one status stands for all purposes of a list."""
    return next((one for one in said if one.state is State.WITHDRAWN), said[-1])


def _tell_together(call: _Call, told: Mapping[str, Instruction], *, is_single: bool) -> Generator[VendorRequest, VendorResponse, dict[str, VendorResult]]:
    """The result of each address of one call."""
    if call.tag:
        ((email, instruction),) = told.items()
        return {email: (yield from tags.tell(instruction, call.list_id, call.tag))}
    response = yield _put_member(call, told) if is_single else _post_members(call, told)
    if refused := members.refusal(response):
        return dict.fromkeys(told, refused)
    reports = dict.fromkeys(told, members.content(response)) if is_single else _by_email(members.content(response))
    if reports is None:
        return dict.fromkeys(told, base.unreadable())
    return {email: _read_report(reports.get(email), instruction.state, call.permission) for email, instruction in told.items()}


def _put_member(call: _Call, told: Mapping[str, Instruction]) -> VendorRequest:
    ((email, instruction),) = told.items()
    member = {**_member(instruction), "status_if_new": STATUS[instruction.state]}
    if call.permission:
        member["marketing_permissions"] = [{"marketing_permission_id": call.permission, "enabled": instruction.state is State.GIVEN}]
    return members.put_member(call.list_id, email, member)


def _post_members(call: _Call, told: Mapping[str, Instruction]) -> VendorRequest:
    body = orjson.dumps({"members": [_member(instruction) for instruction in told.values()], "update_existing": True})
    return VendorRequest(operation="post_members", path=members.list_path(call.list_id), query=members.QUERY, headers=members.JSON_HEADERS, body=body)


def _member(instruction: Instruction) -> dict[str, Any]:
    return {**members.described(instruction), "status": STATUS[instruction.state]}


def _read_member(member: Mapping[str, Any], wanted: State, permission: str | None) -> VendorResult:
    """A member as it came back against what was told."""
    status = member.get("status")
    reference = members.reference(member)
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
    return IN_COMPLIANCE


def _by_email(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]] | None:
    """What the bulk answer says of each address, errors last; None if it is no bulk answer."""
    parts = [answer.get(name) for name in ("new_members", "updated_members", "errors")]
    if not all(isinstance(part, list) for part in parts):
        return None
    return {str(item.get("email_address", "")).lower(): item for part in parts for item in part or () if isinstance(item, dict)}


def _read_report(report: Mapping[str, Any] | None, wanted: State, permission: str | None) -> VendorResult:
    """The result of one member; one whom a bulk answer does not show was left as he is."""
    if report is None:
        return IN_COMPLIANCE if wanted is State.GIVEN else base.unreadable()
    if not report.keys() & {"error", "error_code"}:
        return _read_member(report, wanted, permission)
    if "compliance state" in str(report.get("error", "")).lower():
        return IN_COMPLIANCE
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


def _instant(text: Any) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
