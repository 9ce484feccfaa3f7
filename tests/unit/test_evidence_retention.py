"""What records say ends when its time is over, never that on which somebody relies; the chains and the day roots go on to hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from pipeline import archiving
from pipeline.archiving import Archiver, ArchiverOptions
from pipeline.domain import Subject
from pipeline.evidence import retention
from pipeline.evidence.archive import Archive
from pipeline.evidence.engine import writing
from pipeline.evidence.tables import METADATA, RECORDS
from pipeline.evidence.verify import verify
from pipeline.proving import Prover
from pipeline.routing import Purpose, Source
from tests.support.evidence import proof
from tests.support.postgres import postgres_server
from tests.support.relay import BASE_TIME, Relay, destination, routing

ANA, BRUNO = "ana@example.org", "bruno@example.org"
DAY_MS = 86_400_000
TEN_YEARS = 3650.0


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


class Case:
    """A relay and its archive, on a day of one's own choosing."""

    def __init__(self, client: redis.Redis, url: str) -> None:
        sources = (Source(name="web"), Source(name="fair", evidence_days=30))
        self.relay = Relay(client, routing([destination("crm")], sources=sources), seconds=30.0, evidence=True)
        self.rules = replace(self.relay.rules, purposes={**self.relay.rules.purposes, "sms": Purpose(name="sms", title="sms", evidence_days=300)})
        self.archive = Archive(url)
        self.began_ms = self.relay.ledger.now_ms()

    def after(self, days: float, keep_days: float = TEN_YEARS) -> None:
        """Archive, and look after what is old, so many days later."""
        self.relay.ledger.now_ms = lambda: self.began_ms + int(days * DAY_MS)  # type: ignore[method-assign]
        Archiver(self.relay.ledger, self.archive, ArchiverOptions(keep_days=keep_days), lambda: self.rules).run()

    def said(self) -> dict[str, list[str]]:
        """Event id -> the kinds of its records that still say something."""
        found: dict[str, list[str]] = {}
        with self.archive.reading() as connection:
            for row in connection.execute(RECORDS.select().order_by(RECORDS.c.chain, RECORDS.c.sequence)):
                if row.content:
                    found.setdefault(row.event_id, []).append(orjson.loads(row.content)["kind"])
        return found

    def document(self, email: str) -> dict[str, Any]:
        prover = Prover(self.archive, self.relay.hasher, lambda: self.rules, lambda: BASE_TIME)
        return prover.subject(Subject(email=email)) or {}

    def faults(self) -> list[str]:
        with self.archive.reading() as connection:
            chains = sorted({row.chain for row in connection.execute(RECORDS.select())})
        return [finding.text for finding in verify(proof(self.archive, chains)) if not finding.is_note]


@pytest.fixture(params=["sqlite", "postgresql"])
def case(request: pytest.FixtureRequest, client: redis.Redis, tmp_path: Path) -> Iterator[Case]:
    sqlite = f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    made = Case(client, sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    yield made
    with writing(made.archive.engine) as connection:
        METADATA.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS evidence_version")
    made.archive.close()


def test_what_was_overtaken_ends_and_what_stands_stays(case: Case) -> None:
    """The older word of a person is forgotten after its time; the newer one, and another person's only one, are kept however old they are."""
    older, newer = case.relay.event("given", 1, email=ANA), case.relay.event("withdrawn", 2, email=ANA)
    other = case.relay.event("given", 3, email=BRUNO)
    case.relay.drain()
    case.after(1)
    assert older in case.said()
    case.after(TEN_YEARS - 1)
    assert older in case.said()
    case.after(TEN_YEARS + 2)
    said = case.said()
    assert older not in said
    assert said[newer] == ["received", "accepted", "planned", "told", "answered", "completed"]
    assert other in said
    assert said[""] == ["expired"]
    assert case.faults() == []


def test_times_without_a_fraction_are_no_later(case: Case) -> None:
    """A consent on the full second, a withdrawal in the same second: the withdrawal stands, and its records stay."""
    given, withdrawn = case.relay.event("given", 1, email=ANA), case.relay.event("withdrawn", 1 + 0.4 / 60, email=ANA)
    case.relay.drain()
    case.after(TEN_YEARS + 2)
    assert withdrawn in case.said()
    assert given not in case.said()


def test_the_proof_says_what_was_removed_and_holds(case: Case) -> None:
    """Removed records are there by their hash, a record says which they are, and day roots made before and after cover them."""
    older = case.relay.event("given", 1, email=ANA)
    case.relay.drain()
    case.after(2)  # a day root
    case.relay.event("withdrawn", 2, email=ANA)
    case.relay.drain()
    case.after(TEN_YEARS + 3)
    case.after(TEN_YEARS + 5)
    document = case.document(ANA)
    (chain,) = document["evidence"]["chains"]
    gone = [record["sequence"] for record in chain["records"] if record["content"] is None]
    (expired,) = [record["content"] for record in chain["records"] if (record["content"] or {}).get("kind") == "expired"]
    assert expired["records"] == [f"{gone[0]}-{gone[-1]}"]
    assert [event["event_state"] for event in document["events"]] == ["dpv:ConsentWithdrawn"]
    assert [finding for finding in verify(document) if not finding.is_note] == []
    assert len(document["evidence"]["roots"]) >= 1
    assert Prover(case.archive, case.relay.hasher, lambda: case.rules, lambda: BASE_TIME).event(older) is None
    assert older not in orjson.dumps(document).decode()


@pytest.mark.parametrize("source, purpose, days", [("web", "news", TEN_YEARS), ("fair", "news", 30.0), ("web", "sms", 300.0), ("fair", "sms", 30.0)])
def test_the_shortest_time_counts(case: Case, source: str, purpose: str, days: float) -> None:
    """That of the source or of the purpose, where one is shorter than the usual one."""
    older, _ = (case.relay.event(state, minute, source=source, purpose=purpose, email=ANA) for minute, state in enumerate(("given", "withdrawn")))
    case.relay.drain()
    case.after(days - 1)
    assert older in case.said()
    case.after(days + 2)
    assert older not in case.said()


def test_a_record_that_was_emptied_by_somebody_else_is_named(case: Case) -> None:
    """Content that is gone without a record of its removal is found, in the proof of everything and in a source's own."""
    case.relay.event("given", 1, email=ANA)
    case.relay.drain()
    case.after(0)
    with writing(case.archive.engine) as connection:
        connection.execute(RECORDS.update().where(RECORDS.c.sequence == 4).values(content=b""))
    prover = Prover(case.archive, case.relay.hasher, lambda: case.rules, lambda: BASE_TIME)
    for source in (None, "web"):
        found = verify(prover.subject(Subject(email=ANA), source))
        assert [finding.code for finding in found if not finding.is_note] == ["emptied"]
        assert any("record 4 says nothing any more" in finding.text for finding in found)


def test_for_ever_means_for_ever(case: Case) -> None:
    """Without any limit nothing is ever looked at."""
    case.rules = replace(case.rules, sources={}, purposes={})
    older, _ = case.relay.event("given", 1, email=ANA), case.relay.event("withdrawn", 2, email=ANA)
    case.relay.drain()
    case.after(100 * TEN_YEARS, keep_days=0)
    assert older in case.said()


def test_it_goes_on_where_it_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many old records take several runs; a day that is done is not looked through again."""
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(archiving, "MOST_STEPS", 2)
    older = []
    for number in range(8):
        older.append(case.relay.event("given", 2 * number, email=f"p{number}@example.org"))
        case.relay.event("withdrawn", 2 * number + 1, email=f"p{number}@example.org")
        case.relay.drain()
    left = []
    for _ in range(20):
        case.after(TEN_YEARS + 2)
        left.append(len(set(older) & case.said().keys()))
    assert left[0] > left[1] > left[-1] == 0
    assert sum(kinds == ["expired"] * 8 for kinds in case.said().values()) == 1
    with case.archive.writing() as writer:
        assert writer.fact("retention_day")
    assert case.faults() == []
