"""One step of comparing a destination with the standings: some identifiers of the ledger, asked about in groups, each verdict checked again before anything is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.asking import Asker, Question, Replies
from pipeline.domain import KIND_LETTERS, Outcome, VendorResult
from pipeline.expectation import DRIFTED, Contact, Drift, Expectations, compare
from pipeline.ledger import Ledger
from pipeline.ledger.drifts import Drifted
from pipeline.ledger.sweeps import Walk
from pipeline.ledger.walks import END
from pipeline.outgoing import Sent
from pipeline.repairs import Repairs
from pipeline.retelling import derived_id
from pipeline.routing import Destination
from pipeline.vendors.base import Held

PAGE: Final = 500
"""Names of the ledger that one look passes."""
MOST_PAGES: Final = 20
KEYS_AT_ONCE: Final = 32
UNASKED: Final = Held(readable=False)


@dataclass(slots=True)
class Step:
    """What one step did: where the walk is now, what was found, how many names were passed and people asked about, and why it cannot go on at once.

    `has_answered`: the vendor answered about somebody, whether he was to be compared or not.
    """

    walk: Walk
    counts: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    asked: int = 0
    retry_ms: int = 0
    failure: VendorResult | None = None
    has_answered: bool = False
    drifted: list[Drifted] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.walk.left == 0 or (not self.walk.pending and self.walk.cursor == END)


class Sweeper:
    """Takes steps; safe to share between threads."""

    def __init__(self, ledger: Ledger, expectations: Expectations, asker: Asker, repairs: Repairs) -> None:
        self._ledger, self._expectations, self._asker, self._repairs = ledger, expectations, asker, repairs

    def step(self, destination: Destination, walk: Walk, *, stop_at: float, dry_run: bool = False, past_failures: bool = False) -> Step:
        """Compare some of what comes next. `past_failures` says that the vendor has failed some times in a row: then it may be away, or fail with just one person.

        So it is asked about somebody first about whom it has answered before. If it answers, and fails again with the one, he is unreadable and does not hold up the
        others; else nobody is passed by. Where nobody is known to ask about, whoever fails goes to the end of the line.

        A step that meets nobody to ask about counts as one of a sample: a destination of few people must not have the whole ledger looked through each hour.
        """
        is_doubted = past_failures and not walk.is_vouched
        before = self._vouched(destination, walk) if is_doubted and walk.witness else Step(walk=walk)
        if before.failure is not None or before.retry_ms:
            return before
        is_doubted = is_doubted and not before.walk.is_vouched
        step = self._filled(destination, before.walk, least=KEYS_AT_ONCE if is_doubted else 1)
        step.has_answered = before.has_answered
        entries = [(key, int(done or 0)) for key, _, done in (entry.partition("+") for entry in step.walk.pending[:KEYS_AT_ONCE])]
        found = self._expectations.of(destination, [key for key, _ in entries]) if entries else {}
        line = [(place, number, contact) for place, (key, done) in enumerate(entries) for number, contact in enumerate(found[key]) if number >= done]
        if not dry_run:
            self._park(destination, [contact for _, _, contact in line])
        at, at_once = 0, 1 if is_doubted or step.walk.is_vouched else self._asker.at_once(destination)
        while at < len(line) and not step.retry_ms and step.failure is None and step.walk.left and (at == 0 or time.monotonic() < stop_at):
            group = _group([contact for _, _, contact in line[at:]], min(at_once, step.walk.left) if step.walk.left > 0 else at_once)
            at += self._compare(destination, group, step, dry_run=dry_run)
        rest = step.walk.pending[len(entries) :]
        if at < len(line):
            place, number, contact = line[at]
            here, after = f"{contact.key}+{number}", step.walk.pending[place + 1 :]
            rest = (*after, here) if is_doubted and _is_away(step.failure) else (here, *after)
        left = step.walk.left - 1 if step.walk.left > 0 and not step.asked and not step.retry_ms and step.failure is None else step.walk.left
        step.walk = replace(step.walk, pending=rest, left=left)
        return step

    def _vouched(self, destination: Destination, walk: Walk) -> Step:
        """Ask about the witness, for nothing but the answer; one who cannot be asked about any more is forgotten."""
        step = Step(walk=walk)
        contact = next((each for each in self._expectations.of(destination, [walk.witness])[walk.witness] if not each.why), None)
        if contact is None:
            step.walk = replace(walk, witness="")
            return step
        with self._asker.asked(destination, [_question(destination, contact)]) as replies:
            step.has_answered = replies.held[0] is not None
        step.walk = replace(walk, witness=walk.witness if step.has_answered or replies.failure or replies.retry_ms else "", is_vouched=step.has_answered)
        step.retry_ms, step.failure = (0, None) if step.has_answered else (replies.retry_ms, replies.failure)
        return step

    def _filled(self, destination: Destination, walk: Walk, *, least: int) -> Step:
        """The walk with at least so many identifiers that this destination knows people by, as far as a few pages have some."""
        letters = {KIND_LETTERS[kind] for kind in destination.adapter.capabilities.identifiers}
        pending, cursor, pages = walk.pending, walk.cursor, 0
        while len(pending) < least and cursor != END and pages < MOST_PAGES:
            page = self._ledger.walks.identifiers(cursor, PAGE)
            pending, cursor, pages = (*(name for name in page.names if name[0] in letters), *pending), page.cursor, pages + 1
        return Step(walk=replace(walk, pending=pending, cursor=cursor), passed=pages * PAGE)

    def _park(self, destination: Destination, contacts: Sequence[Contact]) -> None:
        """Remember what the vendor refuses for good; forget it where it has been told since."""
        self._ledger.sweeps.park(destination.name, {each.thing: each.refused_ms for each in contacts if each.refused_ms > each.parked_ms})
        self._ledger.sweeps.unpark(destination.name, [each.thing for each in contacts if each.parked_ms and not each.is_parked])

    def _compare(self, destination: Destination, group: Sequence[Contact], step: Step, *, dry_run: bool) -> int:
        """Ask about those of the group who can be asked about; returns with how many of it we are done."""
        asking = [each for each in group if not each.why]
        step.counts[Drift.PENDING] += len(group) - len(asking)
        if not asking:
            return len(group)
        with self._asker.asked(destination, [_question(destination, each) for each in asking]) as replies:
            done = _answered(replies)
            self._judge(destination, list(zip(asking[:done], replies.held, strict=False)), replies, step, dry_run=dry_run)
        step.asked += done
        step.retry_ms, step.failure = 0 if done else replies.retry_ms, replies.failure
        if done < len(asking) and step.walk.is_vouched and _is_away(step.failure):
            step.counts[Drift.UNREADABLE] += 1
            done, step.failure = done + 1, None
        self._note_witness(step, asking, replies.held, done)
        if step.walk.left > 0:
            step.walk = replace(step.walk, left=max(0, step.walk.left - done))
        if done == len(asking):
            return len(group)
        step.counts[Drift.PENDING] -= sum(bool(each.why) for each in group[group.index(asking[done]) :])
        return group.index(asking[done])

    @staticmethod
    def _note_witness(step: Step, asking: Sequence[Contact], held: Sequence[Held | None], done: int) -> None:
        """Remember about whom the vendor has answered; once somebody is done with, that it answered before says nothing of the one after him."""
        answered = [each.key for each, known in zip(asking, held, strict=True) if known is not None]
        step.has_answered = step.has_answered or any(known is not None for known in held[:done])
        step.walk = replace(step.walk, witness=answered[-1] if answered else step.walk.witness, is_vouched=step.walk.is_vouched and not done)

    def _judge(self, destination: Destination, answers: Sequence[tuple[Contact, Held | None]], replies: Replies, step: Step, *, dry_run: bool) -> None:
        """Read the standings once more, and act on what still holds, while nobody else may tell these contacts anything."""
        again = self._expectations.of(destination, list(dict.fromkeys(contact.key for contact, _ in answers)))
        fresh: Mapping[tuple[str, str], Contact] = {(each.key, each.place): each for several in again.values() for each in several}
        in_sync: list[str] = []
        for number, (contact, held) in enumerate(answers):
            now = fresh.get((contact.key, contact.place))
            is_same = now is not None and not now.why and now.words == contact.words and time.monotonic() < replies.until
            drift = compare(now, held) if now is not None and is_same and held is not None else Drift.PENDING
            step.counts[drift] += 1
            if now is not None and held is not None and drift in DRIFTED:
                self._drifted(destination, now, held, drift, step, asked=None if dry_run else replies.sent[number])
            elif drift is Drift.IN_SYNC:
                in_sync.append(_named(contact))
        if not dry_run:
            self._ledger.drifts.in_sync(destination.name, in_sync)

    def _drifted(self, destination: Destination, contact: Contact, held: Held, drift: Drift, step: Step, *, asked: Sequence[Sent] | None) -> None:
        """Note who has drifted and by which requests that showed (None: this is a mere look), before anything is done about it."""
        found = Drifted(contact=_named(contact), event_id=contact.said[0].word.event_id, drift=drift.value, at_ms=self._ledger.clock_ms())
        step.drifted.append(found)
        if asked is None:
            return
        self._ledger.drifts.note(destination.name, found, asked)
        if how := self._repairs.act(destination, contact, held, drift):
            step.counts[f"{drift}:{how}"] += 1
            self._ledger.drifts.note(destination.name, replace(found, repaired=how))


def _named(contact: Contact) -> str:
    """What stands for a contact and place, whatever its words are."""
    return derived_id(contact.place, contact.key)


def _group(contacts: Sequence[Contact], most: int) -> list[Contact]:
    """The next contacts of a line, so many of them at the most that can be asked about."""
    group: list[Contact] = []
    for contact in contacts:
        if not contact.why:
            if most <= 0:
                break
            most -= 1
        group.append(contact)
    return group


def _question(destination: Destination, contact: Contact) -> Question:
    return Question(subject=contact.event.subject, contact_keys=contact.contact_keys, options=contact.options(destination))


def _is_away(failure: VendorResult | None) -> bool:
    return failure is not None and failure.outcome is Outcome.UNAVAILABLE


def _answered(replies: Replies) -> int:
    """How many of the questions, from the first, have an answer or a reason for none that is about the person."""
    done = [held is not None or busy for held, busy in zip(replies.held, replies.is_busy, strict=True)]
    return done.index(False) if False in done else len(done)
