"""Log lines: one JSON object each, fixed event and fields, nothing secret."""

import json
import logging
import re
from pathlib import Path

import pytest

from config.logging import JsonLines, KeyValues, describe, mask
from pipeline.errors import LedgerUnavailable


def line(formatter, message, error=None, **fields):
    record = logging.makeLogRecord(
        {"name": "workers.x", "levelno": 30, "levelname": "WARNING", "msg": message, "created": 0.0, "exc_info": error and (type(error), error, None), **fields}
    )
    return formatter.format(record)


def test_a_line_is_json_with_event_and_fields():
    """Time in UTC, level, event, role, logger, then what the caller gave."""
    assert json.loads(line(JsonLines("worker-1"), "hint_not_sent", queue="control", count=2)) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "warning",
        "event": "hint_not_sent",
        "role": "worker-1",
        "logger": "workers.x",
        "queue": "control",
        "count": 2,
    }
    assert line(KeyValues("up"), "child_died", child="beat").endswith("event=child_died role=up logger=workers.x child=beat")


def test_celerys_own_fields_are_dropped():
    """`data` repeats the arguments of a task."""
    assert "data" not in json.loads(line(JsonLines("w"), "x", data={"args": "secret"}))


@pytest.mark.parametrize(
    "text,expected",
    [
        ("Connected to redis://:hush@h:1/0", "Connected to redis://**@h:1/0"),
        ("amqp://user:hush@h//", "amqp://**@h//"),
        ("POST /v1/sources/mailchimp/hush?x=1", "POST /v1/sources/mailchimp/**?x=1"),
        ("see https://example.org/a@b", "see https://example.org/a@b"),
    ],
)
def test_urls_lose_their_secrets(text, expected):
    """Credentials and URL keys are masked in messages and in fields."""
    assert mask(text) == expected
    assert json.loads(line(JsonLines("w"), text, address=text))["address"] == expected


def test_a_strangers_exception_is_named_without_its_text():
    """Only our own errors and the system's are known to quote nobody."""
    assert describe(ValueError("ana@example.org")) == "builtins.ValueError"
    assert describe(LedgerUnavailable("the ledger is away")) == "LedgerUnavailable: the ledger is away"
    assert describe(ConnectionRefusedError(111, "Connection refused")) == "ConnectionRefusedError: [Errno 111] Connection refused"
    assert "ana@" not in line(JsonLines("w"), "task_failed", error=ValueError("ana@example.org"))


def test_the_operating_page_names_events_that_are_logged():
    """What operators are told to look for exists under exactly that name, and no alert is left out."""
    root = Path(__file__).parents[2]
    source = "".join(path.read_text() for folder in ("pipeline", "workers") for path in (root / folder).rglob("*.py"))
    table = re.search(r"^\| event \|.*?\n\n", (root / "docs/operating.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    events = [name for row in table.splitlines()[2:] if row for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(events) > 10
    assert [
        name
        for name in events
        if f'("{name}"' not in source and f'"{name}", extra' not in source and f'_failed("{name}"' not in source and f': "{name}"' not in source
    ] == []
    alerts = set(re.findall(r'"alert": "(\w+)"|alert="(\w+)"', source))
    assert sorted(name for pair in alerts for name in pair if name and f"`{name}`" not in table) == []
