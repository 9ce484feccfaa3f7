"""Contactsend's SOAP 1.2 messages, written and read with zeep by the WSDL beside this file; nothing here talks to anybody.

- A message is written without its secrets; `with_secrets` puts them into the envelope.
- An answer counts only if its body holds the response element of the operation: `modifySubscriberSubscriptionStatus` has no other sign of success.
- Attributes of subscribers are read as text, whatever type they say: a user database may hold dates such as `0000-00-00`, and types of its own.
- zeep logs what does not fit its type, which may be a person's. So it may log nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from lxml import etree

from pipeline.vendors.base import VendorRequest, VendorResponse

SERVICE: Final = "http://ws.api.contactlab.com/"
BINDING: Final = f"{{{SERVICE}}}ClabServiceBinding"
ENVELOPES: Final = ("http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/")
"""SOAP 1.2, and 1.1, in which a server refuses a version that it does not know."""
HEADERS: Final = (("content-type", 'application/soap+xml; charset=utf-8; action=""'), ("accept", "application/soap+xml"))
WSDL: Final = Path(__file__).with_name("contactsend.wsdl")
SENDER, RECEIVER, PROTOCOL = "sender", "receiver", "protocol"
_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"
_SIDES: Final = {"Sender": SENDER, "Client": SENDER, "Receiver": RECEIVER, "Server": RECEIVER}
_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE: Final = re.compile(r"&#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}));")
_LOST: Final = "\ufffd"
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_WORD: Final = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """A SOAP fault: whose fault it is said to be, and all its words, which may quote a person."""

    side: str
    words: str = field(repr=False)

    def names_any(self, phrases: list[str]) -> bool:
        """Whether one of the phrases is in the fault's code, reason or detail; `InvalidTokenException` counts as three words."""
        return any(f" {_as_words(phrase)} " in f" {self.words} " for phrase in phrases)


@dataclass(frozen=True, slots=True)
class Answer:
    """The response element of an operation with what it returns, as zeep reads it: an object, or None if it returns nothing."""

    returned: Any = field(repr=False)


def write(operation: str, **arguments: Any) -> VendorRequest:
    """A request with every argument but the secrets."""
    client = _client()
    secrets: dict[str, Any] = {"apiKey": "", "userKey": ""} if operation == "borrowToken" else {"token": {}}
    envelope = client.create_message(client.service, operation, **secrets, **arguments)
    return VendorRequest(operation=operation, headers=HEADERS, body=etree.tostring(envelope, encoding="utf-8", xml_declaration=True))


def with_secrets(body: bytes, secrets: Mapping[str, str]) -> bytes:
    """A message with its session token (`token`), or with the keys that it borrows one with."""
    envelope = etree.fromstring(body, _parser())
    for name, secret in secrets.items():
        place = envelope.find(f"*/*/{name}")
        (etree.SubElement(place, "content") if name == "token" else place).text = secret
    return bytes(etree.tostring(envelope, encoding="utf-8", xml_declaration=True))


def attribute(key: str, value: str | int) -> dict[str, Any]:
    """An attribute of a subscriber; its value carries its own type, as `anyType` needs."""
    from zeep import xsd

    return {"key": key, "value": xsd.AnyObject(xsd.Int(), value) if isinstance(value, int) else xsd.AnyObject(xsd.String(), _NOT_XML.sub("", value))}


def read(operation: str, response: VendorResponse) -> Answer | Fault | None:
    """What an answer says, whatever its status; None if it is no SOAP answer to this operation."""
    body = _body(response.body)
    if body is None or len(body) != 1:
        return None
    if body[0].tag in [f"{{{namespace}}}Fault" for namespace in ENVELOPES]:
        return _fault(body[0])
    return _answer(operation, body) if body[0].tag == f"{{{SERVICE}}}{operation}Response" else None


def read_fault(response: VendorResponse) -> Fault | None:
    """The fault of an answer to whatever operation; None if it is none."""
    if b"Fault" not in response.body:
        return None
    read_as = read("", response)
    return read_as if isinstance(read_as, Fault) else None


@cache
def _client() -> Any:
    """Zeep's view of the service, made at the first message of a process: it takes a quarter of a second."""
    from zeep import Client, Settings

    logging.getLogger("zeep").setLevel(logging.CRITICAL + 1)
    return Client(str(WSDL), settings=Settings(strict=True, xml_huge_tree=False, forbid_dtd=True, forbid_entities=True))


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, remove_comments=True, remove_pis=True)


def _body(content: bytes) -> Any:
    """The body element of an envelope, or None; a document type is refused before anything in it counts."""
    envelope = _parsed(content)
    if envelope is None:
        envelope = _parsed(_without_illegal(content))
    if envelope is None:
        return None
    if envelope.getroottree().docinfo.doctype:
        return None
    bodies = [envelope.find(f"{{{namespace}}}Body") for namespace in ENVELOPES if envelope.tag == f"{{{namespace}}}Envelope"]
    return bodies[0] if bodies else None


def _parsed(content: bytes) -> Any:
    try:
        return etree.fromstring(content, _parser())
    except (etree.XMLSyntaxError, ValueError):
        return None


def _without_illegal(content: bytes) -> bytes:
    """With U+FFFD for what XML may not hold even as a reference: one record with a control character must not make its whole page unreadable."""
    try:
        text = content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return content
    return _NOT_XML.sub(_LOST, _REFERENCE.sub(_legal, text)).encode()


def _legal(reference: re.Match[str]) -> str:
    number = int(reference[1], 16) if reference[1] else int(reference[2])
    return _LOST if number > 0x10FFFF or _NOT_XML.fullmatch(chr(number)) else reference[0]


def _answer(operation: str, body: Any) -> Answer | None:
    from zeep.exceptions import Error

    for value in body.iter("value"):
        value.attrib.pop(_TYPE, None)
    try:
        returned = _client().wsdl.bindings[BINDING].get(operation).output.deserialize(body.getparent())
    except (Error, ValueError, TypeError, LookupError, AttributeError):
        return None
    return Answer(returned)


def _fault(element: Any) -> Fault:
    named = [(etree.QName(child), child.text or "") for child in element.iter() if isinstance(child.tag, str)]
    codes = [text.strip().rpartition(":")[2] for name, text in named if name.localname in ("Value", "faultcode")]
    words = [word for name, text in named for word in ("" if name.namespace in ENVELOPES else name.localname, text)]
    return Fault(_SIDES.get(codes[0], PROTOCOL) if codes else PROTOCOL, _as_words(" ".join(words)))


def _as_words(text: str) -> str:
    return _NOT_WORD.sub(" ", _WORD_START.sub(" ", text)).strip().lower()
