"""People and secrets stay where they belong: after a run in which everything that can go wrong did, no canary is found anywhere but where it must be.

The run: every kind of source, every vendor with credentials that it takes and with such that it refuses, dead letters, answers that quote the person,
a worker that is killed, a ledger that does not answer, payloads that do not open, requests full of nonsense, debug logs, and the commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import canary_list
from tests.support.canaries import traces
from tests.support.canary_list import SAID_AT
from tests.support.canary_run import EXAMPLE, KEYS, SETTINGS, WRONG_KEY, our_secrets, routing
from tests.support.canary_trouble import Trouble
from tests.support.fuzzing import FACTOR
from tests.support.looking import inspected, kept, refusals_of, shown, watching_arguments
from tests.support.stack import Stack, running_stack, wait_until
from tests.support.world import SHORT

pytestmark = pytest.mark.timeout(300)
FINAL = frozenset({"delivered", "dead", "skipped", "superseded", "awaiting_confirmation"})
WRONG_SETTINGS = {
    "CONSENT_VAULT_KEYS": SETTINGS["CONSENT_SUBJECT_PEPPER"],
    "CONSENT_SUBJECT_PEPPER": KEYS["native"][:12],
    "CONSENT_BROKER_URL": f"nope://u:{WRONG_KEY}@h",
    "CONSENT_REDIS_URL": f"redis://u:{WRONG_KEY}@h:x/1",
}


@pytest.fixture(scope="module", params=["curl", *(["requests"] if FACTOR > 1 else [])])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    environment = {**SHORT, **SETTINGS, "CONSENT_LOG_LEVEL": "debug", "CONSENT_EXCHANGE_TRANSPORT": request.param}
    with running_stack(routing=routing(), environment=environment) as running:
        running.session.headers["Authorization"] = f"Bearer {KEYS['native']}"
        yield running


def test_no_canary_is_anywhere_it_must_not_be(stack: Stack) -> None:
    """Neither a person, plain or encoded or as an unkeyed hash, nor a secret: in no key, log, page, metric, answer, argument, command or dump."""
    run = Trouble(stack)
    with watching_arguments() as arguments:
        dead = go_wrong(run)
        run.commands(dead)
        run.places["event"] = stack.session.get(f"{stack.url}/v1/consent-events/{dead}", timeout=10).content
        run.places["dead letters"] = stack.session.get(f"{stack.url}/v1/dead-letters", timeout=10).content
        places = {**run.places, **kept(stack), **shown(stack), **inspected(stack), **refusals_of(stack, WRONG_SETTINGS)}
    log = stack.log()
    assert [word for word in ("dead_letter", "child_died", "account_gate", '"level": "debug"') if word not in log] == []
    assert len(places) > 100
    wanted = {**canary_list.personal(), **our_secrets(), "server password": (stack.folder / "server" / "password").read_text().strip()}
    assert traces(places, wanted) == []
    assert traces(arguments, wanted) == []


def go_wrong(run: Trouble) -> str:
    """Everything is told or refused, then vendors break, a withdrawal dies, we break, and all goes on; returns the event of the dead letter."""
    stack = run.stack
    native = run.accept_all()[0]
    wait_until(lambda: set(EXAMPLE["destinations"]) <= ended(stack, native), 60, lambda: str(deliveries(stack, native)))
    wait_until(lambda: any(str(reason).startswith("http_40") for _, reason in deliveries(stack, native).values()), 30, lambda: str(deliveries(stack, native)))
    run.break_vendors()
    second = say_again(run, "14", state="withdrawn")
    run.refuse_all()
    wait_until(lambda: deliveries(stack, second).get("crm-webhook") == ("dead", "http_400"), 60, lambda: str(deliveries(stack, second)))
    run.break_ourselves()
    wait_until(lambda: stack.session.get(stack.url + "/health/ready", timeout=10).status_code == 200, 60)
    stack.fault("dinamize")  # what is left of its faults is not for the next word
    third = say_again(run, "15")
    wait_until(lambda: deliveries(stack, third).get("dinamize-news", ("", ""))[0] == "delivered", 60, lambda: str(deliveries(stack, third)))
    return second


def say_again(run: Trouble, hour: str, **changes: str) -> str:
    """The same person says something at another hour; returns the event's id."""
    body = {**canary_list.native_body(), "idempotency_key": None, "event_time": SAID_AT.replace("13:", f"{hour}:"), **changes}
    answer = run.post(f"one more at {hour}", "/v1/consent-events", json.dumps(body).encode(), Content_Type="application/json")
    return str(answer.json()["event_id"])


def ended(stack: Stack, event_id: str) -> set[str]:
    """The destinations at which an event has ended."""
    return {name for name, (status, _) in deliveries(stack, event_id).items() if status in FINAL}


def deliveries(stack: Stack, event_id: str) -> dict[str, tuple[str, str | None]]:
    """Destination -> (status, reason)."""
    view = stack.session.get(f"{stack.url}/v1/consent-events/{event_id}", timeout=10).json()
    return {each["destination"]: (each["status"], each["reason"]) for each in view.get("deliveries", [])}
