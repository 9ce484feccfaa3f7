"""The README's commands do what it says: on a fresh clone, with an empty home directory and nothing of ours in the environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone of what is committed, with the working tree's own changes laid over it, so that the test tells about this very tree."""
    folder = tmp_path_factory.mktemp("fresh") / "consent-relay"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, changed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder.parent, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """What a new machine has: a path, a home with nothing in it, and how to reach the package index."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG") or name.startswith(("PIP_", "SSL_", "HTTP", "http", "REQUESTS_"))}
    ports = {f"CONSENT_{name}_PORT": "0" for name in ("INGEST", "FLOWER", "SANDBOX")}
    return {**kept, "HOME": str(home), **ports}


@pytest.mark.timeout(600)
def test_the_demo_runs_on_a_fresh_clone_with_an_empty_home(clone: Path, tmp_path: Path) -> None:
    """`make demo` sets everything up, tells every sample to every destination and ends with 0; the command is there afterwards and works from anywhere."""
    done = subprocess.run(["make", "demo"], cwd=clone, env=environment(tmp_path), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "what every destination was told" in done.stdout
    for destination in ("dinamize-news", "mailchimp-main", "privacy-platform", "contacthub-main", "contactsend-main", "crm-webhook"):
        assert destination in done.stdout
    counts = {"delivered applied ": 14, "delivered applied confirmed": 5, "dead unsupported": 3, "superseded": 2}
    assert {text: done.stdout.count(text) for text in counts} == counts
    assert "3 withdrawals cannot be told by a call" in done.stdout
    assert "login operator:" in done.stdout
    for outcome, destination in (("delivered applied confirmed", "maileon-main"), ("dead unsupported", "retargetly-audience")):
        assert re.search(rf"│ {outcome} +│ {destination}", done.stdout)
    assert "@example" not in done.stdout
    anywhere = {name: value for name, value in environment(tmp_path).items() if not name.startswith("CONSENT_")}
    check = subprocess.run([clone / ".venv/bin/consent", "check"], cwd=tmp_path, env=anywhere, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stderr
    assert "crm-webhook: webhook" in check.stdout
    assert not list(tmp_path.glob("**/.consent")), "nothing is left in the home directory"


def test_the_event_that_the_readme_posts_is_accepted_and_told(stack: Stack) -> None:
    """The body of the example is an event, and `consent status` shows what became of it."""
    body = re.search(r"-d '(\{.*?\})'", README, re.DOTALL)
    assert body is not None
    answer = stack.post("/v1/consent-events", json.loads(body[1]))
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    stack.wait_complete([answer.json()["event_id"]])
    shown = stack.consent("status", answer.json()["event_id"])
    assert shown.returncode == 0, shown.stderr
    assert "mailchimp-main" in shown.stdout
    assert "ana@example.org" not in shown.stdout


def test_the_state_directory_is_said_to_be_a_default() -> None:
    """Before any path in it is named, with the setting that changes it; and it is the default."""
    default = tomllib.loads((ROOT / "config/defaults.toml").read_text())["state_dir"]
    said = f"`{default}` in the checkout, here and on every page, unless `CONSENT_STATE_DIR` names another"
    assert 0 < README.index(said) <= README.index(f"{default}` ") < README.index(f"{default}/")


def test_every_make_target_and_file_that_the_readme_names_exists() -> None:
    """No dead link, no dead command."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", re.sub(r"```text.*?```", "", README, flags=re.DOTALL))) <= targets
    assert all((ROOT / name).exists() for name in re.findall(r"\]\(([^)#:]+)\)", README))
