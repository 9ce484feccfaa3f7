"""In-memory stand-ins for acceptor and ledger, and an application around them; swap either for the real one by keyword."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

from falcon.testing import TestClient

from pipeline.errors import KeyReused
from pipeline.ingest import IngestLimits, Readiness, build_application
from pipeline.metrics import MetricsSnapshot
from pipeline.routing import Purpose, Routing, Source

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
URL_KEY = "url-key-of-privacy-tools-8cc7b2f0"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = {
    "web-forms": "key-web-forms",
    "reader": "key-reader",
    "privacy-tools": "key-privacy-tools",
    "auditor": "key-auditor",
    "hooks": "key-hooks",
}
EVENT = {"subject": {"email": "ana@example.com"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-05T13:00:00-03:00"}
IMPORT = {"consentDate": "05/01/2026 13:00:00", "name": "Ana", "email": "ana@example.com", "templateHash": "hash-1", "consentValue": True}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def make_routing(**changes) -> Routing:
    everything = frozenset({"ingest", "read", "replay"})
    sources = {
        "web-forms": Source(name="web-forms", keys=(digest(KEYS["web-forms"]), digest("key-web-forms-old")), scopes=everything),
        "reader": Source(name="reader", keys=(digest(KEYS["reader"]),), scopes=frozenset({"read"})),
        "auditor": Source(name="auditor", keys=(digest(KEYS["auditor"]),), scopes=everything, all_sources=True),
        "hooks": Source(name="hooks", keys=(digest(KEYS["hooks"]),), url_keys=(digest("url-key-of-hooks"),), signing_secret=SECRET),
        "privacy-tools": Source(
            name="privacy-tools",
            kind="privacy_tools",
            keys=(digest(KEYS["privacy-tools"]),),
            url_keys=(digest(URL_KEY),),
            time_zone="America/Sao_Paulo",
            purposes={"hash-1": "newsletter"},
        ),
    }
    purposes = {name: Purpose(name=name, title=name) for name in ("newsletter", "sms")}
    return Routing(**{"version_hash": "1", "sources": sources, "purposes": purposes, "destinations": {}, "triggers": (), **changes})


@dataclass(frozen=True)
class Accepted:
    event_id: str
    status: str


@dataclass
class FakeAcceptor:
    """Keeps events by source and key; `groups` are the sizes of the calls, `failure` is raised instead, `gate` holds a call back."""

    events: dict = field(default_factory=dict)
    groups: list = field(default_factory=list)
    failure: Exception | None = None
    poison: str | None = None
    gate: threading.Event | None = None
    entered: threading.Event = field(default_factory=threading.Event)

    def accept_many(self, items):
        self.groups.append(len(items))
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        if self.poison and any(event.subject.external_id == self.poison for _, event in items):
            raise ZeroDivisionError("ana@example.com")
        return [self._accept(source, event) for source, event in items]

    def _accept(self, source, event):
        content = (event.subject.identifiers().items(), event.purpose, event.state, event.event_time)
        text = repr([sorted(content[0]), *content[1:]])
        event_id = digest(f"{source.name}/{event.idempotency_key or text}")[:24]
        known = self.events.setdefault(event_id, (text, source, event))
        if known[0] != text:
            return KeyReused("other content")
        return Accepted(event_id, "accepted" if known[2] is event else "duplicate")


@dataclass(frozen=True)
class FakePage:
    items: list
    groups: list
    next_cursor: str | None


@dataclass(frozen=True)
class FakeReport:
    replayed: list
    skipped: list = field(default_factory=list)


@dataclass
class FakeLedger:
    """A few events and dead letters (`event.destination`, source); `calls` are the questions asked."""

    sources: dict = field(default_factory=dict)
    dead: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    failure: Exception | None = None
    page_size: int = 2

    def event(self, event_id):
        self._asked("event", event_id)
        return {"event_id": event_id, "source": self.sources[event_id], "deliveries": []} if event_id in self.sources else None

    def subject(self, subject, source):
        self._asked("subject", subject, source)
        return {"subject_key": "ekey", "purposes": []}

    def dead_letters(self, destination=None, reason=None, state=None, since=None, cursor=None, limit=100, source=None):
        self._asked(
            "dead_letters", {"destination": destination, "reason": reason, "state": state, "since": since, "cursor": cursor, "limit": limit, "source": source}
        )
        mine = [one for one in self.dead if source in (None, self.sources[one.partition(".")[0]])]
        start = int(cursor or 0)
        end = start + min(limit, self.page_size)
        return FakePage([{"delivery_id": one} for one in mine[start:end]], [], str(end) if end < len(mine) else None)

    def replay(self, ids, dry_run):
        self._asked("replay", (list(ids), dry_run))
        return FakeReport(list(ids))

    def gauges(self):
        self._asked("gauges", None)
        return MetricsSnapshot(unaccounted=3)

    def _asked(self, *call):
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure


@dataclass
class Relay:
    """An application under test; `post` sends native events with the key of `web-forms` unless told otherwise."""

    application: object
    acceptor: FakeAcceptor
    ledger: FakeLedger

    def __post_init__(self):
        self.client = TestClient(self.application)

    def call(self, method, path, *, key="key-web-forms", headers=(), **options):
        sent = {"Authorization": f"Bearer {key}"} if key else {}
        return self.client.simulate_request(method, path, headers={**sent, **dict(headers)}, **options)

    def post(self, path="/v1/consent-events", **options):
        return self.call("POST", path, **options)

    def get(self, path, **options):
        return self.call("GET", path, **options)


def make_relay(*, acceptor=None, ledger=None, limits=None, routing=None, readiness=None, now=lambda: NOW, prover=None) -> Relay:
    acceptor, ledger, table = acceptor or FakeAcceptor(), ledger or FakeLedger(), routing or make_routing()
    application = build_application(
        routing=table if callable(table) else lambda: table,
        acceptor=acceptor,
        ledger=ledger,
        readiness=readiness or (lambda: Readiness(ready=True)),
        limits=limits or IngestLimits(),
        now=now,
        prover=prover,
    )
    return Relay(application, acceptor, ledger)


def errors_of(answer) -> list[tuple[str, str]]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == answer.status_code
    assert answer.json["type"].startswith("urn:problem-type:consent-relay:")
    return [(error["path"], error["message"]) for error in answer.json["errors"]]


def paths_of(answer) -> list[str]:
    return sorted(path for path, _ in errors_of(answer))
