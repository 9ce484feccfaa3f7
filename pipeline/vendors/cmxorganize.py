"""cmxOrganize: hears the registrations of its visitors; a ticked box is a consent, an unticked one is no word at all.

Only a source: it declares no state it could be told. Its page names the eight fields but not how they are written, so the names of this body are assumed.
What cmxOrganize sends is forwarded and deleted: the source should have `retention: forward_and_delete`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from pipeline.dates import parse_source_date, require_past
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import FieldError, InvalidInput
from pipeline.identifiers import checked_text, normalise_email
from pipeline.vendors import base
from pipeline.vendors._json_items import read_items

NEWSLETTER: Final = "newsletter"
TRACKING: Final = "single_user_tracking"
PURCHASE: Final = "purchase_auto_value"
REGISTERED_AT: Final = "registered_at"
PROFILE: Final = {"salutation": "salutation", "job_title": "title", "name_prefix": "name_prefix", "last_name": "last_name", "first_name": "first_name"}
TEXTS: Final = frozenset({*PROFILE, "email", PURCHASE, REGISTERED_AT})
KNOWN: Final = TEXTS | {NEWSLETTER, TRACKING}
TICKED: Final = {**dict.fromkeys((True, "true", "yes", "ja", "1"), True), **dict.fromkeys((False, "false", "no", "nein", "0"), False)}
MOST_ITEMS: Final = 2_500
_GERMAN_DATE: Final = re.compile(r"([0-9]{1,2})[.]([0-9]{1,2})[.]([0-9]{4})(.*)")


class Adapter(base.Adapter):
    """Reads registrations, one JSON object or an array of them."""

    title: ClassVar = "cmxOrganize"
    docs_url: ClassVar = "https://support.maileon.com/support/"
    base_url: ClassVar = ""
    capabilities: ClassVar = base.Capabilities(states=frozenset(), identifiers=("email",), sends_events=True)

    @classmethod
    def hear(cls, notification: base.Notification, source: base.SourceSettings) -> Sequence[IncomingEvent | InvalidInput]:
        """The consents of each registration, tracking first: none, one or two. Of an array each wrong registration is an InvalidInput in its place."""
        items, is_array = read_items(notification, most=MOST_ITEMS, one="registration", many="registrations")
        if not is_array:
            return _Registration(items[0], notification.received_at, source).events()
        return [event for item in items for event in _attempt(item, notification.received_at, source)]


def _attempt(item: Any, received_at: datetime, source: base.SourceSettings) -> Sequence[IncomingEvent | InvalidInput]:
    try:
        return _Registration(item, received_at, source).events()
    except InvalidInput as error:
        return [error]


class _Registration:
    """One registration being read; collects everything that is wrong with it."""

    def __init__(self, content: Any, received_at: datetime, source: base.SourceSettings) -> None:
        if not isinstance(content, dict):
            raise InvalidInput([FieldError("", "must be an object")])
        self.content = {name: value for name, value in content.items() if value is not None and value != ""}
        self.received_at, self.source = received_at, source
        self.errors = [FieldError(name if name.isidentifier() and len(name) <= 64 else "?", "unknown field") for name in self.content if name not in KNOWN]

    def events(self) -> list[IncomingEvent]:
        """A consent for each ticked box. Without the newsletter box nothing is passed on, because tracking is about its mails."""
        texts = self._texts()
        ticked = self._ticked()
        email = self._email(texts)
        earliest, latest = self._registered(texts)
        if self.errors:
            raise InvalidInput(self.errors)
        return [
            IncomingEvent(
                subject=Subject(email=email, country=self.source.country),
                purpose=self.source.purposes[box],
                state=State.GIVEN,
                event_time=earliest,
                event_time_end=latest,
                profile={ours: texts[theirs] for theirs, ours in PROFILE.items() if theirs in texts},
                metadata={PURCHASE: texts[PURCHASE]} if PURCHASE in texts else {},
            )
            for box in ticked
        ]

    def _texts(self) -> dict[str, str]:
        texts = {}
        for name in sorted(TEXTS & self.content.keys()):
            value = self.content[name]
            if name == PURCHASE and isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            try:
                if not isinstance(value, str):
                    raise ValueError("must be a string")  # noqa: TRY004  collected by field like every other
                if text := checked_text(value.strip()):
                    texts[name] = text
            except ValueError as error:
                self.errors.append(FieldError(name, str(error)))
        return texts

    def _ticked(self) -> list[str]:
        """The boxes that are ticked. The newsletter's must be there: whether it was ticked is never guessed."""
        if NEWSLETTER not in self.content:
            self.errors.append(FieldError(NEWSLETTER, "is required"))
        boxes = [box for box in (TRACKING, NEWSLETTER) if self._is_ticked(box)]
        boxes = boxes if NEWSLETTER in boxes else []
        self.errors += [FieldError(box, "is not tied to a purpose by this source's `purposes`") for box in boxes if box not in self.source.purposes]
        return boxes

    def _is_ticked(self, box: str) -> bool:
        value = self.content.get(box, False)
        value = value.strip().lower() if isinstance(value, str) else value
        if not isinstance(value, str | bool) or value not in TICKED:
            self.errors.append(FieldError(box, "must be true or false, or yes or no"))
            return False
        return TICKED[value]

    def _email(self, texts: Mapping[str, str]) -> str | None:
        if "email" not in texts:
            if not any(error.path == "email" for error in self.errors):
                self.errors.append(FieldError("email", "is required"))
            return None
        try:
            return normalise_email(texts["email"])
        except ValueError as error:
            self.errors.append(FieldError("email", str(error)))
            return None

    def _registered(self, texts: Mapping[str, str]) -> tuple[datetime, datetime]:
        """When the boxes were ticked; `05.01.2026 13:00` has the day first, without a date it is the receipt."""
        if REGISTERED_AT not in texts:
            return self.received_at, self.received_at
        german = _GERMAN_DATE.fullmatch(texts[REGISTERED_AT])
        text = f"{german[1]}/{german[2]}/{german[3]}{german[4]}" if german else texts[REGISTERED_AT]
        try:
            earliest, latest = parse_source_date(text, "day_first" if german else self.source.date_order, self.source.time_zone)
            if german and int(german[2]) > 12:
                raise ValueError("must be a date with the day first, such as 05.01.2026")
            require_past(earliest, self.received_at, self.source.allowed_skew_seconds)
        except ValueError as error:
            self.errors.append(FieldError(REGISTERED_AT, str(error)))
            return self.received_at, self.received_at
        return earliest, latest
