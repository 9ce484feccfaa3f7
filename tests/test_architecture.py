"""The shape of the project: who imports whom, whose packages are imported, and nothing that a reader would have to search for."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import config
import pipeline
import workers

ROOT = Path(__file__).parents[1]
OURS = [path for package in ("config", "pipeline", "workers") for path in sorted((ROOT / package).rglob("*.py"))]


def test_the_layers_hold() -> None:
    """The import contracts of pyproject.toml are kept."""
    done = subprocess.run([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", [config, pipeline, workers], ids=["config", "pipeline", "workers"])
def test_our_own_packages_are_imported(package: object) -> None:
    """Other distributions install packages of these names too; ours come from this checkout."""
    assert Path(str(package.__file__)).parent.parent == ROOT


def test_the_command_imports_our_packages_whatever_else_is_on_the_path(tmp_path: Path) -> None:
    """With strangers of the same names first on PYTHONPATH and as the working directory, `consent` still runs this checkout."""
    for name in ("config", "pipeline", "workers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a stranger was imported')")
    subprocess.run([sys.executable, ROOT / "workers" / "launcher.py", tmp_path], check=True, cwd=ROOT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, tmp_path / "consent", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "consent demo" in done.stdout


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are_and_stay_small(path: Path) -> None:
    """Every module has a docstring and at most 300 lines; no function is longer than 40."""
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring"
    assert text.count("\n") <= 300
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > 40] == []


def test_only_the_ledger_knows_redis() -> None:
    """Nobody in the pipeline but the ledger imports redis, and nobody but the exchange's transports does vendor I/O."""
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        text = path.read_text()
        name = path.relative_to(ROOT / "pipeline").as_posix()
        assert name.startswith("ledger/") or "import redis" not in text, name
        assert name.startswith("transports/") or ("import pycurl" not in text and "import requests" not in text), name
