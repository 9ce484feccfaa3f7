"""Encrypts what is personal before it reaches the ledger; keys are rotated by a new one in front, `reseal` frees the old ones.

AES-256-GCM with a random 96-bit nonce (NIST SP 800-38D). A sealed value is `key id (4) | nonce (12) | ciphertext and tag`; the context
(an event id, an identifier key) is authenticated, so a sealed value moved to another place does not open.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.errors import ConfigurationError, PayloadUnreadable

KEY_BYTES = 32
ID_BYTES = 4
_NONCE_BYTES = 12


class Vault:
    """Seals with the newest key and opens with any of the given ones.

    `keys`: 32 bytes each, newest first. To rotate, put a new key in front; drop an old one only when nothing sealed with it is left.
    A key's id is a hash of it, and no secret: it stands in front of everything that the key sealed.
    Raises ConfigurationError for a key of another length, two equal keys, or none.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ConfigurationError("the vault needs at least one key of 32 bytes")
        if any(len(key) != KEY_BYTES for key in keys):
            raise ConfigurationError("every vault key must have exactly 32 bytes")
        self._ciphers = {self._key_id(key): AESGCM(key) for key in keys}
        if len(self._ciphers) != len(keys):
            raise ConfigurationError("two vault keys are the same")
        self._newest = self._key_id(keys[0])

    @property
    def newest(self) -> str:
        """The id of the key that seals."""
        return self._newest.hex()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys, newest first."""
        return tuple(key_id.hex() for key_id in self._ciphers)

    @staticmethod
    def sealed_by(sealed: bytes) -> str:
        """The id of the key that sealed a value, whether that key is known here or not."""
        return sealed[:ID_BYTES].hex()

    def is_newest(self, sealed: bytes) -> bool:
        """Whether the key that seals has sealed this."""
        return sealed.startswith(self._newest)

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt `plain` for one place, named by `context`."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._newest + nonce + self._ciphers[self._newest].encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Decrypt; raises PayloadUnreadable if the key is missing, the bytes were changed, or they belong to another place."""
        cipher = self._ciphers.get(sealed[:ID_BYTES])
        if cipher is None:
            raise PayloadUnreadable("sealed with a vault key that is not configured")
        try:
            return cipher.decrypt(sealed[ID_BYTES : ID_BYTES + _NONCE_BYTES], sealed[ID_BYTES + _NONCE_BYTES :], context.encode())
        except (InvalidTag, ValueError):  # ValueError: cut so short that there is no whole nonce
            raise PayloadUnreadable("sealed value was changed or belongs to another place") from None

    @staticmethod
    def _key_id(key: bytes) -> bytes:
        return hashlib.sha256(b"consent-relay vault key id\0" + key).digest()[:ID_BYTES]
