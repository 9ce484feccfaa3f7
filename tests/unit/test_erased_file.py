"""The list of erasures outlives the ledger: private, whole lines only, keyed hashes of this pepper only."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.ledger.erasures import Erasure
from workers.erased import ErasedFile

ONE, TWO = Erasure(at_us=1_000_000, keys=("e" * 25,)), Erasure(at_us=2_000_000, keys=("e" * 25, "p" * 25))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """In order, after a restart, readable by its owner only; a list that is not there is empty."""
    file = tmp_path / "state" / "erased.ndjson"
    assert ErasedFile(file, "a").read() == []
    for each in (ONE, TWO):
        ErasedFile(file, "a").append(each)
    assert ErasedFile(file, "a").read() == [ONE, TWO]
    assert file.stat().st_mode & 0o777 == 0o600


def test_keys_of_another_pepper_say_nothing(tmp_path: Path) -> None:
    """A list that two relays share is read by each for itself."""
    file = tmp_path / "erased.ndjson"
    ErasedFile(file, "a").append(ONE)
    ErasedFile(file, "b").append(TWO)
    assert (ErasedFile(file, "a").read(), ErasedFile(file, "b").read()) == ([ONE], [TWO])


def test_a_last_line_that_was_cut_short_is_passed_by_and_any_other_is_refused(tmp_path: Path) -> None:
    """A command killed while it wrote had erased nothing yet; a damaged list must not look complete."""
    file = tmp_path / "erased.ndjson"
    ErasedFile(file, "a").append(ONE)
    whole = file.read_text()
    file.write_text(whole + whole[:20])
    assert ErasedFile(file, "a").read() == [ONE]
    ErasedFile(file, "a").append(TWO)
    assert ErasedFile(file, "a").read() == [ONE, TWO]
    file.write_text(whole[:20] + "\n" + whole)
    with pytest.raises(ConfigurationError, match="line 1"):
        ErasedFile(file, "a").read()


def test_a_list_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Nothing is erased without it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="CONSENT_STATE_DIR"):
        ErasedFile(tmp_path / "file" / "erased.ndjson", "a").append(ONE)
