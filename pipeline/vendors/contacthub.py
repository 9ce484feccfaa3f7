"""Contacthub (Contactlab): a customer is created, or found by the conflict; then a subscription of theirs is switched on or off. Changes come back by a stream.

Documentation: https://psantori.github.io/api-reference/hub/current/reference.html (hub 1.51, read 2026-11) and the vendor's own plugins for Magento.
The specification calls the flag of a subscription `enable`, the vendor's SDKs and plugins call it `subscribed`: an option says which is written, both are
read. Not documented, so assumed: the limit, whether PUT creates a subscription (POST follows a 404), and that an external id is enough for a new customer.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final
from urllib.parse import quote

import orjson
from msgspec import structs

from pipeline.domain import EMPTY, IncomingEvent, Instruction, Outcome, Polled, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, InvalidInput
from pipeline.vendors import base
from pipeline.vendors._contacthub_records import MARK, NAMES, OWN_DATE, STATE, dicts, flag_of, hear_page, instant, mark_of, part, stamp, subscription_of
from pipeline.vendors.base import Capabilities, Held, Option, Rate, Step, VendorRequest, VendorResponse

UNREADABLE_CUSTOMER: Final = frozenset({403, 404, 405})
"""Answers after which a customer is told unread: the role may not read one, or he is gone, which the next call shows."""
GONE: Final = VendorResult(outcome=Outcome.UNAVAILABLE, reason="customer_gone")
CHANGED_MEANWHILE: Final = VendorResult(outcome=Outcome.UNAVAILABLE, reason="changed_meanwhile")
NO_NODE: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="node_not_found")
UNTRUSTED: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason="token_not_trusted")
UNCHANGED: Final = VendorResult(outcome=Outcome.UNCHANGED)
APPLIED: Final = VendorResult(outcome=Outcome.APPLIED)
JSON_HEADERS: Final = (("content-type", "application/json"),)
PAGE_SIZE: Final = 50
"""Changes asked for at once: the vendor's own default, since each carries a whole customer."""
KINDS: Final = ("DIGITAL_MESSAGE", "SERVICE", "OTHER")
FLAGS: Final = ("subscribed", "enable")
CONSENT: Final = re.compile(r"(?:marketing|profiling|softSpam|thirdPartyTransfer)(?:\.[A-Za-z]+){1,2}")


@dataclass(frozen=True, slots=True)
class _Customer:
    """A customer to be told: `data` is what Contacthub holds of him, empty if it may not be read."""

    path: str = field(repr=False)
    id: str
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_new: bool = False


class Adapter(base.Adapter):
    """Tells a Contacthub node which subscriptions a customer has, and hears which ones others changed."""

    title = "Contacthub"
    docs_url = "https://psantori.github.io/api-reference/hub/current/reference.html"
    base_url = "https://api.contactlab.it/hub/v1"
    credentials: ClassVar = {"token": Option(description="token of a trusted source of the workspace", required=True)}
    options: ClassVar = {
        "workspace_id": Option(description="id of the workspace", required=True),
        "node_id": Option(description="id of the node in which customers are created and looked for", required=True),
        "subscription_id": Option(description="id of the subscription that stands for the purpose", required=True),
        "subscription_kind": Option(description="kind of a new subscription: DIGITAL_MESSAGE, SERVICE or OTHER", default="DIGITAL_MESSAGE"),
        "subscribed_field": Option(description="the flag that is written: subscribed, or enable as the specification has it (assumed)", default="subscribed"),
        "consents": Option(description="entries of the consents block that follow the purpose, such as marketing.automatic.email", default=[], type=list),
        "mark_writes": Option(description="mark our writes in the subscription's preferences, so that they are not heard as news", default=True, type=bool),
    }
    # The state is a subscription's: purposes that share one share its state, others do not touch each other (`place_of`).
    capabilities = Capabilities(identifiers=("external_id", "email"), scope="contact", reads_back=True, sends_events=True, max_calls=5)
    probes = ("customers of the node",)
    rate = Rate(calls=10, per_seconds=1, concurrent=4)

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        for name, known in (("subscription_kind", KINDS), ("subscribed_field", FLAGS)):
            if self.settings[name] not in known:
                raise ConfigurationError(f"option {name!r} must be one of {', '.join(known)}")
        if not all(isinstance(path, str) and CONSENT.fullmatch(path) for path in self.settings["consents"]):
            raise ConfigurationError("option 'consents' must list entries such as marketing.automatic.email or profiling.online")

    def place_of(self, options: Mapping[str, Any]) -> str:
        return str(self.option(options, "subscription_id"))

    def marks_own_writes(self, options: Mapping[str, Any]) -> bool:
        return bool(self.option(options, "mark_writes"))

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        return base.one_by_one(self, instructions, self._tell)

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """What the node holds of a customer, looked for by external id first and then by e-mail."""
        searches = [("externalId", subject.external_id)] if subject.external_id else []
        searches += [("query", _email_query(subject.email))] if subject.email else []
        for name, value in searches:
            query = (("nodeId", str(self.option(options, "node_id"))), (name, value), ("size", "10"))
            response = yield VendorRequest(operation="find_customer", method="GET", path=self._customers(options), query=query)
            elements = _object(response).get("elements")
            if response.status != 200 or not isinstance(elements, list):
                return Held(readable=False)
            for customer in dicts(elements):
                if _is_named(customer, subject, by_email=name == "query"):
                    return self._held(customer, options)
        return Held(readable=bool(searches))

    @classmethod
    def hear(cls, notification: base.Notification, source: base.SourceSettings) -> Sequence[IncomingEvent | InvalidInput]:
        """What one page of `/updates` says about the subscriptions that the source ties to purposes, except what we wrote ourselves."""
        return hear_page(notification, source)

    def poll(self, position: str, source: base.SourceSettings, received_at: datetime) -> base.PollDialogue:
        """One page of `/updates` of the node, from the very beginning at first: every change there carries its own date."""
        path, node_id = f"/workspaces/{quote(str(self.settings['workspace_id']), safe='')}/updates", str(self.settings["node_id"])
        query = (("offset", position or "0"), ("size", str(PAGE_SIZE)), ("nodeId", node_id), ("entity", "CUSTOMER"))
        response = yield VendorRequest(operation="updates", method="GET", path=path, query=query)
        next_offset = str(_object(response).get("nextOffset", ""))
        if (refused := base.refusal(response)) or not next_offset.isdecimal():
            return refused or base.unreadable()
        try:
            events = hear_page(base.Notification(body=response.body, media_type="application/json", received_at=received_at), source)
        except InvalidInput:
            return base.unreadable()
        return Polled(position=next_offset, events=events, more=next_offset != (position or "0"))

    def probe(self, options: Mapping[str, Any]) -> base.ProbeDialogue:
        """A page of one customer of the node, which is not looked at."""
        query = (("nodeId", str(self.option(options, "node_id"))), ("size", "1"), ("fields", "id"))
        response = yield VendorRequest(operation="list_customers", method="GET", path=self._customers(options), query=query)
        refused = _refusal(response, {404: NO_NODE}) or (None if isinstance(_object(response).get("elements"), list) else base.unreadable())
        return [refused or UNCHANGED]

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        return structs.replace(request, headers=(*request.headers, ("authorization", f"Bearer {self._secrets['token']}")))

    def _tell(self, instruction: Instruction) -> Step:
        """A withdrawal switches the subscription before anything else, a consent switches it last; what a new customer's answer shows is done."""
        customer = yield from self._create_or_find(instruction)
        if isinstance(customer, VendorResult):
            return customer
        steps = (self._tell_customer, self._tell_subscription)
        told = APPLIED if customer.is_new else UNCHANGED
        for step in steps if instruction.state is State.GIVEN else reversed(steps):
            result = yield from step(instruction, customer)
            if result not in (APPLIED, UNCHANGED):
                return result
            told = APPLIED if APPLIED in (told, result) else UNCHANGED
        return structs.replace(told, vendor_reference=customer.id)

    def _create_or_find(self, instruction: Instruction) -> Generator[VendorRequest, VendorResponse, _Customer | VendorResult]:
        customers = self._customers(instruction.options)
        response = yield _send("create_customer", "POST", customers, self._new(instruction))
        is_new, problem = response.status != 409, response.json()
        data = problem if is_new else part(part(problem, "data"), "customer")
        if is_new and (refused := _refusal(response, {404: NO_NODE})):
            return refused
        customer_id = data.get("id") if isinstance(data, dict) else None
        if not isinstance(customer_id, str) or not customer_id:
            return UNTRUSTED if not is_new and isinstance(problem, dict) else base.unreadable()
        path = f"{customers}/{quote(customer_id, safe='')}"
        if is_new:
            return _Customer(path, customer_id, data, is_new=True)
        response = yield VendorRequest(operation="get_customer", method="GET", path=path)
        if response.status in UNREADABLE_CUSTOMER:
            return _Customer(path, customer_id)
        held = _object(response)
        return base.refusal(response) or (_Customer(path, customer_id, held) if held.get("id") == customer_id else base.unreadable())

    def _tell_customer(self, instruction: Instruction, customer: _Customer) -> Step:
        """Add what a known customer's record lacks. Only our consents are overwritten, and a withdrawal adds nothing else."""
        record = {} if customer.is_new else self._record(instruction, customer.data, with_person=instruction.state is State.GIVEN)
        if not record:
            return UNCHANGED
        response = yield _send("patch_customer", "PATCH", customer.path, record)
        return _refusal(response, {404: GONE}) or APPLIED

    def _tell_subscription(self, instruction: Instruction, customer: _Customer) -> Step:
        subscription_id = str(self.option(instruction.options, "subscription_id"))
        held, is_wanted = subscription_of(customer.data, subscription_id), instruction.state is State.GIVEN
        if flag_of(held) is is_wanted:
            return UNCHANGED
        path, body = f"{customer.path}/subscriptions", self._subscription(instruction, subscription_id, held)
        response = yield _send("put_subscription", "PUT", f"{path}/{quote(subscription_id, safe='')}", body)
        if response.status == 404:
            response = yield _send("post_subscription", "POST", path, body)
        refused, flag = _refusal(response, {404: GONE, 409: CHANGED_MEANWHILE}), flag_of(_object(response))
        if refused or flag is None:
            return refused or base.unreadable()
        return APPLIED if flag is is_wanted else VendorResult(outcome=Outcome.REJECTED, reason="flag_not_set")

    def _new(self, instruction: Instruction) -> dict[str, Any]:
        """A customer with the subscription in him, so that a withdrawal holds from his first moment."""
        record = self._record(instruction, EMPTY, with_person=True)
        subscription = self._subscription(instruction, str(self.option(instruction.options, "subscription_id")), EMPTY)
        return {"nodeId": self.option(instruction.options, "node_id"), **record, "base": {**part(record, "base"), "subscriptions": [subscription]}}

    def _record(self, instruction: Instruction, held: Mapping[str, Any], *, with_person: bool) -> dict[str, Any]:
        """What is to be written of a customer: what `held` lacks of the person (names for a consent only), and the consents."""
        record: dict[str, Any] = {}
        if with_person:
            known, subject, profile = part(held, "base"), instruction.subject, instruction.profile
            if instruction.state is State.GIVEN:
                record["base"] = {theirs: profile[ours] for ours, theirs in NAMES.items() if profile.get(ours) and not known.get(theirs)}
            if subject.email and not part(known, "contacts").get("email"):
                record.setdefault("base", {})["contacts"] = {"email": subject.email}
            if subject.external_id and not held.get("externalId"):
                record["externalId"] = subject.external_id
        record["consents"] = self._consents(instruction, part(held, "consents"))
        return {name: value for name, value in record.items() if value}

    def _consents(self, instruction: Instruction, held: Mapping[str, Any]) -> dict[str, Any]:
        """Our entries of the consents block as far as they are not so already; a limitation or objection in one of them stays."""
        is_given = instruction.state is State.GIVEN
        block: dict[str, Any] = {}
        for path in self.option(instruction.options, "consents"):
            entry: dict[str, Any] = dict(held)
            for name in path.split("."):
                entry = part(entry, name)
            if entry.get("status") is not is_given:
                _put(block, path.split("."), {**entry, "status": is_given})
        notice = instruction.evidence.get("notice_version")
        return {**block, "disclaimer": {"date": stamp(instruction.event_time), "version": notice}} if block and is_given and notice else block

    def _subscription(self, instruction: Instruction, subscription_id: str, held: Mapping[str, Any]) -> dict[str, Any]:
        """As the vendor's plugins write it; the rest of what it holds is kept, because a PUT replaces all."""
        said_at, is_given = stamp(instruction.event_time), instruction.state is State.GIVEN
        kept = {name: value for name, value in held.items() if name not in (*FLAGS, "updatedAt")}
        body = {"kind": self.option(instruction.options, "subscription_kind"), **kept, "id": subscription_id}
        body[self.option(instruction.options, "subscribed_field")] = is_given
        body["startDate"], body["endDate"] = (said_at, None) if is_given else (None, said_at)
        if self.marks_own_writes(instruction.options):
            others = [one for one in dicts(held.get("preferences")) if one.get("key") != MARK]
            body["preferences"] = [*others, {"key": MARK, "value": mark_of(instruction.state, instruction.event_time)}]
        return body

    def _held(self, customer: Mapping[str, Any], options: Mapping[str, Any]) -> Held:
        held = subscription_of(customer, str(self.option(options, "subscription_id")))
        flag = flag_of(held)
        state = None if flag is None else STATE[flag]
        return Held(state=state, changed_at=instant(held.get(OWN_DATE[state])) if state else None, vendor_reference=str(customer.get("id") or ""))

    def _customers(self, options: Mapping[str, Any]) -> str:
        return f"/workspaces/{quote(str(self.option(options, 'workspace_id')), safe='')}/customers"


def _send(operation: str, method: str, path: str, body: Mapping[str, Any]) -> VendorRequest:
    return VendorRequest(operation=operation, method=method, path=path, headers=JSON_HEADERS, body=orjson.dumps(body))


def _refusal(response: VendorResponse, special: Mapping[int, VendorResult]) -> VendorResult | None:
    return special.get(response.status) or base.refusal(response)


def _object(response: VendorResponse) -> dict[str, Any]:
    answer = response.json()
    return answer if isinstance(answer, dict) else {}


def _put(block: dict[str, Any], names: Sequence[str], value: Mapping[str, Any]) -> None:
    *sections, last = names
    for name in sections:
        block = block.setdefault(name, {})
    block[last] = value


def _email_query(email: str) -> str:
    condition = {"type": "atomic", "attribute": "base.contacts.email", "operator": "EQUALS", "value": email}
    return orjson.dumps({"name": "by-email", "query": {"type": "simple", "name": "by-email", "are": {"condition": condition}}}).decode()


def _is_named(customer: Mapping[str, Any], subject: Subject, *, by_email: bool) -> bool:
    if by_email:
        return str(part(part(customer, "base"), "contacts").get("email") or "").lower() == (subject.email or "").lower()
    return customer.get("externalId") == subject.external_id
