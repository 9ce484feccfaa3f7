"""Runs Flower, read-only and behind a login: anybody who sees it sees destinations, lanes and ids, never a person.

Flower's own command is not used: it reads a Python file of the working directory and takes the password as an argument.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import Any

from config.settings import Settings, SettingsError
from workers.app import create_app
from workers.embedded import is_free

logger = logging.getLogger(__name__)


def run_flower(settings: Settings) -> None:
    """Serve Flower until SIGTERM. Raises SettingsError without a login or where the port is taken."""
    section = settings.flower
    if not section.login:
        raise SettingsError("CONSENT_FLOWER_LOGIN is not set: user:password was expected")
    name, _, password = section.login.partition(":")
    if not (name and password):
        raise SettingsError("CONSENT_FLOWER_LOGIN: user:password was expected, with a colon between the two")
    if not is_free(section.port, section.host):
        raise SettingsError(f"port {section.port} on {section.host} is in use: stop what listens there or set CONSENT_FLOWER_PORT")
    flower = _build(settings)
    # Flower keeps nothing, and its own stop waits for a broker answer that may never come.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    flower.start_http_server()
    logger.info("flower_started", extra={"host": section.host, "port": section.port})
    with contextlib.suppress(KeyboardInterrupt):
        flower.start()


def _build(settings: Settings) -> Any:
    import flower.app
    from flower.urls import settings as pages
    from tornado.options import options

    section = settings.flower
    chosen = {
        "address": section.host,
        "port": section.port,
        "basic_auth": [section.login],
        "broker_api": section.broker_api or None,
        "read_only": True,
        "max_tasks": section.max_tasks,
        "max_workers": 200,
        "purge_offline_workers": 300,
        "persistent": False,
        "tasks_columns": "name,uuid,state,kwargs,received,started,runtime,worker",
    }
    for name, value in chosen.items():
        setattr(options, name, value)
    return flower.app.Flower(capp=create_app(settings, ()), options=options, **pages)
