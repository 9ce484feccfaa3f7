"""No name, spelling, redirect or change of mind of a name server leads a transport into the network it runs in (a namespace of its own plays the internet)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.rebinding import INSIDE, PUBLIC, SPELT
from tests.support.stack import ROOT

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
ABLE = bool(shutil.which("unshare") and shutil.which("ip")) and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
REFUSED = "address_refused"

pytestmark = [pytest.mark.skipif(not ABLE, reason="needs Linux with iproute2 and user namespaces, to play an internet of its own"), pytest.mark.timeout(180)]


@pytest.mark.parametrize("transport", ["curl", "requests"])
def test_nothing_inside_is_ever_dialled(transport: str) -> None:
    """Public addresses are reached; every other is refused before a connection is opened, whatever led to it, and however often the name is looked up."""
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.support.rebinding", transport], cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["public"] == ["200", [PUBLIC]]
    assert found["public of six"] == ["200", ["2606:4700:4700::1111"]]
    for what in INSIDE:
        assert found[f"name of {what}"] == [REFUSED, []], what
        assert found[f"first look-up of {what}"] == ["200", [PUBLIC]], what
        assert found[f"rebound to {what}"] == [REFUSED, []], what
        assert found[f"redirect to {what}"] == ["302", [PUBLIC]], what
    for what in SPELT:
        assert found[f"spelt {what}"] == [REFUSED, []], what
    assert found["looked up"] > 3 * len(INSIDE)
