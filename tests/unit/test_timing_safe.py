"""Secrets are compared by a function that takes as long for a near miss as for a far one, and only by it."""

from __future__ import annotations

import ast
import hmac
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ingest_fakes import EVENT, KEYS, make_relay
from tests.unit.test_ingest_authentication import BODY, HOOKS, headers

ROOT = Path(__file__).resolve().parents[2]
COMPARES_SECRETS = ("pipeline/ingest/authentication.py", "pipeline/signatures.py")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Every pair that `hmac.compare_digest` is asked about."""
    pairs: list[tuple[Any, Any]] = []
    real = hmac.compare_digest

    def noting(one: Any, other: Any) -> bool:
        pairs.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    return pairs


@pytest.mark.parametrize("key, status", [(KEYS["web-forms"], 202), (KEYS["web-forms"][:-1], 401), ("nobody", 401)])
def test_keys_are_compared_in_constant_time(compared: list[tuple[Any, Any]], key: str, status: int):
    """Right, nearly right and far off: as many comparisons each, of digests; one for the short way and one for the framework's."""
    assert make_relay().post(json=EVENT, key=key).status_code == status
    assert len(compared) == 2
    assert {len(text) for pair in compared for text in pair} <= {0, 64}
    assert all(key not in pair for pair in compared)


@pytest.mark.parametrize("changes, status", [({}, 202), ({"signature": "v1,AAAA"}, 401)])
def test_signatures_are_compared_in_constant_time(compared: list[tuple[Any, Any]], changes: dict[str, str], status: int):
    """Every signature that is offered is compared, one that fits does not end the look."""
    right = headers(**changes)
    right["webhook-signature"] = f"v1,AAAA {right['webhook-signature']} v1,BBBB"
    assert make_relay().post(HOOKS, body=BODY, key=None, headers=right).status_code == status
    assert len(compared) == 3


@pytest.mark.parametrize("path", COMPARES_SECRETS)
def test_no_secret_is_compared_by_an_operator(path: str):
    """In the modules that decide who is calling, `==` and `in` only see what is no secret: names, schemes, lengths, None."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops):
            words = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)} | {
                name.attr for name in ast.walk(node) if isinstance(name, ast.Attribute)
            }
            assert not words & {"key", "digest", "known", "secret", "signing_secret", "expected", "value", "url_key", "signature"}, ast.unparse(node)
