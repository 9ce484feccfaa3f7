"""Half a character in what one person typed: it costs neither the neighbours what they said, nor the relay its hashing and sealing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from pipeline import loose_json
from pipeline.domain import IncomingEvent, Polled
from pipeline.errors import InvalidInput
from pipeline.identifiers import Hasher, normalise_email, normalise_external_id, normalise_national_id, normalise_phone
from pipeline.routing import Source
from pipeline.schemas import NativeReader
from pipeline.sources import read_source
from pipeline.vendors import contacthub
from pipeline.vendors.base import Notification, VendorResponse
from tests.support.relay import Relay, destination, routing
from tests.vendors.drivers import replay

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
NATIVE = NativeReader({"news", "tracking"}, lambda: NOW, 300)
HALF = b"\\ud800"


@pytest.mark.parametrize(
    "body, value",
    [
        (b'{"a": "Ana", "b": 1.5}', {"a": "Ana", "b": 1.5}),
        (b'["\\ud800", "\\udc00x", "\\ud83d\\ude00"]', ["\ufffd", "\ufffdx", "\N{GRINNING FACE}"]),
        (b'{"\\ud800": 1e30}', {"\ufffd": 1e30}),
        (b'"\xed\xa0\x80"', "\ufffd"),
    ],
)
def test_half_a_character_is_replaced(body: bytes, value: Any) -> None:
    """As an escape, as bytes, or in a name; a whole one written as two escapes stays whole, and everything can be written again."""
    assert loose_json.loads(body) == value
    assert orjson.loads(orjson.dumps(value)) == value


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"a": "\\ud800"', b'["\\ud800", NaN]', b'["\\ud800", -1e999]', b'"\xff"', b"[" * 100_000, b"\xef\xbb\xbf{}"]
)
def test_what_is_no_json_stays_none(body: bytes) -> None:
    """A cut or foreign body is refused, and in a vendor's answer there is nothing to be read."""
    with pytest.raises(orjson.JSONDecodeError):
        loose_json.loads(body)
    assert VendorResponse(status=200, body=body).json() is None


@pytest.mark.parametrize("lost", [chr(0xD800), chr(0xDFFF), chr(0xFFFD)])
@pytest.mark.parametrize(
    "normalise, text",
    [
        (normalise_email, "a{}na@example.org"),
        (normalise_email, "ana@exa{}mple.org"),
        (normalise_phone, "+55 51 99999{}9999"),
        (normalise_national_id, "123{}"),
        (normalise_external_id, "person-{}"),
    ],
)
def test_an_identifier_that_lost_a_character_names_nobody(normalise: Any, text: str, lost: str) -> None:
    """Two people could look alike by what is left."""
    with pytest.raises(ValueError, match="must"):
        normalise(text.format(lost))


EMAIL = {"contacts": {"email": "ana@example.org"}}


def change(**base: Any) -> dict[str, Any]:
    subscription = {"id": "n", "subscribed": False, "endDate": "2026-01-05T13:00:00Z"}
    return {"operation": "UPDATE", "entity": {"type": "CUSTOMER", "data": {"base": {**EMAIL, "subscriptions": [subscription], **base}}}}


def native(**subject: str) -> dict[str, Any]:
    return {"subject": subject, "purpose": "news", "state": "withdrawn", "event_time": "2026-01-05T13:00:00Z"}


def imported(**changes: str) -> dict[str, Any]:
    return {"consentDate": "05/01/2026", "consentValue": False, "templateHash": "n", "name": "Ana", "email": "ana@example.org", **changes}


def registration(**changes: str) -> dict[str, Any]:
    return {"email": "ana@example.org", "newsletter": True, "registered_at": "2026-01-05T13:00:00Z", **changes}


BATCHES = [
    # kind, items before encoding ("HALF" becomes half a character), how each is read: True an event, False an InvalidInput
    ("contacthub", [change(), change(firstName="HALF"), change(contacts={"email": "HALFa@example.org"})], [True, True, False]),
    ("privacy_tools", [imported(), imported(name="HALF"), imported(email="HALFa@example.org"), imported(userAgent="HALF")], [True, True, False, True]),
    ("cmxorganize", [registration(), registration(first_name="HALF"), registration(email="HALFa@example.org")], [True, True, False]),
    ("native", [native(email="ana@example.org"), native(email="HALFa@example.org"), native(external_id="x")], [True, False, True]),
]


def notification(kind: str, items: Sequence[Any]) -> Notification:
    content = {"nextOffset": "9", "updates": items} if kind == "contacthub" else items
    return Notification(body=orjson.dumps(content).replace(b"HALF", HALF), media_type="application/json", received_at=NOW)


def heard(kind: str, note: Notification) -> list[IncomingEvent | InvalidInput]:
    source = Source(name="s", kind=kind, purposes={"n": "news", "newsletter": "news", "doi": "news"})
    return list(read_source(source, note, NATIVE))


@pytest.mark.parametrize("kind, items, readable", BATCHES, ids=[kind for kind, _, _ in BATCHES])
def test_the_neighbours_are_heard(kind: str, items: Sequence[Any], readable: Sequence[bool]) -> None:
    """Of many only whoever cannot be named is refused, in his place, and what is heard can be hashed and sealed."""
    found = heard(kind, notification(kind, items))
    assert [isinstance(one, IncomingEvent) for one in found] == readable
    for one in found:
        if isinstance(one, IncomingEvent):
            assert len(Hasher(b"pepper").content_hash(one)) == 24


def test_a_polled_page_is_heard_and_accepted(client: Any) -> None:
    """The stream goes on behind a customer whose name is half a character, and his withdrawal is safe and told."""
    relay = Relay(client, routing([destination("mail")]))
    adapter = contacthub.Adapter(credentials={"token": "test-token"}, options={"workspace_id": "w", "node_id": "n", "subscription_id": "n"})
    body = notification("contacthub", [change(firstName="HALF"), change(contacts={"email": "bia@example.org"})]).body
    page = replay(adapter.poll("5", Source(name="web", purposes={"n": "news"}).settings(), NOW), VendorResponse(status=200, body=body)).result
    assert isinstance(page, Polled)
    assert (page.position, len(page.events)) == ("9", 2)
    relay.acceptor.accept_many([(relay.rules.sources["web"], event) for event in page.events])  # type: ignore[misc]
    relay.drain()
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "withdrawn", ("bia@example.org", "news"): "withdrawn"}


def test_a_webhook_about_one_person_is_heard() -> None:
    """A name of no use does not cost a person his own withdrawal; an address of no use is refused by its name."""
    form = {"type": "unsubscribe", "fired_at": "2026-01-05 16:00:00", "data[list_id]": "n", "data[email]": "ana@example.org", "data[merges][FNAME]": "HALF"}
    for body, media_type, kind in (
        (urlencode(form).encode().replace(b"HALF", b"%ED%A0%80"), "application/x-www-form-urlencoded", "mailchimp"),
        (b'{"event": "unsubscription", "email": "ana@example.org", "firstname": "\\ud800"}', "application/json", "maileon"),
    ):
        note = Notification(body=body, media_type=media_type, received_at=NOW)
        (event,) = heard(kind, note)
        assert isinstance(event, IncomingEvent)
        assert event.subject.email == "ana@example.org"
        with pytest.raises(InvalidInput) as caught:
            heard(kind, Notification(body=body.replace(b"ana", b"%FF" if kind == "mailchimp" else HALF), media_type=media_type, received_at=NOW))
        assert (caught.value.status, [error.path.rpartition("email")[1] for error in caught.value.errors]) == (422, ["email"])
