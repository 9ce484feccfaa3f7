"""How far a long command is, where standard error is no terminal."""

from __future__ import annotations

import pytest

from workers.commands import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then_and_one_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Every ten seconds at the most, whichever task goes on, and also while none does."""
    with progress.progress() as shown:
        reading, waiting = shown.add_task("asking mail", total=200), shown.add_task("asking crm", total=None)
        for _ in range(50):
            clock[0] += 0.5
            shown.advance(reading, 2)
        assert capsys.readouterr().err.splitlines() == ["asking mail: 20 %; asking crm: 0 %", "asking mail: 40 %; asking crm: 0 %"]
        clock[0] += 9
        shown.refresh()
        assert capsys.readouterr().err == "asking mail: 50 %; asking crm: 0 %\n"
        shown.update(waiting, completed=4, total=4)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "asking mail: 50 %; asking crm: 100 %\n")


def test_at_a_terminal_it_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress() as shown:
        assert not isinstance(shown, progress.Lines)
