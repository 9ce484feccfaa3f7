"""A replica that an accepted event needs is away, over HTTP: 503 and when to come back, and the same event is accepted once the replica is there again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests

from tests.support.sentinel import SERVICE, SentinelSet, Server, behind_sentinel
from tests.support.serving import Serving, key_line, serving
from tests.support.stack import wait_until

pytestmark = pytest.mark.timeout(120)

ROUTING = f"""
version: 1
sources:
  web-forms: {{kind: native, keys: ['{key_line("key-web")}'], scopes: [ingest, read]}}
purposes:
  newsletter: {{title: Newsletter}}
destinations:
  crm:
    vendor: webhook
    base_url: https://crm.example/hook
    credentials: {{secret: "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="}}
triggers:
  - {{deliver_to: [crm]}}
"""
WAITS_MILLISECONDS = 300


@pytest.fixture(scope="module")
def watched() -> Iterator[SentinelSet]:
    with behind_sentinel() as servers:
        yield servers


@pytest.fixture(scope="module")
def server(watched: SentinelSet) -> Iterator[Serving]:
    settings = {"CONSENT_REDIS_URL": watched.url, "CONSENT_LEDGER_MIN_REPLICAS": "2", "CONSENT_LEDGER_WAIT_AOF_MILLISECONDS": str(WAITS_MILLISECONDS)}
    with serving(ROUTING, settings) as running:
        yield running


def event(name: str) -> dict[str, object]:
    return {
        "idempotency_key": name,
        "subject": {"email": f"{name}@example.org"},
        "purpose": "newsletter",
        "state": "withdrawn",
        "event_time": "2026-01-05T10:00:00Z",
    }


def post(server: Serving, body: object, path: str = "") -> requests.Response:
    return requests.post(f"{server.url}/v1/consent-events{path}", json=body, headers={"Authorization": "Bearer key-web"}, timeout=10)


def is_missed(watched: SentinelSet, lost: Server) -> bool:
    """Whether every Sentinel takes it for dead."""
    return all(any(known["is_sdown"] and int(known["port"]) == lost.port for known in each.client.sentinel_slaves(SERVICE)) for each in watched.sentinels)


def check_refused(answer: requests.Response) -> None:
    """503 as the contract has it, without a word of where the servers are."""
    assert (answer.status_code, answer.headers["Retry-After"], answer.headers["Content-Type"]) == (503, "1", "application/problem+json"), answer.text
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("take_away, bring_back", [(Server.freeze, Server.thaw), (Server.kill, Server.start)], ids=["paused", "stopped"])
def test_a_missing_replica_is_503_until_it_is_back(
    server: Serving, watched: SentinelSet, take_away: Callable[[Server], None], bring_back: Callable[[Server], None]
) -> None:
    """Two replicas are asked for, one is away: posts of one and of many are refused, before Sentinel misses it and after; repeated under their keys when it is
    back, each is one event.
    """
    name = take_away.__name__
    many = [event(f"{name}-many-{number}") for number in range(3)]
    assert post(server, event(f"{name}-before")).status_code == 202
    lost = next(each for each in watched.servers if each is not watched.primary())
    take_away(lost)
    try:
        check_refused(post(server, event(f"{name}-single")))
        check_refused(post(server, many, "/batch"))
        wait_until(lambda: is_missed(watched, lost), 30)
        check_refused(post(server, event(f"{name}-single")))
        check_refused(post(server, event(f"{name}-before")))  # a duplicate is answered when the original is where it has to be
    finally:
        bring_back(lost)
    answers: list[requests.Response] = []
    wait_until(lambda: bool(answers.append(post(server, event(f"{name}-single"))) or answers[-1].status_code == 202), 30, lambda: answers[-1].text)
    told = {"event_id": answers[-1].json()["event_id"], "status": "duplicate"}
    assert post(server, event(f"{name}-single")).json() == told
    first, again = post(server, many, "/batch"), post(server, many, "/batch")
    assert (first.status_code, again.status_code, again.json()["duplicates"]) == (202, 202, 3)
    assert [each["event_id"] for each in first.json()["results"]] == [each["event_id"] for each in again.json()["results"]]
    seen = requests.get(f"{server.url}/v1/consent-events/{told['event_id']}", headers={"Authorization": "Bearer key-web"}, timeout=10)
    assert (seen.status_code, seen.json()["state"]) == (200, "withdrawn")
