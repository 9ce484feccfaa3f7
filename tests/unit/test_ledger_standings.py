"""Standings: last writer wins whatever the order, a tie goes to the withdrawal, links lead both ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain import State, Word
from pipeline.ledger import Ledger
from pipeline.ledger.standings import Merge, newest_of
from pipeline.vault import Vault
from tests.support.parts import VAULT, open_ledger, word
from tests.support.servers import fake_server

MAIL, PHONE, ACCOUNT = "e" + "a" * 24, "p" + "b" * 24, "x" + "c" * 24


@pytest.fixture(params=["valkey", "fake"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """The same questions to a real server and to the quick imitation."""
    if request.param == "valkey":
        yield open_ledger(request.getfixturevalue("client"))
    else:
        with fake_server() as client:
            yield open_ledger(client, durability="none")


def say(key: str, said: Word, purpose: str = "news", links: tuple[str, ...] = (), value: bytes = b"") -> Merge:
    return Merge(identifier_key=key, purpose=purpose, word=said.encode(), links=links, value=value)


def standing(ledger: Ledger, key: str, purpose: str = "news") -> Word | None:
    return ledger.standings.reach([[key]], depth=0)[0].newest(purpose)


WORDS = st.builds(Word, order_us=st.integers(0, 3), state=st.sampled_from(State), event_id=st.sampled_from(["a" * 24, "b" * 24, "z" * 24, "2" * 24]))


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6).flatmap(lambda words: st.tuples(st.just(words), st.permutations(words + words[:3]))))
def test_merging_is_commutative_and_idempotent(both):
    """Any order and any repetition of merges leaves the same standing: the greatest word by time, withdrawal, event id."""
    words, shuffled = both
    expected = max(words, key=lambda each: (each.order_us, each.state is State.WITHDRAWN, each.event_id))
    with fake_server() as client:
        ledger = open_ledger(client, durability="none")
        ledger.standings.merge([say(MAIL, each) for each in words])
        ledger.standings.merge([say(PHONE, each) for each in shuffled])
        assert standing(ledger, MAIL) == standing(ledger, PHONE) == expected


@given(WORDS, WORDS)
def test_encoded_words_keep_their_order(one: Word, other: Word):
    """Plain comparison of encoded words is the order of words, so that a script's string comparison decides alike."""
    order = [(each.order_us, each.state is State.WITHDRAWN, each.event_id) for each in (one, other)]
    assert (one.encode() < other.encode()) == (order[0] < order[1])
    assert Word.decode(one.encode()) == one


def test_tie_goes_to_the_withdrawal(ledger: Ledger):
    """Given and withdrawn at the same instant: withdrawn, whichever came first and whatever their ids."""
    given_word, withdrawn = word(1, "given", "z" * 24), word(1, "withdrawn", "a" * 24)
    for key, order in ((MAIL, (given_word, withdrawn)), (PHONE, (withdrawn, given_word))):
        for each in order:
            ledger.standings.merge([say(key, each)])
        assert standing(ledger, key) == withdrawn


def test_merge_answers_the_newest_word(ledger: Ledger):
    """A merge of an older word answers the newer one that stands, each identifier for itself and in order."""
    ledger.standings.merge([say(MAIL, word(5, "withdrawn"))])
    answers = ledger.standings.merge([say(PHONE, word(3)), say(MAIL, word(3)), say(ACCOUNT, word(4))])
    assert [answer.newest for answer in answers] == [word(3), word(5, "withdrawn"), word(4)]


def test_purposes_do_not_mix(ledger: Ledger):
    """A withdrawal for one purpose leaves the standing of another alone."""
    ledger.standings.merge([say(MAIL, word(1), "news"), say(MAIL, word(9, "withdrawn"), "sms")])
    assert standing(ledger, MAIL, "news") == word(1)
    assert standing(ledger, MAIL, "sms") == word(9, "withdrawn")


def test_newer_names_only_newer_words(ledger: Ledger):
    """`newer` answers a word only where one stands that is really newer; an unknown identifier has none."""
    ledger.standings.merge([say(MAIL, word(5, "withdrawn"))])
    checks = [
        (MAIL, "news", word(3).encode()),
        (MAIL, "news", word(5, "withdrawn").encode()),
        (PHONE, "news", word(3).encode()),
        (MAIL, "sms", word(3).encode()),
    ]
    assert ledger.standings.newer(checks) == [word(5, "withdrawn"), None, None, None]


def test_reach_follows_links_ring_by_ring(ledger: Ledger):
    """Links are followed as far as asked, nearest first, nobody twice."""
    ledger.standings.merge(
        [
            Merge(identifier_key=PHONE, links=(ACCOUNT,)),
            Merge(identifier_key=ACCOUNT, links=(PHONE, MAIL)),
            Merge(identifier_key=MAIL, links=(ACCOUNT,)),
        ]
    )
    for depth, rings in ((0, [[PHONE]]), (1, [[PHONE], [ACCOUNT]]), (2, [[PHONE], [ACCOUNT], [MAIL]]), (3, [[PHONE], [ACCOUNT], [MAIL]])):
        reach = ledger.standings.reach([[PHONE]], depth=depth)[0]
        assert [[record.key for record in ring] for ring in reach.rings] == rings


def test_newest_looks_at_direct_links_only(ledger: Ledger):
    """A word of somebody linked directly counts, one two links away does not."""
    ledger.standings.merge(
        [
            Merge(identifier_key=PHONE, links=(ACCOUNT,)),
            say(ACCOUNT, word(5, "withdrawn"), links=(PHONE, MAIL)),
            say(MAIL, word(9, "withdrawn")),
        ]
    )
    assert ledger.standings.reach([[PHONE]], depth=2)[0].newest("news") == word(5, "withdrawn")


def test_nearest_needs_a_sealed_value(ledger: Ledger):
    """A link to an identifier whose value was never sealed (or was erased) completes nothing."""
    ledger.standings.merge([Merge(identifier_key=PHONE, links=(MAIL,)), Merge(identifier_key=MAIL, links=(PHONE,))])
    assert ledger.standings.reach([[PHONE]], depth=2)[0].nearest("email") == ()
    ledger.standings.merge([Merge(identifier_key=MAIL, value=ledger.standings.seal_value(MAIL, "ana@example.org"))])
    record = ledger.standings.reach([[PHONE]], depth=2)[0].nearest("email")[0]
    assert ledger.standings.open_value(record) == "ana@example.org"


def test_first_sealed_value_stays(ledger: Ledger):
    """Merging again does not write the same identifier sealed anew."""
    first = ledger.standings.seal_value(MAIL, "ana@example.org")
    for value in (first, ledger.standings.seal_value(MAIL, "ana@example.org"), b""):
        ledger.standings.merge([Merge(identifier_key=MAIL, value=value)])
    assert ledger.standings.reach([[MAIL]], depth=0)[0].rings[0][0].value == first


def test_sealed_value_opens_only_for_its_identifier():
    """A sealed identifier moved into another record does not open."""
    from pipeline.errors import PayloadUnreadable

    with pytest.raises(PayloadUnreadable):
        VAULT.open(VAULT.seal(b"ana@example.org", MAIL), PHONE)


def test_missing_notes_are_kept_until_forgotten(ledger: Ledger):
    """A delivery noted under several identifiers is found by each, and forgotten only where it is said."""
    ledger.standings.note_missing([PHONE, ACCOUNT], "event.mail")
    assert ledger.standings.missed_by([PHONE]) == ledger.standings.missed_by([ACCOUNT, MAIL]) == {"event.mail"}
    assert [answer.missed for answer in ledger.standings.merge([Merge(identifier_key=PHONE), Merge(identifier_key=MAIL)])] == [True, False]
    ledger.standings.forget_missing([PHONE], ["event.mail"])
    assert ledger.standings.missed_by([PHONE]) == set()
    assert ledger.standings.missed_by([ACCOUNT]) == {"event.mail"}


def test_scan_sees_every_identifier(ledger: Ledger):
    """A scan of the whole ledger finds each identifier record once with its standings."""
    ledger.standings.merge([say(MAIL, word(1)), say(PHONE, word(2, "withdrawn"))])
    found = {record.key: record.words["news"] for record in ledger.standings.scan(count=1)}
    assert found == {MAIL: word(1), PHONE: word(2, "withdrawn")}


def test_newest_of_nothing_is_nothing():
    """No word at all is no consent, not an error."""
    assert newest_of([None, None]) is None


def test_value_is_sealed_anew_with_another_vault_key(ledger: Ledger):
    """Naming an identifier again moves its value to the newest key, so that old keys can go; with the same key the first value stays."""
    said = word(1, "given", "a" * 24)
    first = ledger.standings.seal_value(MAIL, "ana@example.org")
    ledger.standings.merge([say(MAIL, said, value=first)])
    ledger.standings.merge([say(MAIL, said, value=ledger.standings.seal_value(MAIL, "ana@example.org"))])
    assert ledger.standings.reach([[MAIL]])[0].rings[0][0].value == first
    rotated = Vault([b"n" * 32]).seal(b"ana@example.org", MAIL)
    ledger.standings.merge([say(MAIL, said, value=rotated)])
    assert ledger.standings.reach([[MAIL]])[0].rings[0][0].value == rotated
