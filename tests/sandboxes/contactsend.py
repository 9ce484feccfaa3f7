"""Contactsend's SOAP 1.2 service as its manual, public clients and samples describe it: borrowed tokens, user databases, registration fields, webform codes.

Documented: the IP address must be authorised beforehand, tokens end when idle, a search shows 15 items a page (one of them is one element, not a list), local
elements have no namespace, a registration field says 1, -1 or 0, a source may be `locked` or `readOnly`, setting a status returns nothing. Assumed, for want of
a public word: the texts and status codes of faults, how long a token may be idle, that equality does not regard case, and that an address is mandatory.
A person who acts at the vendor does so through `place`.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request
from tests.sandboxes.connector import Connector

SOAP = "http://www.w3.org/2003/05/soap-envelope"
SERVICE = "http://ws.api.contactlab.com/"
XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
XS = "http://www.w3.org/2001/XMLSchema"
MEDIA_TYPE = "application/soap+xml; charset=utf-8"
Subscriber = dict[str, str]
ET.register_namespace("soap", SOAP)  # A fault's code is written with this prefix.


class Refused(Exception):
    """A SOAP fault: whose it is (Sender or Receiver), and which text of the settings it carries."""


class Sandbox(base.Sandbox):
    name = "contactsend"
    version_path = "/soap/services"
    defaults: ClassVar = {
        "api_key": "test-contactsend-api-key",
        "user_key": "test-contactsend-user-key",
        "idle_seconds": 1200.0,
        "caller_address": "192.0.2.10",
        "allowed_addresses": ["192.0.2.10"],
        "source_id": 6,
        "attributes": ["EMAIL", "CRM_ID", "NOME", "COGNOME", "CELLULARE", "__cls1", "__cls1_at", "__cls2"],
        "webforms": {"230004001355": "__cls1", "230004001356": "__cls2"},
        "locked": False,
        "read_only": False,
        "page_items": 15,
        "texts": {
            "token": "The authorization token is not valid or has expired",
            "keys": "Wrong apiKey or userKey",
            "address": "The IP address is not authorized to use this service",
            "locked": "The subscriber source is locked",
            "read_only": "The subscriber source is readOnly",
            "source": "There is no such subscriber source",
            "webform": "There is no such web form",
            "subscriber": "There is no such subscriber",
            "attribute": "There is no such attribute",
            "email": "EMAIL is mandatory",
            "operation": "There is no such operation",
        },
        "hub_pairs": {},
        "sync_delay_seconds": 0.5,
    }

    world: ClassVar = (*base.Sandbox.world, "subscribers")

    def reset(self) -> None:
        super().reset()
        self.tokens: dict[str, float] = {}
        self.subscribers: dict[int, Subscriber] = {}
        self.numbers = itertools.count(1)

    def join(self, others: Mapping[str, base.Sandbox], call_later: Any) -> None:
        if "contacthub" in others:
            self.connector = Connector(others["contacthub"], self, call_later)

    def operation(self, request: Request) -> str:
        found = re.search(rb"<(?:[\w.-]+:)?Body[^>]*>\s*<(?:[\w.-]+:)?([\w.-]+)", request.body)
        return found[1].decode() if found else f"{request.method} {request.path}"

    def handle(self, request: Request) -> Reply:
        if request.method != "POST" or request.path not in ("", "/"):
            return Reply(404, b"", "text/plain")
        if not request.headers.get("content-type", "").startswith("application/soap+xml"):
            return Reply(415, b"", "text/plain")
        try:
            envelope = ET.fromstring(request.body)
            call = envelope[-1][0]
        except (ET.ParseError, IndexError):
            return fault("Sender", "The message cannot be read")
        if envelope.tag != f"{{{SOAP}}}Envelope":
            return fault("VersionMismatch", "SOAP 1.2 is expected")
        try:
            return self.called(call)
        except Refused as refused:
            return fault(refused.args[0], self.settings["texts"][refused.args[1]])

    def called(self, call: ET.Element) -> Reply:
        if self.settings["caller_address"] not in self.settings["allowed_addresses"]:
            raise Refused("Sender", "address")
        name = call.tag.removeprefix(f"{{{SERVICE}}}")
        answer = ET.Element(f"{{{SERVICE}}}{name}Response")
        if name == "borrowToken":
            self.borrow(call, answer)
        else:
            act = {
                "findSubscribers": self.find,
                "findSubscribersBy": self.find_by,
                "addSubscriber": self.add,
                "modifySubscriberSubscriptionStatus": self.modify,
                "isSubscriberSourceLocked": self.is_locked,
                "invalidateToken": self.invalidate,
                "keepaliveToken": lambda *_: None,
            }.get(name)
            self.check_token(call)
            if act is None:
                raise Refused("Sender", "operation")
            act(call, answer)
        return enveloped(answer)

    def borrow(self, call: ET.Element, answer: ET.Element) -> None:
        if (call.findtext("apiKey"), call.findtext("userKey")) != (self.settings["api_key"], self.settings["user_key"]):
            raise Refused("Sender", "keys")
        token = f"test-token-{secrets.token_hex(8)}"
        self.tokens[token] = time.time()
        child(child(answer, "return"), "content", token)

    def check_token(self, call: ET.Element) -> None:
        token, now = call.findtext("token/content", ""), time.time()
        if now - self.tokens.pop(token, 0.0) >= self.settings["idle_seconds"]:
            raise Refused("Sender", "token")
        self.tokens[token] = now

    def invalidate(self, call: ET.Element, _answer: ET.Element) -> None:
        del self.tokens[call.findtext("token/content", "")]

    def check_source(self, call: ET.Element, *, writes: bool, name: str = "sourceIdentifier") -> None:
        if int(call.findtext(name, "0")) != self.settings["source_id"]:
            raise Refused("Sender", "source")
        self.check_lock(writes=writes)

    def check_lock(self, *, writes: bool) -> None:
        if self.settings["locked"] or (writes and self.settings["read_only"]):
            raise Refused("Receiver", "locked" if self.settings["locked"] else "read_only")

    def is_locked(self, call: ET.Element, answer: ET.Element) -> None:
        if int(call.findtext("subscriberSourceId", "0")) != self.settings["source_id"]:
            raise Refused("Sender", "source")
        child(answer, "return", "true" if self.settings["locked"] else "false")

    def attribute(self, name: str) -> str:
        """An attribute by its name in any case."""
        known = {one.lower(): one for one in self.settings["attributes"]}
        if name.lower() not in known:
            raise Refused("Sender", "attribute")
        return known[name.lower()]

    def find(self, call: ET.Element, answer: ET.Element) -> None:
        self.check_source(call, writes=False)
        key, wanted = self.attribute(call.findtext("attribute/key", "")), call.findtext("attribute/value", "").lower()
        is_like = call.findtext("lookupPrefs/matchingMode") == "LIKE"
        pattern = re.compile(re.escape(wanted).replace("%", ".*") if is_like else re.escape(wanted))
        found = [number for number, one in self.subscribers.items() if pattern.fullmatch(one.get(key, "").lower())]
        found.sort(reverse=call.findtext("lookupPrefs/sortingMode") != "ASCENDING")
        self.show(answer, found, int(call.findtext("lookupPrefs/pageNumber", "1")), self.settings["page_items"], self.settings["attributes"])

    def find_by(self, call: ET.Element, answer: ET.Element) -> None:
        """All of the database in the order asked for; conditions are not in the sandbox."""
        self.check_source(call, writes=False)
        names = [self.attribute(one.text or "") for one in call.findall("selectedAttribute")] or self.settings["attributes"]
        order = self.attribute(call.findtext("pagination/sorting/sortField", "EMAIL"))
        found = sorted(self.subscribers, key=lambda number: (self.subscribers[number].get(order, ""), number))
        self.show(answer, found, int(call.findtext("pagination/currentPage", "1")), int(call.findtext("pagination/pageSize", "15")), names)

    def show(self, answer: ET.Element, found: list[int], page: int, size: int, names: Iterable[str]) -> None:
        shown = child(answer, "return")
        child(shown, "currentPageNumber", str(page))
        child(shown, "maxPageNumber", str(-(-len(found) // size)))
        for number in found[(page - 1) * size : page * size]:
            self.write(child(shown, "currentPageItems"), number, names)

    def write(self, element: ET.Element, number: int, names: Iterable[str]) -> None:
        child(element, "identifier", str(number))
        for name in names:
            entry = child(element, "attributes")
            child(entry, "key", name)
            value = child(entry, "value", self.subscribers[number].get(name, ""))
            value.set(XSI_TYPE, ET.QName(XS, "int" if name in self.settings["webforms"].values() else "string"))  # type: ignore[arg-type]

    def add(self, call: ET.Element, answer: ET.Element) -> None:
        self.check_source(call, writes=True)
        given = {self.attribute(one.findtext("key", "")): one.findtext("value", "") for one in call.findall("subscriber/attributes")}
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", given.get("EMAIL", "")):
            raise Refused("Sender", "email")
        number = self.fresh(given, "api")
        self.write(child(answer, "return"), number, self.settings["attributes"])

    def fresh(self, attributes: Subscriber, source: str) -> int:
        number = next(self.numbers)
        self.subscribers[number] = {**dict.fromkeys(self.settings["webforms"].values(), "0"), **attributes}
        for code, name in self.settings["webforms"].items():
            if name in attributes:
                self.changed(number, code, source)
        return number

    def modify(self, call: ET.Element, _answer: ET.Element) -> None:
        code, number = call.findtext("webFormCode", ""), int(call.findtext("subscriberIdentifier", "0"))
        if code not in self.settings["webforms"]:
            raise Refused("Sender", "webform")
        self.check_lock(writes=True)
        if number not in self.subscribers:
            raise Refused("Sender", "subscriber")
        self.set_field(number, code, {"true": "1", "1": "1", "false": "-1", "0": "-1"}[call.findtext("isSubscribed", "")], "api")

    def set_field(self, number: int, code: str, value: str, source: str) -> None:
        self.subscribers[number][self.settings["webforms"][code]] = value
        self.changed(number, code, source)

    def changed(self, number: int, code: str, source: str) -> None:
        """Note what a registration field says now; of several subscribers with one name all but the first carry their number."""
        held = self.subscribers[number]
        person = (held.get("EMAIL") or held.get("CRM_ID") or str(number)).lower()
        key = f"{person}/{code}"
        if self.contacts.get(key, {}).get("identifier", number) != number:
            key = f"{key}/{number}"
        state = {"1": "given", "-1": "withdrawn"}.get(held[self.settings["webforms"][code]], "pending")
        self.contacts[key] = {"state": state, "identifier": number, "attributes": dict(held)}
        self.told(key, state, webform_code=code, email=held.get("EMAIL", ""), source=source)

    def set_by_address(self, email: str, code: str, state: str, source: str) -> None:
        """What somebody with access does: set every subscriber with this address that says otherwise, or add one."""
        name, value = self.settings["webforms"][code], {"given": "1", "withdrawn": "-1"}[state]
        found = [number for number, one in self.subscribers.items() if one.get("EMAIL", "").lower() == email]
        for number in found:
            if self.subscribers[number][name] != value:
                self.set_field(number, code, value, source)
        if not found:
            self.fresh({"EMAIL": email, name: value}, source)

    def forget(self, contact: Mapping[str, Any]) -> None:
        super().forget(contact)
        email = contact["email"].lower()
        self.subscribers = {number: one for number, one in self.subscribers.items() if one.get("EMAIL", "").lower() != email}

    def place(self, contact: Mapping[str, Any]) -> None:
        """A subscriber as somebody left him: his `attributes`, in whoever has that EMAIL, or in a new one (`another`)."""
        given = {name: str(value) for name, value in contact["attributes"].items()}
        source, email = contact.get("source", "test-somebody-else"), given.get("EMAIL", "").lower()
        known = [number for number, one in self.subscribers.items() if email and one.get("EMAIL", "").lower() == email]
        if not known or contact.get("another"):
            self.fresh(given, source)
            return
        self.subscribers[known[0]] |= given
        for code, name in self.settings["webforms"].items():
            if name in given:
                self.changed(known[0], code, source)

    def snapshot(self, most_calls: int | None = None) -> dict[str, Any]:
        return {**super().snapshot(most_calls), "subscribers": {str(number): dict(one) for number, one in self.subscribers.items()}}


def child(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    element = ET.SubElement(parent, name)
    element.text = text
    return element


def enveloped(content: ET.Element, status: int = 200) -> Reply:
    envelope = ET.Element(f"{{{SOAP}}}Envelope")
    ET.SubElement(envelope, f"{{{SOAP}}}Body").append(content)
    return Reply(status, ET.tostring(envelope, encoding="utf-8", xml_declaration=True), MEDIA_TYPE)


def fault(code: str, text: str) -> Reply:
    element = ET.Element(f"{{{SOAP}}}Fault")
    child(child(element, f"{{{SOAP}}}Code"), f"{{{SOAP}}}Value", f"soap:{code}")
    child(child(element, f"{{{SOAP}}}Reason"), f"{{{SOAP}}}Text", text).set("{http://www.w3.org/XML/1998/namespace}lang", "en")
    return enveloped(element, 400 if code == "Sender" else 500)
