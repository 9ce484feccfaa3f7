"""Whatever comes from outside: coverage-guided fuzzing of the readers of bodies and dates, and in the long form everything that generates input, at length."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.frame import Check, Figures, Scale, Scenario
from tests.support.readers import TARGETS
from tests.support.stack import ROOT

SHORT_SECONDS = 4
LONG_SECONDS = 3600
MEGABYTES = 700
"""More than that means that something grows with what is read: libFuzzer then counts it as found. The system counts the peak of the process that starts a fuzzer as its own,
and a test runner may have held hundreds; alone a fuzzer holds 83."""
FACTOR = 40.0
"""How much more examples the generating tests try in full."""
GENERATING = (
    "tests/flow/test_openapi_conformance.py",
    "tests/flow/test_hostile_clients.py",
    "tests/flow/test_secrets_everywhere.py",
    "tests/unit/test_source_rubbish.py",
    "tests/vendors/test_rubbish_answers.py",
)


@dataclass(frozen=True)
class Fuzzed:
    """What one fuzzer did, and the inputs that it kept because a reader failed on them, in base64."""

    target: str
    executed: int
    peak_megabytes: int
    found: tuple[str, ...]
    output: str


def fuzz(folder: Path, seconds: int, seed: int) -> list[Fuzzed]:
    """Run all fuzzers side by side."""
    running = {}
    for target in TARGETS:
        (folder / target).mkdir()
        command = [sys.executable, "-m", "tests.fuzz", target, str(folder / target), str(seconds), str(seed), str(MEGABYTES)]
        running[target] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        return [_fuzzed(target, folder / target, process) for target, process in running.items()]
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _fuzzed(target: str, folder: Path, process: subprocess.Popen[str]) -> Fuzzed:
    output = process.communicate()[0]
    kept = [base64.b64encode(path.read_bytes()).decode() for path in folder.glob("found-*")]
    if process.returncode != 0 and not kept:
        kept = [f"ended with {process.returncode}"]
    figures = {name: int(value) for name, value in re.findall(r"stat::([a-z_]+): *([0-9]+)", output)}
    return Fuzzed(target, figures.get("number_of_executed_units", 0), figures.get("peak_rss_mb", 0), tuple(kept), output[-3000:])


def test_fuzzers_find_nothing(tmp_path: Path, seed: int) -> None:
    """No input makes a reader raise anything but its refusal, take five seconds, or hold more and more memory."""
    pytest.importorskip("atheris", reason="atheris runs on Linux, with Python below 3.14")
    for fuzzed in fuzz(tmp_path, SHORT_SECONDS, seed):
        assert fuzzed.found == (), f"{fuzzed.target}: {fuzzed.found}\n{fuzzed.output}"
        assert fuzzed.executed >= 20, f"the fuzzer tried next to nothing\n{fuzzed.output}"


def run(scale: Scale, seed: int) -> Figures:
    """The long form: an hour of fuzzing, then the generating tests with many times the examples."""
    with tempfile.TemporaryDirectory(prefix="consent-fuzz-") as folder:
        fuzzed = fuzz(Path(folder), scale.times(LONG_SECONDS), seed)
    for each in fuzzed:
        for kept in each.found:
            scale.say(f"{each.target}: {kept}")
    environment = {**os.environ, "CONSENT_FUZZ_FACTOR": str(max(1.1, FACTOR * scale.share))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0", f"--hypothesis-seed={seed}", *GENERATING],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    counts = {word: int(number) for number, word in re.findall(r"([0-9]+) (passed|failed|error)", done.stdout)}
    if done.returncode != 0:
        scale.say(done.stdout[-6000:])
    return Figures(
        done={f"inputs to the readers of {each.target}": each.executed for each in fuzzed} | {"generating tests": sum(counts.values())},
        events=0,
        calls=None,
        checks=[
            Check(what="inputs that made a reader raise, hang or grow", found=sum(len(each.found) for each in fuzzed), most=0),
            Check(what="inputs tried by fuzzers", found=sum(each.executed for each in fuzzed), least=scale.times(100_000)),
            Check(what="megabytes that a fuzzer held at the most", found=max(each.peak_megabytes for each in fuzzed), most=MEGABYTES),
            Check(what="generating tests that failed", found=counts.get("failed", 0) + counts.get("error", 0), most=0),
            Check(what="generating tests that held", found=counts.get("passed", 0), least=100),
        ],
    )


SCENARIO = Scenario(
    name="inputs",
    title="Whatever comes from outside",
    told="""
        Coverage-guided fuzzing (atheris) of the readers of bodies and dates for an hour, from the samples on. Then many times the usual number of generated inputs: requests that fit the OpenAPI document
        and requests that do not, against the real server with keys that may, may not and are none; bodies near to what each source sends; answers near to what each vendor gives; clients that hide
        requests in requests or never finish theirs. Nothing may raise, hang, grow, answer 5xx or answer what is not documented.
    """,
    run=run,
    longest_seconds=lambda scale: 600 + scale.times(LONG_SECONDS) + scale.times(5400),
)
