"""What `consent reconcile` refuses before it asks anybody, and how it shows what it found."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pipeline.books import Books, Finding
from workers.commands.reconcile import _show_books, _show_drift, _show_standing, reconcile


@pytest.mark.parametrize(
    "arguments,reason",
    [
        (["--internal", "--full"], "--internal asks nobody"),
        (["--internal", "--destination", "mail"], "--internal asks nobody"),
        (["--internal", "--dry-run"], "--internal asks nobody"),
        (["--internal", "--show"], "--internal asks nobody"),
        (["--show", "--full"], "--show asks nobody"),
        (["--sample", "5", "--full"], "--sample or --full, not both"),
        (["--sample", "0"], "--sample"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(reconcile, arguments)
    assert result.exit_code == 2
    assert reason in result.output


def test_the_books_are_shown_with_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind with its number and its first ids; what is in order is not mentioned."""
    books = Books(unaccounted=1)
    books.events["given", "complete"] = 3
    books.deliveries["mail", "delivered"] = 3
    books.told_late["news"] = 2
    for number in range(25):
        books.late.add(Finding(f"event-{number}.mail", "owed for long"))
    books.unexplained.add(Finding("lost.mail", "stands in no index"))
    _show_books(books)
    shown = capsys.readouterr().out
    assert "late: 25" in shown
    assert "event-19.mail" in shown
    assert "event-20.mail" not in shown
    assert "lost.mail" in shown
    assert "told later than its goal for news: 2 deliveries" in shown
    assert "stuck" not in shown
    assert "unaccounted: 1" in shown
    assert not books.is_good


def test_drift_is_shown_by_destination(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"in_sync": 7, "missing": 0, "vendor_stricter": 0, "vendor_looser": 2, "pending": 1, "unreadable": 0}
    _show_drift(
        [
            {
                "destination": "mail",
                "mode": "full",
                **found,
                "repaired": {"told_again": 2, "adopted": 0},
                "drifted": {"count": 0, "items": []},
                "problem": None,
                "good": False,
            }
        ]
    )
    shown = capsys.readouterr().out
    assert "2 told again" in shown
    assert "adopted" not in shown
    _show_drift([])
    assert "no destination can be asked" in capsys.readouterr().out


def test_who_has_drifted_is_shown_by_event(capsys: pytest.CaptureFixture[str]) -> None:
    """Some of them, and how many more there are."""
    items = [{"event_id": f"event-{number}", "class": "vendor_stricter", "at": "2026-01-05T12:00:00Z", "repaired": None} for number in range(30)]
    found = {"in_sync": 7, "missing": 0, "vendor_stricter": 30, "vendor_looser": 0, "pending": 1, "unreadable": 0}
    rows = [{"destination": "mail", "last": {"full": found}, "full_at": None, "drifted": {"count": 30, "items": items}}]
    _show_standing(rows)
    shown = capsys.readouterr().out
    assert "drifted at mail: 30" in shown
    assert "event-19" in shown
    assert "event-20" not in shown
    assert "and 10 more" in shown
    _show_standing([{"destination": "mail", "last": {}, "full_at": None, "drifted": {"count": 0, "items": []}}])
    assert "nothing has been compared yet" in capsys.readouterr().out
