"""The archive of evidence, in SQLite and in PostgreSQL: added to once, by one at a time, all or nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import delete, inspect, text, update

from pipeline.errors import ArchiveUnavailable, ConfigurationError
from pipeline.evidence import engine
from pipeline.evidence.archive import Archive
from pipeline.evidence.document import build
from pipeline.evidence.reader import Found, Reader
from pipeline.evidence.records import KINDS
from pipeline.evidence.summary import ALL_RECORDS
from pipeline.evidence.tables import CHAINS, METADATA, RECORDS, ROOTS
from pipeline.evidence.verify import verify
from tests.support.evidence import ANA, BRUNO, entry, one_of_each, proof
from tests.support.postgres import postgres_server

COUNT = len(KINDS)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def archive(url: str) -> Iterator[Archive]:
    opened = Archive(url)
    with engine.writing(opened.engine) as connection:
        METADATA.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS evidence_version"))
    yield opened
    opened.close()


def faults(document: Any) -> list[str]:
    return [finding.text for finding in verify(document) if not finding.is_note]


def test_what_was_written_is_proven(archive: Archive) -> None:
    """Records of several people, in several batches, each in a chain of its own; a day root covers them all."""
    with archive.writing() as writer:
        assert writer.append(one_of_each(ANA)) == COUNT
        assert writer.append([*one_of_each(BRUNO), entry(50)]) == COUNT + 1
        made = writer.anchor("2026-01-05", 1)
    assert made is not None
    assert (made.number, made.chains, made.records, made.previous) == (1, 2, 2 * COUNT + 1, "0" * 64)
    document = proof(archive, [ANA, BRUNO])
    assert verify(document) == []
    assert [(chain["chain"], chain["length"]) for chain in document["evidence"]["chains"]] == [(ANA, COUNT + 1), (BRUNO, COUNT)]


def test_a_batch_that_comes_twice_changes_nothing(archive: Archive) -> None:
    """Whole, in part, or doubled within itself."""
    with archive.writing() as writer:
        writer.append(one_of_each(ANA))
    before = proof(archive, [ANA])["evidence"]
    with archive.writing() as writer:
        assert writer.append(one_of_each(ANA)) == 0
        assert writer.append([one_of_each(ANA)[3], entry(50), entry(50)]) == 1
    after = proof(archive, [ANA])["evidence"]
    assert after["chains"][0]["records"][:-1] == before["chains"][0]["records"]
    assert faults(proof(archive, [ANA])) == []


def test_a_batch_that_is_lost_leaves_nothing(archive: Archive) -> None:
    """A crash before the commit: neither records nor heads nor positions stay, and the same batch goes in later."""

    def write_and_die() -> None:
        with archive.writing() as writer:
            writer.append(one_of_each(ANA))
            writer.move({"e0": "5-0"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_die()
    with archive.writing() as writer:
        assert writer.positions() == {}
        assert writer.append(one_of_each(ANA)) == COUNT
        writer.move({"e0": "5-0", "d:crm": "7-1"})
        writer.move({"e0": "6-0"})
    with archive.writing() as writer:
        assert writer.positions() == {"e0": "6-0", "d:crm": "7-1"}
    assert faults(proof(archive, [ANA])) == []


def test_two_who_write_at_once_wait_for_each_other(archive: Archive) -> None:
    """Twelve threads add to the same two chains: nothing is lost, and the chains hold."""
    archive.prepare()
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with archive.writing() as writer:
                writer.append([entry(10 * number + n, subject_key=key) for n in range(5) for key in (ANA, BRUNO)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    document = proof(archive, [ANA, BRUNO])
    assert faults(document) == []
    assert [chain["length"] for chain in document["evidence"]["chains"]] == [60, 60]


def test_two_who_open_a_new_archive_at_once_make_one(archive: Archive, url: str) -> None:
    """The tables are made by whoever comes first; the other finds them."""
    failed: list[BaseException] = []
    others = [Archive(url) for _ in range(4)]

    def prepare(other: Archive) -> None:
        try:
            other.prepare()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=prepare, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert failed == []
    with archive.writing() as writer:
        assert writer.archive_id() == writer.archive_id()


def test_a_reader_sees_one_moment(archive: Archive) -> None:
    """What is written while a proof is made is not in it, and does not wait for it."""
    with archive.writing() as writer:
        writer.append(one_of_each(ANA))
    with archive.reading() as connection:
        before = Reader(connection).head(ANA)
        with archive.writing() as writer:
            writer.append([entry(60)])
        assert len(Reader(connection).records(ANA)) == before[0] == COUNT
    with archive.reading() as connection:
        assert len(Reader(connection).records(ANA)) == COUNT + 1


def test_each_root_follows_the_one_before(archive: Archive) -> None:
    """Over what changed and what did not; a chain's proof leads to the last of them."""
    with archive.writing() as writer:
        assert writer.anchor("2026-01-04", 1) is None
        assert writer.covered_day() == ""
        writer.append(one_of_each(ANA))
        first = writer.anchor("2026-01-05", 2)
        writer.append([entry(number, subject_key=f"p{number:024}") for number in range(300)])
        second = writer.anchor("2026-01-06", 3)
        third = writer.anchor("2026-01-07", 4)
        assert writer.covered_day() == "2026-01-07"
    assert first
    assert second
    assert third
    assert (second.previous, third.previous) == (first.hash(), second.hash())
    assert (second.chains, second.records, third.tree) == (301, COUNT + 300, second.tree)
    for chain in (ANA, f"p{7:024}"):
        document = proof(archive, [chain])
        assert verify(document) == []
        assert [root["number"] for root in document["evidence"]["roots"]] == [1, 2, 3]


def test_a_person_is_found_by_every_identifier(archive: Archive) -> None:
    """By the key that names the chain, and by those that events of it named besides."""
    with archive.writing() as writer:
        writer.append([entry(1, "received", identifiers=["e1", "p1"]), entry(2, "received", identifiers=["p1"]), entry(3, "received", subject_key=BRUNO)])
    with archive.reading() as connection:
        reader = Reader(connection)
        assert reader.chains_of(["e1"], 32) == reader.chains_of(["p1"], 32) == reader.chains_of([ANA, "e1"], 32) == Found(chains=[ANA], is_all=True)
        assert reader.chains_of(["unknown"], 32) == Found(chains=[], is_all=True)
        assert reader.chain_of("v" * 24) in (ANA, BRUNO)
        assert reader.chain_of("unknown") is None


def test_a_person_is_found_by_what_was_named_together(archive: Archive) -> None:
    """A word by the phone alone belongs to whoever named the phone with what is asked for; more than a person has are cut off, and it is said."""
    phone = "p" + "a" * 24
    with archive.writing() as writer:
        writer.append([entry(1, "received", subject_key="x1", identifiers=["e1", phone]), entry(2, "received", subject_key=phone), entry(3, subject_key=BRUNO)])
        writer.append([entry(4, "received", subject_key=BRUNO, identifiers=["p2", "e2"]), entry(5, "received", subject_key="e9", identifiers=["x1"])])
        writer.append([entry(10 + number, "received", subject_key=f"x{10 + number}", identifiers=["p2"]) for number in range(8)])
    with archive.reading() as connection:
        reader = Reader(connection)
        assert reader.chains_of(["e1"], 32) == Found(chains=["e9", phone, "x1"], is_all=True)
        assert reader.chains_of([phone], 32) == Found(chains=["e9", phone, "x1"], is_all=True)
        assert len(reader.chains_of(["e2"], 32).chains) == 9
        cut = reader.chains_of(["e2"], 4)
        assert (len(cut.chains), cut.is_all, BRUNO in cut.chains) == (4, False, True)
        assert reader.chains_of(["p2"], 4).is_all is False
        assert len(reader.chains_of(["p2"], 4).chains) == 9
        assert reader.chains_of(["e1"], 2).is_all is False


def test_what_is_changed_in_the_database_is_found(archive: Archive) -> None:
    """Somebody with access to the tables changes a record, takes one out, or shortens a chain with its head."""
    with archive.writing() as writer:
        writer.append(one_of_each(ANA))
        writer.anchor("2026-01-05", 1)
    own = RECORDS.c.chain == ANA
    with tampered(archive) as connection:
        connection.execute(update(RECORDS).where(own, RECORDS.c.sequence == 6).values(content=b"nonsense"))
        assert faults(proof_of(connection)) == ["record 6 says something else than what was recorded"]
    with tampered(archive) as connection:
        connection.execute(delete(RECORDS).where(own, RECORDS.c.sequence == 6))
        assert faults(proof_of(connection)) == ["record 6 is missing"]
    with tampered(archive) as connection:
        head = connection.execute(RECORDS.select().where(own, RECORDS.c.sequence == 14)).one().hash
        connection.execute(delete(RECORDS).where(own, RECORDS.c.sequence > 14))
        connection.execute(update(CHAINS).where(CHAINS.c.chain == ANA).values(length=14, head=head))
        assert faults(proof_of(connection)) == [f"records 15 to {COUNT} were removed at the end: the last day root covers {COUNT}"]
    with tampered(archive) as connection:
        connection.execute(update(ROOTS).values(tree="f" * 64))
        assert faults(proof_of(connection)) == ["its place in the tree does not lead to the last day root"]


@contextlib.contextmanager
def tampered(archive: Archive) -> Iterator[Any]:
    """The tables in other hands, for a moment."""
    with archive.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def proof_of(connection: Any) -> dict[str, Any]:
    return build(Reader(connection), [ANA], shows=ALL_RECORDS, now="2026-01-06T00:00:00Z", shown=lambda _: True, labels={})


def test_the_migrations_make_the_tables_that_the_code_knows(archive: Archive) -> None:
    """And the newest of them is the one that this release asks for."""
    archive.prepare()
    with engine.reading(archive.engine) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "evidence_version", "compare_type": True})
        assert compare_metadata(context, METADATA) == []
    config = Config()
    config.set_main_option("script_location", str(engine.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == engine.HEAD


def test_an_archive_of_a_newer_release_is_refused(archive: Archive, url: str) -> None:
    """It is left as it is."""
    archive.prepare()
    with engine.writing(archive.engine) as connection:
        connection.execute(text("UPDATE evidence_version SET version_num = '9999'"))
    with contextlib.closing(Archive(url)) as other, pytest.raises(ConfigurationError, match="schema 9999, this release works with 0003"):
        other.prepare()


def test_an_archive_of_the_first_release_is_brought_forward(archive: Archive) -> None:
    """With what it holds."""
    config = Config()
    config.set_main_option("script_location", str(engine.MIGRATIONS))
    with engine.writing(archive.engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    with archive.writing() as writer:
        writer.append(one_of_each())
    with archive.reading() as connection:
        assert connection.execute(text("SELECT version_num FROM evidence_version")).scalar() == engine.HEAD
        assert "evidence_record_said" in {index["name"] for index in inspect(connection).get_indexes("evidence_record")}
        assert "evidence_identifier_chain" in {index["name"] for index in inspect(connection).get_indexes("evidence_identifier")}
    assert faults(proof(archive, [ANA])) == []


@pytest.mark.parametrize("wrong", ["nonsense", "mysql://db.example.org/x", "postgresql://db.example.org:port/x"])
def test_a_wrong_address_is_refused_without_repeating_it(wrong: str) -> None:
    """It may carry a password."""
    with pytest.raises(ConfigurationError) as refused:
        Archive(wrong)
    assert wrong not in str(refused.value)


def test_an_archive_that_is_away_says_so(tmp_path: Path) -> None:
    """One error, whatever stands in the way, and without the address."""
    for url in (f"sqlite:///{tmp_path}/nowhere/evidence.sqlite", "postgresql://relay:secret-word@127.0.0.1:1/x"):
        with contextlib.closing(Archive(url)) as archive, pytest.raises(ArchiveUnavailable) as away:
            archive.prepare()
        assert "secret-word" not in str(away.value)
