"""The plot of the published results: bars on a logarithmic scale, written as SVG by hand, since a bar needs no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

WIDTH: Final = 900
LABEL: Final = 250
ROW: Final = 20
OURS_COLOUR: Final = "#1f6f8b"
OTHER_COLOUR: Final = "#b9c4c9"


def panel(title: str, bars: Sequence[tuple[str, float]], top: int) -> tuple[str, int]:
    """A titled group of bars and the height it takes."""
    parts = [f'<text x="10" y="{top + 16}" font-weight="bold">{escape(title)}</text>']
    low = math.floor(math.log10(min(value for _, value in bars)) - 0.2)
    span = max(1.0, math.log10(max(value for _, value in bars)) - low)
    for number, (name, value) in enumerate(bars):
        y = top + 26 + number * ROW
        length = max(2.0, (math.log10(value) - low) / span * (WIDTH - LABEL - 90))
        colour = OURS_COLOUR if name.startswith("ours") else OTHER_COLOUR
        parts.append(f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{ROW - 5}" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL + length + 6:.1f}" y="{y + 12}">{value:,.0f}</text>' if value >= 10 else _small(LABEL + length + 6, y, value))
    return "\n".join(parts), 40 + len(bars) * ROW


def draw(panels: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """The whole picture."""
    parts, top = [], 6
    for title, bars in panels.items():
        text, height = panel(title, bars, top)
        parts.append(text)
        top += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top}" fill="white"/>', *parts, "</svg>"]) + "\n"


def panels_of(jobs: Mapping[str, Any], shown: Mapping[str, tuple[str, str]]) -> dict[str, list[tuple[str, float]]]:
    """For each job (letter -> title and metric) the medians of that metric; jobs without two bars are left out."""
    found = {}
    for letter, (title, metric) in shown.items():
        figures = jobs.get(letter, {}).get("figures", {})
        bars = [(name, metrics[metric]["median"]) for name, metrics in figures.items() if metrics.get(metric, {}).get("median", 0) > 0]
        if len(bars) > 1:
            found[f"{letter}  {title}"] = bars
    return found


def _small(x: float, y: int, value: float) -> str:
    return f'<text x="{x:.1f}" y="{y + 12}">{value:.2g}</text>'
