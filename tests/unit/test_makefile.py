"""Make's own mistakes are told in words."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("python,words", [("/nonexist", "is no command"), ("/bin/false", "is older than Python 3.11")])
def test_a_wrong_interpreter_is_named(python, words, tmp_path):
    """The variable, and what was expected; nothing is made."""
    done = subprocess.run(["make", "setup", f"VENV={tmp_path}/venv", f"PYTHON={python}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"PYTHON={python} {words}" in done.stderr
    assert list(tmp_path.iterdir()) == []
