"""Normalises what names a person, and hashes it with the pepper; never merges two people for the sake of tidiness.

A wrong value raises ValueError with a text that says what was expected and never repeats the value.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final

import idna
import orjson
import phonenumbers
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from phonenumbers import PhoneNumberFormat, ValidationResult

from pipeline.domain import IDENTIFIER_KINDS, KIND_LETTERS, IncomingEvent, Subject, format_time
from pipeline.errors import ConfigurationError, FieldError, InvalidInput, shown_name

MAX_IDENTIFIER_LENGTH: Final = 254
MAX_TEXT_LENGTH: Final = 1_000
MAX_METADATA_ENTRIES: Final = 50
MAX_METADATA_KEY_LENGTH: Final = 100
COUNTRIES: Final = (frozenset(phonenumbers.SUPPORTED_REGIONS) | {"AQ", "BV", "GS", "HM", "PN", "TF", "UM"}) - {"AC", "TA"}
"""ISO 3166-1 alpha-2 codes, and XK, which is in common use for Kosovo."""

_HASH_BYTES: Final = 15
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LOST: Final = re.compile(r"[\ud800-\udfff\ufffd]")
"""Half a character, or what stands for one that was lost on the way: two people could look alike by it."""
_LOCAL_PART: Final = re.compile(r"[^\s\x00-\x20\x7f\"(),:;<>@\[\\\]]{1,64}")
_DOMAIN: Final = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])")
_NATIONAL_ID_SEPARATORS: Final = re.compile(r"[\s./_-]+")
_NATIONAL_ID: Final = re.compile(r"[A-Za-z0-9]{1,254}")
_FULL_WIDTH: Final = {0xFF01 + offset: 0x21 + offset for offset in range(94)}
_NOT_DIALLED: Final = re.compile(r"[^+0-9]")
_MEXICAN: Final = re.compile(r"(?:\+?52(?:1|01|04[45])|01|04[45])([2-9][0-9]{9})")
"""A prefix that Mexico gave up in 2019 and 2020, before the ten digits that stayed; a lone 1 is none, as that is how North America is dialled."""


_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS: Final = tuple(first + second for first in _BASE32 for second in _BASE32)
"""Two characters of base32 (RFC 4648, lower case) for each ten bits; many times faster than the standard library's."""
_SHIFTS: Final = tuple(range(_HASH_BYTES * 8 - 10, -1, -10))


class Hasher:
    """Keyed hashes of identifiers and contents: they name things in logs, keys and URLs without naming people.

    The pepper is for ever: with another one no standing is found again. Raises ConfigurationError if it is empty.
    """

    def __init__(self, pepper: bytes) -> None:
        if not pepper:
            raise ConfigurationError("the subject pepper is empty; expected at least 32 random bytes")
        self._keyed = HMAC(pepper, SHA256())

    def identifier_key(self, kind: str, value: str) -> str:
        """The 25 characters that stand for one normalised identifier; the first tells its kind."""
        return KIND_LETTERS[kind] + self._hash(f"{kind}\0{value}".encode())

    def identifier_keys(self, subject: Subject) -> dict[str, str]:
        """Kind -> key of every identifier of the subject, strongest first."""
        return {kind: self.identifier_key(kind, value) for kind, value in subject.identifiers().items()}

    def subject_key(self, subject: Subject) -> str:
        """The key of the strongest identifier. Raises ValueError if the subject has none."""
        for kind, value in subject.identifiers().items():
            return self.identifier_key(kind, value)
        raise ValueError("the subject has no identifier")

    def event_id(self, source: str, key: str) -> str:
        """The id of the event that `source` sent under this idempotency key; the same for ever, so a repeat is found by existence."""
        return self._hash(f"event\0{source}\0{key}".encode())

    def thing_key(self, place: str, reference: str) -> str:
        """What stands for a vendor's own name of a person on a list."""
        return self._hash(f"thing\0{place}\0{reference}".encode())

    def content_hash(self, event: IncomingEvent) -> str:
        """The hash of all that an event says, without its idempotency key, its receipt and what stands beside; equal instants in other zones are equal."""
        content = {
            "subject": {**event.subject.identifiers(), "country": event.subject.country},
            "purpose": event.purpose,
            "state": event.state,
            "event_time": format_time(event.event_time),
            "event_time_end": format_time(event.event_time_end or event.event_time),
            "group": event.group,
            "profile": {} if event.profile_is_beside else dict(event.profile),
            "evidence": dict(event.evidence),
            "metadata": dict(event.metadata),
        }
        return self._hash(b"content\0" + orjson.dumps(content, option=orjson.OPT_SORT_KEYS))

    def request_hmac(self, method: str, url: str, body: bytes) -> str:
        """What stands for a request as it was sent, headers apart: they carry credentials and times, and change with each attempt."""
        return self._hash(b"request\0%b\0%b\0%b" % (method.encode(), url.encode(), body))

    def session_key(self, login_digest: bytes) -> str:
        """What stands for where and as whom a vendor is signed in to."""
        return self._hash(b"session\0" + login_digest)

    def fingerprint(self) -> str:
        """What tells one pepper from another without giving it away."""
        return self._hash(b"fingerprint\0")

    def _hash(self, message: bytes) -> str:
        keyed = self._keyed.copy()  # HMAC-SHA256; keying it anew would cost twice as much as hashing
        keyed.update(message)
        number = int.from_bytes(keyed.finalize()[:_HASH_BYTES], "big")
        return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def checked_text(text: str, max_length: int = MAX_TEXT_LENGTH) -> str:
    """The text itself, if it is short enough and has no control characters, which forge log lines and header fields."""
    if len(text) > max_length:
        raise ValueError(f"must have at most {max_length} characters")
    if CONTROL.search(text):
        raise ValueError("must not contain control characters")
    return text


def readable_texts(raw: Mapping[str, Any]) -> dict[str, str]:
    """Those of the values that are texts to be passed on; the others count as absent, since nobody is there to be told that they are wrong."""
    texts = {}
    for name, value in raw.items():
        with contextlib.suppress(ValueError):
            if isinstance(value, str) and value.strip() and not _LOST.search(value):
                texts[name] = checked_text(value.strip())
    return texts


def normalise_email(text: str) -> str:
    """Lower-case, NFC, domain in ASCII (IDNA); dots and `+tags` stay, because at most hosts they name another person."""
    local, at, domain = unicodedata.normalize("NFC", text.strip()).rpartition("@")
    local = unicodedata.normalize("NFC", local.lower())
    if not at or not _LOCAL_PART.fullmatch(local) or _has_invisible(local):
        raise ValueError("must be one e-mail address such as ana@example.org")
    email = f"{local}@{_ascii_domain(domain)}"
    if len(email) > MAX_IDENTIFIER_LENGTH:
        raise ValueError(f"must have at most {MAX_IDENTIFIER_LENGTH} characters")
    return email


def normalise_phone(text: str, country: str | None = None) -> str:
    """E.164; a number without `+` is read as dialled inside `country`, and then must be complete and in use there.

    An extension is refused: it would be lost, and with it the person. So is a foreign number without `+`: what follows
    `00` is a carrier code in some countries, and reading it wrongly names a stranger. And so is one that could be meant with
    its country code or without, such as 49 151 23456789 in Germany. Digits are never added: a number that its country has
    lengthened since (the ninth digit in Brazil) looks like one that lost a digit on the way.
    """
    text = _without_retired_prefix(unicodedata.normalize("NFKC", text).strip(), country)
    is_international = text.startswith("+")
    if not is_international and country is None:
        raise ValueError("must start with + and the country code, or the country must be given")
    if any(character.isalpha() for character in text) or _LOST.search(text) or len(text) > MAX_IDENTIFIER_LENGTH:
        raise ValueError("must be one phone number in digits, without an extension")
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        raise ValueError("must be a phone number such as +5551999999999") from None
    if number.extension or phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        raise ValueError("must be a phone number with all its digits and no extension, such as +5551999999999")
    if not is_international and not _is_national(number, country):
        raise ValueError("must be a number of its country with the area code, or start with + and the country code")
    if not is_international and _has_two_readings(text, number):
        raise ValueError("could be meant with or without its country code; must start with + and the country code")
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def normalise_national_id(text: str) -> str:
    """Digits and upper-case letters without separators; leading zeros are part of the number and stay."""
    value = _NATIONAL_ID_SEPARATORS.sub("", text.translate(_FULL_WIDTH))
    if not _NATIONAL_ID.fullmatch(value):
        raise ValueError("must be made of digits and letters, with at most . - / _ or blanks between them")
    return value.upper()


def normalise_external_id(text: str) -> str:
    """Blanks around it removed, otherwise as the producer gave it: case matters to whoever made it."""
    value = text.strip()
    if not value or _has_invisible(value):
        raise ValueError("must be text without control characters")
    if len(value) > MAX_IDENTIFIER_LENGTH:
        raise ValueError(f"must have at most {MAX_IDENTIFIER_LENGTH} characters")
    return value


def normalise_country(text: str) -> str:
    """The upper-case ISO 3166-1 alpha-2 code."""
    country = text.strip().upper()
    if country not in COUNTRIES:
        raise ValueError("must be an ISO 3166-1 alpha-2 country code such as BR")
    return country


def normalise_subject(raw: Mapping[str, Any], *, default_country: str | None = None, prefix: str = "subject") -> Subject:
    """The subject of an event from raw values; blank ones count as absent. `default_country` (the source's) only helps to read a phone.

    Raises InvalidInput naming every wrong field (`subject.email`), and `subject` itself if no identifier is left.
    """
    errors: list[FieldError] = []
    texts = _texts_of(raw, prefix, errors)
    country = _attempt(normalise_country, texts, "country", prefix, errors)
    region = country or default_country
    readers: dict[str, Callable[[str], str]] = {
        "external_id": normalise_external_id,
        "email": normalise_email,
        "phone": lambda text: normalise_phone(text, region),
        "national_id": normalise_national_id,
    }
    found = {kind: _attempt(readers[kind], texts, kind, prefix, errors) for kind in IDENTIFIER_KINDS}
    if not errors and not any(found.values()):
        errors.append(FieldError(prefix, "needs at least one of external_id, email, phone, national_id"))
    if errors:
        raise InvalidInput(errors)
    return Subject(country=country, **found)


def _texts_of(raw: Mapping[str, Any], prefix: str, errors: list[FieldError]) -> dict[str, str]:
    texts = {}
    for name, value in raw.items():
        if name not in IDENTIFIER_KINDS and name != "country":
            errors.append(FieldError(f"{prefix}.{shown_name(name)}", "unknown field"))
        elif value is not None and not isinstance(value, str):
            errors.append(FieldError(f"{prefix}.{name}", "must be a string"))
        elif value is not None and value.strip():
            texts[name] = value
    return texts


def _attempt(read: Callable[[str], str], texts: Mapping[str, str], name: str, prefix: str, errors: list[FieldError]) -> str | None:
    if name not in texts:
        return None
    try:
        return read(texts[name])
    except ValueError as error:
        errors.append(FieldError(f"{prefix}.{name}", str(error)))
        return None


def _ascii_domain(domain: str) -> str:
    try:
        name = domain.lower() if domain.isascii() else idna.encode(domain, uts46=True, std3_rules=True).decode()
    except idna.IDNAError:
        raise ValueError("must have a domain that exists in the DNS, such as example.org") from None
    if not _DOMAIN.fullmatch(name):
        raise ValueError("must have a domain that exists in the DNS, such as example.org")
    return name


def _without_retired_prefix(text: str, country: str | None) -> str:
    is_international = text.startswith("+")
    found = _MEXICAN.fullmatch(_NOT_DIALLED.sub("", text)) if is_international or country == "MX" else None
    if found is None:
        return text
    return f"+52{found[1]}" if is_international else found[1]


def _has_two_readings(text: str, number: phonenumbers.PhoneNumber) -> bool:
    """Whether digits that were read as a number inside its country are one of the same country with the country code in front, too."""
    digits = _NOT_DIALLED.sub("", text)
    if digits != phonenumbers.national_significant_number(number) or not digits.startswith(str(number.country_code)):
        return False
    return phonenumbers.is_valid_number(phonenumbers.parse(f"+{digits}"))


def _is_national(number: phonenumbers.PhoneNumber, country: str | None) -> bool:
    return number.country_code == phonenumbers.country_code_for_region(country or "") and phonenumbers.is_valid_number(number)


def _has_invisible(text: str) -> bool:
    """Whether there are control, format or separator characters other than a plain blank, or lost ones: two texts could look alike and differ."""
    if text.isascii():
        return not text.isprintable()
    return _LOST.search(text) is not None or any(unicodedata.category(character)[0] in "CZ" for character in text if character != " ")


_DIGESTS: Final = {32: "md5", 40: "sha1", 64: "sha256"}
_SHORT: Final = 6
"""Identifiers of fewer characters are found within other texts by chance: they only count as the whole of it."""


def names_person(text: str, subject: Subject) -> bool:
    """Whether a text of somebody else's, such as a vendor's reference, holds an identifier of this person, plain or as an unkeyed hash."""
    small = text.lower()
    values = [value.lower() for value in subject.identifiers().values()]
    if any(value == small or (len(value) >= _SHORT and value in small) for value in values):
        return True
    digest = _DIGESTS.get(len(small))
    return digest is not None and any(hashlib.new(digest, value.encode(), usedforsecurity=False).hexdigest() == small for value in values)
