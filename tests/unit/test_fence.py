"""The fence: the newest word of everybody who could be meant decides, and one state for a contact stops everything."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.domain import ConsentEvent, Outcome, Word
from pipeline.fence import TELL, judge
from pipeline.ledger.standings import IdentifierRecord, Reach
from tests.support.parts import said as event
from tests.support.parts import word
from tests.support.relay import PlainAdapter, adapter, destination

OTHER = "z" * 24


class Listed(PlainAdapter):
    """A contact-scope vendor with several lists."""

    capabilities = adapter(scope="contact").capabilities

    def place_of(self, options):
        return options.get("list", "")


def reach(*rings: dict[str, Word]) -> Reach:
    return Reach(tuple((IdentifierRecord(key=f"e{n:024d}", words=words, links=frozenset()),) for n, words in enumerate(rings)))


def ask(said: ConsentEvent, known: Reach, kind: Any = PlainAdapter, **values: Any):
    return judge(said, known, destination("mail", kind, **values), ["news", "sms", "calls"])


def test_newest_word_is_told():
    """The event whose word stands is told; so is one of which nothing stands yet."""
    assert ask(event(), reach({"news": event().word})) is TELL
    assert ask(event(), reach({})) is TELL


@pytest.mark.parametrize("state, other", [("given", "withdrawn"), ("withdrawn", "given")])
def test_newer_word_that_differs_supersedes(state: str, other: str):
    """A newer word of the other state ends the delivery and is named."""
    judgement = ask(event(state), reach({"news": word(9, other, OTHER)}))
    assert judgement.result is not None
    assert (judgement.result.outcome, judgement.superseded_by) == (Outcome.SUPERSEDED, OTHER)


def test_newer_word_of_a_linked_identifier_supersedes():
    """It is enough that a directly linked identifier has the newer word; two links away it does not count."""
    newer = {"news": word(9, "withdrawn", OTHER)}
    assert ask(event(), reach({"news": event().word}, newer)).superseded_by == OTHER
    assert ask(event(), reach({"news": event().word}, {}, newer)) is TELL


def test_newer_word_that_says_the_same():
    """A newer word of the same state leaves the decision to whether that event is delivered here."""
    judgement = ask(event("withdrawn"), reach({"news": word(9, "withdrawn", OTHER)}))
    assert (judgement.result, judgement.unless_told_by) == (None, OTHER)


@pytest.mark.parametrize("state, told", [("given", False), ("withdrawn", True)])
def test_tie_goes_to_the_withdrawal(state: str, told: bool):
    """At the same instant the withdrawal is told and the `given` is not."""
    other = "withdrawn" if state == "given" else "given"
    judgement = ask(event(state), reach({"news": word(5, other, OTHER)}))
    assert (judgement is TELL) is told


def test_older_word_changes_nothing():
    """Standings that lag behind the event do not stop it."""
    assert ask(event("withdrawn"), reach({"news": word(1, "given", OTHER)})) is TELL


def test_other_purposes_do_not_matter_to_purpose_scope():
    """Where the vendor keeps a state for each purpose, a withdrawal of another purpose is another matter."""
    assert ask(event(), reach({"sms": word(9, "withdrawn", OTHER)})) is TELL


CONTACT = adapter(scope="contact")
WITHDRAWN_SMS = {"sms": word(1, "withdrawn", OTHER)}
GIVEN_SMS = {"sms": word(1, "given", OTHER)}


def test_withdrawal_of_any_purpose_holds_back_a_given():
    """One state for the contact: while another purpose is withdrawn, `given` would undo it, however old that withdrawal is."""
    judgement = ask(event(), reach(WITHDRAWN_SMS), CONTACT)
    assert (judgement.result.outcome, judgement.result.reason) == (Outcome.NOT_APPLICABLE, "contact_withdrawn")


def test_withdrawal_stops_the_contact_although_another_purpose_is_given():
    """Without a written rule the withdrawal wins over every other purpose."""
    assert ask(event("withdrawn"), reach(GIVEN_SMS), CONTACT) is TELL


def test_written_rule_keeps_the_contact():
    """With `keep_contact_for` a withdrawal of another purpose is skipped while the kept one is given, and told once that is withdrawn or unknown."""
    keep = frozenset({"sms"})
    judgement = ask(event("withdrawn"), reach(GIVEN_SMS), CONTACT, keep_contact_for=keep)
    assert (judgement.result.outcome, judgement.result.reason) == (Outcome.NOT_APPLICABLE, "contact_kept")
    assert ask(event("withdrawn"), reach(WITHDRAWN_SMS), CONTACT, keep_contact_for=keep) is TELL
    assert ask(event("withdrawn"), reach({}), CONTACT, keep_contact_for=keep) is TELL


def test_kept_purpose_itself():
    """The kept purpose is told when given although others are withdrawn, and its own withdrawal is always told."""
    keep = frozenset({"news"})
    assert ask(event(), reach(WITHDRAWN_SMS), CONTACT, keep_contact_for=keep) is TELL
    assert ask(event("withdrawn"), reach(GIVEN_SMS), CONTACT, keep_contact_for=keep) is TELL


def test_linked_identifier_counts_for_the_contact():
    """A withdrawal of another purpose by a linked identifier holds back a `given` too."""
    assert ask(event(), reach({}, WITHDRAWN_SMS), CONTACT).result.reason == "contact_withdrawn"


def test_purposes_that_are_not_routed_here_do_not_count():
    """A withdrawal of a purpose that the destination is never told of says nothing about its contact."""
    judgement = judge(event(), reach(WITHDRAWN_SMS), destination("mail", CONTACT), ["news"])
    assert judgement is TELL


def test_places_keep_their_own_state():
    """Purposes on another list of the vendor do not share the contact's state; those on the same list do."""
    lists = {"news": {"list": "1"}, "sms": {"list": "2"}, "calls": {"list": "1"}}
    assert ask(event(), reach(WITHDRAWN_SMS), Listed, options_by_purpose=lists) is TELL
    judgement = ask(event(), reach({"calls": word(1, "withdrawn", OTHER)}), Listed, options_by_purpose=lists)
    assert judgement.result.reason == "contact_withdrawn"


def test_superseded_comes_before_the_contact_rule():
    """A word that does not stand any more is superseded, not kept: the record names the newer event."""
    judgement = ask(event("withdrawn"), reach({"news": word(9, "given", OTHER), **GIVEN_SMS}), CONTACT, keep_contact_for=frozenset({"sms"}))
    assert judgement.result.outcome is Outcome.SUPERSEDED


def test_written_rule_does_not_hide_the_newer_event():
    """A newer word that says the same is still left to that event where the contact is not held back."""
    judgement = ask(event("withdrawn"), reach({"news": word(9, "withdrawn", OTHER)}), CONTACT)
    assert judgement.unless_told_by == OTHER
