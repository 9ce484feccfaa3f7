"""cmxOrganize as a source: the eight fields, the two boxes, dates, and what is refused by its own name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import InvalidInput
from pipeline.routing import Source
from pipeline.schemas import NativeReader
from pipeline.sources import read_source
from pipeline.vendors.base import Notification
from pipeline.vendors.cmxorganize import Adapter
from tests.unit.ingest_fakes import digest, make_relay, make_routing

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
PURPOSES = {"newsletter": "newsletter", "single_user_tracking": "single-user-tracking"}
SOURCE = Source(name="cmx", kind="cmxorganize", purposes=PURPOSES, time_zone="Europe/Berlin", retention="forward_and_delete")
NATIVE = NativeReader({"newsletter", "single-user-tracking"}, lambda: NOW, 300)
PROFILE = {"salutation": "Frau", "title": "Placeholder", "name_prefix": "Dr.", "last_name": "Beispiel", "first_name": "Ana"}


def registration(**changes: Any) -> dict[str, Any]:
    """The eight fields of the page in its order, the date and the newsletter box."""
    whole = {
        "salutation": "Frau",
        "job_title": "Placeholder",
        "name_prefix": "Dr.",
        "last_name": "Beispiel",
        "first_name": "Ana",
        "email": "Ana@Example.org",
        "purchase_auto_value": "K-0042",
        "single_user_tracking": True,
        "registered_at": "2026-01-05T13:00:00+01:00",
        "newsletter": True,
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def hear(content: Any, source: Source = SOURCE, media_type: str = "application/json") -> list[Any]:
    raw = content if isinstance(content, bytes) else orjson.dumps(content)
    return list(read_source(source, Notification(body=raw, media_type=media_type, received_at=NOW), NATIVE))


def refused(content: Any, status: int = 422, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        hear(content, **options)
    assert caught.value.status == status
    return {error.path: error.message for error in caught.value.errors}


def test_two_boxes_are_two_consents() -> None:
    """Each ticked box is given for its purpose, tracking first, with profile and the purchase's value."""
    moment = datetime(2026, 1, 5, 12, tzinfo=UTC)
    common = {"subject": Subject(email="ana@example.org"), "state": State.GIVEN, "event_time": moment, "event_time_end": moment, "profile": PROFILE}
    metadata = {"purchase_auto_value": "K-0042"}
    assert hear(registration()) == [IncomingEvent(purpose=purpose, metadata=metadata, **common) for purpose in ("single-user-tracking", "newsletter")]


@pytest.mark.parametrize("unticked", [False, "no", "nein", "0", "false", "", None, ...])
def test_an_unticked_tracking_box_is_no_word(unticked: Any) -> None:
    """Only the newsletter is given, and nothing is withdrawn."""
    assert [(event.purpose, event.state) for event in hear(registration(single_user_tracking=unticked))] == [("newsletter", State.GIVEN)]


@pytest.mark.parametrize("unticked", [False, "no", "false"])
def test_without_the_newsletter_box_nothing_is_passed_on(unticked: Any) -> None:
    """An unticked newsletter box is no word for either purpose, and no error."""
    assert hear(registration(newsletter=unticked)) == []


@pytest.mark.parametrize("ticked", ["yes", "Ja", "true", " 1 "])
def test_a_box_may_be_a_text(ticked: str) -> None:
    """Forms send texts for boxes."""
    assert len(hear(registration(newsletter=ticked, single_user_tracking=ticked))) == 2


@pytest.mark.parametrize(
    "text, earliest, latest",
    [
        ("05.01.2026 13:00:00", datetime(2026, 1, 5, 12, tzinfo=UTC), datetime(2026, 1, 5, 12, tzinfo=UTC)),
        ("05.01.2026", datetime(2026, 1, 4, 23, tzinfo=UTC), datetime(2026, 1, 5, 22, 59, 59, 999999, tzinfo=UTC)),
        (..., NOW, NOW),
    ],
)
def test_reads_dates(text: Any, earliest: datetime, latest: datetime) -> None:
    """A German date has its day first and the source's zone; without a date the receipt counts."""
    events = hear(registration(registered_at=text))
    assert {(event.event_time, event.event_time_end) for event in events} == {(earliest, latest)}


def test_only_the_email_and_the_box_are_required() -> None:
    """Names may be missing, and a number as purchase value is its text."""
    (event,) = hear({"email": "ana@example.org", "newsletter": True, "purchase_auto_value": 42})
    assert (event.profile, event.metadata) == ({}, {"purchase_auto_value": "42"})


@pytest.mark.parametrize(
    "changes, path, message",
    [
        ({"newsletter": ...}, "newsletter", "is required"),
        ({"newsletter": "perhaps"}, "newsletter", "must be true or false, or yes or no"),
        ({"single_user_tracking": 1}, "single_user_tracking", "must be true or false, or yes or no"),
        ({"email": ...}, "email", "is required"),
        ({"email": 7}, "email", "must be a string"),
        ({"email": "nobody"}, "email", "must be one e-mail address such as ana@example.org"),
        ({"registered_at": "11.01.2026"}, "registered_at", "must not lie in the future"),
        ({"registered_at": "01.13.2025"}, "registered_at", "must be a date with the day first, such as 05.01.2026"),
        ({"last_name": "x" * 1001}, "last_name", "must have at most 1000 characters"),
        ({"birthday": "1"}, "birthday", "unknown field"),
    ],
)
def test_each_wrong_field_is_named(changes: dict[str, Any], path: str, message: str) -> None:
    """What is wrong is named, the value never."""
    assert refused(registration(**changes)) == {path: message}


def test_a_box_without_a_purpose_is_refused() -> None:
    """A ticked box that the source ties to no purpose is not dropped in silence."""
    source = Source(name="cmx", kind="cmxorganize", purposes={"newsletter": "newsletter"})
    assert refused(registration(), source=source) == {"single_user_tracking": "is not tied to a purpose by this source's `purposes`"}
    assert len(hear(registration(single_user_tracking=False), source=source)) == 1


def test_of_several_registrations_the_wrong_one_stands_in_its_place() -> None:
    """The others are still heard."""
    wrong, *others = hear([registration(email=...), registration(newsletter=False), registration()])
    assert ([error.path for error in wrong.errors], len(others)) == (["email"], 2)


@pytest.mark.parametrize(
    "content, status, media_type",
    [
        (b"{", 400, "application/json"),
        ([], 422, "application/json"),
        ([{}] * 2501, 413, "application/json"),
        ("x", 422, "application/json"),
        ({}, 415, "text/plain"),
    ],
)
def test_refuses_other_bodies(content: Any, status: int, media_type: str) -> None:
    """What is no registration is refused whole."""
    assert list(refused(content, status, media_type=media_type)) == [""]


def test_one_registration_is_answered_by_events() -> None:
    """Over HTTP two ticked boxes are two results, one is an event's answer, none is no result, and a wrong field is refused."""
    relay = make_relay(routing=make_routing(sources={"cmx": replace(SOURCE, keys=(digest("key-cmx"),))}))
    changes: list[dict[str, Any]] = [{}, {"single_user_tracking": False}, {"newsletter": False}, {"email": "nobody"}]
    both, one, none, wrong = [relay.post("/v1/sources/cmx", json=registration(**change), key="key-cmx") for change in changes]
    assert (both.status_code, both.json["accepted"], [item["index"] for item in both.json["results"]]) == (202, 2, [0, 1])
    assert (one.status_code, one.json["status"]) == (202, "duplicate")
    assert (none.status_code, none.json["accepted"], none.json["results"]) == (202, 0, [])
    assert (wrong.status_code, wrong.json["errors"][0]["path"], len(relay.acceptor.events)) == (422, "email", 2)


def test_cannot_be_told() -> None:
    """It is a source only."""
    assert Adapter.capabilities.states == frozenset()
