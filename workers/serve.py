"""Runs the HTTP interface: granian's server inside this process, so that no helper process can outlive it.

Granian with falcon.asgi answered a third more requests than uvicorn on two cores, and drains requests under way on SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from typing import Any, Final

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from config.logging import setup_logging
from config.settings import Settings, SettingsError
from pipeline.ingest.application import build_application
from pipeline.ingest.ports import IngestLimits, Readiness
from workers import watching
from workers.alerting import take_notes
from workers.embedded import is_free
from workers.process import process_name, share_heaps, spare_collections
from workers.wiring import Parts

logger = logging.getLogger(__name__)

HTTP1: Final = HTTP1Settings(header_read_timeout=10_000, max_buffer_size=65_536)
"""A client that is slow with its headers (milliseconds), or sends more of them than a few kilobytes, is cut off."""


def refuse_taken_port(settings: Settings) -> None:
    """Raise SettingsError where the port is taken: granian would share it with whoever has it, in silence."""
    section = settings.ingest
    if not is_free(section.port, section.host):
        raise SettingsError(f"port {section.port} on {section.host} is in use: stop what listens there or set CONSENT_INGEST_PORT")


def serve(parts: Parts) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the routing file again."""
    share_heaps()
    parts.refuse_orphans(parts.routing)
    application = build_application(
        routing=lambda: parts.routing,
        acceptor=parts.acceptor,
        ledger=parts.desk,
        readiness=lambda: readiness(parts),
        limits=ingest_limits(parts),
        now=parts.ledger.carried_now,
        prover=parts.evidence.prover if parts.settings.evidence_url() else None,
    )
    parts.ledger.upkeep.live_as(process_name("ingest"))
    notes = take_notes()
    watching.look_on([parts.ledger.look, lambda: notes.flush_to(parts.ledger)])
    spare_collections()
    uvloop.run(_run(application, parts))


async def _run(application: Any, parts: Parts) -> None:
    section = parts.settings.ingest
    server = Server(
        application,
        address=section.host,
        port=section.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1,
        websockets=False,
        backlog=1024,
        log_access=False,
    )
    server.workers_kill_timeout = int(section.stop_seconds)
    _take_over_logging(parts)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: threading.Thread(target=parts.reload, name="reload").start())
    logger.info("ingest_started", extra={"host": section.host, "port": section.port})
    await server.serve()
    logger.info("ingest_stopped")


def ingest_limits(parts: Parts) -> IngestLimits:
    """The limits of one server process, from the settings."""
    section = parts.settings.ingest
    return IngestLimits(
        max_body_bytes=section.max_body_bytes,
        max_batch_bytes=section.max_batch_body_bytes,
        max_batch=section.max_batch,
        max_pending=section.max_pending,
        group_commit_events=section.group_commit_events,
        group_commit_wait_seconds=section.group_commit_wait_seconds,
        allowed_skew_seconds=section.allowed_skew_seconds,
    )


def readiness(parts: Parts) -> Readiness:
    """Whether events can be taken and work progresses."""
    problems = parts.desk.problems()
    return Readiness(ready=not problems, problems=problems, notices=parts.desk.notices())


def _take_over_logging(parts: Parts) -> None:
    """Granian configures all logging when it is built; its lines go our way, and only what is wrong."""
    granian = logging.getLogger("_granian")
    granian.handlers.clear()
    granian.propagate = True
    granian.setLevel(logging.ERROR)
    setup_logging(parts.settings, "ingest")
