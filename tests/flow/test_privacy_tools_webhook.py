"""The webhook template of the Privacy Tools page posted over HTTP to the real ledger: what is heard, what is the same again, and who is told."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.routing import Trigger
from tests.support import relay as way
from tests.unit.ingest_fakes import URL_KEY, errors_of, make_relay, make_routing

PAGE = Path(__file__).parents[2] / "docs" / "vendors" / "privacy_tools.md"
ADDRESS = f"/v1/sources/privacy-tools/{URL_KEY}"
HASHES = {"test-template-hash-newsletter": "newsletter", "test-template-hash-sms": "sms"}
ANA = {"email": "ana@example.org", "date": "05/01/2026 13:00:00"}
TOLD = ("dinamize", "mailchimp")


def template(**values: str) -> str:
    """The documented body as the platform would post it: known variables filled, the others left as they are."""
    found = re.search(r"```json\n(\{.*?\})\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), found[1])


@pytest.fixture
def whole(client):
    """The way of an event to two systems, both told of every purpose of the platform."""
    sources = make_routing().sources
    tools = dataclasses.replace(sources["privacy-tools"], purposes=HASHES)
    destinations = {name: way.destination(name) for name in TOLD}
    return way.Relay(client, make_routing(sources={**sources, "privacy-tools": tools}, destinations=destinations, triggers=(Trigger(deliver_to=TOLD),)))


@pytest.fixture
def post(whole) -> Callable[..., object]:
    """Posts a body to the address with a key in it, as a webhook of the platform does; `days` later than the first."""

    def send(body: str, days: int = 0):
        web = make_relay(acceptor=whole.acceptor, routing=whole.rules, now=lambda: whole.now() + timedelta(days=days))
        return web.post(ADDRESS, body=body, key=None, headers={"Content-Type": "application/json"})

    return send


def test_one_webhook_tells_every_system_once(whole, post):
    """Given one withdrawal by the template, each system is told withdrawn exactly once, and a repeat of the webhook tells nobody again."""
    answers = [post(template(**ANA)), post(template(**ANA), days=1)]
    whole.drain()
    whole.again()
    assert [(answer.status_code, answer.json["status"]) for answer in answers] == [(202, "accepted"), (202, "duplicate")]
    assert answers[0].json["event_id"] == answers[1].json["event_id"]
    assert whole.deliveries(answers[0].json["event_id"]) == dict.fromkeys(TOLD, ("delivered", None))
    assert [len(whole.vendors[name].calls) for name in TOLD] == [1, 1]


@pytest.mark.parametrize(
    "body",
    [
        template(**{**ANA, "email": "bia@example.org"}),
        template(**{**ANA, "date": "05/01/2026 13:00:01"}),
        template(**ANA).replace("newsletter", "sms"),
        template(**ANA).replace('"consentValue": false', '"consentValue": true'),
    ],
    ids=["person", "date", "purpose", "value"],
)
def test_each_part_of_the_key_counts(post, body):
    """Given another person, date, purpose or value, it is another event."""
    first, other = post(template(**ANA)), post(body)
    assert (other.status_code, other.json["status"] in {"accepted", "superseded"}) == (202, True)
    assert other.json["event_id"] != first.json["event_id"]


def test_the_same_person_written_otherwise_is_the_same_event(post):
    """Given the address in capitals and the date with blanks around it, the repeat is a duplicate."""
    first, again = post(template(**ANA)), post(template(email="ANA@Example.org", date=" 05/01/2026 13:00:00 "))
    assert (again.json["status"], again.json["event_id"]) == ("duplicate", first.json["event_id"])


def test_a_condition_keeps_the_purposes_apart(whole, post):
    """Given consents to both purposes and one withdrawal by the webhook of one of them, each system holds that one as withdrawn and the other as given."""
    given = template(**ANA).replace('"consentValue": false', '"consentValue": true')
    for body in (given.replace("newsletter", "sms"), given, template(**{**ANA, "date": "06/01/2026 13:00:00"})):
        assert post(body).json["status"] == "accepted"
    whole.drain()
    held = {("ana@example.org", "sms"): "given", ("ana@example.org", "newsletter"): "withdrawn"}
    assert [whole.vendors[name].held for name in TOLD] == [held, held]


UNFILLED = "is a variable of the template that was not filled"
INSIDE = "contains a variable of the template that was not filled"


@pytest.mark.parametrize(
    "body, errors",
    [
        (template(date=ANA["date"]), [("email", UNFILLED), ("phone", UNFILLED)]),
        (template(document="012.345.678-09"), [("email", UNFILLED), ("phone", UNFILLED)]),
        (template(**{**ANA, "email": "${user}@example.org"}), [("email", INSIDE)]),
        (template(**ANA).replace("test-template-hash-newsletter", "${code}"), [("templateHash", UNFILLED)]),
        (template(**ANA).replace("false", '"${value}"'), [("consentValue", UNFILLED)]),
        (template(**ANA).replace('"-"', '"${name}"'), [("name", UNFILLED)]),
        (template(**{**ANA, "phone": "${ddd} 99999-9999"}), [("phone", "must be one phone number in digits, without an extension")]),
        (
            template(**{**ANA, "date": "${day}/01/2026"}),
            [("consentDate", "must be a date such as 2026-01-05T13:00:00.000-0300, 05/01/2026 or 05/01/2026 13:00:00")],
        ),
    ],
)
def test_an_unfilled_variable_is_never_a_value(client, post, body, errors):
    """Given a field that is needed and was left as a variable, 422 names it and nothing was written."""
    before = sorted(client.scan_iter())
    answer = post(body)
    assert (answer.status_code, sorted(errors_of(answer))) == (422, errors)
    assert sorted(client.scan_iter()) == before
