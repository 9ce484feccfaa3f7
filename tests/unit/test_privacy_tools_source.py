"""Privacy Tools as a source: both import bodies, every documented field, and what is refused by its own name."""

from datetime import UTC, datetime

import orjson
import pytest

from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import InvalidInput
from pipeline.routing import Source
from pipeline.schemas import NativeReader
from pipeline.sources import read_source
from pipeline.vendors.base import Notification
from pipeline.vendors.privacy_tools import Adapter

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
SOURCE = Source(name="privacy-tools", kind="privacy_tools", purposes={"test-hash": "newsletter"}, time_zone="America/Sao_Paulo", country="BR")
NATIVE = NativeReader({"newsletter"}, lambda: NOW, 300)


def by_phone(**changes):
    """The body of consent/import/phone with the mandatory fields."""
    whole = {"consentDate": "2026-01-05T13:00:00.000-0300", "consentValue": True, "name": "Ana", "phone": "(51) 99999-9999", "templateHash": "test-hash"}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def hear(content, source=SOURCE, media_type="application/json"):
    raw = content if isinstance(content, bytes) else orjson.dumps(content)
    return read_source(source, Notification(body=raw, media_type=media_type, received_at=NOW), NATIVE)


def refused(content, status=422, **options):
    with pytest.raises(InvalidInput) as caught:
        hear(content, **options)
    assert caught.value.status == status
    return {error.path: error.message for error in caught.value.errors}


def test_the_import_by_phone_is_heard():
    """A phone alone names the person; the moment is exact."""
    moment = datetime(2026, 1, 5, 16, tzinfo=UTC)
    subject = Subject(phone="+5551999999999", country="BR")
    assert hear(by_phone()) == [
        IncomingEvent(subject=subject, purpose="newsletter", state=State.GIVEN, event_time=moment, event_time_end=moment, profile={"name": "Ana"})
    ]


def test_the_import_by_email_is_heard_with_every_documented_field():
    """Optional fields become identifiers, evidence, group and metadata; what the vendor itself would do is ignored."""
    (event,) = hear(
        {
            "consentDate": "05/01/2026",
            "consentValue": False,
            "name": "Ana",
            "email": "Ana@Example.org",
            "templateHash": "test-hash",
            "document": "012.345.678-09",
            "phone": "",
            "hashUser": "Hash-7",
            "groupName": "customers",
            "metadata": [{"name": "shop", "value": "7"}, {"name": "age", "value": 42}, {"name": "vip", "value": True}],
            "formOrigin": "signup",
            "websiteOrigin": "https://example.org",
            "userIp": "192.0.2.1",
            "userAgent": "test-agent",
            "portalHash": "test-portal",
            "sendEmailPortal": False,
            "sendEmailPortalResetPassword": False,
            "sendSMS": True,
            "sendSMSMessage": "hello",
            "updateUserData": True,
        }
    )
    assert event.subject == Subject(external_id="Hash-7", email="ana@example.org", national_id="01234567809", country="BR")
    assert (event.state, event.group, event.idempotency_key) == (State.WITHDRAWN, "customers", None)
    assert event.event_time == datetime(2026, 1, 5, 3, tzinfo=UTC)
    assert event.event_time_end == datetime(2026, 1, 6, 2, 59, 59, 999_999, tzinfo=UTC)
    assert event.metadata == {"shop": "7", "age": "42", "vip": "true"}
    assert event.evidence == {"ip": "192.0.2.1", "user_agent": "test-agent", "website": "https://example.org", "form": "signup"}


@pytest.mark.parametrize("value,state", [(True, State.GIVEN), ("true", State.GIVEN), (False, State.WITHDRAWN), ("false", State.WITHDRAWN)])
def test_consent_value_may_be_text(value, state):
    """Templated bodies cannot always write a bare true."""
    assert hear(by_phone(consentValue=value))[0].state is state


def test_without_a_date_the_receipt_is_the_moment():
    """The vendor calls consentDate mandatory, and leaves it out of its own example."""
    assert hear(by_phone(consentDate=...))[0].event_time == NOW


def test_the_source_decides_what_a_date_leaves_open():
    """Order of day and month, and time zone."""
    text = "01/02/2026"
    month_first = Source(name="p", kind="privacy_tools", purposes={"test-hash": "newsletter"}, date_order="month_first")
    assert hear(by_phone(consentDate=text), month_first)[0].event_time == datetime(2026, 1, 2, tzinfo=UTC)
    assert refused(by_phone(consentDate=text)) == {"consentDate": "must not lie in the future"}


def test_a_day_that_has_begun_is_not_the_future():
    """A bare date of today ends later than now, but may have begun."""
    assert hear(by_phone(consentDate="10/01/2026"))[0].event_time == datetime(2026, 1, 10, 3, tzinfo=UTC)


@pytest.mark.parametrize("text", ["10/01/2026 12:00:00", "2026-01-10T12:00:01.000Z", "11/01/2026"])
def test_a_withdrawal_ahead_of_the_clock_was_said_when_it_came(text):
    """A platform that writes UTC at a source of São Paulo is three hours ahead: a consent is refused for it, a withdrawal is not."""
    (event,) = hear(by_phone(consentDate=text, consentValue=False))
    assert (event.state, event.event_time, event.event_time_end) == (State.WITHDRAWN, NOW, NOW)


def test_a_consent_ahead_of_the_clock_is_refused():
    """More than clocks may differ; without a readable state, too."""
    for changes in ({}, {"consentValue": "yes"}):
        assert refused(by_phone(consentDate="10/01/2026 12:00:00", **changes))["consentDate"] == "must not lie in the future"


def test_a_source_without_country_reads_phones_as_brazilian():
    """The vendor's own sample is a Brazilian number without a country code; the subject's country stays unknown."""
    source = Source(name="p", kind="privacy_tools", purposes={"test-hash": "newsletter"})
    assert hear(by_phone(), source)[0].subject == Subject(phone="+5551999999999")


@pytest.mark.parametrize(
    "changes,path,message",
    [
        ({"name": ...}, "name", "is required"),
        ({"name": None}, "name", "is required"),
        ({"name": 7}, "name", "must be a string"),
        ({"name": "x" * 1001}, "name", "must have at most 1000 characters"),
        ({"name": "a\nb"}, "name", "must not contain control characters"),
        ({"consentValue": ...}, "consentValue", "is required"),
        ({"consentValue": "yes"}, "consentValue", "must be true or false"),
        ({"consentValue": 1}, "consentValue", "must be true or false"),
        ({"consentValue": [True]}, "consentValue", "must be true or false"),
        ({"templateHash": ...}, "templateHash", "is required"),
        ({"templateHash": "other"}, "templateHash", "is not tied to a purpose by this source's `purposes`"),
        ({"phone": "12"}, "phone", "must be a phone number with all its digits and no extension, such as +5551999999999"),
        ({"phone": 51999999999}, "phone", "must be a string"),
        ({"email": "ana"}, "email", "must be one e-mail address such as ana@example.org"),
        ({"document": "12#3"}, "document", "must be made of digits and letters, with at most . - / _ or blanks between them"),
        ({"hashUser": "x" * 255}, "hashUser", "must have at most 254 characters"),
        ({"userIp": "192.0.2.1\r\n"}, "userIp", "must not contain control characters"),
        ({"consentDate": "2026-01-05"}, "consentDate", "must be a date such as 2026-01-05T13:00:00.000-0300, 05/01/2026 or 05/01/2026 13:00:00"),
        ({"consentDate": "01/01/2027"}, "consentDate", "must not lie in the future"),
        ({"metadata": {"a": "b"}}, "metadata", "must be a list of at most 50 pairs of name and value"),
        ({"metadata": [{"name": "n", "value": "v"}] * 51}, "metadata", "must be a list of at most 50 pairs of name and value"),
        ({"metadata": [{"name": "n", "value": "v"}, {"name": "n"}]}, "metadata.1", "must be an object with a name and a value"),
        ({"metadata": [{"name": "n", "value": None}]}, "metadata.0", "must have a text or a number as its value"),
        ({"colour": "red"}, "colour", "unknown field"),
        ({"ana@example.org": "x"}, "?", "unknown field"),
    ],
)
def test_each_wrong_field_is_named_as_the_vendor_names_it(changes, path, message):
    """One thing is wrong and one error says so."""
    assert refused(by_phone(**changes)) == {path: message}


@pytest.mark.parametrize("phone", [..., None, "", "  "])
def test_neither_email_nor_phone_is_refused(phone):
    """A document alone is no body of either import."""
    assert sorted(refused(by_phone(phone=phone, document="012.345.678-09"))) == ["email", "phone"]


def test_an_array_of_bodies_is_heard_one_by_one():
    """Each wrong body stays in its place; the others are heard."""
    first, second, third = hear([by_phone(), 5, by_phone(consentValue=False)])
    assert (first.state, third.state) == (State.GIVEN, State.WITHDRAWN)
    assert isinstance(second, InvalidInput)
    assert [(error.path, error.message) for error in second.errors] == [("", "must be an object")]


@pytest.mark.parametrize(
    "content,status,message",
    [
        (b"{", 400, "is not valid JSON at line 1, column 2"),
        ([], 422, "must hold at least one body"),
        ("x", 422, "must be an object"),
        ([1] * 5001, 413, "must hold at most 5000 bodies"),
    ],
)
def test_a_body_that_cannot_be_taken_is_refused_whole(content, status, message):
    """Unreadable, empty, no object or too many."""
    assert refused(content, status) == {"": message}


def test_another_media_type_is_refused():
    """The vendor's API speaks JSON only."""
    assert refused(by_phone(), 415, media_type="text/plain") == {"": "must be application/json"}


@pytest.mark.parametrize("name,profile", [("-", {}), ("--", {}), ("Ana", {"name": "Ana"}), ("安娜", {"name": "安娜"})])
def test_a_dash_is_no_name(name, profile):
    """A webhook's template must have a name, but may have no variable for one."""
    assert hear(by_phone(name=name))[0].profile == profile


@pytest.mark.parametrize("text", ["${document}", " ${document} ", "${}"])
def test_a_variable_that_was_not_filled_counts_as_absent(text):
    """The platform leaves a variable of a template as it is when it has nothing to put in."""
    assert hear(by_phone(document=text))[0].subject.national_id is None
    assert refused(by_phone(document="${a} 7")) == {"document": "must be made of digits and letters, with at most . - / _ or blanks between them"}


def test_it_is_heard_and_told():
    """The same file serves a source and a destination."""
    assert Adapter.capabilities.sends_events
    assert Adapter.capabilities.states == frozenset(State)
