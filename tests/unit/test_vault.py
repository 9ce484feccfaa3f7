"""The vault: what is sealed opens only in its own place, with its own key, unchanged."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigurationError, PayloadUnreadable
from pipeline.vault import Vault

OLD, NEW = b"o" * 32, b"n" * 32


def test_opens_what_it_sealed():
    """A sealed value opens again in its own place, and the plain text is nowhere in it."""
    sealed = Vault([NEW]).seal(b"ana@example.org", "place")
    assert Vault([NEW]).open(sealed, "place") == b"ana@example.org"
    assert b"ana" not in sealed


def test_same_text_never_looks_the_same():
    """Sealing twice gives two values, so that equal identifiers cannot be told from their cipher text."""
    vault = Vault([NEW])
    assert vault.seal(b"x", "place") != vault.seal(b"x", "place")


def test_moved_value_does_not_open():
    """A value copied into another event's record does not open there."""
    vault = Vault([NEW])
    with pytest.raises(PayloadUnreadable):
        vault.open(vault.seal(b"x", "event-1"), "event-2")


@pytest.mark.parametrize("position", [0, 3, 4, 15, 16, -1])
def test_any_changed_byte_is_noticed(position: int):
    """One flipped bit in key id, nonce, cipher text or tag is noticed."""
    vault = Vault([NEW])
    sealed = bytearray(vault.seal(b"ana@example.org", "place"))
    sealed[position] ^= 1
    with pytest.raises(PayloadUnreadable):
        vault.open(bytes(sealed), "place")


@pytest.mark.parametrize("length", [0, 3, 4, 10, 16, 20])
def test_cut_value_is_unreadable(length: int):
    """A value cut short is unreadable, never an unexpected error."""
    vault = Vault([NEW])
    with pytest.raises(PayloadUnreadable):
        vault.open(vault.seal(b"x", "place")[:length], "place")


def test_rotation_keeps_old_values_readable():
    """After a new key is put in front, old values open, new ones use the new key, and dropping the old key makes the old unreadable."""
    old = Vault([OLD]).seal(b"x", "place")
    both = Vault([NEW, OLD])
    assert both.open(old, "place") == b"x"
    with pytest.raises(PayloadUnreadable, match="not configured"):
        Vault([OLD]).open(both.seal(b"x", "place"), "place")
    with pytest.raises(PayloadUnreadable, match="not configured"):
        Vault([NEW]).open(old, "place")


@pytest.mark.parametrize("keys", [[], [b"short"], [b"x" * 33], [NEW, NEW]])
def test_unusable_keys_stop_the_start(keys: list[bytes]):
    """No key, a key of another length or the same key twice is a configuration error that does not show the key."""
    with pytest.raises(ConfigurationError) as caught:
        Vault(keys)
    assert "short" not in str(caught.value)
    assert "nnn" not in str(caught.value)
