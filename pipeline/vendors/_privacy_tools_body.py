"""Reads one body of Privacy Tools' consent import, by e-mail or by phone, as a source sends it; not a vendor of its own.

Dates come in seven formats, some of them ambiguous (`pipeline.dates`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

import orjson

from pipeline.dates import parse_source_date
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import FieldError, InvalidInput
from pipeline.identifiers import (
    MAX_METADATA_ENTRIES,
    MAX_METADATA_KEY_LENGTH,
    checked_text,
    normalise_email,
    normalise_external_id,
    normalise_national_id,
    normalise_phone,
)
from pipeline.vendors import base

Value = TypeVar("Value")

_IGNORED: Final = frozenset({"portalHash", "sendEmailPortal", "sendEmailPortalResetPassword", "sendSMS", "sendSMSMessage", "updateUserData"})
"""What the vendor itself would do on import (mails, texts, its own profile): no business of a relay."""

EVIDENCE: Final = {"userIp": "ip", "userAgent": "user_agent", "websiteOrigin": "website", "formOrigin": "form"}
"""The vendor's names for what shows how consent was given, and ours."""

_TEXTS: Final = frozenset({"consentDate", "name", "phone", "email", "templateHash", "document", "hashUser", "groupName", *EVIDENCE})
_KNOWN: Final = _TEXTS | _IGNORED | {"consentValue", "metadata"}
_DEFAULT_COUNTRY: Final = "BR"
_UNFILLED: Final = re.compile(r"\$\{[^{}]*\}")
"""A variable of a webhook's template that the platform had nothing to put in for: alone it counts as absent, and never as a value."""
_IS_UNFILLED: Final = "is a variable of the template that was not filled"


class Body:
    """One import body being read; collects everything that is wrong with it."""

    def __init__(self, content: Any, notification: base.Notification, source: base.SourceSettings) -> None:
        if not isinstance(content, dict):
            raise InvalidInput([FieldError("", "must be an object")])
        self.unfilled = frozenset(name for name, value in content.items() if _is_unfilled(value))
        self.content = {name: value for name, value in content.items() if value is not None and value != "" and name not in self.unfilled}
        self.received_at = notification.received_at
        self.source = source
        self.errors: list[FieldError] = []

    def event(self) -> IncomingEvent:
        """The event that the body says. Raises InvalidInput with all that is wrong."""
        self._refuse_unknown()
        texts = self._texts()
        state = self._state()
        said_at = self._read(texts, "consentDate", lambda text: self._interval(text, state or State.GIVEN))
        earliest, latest = said_at or (self.received_at, self.received_at)
        purpose = self._required(texts, "templateHash", self._purpose)
        name = self._required(texts, "name", checked_text)
        subject = self._subject(texts)
        evidence = {ours: text for theirs, ours in EVIDENCE.items() if (text := self._read(texts, theirs, checked_text))}
        group = self._read(texts, "groupName", lambda text: checked_text(text, 200))
        metadata = self._metadata()
        if self.errors or purpose is None or name is None or state is None:
            raise InvalidInput(self.errors)
        return IncomingEvent(
            subject=subject,
            purpose=purpose,
            state=state,
            event_time=earliest,
            event_time_end=latest,
            group=group,
            profile={"name": name} if any(map(str.isalpha, name)) else {},  # A template without a variable for the name has a dash there.
            evidence=evidence,
            metadata=metadata,
        )

    def _refuse_unknown(self) -> None:
        for name in self.content:
            if name not in _KNOWN:
                self.errors.append(FieldError(name if name.isidentifier() and len(name) <= 64 else "?", "unknown field"))

    def _texts(self) -> dict[str, str]:
        """The text fields; a wrong type is told once and then counts as absent."""
        texts = {}
        for name in sorted(_TEXTS & self.content.keys()):
            value = self.content[name]
            if not isinstance(value, str):
                self.errors.append(FieldError(name, "must be a string"))
            elif value.strip():
                texts[name] = value
        return texts

    def _read(self, texts: Mapping[str, str], name: str, reader: Callable[[str], Value]) -> Value | None:
        if name not in texts:
            return None
        try:
            return reader(texts[name])
        except ValueError as error:
            self.errors.append(FieldError(name, str(error)))
            return None

    def _required(self, texts: Mapping[str, str], name: str, reader: Callable[[str], Value]) -> Value | None:
        if name not in texts and not any(error.path == name for error in self.errors):
            self.errors.append(self._lacking(name))
        return self._read(texts, name, reader)

    def _lacking(self, name: str, otherwise: str = "is required") -> FieldError:
        return FieldError(name, _IS_UNFILLED if name in self.unfilled else otherwise)

    def _interval(self, text: str, state: State) -> tuple[datetime, datetime]:
        interval = parse_source_date(text, self.source.date_order, self.source.time_zone)
        return base.heard_at(state, interval, self.received_at, self.source)

    def _purpose(self, text: str) -> str:
        if text not in self.source.purposes:
            raise ValueError("is not tied to a purpose by this source's `purposes`")
        return self.source.purposes[text]

    def _state(self) -> State | None:
        value = self.content.get("consentValue")
        if value is True or value == "true":
            return State.GIVEN
        if value is False or value == "false":
            return State.WITHDRAWN
        self.errors.append(self._lacking("consentValue", "is required" if value is None else "must be true or false"))
        return None

    def _subject(self, texts: Mapping[str, str]) -> Subject:
        """The person: the import by e-mail demands an e-mail, the one by phone a phone; either is enough here."""
        if not {"email", "phone"} & (texts.keys() | {error.path for error in self.errors}):
            self.errors.extend(self._lacking(name, "is required, or the other of email and phone is") for name in ("email", "phone"))
        country = self.source.country or _DEFAULT_COUNTRY
        return Subject(
            external_id=self._read(texts, "hashUser", lambda text: normalise_external_id(_filled(text))),
            email=self._read(texts, "email", lambda text: normalise_email(_filled(text))),
            phone=self._read(texts, "phone", lambda text: normalise_phone(text, country)),
            national_id=self._read(texts, "document", normalise_national_id),
            country=self.source.country,
        )

    def _metadata(self) -> dict[str, str]:
        entries = self.content.get("metadata", [])
        if not isinstance(entries, list) or len(entries) > MAX_METADATA_ENTRIES:
            self.errors.append(FieldError("metadata", f"must be a list of at most {MAX_METADATA_ENTRIES} pairs of name and value"))
            return {}
        found = {}
        for index, entry in enumerate(entries):
            try:
                name, value = _pair(entry)
                found[name] = value
            except ValueError as error:
                self.errors.append(FieldError(f"metadata.{index}", str(error)))
        return found


def _is_unfilled(value: Any) -> bool:
    return isinstance(value, str) and _UNFILLED.fullmatch(value.strip()) is not None


def _filled(text: str) -> str:
    """The text, unless there is an unfilled variable in it: `${user}@example.org` is a possible address, but nobody's."""
    if _UNFILLED.search(text):
        raise ValueError("contains a variable of the template that was not filled")
    return text


def _pair(entry: Any) -> tuple[str, str]:
    if not isinstance(entry, dict) or entry.keys() != {"name", "value"} or not isinstance(entry["name"], str) or not entry["name"]:
        raise ValueError("must be an object with a name and a value")
    value = entry["value"]
    if not isinstance(value, str | int | float):
        raise ValueError("must have a text or a number as its value")  # noqa: TRY004  collected by field like every other
    return checked_text(entry["name"], MAX_METADATA_KEY_LENGTH), checked_text(value if isinstance(value, str) else orjson.dumps(value).decode())
