"""The page at the sandboxes' root address: what each vendor holds and was called with, for whoever looks in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from tests.sandboxes.base import Reply, Sandbox

MOST_CONTACTS, MOST_CALLS = 50, 10
STYLE = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}table{border-collapse:collapse;margin:.3rem 0 1rem}"
STYLE += "td,th{border-bottom:1px solid #ccc;padding:.1rem .8rem .1rem 0;text-align:left}h2{margin:1.5rem 0 0}code{font-size:.95em}"


def index_page(sandboxes: Mapping[str, Sandbox]) -> Reply:
    """All sandboxes on one page, newest calls first; reload it to see more."""
    intro = "<p>They stand in for the vendors and keep what they are told in memory. <code>/&lt;vendor&gt;</code> is what the relay calls.</p>"
    parts = "".join(_section(sandbox) for _, sandbox in sorted(sandboxes.items()))
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Vendor sandboxes</title><style>{STYLE}</style></head>'
    return Reply(200, f"{page}<body><h1>Vendor sandboxes</h1>{intro}{parts}</body></html>".encode(), "text/html; charset=utf-8")


def _section(sandbox: Sandbox) -> str:
    contacts = [(key, contact["state"]) for key, contact in list(sandbox.contacts.items())[-MOST_CONTACTS:]]
    calls = [(_clock(call["arrived_at"]), call["operation"], call["status"], call["fault"]) for call in reversed(sandbox.calls[-MOST_CALLS:])]
    state = f"/_sandbox/{sandbox.name}/state"
    head = f'<h2 id="{sandbox.name}">{sandbox.name}</h2><p>contacts: {len(sandbox.contacts)}, calls: {len(sandbox.calls)}, <a href="{state}">{state}</a></p>'
    return head + _table(("contact", "state"), contacts) + _table(("last calls", "operation", "status", "fault"), calls)


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return ""
    return f"<table>{_line('th', columns)}{''.join(_line('td', row) for row in rows)}</table>"


def _line(tag: str, cells: tuple[Any, ...]) -> str:
    return "<tr>" + "".join(f"<{tag}>{'' if cell is None else escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")
