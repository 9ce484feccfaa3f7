"""Writes the command `consent` into a virtual environment: `python workers/launcher.py .venv/bin`.

The command puts this checkout first on the import path, so that our own `config`, `pipeline` and `workers` are the ones
imported, from any working directory. The project is never installed as a package: others use those names too.
"""

from __future__ import annotations

import sys
from pathlib import Path

TEXT = """#!{python}
import sys

sys.path[0] = {checkout!r}

from workers.cli import main

main(prog_name="consent")
"""


def write_launcher(folder: Path) -> Path:
    """Write the command into `folder` and return its path."""
    launcher = folder / "consent"
    checkout = Path(__file__).resolve().parent.parent
    launcher.write_text(TEXT.format(python=folder.resolve() / "python", checkout=str(checkout)), encoding="utf-8")
    launcher.chmod(0o755)
    return launcher


if __name__ == "__main__":
    write_launcher(Path(sys.argv[1]))
