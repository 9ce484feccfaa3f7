"""Draws curves over time as SVG by hand, one panel below the other: a line needs no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

WIDTH: Final = 900
LEFT: Final = 70
LEGEND: Final = 190
PANEL: Final = 130
GAP: Final = 46
COLOURS: Final = ("#1f6f8b", "#c8553d", "#588157", "#8e6c8a", "#d4a017", "#5a5a5a", "#3a86ff", "#9c6644", "#2a9d8f", "#e07a9a")


def draw(plots: Sequence[Mapping[str, Any]]) -> str:
    """The whole picture; a plot has title, unit, at_seconds and lines (name -> values, None where there was none)."""
    parts = [_panel(plot, 10 + number * (PANEL + GAP)) for number, plot in enumerate(plots)]
    height = 10 + len(plots) * (PANEL + GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>"]) + "\n"


def _panel(plot: Mapping[str, Any], top: int) -> str:
    bottom, right = top + 16 + PANEL - 20, WIDTH - LEGEND
    until = max([*plot["at_seconds"], 1.0])
    highest = max([value for values in plot["lines"].values() for value in values if value is not None] or [1.0]) or 1.0
    parts = [f'<text x="{LEFT}" y="{top + 10}" font-weight="bold">{escape(plot["title"])} ({escape(plot["unit"])})</text>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top - 16)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_shown(highest * share)}</text>')
        parts.append(f'<text x="{LEFT + share * (right - LEFT):.1f}" y="{bottom + 14}" text-anchor="middle">{until * share:,.0f} s</text>')
    for number, (name, values) in enumerate(plot["lines"].items()):
        colour = COLOURS[number % len(COLOURS)]
        pairs = [(at, value) for at, value in zip(plot["at_seconds"], values, strict=True) if value is not None]
        points = " ".join(f"{LEFT + at / until * (right - LEFT):.1f},{bottom - value / highest * (bottom - top - 16):.1f}" for at, value in pairs)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.3" points="{points}"/>')
        parts.append(f'<text x="{right + 10}" y="{top + 24 + number * 13}" fill="{colour}">{escape(name)}</text>')
    return "\n".join(parts)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"
