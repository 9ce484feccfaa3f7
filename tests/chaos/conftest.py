"""What the short forms share: a seed that is printed with a failure and can be given again, and that one failure is a failure."""

from __future__ import annotations

import pytest

from tests.chaos.frame import SEED_VARIABLE, new_seed


def pytest_itemcollected(item: pytest.Item) -> None:
    """What these tests look for may show once in a hundred runs: they are never tried again, whatever `--reruns` says."""
    item.add_marker(pytest.mark.flaky(reruns=0))


@pytest.fixture
def seed() -> int:
    """The seed of a short form; CONSENT_CHAOS_SEED repeats it."""
    value = new_seed()
    print(f"{SEED_VARIABLE}={value}")
    return value
