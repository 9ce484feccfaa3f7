"""What a chunk asks of the ledger in one round trip: to end dialogues, to write down what came of them, and to begin the next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from msgspec import Struct

from pipeline.domain import Word
from pipeline.errors import LedgerUnavailable
from pipeline.ledger.accounts import Accounts, Admission, Asking, Leaving, Traffic, read_admission, read_leave
from pipeline.ledger.copies import Batch, Copies, Settling
from pipeline.ledger.standings import Records, Standings
from pipeline.ledger.store import Store


class Turn(Struct, frozen=True, kw_only=True):
    """The answers: whether the gate moved, for each instruction whether its claim had lasted, the newer words, who may start, and who they would name.

    `settled` has for each delivery whether it was settled; empty if that was not asked for, or if a claim had not lasted.
    """

    moved: bool
    lasted: Sequence[bool]
    words: Sequence[Word | None]
    admission: Admission | None
    read: Records
    settled: Sequence[bool]


class Turns:
    """Takes turns for chunks; safe to share between threads."""

    def __init__(self, store: Store, accounts: Accounts, standings: Standings, copies: Copies) -> None:
        self._store, self._accounts, self._standings, self._copies = store, accounts, standings, copies

    @property
    def may_settle(self) -> bool:
        """Whether a turn can settle as well: where the claims and the deliveries lie on one server, the one can be bound to the other."""
        return not self._store.nodes.is_spread

    def take(
        self,
        traffic: Traffic,
        lane: str,
        holder: str,
        *,
        leaving: Leaving | None,
        checks: Sequence[tuple[str, str, str]],
        asking: Asking | None,
        named: Collection[str],
        settling: Settling | None = None,
    ) -> Turn:
        """End dialogues, look for newer words than those that were told, settle, ask for the next dialogues, and read who they would name: in this order.

        `named` are the identifier keys to read, after the claims: what is read of them is as good as a look right before the dialogue. A failover must not forget
        the claims and marks of dialogues that begin now, nor what was settled, so they are replicated first. If the answer is lost, `leaving` is to be said again as it was.
        """
        leave = [self._accounts.leave_command(traffic, holder, leaving, is_kept=True)] if leaving else []
        newer = self._standings.newer_commands(checks)
        batch = self._copies.begin(settling, self._accounts.kept_answer(traffic, holder, leaving)) if settling and leaving else None
        settle = batch.commands if batch else ()
        admit = [self._accounts.admit_command(traffic, lane, holder, asking)] if asking else []
        reading = self._standings.read_commands(named)
        replies = iter(self._replies([leave, newer, settle, admit, reading], batch, replicated=asking is not None or batch is not None))
        moved, lasted = read_leave(next(replies)) if leaving else (False, [])
        words = self._standings.read_newer(checks, [next(replies) for _ in newer])
        answers = [next(replies) for _ in settle]
        return Turn(
            moved=moved,
            lasted=lasted,
            words=words,
            settled=self._copies.end(batch, answers[0]) if batch else (),
            admission=read_admission(next(replies)) if asking else None,
            read=self._standings.read_records(named, list(replies)),
        )

    def _replies(self, stages: Sequence[Sequence[Any]], batch: Batch | None, *, replicated: bool) -> list[Any]:
        try:
            return self._store.run_in_order(stages, replicated=replicated)
        except LedgerUnavailable:
            if batch:
                self._copies.give_up(batch)
            raise
