"""Puts the parts together: the one place that knows settings, ledger, queues and steps at the same time.

A process builds what it uses, when it first uses it, and builds it once; `current()` is that process's.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from celery import Celery

from config.settings import check_invariants, load_settings
from pipeline.errors import ConsentRelayError
from pipeline.identifiers import Hasher
from pipeline.routing import RetryPolicy, Routing
from pipeline.vault import Vault
from workers.app import create_app, refuse_unknown_broker
from workers.evidence import EvidenceParts, recorded_of
from workers.gathering import GatheringPublisher
from workers.options import alert_options, deliver_options, exchange, ledger_options, limit_options, listen_options, publishing, routing_text, transport
from workers.queues import CeleryPublisher
from workers.reconciling import bulkhead
from workers.servers import ledger_servers, whole

if TYPE_CHECKING:
    from pipeline.accept import Acceptor
    from pipeline.alerts import Alerts
    from pipeline.audit import Audit
    from pipeline.backfill import Backfill
    from pipeline.deliver import Deliver
    from pipeline.desk import Desk
    from pipeline.exchange import Exchange
    from pipeline.ledger import Ledger
    from pipeline.ledger.nodes import Nodes
    from pipeline.limits import LimitOptions
    from pipeline.listen import Listen
    from pipeline.probing import Prober
    from pipeline.release import Release
    from pipeline.settler import Settler
    from pipeline.sightings import Sightings

logger = logging.getLogger(__name__)

Part = TypeVar("Part")


class Parts:
    """The parts of one process, each built on first use; safe to share between threads."""

    needs_vault_keys = True
    """Whether the ledger is refused while a vault key is missing that sealed something in it."""
    makes_ledger = True
    """Whether an empty server is given a ledger where none is expected; commands that only look at one make none."""

    def __init__(self, environment: Mapping[str, str], *, looks_only: bool = False) -> None:
        """With `looks_only` the routing file is read when it is first asked for, and its variables may be unset."""
        self.environment, self._looks_only, self._lock, self.settings = environment, looks_only, threading.RLock(), load_settings(environment)
        check_invariants(self.settings)
        if self.settings.redis_url:
            self.settings.ledger_url()
            self.settings.celery_broker_url()
        refuse_unknown_broker(self.settings)
        self._routing = None if looks_only else self.read_routing()

    @property
    def routing(self) -> Routing:
        """The routing in force."""
        if self._routing is None:
            self._routing = self.read_routing(may_be_unset=self._looks_only)
        return self._routing

    @routing.setter
    def routing(self, fresh: Routing) -> None:
        self._routing = fresh

    def read_routing(self, *, may_be_unset: bool = False) -> Routing:
        """The routing file as it is now. Raises ConfigurationError naming every problem with its line."""
        from pipeline.routing_file import load_routing

        path = self.settings.routing_path()
        text = routing_text(path)
        retry = RetryPolicy(waits_seconds=self.settings.retry.waits_seconds, give_up_after_seconds=self.settings.retry.give_up_after_seconds)
        return load_routing(text, filename=str(path), environment=self.environment, default_retry=retry, may_be_unset=may_be_unset)

    def reload(self) -> bool:
        """Read the routing file again; a wrong one is logged and the old one stays in force. True if it was taken."""
        try:
            fresh = self.read_routing()
            self.refuse_orphans(fresh)
        except ConsentRelayError as error:
            logger.error("routing_refused", extra={"problems": str(error)})  # noqa: TRY400 - the text is the whole story
            return False
        self.routing = fresh
        logger.info("routing_loaded", extra={"version": fresh.version_hash})
        return True

    def refuse_orphans(self, routing: Routing) -> None:
        """Refuse a routing file that no longer has a destination with untold withdrawals: nobody would tell them.

        Raises ConfigurationError, LedgerUnavailable.
        """
        from pipeline.removal import refuse_forgetting

        refuse_forgetting(self.ledger, routing)

    def built(self, name: str, build: Callable[[], Part]) -> Part:
        """The part called `name`, built under the lock the first time."""
        with self._lock:
            if name not in self.__dict__:
                self.__dict__[name] = build()
            part: Part = self.__dict__[name]
            return part

    @property
    def app(self) -> Celery:
        return self.built("_app", lambda: create_app(self.settings, self.routing.destinations))

    @property
    def publisher(self) -> CeleryPublisher:
        return self.built("_publisher", lambda: CeleryPublisher(self.app, **publishing(self.settings)))

    @property
    def gatherer(self) -> GatheringPublisher:
        """The publisher of what accepts events."""
        return self.built("_gatherer", lambda: GatheringPublisher(self.app, **publishing(self.settings)))

    @property
    def hasher(self) -> Hasher:
        return self.built("_hasher", lambda: Hasher(self.settings.pepper()))

    @property
    def vault(self) -> Vault:
        return self.built("_vault", lambda: Vault(self.settings.keys_of_vault()))

    @property
    def servers(self) -> Nodes:
        return self.built("_servers", lambda: ledger_servers(self.settings))

    @property
    def redis(self) -> Any:
        return whole(self.servers)

    @property
    def ledger(self) -> Ledger:
        return self.built("_ledger", self._build_ledger)

    @property
    def acceptor(self) -> Acceptor:
        return self.built("_acceptor", self._build_acceptor)

    @property
    def exchange(self) -> Exchange:
        return self.built("_exchange", self._build_exchange)

    @property
    def limits(self) -> LimitOptions:
        return self.built("_limits", lambda: limit_options(self.settings))

    @property
    def deliver(self) -> Deliver:
        return self.built("_deliver", self._build_deliver)

    @property
    def settler(self) -> Settler:
        return self.built("_settler", self._build_settler)

    @property
    def sightings(self) -> Sightings:
        from pipeline.sightings import Sightings

        return self.built("_sightings", lambda: Sightings(self.ledger, self.hasher))

    @property
    def listen(self) -> Listen:
        return self.built("_listen", self._build_listen)

    @property
    def release(self) -> Release:
        return self.built("_release", self._build_release)

    @property
    def audit(self) -> Audit:
        from pipeline.audit import Audit

        return self.built("_audit", lambda: Audit(self.ledger, self.vault, lambda: self.routing, self.settler, is_working=lambda: self.deliver.is_working))

    @property
    def alerts(self) -> Alerts:
        from pipeline.alerts import Alerts

        carrier = self.built("_transport", lambda: transport(self.settings.exchange.transport))
        return self.built("_alerts", lambda: Alerts(self.ledger, carrier, lambda: self.routing, alert_options(self.settings)))

    @property
    def evidence(self) -> EvidenceParts:
        return self.built("_evidence", lambda: EvidenceParts(self))

    @property
    def desk(self) -> Desk:
        from pipeline.desk import Desk

        return self.built("_desk", lambda: Desk(self.ledger, self.vault, lambda: self.routing, self.hasher, recorded=recorded_of(self)))

    @property
    def prober(self) -> Prober:
        from pipeline.probing import Prober

        return self.built("_prober", lambda: Prober(self.ledger, self.exchange, lambda: self.routing, self.limits))

    @property
    def backfill(self) -> Backfill:
        from pipeline.backfill import Backfill

        return self.built("_backfill", lambda: Backfill(self.ledger, self.vault, lambda: self.routing))

    def close(self) -> None:
        """Let go of what was built, senders first."""
        for name in ("_gatherer", "_publisher", "_exchange", "_transport", "_servers"):
            if (part := self.__dict__.pop(name, None)) is not None:
                part.close()

    def _build_ledger(self) -> Ledger:
        from pipeline.ledger import Ledger

        options = ledger_options(self.settings, self.hasher.fingerprint(), lambda: self.routing.version_hash)
        return Ledger(self.servers, self.vault, replace(options, needs_vault_keys=self.needs_vault_keys, may_make=self.makes_ledger))

    def _build_acceptor(self) -> Acceptor:
        from pipeline.accept import Acceptor
        from pipeline.heard import Heard

        again, echo_seconds = Heard(self.ledger, self.vault, lambda: self.routing).answer, self.settings.listen.echo_seconds
        return Acceptor(self.ledger, self.hasher, self.vault, self.gatherer, self.ledger.now, echo_seconds=echo_seconds, on_heard_again=again)

    def _build_exchange(self) -> Exchange:
        return exchange(self.settings, self.ledger.accounts, lambda: self.ledger.clock.carried_ms() / 1000, self.hasher)

    def _build_settler(self) -> Settler:
        from pipeline.settle import SettleOptions
        from pipeline.settler import Settler

        options = SettleOptions(misconfigured_probe_seconds=self.settings.limits.misconfigured_probe_seconds)
        return Settler(self.ledger, self.publisher, self.sightings, options, Random())  # noqa: S311 - jitter, no secret

    def _build_deliver(self) -> Deliver:
        from pipeline.deliver import Deliver
        from pipeline.prepare import Preparer
        from workers.attending import is_stopping

        return Deliver(
            self.ledger,
            self.exchange,
            Preparer(self.ledger, self.vault, lambda: self.routing),
            self.settler,
            lambda: self.routing,
            bulkhead(self),
            self.limits,
            deliver_options(self.settings),
            is_stopping=is_stopping,
        )

    def _build_listen(self) -> Listen:
        from pipeline.listen import Listen

        options = listen_options(self.settings)
        return Listen(self.ledger, self.exchange, self.acceptor, self.sightings, self.publisher, lambda: self.routing, self.limits, options)

    def _build_release(self) -> Release:
        from pipeline.release import Release

        return Release(self.ledger, self.publisher, lambda: self.routing, self.limits, chunk_size=self.settings.deliver.chunk_size)


@functools.cache
def _parts_of_this_process() -> Parts:
    return Parts(dict(os.environ))


_BUILDING = threading.Lock()


def current() -> Parts:
    """The parts of this process, from its environment."""
    with _BUILDING:
        return _parts_of_this_process()
