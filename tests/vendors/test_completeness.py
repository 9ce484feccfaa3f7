"""Every vendor has all its files, and the documentation says what the files declare."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.vendors import adapter_class, vendor_names
from tests.sandboxes import sandbox_names
from tests.vendors.capability_table import render

ROOT = Path(__file__).parents[2]
TOLD = [name for name in vendor_names() if adapter_class(name).capabilities.states]


@pytest.mark.parametrize("vendor", TOLD)
def test_a_vendor_has_its_files(vendor: str) -> None:
    """A vendor that is told has a sandbox, a test that inherits the contract, and a page."""
    assert vendor in sandbox_names()
    assert "Contract)" in (ROOT / f"tests/vendors/test_{vendor}.py").read_text(encoding="utf-8")
    assert (ROOT / f"docs/vendors/{vendor}.md").read_text(encoding="utf-8").startswith("# ")


def test_a_sandbox_has_its_vendor() -> None:
    """No sandbox stands alone."""
    assert set(sandbox_names()) <= set(vendor_names())


@pytest.mark.parametrize("vendor", TOLD)
def test_a_page_names_every_setting(vendor: str) -> None:
    """A vendor's page names each credential and option that the file declares."""
    page = (ROOT / f"docs/vendors/{vendor}.md").read_text(encoding="utf-8")
    declared = adapter_class(vendor)
    assert [name for name in (*declared.credentials, *declared.options) if f"`{name}`" not in page] == []


def test_the_capability_table_is_current() -> None:
    """The page is what the vendor files declare; run `python -m tests.vendors.capability_table > docs/capabilities.md` if not."""
    assert (ROOT / "docs/capabilities.md").read_text(encoding="utf-8") == render()


def test_every_system_has_one_row_in_the_capability_table() -> None:
    """Also one that is only heard: it is told nothing."""
    rows = [line.split(" | ") for line in render().splitlines() if line.startswith("| [")]
    assert [cells[0].rpartition("(")[2] for cells in rows] == [f"`{name}`)" for name in vendor_names()]
    assert {cells[0] for cells in rows if cells[1] == "nothing"} == {"| [cmxOrganize](vendors/cmxorganize.md) (`cmxorganize`)"}
    assert {cells[0].rpartition("(")[2]: cells[2] for cells in rows}["`contacthub`)"] == "by post and by polling"


@pytest.mark.parametrize("vendor", vendor_names())
def test_a_vendor_file_is_short(vendor: str) -> None:
    """A vendor file says only what differs."""
    assert len((ROOT / f"pipeline/vendors/{vendor}.py").read_text(encoding="utf-8").splitlines()) < 300


@pytest.mark.parametrize("sandbox", sandbox_names())
def test_a_sandbox_knows_no_adapter(sandbox: str) -> None:
    """A sandbox follows the vendor's documentation, so it imports nothing of the pipeline."""
    assert "pipeline" not in (ROOT / f"tests/sandboxes/{sandbox}.py").read_text(encoding="utf-8")
