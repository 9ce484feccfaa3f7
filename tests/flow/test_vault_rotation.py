"""The vault key is changed as the documentation says, by real processes on one ledger: started without the old key, with both, and without it again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import redis

from pipeline.domain import IncomingEvent, State, Subject, utc_from_us
from pipeline.vault import Vault
from tests.flow.conftest import ROUTING
from tests.support.canaries import redis_content
from tests.support.servers import valkey_server
from tests.support.stack import ROOT, running_stack
from tests.support.world import SHORT
from workers.state import new_pepper, new_vault_key
from workers.wiring import Parts

pytestmark = pytest.mark.timeout(180)


def key_id(text: str) -> str:
    from config.settings import load_settings

    return Vault(load_settings({"CONSENT_VAULT_KEYS": text}).keys_of_vault()).newest


def consent(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}
    command = [sys.executable, "-m", "workers.cli", *words]
    return subprocess.run(command, cwd=ROOT, env={**plain, **environment}, capture_output=True, text=True, timeout=60, check=False)


def accept(environment: dict[str, str], email: str) -> str:
    """Accept a withdrawal as an ingest process with this environment would; nobody fans it out."""
    parts = Parts(environment)
    event = IncomingEvent(subject=Subject(email=email), purpose="newsletter", state=State.WITHDRAWN, event_time=utc_from_us(1_767_600_000_000_000))
    (accepted,) = parts.acceptor.accept_many([(parts.routing.sources["web-forms"], event)])
    parts.close()
    return str(accepted.event_id)


def sealed_by(url: str, name: str) -> int:
    with redis.Redis.from_url(url) as client:
        return sum(bytes.fromhex(name) in content for content in redis_content(client, "").values())


def test_the_key_is_changed_while_the_relay_runs(tmp_path) -> None:
    """What was accepted under the old key is told under the new one; the old one is refused to be removed until it was freed, and not missed afterwards."""
    old, new = new_vault_key(), new_vault_key()
    (tmp_path / "consent.yaml").write_text(ROUTING)
    with valkey_server() as url:
        shared = {
            **SHORT,
            "CONSENT_REDIS_URL": url,
            "CONSENT_SUBJECT_PEPPER": new_pepper(),
            "CONSENT_CONFIG": str(tmp_path / "consent.yaml"),
            "CONSENT_STATE_DIR": str(tmp_path / "state"),
            "CONSENT_SANDBOX_PORT": "1",
        }
        event_id = accept({**shared, "CONSENT_VAULT_KEYS": old}, "ana@example.org")
        refused = consent({**shared, "CONSENT_VAULT_KEYS": new}, "serve")
        assert (refused.returncode, key_id(old) in refused.stderr, new in refused.stderr) == (2, True, False)
        with running_stack(
            routing=ROUTING,
            environment={**SHORT, **{name: shared[name] for name in ("CONSENT_REDIS_URL", "CONSENT_SUBJECT_PEPPER")}, "CONSENT_VAULT_KEYS": f"{new},{old}"},
        ) as stack:
            stack.wait_complete([event_id])
            assert set(stack.deliveries(event_id).values()) == {("delivered", None)}
            assert sealed_by(url, key_id(old)) > 0
            assert f"{key_id(old)}: opens what it sealed" in stack.consent("vault", "status").stdout
            resealed = stack.consent("vault", "reseal")
            assert (resealed.returncode, f"{key_id(old)} seals nothing any more" in resealed.stdout) == (0, True), resealed.stderr
            assert sealed_by(url, key_id(old)) == 0
            fresh = stack.accept("withdrawn", email="bo@example.org")
            stack.wait_complete([fresh])
            assert sealed_by(url, key_id(old)) == 0
            assert f"{key_id(old)}: seals nothing: may be removed" in stack.consent("vault", "status").stdout
        alone = {**shared, "CONSENT_VAULT_KEYS": new}
        assert (consent(alone, "vault", "status").returncode, consent(alone, "vault", "reseal").stdout) == (0, "0 values sealed anew\n")
        lost = consent({**shared, "CONSENT_VAULT_KEYS": old}, "vault", "status")
        assert (lost.returncode, f"{key_id(new)}: MISSING" in lost.stdout) == (1, True)
        assert consent({**shared, "CONSENT_VAULT_KEYS": old}, "vault", "forget", key_id(new), "--yes").returncode == 0
        assert consent({**shared, "CONSENT_VAULT_KEYS": old}, "vault", "status").returncode == 0
