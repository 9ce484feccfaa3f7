"""`consent ledger accept`: shows what is there, changes nothing without a yes, and says for whom the ledger is from then on."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from pipeline.identifiers import Hasher
from pipeline.ledger import identity
from pipeline.ledger.store import Store
from tests.support.parts import new_event, open_ledger
from workers.cli import main
from workers.embedded import EmbeddedServer
from workers.state import LEDGER_FILE, StateFolder

PEPPER = "pepper-for-tests-pepper-for-tests"
MISSED = "0123456789abcdef"

Accept = Callable[..., Result]


@pytest.fixture
def accept(client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Accept:
    values = {"REDIS_URL": valkey_url, "SUBJECT_PEPPER": PEPPER, "VAULT_KEYS": base64.b64encode(b"k" * 32).decode(), "LEDGER_EXPECTED_ID": MISSED}
    for name, value in values.items():
        monkeypatch.setenv(f"CONSENT_{name}", value)
    return lambda *arguments, **options: CliRunner().invoke(main, ["ledger", "accept", *arguments], **options)


def held(client: redis.Redis) -> identity.Identity | None:
    return identity.read(Store(client))


def test_an_empty_server_is_shown_and_nothing_changes_without_a_yes(accept: Accept, client: redis.Redis):
    """What is missed, and what a yes would cost, is said before it is asked."""
    for answer in ("n\n", ""):
        said = accept(input=answer)
        assert said.exit_code == 1
        assert "holds     no ledger" in said.output
        assert f"expected  {MISSED}" in said.output
        assert "restore it instead" in said.output
    assert client.keys("*") == []


def test_a_yes_makes_the_ledger_in_the_place_of_the_missed_one(accept: Accept, client: redis.Redis):
    """Asked or by `--yes`; a second time there is nothing to accept."""
    said = accept(input="y\n")
    found = held(client)
    assert said.exit_code == 0
    assert found is not None
    assert found.replaces == (MISSED,)
    assert f"accepted: ledger {found.ledger_id} in the place of {MISSED}" in said.output
    again = accept("--yes")
    assert again.exit_code == 0
    assert "nothing to accept" in again.output
    assert held(client) == found


def test_a_ledger_that_is_only_remembered_is_named(accept: Accept, client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """Without a setting the reason that processes give says which ledger they miss."""
    monkeypatch.delenv("CONSENT_LEDGER_EXPECTED_ID")
    assert "--instead-of" in accept("--yes").output
    assert accept("--yes", "--instead-of", MISSED).exit_code == 0
    assert held(client).replaces == (MISSED,)


def test_another_ledger_is_shown_with_what_it_holds(accept: Accept, client: redis.Redis):
    """So that a person sees whether it is the restored backup or somebody else's."""
    ledger = open_ledger(client, hasher=Hasher(PEPPER.encode()))
    ledger.events.commit([new_event("a" * 24)], ledger.durability)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        said = accept(input="y\n")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert said.exit_code == 0
    assert f"ledger {ledger.identity.ledger_id}: 1 event accepted, 1 of them unfinished" in said.output
    assert "unsafe    the ledger's server evicts keys" in said.output
    assert held(client).replaces == (MISSED,)


def test_a_ledger_of_another_pepper_is_refused(accept: Accept, client: redis.Redis):
    """No yes makes it usable."""
    open_ledger(client)
    said = accept("--yes")
    assert said.exit_code == 2
    assert "CONSENT_SUBJECT_PEPPER" in said.output
    assert held(client).replaces == ()


def test_the_embedded_server_of_a_relay_that_refuses_to_start_can_be_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`consent up` does not start on an emptied server, and nobody else runs that server: the command does, and leaves none behind."""
    state = StateFolder(tmp_path / "state")
    state.path.mkdir()
    state.remember(LEDGER_FILE, MISSED)
    for name in ("CONSENT_REDIS_URL", "CONSENT_SUBJECT_PEPPER", "CONSENT_VAULT_KEYS", "CONSENT_LEDGER_EXPECTED_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONSENT_STATE_DIR", str(state.path))
    said = CliRunner().invoke(main, ["ledger", "accept", "--yes"])
    assert said.exit_code == 0, said.output
    assert f"in the place of {MISSED}" in said.output
    assert state.recall(LEDGER_FILE) not in ("", MISSED)
    assert state.recall(LEDGER_FILE) in said.output
    assert not EmbeddedServer(state.server).stop_left_behind()
