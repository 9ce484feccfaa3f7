"""Who an event is about: links complete a withdrawal, never a `given`, and never by guessing."""

from __future__ import annotations

import pytest

from pipeline.domain import ConsentEvent, State, Subject, Word
from pipeline.ledger.standings import IdentifierRecord, Reach, Standings
from pipeline.subjects import complete, merges_of, spread
from pipeline.vault import Vault
from tests.support.parts import HASHER, VAULT, word
from tests.support.relay import BASE_TIME

STANDINGS = Standings(None, None, VAULT)  # type: ignore[arg-type]  # only its vault is used here
PHONE = "+5511987654321"


def event(state: str = "withdrawn", **subject: str) -> ConsentEvent:
    person = Subject(**(subject or {"phone": PHONE}))
    return ConsentEvent(
        event_id="a" * 24,
        source="web",
        subject=person,
        subject_key=HASHER.subject_key(person),
        identifier_keys=HASHER.identifier_keys(person),
        purpose="news",
        state=State(state),
        event_time=BASE_TIME,
        order_us=60_000_000,
        received_at=BASE_TIME,
    )


def record(kind: str, value: str, *, sealed: bool = True, **words: Word) -> IdentifierRecord:
    key = HASHER.identifier_key(kind, value)
    return IdentifierRecord(key=key, words=words, links=frozenset(), value=VAULT.seal(value.encode(), key) if sealed else None)


def reach(*rings: list[IdentifierRecord]) -> Reach:
    return Reach(tuple(tuple(ring) for ring in rings))


def test_single_candidate_completes_a_withdrawal():
    """One linked e-mail is added to a withdrawal by phone, value and key; the phone stays."""
    completed = complete(event(), reach([record("phone", PHONE)], [record("email", "ana@example.org")]), STANDINGS)
    assert completed.event.subject.identifiers() == {"email": "ana@example.org", "phone": PHONE}
    assert completed.event.identifier_keys["email"] == HASHER.identifier_key("email", "ana@example.org")
    assert completed.event.word == event().word
    assert completed.ambiguous == frozenset()


def test_identifier_of_a_retired_vault_key_completes_nothing(caplog: pytest.LogCaptureFixture):
    """A candidate that cannot be opened is an alert without its value, and neither an exception nor an identifier."""
    strangers = Standings(None, None, Vault([b"x" * 32]))  # type: ignore[arg-type]
    said = event()
    completed = complete(said, reach([record("phone", PHONE)], [record("email", "ana@example.org")]), strangers)
    assert completed.event is said
    assert [(each.message, each.alert) for each in caplog.records] == [("alert", "identifier_unreadable")]  # type: ignore[attr-defined]


def test_given_is_never_completed():
    """A `given` stays exactly as it was said."""
    said = event("given")
    completed = complete(said, reach([record("phone", PHONE)], [record("email", "ana@example.org")]), STANDINGS)
    assert completed.event is said


def test_two_candidates_are_never_guessed():
    """Two e-mails equally near add neither, and are named as ambiguous."""
    completed = complete(event(), reach([record("phone", PHONE)], [record("email", "ana@example.org"), record("email", "ben@example.org")]), STANDINGS)
    assert completed.event == event()
    assert completed.ambiguous == {"email"}


def test_nearest_candidate_wins():
    """One e-mail named together with the phone beats two that are only linked through an account."""
    rings = [record("phone", PHONE)], [record("email", "ana@example.org"), record("external_id", "7")], [record("email", "b@example.org")]
    completed = complete(event(), reach(*rings), STANDINGS)
    assert completed.event.subject.identifiers() == {"external_id": "7", "email": "ana@example.org", "phone": PHONE}


def test_own_identifier_is_not_replaced():
    """A kind the withdrawal names itself is taken as it is, however many others are linked."""
    said = event(email="own@example.org")
    rings = [record("email", "own@example.org")], [record("email", "ana@example.org"), record("email", "ben@example.org")]
    assert complete(said, reach(*rings), STANDINGS).event is said


def test_erased_candidate_completes_nothing():
    """A linked identifier whose value is gone is no candidate, and does not make the remaining one ambiguous."""
    rings = [record("phone", PHONE)], [record("email", "gone@example.org", sealed=False), record("email", "ana@example.org")]
    assert complete(event(), reach(*rings), STANDINGS).event.subject.email == "ana@example.org"


def test_merges_link_every_pair():
    """An event with three identifiers says of each its word, its sealed value, and the other two as links."""
    said = event(email="ana@example.org", phone=PHONE, external_id="7")
    merges = merges_of(said, STANDINGS, links=True)
    assert [merge.identifier_key for merge in merges] == list(said.identifier_keys.values())
    for merge in merges:
        assert set(merge.links) == set(said.identifier_keys.values()) - {merge.identifier_key}
        assert merge.word == said.word.encode()
    assert VAULT.open(merges[1].value, merges[1].identifier_key) == b"ana@example.org"


def test_merges_of_a_source_that_may_not_link():
    """Without the right to link, words travel but neither links nor values."""
    for merge in merges_of(event(email="ana@example.org", phone=PHONE), STANDINGS, links=False):
        assert (merge.links, merge.value) == ((), b"")
        assert merge.word == event().word.encode()


def test_spread_brings_all_to_the_newest():
    """Every linked identifier gets the newest word of each purpose any of them knows, and nothing it has already."""
    records = [
        record("email", "ana@example.org", news=word(1), sms=word(5)),
        record("phone", PHONE, news=word(3, "withdrawn")),
        record("external_id", "7", news=word(3, "withdrawn"), sms=word(5)),
    ]
    merges = {(merge.identifier_key, merge.purpose): merge.word for merge in spread(records)}
    assert merges == {(records[0].key, "news"): word(3, "withdrawn").encode(), (records[1].key, "sms"): word(5).encode()}
    assert all(not merge.links and not merge.value for merge in spread(records))


@pytest.mark.parametrize("order", [1, -1])
def test_spread_of_a_tie_is_the_withdrawal(order: int):
    """At equal times the withdrawal spreads, whichever identifier comes first."""
    records = [record("email", "ana@example.org", news=word(3)), record("phone", PHONE, news=word(3, "withdrawn"))][::order]
    assert [merge.word for merge in spread(records)] == [word(3, "withdrawn").encode()]


def test_completion_hides_the_person():
    """The repr of a completed withdrawal names nobody."""
    completed = complete(event(), reach([record("phone", PHONE)], [record("email", "ana@example.org")]), STANDINGS)
    assert "ana" not in repr(completed)
    assert PHONE not in repr(completed)
