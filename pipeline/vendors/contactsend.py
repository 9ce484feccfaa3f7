"""Contactsend (Contactlab): subscribers of a user database, found by address, whose registration field says 1, -1 or 0; its SOAP service signs in by a borrowed token.

- The status is set by the webform code of a subscription, and read in its registration field; nothing in the service ties the two but the routing file.
- Who is not there is added: for a consent with his profile, for a withdrawal with the field at -1, so that a later import does not write to him.
- Several subscribers may have one address. A withdrawal is told of each; a consent of one, so that nobody gets each mail twice.

Documentation: https://docs.contactlab.com/docs/development/soap-api, its public clients, samples and Magento plugin (read 2026-11). Not documented, so
assumed: the words of faults (options), the names of attributes (`fields`), any limit, and that setting the status passes over a double opt-in.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from msgspec import structs

from pipeline.domain import EMPTY, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import _contactsend_soap as soap
from pipeline.vendors import base
from pipeline.vendors._contactsend_records import PROFILE, VALUE, Page, Reader, Subscriber, page_of, place, subscriber_of
from pipeline.vendors.base import Capabilities, Held, Option, Rate, SignIn, SourceSettings, Step, VendorRequest, VendorResponse

MOST_PAGES: Final = 2
"""Pages of 15 that are read of the subscribers with one address."""
MOST_TOLD: Final = 5
"""Subscribers that one dialogue sets; the rest follows in the next, which finds these done."""
MOST_POLLED: Final = 1000
SIGNED_OUT: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="session_refused")
LOCKED: Final = VendorResult(outcome=Outcome.UNAVAILABLE, reason="database_locked")
ADDRESS: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="address_not_authorised")
DENIED: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="not_authorised")
SIGN_IN_REFUSED: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="sign_in_refused")
ELSEWHERE: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="http_404")
UNKNOWN_ATTRIBUTE: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="attribute_not_found")
TOO_MANY: Final = VendorResult(outcome=Outcome.REJECTED, reason="too_many_subscribers")
LATER: Final = VendorResult(outcome=Outcome.THROTTLED, reason="next_dialogue", retry_after_seconds=0.0)
BY_SIDE: Final = {
    soap.SENDER: VendorResult(outcome=Outcome.REJECTED, reason="fault_sender"),
    soap.RECEIVER: VendorResult(outcome=Outcome.UNAVAILABLE, reason="fault_receiver", definite=False),
    soap.PROTOCOL: VendorResult(outcome=Outcome.MISCONFIGURED, reason="fault_protocol"),
}
IDENTIFIERS: Final = ("email", "external_id")
FIELDS: Final = (*IDENTIFIERS, "phone", "national_id", "country", *PROFILE)
FAULTS: Final = {"address_faults": ADDRESS, "locked_faults": LOCKED, "signed_out_faults": SIGNED_OUT, "denied_faults": DENIED}
"""The options that tell faults apart by their words, in the order in which they are tried."""
_CODE: Final = re.compile(r"[0-9]{1,30}")

Found = list[Subscriber] | VendorResult


class Adapter(base.Adapter):
    """Tells a Contactsend user database who is subscribed, and hears its changes by looking through it."""

    title = "Contactsend"
    docs_url = "https://docs.contactlab.com/docs/development/soap-api"
    base_url = "https://soap.contactlab.it/soap/services"
    credentials: ClassVar = {
        "api_key": Option(description="apiKey of the company", required=True),
        "user_key": Option(description="userKey of a profile that may find, add and modify subscribers", required=True),
    }
    options: ClassVar = {
        "source_id": Option(description="number of the user database", required=True, type=int),
        "webform_code": Option(description="webform code of the subscription that stands for the purpose", required=True),
        "registration_field": Option(description="registration field of that subscription, such as __cls1", required=True),
        "fields": Option(
            description="our names (email, external_id, phone, first_name...) -> attributes; one of the first two at least",
            default={"email": "EMAIL"},
            type=dict,
        ),
        "changed_at_fields": Option(description="registration fields -> attributes that hold the time of their last change", default={}, type=dict),
        "page_size": Option(description="subscribers on one page when the database is looked through", default=100, type=int),
        "sort_order": Option(description="how it is sorted then (assumed); empty leaves the order to Contactsend", default="ASC"),
        "address_faults": Option(description="words of a fault about our IP address (assumed)", default=["ip"], type=list),
        "locked_faults": Option(description="words of a fault about a locked or read-only database (assumed)", default=["locked", "read only"], type=list),
        "signed_out_faults": Option(description="words of a fault about a token that is no longer good (assumed)", default=["token"], type=list),
        "denied_faults": Option(
            description="words of a fault about rights or keys (assumed)",
            default=["authorized", "unauthorized", "permission", "api key", "user key"],
            type=list,
        ),
    }
    # The state is a registration field's: purposes that share one share its state, others do not touch each other (`place_of`).
    capabilities = Capabilities(
        identifiers=IDENTIFIERS,
        scope="contact",
        reads_back=True,
        sends_events=True,
        signs_in=True,
        max_calls=2 * MOST_PAGES + MOST_TOLD,
        ask_calls=2 * MOST_PAGES,
    )
    probes = ("search in the user database",)
    rate = Rate(calls=20, per_seconds=10, concurrent=1)  # No limit is documented: a polite one.

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        fields, dates = self.settings["fields"], self.settings["changed_at_fields"]
        wrong = {
            "source_id": self.settings["source_id"] < 1,
            "webform_code": not _CODE.fullmatch(self.settings["webform_code"]),
            "fields": not set(fields) <= set(FIELDS) or not set(fields) & set(IDENTIFIERS) or not _are_texts(fields.values()),
            "changed_at_fields": not _are_texts(dates.values()),
            "page_size": not 1 <= self.settings["page_size"] <= MOST_POLLED,
            **{name: not _are_texts(self.settings[name]) for name in FAULTS},
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise ConfigurationError(f"option {name!r} has a value of no use: {self.options[name].description}")

    def place_of(self, options: Mapping[str, Any]) -> str:
        return place(self.option(options, "source_id"), self.option(options, "registration_field"))

    def contact_of(self, subject: Subject) -> dict[str, str]:
        """The identifiers that the user database has an attribute for."""
        return {kind: value for kind, value in super().contact_of(subject).items() if kind in self.settings["fields"]}

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        return base.one_by_one(self, instructions, self._tell)

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """Given if one subscriber with an identifier of the person is subscribed, withdrawn if one is not and none is."""
        name = self.option(options, "registration_field")
        found = yield from self._find(subject, options, everybody=True)
        if isinstance(found, VendorResult) or not self.contact_of(subject) or any(subscriber.text(name) is None for subscriber in found):
            return Held(readable=False)
        for state in (State.GIVEN, State.WITHDRAWN):
            for subscriber in (one for one in found if one.state(name) is state):
                return Held(state=state, vendor_reference=str(subscriber.identifier))
        return Held(vendor_reference=str(found[0].identifier) if found else "")

    def poll(self, position: str, source: SourceSettings, received_at: datetime) -> base.PollDialogue:
        """One page of the whole user database; `position` is its number. The service tells of no changes, only of states."""
        number = int(position) if position.isascii() and position.isdigit() else 1
        source_id, fields, dates = (self.settings[name] for name in ("source_id", "fields", "changed_at_fields"))
        reader = Reader(source_id=source_id, fields=fields, changed_at_fields=dates, source=source, received_at=received_at)
        by = next(fields[kind] for kind in IDENTIFIERS if kind in fields)
        sorting = [{"sortField": by, "sortOrder": order}] if (order := self.settings["sort_order"]) else []
        pagination = {"sorting": sorting, "currentPage": number, "pageSize": self.settings["page_size"]}
        page = yield from self._page(
            soap.write("findSubscribersBy", sourceIdentifier=source_id, useBaseFilter=False, selectedAttribute=reader.attributes(), pagination=pagination),
            number,
        )
        return page if isinstance(page, VendorResult) else reader.polled(page, number)

    def polls_undated(self, source: SourceSettings) -> bool:
        return not set(source.purposes) <= set(self.settings["changed_at_fields"])

    def probe(self, options: Mapping[str, Any]) -> base.ProbeDialogue:
        """A search for nobody in the user database, after signing in."""
        kind = next(kind for kind in IDENTIFIERS if kind in self.option(options, "fields"))
        found = yield from self._find(Subject(**{kind: base.NOBODY}), options, everybody=False)
        return [found if isinstance(found, VendorResult) else VendorResult(outcome=Outcome.UNCHANGED)]

    def sign_in(self) -> base.SignInDialogue:
        response = yield soap.write("borrowToken")
        answer = self._answer("borrowToken", response)
        if isinstance(answer, VendorResult):
            return SignIn(refusal=SIGN_IN_REFUSED if answer in (SIGNED_OUT, DENIED, BY_SIDE[soap.SENDER]) else answer)
        token = getattr(answer.returned, "content", None)
        return SignIn(token=token) if token else SignIn(refusal=base.unreadable())

    def is_signed_out(self, response: VendorResponse) -> bool:
        fault = soap.read_fault(response)
        return fault is not None and self._meaning(fault) is SIGNED_OUT

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:
        keys = {"apiKey": self._secrets["api_key"], "userKey": self._secrets["user_key"]}
        return structs.replace(request, body=soap.with_secrets(request.body, keys if request.operation == "borrowToken" else {"token": token or ""}))

    def _tell(self, instruction: Instruction) -> Step:
        found = yield from self._find(instruction.subject, instruction.options, everybody=instruction.state is State.WITHDRAWN)
        if isinstance(found, VendorResult):
            return found
        if not found:
            return (yield from self._add(instruction))
        name = self.option(instruction.options, "registration_field")
        if instruction.state is State.GIVEN:
            told = [one for one in found if one.state(name) is State.GIVEN]
            found = [] if told else found[:1]
        else:
            told, found = found, [one for one in found if one.state(name) is not State.WITHDRAWN]
        if not found:
            return VendorResult(outcome=Outcome.UNCHANGED, vendor_reference=str(told[0].identifier))
        return (yield from self._set(instruction, found))

    def _find(self, subject: Subject, options: Mapping[str, Any], *, everybody: bool) -> Generator[VendorRequest, VendorResponse, Found]:
        """The subscribers with an identifier of the person, in order; of `everybody` or only of the first identifier that finds any."""
        found: dict[int, Subscriber] = {}
        fields = self.option(options, "fields")
        for kind, value in self.contact_of(subject).items():
            if kind not in fields or (found and not everybody):
                continue
            key = fields[kind]
            for number in range(1, MOST_PAGES + 1):
                prefs = {"pageNumber": number, "matchingMode": "EQUALS", "sortingMode": "ASCENDING"}
                request = soap.write(
                    "findSubscribers", sourceIdentifier=self.option(options, "source_id"), attribute=soap.attribute(key, value), lookupPrefs=prefs
                )
                page = yield from self._page(request, number)
                if isinstance(page, VendorResult):
                    return page
                if None in page.items:
                    return base.unreadable()  # whoever it is may be the person
                if any(one.text(key) is None for one in page.subscribers):
                    return UNKNOWN_ATTRIBUTE
                found |= {one.identifier: one for one in page.subscribers if _is(kind, one.text(key), value)}
                if not page.has_more:
                    break
            else:
                return TOO_MANY
        return [found[identifier] for identifier in sorted(found)]

    def _page(self, request: VendorRequest, number: int) -> Generator[VendorRequest, VendorResponse, Page | VendorResult]:
        response = yield request
        answer = self._answer(request.operation, response)
        return answer if isinstance(answer, VendorResult) else page_of(answer.returned, number)

    def _add(self, instruction: Instruction) -> Step:
        """Add the person; without an address there is nobody to be mailed, so nothing to add."""
        options, is_given = instruction.options, instruction.state is State.GIVEN
        fields, name = self.option(options, "fields"), self.option(options, "registration_field")
        if not instruction.subject.email or "email" not in fields:
            return base.missing_identifier() if is_given else VendorResult(outcome=Outcome.UNCHANGED, reason="nobody_to_mail")
        known = {**instruction.subject.identifiers(), "country": instruction.subject.country, **instruction.profile}
        sent = {theirs: known.get(ours) for ours, theirs in fields.items() if is_given or ours in IDENTIFIERS}
        attributes = [soap.attribute(key, value) for key, value in sent.items() if value]
        attributes += [] if is_given else [soap.attribute(name, VALUE[State.WITHDRAWN])]
        response = yield soap.write("addSubscriber", sourceIdentifier=self.option(options, "source_id"), subscriber={"attributes": attributes})
        answer = self._answer("addSubscriber", response)
        if isinstance(answer, VendorResult):
            return answer
        subscriber = subscriber_of(answer.returned)
        if subscriber is None:
            return base.unreadable()
        if subscriber.state(name) is instruction.state:
            return VendorResult(outcome=Outcome.APPLIED, vendor_reference=str(subscriber.identifier))
        return (yield from self._set(instruction, [subscriber]))

    def _set(self, instruction: Instruction, subscribers: Sequence[Subscriber]) -> Step:
        code, is_subscribed = self.option(instruction.options, "webform_code"), instruction.state is State.GIVEN
        for subscriber in subscribers[:MOST_TOLD]:
            operation = "modifySubscriberSubscriptionStatus"
            response = yield soap.write(operation, webFormCode=code, subscriberIdentifier=subscriber.identifier, isSubscribed=is_subscribed)
            answer = self._answer(operation, response)
            if isinstance(answer, VendorResult):
                return answer
        if len(subscribers) > MOST_TOLD:
            return LATER
        return VendorResult(outcome=Outcome.APPLIED, vendor_reference=str(subscribers[0].identifier))

    def _answer(self, operation: str, response: VendorResponse) -> soap.Answer | VendorResult:
        """A fault counts whatever the status is, an answer only with a status that agrees."""
        answer = soap.read(operation, response)
        if isinstance(answer, soap.Fault):
            return self._meaning(answer)
        if response.status == 404:
            return ELSEWHERE
        return base.refusal(response) or answer or base.unreadable()

    def _meaning(self, fault: soap.Fault) -> VendorResult:
        return next((meaning for name, meaning in FAULTS.items() if fault.names_any(self.settings[name])), BY_SIDE[fault.side])


def _is(kind: str, text: str | None, value: str) -> bool:
    """Whether an attribute names the person, whatever the service takes for equal; the case of an external id matters."""
    return text is not None and (text.lower() == value.lower() if kind == "email" else text == value)


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) and value for value in values)
