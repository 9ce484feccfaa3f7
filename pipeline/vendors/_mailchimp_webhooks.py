"""Mailchimp's webhooks: one form for each change of an audience; only some kinds of change are a word of the person.

- `subscribe` is a consent and `unsubscribe` a withdrawal, also where the member was deleted: that is how a wish to be gone is often carried out.
- `cleaned` for a hard bounce is nobody's word. The record of a withdrawal that nobody made would be wrong, and Mailchimp stops its own mail anyway.
  For any other reason (`abuse`: reported as spam) the person does not want the mail, which is a withdrawal.
- `upemail` says nothing of consent: the new address inherits nothing, and what the old one said stands. `profile` and `campaign` are no words either.

The fields of `subscribe` and `unsubscribe` are documented, `fired_at` without its zone; those of the others come from older documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from pipeline.dates import utc_interval
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import FieldError, InvalidInput
from pipeline.identifiers import normalise_email
from pipeline.vendors._mailchimp_members import is_address
from pipeline.vendors.base import Notification, SourceSettings, heard_at

FORM: Final = "application/x-www-form-urlencoded"
MOST_BYTES: Final = 256 * 1024
MOST_FIELDS: Final = 1_000
NO_WORD: Final = frozenset({"profile", "upemail", "campaign"})
WORDS: Final = {"subscribe": State.GIVEN, "unsubscribe": State.WITHDRAWN, "cleaned": State.WITHDRAWN}
BOUNCED: Final = "hard"
LIST: Final = "data[list_id]"
EMAIL: Final = "data[email]"
REASON: Final = "data[reason]"
ADDRESSES: Final = ("data[ip_opt]", "data[ip_signup]")
READ_ONCE: Final = frozenset({"type", "fired_at", LIST, EMAIL, REASON})
_FIRED_AT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_SECOND: Final = timedelta(seconds=1) - timedelta(microseconds=1)


def read(notification: Notification, source: SourceSettings) -> Sequence[IncomingEvent]:
    """The event of one webhook; none if it is about something that is no word of a person. Raises InvalidInput by the form's own names."""
    form = _form(notification)
    kind = form.get("type", "")
    if kind in NO_WORD or (kind == "cleaned" and form.get(REASON) == BOUNCED):
        return []
    if kind not in WORDS:
        raise InvalidInput([FieldError("type", f"must be one of {', '.join(sorted(NO_WORD | WORDS.keys()))}" if kind else "is required")])
    return [_Word(form, WORDS[kind], notification.received_at, source).event()]


def _form(notification: Notification) -> dict[str, str]:
    """The fields of the form. What is read must stand there once; two readers could differ on which of two counts.

    A field that is no text, such as a name with half a character, does not cost the word itself.
    """
    if notification.media_type != FORM:
        raise InvalidInput([FieldError("", f"must be {FORM}")], status=415)
    if len(notification.body) > MOST_BYTES:
        raise InvalidInput([FieldError("", f"must have at most {MOST_BYTES} bytes")], status=413)
    try:
        pairs = parse_qsl(notification.body.decode(), keep_blank_values=True, errors="replace", max_num_fields=MOST_FIELDS)
    except UnicodeDecodeError:
        raise InvalidInput([FieldError("", "is not UTF-8")], status=400) from None
    except ValueError:
        raise InvalidInput([FieldError("", f"must have at most {MOST_FIELDS} fields")], status=413) from None
    names = [name for name, _ in pairs]
    repeated = sorted(name for name in READ_ONCE if names.count(name) > 1)
    if repeated:
        raise InvalidInput([FieldError(name, "must be given once") for name in repeated])
    return dict(pairs)


class _Word:
    """A webhook that is a word of a person, being read; collects everything that is wrong with it."""

    def __init__(self, form: Mapping[str, str], state: State, received_at: datetime, source: SourceSettings) -> None:
        self.form, self.state, self.received_at, self.source = form, state, received_at, source
        self.errors: list[FieldError] = []

    def event(self) -> IncomingEvent:
        purpose, email, (earliest, latest) = self._purpose(), self._email(), self._fired_at()
        if self.errors:
            raise InvalidInput(self.errors)
        return IncomingEvent(
            subject=Subject(email=email, country=self.source.country),
            purpose=purpose,
            state=self.state,
            event_time=earliest,
            event_time_end=latest,
            evidence=self._evidence(),
        )

    def _purpose(self) -> str:
        listed = self.form.get(LIST, "")
        if listed not in self.source.purposes:
            self.errors.append(FieldError(LIST, "is not tied to a purpose by this source's `purposes`" if listed else "is required"))
        return self.source.purposes.get(listed, "")

    def _email(self) -> str | None:
        text = self.form.get(EMAIL, "")
        try:
            return normalise_email(text)
        except ValueError as error:
            self.errors.append(FieldError(EMAIL, str(error) if text else "is required"))
            return None

    def _fired_at(self) -> tuple[datetime, datetime]:
        """The second it happened in."""
        text = self.form.get("fired_at", "")
        try:
            return heard_at(self.state, _second(text, self.source.time_zone), self.received_at, self.source)
        except ValueError as error:
            self.errors.append(FieldError("fired_at", str(error) if text else "is required"))
            return self.received_at, self.received_at

    def _evidence(self) -> dict[str, str]:
        """The address from which the person opted in; names are not taken, because merge fields mean what each account makes of them."""
        found = (self.form.get(name, "") for name in ADDRESSES) if self.state is State.GIVEN else ()
        return next(({"ip": text} for text in found if is_address(text)), {})


def _second(text: str, time_zone: str) -> tuple[datetime, datetime]:
    expected = "must be a date such as 2026-01-05 16:00:00"
    if not _FIRED_AT.fullmatch(text):
        raise ValueError(expected)
    try:
        begin = datetime.fromisoformat(text)
        earliest, latest = utc_interval(begin, begin + _SECOND, ZoneInfo(time_zone))
    except (ValueError, OverflowError):
        raise ValueError(expected) from None
    if earliest.year < 1970:
        raise ValueError("must not lie before 1970")
    return earliest, latest
