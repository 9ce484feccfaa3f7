"""Identifiers: what is normalised, what is refused, and that hashes keep people apart."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import ConfigurationError, InvalidInput
from pipeline.identifiers import (
    Hasher,
    checked_text,
    normalise_country,
    normalise_email,
    normalise_external_id,
    normalise_national_id,
    normalise_phone,
    normalise_subject,
)

HASHER = Hasher(b"test pepper")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def an_event(**changes):
    values = {"subject": Subject(email="ana@example.org"), "purpose": "newsletter", "state": State.GIVEN, "event_time": NOON}
    return IncomingEvent(**(values | changes))


@pytest.mark.parametrize(
    "text,expected",
    [
        (" Ana@Example.ORG ", "ana@example.org"),
        ("ana.b+news@example.org", "ana.b+news@example.org"),
        ("ana@MÜNCHEN.de", "ana@xn--mnchen-3ya.de"),
        ("ana@xn--mnchen-3ya.de", "ana@xn--mnchen-3ya.de"),
        ("andre\u0301@example.org", "andr\u00e9@example.org"),
        ("a..b.@example.org", "a..b.@example.org"),
    ],
)
def test_email_is_lower_cased_without_merging_people(text, expected):
    """Case, blanks and Unicode forms are levelled; dots and tags stay."""
    assert normalise_email(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ana",
        "@example.net",
        "ana@",
        "a@b@example.org",
        "ana@localhost",
        "ana@192.0.2.1",
        "ana@example.org.",
        "an a@example.org",
        "ana@exa mple.org",
        "ana\n@example.org",
        "a\u200bna@example.org",
        '"ana"@example.org',
        "ana,bea@example.org",
        f"{'a' * 65}@example.org",
        f"a@{'b.' * 130}org",
        "ana@-x.org",
    ],
)
def test_wrong_email_is_refused_without_being_repeated(text):
    """What is no single address raises ValueError, and the text does not contain it."""
    with pytest.raises(ValueError) as caught:
        normalise_email(text)
    assert len(text) < 4 or text not in str(caught.value)


@pytest.mark.parametrize(
    "text,country,expected",
    [
        ("(51) 99999-9999", "BR", "+5551999999999"),
        ("(051) 99999-9999", "BR", "+5551999999999"),
        ("51 90000 0000", "BR", "+5551900000000"),
        ("5551999999999", "BR", "+5551999999999"),
        ("+55 51 99999-9999", None, "+5551999999999"),
        ("+55 51 99999-9999", "AR", "+5551999999999"),
        ("\uff0b55 51 99999-9999", None, "+5551999999999"),
        ("9 11 5119-0123", "AR", "+5491151190123"),
    ],
)
def test_phone_becomes_e164(text, country, expected):
    """A number is read as international with +, else as dialled inside its country."""
    assert normalise_phone(text, country) == expected


@pytest.mark.parametrize(
    "text,country,reason",
    [
        ("51999999999", None, "must start with +"),
        ("", "BR", "phone number"),
        ("12", "BR", "all its digits"),
        ("99999-9999", "BR", "area code"),
        ("0055 51 99999-9999", "BR", "area code"),
        ("+55 51 99999-9999 ext. 3", None, "without an extension"),
        ("+55 51 99999-9999#3", None, "phone number"),
        ("1-800-FLOWERS", "US", "in digits"),
        ("+999 123456789", None, "phone number"),
    ],
)
def test_phone_that_could_be_a_strangers_is_refused(text, country, reason):
    """Incomplete numbers, extensions and carrier codes would name somebody else."""
    with pytest.raises(ValueError, match=reason.replace("+", r"\+")) as caught:
        normalise_phone(text, country)
    assert "9999-9999" not in str(caught.value)


def test_national_id_keeps_leading_zeros():
    """Separators go, zeros stay, letters become upper-case."""
    assert normalise_national_id(" 012.345.678-09 ") == "01234567809"
    assert normalise_national_id("12 345 678-k") == "12345678K"


@pytest.mark.parametrize("text", ["", " - ", "12#3", "12é", "1" * 255])
def test_wrong_national_id_is_refused(text):
    """Other characters are not dropped, because that could merge two people."""
    with pytest.raises(ValueError, match="digits and letters"):
        normalise_national_id(text)


def test_external_id_keeps_its_case():
    """Only the blanks around it go."""
    assert normalise_external_id(" aB c ") == "aB c"
    for wrong in ("", " ", "a\x00b", "a\u200bb", "x" * 255):
        with pytest.raises(ValueError):
            normalise_external_id(wrong)


def test_country_is_iso_alpha_2():
    """Known codes in any case; others and names are refused."""
    assert normalise_country("br") == "BR"
    for wrong in ("UK", "ZZ", "BRA", "Brazil", ""):
        with pytest.raises(ValueError, match="ISO 3166-1"):
            normalise_country(wrong)


def test_text_is_bounded_and_without_control_characters():
    """A text passes unchanged or is refused."""
    assert checked_text("Ana\u00e9", 4) == "Ana\u00e9"
    for wrong in ("a\nb", "a\x00", "a\x85", "a\u2028", "abcde"):
        with pytest.raises(ValueError):
            checked_text(wrong, 4)


def test_subject_is_normalised_and_blank_values_are_absent():
    """A subject of the contract's shape, with its empty texts."""
    subject = normalise_subject({"external_id": "", "email": "Ana@Example.org", "phone": "(51) 99999-9999", "national_id": None, "country": "br"})
    assert subject == Subject(email="ana@example.org", phone="+5551999999999", country="BR")


def test_source_country_reads_a_phone_but_is_not_the_subjects():
    """The default country helps only where the subject has none, and does not become the subject's."""
    assert normalise_subject({"phone": "(51) 99999-9999"}, default_country="BR") == Subject(phone="+5551999999999")


def test_every_wrong_part_of_a_subject_is_named():
    """All errors come at once, by path."""
    with pytest.raises(InvalidInput) as caught:
        normalise_subject({"email": "x", "phone": 5, "country": "ZZ", "shoe": "42"})
    assert sorted(error.path for error in caught.value.errors) == ["subject.country", "subject.email", "subject.phone", "subject.shoe"]
    assert caught.value.status == 422


def test_an_unknown_name_that_may_be_a_person_is_not_repeated():
    """Somebody's address where a name should be is a `?`."""
    with pytest.raises(InvalidInput) as caught:
        normalise_subject({"ana@example.org": "", "email": "bia@example.org"})
    assert [(error.path, error.message) for error in caught.value.errors] == [("subject.?", "unknown field")]


@pytest.mark.parametrize("raw", [{}, {"email": " "}, {"country": "BR"}])
def test_subject_without_identifier_is_refused(raw):
    """A country names nobody."""
    with pytest.raises(InvalidInput) as caught:
        normalise_subject(raw)
    assert [error.path for error in caught.value.errors] == ["subject"]


def test_keys_tell_kind_and_nothing_else():
    """25 characters, the first for the kind; equal values of two kinds differ."""
    keys = HASHER.identifier_keys(Subject(external_id="5", email="ana@example.org", phone="+5551999999999", national_id="5"))
    assert [key[0] for key in keys.values()] == ["x", "e", "p", "n"]
    assert all(len(key) == 25 and set(key) <= set("abcdefghijklmnopqrstuvwxyz234567") for key in keys.values())
    assert keys["external_id"][1:] != keys["national_id"][1:]


def test_keys_are_what_they_always_were():
    """A changed recipe would orphan every standing, so the values are pinned."""
    assert HASHER.identifier_key("email", "ana@example.org") == "enaommuqrl4v6umkp4ogp4aig"
    assert HASHER.event_id("web", "k1") == "bezivgyh4fzhdleu4t5osp3a"
    assert Hasher(b"other").identifier_key("email", "ana@example.org") != HASHER.identifier_key("email", "ana@example.org")
    assert HASHER.fingerprint() != Hasher(b"other").fingerprint()


def test_subject_key_is_of_the_strongest_identifier():
    """External id before e-mail before phone; nobody has none."""
    assert HASHER.subject_key(Subject(email="a@example.org", external_id="7")) == HASHER.identifier_key("external_id", "7")
    with pytest.raises(ValueError, match="no identifier"):
        HASHER.subject_key(Subject(country="BR"))


def test_event_ids_are_scoped_by_source():
    """The same key of two sources names two events."""
    assert HASHER.event_id("a", "k") != HASHER.event_id("b", "k")
    assert len(HASHER.event_id("a", "k")) == 24


def test_content_hash_ignores_key_and_zone_but_no_content():
    """The idempotency key and the way an instant is written are no content; everything else is."""
    base = HASHER.content_hash(an_event())
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-3)))
    assert HASHER.content_hash(an_event(idempotency_key="k", event_time=elsewhere, event_time_end=NOON)) == base
    changes = [
        {"subject": Subject(email="bea@example.org")},
        {"subject": Subject(email="ana@example.org", country="BR")},
        {"purpose": "sms"},
        {"state": State.WITHDRAWN},
        {"event_time": NOON + timedelta(microseconds=1)},
        {"event_time_end": NOON + timedelta(hours=1)},
        {"group": "g"},
        {"profile": {"name": "Ana"}},
        {"evidence": {"ip": "192.0.2.1"}},
        {"metadata": {"a": "b"}},
    ]
    hashes = {HASHER.content_hash(an_event(**change)) for change in changes}
    assert len(hashes | {base}) == len(changes) + 1


def test_empty_pepper_is_refused():
    """Without a pepper the hashes would be guessable."""
    with pytest.raises(ConfigurationError, match="pepper is empty"):
        Hasher(b"")


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(local):
    """What came out goes in again unchanged, or a resend would be another person."""
    for normalise, text in ((normalise_email, f"{local}@example.org"), (normalise_national_id, local), (normalise_external_id, local)):
        try:
            once = normalise(text)
        except ValueError:
            continue
        assert normalise(once) == once
