"""Every step of every event leaves its record, in the step itself; whatever happens to a batch, it is archived once."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from pipeline import archiving
from pipeline.archiving import Archiver, ArchiverOptions, _in_order
from pipeline.domain import DeliveryStatus, Outcome, State, Subject, format_time, utc_from_us
from pipeline.erasing import Erasing
from pipeline.errors import ArchiveMismatch
from pipeline.evidence.archive import Archive, Writer
from pipeline.evidence.engine import writing
from pipeline.evidence.merkle import DayRoot
from pipeline.evidence.reader import Reader
from pipeline.evidence.records import FIELDS, KINDS, Entry
from pipeline.evidence.tables import METADATA, RECORDS
from pipeline.evidence.verify import verify
from pipeline.ledger.deliveries import Row, Settlement, Verb
from pipeline.ledger.letters import LetterFilter
from pipeline.ledger.outbox import Waiting
from pipeline.ledger.results import DeliveryResult
from tests.support.accounting import gaps
from tests.support.evidence import proof
from tests.support.parts import CANARY, CANARY_PHONE, close_gate
from tests.support.postgres import postgres_server
from tests.support.relay import Relay, adapter, destination, routing

KEYS = ("kind", "destination", "status", "outcome", "reason", "status_code")


class Case:
    """A relay that keeps evidence, and its archive."""

    def __init__(self, client: redis.Redis, folder: Path, *destinations: Any, url: str = "", **options: Any) -> None:
        self.relay = Relay(client, routing(destinations or [destination("crm")], **options), seconds=30.0, evidence=True)
        self.archive = Archive(url or f"sqlite:///{folder / 'evidence.sqlite'}")
        self.archiver = Archiver(self.relay.ledger, self.archive, ArchiverOptions(), lambda: self.relay.rules)

    def records(self, event_id: str | None = None) -> list[dict[str, Any]]:
        """Archive what waits; everything that is recorded of an event, in the order of its chain."""
        self.archiver.run()
        with self.archive.reading() as connection:
            rows = connection.execute(RECORDS.select().order_by(RECORDS.c.chain, RECORDS.c.sequence))
            found = [orjson.loads(row.content) for row in rows]
        return [content for content in found if event_id in (None, content.get("event_id"))]

    def said(self, event_id: str) -> list[dict[str, Any]]:
        """What is recorded of an event, without what all records of it have in common."""
        return [{name: content[name] for name in KEYS if name in content} for content in self.records(event_id)]

    def kinds(self, event_id: str) -> list[str]:
        return [content["kind"] for content in self.records(event_id)]

    def faults(self) -> list[str]:
        with self.archive.reading() as connection:
            chains = sorted({row.chain for row in connection.execute(RECORDS.select())})
        return [finding.text for finding in verify(proof(self.archive, chains)) if not finding.is_note]


@pytest.fixture
def case(client: redis.Redis, tmp_path: Path) -> Iterator[Case]:
    made = Case(client, tmp_path)
    yield made
    made.archive.close()


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, client: redis.Redis, tmp_path: Path) -> Iterator[Case]:
    """A case with its archive in either database, for what depends on transactions."""
    made = Case(client, tmp_path, url="" if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    yield made
    with writing(made.archive.engine) as connection:
        METADATA.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS evidence_version")
    made.archive.close()


def test_an_event_that_was_told(case: Case) -> None:
    """From its receipt to the end, with all that tells who, what, where, when and how."""
    event_id = case.relay.event("withdrawn", 1, email=CANARY, phone=CANARY_PHONE, external_id="C-1")
    case.relay.drain()
    records = case.records(event_id)
    assert [content["kind"] for content in records] == ["received", "accepted", "planned", "told", "answered", "completed"]
    common = {"subject_key": records[0]["subject_key"], "event_id": event_id, "source": "web", "purpose": "news", "state": "withdrawn"}
    assert all(common.items() <= content.items() for content in records)
    received, _, planned, told, answered, completed = records
    assert set(received) - set(common) == {"id", "kind", "at", "event_time", "order_time", "content_hmac", "identifiers"}
    assert received["event_time"] == "2026-01-05T12:01:00Z"
    assert sorted(key[0] for key in [received["subject_key"], *received["identifiers"]]) == ["e", "p", "x"]
    assert (planned["destinations"], planned["routing_version"]) == (["crm"], "test")
    request = case.relay.vendors["crm"].calls
    assert len(request) == 1
    body = orjson.dumps([{**request[0]}])
    assert told["request_hmac"] == case.relay.hasher.request_hmac("POST", "https://vendor.example/tell", body)
    assert (told["operation"], told["status_code"], told["destination"], told["routing_version"]) == ("tell", 200, "crm", "test")
    assert {**answered, **common} | {"status": "delivered", "outcome": "applied", "attempts": 1, "status_code": 200} == answered
    assert completed["erase_at"] > completed["at"]
    assert case.faults() == []


@pytest.mark.parametrize("ahead_ms", [-700, 700])
def test_clocks_that_lie_apart_change_no_order(case: Case, monkeypatch: pytest.MonkeyPatch, ahead_ms: int) -> None:
    """A process whose clock is not the ledger's: its records say its own times, and stand where they belong."""
    case.relay.clock_offset = timedelta(milliseconds=ahead_ms)
    monkeypatch.setattr("tests.support.relay.time.time", lambda: (case.relay.ledger.now_ms() + ahead_ms) / 1000)
    event_id = case.relay.event("withdrawn", 1, email=CANARY)
    case.relay.drain()
    received, accepted, planned, told, answered, completed = case.records(event_id)
    order = [content["kind"] for content in (received, accepted, planned, told, answered, completed)]
    assert order == ["received", "accepted", "planned", "told", "answered", "completed"]
    assert (received["at"] < accepted["at"], told["at"] < planned["at"]) == (ahead_ms < 0, ahead_ms < 0)
    assert case.faults() == []


def test_no_record_has_a_personal_value_or_an_unknown_field(case: Case, client: redis.Redis) -> None:
    """Neither while it waits in the ledger, nor in the archive; every kind and field is explained."""
    for number, state in enumerate(("given", "withdrawn", "given")):
        case.relay.event(state, number, email=CANARY, phone=CANARY_PHONE, national_id="12345678909", external_id=CANARY)
    case.relay.drain()
    waiting = b"".join(value for name in client.scan_iter("cr:*:evidence") for _, fields in client.xrange(name) for value in fields.values())
    assert b"answered" not in waiting
    assert len(waiting) > 500
    archived = b"".join(map(orjson.dumps, case.records()))
    for canary in (CANARY, CANARY_PHONE, "canary", "11987654321", "12345678909"):
        assert canary.encode() not in waiting
        assert canary.encode() not in archived
    assert {content["kind"] for content in case.records()} <= set(KINDS)
    assert {name for content in case.records() for name in content} <= set(FIELDS)


def test_a_duplicate_leaves_nothing_new(case: Case) -> None:
    """Posted again, fanned out again, delivered again: what did not happen again is not recorded again."""
    event_id = case.relay.event("given", 1, key="same", email="ana@example.org")
    case.relay.drain()
    before = case.records()
    assert case.relay.event("given", 1, key="same", email="ana@example.org") == event_id
    case.relay.fan_out.run([event_id])
    case.relay.deliver.run("crm", "given", [event_id])
    case.relay.drain()
    assert case.records() == before


def test_a_word_that_was_overtaken(case: Case) -> None:
    """At fan-out, or right before it would have been told: it names the newer event, and nothing was sent."""
    older = case.relay.event("given", 1, email="ana@example.org")
    newer = case.relay.event("withdrawn", 2, email="ana@example.org")
    late = case.relay.event("given", 0, email="ana@example.org")
    case.relay.drain()
    records = case.records(late)
    assert [content["kind"] for content in records] == ["received", "accepted", "superseded", "planned", "completed"]
    assert records[2]["superseded_by"] == newer
    assert "destinations" not in records[3]
    assert "superseded" in case.kinds(older)
    assert "told" not in case.kinds(older)
    assert case.kinds(newer).count("told") == 1


def test_a_delivery_that_is_overtaken_while_it_waits(case: Case) -> None:
    """It was planned; the newer word came before it was told."""
    older = case.relay.event("given", 1, email="ana@example.org")
    case.relay.step()
    newer = case.relay.event("withdrawn", 2, email="ana@example.org")
    case.relay.drain()
    ended = next(content for content in case.records(older) if content["kind"] == "superseded")
    assert (ended["destination"], ended["superseded_by"], ended["status"]) == ("crm", newer, "superseded")


def test_attempts_that_fail(case: Case) -> None:
    """Each request, each answer, and the ones that got none; then the one that worked."""
    case.relay.vendors["crm"].answers = [500, "lost", 200]
    event_id = case.relay.event("withdrawn", 1, email="ana@example.org")
    case.relay.drain()
    until = time.monotonic() + 30
    while not case.relay.ledger.event(event_id)["complete"] and time.monotonic() < until:
        time.sleep(0.02)
        close_gate(case.relay.ledger, "crm")
        case.relay.again()
    said = [each for each in case.said(event_id) if each["kind"] in ("told", "answered")]
    failed = {"kind": "answered", "destination": "crm", "status": "waiting", "outcome": "unavailable"}
    assert said[:4] == [
        {"kind": "told", "destination": "crm", "status_code": 500},
        {**failed, "reason": "http_500", "status_code": 500},
        {"kind": "told", "destination": "crm"},
        {**failed, "reason": "timed_out"},
    ]
    assert said[-1] == {"kind": "answered", "destination": "crm", "status": "delivered", "outcome": "applied", "status_code": 200}
    assert case.kinds(event_id).count("told") == len(case.relay.vendors["crm"].calls)


def test_dead_letters_that_are_replayed_and_discarded(case: Case) -> None:
    """A refusal, a person's decision to try again, and to let it be; the person's words stay in the ledger."""
    case.relay.vendors["crm"].answers = [400, 400]
    event_id = case.relay.event("withdrawn", 1, email="ana@example.org")
    case.relay.drain()
    letters = case.relay.ledger.letters
    assert letters.reopen(letters.find(LetterFilter()), reason="replayed")
    case.relay.again()
    letters.discard(letters.find(LetterFilter()), f"spoken with {CANARY}", case.relay.ledger.now_ms())
    said = [each for each in case.said(event_id) if "destination" in each]
    told, dead = {"kind": "told", "destination": "crm", "status_code": 400}, {"kind": "dead", "destination": "crm", "status": "dead", "outcome": "rejected"}
    assert said == [
        told,
        {**dead, "reason": "http_400", "status_code": 400},
        {"kind": "reopened", "destination": "crm", "status": "waiting", "reason": "replayed"},
        told,
        {**dead, "reason": "http_400", "status_code": 400},
        {"kind": "discarded", "destination": "crm", "status": "skipped", "outcome": "not_applicable", "reason": "discarded"},
    ]
    assert CANARY.encode() not in b"".join(map(orjson.dumps, case.records()))


def test_a_file_that_the_vendor_took(client: redis.Redis, tmp_path: Path) -> None:
    """What cannot be told by a call is dead, until the file was taken."""
    case = Case(client, tmp_path, destination("crm", adapter(states=frozenset({State.GIVEN}))))
    event_id = case.relay.event("withdrawn", 1, email="ana@example.org")
    case.relay.drain()
    letters = case.relay.ledger.letters
    letters.close_exported(letters.find(LetterFilter()), "removals-1.csv", case.relay.ledger.now_ms())
    dead, exported = (content for content in case.records(event_id) if "destination" in content)
    assert (dead["kind"], dead["reason"]) == ("dead", "cannot_express_withdrawn")
    assert (exported["kind"], exported["status"], exported["vendor_reference"]) == ("exported", "delivered", "removals-1.csv")
    case.archive.close()


def test_what_is_skipped_says_why(client: redis.Redis, tmp_path: Path) -> None:
    """A `given` that the vendor could not find anybody by."""
    case = Case(client, tmp_path, destination("crm", adapter(identifiers=("phone",))))
    event_id = case.relay.event("given", 1, email="ana@example.org")
    case.relay.drain()
    assert {"kind": "skipped", "destination": "crm", "status": "skipped", "outcome": "not_applicable", "reason": "missing_identifier"} in case.said(event_id)
    case.archive.close()


def test_a_worker_that_died_while_it_told(case: Case) -> None:
    """Its lease is taken by somebody else: from then on it is on record that the destination may have been told; also if the lease ran out at rescue."""
    event_id = case.relay.event("withdrawn", 1, email="ana@example.org")
    case.relay.step()
    ledger = case.relay.ledger.deliveries
    assert ledger.claim("crm", "withdrawn", "dead-worker", 20, [event_id])
    assert "unanswered" not in case.kinds(event_id)
    time.sleep(0.03)
    assert ledger.claim("crm", "withdrawn", "another-dead-worker", 20, [event_id])
    assert case.kinds(event_id).count("unanswered") == 1
    time.sleep(0.03)
    _, rescued = ledger.release("crm", "withdrawn", 10, rescue_after_ms=0)
    assert rescued == [event_id]
    case.relay.deliver.run("crm", "withdrawn", [event_id])
    assert case.kinds(event_id)[3:] == ["unanswered", "unanswered", "told", "answered", "completed"]


def test_a_delivery_taken_from_a_worker_that_tells_it_right_now(case: Case) -> None:
    """A late write may undo what it says: it is told again, and that it was being told is on record."""
    event_id = case.relay.event("withdrawn", 1, email="ana@example.org")
    case.relay.step()
    case.relay.ledger.deliveries.claim("crm", "withdrawn", "slow-worker", 10_000, [event_id])
    assert case.relay.ledger.deliveries.reopen("crm", "withdrawn", [(event_id, 1, "")], Row(state="withdrawn", reason="late_write"), only_dead=False) == [False]
    assert case.kinds(event_id)[3:] == ["unanswered"]


def test_a_destination_that_is_told_again_to_repair_it(case: Case) -> None:
    """Because of what it holds, or may hold; and one that gets to know what stands, by backfill."""
    event_id = case.relay.event("withdrawn", 1, email="ana@example.org")
    case.relay.drain()
    time.sleep(0.002)
    case.relay.ledger.deliveries.reopen("crm", "withdrawn", [(event_id, 1, "")], Row(state="withdrawn", reason="late_write"), only_dead=False)
    time.sleep(0.002)
    case.relay.ledger.deliveries.plan("new", "withdrawn", [(event_id, 1)], Row(state="withdrawn", reason="backfill"))
    case.relay.ledger.deliveries.plan("new", "withdrawn", [(event_id, 1)], Row(state="withdrawn", reason="backfill"))
    assert case.said(event_id)[-2:] == [
        {"kind": "repaired", "destination": "crm", "status": "waiting", "reason": "late_write"},
        {"kind": "reopened", "destination": "new", "status": "waiting", "reason": "backfill"},
    ]


def test_a_confirmation(client: redis.Redis, tmp_path: Path) -> None:
    """Heard from the vendor by itself."""
    case = Case(client, tmp_path, destination("crm", adapter(double_opt_in=True)))
    event_id = case.relay.event("given", 1, email="ana@example.org")
    case.relay.step()
    deliveries, shown = case.relay.ledger.deliveries, case.relay.ledger.shown
    deliveries.claim("crm", "given", "t", 1000, [event_id])
    row = Row(awaiting=True, outcome="pending_confirmation", attempts=1, state="given")
    deliveries.settle("crm", "given", "t", [Settlement(event_id=event_id, verb=Verb.WAIT, at_ms=-1000, row=row, sent=[(1, "tell", "h", 200)])])
    result = DeliveryResult(status=DeliveryStatus.DELIVERED, updated_ms=2, outcome=Outcome.APPLIED, reason="confirmed", attempts=1)
    assert shown.confirm("crm", "given", [event_id], result) == [True]
    assert shown.confirm("crm", "given", [event_id], result) == [False]
    assert [(each["kind"], each.get("status")) for each in case.said(event_id) if "destination" in each] == [
        ("told", None),
        ("answered", "awaiting_confirmation"),
        ("confirmed", "delivered"),
    ]
    case.archive.close()


def test_evidence_accounts_for_every_event_and_every_call(case: Case) -> None:
    """Through failures, lost answers and workers that die with a call on its way; taking any record away leaves a gap."""
    crm = case.relay.vendors["crm"]
    crm.answers = [500, 200, "lost", 429, 200, "lost", 200, 400]
    ids = [case.relay.event("withdrawn", number, email=f"p{number}@example.org") for number in range(8)]
    case.relay.step()
    case.relay.ledger.deliveries.claim("crm", "withdrawn", "dead-worker", 10, ids[:1])
    crm.receive(orjson.dumps([{"id": ids[0], "to": {}, "purpose": "news", "state": "withdrawn"}]))
    case.relay.drain()
    until = time.monotonic() + 30
    while any(not case.relay.ledger.event(event_id)["complete"] for event_id in ids) and time.monotonic() < until:
        time.sleep(0.02)
        close_gate(case.relay.ledger, "crm")
        case.relay.again()
    calls = Counter((call["id"], "crm") for call in crm.calls)
    assert sum(calls.values()) > len(ids)
    recorded = Counter((content["event_id"], content["kind"], content.get("destination", "")) for content in case.records())
    done = [event_id for event_id in ids if recorded[event_id, "completed", ""]]
    assert len(done) == len(ids)
    assert gaps(recorded, ids, calls) == []
    for event_id, kind in ((ids[1], "received"), (ids[2], "accepted"), (ids[3], "planned"), (ids[4], "completed")):
        assert gaps({**recorded, (event_id, kind, ""): 0}, ids, calls) == [f"{event_id}: 0 records of kind {kind}"]
    for event_id, kind in ((ids[0], "unanswered"), (ids[5], "told")):
        assert len(gaps({**recorded, (event_id, kind, "crm"): 0}, ids, calls)) == 1


def test_without_evidence_nothing_is_written(client: redis.Redis) -> None:
    """Switched off, the ledger is what it was."""
    relay = Relay(client, routing([destination("crm")]))
    relay.event("given", 1, email="ana@example.org")
    relay.drain()
    assert list(client.scan_iter("cr:*:evidence")) == []
    assert relay.ledger.outbox.waiting() == Waiting()


def test_what_is_archived_is_trimmed_and_nothing_else(either: Case, client: redis.Redis) -> None:
    """After the commit; what came meanwhile stays."""
    either.relay.event("given", 1, email="ana@example.org")
    either.relay.drain()
    assert either.relay.ledger.outbox.waiting().entries > 3
    assert either.archiver.run() == 6
    assert either.relay.ledger.outbox.waiting().entries == 0
    either.relay.event("given", 2, email="bruno@example.org")
    assert either.relay.ledger.outbox.waiting().entries == 1
    assert either.archiver.run() == 2


def test_a_batch_that_is_lost_or_comes_twice(either: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead before the commit, dead between commit and trimming, and a trimming that is lost: all is archived once, and the chains hold."""
    outbox = either.relay.ledger.outbox
    for number in range(4):
        either.relay.event("given", number, email=f"p{number}@example.org")
    either.relay.drain()
    trim, append = outbox.trim, Writer.append

    def die(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Writer, "move", die)
    with pytest.raises(ZeroDivisionError):
        either.archiver.run()
    monkeypatch.undo()
    assert append is Writer.append
    waiting = outbox.waiting().entries
    assert waiting > 0
    monkeypatch.setattr(outbox, "trim", die)
    with pytest.raises(ZeroDivisionError):
        either.archiver.run()
    assert outbox.waiting().entries == waiting
    monkeypatch.setattr(outbox, "trim", lambda _: None)
    before = either.records()
    assert len(before) == 24
    assert either.archiver.run() == 0
    monkeypatch.setattr(outbox, "trim", trim)
    assert either.archiver.run() == 0
    assert outbox.waiting().entries == 0
    assert either.records() == before
    assert either.faults() == []


def test_two_archivers_at_once(either: Case) -> None:
    """While events come in and are told: nothing is lost, nothing doubled, every chain holds."""
    others = [Archiver(either.relay.ledger, either.archive, ArchiverOptions(), lambda: either.relay.rules) for _ in range(3)]
    stop, failed = threading.Event(), []

    def work(archiver: Archiver) -> None:
        try:
            while not stop.is_set():
                archiver.run()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(archiver,)) for archiver in others]
    for thread in threads:
        thread.start()
    ids = [either.relay.event(state, number, email=f"p{number % 7}@example.org") for number, state in zip(range(40), itertools.cycle(("given", "withdrawn")))]
    either.relay.drain()
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    records = either.records()
    assert len({content["id"] for content in records}) == len(records)
    for event_id in ids:
        assert [kind for kind in case_kinds(records, event_id) if kind in ("received", "accepted", "completed")] == ["received", "accepted", "completed"]
    assert sum(content["kind"] == "told" for content in records) == len(either.relay.vendors["crm"].calls)
    assert either.faults() == []


def case_kinds(records: list[dict[str, Any]], event_id: str) -> list[str]:
    return [content["kind"] for content in records if content["event_id"] == event_id]


def test_an_archive_that_is_away_loses_nothing(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """It is said aloud, what waits stays, and when it waits too long that is said as well."""
    case.relay.event("given", 1, email="ana@example.org")
    away = Archiver(case.relay.ledger, Archive("postgresql://relay@127.0.0.1:1/x"), ArchiverOptions(alert_seconds=0.0), lambda: case.relay.rules)
    assert away.run() == 0
    assert [record.__dict__["alert"] for record in caplog.records if record.message == "alert"] == ["evidence_not_archived", "evidence_waits"]
    assert case.relay.ledger.outbox.waiting().entries == 1
    assert case.archiver.run() == 2


def test_another_or_an_older_archive_is_refused(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records would be missing, and nobody would know; a person may accept it."""
    case.relay.event("given", 1, email="ana@example.org")
    case.archiver.run()
    case.relay.event("given", 2, email="ana@example.org")
    with contextlib.closing(Archive(f"sqlite:///{tmp_path / 'other.sqlite'}")) as other:
        archiver = Archiver(case.relay.ledger, other, ArchiverOptions(), lambda: case.relay.rules)
        assert archiver.run() == 0
        assert "give every process the same CONSENT_EVIDENCE_URL" in caplog.records[-1].__dict__["reason"]
        with case.archive.writing() as writer:
            writer.move({f"{case.relay.ledger.identity.ledger_id}/e{number}": "0-1" for number in range(4)})
            positions = {name.partition("/")[2]: entry for name, entry in writer.positions().items()}
            with pytest.raises(ArchiveMismatch, match="older than it was"):
                case.relay.ledger.outbox.check(writer.archive_id(), positions)
        archiver.accept()
        assert archiver.run() == 2


def test_a_day_root_is_made_once_a_day_has_ended(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a run of the next day, once all of the day is archived for certain; each says until when it covers all."""
    ledger, minute_ms, day_ms = case.relay.ledger, 60_000, 86_400_000
    midnight_ms = (ledger.now_ms() // day_ms + 1) * day_ms
    case.relay.event("given", 1, email="ana@example.org")

    def roots_at(now_ms: int) -> list[DayRoot]:
        monkeypatch.setattr(ledger, "now_ms", lambda: now_ms)
        case.archiver.run()
        with case.archive.reading() as connection:
            return Reader(connection).roots()

    assert roots_at(midnight_ms - minute_ms) == roots_at(midnight_ms + minute_ms - 1) == []
    for now_ms in (midnight_ms + minute_ms, midnight_ms + 2 * minute_ms, midnight_ms + day_ms + minute_ms - 1):
        (root,) = roots_at(now_ms)
        assert root.until == format_time(utc_from_us(midnight_ms * 1000))
        assert root.day == format_time(utc_from_us((midnight_ms - day_ms) * 1000))[:10]
    roots = roots_at(midnight_ms + 2 * day_ms + 5 * minute_ms)
    assert [root.number for root in roots] == [1, 2]
    case.archiver.anchor()  # by hand, while the day goes on: it gets one at its end all the same
    roots = roots_at(midnight_ms + 3 * day_ms + 5 * minute_ms)
    assert [root.day for root in roots[2:]] == [format_time(utc_from_us((midnight_ms + 2 * day_ms) * 1000))[:10]] * 2
    assert roots[1].previous == roots[0].hash()


def test_no_day_root_is_made_while_records_of_that_day_wait(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left out would look as if it had been taken away."""
    case.relay.event("given", 1, email="ana@example.org")
    case.archiver.run()
    for number in range(2, 6):
        case.relay.event("given", number, email="ana@example.org")
    monkeypatch.setattr(archiving, "AT_ONCE", 1)
    monkeypatch.setattr(archiving, "MOST_ROUNDS", 1)
    now_ms = case.relay.ledger.now_ms() + 2 * 86_400_000
    monkeypatch.setattr(case.relay.ledger, "now_ms", lambda: now_ms)
    found = []
    for _ in range(6):
        waits = case.relay.ledger.outbox.waiting().entries > 0
        case.archiver.run()
        with case.archive.reading() as connection:
            found.append((waits, len(Reader(connection).roots())))
    assert found[0] == (True, 0)
    assert {count for waits, count in found if waits} == {0}
    assert found[-1] == (False, 1)


def test_evidence_of_events_from_before_it_was_kept(client: redis.Redis, tmp_path: Path) -> None:
    """What is done with them from now on is recorded, with the facts that the ledger still has."""
    before = Relay(client, routing([destination("crm")]))
    event_id = before.event("given", 1, email="ana@example.org")
    case = Case(client, tmp_path)
    case.relay.queue.messages = before.queue.messages
    case.relay.drain()
    records = case.records(event_id)
    assert [content["kind"] for content in records] == ["planned", "told", "answered", "completed"]
    assert {content["source"] for content in records} == {"web"}
    case.archive.close()


def test_an_erasure_is_recorded_and_the_proof_still_holds(case: Case) -> None:
    """Of each event that lost something; a dead `given` that it ends is skipped, not discarded by a person."""
    relay = case.relay
    told = relay.event("withdrawn", 1, email=CANARY)
    relay.drain()
    relay.vendors["crm"].answers = [400]
    dead, fresh = relay.event("given", 2, email=CANARY), relay.event("given", 2, purpose="sms", email=CANARY)
    relay.fan_out.run([dead])
    relay.deliver.run("crm", "given", [dead])
    assert erase(relay, email=CANARY).event_ids == ()
    assert case.kinds(told)[-1] == "erased"
    assert case.kinds(fresh)[2:] == ["erased", "completed"]
    assert [content["reason"] for content in case.records(dead) if content["kind"] in ("skipped", "erased")] == ["erased", "erased"]
    assert "discarded" not in case.kinds(dead)
    assert case.faults() == []
    assert CANARY.encode() not in b"".join(map(orjson.dumps, case.records()))
    (key,) = relay.hasher.identifier_keys(Subject(email=CANARY)).values()
    of_identifier = [content for content in case.records() if content["kind"] == "erased" and "event_id" not in content]
    assert [(content["subject_key"], content["reason"]) for content in of_identifier] == [(key, "erased")]


def erase(relay: Relay, **subject: str) -> Any:
    eraser = Erasing(relay.ledger, relay.vault, lambda: relay.rules)
    return eraser.advance(eraser.begin([eraser.find(relay.hasher.identifier_keys(Subject(**subject)).values())])[0])


def test_an_erasure_is_recorded_although_the_payload_had_gone_by_itself(case: Case) -> None:
    """By its time, or at once as the source keeps nothing; and once, however often the erasure is repeated."""
    event_id = case.relay.event("withdrawn", 1, email=CANARY)
    case.relay.drain()
    case.relay.ledger.store.client.delete(case.relay.ledger.keys.payload(event_id))
    for _ in range(2):
        case.relay.ledger.erasures.erase_events([(event_id, True)], case.relay.ledger.clock_ms() * 1000)
    assert case.kinds(event_id).count("erased") == 1


def test_steps_of_one_millisecond_are_recorded_in_the_order_in_which_they_follow() -> None:
    """The ledger keeps them in several streams, which are read one after the other."""
    kinds = ("completed", "erased", "received", "told")
    made = [Entry(id=kind, subject_key="e1", event_id="1", at_ms=5, content={"kind": kind}) for kind in kinds]
    assert [entry.id for entry in _in_order(made)] == ["received", "told", "completed", "erased"]


def test_an_erasure_that_waits_for_a_withdrawal_is_recorded_when_it_is_done(case: Case) -> None:
    """Not before it was told; beat ends it."""
    event_id = case.relay.event("withdrawn", 1, email=CANARY)
    assert erase(case.relay, email=CANARY).event_ids == (event_id,)
    assert "erased" not in case.kinds(event_id)
    case.relay.drain()
    Erasing(case.relay.ledger, case.relay.vault, lambda: case.relay.rules).go_on()
    assert case.kinds(event_id)[-1] == "erased"
    assert [content["reason"] for content in case.records() if content["kind"] == "erased"] == ["erased", "erased"]
