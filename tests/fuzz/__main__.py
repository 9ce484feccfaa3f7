"""Runs one fuzzer in this process; libFuzzer ends it, with 0 if nothing was found. What was found lies in the folder beside the corpus."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline"]):
    from tests.support.readers import TARGETS, corpus


def main(target: str, folder: Path, seconds: int, seed: int, megabytes: int) -> None:
    """Never returns."""
    seeds = folder / "corpus"
    seeds.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(corpus(target)):
        (seeds / f"seed-{number}").write_bytes(content)
    options = [
        f"-max_total_time={seconds}",
        "-timeout=5",
        f"-rss_limit_mb={megabytes}",
        f"-seed={seed % 2**31 + 1}",
        "-max_len=4096",
        f"-artifact_prefix={folder}/found-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(seeds)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
