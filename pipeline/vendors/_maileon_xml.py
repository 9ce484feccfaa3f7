"""Maileon's XML: contacts as they are sent, contacts and import reports as they come back; pure, no I/O.

Answers are read without a DTD, so that no entity can be declared, let alone expanded; the transport caps their size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from pipeline.domain import Instruction, Outcome, Subject, VendorResult

NONE, SOI, COI, DOI, DOI_PLUS, OTHER = range(1, 7)
PERMISSIONS: Final = {"none": NONE, "soi": SOI, "coi": COI, "doi": DOI, "doi+": DOI_PLUS, "other": OTHER}
LONGEST_VALUE: Final = 255

_NOT_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNSUBSCRIBED: Final = VendorResult(outcome=Outcome.REJECTED, reason="unsubscribed")
_APPLIED: Final = VendorResult(outcome=Outcome.APPLIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A contact as Maileon shows it."""

    contact_id: str
    permission: int
    updated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a bulk call came to: how many contacts were skipped as unsubscribed, and the error code of each invalid one by its identifier."""

    unsubscribed: int
    invalid: Mapping[str, str]

    def results(self, subjects: Sequence[Subject]) -> list[VendorResult] | None:
        """One result for each contact sent, or None if some were skipped and the report does not tell whom."""
        codes = [self.invalid.get((subject.email or "").lower()) or self.invalid.get((subject.external_id or "").lower()) for subject in subjects]
        if 0 < self.unsubscribed < codes.count(None):
            return None
        told = _UNSUBSCRIBED if self.unsubscribed else _APPLIED
        return [VendorResult(outcome=Outcome.REJECTED, reason=f"invalid_contact_{code}") if code else told for code in codes]


def parse(body: bytes) -> Element | None:
    """The root of an answer, or None if it is no XML, an HTML page, or has a document type."""
    if b"<!" in body or b"\x00" in body:  # Also no comment and no CDATA, which Maileon does not send; NUL would be UTF-16.
        return None
    try:
        root = ET.fromstring(body)  # noqa: S314 (no DTD, see above)
    except ET.ParseError:
        return None
    return None if root.tag.lower() == "html" else root


def write(root: Element) -> bytes:
    """The body of a request."""
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def contact_of(instruction: Instruction, *, without: str = "", custom_fields: Iterable[str] = ()) -> Element:
    """A contact to send; the identifier that the address of the call names must not be in it."""
    subject, contact = instruction.subject, Element("contact")
    for name, value in (("email", subject.email), ("external_id", subject.external_id)):
        if value and name != without:
            _child(contact, name, value)
    custom = {name: instruction.metadata.get(name) or instruction.profile.get(name, "") for name in custom_fields}
    for name, values in (("standard_fields", _standard(instruction)), ("custom_fields", custom)):
        fields = [(key, value) for key, value in values.items() if value]
        parent = ET.SubElement(contact, name) if fields else contact
        for key, value in fields:
            field = ET.SubElement(parent, "field")
            _child(field, "name", key)
            _child(field, "value", value)
    return contact


def contacts_of(contacts: Iterable[Element]) -> Element:
    """Contacts for one bulk call."""
    root = Element("contacts")
    root.extend(contacts)
    return root


def known_contact(body: bytes) -> Known | None:
    """The contact that an answer shows; None if it shows none, several, or one whose permission cannot be read."""
    root = parse(body)
    contacts = [] if root is None else [root] if root.tag == "contact" else root.findall("contact")
    if len(contacts) != 1:
        return None
    text = contacts[0].findtext("permission", "").strip().lower()
    permission = PERMISSIONS.get(text) or (int(text) if text in {"1", "2", "3", "4", "5", "6"} else None)
    if permission is None:
        return None
    return Known(contact_id=number(contacts[0].findtext("id", "")), permission=permission, updated_at=_instant(contacts[0].findtext("updated", "")))


def report_of(body: bytes) -> Report | None:
    """The report of a bulk call, found by the names of its parts because its root is not documented."""
    root = parse(body)
    unsubscribed = number(root.findtext(".//count_unsubscribed_contacts", "")) if root is not None else ""
    if root is None or not unsubscribed:
        return None
    invalid = {}
    for entry in root.iter("invalid_contacts"):
        for item in [entry, *entry]:
            error = item.find("error")
            code = number(error.get("code") or error.findtext("code") or error.text or "") if error is not None else ""
            for name in ("email", "external_id"):
                if text := item.findtext(name, "").strip().lower():
                    invalid[text] = code or "unknown"
    return Report(unsubscribed=int(unsubscribed), invalid=invalid)


def number(text: str) -> str:
    """A number as Maileon writes ids and counts, or nothing: an answer's free text may quote a person."""
    text = text.strip()
    return text if re.fullmatch(r"[0-9]{1,20}", text) else ""


def _child(parent: Element, name: str, text: str) -> None:
    ET.SubElement(parent, name).text = _NOT_XML.sub("", text)[:LONGEST_VALUE]


def _standard(instruction: Instruction) -> dict[str, str]:
    """Standard fields; a withdrawal never sends any."""
    profile = instruction.profile
    first, last = profile.get("first_name", ""), profile.get("last_name", "")
    return {
        "SALUTATION": profile.get("salutation", ""),
        "TITLE": profile.get("title") or profile.get("name_prefix", ""),
        "FIRSTNAME": first,
        "LASTNAME": last,
        "FULLNAME": profile.get("name") or f"{first} {last}".strip(),
        "LOCALE": _locale(profile.get("language", ""), instruction.subject.country or ""),
    }


def _locale(language: str, country: str) -> str:
    """`xx_XX`, the only form that Maileon takes; empty if the country is not known."""
    match = re.fullmatch(r"([a-zA-Z]{2})(?:[-_]([a-zA-Z]{2}))?", language)
    region = (match[2] or country).upper() if match else ""
    return f"{match[1].lower()}_{region}" if match and region else ""


def _instant(text: str) -> datetime | None:
    """`yyyy-mm-dd hh:mm:ss`; its zone is not documented and read as UTC."""
    try:
        return datetime.fromisoformat(text.strip()[:19]).replace(tzinfo=UTC)
    except ValueError:
        return None
