"""Contactsend's records: what a subscriber is, what his registration fields say, and what a page of a user database shows to who polls it.

A registration field says 1 (subscribed), -1 (unsubscribed) or 0 (a double opt-in that is not confirmed, which is neither).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipeline.domain import IncomingEvent, Polled, Sighting, State, Subject
from pipeline.errors import FieldError, InvalidInput
from pipeline.identifiers import normalise_email, normalise_external_id, normalise_phone, readable_texts
from pipeline.vendors.base import SourceSettings

STATE: Final = {1: State.GIVEN, -1: State.WITHDRAWN}
PROFILE: Final = ("name", "first_name", "last_name", "salutation", "title", "name_prefix", "language")
VALUE: Final = {state: value for value, state in STATE.items()}


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One record of a user database; the names of its attributes are compared without regard to case."""

    identifier: int
    attributes: Mapping[str, str] = field(repr=False)

    def text(self, attribute: str) -> str | None:
        """The text of an attribute, None if the record does not have it; an empty one is empty."""
        return self.attributes.get(attribute.lower())

    def state(self, registration_field: str) -> State | None:
        """What a registration field says; None if that is neither given nor withdrawn."""
        try:
            number = float(self.text(registration_field) or 0)
        except ValueError:
            return None
        return next((state for value, state in STATE.items() if value == number), None)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search, with None in the place of whoever cannot be read; `has_more` says if there is another page."""

    items: Sequence[Subscriber | None]
    has_more: bool

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        """Those that can be read."""
        return [item for item in self.items if item is not None]


def place(source_id: int, registration_field: str) -> str:
    """A list at Contactsend: who is in it, one field of one user database says."""
    return f"{source_id}/{registration_field.lower()}"


def subscriber_of(item: Any) -> Subscriber | None:
    """A subscriber that an answer shows, or None if it has no identifier."""
    identifier = getattr(item, "identifier", None)
    if not isinstance(identifier, int) or identifier <= 0:
        return None
    return Subscriber(identifier, {one.key.lower(): str(one.value or "").strip() for one in item.attributes or [] if one.key})


def page_of(returned: Any, number: int) -> Page:
    """The page of that number as an answer shows it.

    Without the number of the last page, which is optional, an empty page ends the search, as in the vendor's own samples.
    """
    items = [subscriber_of(item) for item in (returned.currentPageItems if returned is not None else None) or [] if item is not None]
    last = getattr(returned, "maxPageNumber", None)
    return Page(items, has_more=bool(items) if last is None else number < last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads pages for one source; `source_id` names the user database, `fields` and `changed_at_fields` are the options of the same names."""

    source_id: int
    fields: Mapping[str, str]
    changed_at_fields: Mapping[str, str]
    source: SourceSettings
    received_at: datetime

    def attributes(self) -> list[str]:
        """The attributes that must be asked for: no more of a person than names him, what the mapping has of his profile, and what he wants."""
        named = [self.fields[name] for name in ("email", "external_id", "phone", *PROFILE) if name in self.fields]
        dates = [self.changed_at_fields[name] for name in self.source.purposes if name in self.changed_at_fields]
        return list(dict.fromkeys([*named, *self.source.purposes, *dates]))

    def polled(self, page: Page, number: int) -> Polled:
        """What a page says about the registration fields that the source ties to purposes, and where to go on."""
        heard = [one for place, item in enumerate(page.items) for one in self._hear(item, f"currentPageItems.{place}")]
        return Polled(
            position=str(number + 1) if page.has_more else "",
            events=[one for one in heard if not isinstance(one, Sighting)],
            sightings=[one for one in heard if isinstance(one, Sighting)],
            more=page.has_more,
        )

    def _hear(self, subscriber: Subscriber | None, path: str) -> Iterator[Sighting | IncomingEvent | InvalidInput]:
        """What one place of a page says; who is there is not named by his number, since the path of what is wrong is logged."""
        if subscriber is None:
            yield InvalidInput([FieldError(path, "has no identifier that could be read")])
            return
        for registration_field, purpose in self.source.purposes.items():
            state = subscriber.state(registration_field)
            if state is None:
                continue
            subject = self._subject(subscriber)
            if not subject.identifiers():
                yield InvalidInput([FieldError(path, "has no address or external id that could be read")])
                return
            said_at = self.changed_at(subscriber, registration_field)
            profile = self._profile(subscriber) if state is State.GIVEN else {}
            if said_at is None:
                where, reference = place(self.source_id, registration_field), str(subscriber.identifier)
                yield Sighting(place=where, reference=reference, subject=subject, purpose=purpose, state=state, profile=profile)
            else:
                yield IncomingEvent(subject=subject, purpose=purpose, state=state, event_time=said_at, profile=profile, profile_is_beside=True)

    def changed_at(self, subscriber: Subscriber, registration_field: str) -> datetime | None:
        """When a registration field changed last; None if nothing says so, or if that cannot be read or has not come yet."""
        said_at = instant(subscriber.text(self.changed_at_fields.get(registration_field, "")), self.source.time_zone)
        return said_at if said_at and said_at <= self.received_at else None

    def _profile(self, subscriber: Subscriber) -> dict[str, str]:
        return readable_texts({name: subscriber.text(self.fields[name]) for name in PROFILE if name in self.fields})

    def _subject(self, subscriber: Subscriber) -> Subject:
        """Who a subscriber is; what cannot be read names nobody and does not hold up the rest."""
        country = self.source.country
        readers: Mapping[str, Callable[[str], str]] = {
            "external_id": normalise_external_id,
            "email": normalise_email,
            "phone": lambda text: normalise_phone(text, country),
        }
        found = {}
        for kind, read in readers.items():
            text = subscriber.text(self.fields.get(kind, ""))
            with contextlib.suppress(ValueError):
                found[kind] = read(text) if text else None
        return Subject(country=country, **found)


def instant(text: str | None, time_zone: str) -> datetime | None:
    """A date with a time of day (`2026-01-05 13:00:00`, local to `time_zone`, or ISO 8601), or None: a bare date cannot order two words of one day."""
    try:
        moment = datetime.fromisoformat(text or "")
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(time_zone))
        return zoned.astimezone(UTC) if len(text or "") > 10 else None
    except (ValueError, OverflowError):
        return None
