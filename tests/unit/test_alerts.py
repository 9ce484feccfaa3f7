"""Alerts to a webhook: posted once, again while they go on, once more when they are over, whatever fails; signed, bounded, and without a word about anybody."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import redis

from config.settings import SettingsError, check_invariants, load_settings
from pipeline.alerts import AlertOptions, Alerts, Kept, conditions
from pipeline.ledger.lookout import quarantine_now
from pipeline.metrics import MetricsSnapshot
from pipeline.signatures import standard_webhooks
from pipeline.transports.curl import CurlTransport
from tests.support.parts import CANARY
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.relay import Relay, destination, routing
from workers.alerting import Notes


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail"), destination("crm")]))


@pytest.fixture
def alerts(relay: Relay, receiver: Receiver) -> Iterator[Alerts]:
    transport = CurlTransport()
    yield Alerts(relay.ledger, transport, lambda: relay.rules, AlertOptions(url=receiver.url, secret=SECRET))
    transport.close()


def pass_time(relay: Relay, milliseconds: int) -> None:
    """What is kept of alerts happened that much earlier."""
    kept = {name: Kept.decode(value) for name, value in relay.ledger.alerts.kept().items()}
    relay.ledger.alerts.keep({name: replace(each, next_ms=each.next_ms - milliseconds).encode() for name, each in kept.items()})


def test_a_dead_withdrawal_is_posted_once_and_when_it_is_over(relay: Relay, alerts: Alerts, receiver: Receiver):
    """Signed by Standard Webhooks, naming kind, destination and count; not again until it is time; resolved when a person has dealt with it."""
    relay.vendors["mail"].answers = [400, 400]
    for name in ("ana", "ben"):
        relay.event("withdrawn", 1, email=f"{name}.{CANARY}")
    relay.drain()
    assert [alerts.run() for _ in range(3)] == [1, 0, 0]
    assert receiver.said == [("firing", "withdrawal_dead", "mail", 2)]
    headers, body = receiver.posts[0]
    assert standard_webhooks(SECRET, headers, body, datetime.now(UTC)) is None
    assert standard_webhooks(SECRET, headers, body + b" ", datetime.now(UTC)) is not None
    assert CANARY.encode() not in body
    pass_time(relay, 4 * 3600 * 1000)
    assert [alerts.run() for _ in range(2)] == [1, 0]
    letters, _ = relay.ledger.letters.by_id([item["delivery_id"] for item in relay.ledger.letters.page(wanted()).items])
    relay.ledger.letters.discard(letters, "told by hand", relay.ledger.now_ms())
    assert [alerts.run() for _ in range(2)] == [1, 0]
    assert receiver.said[1:] == [("firing", "withdrawal_dead", "mail", 2), ("resolved", "withdrawal_dead", "mail", 2)]
    assert len({headers["webhook-id"] for headers, _ in receiver.posts}) == 3
    assert relay.ledger.alerts.kept() == {}


def wanted():
    from pipeline.ledger.letters import LetterFilter

    return LetterFilter()


def test_a_post_that_failed_is_repeated_with_the_same_id(relay: Relay, alerts: Alerts, receiver: Receiver):
    """Later and later, until it is taken, so that the receiver can tell a repeat; what is over meanwhile is told all the same, and then as over."""
    receiver.answers = [503, 302, 200]
    found = quarantine_now(relay.ledger.store, reason="older", from_ms=1, era=0)
    relay.ledger.look()
    assert [alerts.run() for _ in range(2)] == [0, 0]
    relay.ledger.lift(found, 2)
    pass_time(relay, 11_000)
    assert alerts.run() == 0
    pass_time(relay, 11_000)
    assert alerts.run() == 0
    pass_time(relay, 21_000)
    assert alerts.run() == 1
    assert alerts.run() == 1
    assert [state for state, *_ in receiver.said] == ["firing", "firing", "firing", "resolved"]
    assert len({headers["webhook-id"] for headers, _ in receiver.posts[:3]}) == 1


def test_a_receiver_that_is_away_keeps_nobody_waiting(relay: Relay, client: redis.Redis):
    """No answer is a failed post, noted in the ledger; another process goes on from there."""
    quarantine_now(relay.ledger.store, reason="older", from_ms=1, era=0)
    relay.ledger.look()
    transport = CurlTransport()
    try:
        assert Alerts(relay.ledger, transport, lambda: relay.rules, AlertOptions(url="http://127.0.0.1:9/", secret=SECRET)).run() == 0
    finally:
        transport.close()
    kept = Kept.decode(relay.ledger.alerts.kept()["quarantined|"])
    assert (kept.failures, kept.posted) == (1, 0)
    assert kept.next_ms > relay.ledger.now_ms() + 5_000


def test_without_a_webhook_nothing_is_done(relay: Relay):
    """Then alerts are log lines and metrics."""
    quarantine_now(relay.ledger.store, reason="older", from_ms=1, era=0)
    relay.ledger.look()
    assert Alerts(relay.ledger, CurlTransport(), lambda: relay.rules, AlertOptions()).run() == 0
    assert relay.ledger.alerts.kept() == {}


def test_what_is_logged_as_an_alert_is_posted(relay: Relay, alerts: Alerts, receiver: Receiver):
    """Kind and place of the line, nothing else of it; while it is said again it goes on, a while after it is over."""
    notes = Notes()
    logger = logging.getLogger("pipeline.test_alerts")
    logger.addHandler(notes)
    try:
        for _ in range(3):
            logger.error("alert", extra={"alert": "payload_unreadable", "event_id": CANARY, "reason": CANARY})
            logger.error("alert", extra={"alert": "heard_unreadable", "source": "hub"})
        logger.error("something_else", extra={"alert": "none"})
    finally:
        logger.removeHandler(notes)
    notes.flush_to(relay.ledger)
    notes.flush_to(relay.ledger)
    assert alerts.run() == 2
    assert sorted(receiver.said) == [("firing", "heard_unreadable", "hub", 1), ("firing", "payload_unreadable", None, 1)]
    assert CANARY.encode() not in b"".join(body for _, body in receiver.posts)
    relay.ledger.store.client.zadd("cr:{meta}:noted", {"payload_unreadable|": 1, "heard_unreadable|hub": 1})
    assert alerts.run() == 2
    assert {state for state, *_ in receiver.said[2:]} == {"resolved"}


def test_alerts_are_bounded(relay: Relay, alerts: Alerts, receiver: Receiver):
    """However many there are, a run posts a few, and the ledger keeps some hundreds."""
    relay.ledger.alerts.note([f"kind|place-{n}" for n in range(700)], relay.ledger.now_ms())
    assert alerts.run() == 20
    assert len(relay.ledger.alerts.kept()) == 200
    assert len(receiver.posts) == 20


def test_two_at_once_post_once(relay: Relay, alerts: Alerts, receiver: Receiver):
    """Whoever comes second leaves it to the first."""
    quarantine_now(relay.ledger.store, reason="older", from_ms=1, era=0)
    relay.ledger.look()
    assert relay.ledger.once("alerting", 10_000) is True
    assert alerts.run() == 0
    relay.ledger.again("alerting")
    assert alerts.run() == 1
    assert len(receiver.posts) == 1


def test_every_figure_that_is_wrong_is_a_condition():
    """One for each kind that the ledger itself knows, and none where all is well."""
    rules = routing([destination("mail"), destination("crm")])
    well = MetricsSnapshot(waiting=[("mail", "given", 3)], oldest_untold_withdrawal_seconds={"mail": 5.0}, key_expires_in_days={"mail": 3})
    assert dict(conditions(well, rules, set())) == {}
    wrong = MetricsSnapshot(
        unaccounted=2,
        quarantined=True,
        dead_letters=[("mail", "withdrawn", "http_400", 1), ("mail", "withdrawn", "gone", 2), ("mail", "given", "gone", 9)],
        oldest_untold_withdrawal_seconds={"mail": 3600.0, "crm": 1.0},
        waiting=[("former", "given", 1), ("former", "withdrawn", 1)],
        key_expires_in_days={"mail": 0},
    )
    assert dict(conditions(wrong, rules, {"crm"})) == {
        "withdrawal_dead|mail": 3,
        "unaccounted|": 2,
        "quarantined|": 1,
        "withdrawal_overdue|mail": 1,
        "withdrawal_held_up|crm": 1,
        "destination_removed|former": 2,
        "key_expired|mail": 1,
    }


@pytest.mark.parametrize(
    "url, secret, problem",
    [("ftp://x", SECRET, "alerts.url"), ("https://alerts.example.org", "plain", "alerts.secret"), ("https://alerts.example.org", "", "alerts.secret")],
)
def test_unsafe_settings_stop_the_start(url: str, secret: str, problem: str):
    """An alert that nobody can check is none; neither value is shown."""
    settings = load_settings({"CONSENT_ALERTS_URL": url, "CONSENT_ALERTS_SECRET": secret})
    with pytest.raises(SettingsError, match=problem):
        check_invariants(settings)
    assert url not in repr(settings)
    check_invariants(load_settings({"CONSENT_ALERTS_URL": url, "CONSENT_ALERTS_SECRET": SECRET} if url.startswith("http") else {}))
