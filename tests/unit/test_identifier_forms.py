"""The ways in which one person's phone, national id and e-mail address are written: what meets, what stays apart, through every source."""

import orjson
import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat

from pipeline.domain import Subject
from pipeline.errors import InvalidInput
from pipeline.identifiers import Hasher, normalise_email, normalise_national_id, normalise_phone
from pipeline.routing import Source
from pipeline.schemas import NativeReader
from pipeline.sources import read_source
from pipeline.vendors import contacthub
from pipeline.vendors.base import Notification, SourceSettings
from tests.unit.test_identifiers import NOON

INCOMPLETE = "must be a phone number with all its digits"
NO_NUMBER_THERE = "must be a number of its country with the area code"
TWO_READINGS = "could be meant with or without its country code"

LOCAL_FORMS = {
    # Brazil: trunk zero, carrier code, the country code without +, area code 55, a landline, a toll-free number.
    ("BR", "+5551999999999"): [
        *("(51) 99999-9999", "51 99999 9999", "51999999999", "(051) 99999-9999", "051 99999-9999", "0 15 51 99999-9999"),
        *("5551999999999", "55 (51) 99999-9999", "+55 (51) 99999-9999", "+55 (0)51 99999-9999", "+55 051 99999-9999", "51 99999\u20119999"),
    ],
    ("BR", "+5555999999999"): ["(55) 99999-9999", "55 99999-9999", "55999999999", "+55 55 99999-9999"],
    ("BR", "+555133334444"): ["(51) 3333-4444", "051 3333-4444", "555133334444"],
    ("BR", "+558001234567"): ["0800 123 4567"],
    # Argentina: the mobile 15 after the area code and the 9 before it are one and the same.
    ("AR", "+5491151190123"): [
        *("011 15 5119-0123", "11 15 5119-0123", "9 11 5119-0123", "54 9 11 5119-0123"),
        *("+54 9 11 5119-0123", "+54 11 15 5119-0123"),
    ],
    ("AR", "+5493415123456"): ["0341 15 512-3456", "+54 9 341 512-3456"],
    ("AR", "+541151190123"): ["11 5119-0123", "011 5119-0123", "+54 11 5119-0123"],
    # Mexico: 01, 044, 045 and the 1 after +52 are gone, the ten digits stayed.
    ("MX", "+525512345678"): [
        *("55 1234 5678", "(55) 1234-5678", "01 55 1234 5678", "044 55 1234 5678", "045 55 1234 5678", "52 55 1234 5678", "5215512345678"),
        *("+52 55 1234 5678", "+52 1 55 1234 5678", "+52 (1) 55 1234 5678", "+52 01 55 1234 5678", "+52 044 55 1234 5678"),
    ],
    # Italy: the zero of a landline is part of the number, also after the country code; a mobile has none.
    ("IT", "+390669821234"): ["06 6982 1234", "06/69821234", "+39 06 6982 1234", "39 06 6982 1234", "0039 06 6982 1234"],
    ("IT", "+393471234567"): ["347 123 4567", "347-1234567", "+39 347 1234567", "39 347 1234567"],
    ("DE", "+4915123456789"): ["0151 23456789", "0151/23456789", "(0151) 234567-89", "+49 (0)151 23456789", "+49 0151 23456789", "0049 151 23456789"],
    ("DE", "+4930123456"): ["030 123456", "(030) 123456", "+49 30 123456"],
    ("US", "+12015550123"): ["(201) 555-0123", "201.555.0123", "1 201 555 0123", "1-201-555-0123", "+1 201 555 0123"],
    ("CL", "+56987654321"): ["9 8765 4321", "+56 9 8765 4321"],
    ("CO", "+573001234567"): ["300 123 4567", "+57 300 123 4567"],
    ("PE", "+51912345678"): ["912 345 678", "+51 912 345 678"],
    ("UY", "+59894231234"): ["094 231 234", "94 231 234", "+598 94 231 234"],
}


@pytest.mark.parametrize("country,expected,text", [(*key, text) for key, texts in LOCAL_FORMS.items() for text in texts])
def test_every_local_form_of_a_number_is_one_number(country, expected, text):
    """However a person dials it inside the country."""
    assert normalise_phone(text, country) == expected
    assert normalise_phone(expected) == expected


@pytest.mark.parametrize(
    "country,text,reason",
    [
        ("BR", "(51) 9999-9999", NO_NUMBER_THERE),
        ("BR", "51 8888-9999", NO_NUMBER_THERE),
        ("BR", "551199999999", NO_NUMBER_THERE),
        ("AR", "15 5119-0123", NO_NUMBER_THERE),
        ("AR", "+54 9 11 15 5119-0123", INCOMPLETE),
        ("MX", "1 55 1234 5678", INCOMPLETE),
        ("MX", "044 55 1234 567", INCOMPLETE),
        ("BR", "01 55 1234 5678", NO_NUMBER_THERE),
        ("IT", "39 0669 8212", TWO_READINGS),
        ("DE", "49 151 23456789", TWO_READINGS),
        ("ID", "62 812 345 678", TWO_READINGS),
        ("SE", "46 8 123456", TWO_READINGS),
        ("US", "011 55 51 99999 9999", NO_NUMBER_THERE),
        ("BR", "51 99999-9999 / 51 98888-8888", "must be a phone number such as"),
    ],
)
def test_a_form_that_could_be_a_strangers_is_refused(country, text, reason):
    """No digit is added or guessed: a number short of one could be an old form or a typing error, and the country code could be an area code."""
    with pytest.raises(ValueError, match=reason):
        normalise_phone(text, country)


@pytest.mark.parametrize(
    "one,other",
    [
        ("+55 51 9999-9999", "+55 51 99999-9999"),
        ("+39 06 6982 1234", "+39 6 6982 1234"),
        ("+39 347 1234567", "+39 0347 1234567"),
        ("+54 11 5119-0123", "+54 9 11 5119-0123"),
    ],
)
def test_an_international_number_is_taken_at_its_word(one, other):
    """Two that look alike stay two: a landline and a mobile, with and without a digit."""
    assert normalise_phone(one) != normalise_phone(other)


EXAMPLES = [
    (country, number)
    for country in sorted(phonenumbers.SUPPORTED_REGIONS)
    for kind in (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE)
    if (number := phonenumbers.example_number_for_type(country, kind)) is not None
]


def test_no_country_reads_a_number_as_another():
    """Mobile and landline of every country: as dialled there it is that number; with a bare country code in front it is that number or refused."""
    refused = {}
    for country, number in EXAMPLES:
        expected = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        assert normalise_phone(phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL), country) == expected
        try:
            assert normalise_phone(expected.removeprefix("+"), country) == expected
        except ValueError as error:
            refused[country] = str(error)
    assert len(EXAMPLES) > 450
    assert {"DE", "ID", "SE"} <= refused.keys()
    assert set(refused.values()) == {f"{TWO_READINGS}; must start with + and the country code"}


CPF_FORMS = ["00123456789", "001.234.567-89", "001 234 567 89", "001234567-89", "001.234.567/89", "001_234_567_89", " 001.234.567-89 "]
CPF_FORMS += ["\uff10\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19", "001\u00a0234\u00a0567\u00a089"]


@pytest.mark.parametrize("text", CPF_FORMS)
def test_a_cpf_keeps_its_leading_zeros_in_every_notation(text):
    """Separators and the width of the digits make no difference, zeros do."""
    assert normalise_national_id(text) == "00123456789"


def test_a_cpf_that_lost_its_zeros_is_not_padded():
    """Whoever dropped them may as well have dropped others."""
    assert normalise_national_id("1234567-89") == "123456789"


@pytest.mark.parametrize(
    "text,expected",
    [("12.345.678-k", "12345678K"), ("RSSMRA80A01H501U", "RSSMRA80A01H501U"), ("0800-1234-567", "08001234567"), ("012 345 678 901", "012345678901")],
)
def test_other_national_ids_keep_zeros_and_letters(text, expected):
    """Chile's check letter, Italy's fiscal code, and numbers that begin with zero."""
    assert normalise_national_id(text) == expected


@pytest.mark.parametrize("text", ["12\u00b2", "\u24602", "\u217712", "12\u00df", "12\ufb01", "\u0660123", "001\u2013234"])
def test_signs_that_only_resemble_digits_and_letters_are_refused(text):
    """A raised 2, a 1 in a circle or a sharp s would become the digits or letters of somebody else's number."""
    with pytest.raises(ValueError, match="digits and letters"):
        normalise_national_id(text)


PEOPLE = [
    *("ab@example.org", "a.b@example.org", "a.b+c@example.org", "ab+c@example.org", "a..b@example.org", "a-b@example.org", "a_b@example.org"),
    *("ab@example.com", "ab@mail.example.org", "ab@gmail.com", "a.b@gmail.com", "ab+c@gmail.com", "ab@googlemail.com"),
    *("stra\u00dfe@example.org", "strasse@example.org", "andr\u00e9@example.org", "andre@example.org", "\u0131@example.org", "i@example.org"),
    *("\uff41b@example.org", "\ufb01@example.org", "fi@example.org", "a@fa\u00df.example.org", "a@fass.example.org", "a@b\u00fccher.example.org"),
]


def test_no_two_addresses_become_one():
    """No trick with dots, tags, hosts, accents, sharp s, ligatures or wide letters: each stays its own person, with a key of its own."""
    hasher = Hasher(b"test pepper")
    assert len({hasher.identifier_key("email", normalise_email(text)) for text in PEOPLE}) == len(PEOPLE)


@pytest.mark.parametrize(
    "expected,texts",
    [
        ("a.b@example.org", ["A.B@example.org", "a.B@EXAMPLE.org", " a.b@example.org "]),
        ("andr\u00e9@example.org", ["andre\u0301@example.org", "ANDR\u00c9@example.org"]),
        (
            "a@xn--bcher-kva.example.org",
            ["a@b\u00fccher.example.org", "a@BU\u0308CHER.example.org", "A@xn--bcher-kva.EXAMPLE.org", "a@b\u00fccher\u3002example.org"],
        ),
    ],
)
def test_one_address_written_in_several_ways_is_one(expected, texts):
    """Letter case (no host in use tells people apart by it), composed accents, and a domain in either of its alphabets."""
    assert {normalise_email(text) for text in texts} == {expected}


LOCAL = st.text("abAB.+-_0\u00e9\u00df", min_size=1, max_size=8)


@given(LOCAL, LOCAL)
def test_two_addresses_meet_only_if_they_differ_by_case(one, other):
    """For any two local parts of letters, digits, dots and tags."""
    assert (normalise_email(f"{one}@example.org") == normalise_email(f"{other}@example.org")) is (one.lower() == other.lower())


NATIVE_READER = NativeReader({"newsletter"}, lambda: NOON, 300)


def by_native(country, **names):
    """Our own JSON, with the subject's country."""
    item = {"subject": {**names, "country": country}, "purpose": "newsletter", "state": "withdrawn", "event_time": "2026-01-05T00:00:00Z"}
    return NATIVE_READER.read(item).subject


def by_native_source(country, **names):
    """Our own JSON without a country, from a source that has one."""
    item = {"subject": names, "purpose": "newsletter", "state": "withdrawn", "event_time": "2026-01-05T00:00:00Z"}
    return heard("native", country, item).subject


def by_privacy_tools(country, **names):
    """An import of Privacy Tools, which has other names for the identifiers."""
    theirs = {"external_id": "hashUser", "email": "email", "phone": "phone", "national_id": "document"}
    body = {"consentDate": "2026-01-05T00:00:00.000+0000", "consentValue": False, "name": "Ana", "templateHash": "newsletter"}
    return heard("privacy_tools", country, body | {theirs[kind]: value for kind, value in names.items()}).subject


def by_contacthub(country, **names):
    """A customer of a page of changes."""
    subscription = {"id": "newsletter", "subscribed": False, "endDate": "2026-01-05T00:00:00.000+0000"}
    contacts = {"email": names.get("email"), "mobilePhone": names.get("phone")}
    customer = {"id": "c1", "externalId": names.get("external_id"), "base": {"contacts": contacts, "subscriptions": [subscription]}}
    page = {"updates": [{"operation": "UPDATE", "entity": {"type": "CUSTOMER", "data": customer}}]}
    notification = Notification(body=orjson.dumps(page), media_type="application/json", received_at=NOON)
    settings = SourceSettings(name="source", kind="contacthub", purposes={"newsletter": "newsletter"}, country=country)
    (found,) = contacthub.Adapter.hear(notification, settings)
    if isinstance(found, InvalidInput):
        raise found
    return found.subject


def by_maileon(country, **names):
    """A webhook."""
    return heard("maileon", country, {"event": "doi", **names}, {"doi": "newsletter"}).subject


def by_cmxorganize(country, **names):
    """A registration."""
    return heard("cmxorganize", country, {"newsletter": True, **names}).subject


def heard(kind, country, body, purposes=None):
    """The one event that a source's own body says."""
    source = Source(name="source", kind=kind, country=country, purposes=purposes or {"newsletter": "newsletter"})
    (found,) = read_source(source, Notification(body=orjson.dumps(body), media_type="application/json", received_at=NOON), NATIVE_READER)
    if isinstance(found, InvalidInput):
        raise found
    return found


PHONE_SOURCES = [by_native, by_native_source, by_privacy_tools, by_contacthub]
EMAIL_SOURCES = [*PHONE_SOURCES, by_maileon, by_cmxorganize]
NATIONAL_ID_SOURCES = [by_native, by_native_source]


@pytest.mark.parametrize("read", PHONE_SOURCES)
@pytest.mark.parametrize("key", LOCAL_FORMS)
def test_every_source_reads_the_phones_of_its_country(read, key):
    """Each local form of each country, heard by every source that names people by phone."""
    country, expected = key
    assert {read(country, phone=text).phone for text in LOCAL_FORMS[key]} == {expected}


@pytest.mark.parametrize("read", [by_native, by_native_source, by_privacy_tools])
@pytest.mark.parametrize("text", ["(51) 9999-9999", "551199999999"])
def test_every_source_refuses_a_phone_that_could_be_a_strangers(read, text):
    """By its field, with everything else that is wrong."""
    with pytest.raises(InvalidInput) as caught:
        read("BR", phone=text)
    assert [error.path.removeprefix("subject.") for error in caught.value.errors] == ["phone"]


def test_contacthub_leaves_out_a_phone_that_could_be_a_strangers():
    """The customer is named by what else there is, and nobody else is named."""
    assert by_contacthub("BR", phone="(51) 9999-9999", email="ana@example.org") == Subject(email="ana@example.org", country="BR")
    with pytest.raises(InvalidInput):
        by_contacthub("BR", phone="(51) 9999-9999")


def test_the_subjects_country_goes_before_the_sources():
    """An Italian landline in a Brazilian source."""
    item = {
        "subject": {"phone": "06 6982 1234", "country": "IT"},
        "purpose": "newsletter",
        "state": "given",
        "event_time": "2026-01-05T00:00:00Z",
    }
    assert heard("native", "BR", item).subject == Subject(phone="+390669821234", country="IT")


@pytest.mark.parametrize("read", NATIONAL_ID_SOURCES)
@pytest.mark.parametrize("text", CPF_FORMS)
def test_native_events_keep_the_zeros_of_a_cpf(read, text):
    """In every notation."""
    assert read("BR", national_id=text).national_id == "00123456789"


@pytest.mark.parametrize("text", CPF_FORMS)
def test_privacy_tools_keeps_the_zeros_of_a_cpf(text):
    """Its `document`, beside an address."""
    assert by_privacy_tools("BR", email="ana@example.org", national_id=text).national_id == "00123456789"


@pytest.mark.parametrize(
    "read,names,path",
    [
        (by_native, {"national_id": 123456789}, "subject.national_id"),
        (by_native, {"national_id": 123456789.0}, "subject.national_id"),
        (by_native, {"phone": 51999999999}, "subject.phone"),
        (by_native, {"external_id": 7}, "subject.external_id"),
        (by_privacy_tools, {"email": "ana@example.org", "national_id": 123456789}, "document"),
        (by_privacy_tools, {"phone": 51999999999}, "phone"),
        (by_maileon, {"external_id": 7}, "subject.external_id"),
    ],
)
def test_an_identifier_that_is_a_number_in_json_is_refused(read, names, path):
    """A number has lost its zeros already, and nobody can tell how many."""
    with pytest.raises(InvalidInput) as caught:
        read("BR", **names)
    assert [(error.path, error.message) for error in caught.value.errors] == [(path, "must be a string")]


@pytest.mark.parametrize("read", EMAIL_SOURCES)
def test_every_source_keeps_people_apart(read):
    """The same addresses, heard by every source: as many people as addresses."""
    assert len({read("BR", email=text).email for text in PEOPLE}) == len(PEOPLE)
    assert read("BR", email=" A.B+c@EXAMPLE.org ").email == "a.b+c@example.org"
