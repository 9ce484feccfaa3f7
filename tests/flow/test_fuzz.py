"""Coverage-guided fuzzing of the readers of bodies and dates: seconds with every run of the tests, an hour where CONSENT_FUZZ_FACTOR says so."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fuzzing import seconds
from tests.support.readers import TARGETS
from tests.support.stack import ROOT

atheris = pytest.importorskip("atheris", reason="atheris runs on Linux, with Python below 3.14")

SECONDS = 4
pytestmark = pytest.mark.timeout(seconds(SECONDS) + 120)


def found_in(folder: Path) -> str:
    """What libFuzzer kept, so that it can be tried again."""
    return "\n".join(f"{path.name}: {base64.b64encode(path.read_bytes()).decode()}" for path in folder.glob("found-*"))


def test_fuzzers_find_nothing(tmp_path: Path) -> None:
    """No input makes a reader raise anything but its refusal, take five seconds, or hold more and more memory."""
    running = {}
    for target in TARGETS:
        folder = tmp_path / target
        folder.mkdir()
        command = [sys.executable, "-m", "tests.fuzz", target, str(folder), str(int(seconds(SECONDS)))]
        running[target] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    for target, process in running.items():
        output, _ = process.communicate()
        assert process.returncode == 0, f"{target}: {found_in(tmp_path / target)}\n{output[-3000:]}"
        assert "stat::number_of_executed_units" in output
        executed = int(output.rpartition("stat::number_of_executed_units:")[2].split()[0])
        assert executed > 200, "the fuzzer tried next to nothing"
