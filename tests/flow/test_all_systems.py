"""Every system of the example routing file through real processes: told by one trigger, and heard when people act there themselves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from pipeline.domain import State
from pipeline.vendors import has_verb, vendor_names
from tests.support.stack import ROOT, Stack, running_stack, wait_until
from tests.support.world import SHORT

EXAMPLE = (ROOT / "config" / "consent.yaml").read_text()
TOLD = {
    "crm-webhook": "webhook",
    "dinamize-news": "dinamize",
    "mailchimp-main": "mailchimp",
    "privacy-platform": "privacy_tools",
    "retargetly-audience": "retargetly",
    "contacthub-main": "contacthub",
    "contactsend-main": "contactsend",
    "maileon-main": "maileon",
}
CANNOT_WITHDRAW = {"retargetly-audience"}


@pytest.fixture(scope="module")
def everything() -> Iterator[Stack]:
    quick = EXAMPLE.replace("every_seconds: 60", "every_seconds: 1").replace("every_seconds: 15", "every_seconds: 1")
    with running_stack(routing=quick, environment=SHORT) as stack:
        yield stack


def person() -> str:
    """An address nobody else in these tests has."""
    return f"ana-{uuid.uuid4().hex[:10]}@example.org"


def place(stack: Stack, vendor: str, **contact: object) -> None:
    """Somebody acts at a vendor."""
    stack.session.post(f"{stack.sandbox_url}/_sandbox/{vendor}/contacts", json=[contact], timeout=10).raise_for_status()


def held(stack: Stack, destination: str, email: str) -> str | None:
    """What a sandbox holds of a person: its own contact's state, under whatever name."""
    contacts = stack.sandbox(TOLD[destination])["contacts"]
    found = [contact["state"] for name, contact in contacts.items() if email in name or email in str(contact)]
    return found[0] if found else None


def statuses(stack: Stack, event_id: str) -> dict[str, str]:
    return {name: status for name, (status, _) in stack.deliveries(event_id).items()}


def shown_of(stack: Stack, event_id: str) -> dict[str, tuple[str, str, str]]:
    """The table of `consent status`, destination -> (status, outcome, reason); a cell that was folded is put together again."""
    done = stack.consent("status", event_id)
    assert done.returncode == 0, done.stderr
    rows: list[list[str]] = []
    for line in (line for line in done.stdout.splitlines() if line.startswith("│")):
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [above + below for above, below in zip(rows[-1], cells, strict=True)]
    return {cells[0]: (cells[1], cells[2], cells[3]) for cells in rows}


def given_everywhere(stack: Stack, email: str) -> str:
    """Somebody who consented, and confirmed what Maileon asks for."""
    event_id = stack.accept("given", email=email, external_id=f"C-{email[4:14]}")
    wait_until(lambda: statuses(stack, event_id).get("maileon-main") == "awaiting_confirmation", 30, lambda: str(stack.event(event_id)))
    confirm(stack, email)
    stack.wait_complete([event_id])
    return event_id


def confirm(stack: Stack, email: str) -> None:
    """The person confirms at Maileon, which tells of it."""
    place(stack, "maileon", email=email, confirmed=True)
    address = f"{stack.url}/v1/sources/maileon-webhooks/{stack.key('maileon')}?event=doi"
    answer = stack.session.post(address, json={"email": email, "permission": 4}, timeout=10)
    assert answer.status_code == 202, answer.text


def test_every_vendor_that_can_be_told_is_in_the_example() -> None:
    """No system is left out of what follows."""
    assert set(TOLD.values()) == {name for name in vendor_names() if has_verb(name, "tell")}


def test_one_withdrawal_by_trigger_reaches_all_systems_that_can_express_it(everything: Stack) -> None:
    """A consent is told everywhere, one withdrawal is told everywhere, and the one that cannot express it is shown with its reason."""
    email = person()
    consent = given_everywhere(everything, email)
    assert statuses(everything, consent) == dict.fromkeys(TOLD, "delivered")
    event_id = everything.accept("withdrawn", minute=5, email=email)
    everything.wait_complete([event_id])
    assert everything.deliveries(event_id) == {
        **dict.fromkeys(TOLD, ("delivered", None)),
        "retargetly-audience": ("dead", "cannot_express_withdrawn"),
    }
    for destination in TOLD.keys() - CANNOT_WITHDRAW - {"maileon-main"}:
        assert held(everything, destination, email) == State.WITHDRAWN, destination
    wait_until(lambda: email not in everything.sandbox("maileon")["contacts"] or held(everything, "maileon-main", email) == "withdrawn", 15)
    assert shown_of(everything, event_id) == {
        **dict.fromkeys(TOLD, ("delivered", "applied", "")),
        "retargetly-audience": ("dead", "unsupported", "cannot_express_withdrawn"),
    }
    assert everything.metric("consent_dead_letters", destination="retargetly-audience", state="withdrawn", reason="cannot_express_withdrawn") >= 1


def test_who_unsubscribes_at_mailchimp_is_stopped_everywhere_else(everything: Stack) -> None:
    """Mailchimp's form post is heard, every other system is told, and Mailchimp, which said it, is only asked."""
    email = person()
    given_everywhere(everything, email)
    place(everything, "mailchimp", email=email, list_id="test-list", status="unsubscribed")
    writes = [call for call in everything.sandbox("mailchimp")["calls"] if call["method"] != "GET"]
    form = {
        "type": "unsubscribe",
        "fired_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        "data[email]": email,
        "data[list_id]": "test-list",
        "data[action]": "unsub",
    }
    answer = everything.session.post(f"{everything.url}/v1/sources/mailchimp-webhooks/{everything.key('mailchimp')}", data=form, timeout=10)
    assert answer.status_code == 202, answer.text
    event_id = str(answer.json()["event_id"])
    everything_about(everything, event_id)
    assert [call for call in everything.sandbox("mailchimp")["calls"] if call["method"] != "GET"] == writes
    for destination in ("dinamize-news", "privacy-platform", "contacthub-main", "contactsend-main", "crm-webhook"):
        assert held(everything, destination, email) == State.WITHDRAWN, destination


def everything_about(stack: Stack, event_id: str) -> dict[str, str]:
    """The end of every delivery of an event of any source."""

    def view() -> dict[str, object]:
        return dict(stack.session.get(f"{stack.url}/v1/consent-events/{event_id}", headers=stack.headers("operator"), timeout=10).json())

    wait_until(lambda: bool(view()["complete"]), 30, lambda: str(view()))
    return {each["destination"]: each["status"] for each in view()["deliveries"]}  # type: ignore[attr-defined]


def test_what_changes_at_contacthub_is_heard_by_polling(everything: Stack) -> None:
    """Somebody withdraws at Contacthub: a worker hears it, and every other system is told."""
    email = person()
    given_everywhere(everything, email)
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000+0000"
    entry = {"id": "newsletter", "kind": "DIGITAL_MESSAGE", "subscribed": False, "startDate": None, "endDate": now}
    place(everything, "contacthub", email=email, subscriptions=[entry])
    for destination in ("dinamize-news", "mailchimp-main", "privacy-platform", "contactsend-main", "crm-webhook"):
        wait_until(lambda name=destination: held(everything, name, email) == State.WITHDRAWN, 30, lambda name=destination: name)
    assert everything.metric("consent_last_heard_seconds", source="contacthub-changes") < 10


def test_what_changes_at_contactsend_is_heard_by_polling(everything: Stack) -> None:
    """Somebody withdraws at Contactsend, which dates nothing: the change is seen, and every other system is told."""
    email = person()
    given_everywhere(everything, email)
    wait_until(lambda: everything.metric("consent_last_heard_seconds", source="contactsend-changes") < 2, 15)
    place(everything, "contactsend", attributes={"EMAIL": email, "__cls1": "-1"})
    for destination in ("dinamize-news", "mailchimp-main", "privacy-platform", "contacthub-main", "crm-webhook"):
        wait_until(lambda name=destination: held(everything, name, email) == State.WITHDRAWN, 30, lambda name=destination: name)


def test_nothing_personal_shows(everything: Stack) -> None:
    """After all of this no log line, metric or page of Flower names anybody."""
    pages = [everything.session.get(everything.flower_url + path, auth=everything.flower_login, timeout=10).text for path in ("/tasks", "/api/tasks")]
    assert not any("@example.org" in text for text in (everything.log(), everything.session.get(everything.url + "/metrics", timeout=10).text, *pages))
