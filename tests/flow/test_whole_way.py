"""The whole way of an event through real processes: HTTP in, Valkey, Celery workers, and the vendors' sandboxes at the end."""

from __future__ import annotations

import hashlib
import uuid

from tests.support.stack import Stack, wait_until

ALL = {"dinamize-news", "mailchimp-main", "crm-webhook"}


def person() -> str:
    """An address nobody else in these tests has."""
    return f"ana-{uuid.uuid4().hex[:10]}@example.org"


def mailchimp_status(stack: Stack, email: str) -> str | None:
    contacts = stack.sandbox("mailchimp")["contacts"]
    return next((value["status"] for value in contacts.values() if value.get("email_address") == email), None)


def webhook_state(stack: Stack, email: str, purpose: str = "newsletter") -> str | None:
    contact = stack.sandbox("webhook")["contacts"].get(f"email:{email}/{purpose}")
    return contact["state"] if contact else None


def dinamize_rest(stack: Stack, email: str) -> str | None:
    contacts = stack.sandbox("dinamize")["contacts"]
    return next((value.get("date_rest") for value in contacts.values() if value.get("email") == email), None)


def test_one_trigger_tells_several_destinations(stack: Stack) -> None:
    """One withdrawal reaches Dinamize, Mailchimp and the webhook, each in its own format."""
    email = person()
    event_id = stack.accept("withdrawn", email=email)
    stack.wait_complete([event_id])
    assert stack.deliveries(event_id) == dict.fromkeys(ALL, ("delivered", None))
    assert dinamize_rest(stack, email) == "2099-01-01"
    assert mailchimp_status(stack, email) == "unsubscribed"
    assert webhook_state(stack, email) == "withdrawn"


def test_the_bodies_of_the_vendor_pages_arrive(stack: Stack) -> None:
    """Both Privacy Tools bodies go in as printed and come out as withdrawal and consent at the right destinations."""
    email = person()
    imported = {"consentDate": "05/01/2026 10:00", "consentValue": False, "name": "Ana Souza", "email": email, "templateHash": "test-template-hash-newsletter"}
    by_phone = {
        "consentDate": "2026-01-05T13:00:00.000-0300",
        "consentValue": True,
        "name": "Ana Souza",
        "phone": "(51) 99999-0000",
        "templateHash": "test-template-hash-sms",
    }
    ids = []
    for body in (imported, by_phone):
        answer = stack.post("/v1/sources/privacy-tools", body, source="privacy_tools")
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["event_id"])
        wait_until(lambda event_id=ids[-1]: stack.get(f"/v1/consent-events/{event_id}", source="privacy_tools").json()["complete"], 30)
    assert mailchimp_status(stack, email) == "unsubscribed"
    assert dinamize_rest(stack, email) == "2099-01-01"
    assert stack.sandbox("webhook")["contacts"]["phone:+5551999990000/marketing-sms"]["state"] == "given"


def test_a_condition_by_purpose_keeps_other_vendors_out(stack: Stack) -> None:
    """A text message consent is told to the CRM alone."""
    email = person()
    event_id = stack.accept("given", purpose="marketing-sms", email=email)
    stack.wait_complete([event_id])
    assert stack.deliveries(event_id) == {"crm-webhook": ("delivered", None)}
    assert mailchimp_status(stack, email) is None
    assert dinamize_rest(stack, email) is None


def test_a_duplicate_is_told_once(stack: Stack) -> None:
    """The same event sent again answers with the same id and tells nobody again."""
    email, key = person(), uuid.uuid4().hex
    first = stack.accept("given", email=email, key=key)
    stack.wait_complete([first])
    calls = len(stack.sandbox("webhook")["messages"])
    assert stack.accept("given", email=email, key=key) == first
    assert len(stack.sandbox("webhook")["messages"]) == calls


def test_a_late_older_given_changes_nothing(stack: Stack) -> None:
    """A `given` from before the withdrawal is accepted, recorded as superseded, and told to nobody."""
    email = person()
    withdrawn = stack.accept("withdrawn", minute=10, email=email)
    stack.wait_complete([withdrawn])
    late = stack.accept("given", minute=5, email=email)
    stack.wait_complete([late])
    view = stack.event(late)
    assert (view["status"], view["superseded_by"], view["deliveries"]) == ("superseded", withdrawn, [])
    assert mailchimp_status(stack, email) == "unsubscribed"
    assert webhook_state(stack, email) == "withdrawn"


def test_an_outage_ends_and_the_withdrawal_arrives(stack: Stack) -> None:
    """While Mailchimp answers 500 the others are told; when it recovers, it is told as well."""
    email = person()
    stack.fault("mailchimp", {"kind": "status", "status": 500, "times": None})
    event_id = stack.accept("withdrawn", email=email)
    wait_until(lambda: stack.deliveries(event_id).get("mailchimp-main", ("",))[0] == "waiting" and stack.event(event_id)["deliveries"][2]["attempts"] >= 2, 30)
    assert stack.deliveries(event_id)["crm-webhook"] == ("delivered", None)
    stack.fault("mailchimp")
    stack.wait_complete([event_id])
    assert mailchimp_status(stack, email) == "unsubscribed"
    assert stack.metric("consent_breaker_open", account="mailchimp-main") == 0


def test_throttling_is_waited_for_without_counting_as_failure(stack: Stack) -> None:
    """A 429 with Retry-After sends the delivery back with a time, and its attempts stay untouched."""
    email = person()
    stack.fault("webhook", {"kind": "throttle", "times": 1, "seconds": 1})
    event_id = stack.accept("withdrawn", email=email)
    stack.wait_complete([event_id])
    delivery = next(each for each in stack.event(event_id)["deliveries"] if each["destination"] == "crm-webhook")
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 1)


def test_a_lost_answer_is_repeated_with_the_same_key(stack: Stack) -> None:
    """The webhook acts but its answer is lost: the event is sent again under the same id, and the state is right."""
    email = person()
    stack.fault("webhook", {"kind": "lost_answer", "times": 1})
    event_id = stack.accept("withdrawn", email=email)
    stack.wait_complete([event_id])
    ids = [message["id"] for message in stack.sandbox("webhook")["messages"] if message["id"].startswith(event_id)]
    assert ids == [f"{event_id}.crm-webhook"] * 2
    assert webhook_state(stack, email) == "withdrawn"


def test_a_lost_given_cannot_undo_a_withdrawal(stack: Stack) -> None:
    """After a `given` whose answer was lost, a withdrawal is told, told again when a late write can come no more, and only then final."""
    email = person()
    stack.fault("webhook", {"kind": "lost_answer", "times": 1})
    given = stack.accept("given", minute=1, purpose="marketing-sms", email=email)
    wait_until(lambda: webhook_state(stack, email, "marketing-sms") == "given", 10)
    withdrawn = stack.accept("withdrawn", minute=2, purpose="marketing-sms", email=email)
    stack.wait_complete([given, withdrawn])
    told = [m["id"] for m in stack.sandbox("webhook")["messages"] if m["id"] == f"{withdrawn}.crm-webhook"]
    assert len(told) >= 2
    assert webhook_state(stack, email, "marketing-sms") == "withdrawn"


def test_a_dead_letter_is_shown_replayed_and_told(stack: Stack) -> None:
    """A refusal for good is a dead letter with its reason; replayed after the cause is gone, it is told."""
    email = person()
    stack.fault("webhook", {"kind": "status", "status": 400, "times": None})
    event_id = stack.accept("withdrawn", email=email)
    wait_until(lambda: stack.deliveries(event_id).get("crm-webhook") == ("dead", "http_400"), 30)
    letters = stack.get("/v1/dead-letters?destination=crm-webhook").json()
    assert [item["delivery_id"] for item in letters["items"]] == [f"{event_id}.crm-webhook"]
    assert letters["groups"] == [{"destination": "crm-webhook", "state": "withdrawn", "reason": "http_400", "count": 1}]
    assert stack.metric("consent_dead_letters", destination="crm-webhook", state="withdrawn") == 1
    stack.fault("webhook")
    wanted = {"filter": {"destination": "crm-webhook"}}
    assert stack.post("/v1/dead-letters/replay", {**wanted, "dry_run": True}).json()["replayed"] == [f"{event_id}.crm-webhook"]
    assert stack.deliveries(event_id)["crm-webhook"][0] == "dead"
    assert stack.post("/v1/dead-letters/replay", wanted).json()["replayed"] == [f"{event_id}.crm-webhook"]
    stack.wait_complete([event_id])
    assert webhook_state(stack, email) == "withdrawn"


def test_a_replay_does_not_tell_what_a_newer_word_has_overtaken(stack: Stack) -> None:
    """A dead `given` replayed after a withdrawal is reported and never sent."""
    email = person()
    stack.fault("webhook", {"kind": "status", "status": 400, "times": 1})
    given = stack.accept("given", minute=1, purpose="marketing-sms", email=email)
    wait_until(lambda: stack.deliveries(given).get("crm-webhook") == ("dead", "http_400"), 30)
    withdrawn = stack.accept("withdrawn", minute=2, purpose="marketing-sms", email=email)
    stack.wait_complete([withdrawn])
    report = stack.post("/v1/dead-letters/replay", {"ids": [f"{given}.crm-webhook"]}).json()
    assert (report["replayed"], report["not_replayed"]) == ([], [{"delivery_id": f"{given}.crm-webhook", "reason": "superseded"}])
    wait_until(lambda: stack.deliveries(given)["crm-webhook"][0] == "superseded", 30)
    assert webhook_state(stack, email, "marketing-sms") == "withdrawn"


def test_dead_and_told_work_shows_in_flower_by_destination_without_people(stack: Stack) -> None:
    """Flower needs the login, and shows fan_out, deliver and dead_letter tasks with ids only."""
    email = person()
    stack.fault("webhook", {"kind": "status", "status": 400, "times": 1})
    event_id = stack.accept("withdrawn", email=email)
    wait_until(lambda: stack.event(event_id)["complete"], 30)
    assert stack.session.get(f"{stack.flower_url}/api/tasks", timeout=10).status_code == 401

    def tasks() -> dict[str, dict[str, object]]:
        return dict(stack.session.get(f"{stack.flower_url}/api/tasks", auth=stack.flower_login, timeout=10).json())

    wait_until(lambda: any(t["name"] == "dead_letter crm-webhook" and t["state"] == "FAILURE" for t in tasks().values()), 15)
    shown = {"fan_out withdrawn", "deliver dinamize-news", "deliver mailchimp-main", "deliver crm-webhook"}
    wait_until(lambda: shown <= {str(task["name"]) for task in tasks().values()} and event_id in str(tasks()), 15)  # each worker tells by itself
    pages = str(tasks()) + stack.session.get(f"{stack.flower_url}/tasks", auth=stack.flower_login, timeout=10).text
    assert email not in pages


def test_a_paused_destination_waits_and_is_told_on_resume(stack: Stack) -> None:
    """While a destination is paused its deliveries wait in the ledger; resuming tells them."""
    email = person()
    assert stack.consent("destination", "pause", "crm-webhook").returncode == 0
    try:
        event_id = stack.accept("withdrawn", email=email)
        wait_until(lambda: stack.deliveries(event_id).get("mailchimp-main") == ("delivered", None), 30)
        assert stack.deliveries(event_id)["crm-webhook"][0] == "waiting"
    finally:
        assert stack.consent("destination", "resume", "crm-webhook").returncode == 0
    stack.wait_complete([event_id])
    assert webhook_state(stack, email) == "withdrawn"


def test_nothing_is_unaccounted_and_nobody_is_in_the_logs(stack: Stack) -> None:
    """After all of this every event and delivery is accounted for, and no log line names a person or a secret."""
    email = person()
    stack.wait_complete([stack.accept("given", email=email)])
    assert stack.metric("consent_unaccounted") == 0
    log = stack.log()
    assert "example.org" not in log
    assert "test-dinamize-token" not in log
    assert "test-mailchimp-key" not in log
    assert hashlib.md5(email.encode()).hexdigest() not in log
