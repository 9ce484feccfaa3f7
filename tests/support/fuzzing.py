"""How much the generating tests do: little with every run of the tests, more where CONSENT_FUZZ_FACTOR says so (`make chaos`)."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings

FACTOR = float(os.environ.get("CONSENT_FUZZ_FACTOR") or 1)


def examples(short: int, **options: Any) -> settings:
    """Hypothesis with this many examples by default. Slow machines are no failures, and nothing is written into the checkout."""
    return settings(
        max_examples=max(1, int(short * FACTOR)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=options.pop("phases", [Phase.explicit, Phase.generate, Phase.shrink]),
        **options,
    )
