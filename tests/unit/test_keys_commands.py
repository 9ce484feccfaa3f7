"""`consent keys`: an operator who knows only the hash of a key finds out what to do with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from workers.cli import main
from workers.state import ENVIRONMENT_FILE, StateFolder

KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def routing(tmp_path: Path) -> Path:
    file = tmp_path / "routing.yaml"
    file.write_text(
        f'sources:\n  web-forms:\n    kind: native\n    keys: ["${{WEB_KEY_SHA256}}", "sha256:{OTHER}"]\n  shop: {{kind: native, keys: ["sha256:${{SHOP_KEY_HEX}}"]}}\n'
    )
    return file


def revoke(routing: Path, digits: str, state: Path, **variables: str) -> tuple[int, str]:
    given = {"CONSENT_CONFIG": str(routing), "CONSENT_STATE_DIR": str(state), "CONSENT_REDIS_URL": "", **variables}
    done = CliRunner().invoke(main, ["keys", "revoke", digits], env=given)
    return done.exit_code, done.output


def advice(routing: Path, line: int, variable: str) -> str:
    return (
        f"the key comes from the variable {variable} ({routing}:{line}): take that out of the line, then send SIGHUP to the running relay; "
        "or change the variable where the relay is started, and start it anew\n"
    )


def test_a_key_is_found_in_the_variable_that_the_file_names(routing: Path, tmp_path: Path) -> None:
    """By its hash or a beginning of it; the variable may hold the digits only. What stands in the file is found as before."""
    held = {"WEB_KEY_SHA256": f"sha256:{KEY.upper()} until 2027-01-31", "SHOP_KEY_HEX": "ef" * 32}
    assert revoke(routing, KEY[:8], tmp_path, **held) == (0, advice(routing, 4, "WEB_KEY_SHA256"))
    assert revoke(routing, "sha256:" + "ef" * 32, tmp_path, **held) == (0, advice(routing, 5, "SHOP_KEY_HEX"))
    assert revoke(routing, OTHER, tmp_path, **held) == (0, f"take it out of {routing}, line 4, then send SIGHUP to the running relay\n")
    assert revoke(routing, KEY, tmp_path) == (1, f"Error: no key {KEY} in {routing}, nor in a variable that it names and that is set here\n")


def test_the_variable_may_be_set_for_the_running_relay_only(routing: Path, tmp_path: Path) -> None:
    """`consent up` remembers hashes of keys for other commands, and leaves what may be a vendor's secret out of the file."""
    folder = StateFolder(tmp_path / "state")
    folder.lock()
    folder.remember_environment({"CONSENT_CONFIG": str(routing), "WEB_KEY_SHA256": f"sha256:{KEY}", "VENDOR_TOKEN": OTHER})
    assert set(json.loads(folder.recall(ENVIRONMENT_FILE))) == {"CONSENT_CONFIG", "WEB_KEY_SHA256"}
    assert revoke(routing, KEY, folder.path) == (0, advice(routing, 4, "WEB_KEY_SHA256"))
