"""Maileon API 1.0: a double opt-in is started for one contact at a time, consents without one go together; a withdrawal unsubscribes and marks the address.

- An unsubscription is accepted at once and carried out seconds later, so acceptance alone proves little. The unsubscription marker is written at once and
  keeps the address out of imports; its answer is the vendor's definite word, which is why a withdrawal is `applied` and not left pending. It also tells an
  address unknown to Maileon (404 on the unsubscription) from a wrong base_url. By external id there is no marker, and the acceptance has to do.
- Each start of a double opt-in mails the person. So a contact is looked up first, and one that was touched since the consent is only waited for.
- No permission is lowered, except by a withdrawal of the tracking purpose: DOI+ becomes DOI.

Documentation: https://support.maileon.com/support/create-contact/ and the pages beside it, and Maileon's own clients (read 2026-11). Not documented there, so
assumed: the codes of an unsubscription, the zone of `updated` (UTC), the size of a bulk call, any rate limit, and the bodies of webhooks.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final
from urllib.parse import quote
from xml.etree.ElementTree import Element

from pipeline.domain import EMPTY, IncomingEvent, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, InvalidInput
from pipeline.vendors import _maileon_webhooks as webhooks
from pipeline.vendors import _maileon_xml as xml
from pipeline.vendors import base
from pipeline.vendors.base import Capabilities, Held, Option, Rate, VendorRequest, VendorResponse

MEDIA_TYPE: Final = "application/vnd.maileon.api+xml"
READ_HEADERS: Final = (("accept", MEDIA_TYPE),)
HEADERS: Final = (("content-type", f"{MEDIA_TYPE}; charset=utf-8"), *READ_HEADERS)
MOST_CONTACTS: Final = 100
MOST_CALLS: Final = 8
CALLS_FOR_ONE: Final = 2
WITHOUT_OPT_IN: Final = frozenset({xml.SOI, xml.COI, xml.DOI, xml.OTHER})
CONFIRMED: Final = frozenset({xml.DOI, xml.DOI_PLUS})
TRACKED: Final = frozenset({xml.DOI_PLUS})
LATER: Final = VendorResult(outcome=Outcome.THROTTLED, reason="next_dialogue", retry_after_seconds=0.0)
KEPT_OUT: Final = VendorResult(outcome=Outcome.NOT_APPLICABLE, reason="withdrawn_for_another_purpose")
BULK: Final = tuple({"sync_mode": "1", "ignore_invalid_contacts": "true", "reimport_unsubscribed_contacts": "false", "override_permission": "false"}.items())
Step = Generator[VendorRequest, VendorResponse, VendorResult]
Group = tuple[int, bool]
"""The permission of a bulk call, and whether it names people by external id."""


class Adapter(base.Adapter):
    """Tells a Maileon account; one permission for each contact, so a withdrawal stops all mail, except that tracking is a purpose of its own."""

    title = "Maileon"
    docs_url = "https://support.maileon.com/support/create-contact/"
    base_url = "https://api.maileon.com/1.0"
    credentials: ClassVar = {"api_key": Option(description="API key with the rights GET, POST, PUT and DELETE", required=True)}
    options: ClassVar = {
        "key_form": Option(description="raw: the key itself; encoded: as Maileon shows it after `Authorization: Basic`", default="raw"),
        "double_opt_in": Option(description="Maileon asks each person by mail before he counts as subscribed", default=True, type=bool),
        "doi_mailing": Option(description="key of the double opt-in mailing; the account's default without it"),
        "permission": Option(
            description="permission of a consent without double opt-in: 2 single, 3 confirmed, 4 double opt-in, 6 other", default=xml.SOI, type=int
        ),
        "tracking_purpose": Option(description="the purpose that stands for single-user tracking (DOI+); belongs under options_by_purpose of that purpose"),
        "custom_fields": Option(description="names of metadata sent as custom fields of the same name", default=[], type=list),
    }
    capabilities = Capabilities(
        identifiers=("email", "external_id"),
        scope="contact",
        double_opt_in=True,
        reads_back=True,
        sends_events=True,
        batch_size=MOST_CONTACTS,
        max_calls=MOST_CALLS,
    )
    rate = Rate(calls=10, per_seconds=1, concurrent=4)  # No limit is documented: a polite one.

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        if self.settings["permission"] not in WITHOUT_OPT_IN:
            raise ConfigurationError("option 'permission' must be 2, 3, 4 or 6; DOI+ is only ever given by double opt-in")
        self._login = _login(self._secrets["api_key"], self.settings["key_form"])

    def batch_size(self) -> int:
        return 1 if self.settings["double_opt_in"] else MOST_CONTACTS

    def place_of(self, options: Mapping[str, Any]) -> str:
        """Tracking is apart from the subscription, and sorts before it: a DOI+ mail then asks for both at once."""
        return "single-user-tracking" if self.option(options, "tracking_purpose") else "subscription"

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        return replace(request, headers=(*request.headers, ("authorization", f"Basic {self._login}")))

    def contact_of(self, subject: Subject) -> dict[str, str]:
        """The address, and only without it the external id: a contact is addressed by one of them."""
        return dict(list(super().contact_of(subject).items())[:1])

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        """Withdrawals first, then what needs a look at each contact, then the rest together; what is more than eight calls is handed back."""
        results = [LATER if self.contact_of(instruction.subject) else base.missing_identifier() for instruction in instructions]
        usable = [place for place, result in enumerate(results) if result is LATER]
        usable.sort(key=lambda place: instructions[place].state is State.GIVEN)
        gone: dict[str, VendorResult] = {}
        together: dict[Group, dict[str, list[int]]] = {}
        calls = 0
        for place in usable:
            instruction, path = instructions[place], _path(instructions[place].subject)
            if path in gone and not self._is_tracking(instruction):
                results[place] = KEPT_OUT if instruction.state is State.GIVEN else gone[path]
            elif instruction.state is State.GIVEN and not self._needs_look(instruction):
                group = together.setdefault((self.option(instruction.options, "permission"), path.startswith("/contacts/externalid/")), {})
                group.setdefault(path, []).append(place)
            elif calls + CALLS_FOR_ONE <= MOST_CALLS:
                results[place] = yield from self._tell_one(instruction, path)
                calls += CALLS_FOR_ONE
                if instruction.state is State.WITHDRAWN and not self._is_tracking(instruction):
                    gone[path] = results[place]
        yield from self._tell_together(instructions, together, results, MOST_CALLS - calls)
        return results

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """Gone and marked is withdrawn; who is there without the permission that this purpose needs has said nothing yet."""
        if not self.contact_of(subject):
            return Held(readable=False)
        response = yield _get("get_contact", _path(subject))
        if response.status == 404 and not _is_foreign(response):
            if not subject.email:
                return Held()
            response = yield _get("get_marker", f"{_path(subject)}/unsubscription")
            is_marked, is_free = response.status == 200, response.status == 404
            return Held(state=State.WITHDRAWN if is_marked else None, readable=(is_marked or is_free) and not _is_foreign(response))
        known = xml.known_contact(response.body) if response.status == 200 else None
        if known is None:
            return Held(readable=False)
        state = State.GIVEN if known.permission in self._enough(options) else None
        if state is None and known.permission != xml.NONE and self.option(options, "tracking_purpose"):
            state = State.WITHDRAWN
        return Held(state=state, changed_at=known.updated_at, vendor_reference=known.contact_id)

    @classmethod
    def hear(cls, notification: base.Notification, source: base.SourceSettings) -> Sequence[IncomingEvent | InvalidInput]:
        """A webhook for a confirmed double opt-in or an unsubscription; which of them, its address says: `?event=doi` or `?event=unsubscription`.

        The source's `purposes` tie `doi` and, where tracking is one, `doi+` to purposes. An unsubscription withdraws all of them.
        """
        return webhooks.read(notification, source)

    def _is_tracking(self, instruction: Instruction) -> bool:
        return bool(instruction.purpose == self.option(instruction.options, "tracking_purpose"))

    def _needs_look(self, instruction: Instruction) -> bool:
        return self._is_tracking(instruction) or bool(self.option(instruction.options, "double_opt_in"))

    def _enough(self, options: Mapping[str, Any]) -> frozenset[int]:
        """The permissions with which a consent is in force."""
        if self.option(options, "tracking_purpose"):
            return TRACKED
        return CONFIRMED if self.option(options, "double_opt_in") else CONFIRMED | WITHOUT_OPT_IN

    def _tell_one(self, instruction: Instruction, path: str) -> Step:
        if self._is_tracking(instruction):
            return (yield from self._tell_tracking(instruction, path))
        if instruction.state is State.GIVEN:
            return (yield from self._start_opt_in(instruction, path, CONFIRMED))
        return (yield from _unsubscribe(instruction, path))

    def _tell_tracking(self, instruction: Instruction, path: str) -> Step:
        """A consent asks for DOI+ by mail; a withdrawal turns DOI+ into DOI, and cannot reach a mail that is already out."""
        if instruction.state is State.GIVEN:
            if not self.option(instruction.options, "double_opt_in"):
                return VendorResult(outcome=Outcome.UNSUPPORTED, reason="tracking_needs_double_opt_in")
            return (yield from self._start_opt_in(instruction, path, TRACKED))
        response = yield _get("get_contact", path)
        if response.status == 404 and not _is_foreign(response):
            return VendorResult(outcome=Outcome.UNCHANGED)
        known = xml.known_contact(response.body)
        if known is None or response.status != 200:
            return _refusal(response, "get") or base.unreadable()
        if known.permission == xml.NONE:
            return VendorResult(outcome=Outcome.UNSUPPORTED, reason="confirmation_pending", vendor_reference=known.contact_id)
        if known.permission not in TRACKED:
            return VendorResult(outcome=Outcome.UNCHANGED, vendor_reference=known.contact_id)
        query = (("permission", str(xml.DOI)),)
        response = yield VendorRequest(operation="lower_to_doi", method="PUT", path=path, query=query, headers=HEADERS, body=b"<contact/>")
        refused = _refusal(response, "put") or (base.unreadable() if _is_foreign(response) else None)
        return refused or VendorResult(outcome=Outcome.APPLIED, vendor_reference=known.contact_id)

    def _start_opt_in(self, instruction: Instruction, path: str, enough: frozenset[int]) -> Step:
        """Mail the person, unless the contact has enough or was touched since the consent, which means that the mail is out."""
        response = yield _get("get_contact", path)
        known = xml.known_contact(response.body) if response.status == 200 else None
        if known is None and (response.status != 404 or _is_foreign(response)):
            return _refusal(response, "get") or base.unreadable()
        if known is not None and known.permission in enough:
            return VendorResult(outcome=Outcome.UNCHANGED, vendor_reference=known.contact_id)
        if known is not None and known.updated_at is not None and known.updated_at >= instruction.event_time.replace(microsecond=0):
            return VendorResult(outcome=Outcome.PENDING_CONFIRMATION, vendor_reference=known.contact_id)
        response = yield self._opt_in(instruction, path, known.permission if known else xml.NONE, wants_tracking=enough is TRACKED)
        root = xml.parse(response.body)
        if (refused := _refusal(response, "post")) or root is None:
            return refused or base.unreadable()
        return VendorResult(outcome=Outcome.PENDING_CONFIRMATION, vendor_reference=xml.number("".join(root.itertext())))

    def _opt_in(self, instruction: Instruction, path: str, permission: int, *, wants_tracking: bool) -> VendorRequest:
        query = [("permission", str(permission)), ("sync_mode", "1"), ("doi", "true")]
        query += [("doiplus", "true")] if wants_tracking else []
        query += [("doimailing", mailing)] if (mailing := self.option(instruction.options, "doi_mailing")) else []
        query.append(("src", instruction.evidence.get("form") or "consent-relay"))
        contact = self._contact(instruction, without="email" if instruction.subject.email else "external_id")
        return VendorRequest(operation="start_opt_in", path=path, query=tuple(query), headers=HEADERS, body=xml.write(contact))

    def _contact(self, instruction: Instruction, without: str = "") -> Element:
        return xml.contact_of(instruction, without=without, custom_fields=self.option(instruction.options, "custom_fields"))

    def _tell_together(
        self, instructions: Sequence[Instruction], groups: Mapping[Group, dict[str, list[int]]], results: list[VendorResult], most_calls: int
    ) -> Generator[VendorRequest, VendorResponse, None]:
        """One call for each permission. The report counts the unsubscribed it has skipped but does not name them, so they are found by halves."""
        waiting = [(permission, by_id, list(group.values())) for (permission, by_id), group in groups.items()]
        while waiting and most_calls > 0:
            permission, by_id, contacts = waiting.pop(0)
            most_calls -= 1
            told_of = [instructions[places[-1]] for places in contacts]
            response = yield self._synchronise(told_of, permission, by_id=by_id)
            report = xml.report_of(response.body)
            refused = _refusal(response, "post")
            if refused or report is None:
                told: list[VendorResult] | None = [refused or base.unreadable()] * len(told_of)
            else:
                told = report.results([instruction.subject for instruction in told_of])
            if told is None:
                middle = len(contacts) // 2
                waiting[:0] = [(permission, by_id, contacts[:middle]), (permission, by_id, contacts[middle:])]
                continue
            for places, result in zip(contacts, told, strict=True):
                for place in places:
                    results[place] = result

    def _synchronise(self, contacts: Sequence[Instruction], permission: int, *, by_id: bool) -> VendorRequest:
        body = xml.write(xml.contacts_of(self._contact(instruction) for instruction in contacts))
        query = (("permission", str(permission)), *BULK, ("use_external_id", str(by_id).lower()))
        return VendorRequest(operation="synchronise", path="/contacts", query=query, headers=HEADERS, body=body)


def _unsubscribe(instruction: Instruction, path: str) -> Step:
    response = yield VendorRequest(operation="unsubscribe", method="DELETE", path=f"{path}/unsubscribe", headers=READ_HEADERS)
    if _is_foreign(response) and response.status < 400:
        return _refusal(response, "delete") or base.unreadable()
    is_unknown = response.status == 404 and not _is_foreign(response)
    if not is_unknown and (refused := _refusal(response, "delete")):
        return refused
    done = VendorResult(outcome=Outcome.UNCHANGED if is_unknown else Outcome.APPLIED)
    if not instruction.subject.email:
        return done
    response = yield VendorRequest(operation="set_marker", method="PUT", path=f"{path}/unsubscription", headers=HEADERS)
    if response.status == 404:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason="http_404_put")
    refused = _refusal(response, "put") or (base.unreadable() if _is_foreign(response) else None)
    return refused or (VendorResult(outcome=Outcome.APPLIED) if response.status == 201 else done)


def _login(api_key: str, key_form: str) -> str:
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


def _path(subject: Subject) -> str:
    return f"/contacts/email/{quote(subject.email, safe='')}" if subject.email else f"/contacts/externalid/{quote(subject.external_id or '', safe='')}"


def _get(operation: str, path: str) -> VendorRequest:
    return VendorRequest(operation=operation, method="GET", path=path, headers=READ_HEADERS)


def _is_foreign(response: VendorResponse) -> bool:
    """Whether an answer has a body that is not Maileon's XML, whole or cut: a proxy's, or another service's at a wrong address."""
    start = response.body[:200].strip().lower()
    return bool(start) and (not start.startswith(b"<") or b"<!doctype" in start or b"<html" in start)


def _refusal(response: VendorResponse, verb: str) -> VendorResult | None:
    """Plain HTTP, with the right that the key lacks; a 404 that nothing explains comes from a wrong address, so nobody was told."""
    if response.status == 403:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason=f"http_403_{verb}")
    if response.status == 404:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason=f"http_404_{verb}")
    return base.refusal(response)
