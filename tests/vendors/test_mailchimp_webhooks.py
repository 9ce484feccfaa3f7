"""Mailchimp heard: which of its webhooks are words of a person, when they were said, and what is refused by the form's own names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from pipeline.accept import order_time
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import InvalidInput
from pipeline.vendors.base import Notification, SourceSettings
from pipeline.vendors.mailchimp import Adapter

NOW = datetime(2026, 1, 5, 16, 0, 5, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"
SOURCE = SourceSettings(name="mailchimp", kind="mailchimp", purposes={"a6b5da1054": "newsletter"})
# The fields as Mailchimp's guide shows them, with an invented person.
SUBSCRIBE = {
    "type": "subscribe",
    "fired_at": "2026-01-05 16:00:00",
    "data[id]": "8a25ff1d98",
    "data[list_id]": "a6b5da1054",
    "data[email]": "Ana@Example.org",
    "data[email_type]": "html",
    "data[ip_opt]": "203.0.113.9",
    "data[ip_signup]": "203.0.113.8",
    "data[merges][EMAIL]": "ana@example.org",
    "data[merges][FNAME]": "Ana",
    "data[merges][LNAME]": "Placeholder",
    "data[merges][INTERESTS]": "Group1,Group2",
}
UNSUBSCRIBE = {**SUBSCRIBE, "type": "unsubscribe", "data[action]": "unsub", "data[reason]": "manual", "data[campaign_id]": "cb398d21d2"}
CLEANED = {
    **{name: SUBSCRIBE[name] for name in ("fired_at", "data[list_id]", "data[email]")},
    "type": "cleaned",
    "data[reason]": "hard",
    "data[campaign_id]": "4fjk2ma9xd",
}
UPEMAIL = {
    **{name: SUBSCRIBE[name] for name in ("fired_at", "data[list_id]")},
    "type": "upemail",
    "data[new_id]": "51da8c3259",
    "data[new_email]": "bia@example.org",
    "data[old_email]": "ana@example.org",
}
CAMPAIGN = {
    **{name: SUBSCRIBE[name] for name in ("fired_at", "data[list_id]")},
    "type": "campaign",
    "data[id]": "5aa2102003",
    "data[subject]": "Test",
    "data[status]": "sent",
}


def hear(form: dict[str, str] | bytes, source: SourceSettings = SOURCE, media_type: str = FORM) -> list[Any]:
    body = form if isinstance(form, bytes) else urlencode({name: value for name, value in form.items() if value is not ...}).encode()
    return list(Adapter.hear(Notification(body=body, media_type=media_type, received_at=NOW), source))


def refused(form: dict[str, Any] | bytes, status: int = 422, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        hear(form, **options)
    assert caught.value.status == status
    return {error.path: error.message for error in caught.value.errors}


def test_a_subscription_is_a_consent():
    """It is a consent for the purpose of its list, within the second it was fired in, with the address of the opt-in and no name."""
    assert hear(SUBSCRIBE) == [
        IncomingEvent(
            subject=Subject(email="ana@example.org"),
            purpose="newsletter",
            state=State.GIVEN,
            event_time=datetime(2026, 1, 5, 16, 0, 0, tzinfo=UTC),
            event_time_end=datetime(2026, 1, 5, 16, 0, 0, 999_999, tzinfo=UTC),
            evidence={"ip": "203.0.113.9"},
        )
    ]


@pytest.mark.parametrize("action, reason", [("unsub", "manual"), ("unsub", "abuse"), ("delete", "manual"), (..., ...)])
def test_an_unsubscription_is_a_withdrawal(action: Any, reason: Any):
    """It is one however the member went, deleted ones included, and carries nothing else."""
    (event,) = hear({**UNSUBSCRIBE, "data[action]": action, "data[reason]": reason})
    assert (event.subject, event.purpose, event.state) == (Subject(email="ana@example.org"), "newsletter", State.WITHDRAWN)
    assert (event.profile, event.evidence, event.metadata, event.idempotency_key) == ({}, {}, {}, None)


@pytest.mark.parametrize("form", [{**SUBSCRIBE, "type": "profile"}, UPEMAIL, CAMPAIGN, CLEANED], ids=lambda form: form["type"])
def test_what_is_no_word_is_passed_by(form: dict[str, str]):
    """A changed profile or address, a campaign and a bounce say nothing of consent, whatever list they are about."""
    assert hear(form) == []
    assert hear({**form, "data[list_id]": "another"}) == []


@pytest.mark.parametrize("reason", ["abuse", "other", ...])
def test_a_complaint_is_a_withdrawal(reason: Any):
    """Cleaned for anything but a bounce counts for the person: who reported spam does not want the mail."""
    (event,) = hear({**CLEANED, "data[reason]": reason})
    assert (event.subject, event.state) == (Subject(email="ana@example.org"), State.WITHDRAWN)


def test_a_withdrawal_wins_within_the_second():
    """In one second a consent counts at its beginning and a withdrawal at its end, so the withdrawal is the newer word."""
    times = [order_time(hear(form)[0], NOW) for form in (SUBSCRIBE, UNSUBSCRIBE)]
    assert times == [datetime(2026, 1, 5, 16, tzinfo=UTC), datetime(2026, 1, 5, 16, 0, 0, 999_999, tzinfo=UTC)]


@pytest.mark.parametrize(
    "text, earliest, latest",
    [
        ("2026-01-05 13:00:00", (16, 0, 0), (16, 0, 0)),
        ("2026-01-05 12:59:59", (15, 59, 59), (15, 59, 59)),
    ],
)
def test_the_zone_is_a_setting(text: str, earliest: tuple[int, ...], latest: tuple[int, ...]):
    """The times carry no zone; UTC is assumed, and the source can say another."""
    source = SourceSettings(name="m", kind="mailchimp", purposes=SOURCE.purposes, time_zone="America/Sao_Paulo")
    (event,) = hear({**SUBSCRIBE, "fired_at": text}, source)
    assert event.event_time == datetime(2026, 1, 5, *earliest, tzinfo=UTC)
    assert event.event_time_end == datetime(2026, 1, 5, *latest, 999_999, tzinfo=UTC)


def test_a_withdrawal_ahead_of_the_clock_was_said_when_it_came():
    """A consent from the future is refused, a withdrawal is not: it is taken as said at its receipt."""
    (event,) = hear({**UNSUBSCRIBE, "fired_at": "2026-01-05 18:00:00"})
    assert (event.state, event.event_time, event.event_time_end) == (State.WITHDRAWN, NOW, NOW)
    assert refused({**SUBSCRIBE, "fired_at": "2026-01-05 18:00:00"}) == {"fired_at": "must not lie in the future"}


@pytest.mark.parametrize("ips, ip", [(("unknown", "203.0.113.8"), "203.0.113.8"), (("", ""), None), (("x", "y"), None)])
def test_evidence_is_an_address_or_nothing(ips: tuple[str, str], ip: str | None):
    """The address of the opt-in counts before that of the sign-up; what is no address is left out."""
    (event,) = hear({**SUBSCRIBE, "data[ip_opt]": ips[0], "data[ip_signup]": ips[1]})
    assert event.evidence == ({"ip": ip} if ip else {})


EXPECTED_DATE = "must be a date such as 2026-01-05 16:00:00"
EXPECTED_TYPE = "must be one of campaign, cleaned, profile, subscribe, unsubscribe, upemail"


@pytest.mark.parametrize("state", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize(
    "changes, path, message",
    [
        ({"data[list_id]": ...}, "data[list_id]", "is required"),
        ({"data[list_id]": "other"}, "data[list_id]", "is not tied to a purpose by this source's `purposes`"),
        ({"data[email]": ...}, "data[email]", "is required"),
        ({"data[email]": "ana"}, "data[email]", "must be one e-mail address such as ana@example.org"),
        ({"data[email]": "ana@example.org, bia@example.org"}, "data[email]", "must be one e-mail address such as ana@example.org"),
        ({"fired_at": ...}, "fired_at", "is required"),
        ({"fired_at": "yesterday"}, "fired_at", EXPECTED_DATE),
        ({"fired_at": "2026-02-30 16:00:00"}, "fired_at", EXPECTED_DATE),
        ({"fired_at": "2026-01-05T16:00:00Z"}, "fired_at", EXPECTED_DATE),
        ({"fired_at": "2026-01-05 16:00:00\n"}, "fired_at", EXPECTED_DATE),
        ({"fired_at": "0000-00-00 00:00:00"}, "fired_at", EXPECTED_DATE),
        ({"fired_at": "0001-01-01 00:00:00"}, "fired_at", "must not lie before 1970"),
        ({"fired_at": "1969-12-31 23:59:59"}, "fired_at", "must not lie before 1970"),
        ({"type": "pending"}, "type", EXPECTED_TYPE),
        ({"type": ...}, "type", "is required"),
        ({"type": "Subscribe"}, "type", EXPECTED_TYPE),
    ],
)
def test_each_wrong_field_is_named_as_the_form_names_it(state: str, changes: dict[str, Any], path: str, message: str):
    """One thing is wrong and one error says so. A kind that is not known is refused aloud, because it might be a withdrawal."""
    assert refused({**SUBSCRIBE, "type": state, **changes}) == {path: message}


def test_all_that_is_wrong_is_said_at_once():
    """Several wrong fields are named together."""
    assert set(refused({**UNSUBSCRIBE, "data[email]": "x", "data[list_id]": "x", "fired_at": "x"})) == {"data[email]", "data[list_id]", "fired_at"}


@pytest.mark.parametrize("name", ["type", "fired_at", "data[email]", "data[list_id]", "data[reason]"])
def test_a_field_given_twice_is_refused(name: str):
    """Of what is read nothing may stand there twice, even with the same value; which one counts would be a guess."""
    whole = urlencode(UNSUBSCRIBE) + "&" + urlencode({name: UNSUBSCRIBE[name]})
    assert refused(whole.encode()) == {name: "must be given once"}


def test_merge_fields_may_repeat():
    """What is not read may stand there as often as the account's form has it."""
    assert len(hear((urlencode(SUBSCRIBE) + "&data[merges][GROUPS]=a&data[merges][GROUPS]=b").encode())) == 1


@pytest.mark.parametrize(
    "body, status, message",
    [
        (b"\xff=1", 400, "is not UTF-8"),
        (b"a=1&" * 1_001, 413, "must have at most 1000 fields"),
        (b"type=" + b"x" * 262_144, 413, "must have at most 262144 bytes"),
    ],
)
def test_a_form_that_cannot_be_taken_is_refused_whole(body: bytes, status: int, message: str):
    """Bytes that are no text, and forms far beyond what an audience can hold."""
    assert refused(body, status) == {"": message}


@pytest.mark.parametrize("body", [b"", b"&&&", b"=", b"{}", b"type"])
def test_an_empty_form_lacks_its_type(body: bytes):
    """Nothing at all, or nothing with a name, is not taken for a webhook."""
    assert refused(body) == {"type": "is required"}


def test_another_media_type_is_refused():
    """Mailchimp posts forms; JSON with the same content is from somebody else."""
    assert refused(b"{}", 415, media_type="application/json") == {"": f"must be {FORM}"}
