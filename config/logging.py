"""Log lines: a fixed event name with fields, as JSON or key=value; never a personal value or a secret.

Whoever logs writes `logger.info("destination_paused", extra={"destination": name})`. URLs lose their credentials and URL
keys here, and an exception of somebody else's library is named without its text, which may quote what it was given.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from config.settings import Settings

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "data", "color_message", "websocket"}
"""Attributes of every record; `data` is Celery's and repeats task arguments."""
_CREDENTIALS: Final = re.compile(r"([a-z][a-z0-9+.-]*://)[^/@\s'\"]*@", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"([?&][a-z_]*password=)[^&\s'\"]*", re.IGNORECASE)
_URL_KEY: Final = re.compile(r"(/v1/sources/[^/\s?]+/)[^/\s?'\"]+")
_OWN: Final = ("pipeline", "config", "workers")
_QUIET: Final = {
    "celery.worker.strategy": "WARNING",
    "celery.app.trace": "CRITICAL",
    "celery.redirected": "WARNING",
    "celery.beat": "WARNING",
    "flower.inspector": "ERROR",
    "kombu": "WARNING",
    "tornado.access": "ERROR",
    "asyncio": "WARNING",
}
"""Loggers that would write a line for every task or request; Flower's inspector warns while the workers are still starting."""


def mask(text: str) -> str:
    """`text` without the credentials of URLs, those among their options too, and without URL keys."""
    return _URL_KEY.sub(r"\1**", _PASSWORD.sub(r"\1**", _CREDENTIALS.sub(r"\1**@", text)))


def setup_logging(settings: Settings, role: str, file: Path | None = None) -> None:
    """Send all logging of this process, in the configured form, to standard error or to the end of `file`."""
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonLines if settings.log.format == "json" else KeyValues)(role))
    logging.basicConfig(level=settings.log.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(dict(self._fields(record)), ensure_ascii=False, default=_plain)

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        yield "time", datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        yield "level", record.levelname.lower()
        yield "event", mask(record.getMessage())
        yield "role", self._role
        yield "logger", record.name
        for name, value in vars(record).items():
            if name not in _STANDARD and not name.startswith("_"):
                yield name, mask(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[1]:
            yield "error", describe(record.exc_info[1])
            yield "where", _where(record.exc_info[1])


class KeyValues(JsonLines):
    """`key=value` pairs for reading by eye."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(
            f"{name}={value if isinstance(value, str) and ' ' not in value else json.dumps(value, ensure_ascii=False, default=_plain)}"
            for name, value in self._fields(record)
        )


def describe(error: BaseException) -> str:
    """An exception's type, with its text only where it is known to carry nothing personal (our own errors, the system's)."""
    kind = type(error)
    if kind.__module__.partition(".")[0] in _OWN or isinstance(error, OSError):
        return mask(f"{kind.__name__}: {error}")
    return f"{kind.__module__}.{kind.__qualname__}"


def _where(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _plain(value: Any) -> str:
    return mask(str(value))
