"""Maileon API 1.0 as its documentation and its own clients describe it: XML, permissions that only rise, double opt-in, unsubscription that takes its time.

Settings: `unsubscribe_seconds` until an accepted unsubscription is carried out; `confirms_at_once` makes people click the moment they are mailed; `rights` are
the verbs of the key; `lowers` is whether an update may lower a permission, as Maileon's client says and its pages do not. A person confirms, or leaves by himself, through `place` (`email`, and `confirmed`, `unsubscribed`, or a `permission` to put him there with).
"""

from __future__ import annotations

import base64
import itertools
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request

API_KEY = "test-maileon-key"
NONE, SOI, COI, DOI, DOI_PLUS, OTHER = range(1, 7)
MEDIA_TYPE = "application/vnd.maileon.api+xml; charset=utf-8"
LONGEST = 255


class Sandbox(base.Sandbox):
    name = "maileon"
    version_path = "/1.0"
    defaults: ClassVar = {
        "api_keys": [API_KEY],
        "rights": ["GET", "POST", "PUT", "DELETE"],
        "unsubscribe_seconds": 2.0,
        "unsubscribe_status": 202,
        "confirms_at_once": False,
        "lowers": True,
    }

    world: ClassVar = (*base.Sandbox.world, "markers", "leaving", "mails")

    def reset(self) -> None:
        super().reset()
        self.markers: set[str] = set()
        self.leaving: dict[str, float] = {}
        self.mails: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)

    def snapshot(self, most_calls: int | None = None) -> dict[str, Any]:
        self.carry_out()
        return {**super().snapshot(most_calls), "markers": sorted(self.markers), "mails": list(self.mails)}

    def operation(self, request: Request) -> str:
        """Without the person."""
        return re.sub(r"/(email|externalid)/[^/]+", r"/\1/{name}", f"{request.method} {request.path.removeprefix('/1.0')}")

    def handle(self, request: Request) -> Reply:
        self.carry_out()
        if request.headers.get("authorization") not in [f"Basic {base64.b64encode(key.encode()).decode()}" for key in self.settings["api_keys"]]:
            return refused(401, "The API key is missing, invalid or expired.")
        if request.method not in self.settings["rights"]:
            return refused(403, f"The API key has no right to {request.method}.")
        parts = [unquote(part) for part in request.path.split("/")[1:]]
        try:
            return self.routed(request, parts)
        except ET.ParseError:
            return refused(400, "The body is not well-formed.")

    def routed(self, request: Request, parts: list[str]) -> Reply:
        if parts == ["ping"]:
            return Reply(200, content_type=MEDIA_TYPE)  # Every verb is answered, so that a key's rights can be tried without touching anybody.
        if parts == ["contacts"] and request.method == "POST":
            return self.synchronise(request)
        if parts[0] != "contacts" or len(parts) not in (3, 4) or parts[1] not in {"email", "externalid"}:
            return refused(404, "There is no such resource.")
        if parts[1] == "email" and not is_email(parts[2]):
            return refused(400, "The e-mail address is not valid.")
        rest = parts[3:]
        if rest == ["unsubscription"] and parts[1] == "email":
            return self.marker(request.method, parts[2].lower())
        found = self.find(parts[1], parts[2])
        if len(found) > 1:
            return refused(409, "Several contacts have this external id.")
        if rest == ["unsubscribe"] and request.method == "DELETE":
            return self.unsubscribe(found)
        if rest or request.method not in {"GET", "POST", "PUT"}:
            return refused(405, "This is not allowed here.")
        if request.method == "POST":
            return self.create(request, parts[1], parts[2], found)
        if not found:
            return refused(404, "There is no such contact.")
        return self.show(found[0], parts[1]) if request.method == "GET" else self.update(request, found[0])

    def find(self, kind: str, name: str) -> list[dict[str, Any]]:
        wanted = ("email", name.lower()) if kind == "email" else ("external_id", name)
        return [contact for contact in self.contacts.values() if not contact["gone"] and contact[wanted[0]] == wanted[1]]

    def create(self, request: Request, kind: str, name: str, found: list[dict[str, Any]]) -> Reply:
        body = ET.fromstring(request.body or b"<contact/>")
        email = name.lower() if kind == "email" else body.findtext("email", "").lower()
        if kind == "email" and body.find("email") is not None:
            return refused(400, "The e-mail address must not be in the body.")
        if not found and not is_email(email):
            return refused(400, "A new contact needs an e-mail address.")
        if found and request.query.get("sync_mode", "2") != "1":
            return said("contact_id", found[0]["id"], 200)
        contact = found[0] if found else self.fresh(email)
        if kind == "externalid":
            contact["external_id"] = name
        permission = int(request.query.get("permission", "1"))
        if contact["permission"] not in {DOI, DOI_PLUS} or permission > contact["permission"]:
            contact["permission"] = permission
        self.keep(contact, body)
        if request.query.get("doi") == "true":
            self.mail(contact, plus=request.query.get("doiplus") == "true", mailing=request.query.get("doimailing"))
        return said("contact_id", contact["id"], 200 if found else 201)

    def mail(self, contact: dict[str, Any], *, plus: bool, mailing: str | None) -> None:
        self.mails.append({"email": contact["email"], "plus": plus, "mailing": mailing})
        contact["asked"] = DOI_PLUS if plus else DOI
        if self.settings["confirms_at_once"]:
            self.confirm(contact)

    def confirm(self, contact: dict[str, Any]) -> None:
        contact["permission"] = max(contact["asked"], contact["permission"] if contact["permission"] in {DOI, DOI_PLUS} else 0)
        self.keep(contact, ET.Element("contact"))

    def fresh(self, email: str) -> dict[str, Any]:
        contact = {"id": next(self.numbers), "email": email, "external_id": "", "permission": NONE, "created": now(), "asked": 0, "gone": False, "fields": {}}
        self.contacts[email] = contact
        return contact

    def keep(self, contact: dict[str, Any], body: ET.Element) -> None:
        contact["external_id"] = body.findtext("external_id") or contact["external_id"]
        contact["fields"] |= {field.findtext("name", ""): field.findtext("value", "") for field in body.iter("field")}
        contact |= {"updated": now(), "state": "given" if contact["permission"] >= SOI else "pending"}
        self.told(contact["email"], contact["state"], permission=contact["permission"])

    def update(self, request: Request, contact: dict[str, Any]) -> Reply:
        permission = int(request.query.get("permission", contact["permission"]))
        contact["permission"] = permission if self.settings["lowers"] else max(permission, contact["permission"])
        self.keep(contact, ET.fromstring(request.body))
        return Reply(200, content_type=MEDIA_TYPE)

    def show(self, contact: Mapping[str, Any], kind: str) -> Reply:
        root = ET.Element("contact")
        for name in ("id", "email", "permission", "external_id", "created", "updated"):
            ET.SubElement(root, name).text = str(contact[name])
        if kind == "externalid":
            shown, root = root, ET.Element("contacts")
            root.append(shown)
        return as_xml(root)

    def unsubscribe(self, found: list[dict[str, Any]]) -> Reply:
        if not found:
            return refused(404, "There is no such contact.")
        self.leaving.setdefault(found[0]["email"], time.time() + self.settings["unsubscribe_seconds"])
        self.carry_out()
        return Reply(self.settings["unsubscribe_status"], content_type=MEDIA_TYPE)

    def carry_out(self) -> None:
        """Unsubscriptions whose time has come: the contact is anonymised and its address marked."""
        for email in [email for email, due in self.leaving.items() if due <= time.time()]:
            del self.leaving[email]
            self.markers.add(email)
            self.contacts[email] |= {"gone": True, "state": "withdrawn", "permission": NONE, "fields": {}}
            self.told(email, "withdrawn")

    def marker(self, method: str, email: str) -> Reply:
        is_set = email in self.markers
        if method == "GET":
            return Reply(200, content_type=MEDIA_TYPE) if is_set else refused(404, "There is no marker.")
        if method == "PUT":
            self.markers.add(email)
            if email not in self.contacts:
                self.fresh(email)
                self.contacts[email] |= {"gone": True, "state": "withdrawn"}
                self.told(email, "withdrawn")
            return Reply(200 if is_set else 201, content_type=MEDIA_TYPE)
        if method == "DELETE":
            self.markers.discard(email)
            return Reply(200 if is_set else 404, content_type=MEDIA_TYPE)
        return refused(405, "This is not allowed here.")

    def synchronise(self, request: Request) -> Reply:
        query = request.query
        by_id, seen = query.get("use_external_id") == "true", set()
        report: dict[str, int] = dict.fromkeys(("contacts", "new_contacts", "existing_contacts", "unsubscribed_contacts", "invalid_contacts"), 0)
        invalid = ET.Element("invalid_contacts")
        people = ET.fromstring(request.body).findall("contact")
        codes = []
        for person in people:
            name = person.findtext("external_id" if by_id else "email", "").lower()
            codes.append(self.error_code(person, name in seen, by_id=by_id))
            seen.add(name)
        if any(codes) and query.get("ignore_invalid_contacts") != "true":
            return refused(400, "There are invalid contacts.")
        for person, code in zip(people, codes, strict=True):
            report["contacts"] += 1
            report[f"{self.import_one(person, query, by_id=by_id) if not code else 'invalid'}_contacts"] += 1
            if code:
                item = ET.SubElement(invalid, "contact")
                for name in ("email", "external_id"):
                    ET.SubElement(item, name).text = person.findtext(name, "")
                ET.SubElement(item, "error", {"code": str(code)})
        root = ET.Element("sync_report")
        ET.SubElement(root, "success").text = "true"
        for name, count in report.items():
            ET.SubElement(root, f"count_{name}").text = str(count)
        root.append(invalid)
        return as_xml(root)

    def error_code(self, person: ET.Element, is_double: bool, *, by_id: bool) -> int:
        email, external_id = person.findtext("email", ""), person.findtext("external_id", "")
        if by_id and not external_id:
            return 1
        if not email and not (by_id and self.find("externalid", external_id)):
            return 2
        if email and not is_email(email):
            return 3
        if is_double:
            return 4 if by_id else 5
        return 6 if any(len(value.text or "") > LONGEST for value in person.iter("value")) else 0

    def import_one(self, person: ET.Element, query: Mapping[str, str], *, by_id: bool) -> str:
        email = person.findtext("email", "").lower()
        found = self.find("externalid", person.findtext("external_id", "")) if by_id else self.find("email", email)
        if not found and email in self.markers and query.get("reimport_unsubscribed_contacts", "true") == "true":
            self.markers.discard(email)
        if not found and email in self.markers:
            return "unsubscribed"
        contact = found[0] if found else self.fresh(email)
        if not found or query.get("override_permission", "true") == "true":
            contact["permission"] = int(query.get("permission", "1"))
        if not found or query.get("sync_mode", "2") == "1":
            self.keep(contact, person)
        return "existing" if found else "new"

    def forget(self, contact: Mapping[str, Any]) -> None:
        super().forget(contact)
        self.markers.discard(contact["email"].lower())

    def place(self, contact: Mapping[str, Any]) -> None:
        email = contact["email"].lower()
        if contact.get("unsubscribed"):
            self.leaving[email] = 0.0
            if email not in self.contacts:
                self.fresh(email)
            self.carry_out()
        elif contact.get("confirmed"):
            self.confirm(self.contacts[email])
        else:
            held = self.fresh(email)
            held |= {"permission": contact["permission"], "external_id": contact.get("external_id", "")}
            self.keep(held, ET.Element("contact"))
            held["updated"] = contact.get("updated", held["updated"])


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def is_email(text: str) -> bool:
    return re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", text) is not None


def as_xml(root: ET.Element, status: int = 200) -> Reply:
    return Reply(status, ET.tostring(root, encoding="utf-8", xml_declaration=True), MEDIA_TYPE)


def said(name: str, text: object, status: int) -> Reply:
    root = ET.Element(name)
    root.text = str(text)
    return as_xml(root, status)


def refused(status: int, message: str) -> Reply:
    root = ET.Element("error")
    ET.SubElement(root, "message").text = message
    return as_xml(root, status)
