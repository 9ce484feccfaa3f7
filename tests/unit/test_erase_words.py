"""What `consent erase` says to whom only looks, or was refused: no advice that was taken already, and what is under way."""

from __future__ import annotations

from typing import Any

import pytest

from workers.commands.erase import _print_found, _print_refused

WAITS = "w" * 24
REPORT: dict[str, Any] = {
    "known": True,
    "identifiers": {"email": 2},
    "events": 1,
    "untold_withdrawals": [f"{WAITS}.crm"],
    "under_way": None,
}
UNDER_WAY = {"since": "2026-01-05T13:00:00Z", "waits_for": [WAITS]}


@pytest.mark.parametrize(
    "under_way,when_told,last",
    [
        (None, False, "or --when-told erases as soon as all are told"),
        (None, True, "without --dry-run all else goes at once, and this as soon as it is told"),
        (UNDER_WAY, False, "there is nothing to add"),
        (UNDER_WAY, True, "there is nothing to add"),
        ({**UNDER_WAY, "waits_for": ["another"]}, False, "or --when-told erases as soon as all are told"),
    ],
)
def test_no_advice_is_given_that_was_taken(capsys: pytest.CaptureFixture[str], under_way: Any, when_told: bool, last: str) -> None:
    _print_refused({**REPORT, "under_way": under_way}, when_told=when_told)
    shown = capsys.readouterr().out
    assert shown.startswith("1 delivery of withdrawals still to be told")
    assert shown.endswith(f"{last}\n")


def test_what_is_under_way_is_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    """And --only-given is advised only where it was not given."""
    _print_found({**REPORT, "under_way": UNDER_WAY}, only_given=True)
    found = capsys.readouterr()
    assert "under way since 2026-01-05T13:00:00Z: 1 event to be told, or to end, first; then beat" in found.out
    assert found.err == ""
    _print_found(REPORT, only_given=False)
    found = capsys.readouterr()
    assert ("under way" in found.out, "--only-given" in found.err) == (False, True)
