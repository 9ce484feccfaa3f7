"""What is sealed in the ledger and with which vault key, and the list of keys that may have sealed something.

A key enters the list when a process that seals with it opens the ledger, and leaves it when nothing sealed with it was found. A process without a
key of the list refuses to start: what that key sealed would be unreadable.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import ConfigurationError
from pipeline.ledger.keys import PREFIX, VAULT_KEYS, Keys
from pipeline.ledger.store import Durability, Store, pairs_of, text
from pipeline.vault import Vault

AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """One sealed value: where it stands (`part` is the field of a hash, empty for a string) and the context that it opens in."""

    name: str
    part: str
    context: str
    value: bytes = field(repr=False)


class Seals:
    """The sealed values of a ledger, and who sealed them."""

    def __init__(self, store: Store, keys: Keys, vault: Vault) -> None:
        self._store, self._keys, self._vault = store, keys, vault

    def known(self) -> dict[str, int]:
        """Ids of the keys that may have sealed something, and since when, in seconds since 1970."""
        return {text(name): int(value) for name, value in pairs_of(self._store.run([("HGETALL", VAULT_KEYS)])[0])}

    def note(self) -> None:
        """List the key that seals; where there is no list yet, all that are configured, since older releases kept none."""
        ids = self._vault.key_ids if not self.known() else (self._vault.newest,)
        self._store.run([("HSETNX", VAULT_KEYS, key_id, int(time.time())) for key_id in ids])

    def missing(self) -> list[str]:
        """Ids of keys that may have sealed something and are not configured here."""
        return sorted(self.known().keys() - set(self._vault.key_ids))

    def refuse_missing(self) -> None:
        """Raises ConfigurationError if a key of the list is not configured."""
        if missing := self.missing():
            raise ConfigurationError(
                f"CONSENT_VAULT_KEYS lacks the key {', '.join(missing)}, which may have sealed something in this ledger: put it back behind the newest "
                "(`consent vault reseal` says when it may be removed); if it is lost for good, `consent vault forget` gives up what it sealed"
            )

    def forget(self, key_ids: Sequence[str]) -> None:
        """Take keys off the list."""
        self._store.run([("HDEL", VAULT_KEYS, key_id) for key_id in key_ids])

    def count_keys(self) -> int:
        """About how many keys `chunks` looks at."""
        return sum(int(answers[0]) for answers in self._store.on_each([("DBSIZE",)]))

    def chunks(self) -> Iterator[tuple[int, list[Sealed]]]:
        """Every sealed value that another key than the newest sealed, in chunks, each with how many keys were looked at for it.

        What is there from beginning to end is seen; it may be seen twice.
        """
        for pattern, part in ((f"{PREFIX}:{{e*}}:p:*", ""), (f"{PREFIX}:{{a:*}}:session", ""), (f"{PREFIX}:{{i*}}:i:*", "v")):
            names: list[str] = []
            for name in self._store.scan(pattern, AT_ONCE):
                names.append(text(name))
                if len(names) == AT_ONCE:
                    yield len(names), self._old(names, part)
                    names = []
            yield len(names), self._old(names, part)

    def replace(self, pairs: Sequence[tuple[Sealed, bytes]]) -> int:
        """Put fresh values in the place of old ones that have not changed meanwhile; returns how many."""
        return sum(self._store.run([self._store.script("reseal", [old.name], [old.part, old.value, fresh]) for old, fresh in pairs], replicated=True))

    def confirm(self, durability: Durability) -> None:
        """Return when what was replaced is on the disk. Raises LedgerUnavailable if that is not confirmed in time."""
        # It waits for the writes of its own connection, so there has to be one; those before it are older.
        self._store.run([("HSET", VAULT_KEYS, self._vault.newest, int(time.time()))], durability=durability)

    def _old(self, names: Sequence[str], part: str) -> list[Sealed]:
        values = self._store.run([("HGET", name, part) if part else ("GET", name) for name in names])
        return [
            Sealed(name=name, part=part, context=_context(name), value=value)
            for name, value in zip(names, values, strict=True)
            if value and self._vault.sealed_by(value) != self._vault.newest
        ]


def _context(name: str) -> str:
    """What a value's key says it was sealed for: an event, an identifier, or the session of an account."""
    if name.endswith("}:session"):
        return f"session {name.partition(':{a:')[2].removesuffix('}:session')}"
    return name.partition("}:")[2][2:]
