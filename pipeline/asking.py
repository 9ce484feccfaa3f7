"""Asks a vendor about some people at once, within a share of its account's limits and under an exclusive claim of each contact, until `done`.

While the claim stands nobody tells the vendor anything about them, so what it holds can be held against the standings. Claims and permits are renewed
while questions are under way: those of a process that died soon let others go on, however long the vendor may take for an answer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any, Final

from pipeline.domain import Outcome, Subject, VendorResult
from pipeline.errors import LedgerUnavailable
from pipeline.exchange import Exchange, Work, WorkResult
from pipeline.landing import gate_word
from pipeline.ledger import Ledger
from pipeline.ledger.accounts import Admission, Farewell, Leaving, Traffic
from pipeline.limits import LimitOptions, traffic_of
from pipeline.outgoing import Sent
from pipeline.routing import Destination
from pipeline.vendors.base import SIGN_IN_CALLS, Held

LANE: Final = "ask"
GIVEN: Final = "given"
HOLDING: Final = (Outcome.UNAVAILABLE, Outcome.THROTTLED, Outcome.MISCONFIGURED)
"""Failures that are about the account and not about the person: whoever was asked about is asked about again. The last says most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Who is asked about: as whom, by which identifiers, with which options."""

    subject: Subject = field(repr=False)
    contact_keys: tuple[str, ...]
    options: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """What came of some questions, in their order: what the vendor holds, None where it was not asked.

    `is_busy` where somebody is telling it about the contact, or a late write may still come. `retry_ms` is when there is room again (0: there was).
    `failure` is why the vendor could not be asked, if so; `until` is when the claims end (time.monotonic()). `sent` are the requests made, where evidence is kept.
    """

    held: tuple[Held | None, ...]
    is_busy: tuple[bool, ...]
    retry_ms: int = 0
    failure: VendorResult | None = None
    until: float = 0.0
    sent: tuple[tuple[Sent, ...], ...] = ()


class _Grip:
    """The permits and claims of dialogues under way, in every part of the account's limits; they are sure to stand until `until` (time.monotonic())."""

    def __init__(self, ledger: Ledger, token: str, permits: Sequence[tuple[Traffic, int]], identifier_keys: Sequence[str], margin_seconds: float) -> None:
        """The first of `permits` (traffic, dialogues) is the part that the contacts are claimed in."""
        self._ledger, self._token, self._permits, self._identifier_keys = ledger, token, permits, identifier_keys
        claiming = permits[0][0]
        self._stands_seconds = (claiming.hold_ms or claiming.claim_ms) / 1000 - margin_seconds
        self.until, self.renew_at = 0.0, 0.0
        self._count_from(time.monotonic())

    def renew(self) -> None:
        """Hold on for longer, if it is time for that; what went to somebody else meanwhile stays lost."""
        now = time.monotonic()
        if now < self.renew_at:
            return
        try:
            kept = self._held()
        except LedgerUnavailable:  # the questions are on their way: what they come to is noted all the same, but nobody acts on it
            self.until, self.renew_at = 0.0, now + self._stands_seconds / 3
            return
        self._count_from(now)
        if not all(kept):
            self.until = 0.0

    def _held(self) -> list[bool]:
        return [
            self._ledger.accounts.hold(traffic, self._token, list(range(dialogues)), self._identifier_keys if place == 0 else [])
            for place, (traffic, dialogues) in enumerate(self._permits)
        ]

    def _count_from(self, now: float) -> None:
        self.until, self.renew_at = now + self._stands_seconds, now + self._stands_seconds / 3


class Asker:
    """Asks vendors; safe to share between threads."""

    def __init__(self, ledger: Ledger, exchange: Exchange, limits: LimitOptions, *, share: float) -> None:
        self._ledger, self._exchange, self._limits, self._share = ledger, exchange, limits, share

    def at_once(self, destination: Destination) -> int:
        """How many people may be asked about at once, where nobody else talks to the vendor."""
        whole = self._whole(destination)
        return max(1, min(self.shared(destination).concurrent, whole.concurrent - whole.reserved_dialogues))

    def shared(self, destination: Destination) -> Traffic:
        """The part of the account's limits that questions may take. Where it is less than one dialogue needs, the window is longer instead."""
        whole = self._whole(destination)
        cost = whole.calls_per_dialogue
        calls = max(cost, int(whole.calls * self._share)) if whole.calls else 0
        per_ms = int(whole.per_ms * calls / (whole.calls * self._share)) if whole.calls else whole.per_ms
        concurrent = max(1, int(whole.concurrent * self._share))
        return replace(whole, account=f"sweep:{whole.account}", calls=calls, per_ms=per_ms, concurrent=concurrent, reserved_calls=0, reserved_dialogues=0)

    @contextmanager
    def asked(self, destination: Destination, questions: Sequence[Question]) -> Iterator[Replies]:
        """The replies to some questions; the claims stand until the context is left."""
        whole, shared, token = self._whole(destination), self.shared(destination), f"sweep.{secrets.token_hex(6)}"
        share = self._ledger.accounts.admit(shared, LANE, token, 0, [()] * len(questions))
        admission = self._ledger.accounts.admit(whole, LANE, token, 0, [each.contact_keys for each in questions[: share.dialogues]])
        admitted = [place for place, verdict in enumerate(admission.verdicts) if verdict >= 1]
        permits = [(whole, admission.dialogues), (shared, share.dialogues)]
        grip = _Grip(self._ledger, token, permits, [key for place in admitted for key in questions[place].contact_keys], self._limits.claim_margin_seconds)
        results: dict[int, WorkResult] = {}
        try:
            certain = [place for place in admitted if admission.verdicts[place] == 1]
            results = self._talk(destination, {place: questions[place] for place in certain}, grip)
            yield _replies(questions, share, admission, results, grip.until)
        finally:
            self._leave(shared, whole, token, (share.dialogues, admission.dialogues), [questions[place] for place in admitted], list(results.values()))

    def _whole(self, destination: Destination) -> Traffic:
        """The account's limits for questions."""
        cost = destination.adapter.capabilities.ask_calls + (SIGN_IN_CALLS if destination.adapter.needs_session() else 0)
        return replace(traffic_of(destination, GIVEN, self._limits), calls_per_dialogue=cost, batch_size=1)

    def _talk(self, destination: Destination, questions: Mapping[int, Question], grip: _Grip) -> dict[int, WorkResult]:
        """Run a dialogue for each question, all at once, and wait for their ends."""
        landed: SimpleQueue[tuple[int, WorkResult]] = SimpleQueue()
        deadline = time.monotonic() + self._limits.start_window_seconds
        for place, question in questions.items():
            work = Work(
                adapter=destination.adapter,
                dialogue=destination.adapter.ask(question.subject, question.options),
                account=destination.account,
                size=0,
                allow_private_network=destination.allow_private_network,
                deadline=deadline,
            )
            self._exchange.start(work, _landing(landed, place))
        results: dict[int, WorkResult] = {}
        while len(results) < len(questions):
            with suppress(Empty):
                place, result = landed.get(timeout=max(0.0, grip.renew_at - time.monotonic()))
                results[place] = result
            grip.renew()
        return results

    def _leave(
        self, shared: Traffic, whole: Traffic, token: str, dialogues: tuple[int, int], questions: Sequence[Question], results: Sequence[WorkResult]
    ) -> None:
        """Give back permits, claims and calls that were not made. A refusal to be asked says nothing about telling, but a `too many` holds for all."""
        made = [result.calls for result in results]
        failures = [result.failure for result in results if result.failure is not None]
        gate, pause_seconds = gate_word(failures, self._limits.misconfigured_probe_seconds)
        gate, pause_ms = ("paused", int(pause_seconds * 1000)) if gate == "paused" else ("", 0)
        farewells = [Farewell(lane=LANE, definite=True, identifier_keys=each.contact_keys) for each in questions]
        of_whole = Leaving(permits=_permits(dialogues[1], made), farewells=farewells, gate=gate, pause_ms=pause_ms)
        of_share = Leaving(permits=_permits(dialogues[0], made), farewells=[])
        self._ledger.accounts.leave_all([(whole, token, of_whole), (shared, token, of_share)])


def _permits(dialogues: int, made: Sequence[int]) -> list[tuple[int, int]]:
    """Permit number and calls made of every dialogue that was admitted."""
    return [(number, made[number] if number < len(made) else 0) for number in range(dialogues)]


def _landing(landed: SimpleQueue[tuple[int, WorkResult]], place: int) -> Callable[[Work, WorkResult], None]:
    return lambda _, result: landed.put((place, result))


def _replies(questions: Sequence[Question], share: Admission, admission: Admission, results: Mapping[int, WorkResult], until: float) -> Replies:
    failures = [result.failure for result in results.values() if result.failure is not None and result.failure.outcome in HOLDING]
    no_room = 0 in (*share.verdicts, *admission.verdicts)
    return Replies(
        held=tuple(held if isinstance(held := _held(results.get(place)), Held) else None for place in range(len(questions))),
        is_busy=tuple(place < len(admission.verdicts) and (admission.verdicts[place] < 0 or admission.verdicts[place] > 1) for place in range(len(questions))),
        retry_ms=max(share.retry_at_ms if share.dialogues < len(questions) else 0, admission.retry_at_ms) if no_room else 0,
        failure=max(failures, key=lambda failure: HOLDING.index(failure.outcome), default=None),
        until=until,
        sent=tuple(results[place].sent if place in results else () for place in range(len(questions))),
    )


def _held(result: WorkResult | None) -> object:
    """What the vendor holds; a failure that says nothing about the account is an answer that cannot be read."""
    return None if result is None or (result.failure is not None and result.failure.outcome in HOLDING) else result.results
