"""What the short forms share: a seed that is printed with a failure and can be given again."""

from __future__ import annotations

import pytest

from tests.chaos.frame import SEED_VARIABLE, new_seed


@pytest.fixture
def seed() -> int:
    """The seed of a short form; CONSENT_CHAOS_SEED repeats it."""
    value = new_seed()
    print(f"{SEED_VARIABLE}={value}")
    return value
