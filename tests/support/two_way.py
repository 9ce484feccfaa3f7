"""Contacthub and Contactsend kept equal by their own connector, and a relay that is told by both and tells both: real sandboxes, real HTTP, one process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import redis

from pipeline.domain import IncomingEvent, State, Subject
from pipeline.exchange import Exchange
from pipeline.routing import Routing
from pipeline.routing_file import load_routing
from pipeline.transports.curl import CurlTransport
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.support.relay import Relay

EMAIL = "ana@example.org"
CODE = "230004001355"
NAMES = {"contacthub": {"first_name": "firstName", "last_name": "lastName"}, "contactsend": {"first_name": "NOME", "last_name": "COGNOME"}}
WRITES = frozenset({"modifySubscriberSubscriptionStatus", "addSubscriber"})

ROUTING = """
version: 1
sources:
  web: {{kind: native, keys: ["sha256:{digest}"]}}
  hub-changes:
    kind: contacthub
    purposes: {{newsletter: news}}
    poll: {{destination: hub, every_seconds: 1, credentials: {{token: test-contacthub-updates}}}}
  send-changes:
    kind: contactsend
    purposes: {{__cls1: news}}
    poll: {{destination: send, every_seconds: 1}}
purposes: {{news: {{title: News}}}}
destinations:
  hub:
    vendor: contacthub
    base_url: {hub_url}
    allow_private_network: true
    credentials: {{token: test-contacthub-token}}
    options: {{workspace_id: test-workspace, node_id: test-node, subscription_id: newsletter}}
    rate: {{calls: 1000, per_seconds: 1, concurrent: 4}}
  send:
    vendor: contactsend
    base_url: {send_url}
    allow_private_network: true
    credentials: {{api_key: test-contactsend-api-key, user_key: test-contactsend-user-key}}
    options: {{source_id: 6, webform_code: "{code}", registration_field: __cls1, fields: {{email: EMAIL, first_name: NOME, last_name: COGNOME}}}}
    rate: {{calls: 1000, per_seconds: 1, concurrent: 4}}
pairs:
  hub-and-send: {{contacthub: hub, contactsend: send}}
triggers:
  - {{purposes: [news], deliver_to: [hub, send]}}
"""


class TwoWay:
    """The relay between two systems that also copy each other, and the person who acts at any of the three."""

    def __init__(self, client: redis.Redis, sandboxes: SandboxHandle, *, delay_seconds: float, natively: bool = True) -> None:
        self.sandboxes, self.delay_seconds = sandboxes, delay_seconds
        for vendor in ("contacthub", "contactsend"):
            sandboxes.reset(vendor)
        sandboxes.settings("contactsend", hub_pairs={"newsletter": CODE} if natively else {}, sync_delay_seconds=delay_seconds)
        text = ROUTING.format(digest="ab" * 32, hub_url=sandboxes.url("contacthub"), send_url=sandboxes.url("contactsend"), code=CODE)
        self.rules: Routing = load_routing(text, filename="two-way.yaml", environment={})
        self.exchange = Exchange(CurlTransport(), Sessions(), total_timeout_seconds=5)
        self.relay = Relay(client, self.rules, seconds=1.0, exchange=self.exchange)

    def say(self, where: str, state: State, **names: str) -> None:
        """The person says `given` or `withdrawn` on our form, at Contacthub or at Contactsend, now; `names` are put into the record there."""
        if where == "web":
            now = self.relay.ledger.now()
            self.relay.acceptor.accept_many(
                [(self.rules.sources["web"], IncomingEvent(subject=Subject(email=EMAIL), purpose="news", state=state, event_time=now))]
            )
        elif where == "hub":
            stamp = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "+0000"
            dates = {"startDate": stamp, "endDate": None} if state is State.GIVEN else {"startDate": None, "endDate": stamp}
            entry = {"id": "newsletter", "kind": "DIGITAL_MESSAGE", "subscribed": state is State.GIVEN, **dates}
            more = {"base": {NAMES["contacthub"][name]: text for name, text in names.items()}}
            self.sandboxes.place("contacthub", email=EMAIL, subscriptions=[entry], more=more)
        else:
            more = {NAMES["contactsend"][name]: text for name, text in names.items()}
            self.sandboxes.place("contactsend", attributes={"EMAIL": EMAIL, "__cls1": "1" if state is State.GIVEN else "-1", **more})

    def work(self) -> None:
        """Poll both, and carry out everything that is there to be done."""
        self.poll("hub-changes")
        self.poll("send-changes")
        self.relay.drain()
        self.relay.again()

    def poll(self, source: str) -> None:
        """Hear what one of them has to say by now."""
        self.relay.ledger.store.client.hset(f"cr:{{s:{source}}}:poll", mapping={"due": 0, "until": 0})
        self.relay.listen.run(source)

    def settle(self) -> int:
        """Work until nobody has anything more to say; returns how many rounds that took. Fails if it never ends."""
        calm = 0
        for rounds in range(60):
            before = self.writes()
            self.work()
            time.sleep(self.delay_seconds * 1.5)
            calm = calm + 1 if self.writes() == before else 0
            if calm == 3:
                return rounds
        raise AssertionError(f"no rest after 60 rounds: {self.states()}")

    def writes(self) -> int:
        """How often either system was written to, by whomever: a subscription that was copied, told or said."""
        return sum(len(states) for vendor in ("contacthub", "contactsend") for states in self.sandboxes.state(vendor)["history"].values())

    def our_calls(self) -> int:
        """How often the relay itself wrote."""
        return sum(_is_write(call) for vendor in ("contacthub", "contactsend") for call in self.sandboxes.state(vendor)["calls"])

    def states(self) -> tuple[str | None, str | None, str | None]:
        """What Contacthub, Contactsend and the relay hold of the person."""
        hub = self.sandboxes.states("contacthub").get(f"{EMAIL}/newsletter")
        send = self.sandboxes.states("contactsend").get(f"{EMAIL}/{CODE}")
        reach = self.relay.ledger.standings.reach([[self.relay.hasher.identifier_key("email", EMAIL)]])[0]
        word = reach.newest("news")
        return hub, send, word.state.value if word else None


def _is_write(call: dict[str, Any]) -> bool:
    return call["operation"] in WRITES or call["method"] in ("PUT", "PATCH") or call["status"] == 201


class Sessions:
    """Session tokens in memory."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    def get(self, session: str) -> tuple[str, float] | None:
        return (self._tokens[session], 3600.0) if session in self._tokens else None

    def put(self, session: str, token: str, _ttl_seconds: float) -> None:
        self._tokens[session] = token

    def drop(self, session: str, token: str) -> None:
        if self._tokens.get(session) == token:
            del self._tokens[session]


@contextmanager
def both_sandboxes() -> Iterator[SandboxHandle]:
    with start_sandboxes(["contacthub", "contactsend"]) as handle:
        yield handle
