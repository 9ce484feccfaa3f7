"""Whether a figure that was sampled over a long run grew: a slope that a few odd samples cannot move."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """Theil-Sen: the median of the slopes between all pairs of samples."""
    pairs = [(values[later] - values[earlier]) / (at[later] - at[earlier]) for later in range(len(at)) for earlier in range(later) if at[later] > at[earlier]]
    return median(pairs) if pairs else 0.0


def growth(at: Sequence[float], values: Sequence[float | None], *, after: float, floor: float) -> float:
    """By which share of its median a figure grew from `after` to the end, by its robust slope; `floor` stands for a median that is smaller."""
    kept = [(moment, value) for moment, value in zip(at, values, strict=True) if moment >= after and value is not None]
    if len(kept) < 3:
        return 0.0
    moments, found = [moment for moment, _ in kept], [value for _, value in kept]
    return slope(moments, found) * (moments[-1] - moments[0]) / max(median(found), floor)
