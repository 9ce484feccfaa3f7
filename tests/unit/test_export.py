"""Withdrawals that a vendor takes by file: who goes into the file, who does not, and what a confirmation closes."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Sequence
from typing import ClassVar

import pytest
import redis

from pipeline.desk import Desk
from pipeline.domain import Instruction, State
from pipeline.errors import ConfigurationError
from pipeline.export import Collected, Confirmed, Exported, RemovalExport
from pipeline.ledger.letters import LetterFilter
from pipeline.vendors._removing import Removal, RemovesByFile
from pipeline.vendors.base import Capabilities
from tests.support.relay import PlainAdapter, Relay, destination, routing
from workers.exporting import (
    Manifest,
    NotWritten,
    changed_since,
    check_name,
    manifest_path,
    read_manifest,
    write_export,
    write_manifest,
    write_new,
    write_removals,
)

FILE = "removals.tsv"


class FeedAdapter(PlainAdapter, RemovesByFile):
    """A vendor that is told of consents, and takes withdrawals as rows of kind and value; it has no way to write a national id."""

    capabilities: ClassVar[Capabilities] = Capabilities(states=frozenset({State.GIVEN}), identifiers=("email", "phone", "national_id"))
    removal_columns: ClassVar[tuple[str, ...]] = ("kind", "value", "purpose")

    def export_removals(self, instructions: Sequence[Instruction]) -> Sequence[Removal]:
        return [self._removal(each) for each in instructions]

    def _removal(self, instruction: Instruction) -> Removal:
        contact = self.contact_of(instruction.subject)
        rows = tuple((kind, value, instruction.purpose) for kind, value in contact.items() if kind != "national_id")
        return Removal(rows=rows, unnamed=("national_id",) if "national_id" in contact else ())


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("crm", FeedAdapter)]))


def exporter(relay: Relay) -> RemovalExport:
    return RemovalExport(relay.ledger, relay.vault, lambda: relay.rules)


def withdraw(relay: Relay, minute: float = 2, **subject: str) -> str:
    """A withdrawal that has died; returns its event id."""
    event_id = relay.event("withdrawn", minute, **subject)
    relay.drain()
    assert relay.deliveries(event_id) == {"crm": ("dead", "cannot_express_withdrawn")}
    return event_id


def confirm(relay: Relay, collected: Collected, *, dry_run: bool = False) -> Confirmed:
    return exporter(relay).confirm("crm", collected.exported, FILE, dry_run=dry_run)


def dead(relay: Relay) -> list[str]:
    return sorted(letter.event_id for letter in relay.ledger.letters.find(LetterFilter()))


def test_a_withdrawal_goes_into_the_file_by_every_identifier(relay: Relay) -> None:
    """One row for each that the vendor uses; those that earlier events named together with it as well. Nothing is changed or sent."""
    relay.event("given", 1, email="ana@example.org", phone="+5511912345678")
    relay.drain()
    event_id = withdraw(relay, email="ana@example.org")
    calls = len(relay.vendors["crm"].calls)
    seen: list[int] = []
    collected = exporter(relay).collect("crm", seen.append)
    assert list(collected.rows) == [("email", "ana@example.org", "news"), ("phone", "+5511912345678", "news")]
    assert [(each.delivery_id, len(each.identifier_keys)) for each in collected.exported] == [(f"{event_id}.crm", 2)]
    assert (exporter(relay).count("crm"), seen, dead(relay), len(relay.vendors["crm"].calls)) == (1, [1], [event_id], calls)
    assert "ana@example.org" not in repr(collected)


def test_one_row_names_a_person_once(relay: Relay) -> None:
    """Two withdrawals of one person and purpose are two deliveries and one row; another purpose is another row."""
    first, second = withdraw(relay, 2, email="ana@example.org"), withdraw(relay, 3, email="ana@example.org")
    sms = relay.event("withdrawn", 4, purpose="sms", email="ana@example.org")
    relay.drain()
    collected = exporter(relay).collect("crm")
    assert sorted(collected.rows) == [("email", "ana@example.org", "news"), ("email", "ana@example.org", "sms")]
    assert sorted(each.delivery_id for each in collected.exported) == sorted(f"{each}.crm" for each in (first, second, sms))


def test_who_has_given_again_is_left_out(relay: Relay) -> None:
    """The newest word is asked, not the event; what is left out stays as it is."""
    event_id = withdraw(relay, 2, email="ana@example.org")
    relay.event("given", 3, email="ana@example.org")
    relay.drain()
    collected = exporter(relay).collect("crm")
    assert (list(collected.rows), collected.exported, collected.overtaken) == ([], [], [f"{event_id}.crm"])
    assert dead(relay) == [event_id]


def test_what_cannot_be_opened_is_named_by_its_delivery(relay: Relay) -> None:
    """A payload that is gone."""
    event_id = withdraw(relay, email="ana@example.org")
    for name in relay.ledger.store.client.scan_iter(match="cr:{e*}:p:*"):
        relay.ledger.store.client.delete(name)
    collected = exporter(relay).collect("crm")
    assert (collected.exported, collected.unreadable) == ([], [f"{event_id}.crm"])


def test_a_person_whom_the_file_cannot_name_whole_is_not_exported(relay: Relay) -> None:
    """A row by e-mail would not remove the national id: it stays dead, and no row of it is written."""
    event_id = withdraw(relay, email="ana@example.org", national_id="12345678909")
    stranger = relay.event("withdrawn", 2, external_id="person-4711")
    relay.drain()
    collected = exporter(relay).collect("crm")
    assert (list(collected.rows), collected.exported) == ([], [])
    assert collected.unnamed == {f"{event_id}.crm": ("national_id",), f"{stranger}.crm": ()}


def test_a_confirmation_closes_exactly_what_was_exported(relay: Relay) -> None:
    """Delivered, exported, naming the file; one that died after the export stays dead, nothing is unaccounted, and no call was made."""
    event_id = withdraw(relay, email="ana@example.org")
    collected = exporter(relay).collect("crm")
    later = withdraw(relay, email="bruno@example.org")
    assert confirm(relay, collected, dry_run=True) == Confirmed(closed=[f"{event_id}.crm"])
    assert dead(relay) == sorted([event_id, later])
    assert confirm(relay, collected) == Confirmed(closed=[f"{event_id}.crm"])
    assert dead(relay) == [later]
    view = relay.ledger.event(event_id)
    assert view is not None
    assert view["complete"] is True
    (delivery,) = view["deliveries"]
    assert [delivery[name] for name in ("status", "outcome", "reason", "attempts", "vendor_reference")] == ["delivered", "applied", "exported", 1, FILE]
    figures = relay.figures()
    assert (figures.unaccounted, figures.dead_letters) == (0, [("crm", "withdrawn", "cannot_express_withdrawn", 1)])
    assert ("crm", "applied", "withdrawn", 1) in figures.deliveries
    assert relay.vendors["crm"].calls == []


def test_confirming_twice_closes_nothing_twice(relay: Relay) -> None:
    """The second time says so; what a person discarded in between is told apart."""
    first, second = withdraw(relay, email="ana@example.org"), withdraw(relay, email="bruno@example.org")
    collected = exporter(relay).collect("crm")
    relay.ledger.letters.discard(relay.ledger.letters.by_id([f"{second}.crm"])[0], "removed by hand", relay.ledger.now_ms())
    assert confirm(relay, collected) == Confirmed(closed=[f"{first}.crm"], not_dead=[f"{second}.crm"])
    assert confirm(relay, collected) == Confirmed(closed_before=[f"{first}.crm"], not_dead=[f"{second}.crm"])
    assert relay.deliveries(second) == {"crm": ("skipped", "discarded: removed by hand")}


def test_a_later_withdrawal_is_a_new_dead_letter(relay: Relay) -> None:
    """Exported, given again, withdrawn again: the second withdrawal alerts by itself and is exported by itself."""
    withdraw(relay, 2, email="ana@example.org")
    confirm(relay, exporter(relay).collect("crm"))
    relay.event("given", 3, email="ana@example.org")
    relay.drain()
    assert relay.vendors["crm"].held == {("ana@example.org", "news"): "given"}
    second = withdraw(relay, 4, email="ana@example.org")
    assert dead(relay) == [second]
    assert [each.delivery_id for each in exporter(relay).collect("crm").exported] == [f"{second}.crm"]


def test_what_outgrew_its_file_stays_dead(relay: Relay) -> None:
    """A link learned between export and confirmation names the person by a phone that the file did not hold: the next file does."""
    event_id = withdraw(relay, 2, email="ana@example.org")
    collected = exporter(relay).collect("crm")
    relay.event("given", 1, email="ana@example.org", phone="+5511912345678")
    relay.drain()
    assert confirm(relay, collected) == Confirmed(outgrown=[f"{event_id}.crm"])
    assert dead(relay) == [event_id]
    again = exporter(relay).collect("crm")
    assert {kind for kind, _, _ in again.rows} == {"email", "phone"}
    assert confirm(relay, again).closed == [f"{event_id}.crm"]


def test_a_link_learned_after_the_confirmation_brings_the_withdrawal_back(relay: Relay) -> None:
    """It is delivered, so a link has it told again: here that is a new dead letter with its alert, and a file that names the phone."""
    event_id = withdraw(relay, 2, email="ana@example.org")
    confirm(relay, exporter(relay).collect("crm"))
    relay.event("given", 1, email="ana@example.org", phone="+5511912345678")
    relay.drain()
    relay.again()
    assert relay.deliveries(event_id) == {"crm": ("dead", "cannot_express_withdrawn")}
    assert {kind for kind, _, _ in exporter(relay).collect("crm").rows} == {"email", "phone"}


def test_a_consent_that_the_file_undid_is_told_again(relay: Relay) -> None:
    """Given again between export and confirmation: the vendor removed the person all the same, so the `given` goes out once more."""
    event_id = withdraw(relay, 2, email="ana@example.org")
    collected = exporter(relay).collect("crm")
    given = relay.event("given", 3, email="ana@example.org")
    relay.drain()
    relay.vendors["crm"].held.clear()
    assert confirm(relay, collected, dry_run=True).told_again == [f"{given}.crm"]
    assert relay.vendors["crm"].held == {}
    assert confirm(relay, collected) == Confirmed(closed=[f"{event_id}.crm"], told_again=[f"{given}.crm"])
    relay.again()
    assert relay.vendors["crm"].held == {("ana@example.org", "news"): "given"}
    assert relay.deliveries(given) == {"crm": ("delivered", None)}
    assert relay.figures().unaccounted == 0


class SharedFeedAdapter(FeedAdapter):
    """A vendor that has one state for all purposes of a person."""

    capabilities: ClassVar[Capabilities] = Capabilities(states=frozenset({State.GIVEN}), identifiers=("email",), scope="contact")

    def _removal(self, instruction: Instruction) -> Removal:
        return Removal(rows=tuple(("email", value, "all") for value in self.contact_of(instruction.subject).values()))


def shared_relay(client: redis.Redis, *keep: str) -> Relay:
    return Relay(client, routing([destination("crm", SharedFeedAdapter, keep_contact_for=frozenset(keep))]))


def test_who_withdrew_one_of_two_purposes_with_one_state_is_removed_and_not_added_again(client: redis.Redis) -> None:
    """Without a written rule the withdrawal wins: the file removes the person, and the other purpose's consent is not told, now or later."""
    relay = shared_relay(client)
    relay.event("given", 1, purpose="sms", email="ana@example.org")
    relay.drain()
    withdraw(relay, 2, email="ana@example.org")
    collected = exporter(relay).collect("crm")
    assert list(collected.rows) == [("email", "ana@example.org", "all")]
    assert confirm(relay, collected).told_again == []
    later = relay.event("given", 3, purpose="sms", email="ana@example.org")
    relay.drain()
    assert relay.deliveries(later) == {"crm": ("skipped", "contact_withdrawn")}
    assert [(call["purpose"], call["state"]) for call in relay.vendors["crm"].calls] == [("sms", "given")]


def test_a_written_rule_keeps_who_withdrew_out_of_the_file(client: redis.Redis) -> None:
    """While the kept purpose is given a withdrawal of another is skipped and no dead letter; once that is withdrawn too, the file removes the person."""
    relay = shared_relay(client, "sms")
    relay.event("given", 1, purpose="sms", email="ana@example.org")
    kept = relay.event("withdrawn", 2, email="ana@example.org")
    relay.drain()
    assert (relay.deliveries(kept), dead(relay)) == ({"crm": ("skipped", "contact_kept")}, [])
    last = relay.event("withdrawn", 3, purpose="sms", email="ana@example.org")
    relay.drain()
    assert (dead(relay), list(exporter(relay).collect("crm").rows)) == ([last], [("email", "ana@example.org", "all")])


def test_a_dead_withdrawal_that_a_later_consent_keeps_is_left_out_and_can_be_closed(client: redis.Redis) -> None:
    """The file would undo a consent that the routing file keeps; a replay closes the dead letter without a call."""
    relay = shared_relay(client, "sms")
    event_id = withdraw(relay, 1, email="ana@example.org")
    relay.event("given", 2, purpose="sms", email="ana@example.org")
    relay.drain()
    collected = exporter(relay).collect("crm")
    assert (list(collected.rows), collected.overtaken) == ([], [f"{event_id}.crm"])
    calls = len(relay.vendors["crm"].calls)
    report = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher).replay([f"{event_id}.crm"])
    assert (report.replayed, report.skipped) == ([], [{"delivery_id": f"{event_id}.crm", "reason": "not_applicable"}])
    relay.again()
    assert (relay.deliveries(event_id), dead(relay), len(relay.vendors["crm"].calls)) == ({"crm": ("skipped", "contact_kept")}, [], calls)


def test_a_kept_consent_that_the_file_undid_is_told_again(client: redis.Redis) -> None:
    """Given for the kept purpose between export and confirmation: the file removed the person all the same."""
    relay = shared_relay(client, "sms")
    event_id = withdraw(relay, 1, email="ana@example.org")
    collected = exporter(relay).collect("crm")
    given = relay.event("given", 2, purpose="sms", email="ana@example.org")
    relay.drain()
    relay.vendors["crm"].held.clear()
    assert confirm(relay, collected) == Confirmed(closed=[f"{event_id}.crm"], told_again=[f"{given}.crm"])
    relay.again()
    assert relay.vendors["crm"].held == {("ana@example.org", "sms"): "given"}


def test_a_destination_that_is_gone_confirms_nothing(relay: Relay) -> None:
    """The file was made for it, and nobody knows by what the people in it are known there."""
    event_id = withdraw(relay, email="ana@example.org")
    collected = exporter(relay).collect("crm")
    relay.rules = routing([destination("other")])
    with pytest.raises(ConfigurationError, match="destination crm is not configured"):
        confirm(relay, collected)
    assert dead(relay) == [event_id]


MANIFEST = Manifest(
    vendor="plain",
    destination="crm",
    ledger_id="abc",
    file=FILE,
    sha256="",
    rows=1,
    created_at="2026-01-05T12:00:00Z",
    letters=(Exported(delivery_id="event.crm", identifier_keys=("ekey",)),),
)


@pytest.mark.parametrize("name", ["removals.tsv", "removals.tsv.gz"])
def test_the_file_is_for_its_owner_and_never_overwritten(tmp_path, name: str) -> None:
    """Mode 0600, a header and the rows, nothing else left in the directory; a second one of the name is refused and the first stays."""
    path = tmp_path / name
    write_removals(path, ("kind", "value"), [("email", "ana@example.org")])
    content = path.read_bytes()
    assert (gzip.decompress(content) if name.endswith(".gz") else content) == b"kind\tvalue\nemail\tana@example.org\n"
    assert (stat.S_IMODE(path.stat().st_mode), [each.name for each in tmp_path.iterdir()]) == (0o600, [name])
    with pytest.raises(NotWritten, match="File exists"):
        write_removals(path, ("kind", "value"), [])
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (content, 1)


def test_a_cell_that_would_break_the_file_is_refused(tmp_path) -> None:
    """A tab in a value would be another column; nothing is written and the value is not repeated."""
    with pytest.raises(NotWritten) as refused:
        write_removals(tmp_path / FILE, ("kind", "value"), [("email", "ana\t@example.org")])
    assert ("ana" in str(refused.value), list(tmp_path.iterdir())) == (False, [])


@pytest.mark.parametrize("name", ["two words.tsv", "removals.csv", ".tsv", "-x.tsv", "removals.tsv.zip"])
def test_a_name_that_the_vendor_would_not_take_is_refused(tmp_path, name: str) -> None:
    """As the vendor's page says: no spaces, and one of two endings."""
    assert "must be of letters" in (check_name(tmp_path / name, (".tsv", ".tsv.gz")) or "")
    assert check_name(tmp_path / FILE, (".tsv", ".tsv.gz")) is None
    manifest_path(tmp_path / FILE).touch()
    assert "nothing is overwritten" in (check_name(tmp_path / FILE, (".tsv", ".tsv.gz")) or "")


ABOUT = {name: getattr(MANIFEST, name) for name in ("vendor", "destination", "ledger_id", "created_at", "letters")}


def test_a_manifest_says_what_was_written_and_sees_that_it_changed(tmp_path) -> None:
    """It is read as it was written, for the owner only; a file changed by hand is noticed, one handed over and deleted is not."""
    path = tmp_path / FILE
    written = write_export(path, ("a",), {("b",): None}, **ABOUT)
    beside = manifest_path(path)
    assert (read_manifest(beside), stat.S_IMODE(beside.stat().st_mode), changed_since(written, beside)) == (written, 0o600, False)
    path.write_bytes(b"a\nc\n")
    assert changed_since(written, beside) is True
    path.unlink()
    assert changed_since(written, beside) is False


def test_a_file_without_its_manifest_is_not_left(tmp_path) -> None:
    """Nobody could confirm it."""
    manifest_path(tmp_path / FILE).mkdir()
    with pytest.raises(NotWritten):
        write_export(tmp_path / FILE, ("a",), {("b",): None}, **ABOUT)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"version": 2}, "another release"),
        ({"letters": [{"delivery_id": "event.other", "identifier_keys": []}]}, "another destination than crm"),
        ({"letters": 7}, "no manifest of an export"),
        ({"file": "../removals.tsv"}, "names no file"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, changed, expected: str) -> None:
    """Each with what is wrong with it."""
    write_manifest(tmp_path / FILE, MANIFEST)
    path = manifest_path(tmp_path / FILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=expected):
        read_manifest(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_manifest(tmp_path / "none.json")


def test_a_directory_that_cannot_be_written_is_said(tmp_path) -> None:
    """In one sentence with the path."""
    with pytest.raises(NotWritten, match="No such file or directory"):
        write_new(tmp_path / "nowhere" / FILE, b"")
