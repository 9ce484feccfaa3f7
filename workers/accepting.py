"""`consent ledger accept`: looks at what a server holds and, once a person has said so, takes it for the ledger.

It opens no ledger, since every ledger refuses just what is looked at here. An embedded server that no `consent up` runs is started for the time of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from config.ledger_url import Address
from config.settings import Settings, load_settings
from pipeline.errors import ConfigurationError
from pipeline.identifiers import Hasher
from pipeline.ledger import identity
from pipeline.ledger.events import Events
from pipeline.ledger.identity import Identity, Lifetimes
from pipeline.ledger.keys import Keys
from pipeline.ledger.lookout import InMemory, Lookout
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.store import Store
from workers.borrowed import embedded_url
from workers.marks import MarksFile
from workers.servers import ledger_servers
from workers.state import LEDGER_FILE, StateFolder

NO_LIFETIMES: Final = Lifetimes(record_ms=0, payload_ms=0, fan_out_rescue_ms=0, audit_ms=0, push_rescue_ms=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands where the ledger should be: `counts` of its events, `expected` the ids of the ledgers that are missed, `unsafe` what is wrong with its server's settings."""

    server: str
    keys: int
    ledger: Identity | None
    counts: Mapping[str, int]
    expected: tuple[str, ...]
    unsafe: str

    @property
    def is_expected(self) -> bool:
        return self.ledger is not None and all(self.ledger.answers_to(ledger_id) for ledger_id in self.expected)


class Looked:
    """A server under a person's eyes. Raises LedgerMismatch for what cannot become the ledger, LedgerUnavailable if it is away."""

    def __init__(self, settings: Settings, store: Store, state: StateFolder | None, instead_of: Sequence[str]) -> None:
        """`state` is the directory of the `consent up` that works with this server, if one does."""
        self._settings, self._store, self._state = settings, store, state
        self._pepper_fingerprint = Hasher(settings.pepper()).fingerprint()
        seen = MarksFile(settings.state_path()).newest()
        remembered = (settings.ledger.expected_id, state.recall(LEDGER_FILE) if state else "", seen, *instead_of)
        self._expected = tuple(dict.fromkeys(filter(None, remembered)))

    def look(self) -> Found:
        """What there is; changes nothing."""
        found = identity.read(self._store)
        if found is not None:
            identity.refuse_unusable(found, self._pepper_fingerprint)
        return Found(
            server=_place_of(self._settings.ledger_address()),
            keys=int(self._store.run([("DBSIZE",)])[0]),
            ledger=found,
            counts=self._counts(found) if found else {},
            expected=self._expected,
            unsafe=self._unsafe(),
        )

    def accept(self) -> Identity:
        """Take it, in the place of every ledger that is missed; `consent up` expects it from its next start on."""
        taken = identity.accept(
            self._store, partitions=self._settings.ledger.partitions, pepper_fingerprint=self._pepper_fingerprint, instead_of=self._expected
        )
        if self._state:
            self._state.remember(LEDGER_FILE, taken.ledger_id)
        return taken

    def _counts(self, found: Identity) -> Mapping[str, int]:
        keys = Keys(found.partitions)
        lookout = Lookout(self._store, keys, found.ledger_id, found.created_seconds, InMemory())
        return Events(self._store, keys, NO_LIFETIMES, lookout, Outbox(self._store, keys, None)).counts()

    def _unsafe(self) -> str:
        section = self._settings.ledger
        try:
            identity.confirmable(self._store, identity.settings_of(self._store), section.durability, section.wait_aof_milliseconds)
        except ConfigurationError as error:
            return str(error)
        return ""


@contextmanager
def looking(environment: Mapping[str, str], instead_of: Sequence[str], *, of_up: bool) -> Iterator[Looked]:
    """The server that `environment` names; `of_up`: it is that of the `consent up` of the state directory, which need not be running.

    Raises SettingsError, ServerFailed.
    """
    settings = load_settings(environment)
    state = StateFolder(settings.state_path())
    if settings.redis_url:
        with closing(ledger_servers(settings)) as servers:
            yield Looked(settings, Store(servers), state if of_up else None, instead_of)
        return
    with embedded_url(state) as url:
        found = load_settings({**environment, **state.secrets(environment), "CONSENT_REDIS_URL": url})
        with closing(ledger_servers(found)) as servers:
            yield Looked(found, Store(servers), state, instead_of)


def _place_of(address: Address) -> str:
    """Where a ledger's servers are, without their password."""
    if address.hosts:
        return f"{address.kind} {', '.join(f'{host}:{port}' for host, port in address.hosts)}{f', service {address.service}' * bool(address.service)}, database {address.database}"
    parts = urlsplit(address.url)
    return f"{parts.hostname}:{parts.port or 6379}, database {parts.path.strip('/') or 0}"
