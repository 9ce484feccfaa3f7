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

from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, Final
from xml.etree.ElementTree import Element

from msgspec import structs

from pipeline.domain import EMPTY, IncomingEvent, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, InvalidInput
from pipeline.vendors import _maileon_webhooks as webhooks
from pipeline.vendors import _maileon_xml as xml
from pipeline.vendors import base
from pipeline.vendors._maileon_calls import HEADERS, get, is_foreign, login_of, path_of, refusal_of, unsubscribe
from pipeline.vendors.base import Capabilities, Held, Option, Rate, Step, VendorRequest, VendorResponse

MOST_CONTACTS: Final = 100
MOST_CALLS: Final = 8
CALLS_FOR_ONE: Final = {State.GIVEN: 2, State.WITHDRAWN: 3}
VERBS: Final = ("GET", "POST", "PUT", "DELETE")
WITHOUT_OPT_IN: Final = frozenset({xml.SOI, xml.COI, xml.DOI, xml.OTHER})
CONFIRMED: Final = frozenset({xml.DOI, xml.DOI_PLUS})
TRACKED: Final = frozenset({xml.DOI_PLUS})
LATER: Final = VendorResult(outcome=Outcome.THROTTLED, reason="next_dialogue", retry_after_seconds=0.0)
NO_SUBSCRIPTION: Final = VendorResult(outcome=Outcome.NOT_APPLICABLE, reason="no_subscription")
BULK: Final = tuple({"sync_mode": "1", "ignore_invalid_contacts": "true", "reimport_unsubscribed_contacts": "false", "override_permission": "false"}.items())
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
        "custom_fields": Option(description="names of metadata, or of profile fields, sent as custom fields of the same name", default=[], type=list),
    }
    capabilities = Capabilities(
        identifiers=("email", "external_id"),
        scope="contact",
        double_opt_in=True,
        reads_back=True,
        sends_events=True,
        sees_standings=True,
        batch_size=MOST_CONTACTS,
        max_calls=MOST_CALLS,
    )
    probes = tuple(f"right {verb}" for verb in VERBS)
    rate = Rate(calls=10, per_seconds=1, concurrent=4)  # No limit is documented: a polite one.

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        if self.settings["permission"] not in WITHOUT_OPT_IN:
            raise ConfigurationError("option 'permission' must be 2, 3, 4 or 6; DOI+ is only ever given by double opt-in")
        self._login = login_of(self._secrets["api_key"], self.settings["key_form"])

    def batch_size(self, state: State) -> int:
        """Only consents without double opt-in go together; a withdrawal is a contact's own calls, and so is an opt-in."""
        return MOST_CONTACTS if state is State.GIVEN and not self.settings["double_opt_in"] else 1

    def max_calls(self, state: State) -> int:
        return MOST_CALLS if self.batch_size(state) > 1 else CALLS_FOR_ONE[state]

    def place_of(self, options: Mapping[str, Any]) -> str:
        """Tracking is apart from the subscription, and sorts before it: a DOI+ mail then asks for both at once."""
        return "single-user-tracking" if self.option(options, "tracking_purpose") else "subscription"

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        return structs.replace(request, headers=(*request.headers, ("authorization", f"Basic {self._login}")))

    def contact_of(self, subject: Subject) -> dict[str, str]:
        """The address, and only without it the external id: a contact is addressed by one of them."""
        return dict(list(super().contact_of(subject).items())[:1])

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        """First what needs a look at each contact, then the rest together; what is more than eight calls is handed back."""
        results = [LATER if self.contact_of(instruction.subject) else base.missing_identifier() for instruction in instructions]
        together: dict[Group, dict[str, list[int]]] = {}
        calls = 0
        for place, instruction in enumerate(instructions):
            path, cost = path_of(instruction.subject), CALLS_FOR_ONE[instruction.state]
            if results[place] is not LATER:
                continue
            if instruction.state is State.GIVEN and not self._needs_look(instruction):
                group = together.setdefault((self.option(instruction.options, "permission"), path.startswith("/contacts/externalid/")), {})
                group.setdefault(path, []).append(place)
            elif calls + cost <= MOST_CALLS:
                results[place] = yield from self._tell_one(instruction, path)
                calls += cost
        yield from self._tell_together(instructions, together, results, MOST_CALLS - calls)
        return results

    def probe(self, options: Mapping[str, Any]) -> base.ProbeDialogue:  # noqa: ARG002 (a key has its rights for the whole account)
        """A ping by each verb: Maileon has them for this, and they touch nobody."""
        results = []
        for verb in VERBS:
            response = yield VendorRequest(operation=f"ping_{verb.lower()}", method=verb, path="/ping", headers=HEADERS)
            refused = refusal_of(response, verb.lower()) or (base.unreadable() if is_foreign(response) else None)
            results.append(refused or VendorResult(outcome=Outcome.UNCHANGED))
        return results

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """Gone and marked is withdrawn; who is there without the permission that this purpose needs has said nothing yet."""
        if not self.contact_of(subject):
            return Held(readable=False)
        response = yield get("get_contact", path_of(subject))
        if response.status == 404 and not is_foreign(response):
            if not subject.email:
                return Held()
            response = yield get("get_marker", f"{path_of(subject)}/unsubscription")
            is_marked, is_free = response.status == 200, response.status == 404
            return Held(state=State.WITHDRAWN if is_marked else None, readable=(is_marked or is_free) and not is_foreign(response))
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

    def _stands_tracked(self, instruction: Instruction) -> bool:
        """Whether tracking is consented to by a word of its own; then one mail asks for both."""
        return any(each.state is State.GIVEN and self.option(each.options, "tracking_purpose") == each.purpose for each in instruction.standings)

    def _is_subscriber(self, instruction: Instruction, permission: int) -> bool:
        """Whether somebody who may be tracked is subscribed, or asked to be: confirming DOI+ subscribes, so it must not go to anybody else."""
        states = {each.state for each in instruction.standings if self.option(each.options, "tracking_purpose") != each.purpose}
        return State.GIVEN in states or (permission != xml.NONE and State.WITHDRAWN not in states)

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
        return (yield from unsubscribe(instruction, path))

    def _tell_tracking(self, instruction: Instruction, path: str) -> Step:
        """A consent asks for DOI+ by mail; a withdrawal turns DOI+ into DOI, which is looked at again, and cannot reach a mail that is already out."""
        if instruction.state is State.GIVEN:
            if not self.option(instruction.options, "double_opt_in"):
                return VendorResult(outcome=Outcome.UNSUPPORTED, reason="tracking_needs_double_opt_in")
            return (yield from self._start_opt_in(instruction, path, TRACKED))
        response = yield get("get_contact", path)
        if response.status == 404 and not is_foreign(response):
            return VendorResult(outcome=Outcome.UNCHANGED)
        known = xml.known_contact(response.body)
        if known is None or response.status != 200:
            return refusal_of(response, "get") or base.unreadable()
        if known.permission == xml.NONE:
            return VendorResult(outcome=Outcome.UNSUPPORTED, reason="confirmation_pending", vendor_reference=known.contact_id)
        if known.permission not in TRACKED:
            return VendorResult(outcome=Outcome.UNCHANGED, vendor_reference=known.contact_id)
        query = (("permission", str(xml.DOI)),)
        response = yield VendorRequest(operation="lower_to_doi", method="PUT", path=path, query=query, headers=HEADERS, body=b"<contact/>")
        if refused := refusal_of(response, "put") or (base.unreadable() if is_foreign(response) else None):
            return refused
        response = yield get("get_contact", path)
        lowered = xml.known_contact(response.body) if response.status == 200 else None
        if lowered is None:
            return refusal_of(response, "get") or base.unreadable()
        if lowered.permission in TRACKED:
            return VendorResult(outcome=Outcome.UNSUPPORTED, reason="tracking_not_lowered", vendor_reference=known.contact_id)
        return VendorResult(outcome=Outcome.APPLIED, vendor_reference=known.contact_id)

    def _start_opt_in(self, instruction: Instruction, path: str, enough: frozenset[int]) -> Step:
        """Mail the person, unless the contact has enough or was touched since the consent, which means that the mail is out."""
        response = yield get("get_contact", path)
        known = xml.known_contact(response.body) if response.status == 200 else None
        if known is None and (response.status != 404 or is_foreign(response)):
            return refusal_of(response, "get") or base.unreadable()
        if known is not None and known.permission in enough:
            return VendorResult(outcome=Outcome.UNCHANGED, vendor_reference=known.contact_id)
        if known is not None and known.updated_at is not None and known.updated_at >= instruction.event_time.replace(microsecond=0):
            return VendorResult(outcome=Outcome.PENDING_CONFIRMATION, vendor_reference=known.contact_id)
        permission = known.permission if known else xml.NONE
        if enough is TRACKED and not self._is_subscriber(instruction, permission):
            return NO_SUBSCRIPTION
        response = yield self._opt_in(instruction, path, permission, wants_tracking=enough is TRACKED or self._stands_tracked(instruction))
        root = xml.parse(response.body)
        if (refused := refusal_of(response, "post")) or root is None:
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
            refused = refusal_of(response, "post")
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
