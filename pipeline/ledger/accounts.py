"""Vendor accounts in the ledger: what may be sent now, who is being talked to, and the session token. One account, one slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from pipeline.errors import PayloadUnreadable
from pipeline.ledger.keys import Keys
from pipeline.ledger.store import Store, text
from pipeline.vault import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The limits of one account as the admit and leave scripts need them; milliseconds. `calls` 0 means no limit on the rate.

    `claim_ms` is the longest that a dialogue may take; `hold_ms` (0: the same) how long a claim stands that its holder does not renew.
    """

    account: str
    concurrent: int
    calls: int
    per_ms: int
    calls_per_dialogue: int
    batch_size: int
    claim_ms: int
    late_write_ms: int
    reserved_calls: int
    reserved_dialogues: int
    breaker_failures: int
    breaker_wait_ms: int
    breaker_wait_max_ms: int
    hold_ms: int = 0


class Admission(Struct, frozen=True, kw_only=True):
    """What may start now.

    `verdicts` has for each instruction 1 (admitted), 0 (no room), a negative time until which its contact is claimed, or a time
    above 1 until which a late write may still arrive. When there was no room, come back at `retry_at_ms` because of `why`.
    """

    dialogues: int
    retry_at_ms: int
    why: str
    verdicts: tuple[int, ...]


class Farewell(Struct, frozen=True, kw_only=True):
    """The end of one instruction's part in a dialogue."""

    lane: str
    definite: bool
    identifier_keys: tuple[str, ...]


class Asking(Struct, frozen=True, kw_only=True):
    """A wish to start dialogues for instructions, each given by the identifier keys it will name; permits are numbered from `first_permit`, `under_way` are held already, and
    `wants_more` says that others are only not asked for because few are to be expected.
    """

    first_permit: int
    contacts: Sequence[Sequence[str]]
    under_way: int = 0
    wants_more: bool = False


class Leaving(Struct, frozen=True, kw_only=True):
    """The end of dialogues (permit number, calls made) and of their instructions; `gate` moves the account's gate: ok, failed, paused, misconfigured."""

    permits: Sequence[tuple[int, int]]
    farewells: Sequence[Farewell]
    gate: str = ""
    pause_ms: int = 0


class Accounts:
    """The account part of the ledger."""

    def __init__(self, store: Store, keys: Keys, vault: Vault) -> None:
        self._store, self._keys, self._vault = store, keys, vault

    def admit(self, traffic: Traffic, lane: str, token: str, first_permit: int, contacts: Sequence[Sequence[str]], *, under_way: int = 0) -> Admission:
        """Ask to start dialogues for instructions, each given by the identifier keys it will name."""
        asking = Asking(first_permit=first_permit, contacts=contacts, under_way=under_way)
        return read_admission(self._store.run([self.admit_command(traffic, lane, token, asking)], replicated=True)[0])

    def admit_command(self, traffic: Traffic, lane: str, token: str, asking: Asking) -> tuple[Any, ...]:
        """What asks for that, to be run with other commands; `read_admission` reads its answer."""
        names = self._names(traffic.account, "gate", "window", "flight", "wants", f"hungry:{lane}")
        arguments: list[Any] = [token, lane, traffic.concurrent, traffic.calls, traffic.per_ms, traffic.calls_per_dialogue, traffic.batch_size]
        arguments += [traffic.claim_ms, traffic.late_write_ms, traffic.reserved_calls, traffic.reserved_dialogues]
        arguments += [
            *self._names(traffic.account, "c:", "m:"),
            asking.first_permit,
            traffic.hold_ms or traffic.claim_ms,
            asking.under_way,
            int(asking.wants_more),
        ]
        for contact in asking.contacts:
            arguments += [len(contact), *contact]
        return self._store.script("admit", names, arguments)

    def leave(
        self, traffic: Traffic, token: str, permits: Sequence[tuple[int, int]], farewells: Sequence[Farewell], *, gate: str = "", pause_ms: int = 0
    ) -> tuple[bool, list[bool]]:
        """End dialogues (permit number, calls made) and their instructions; move the gate (`ok`, `failed`, `paused`, `misconfigured`).

        Returns whether the gate opened or closed by this, and for each instruction whether its claim had lasted.
        """
        leaving = Leaving(permits=permits, farewells=farewells, gate=gate, pause_ms=pause_ms)
        return read_leave(self._store.run([self.leave_command(traffic, token, leaving)])[0])

    def leave_all(self, leavings: Sequence[tuple[Traffic, str, Leaving]]) -> None:
        """End dialogues with several accounts in one round trip."""
        self._store.run([self.leave_command(traffic, token, leaving) for traffic, token, leaving in leavings])

    def leave_command(self, traffic: Traffic, token: str, leaving: Leaving, *, is_kept: bool = False) -> tuple[Any, ...]:
        """What says that, to be run with other commands; `read_leave` reads its answer.

        One that is kept is given again to the same token for the same permits: said once more it would take its own claims for outlived, and count failures twice.
        """
        names = self._names(traffic.account, "gate", "window", "flight", *([f"left:{token}"] if is_kept else []))
        cost = traffic.calls_per_dialogue if traffic.calls else 0
        arguments: list[Any] = [token, traffic.per_ms, cost, traffic.late_write_ms, *self._names(traffic.account, "c:", "m:")]
        arguments += [leaving.gate, leaving.pause_ms, traffic.breaker_failures, traffic.breaker_wait_ms, traffic.breaker_wait_max_ms, len(leaving.permits)]
        arguments += [value for permit in leaving.permits for value in permit]
        for farewell in leaving.farewells:
            arguments += [farewell.lane, int(farewell.definite), len(farewell.identifier_keys), *farewell.identifier_keys]
        return self._store.script("leave", names, arguments)

    def kept_answer(self, traffic: Traffic, token: str, leaving: Leaving) -> tuple[str, int]:
        """Where the answer to a leave that is kept stands, and the permit by which it is known."""
        return self._names(traffic.account, f"left:{token}")[0], leaving.permits[0][0]

    def hold(self, traffic: Traffic, token: str, permits: Sequence[int], identifier_keys: Sequence[str]) -> bool:
        """Renew the claims and permits of dialogues under way, so that only those of a dead process run out early; False if a claim was lost."""
        arguments = [token, traffic.hold_ms or traffic.claim_ms, *self._names(traffic.account, "c:"), len(permits), *permits, *identifier_keys]
        return int(self._store.call("hold", self._names(traffic.account, "flight"), arguments)) == 0

    def room(self, traffic: Traffic) -> tuple[int, bool]:
        """About how many calls could start now, and whether the gate is closed; only a hint for how much to push."""
        gate, window, now = self._store.run(
            [
                ("HMGET", self._keys.account(traffic.account, "gate"), "until", "open"),
                ("ZCOUNT", self._keys.account(traffic.account, "window"), "-inf", "+inf"),
                ("TIME",),
            ]
        )
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        expired = self._store.run([("ZCOUNT", self._keys.account(traffic.account, "window"), "-inf", now_ms)])[0]
        closed = bool(gate[0] and int(gate[0]) > now_ms)
        return (max(0, traffic.calls - window + expired) if traffic.calls else 1_000_000), closed

    def gate_is_open(self, account: str) -> bool:
        """Whether the account's circuit breaker is open (or it is paused as misconfigured)."""
        return bool(self.open_because(account))

    def open_because(self, account: str) -> str:
        """Why the account's breaker is open (`breaker`, `misconfigured`), empty if it is not."""
        is_open, reason = self._store.run([("HMGET", self._keys.account(account, "gate"), "open", "reason")])[0]
        return text(reason or "breaker") if is_open else ""

    def get(self, session: str) -> tuple[str, float] | None:
        """The token of a session and how many seconds are left of it, if one is kept; one without an end, or sealed with a vault key that was retired, counts as none."""
        name = self._keys.account(session, "session")
        left_ms, sealed = self._store.run([("PTTL", name), ("GET", name)])
        try:
            return (self._vault.open(sealed, f"session {session}").decode(), left_ms / 1000) if sealed and left_ms > 0 else None
        except PayloadUnreadable:
            return None

    def put(self, session: str, token: str, ttl_seconds: float) -> None:
        """Keep a session token, sealed, for all workers."""
        sealed = self._vault.seal(token.encode(), f"session {session}")
        self._store.run([("SET", self._keys.account(session, "session"), sealed, "PX", max(1, int(ttl_seconds * 1000)))])

    def drop(self, session: str, token: str) -> None:
        """Forget a session token that was refused, unless another worker has already replaced it."""
        kept = self.get(session)
        if kept is not None and kept[0] == token:
            self._store.run([("DEL", self._keys.account(session, "session"))])

    def _names(self, account: str, *suffixes: str) -> list[str]:
        return [self._keys.account(account, suffix) for suffix in suffixes]


def read_admission(reply: Any) -> Admission:
    """The answer to an `admit_command`."""
    return Admission(dialogues=int(reply[0]), retry_at_ms=int(reply[1]), why=text(reply[2]), verdicts=tuple(reply[3:]))


def read_leave(reply: Any) -> tuple[bool, list[bool]]:
    """The answer to a `leave_command`: whether the gate opened or closed by it, and for each instruction whether its claim had lasted."""
    return bool(reply[0]), [bool(value) for value in reply[1:]]
