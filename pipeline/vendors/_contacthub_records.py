"""Contacthub's records: how a customer and its subscriptions are read, and what a page of the `/updates` stream says.

The stream shows whole customers, not what changed in them. So every word is dated by what its subscription says of itself, and never later than
it may have been said for a consent, nor earlier for a withdrawal; a word that was heard before is then a duplicate and an old one changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from pipeline import loose_json
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import FieldError, InvalidInput
from pipeline.identifiers import normalise_email, normalise_external_id, normalise_phone, readable_texts
from pipeline.vendors import base

MARK: Final = "consent-relay"
"""Key of the preference that tells which state and date of a subscription a relay wrote."""
STATE: Final = {True: State.GIVEN, False: State.WITHDRAWN}
OWN_DATE: Final = {State.GIVEN: "startDate", State.WITHDRAWN: "endDate"}
NAMES: Final = {"first_name": "firstName", "last_name": "lastName"}
"""Our names of a profile, and theirs within `base`."""
CHANGES: Final = frozenset({"CREATE", "UPDATE"})
"""A deleted customer has said nothing, so `DELETE` is no word of his."""
MOST_UPDATES: Final = 4000


def hear_page(notification: base.Notification, source: base.SourceSettings) -> list[IncomingEvent | InvalidInput]:
    """The words of one page of `/updates` about the subscriptions that `source.purposes` names, without those we wrote ourselves."""
    if notification.media_type != "application/json":
        raise InvalidInput([FieldError("", "must be application/json")], status=415)
    try:
        page = loose_json.loads(notification.body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput([FieldError("", f"is not valid JSON at line {error.lineno}, column {error.colno}")], status=400) from None
    updates = page.get("updates") if isinstance(page, dict) else None
    if not isinstance(updates, list):
        raise InvalidInput([FieldError("updates", "must be the list of changes of one page")])
    if len(updates) > MOST_UPDATES:
        raise InvalidInput([FieldError("updates", f"must hold at most {MOST_UPDATES} changes")], status=413)
    return [item for place, update in enumerate(updates) for item in _hear_update(update, f"updates.{place}", notification.received_at, source)]


def part(whole: Any, name: str) -> dict[str, Any]:
    """An object within an object, empty if there is none."""
    inner = whole.get(name) if isinstance(whole, Mapping) else None
    return inner if isinstance(inner, dict) else {}


def dicts(values: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def subscription_of(customer: Mapping[str, Any], subscription_id: str) -> dict[str, Any]:
    """A customer's subscription by its id, empty if there is none."""
    return next((one for one in dicts(part(customer, "base").get("subscriptions")) if one.get("id") == subscription_id), {})


def flag_of(subscription: Mapping[str, Any]) -> bool | None:
    """Whether a subscription is on, under either of its two names; None if it does not say."""
    return next((value for name in ("subscribed", "enable") if isinstance(value := subscription.get(name), bool)), None)


def stamp(moment: datetime) -> str:
    """A date as Contacthub writes it, to the millisecond."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}+0000"


def instant(text: Any) -> datetime | None:
    """A date that Contacthub wrote, or None; one without a zone counts as UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def mark_of(state: State, moment: datetime) -> str:
    """The mark that we leave with a word of ours: it fits no longer once somebody else changes the flag or its date."""
    return f"{state} {stamp(moment)}"


def _hear_update(update: Any, path: str, received_at: datetime, source: base.SourceSettings) -> Iterator[IncomingEvent | InvalidInput]:
    entity = part(update, "entity")
    if not isinstance(update, dict) or not isinstance(update.get("operation"), str) or not entity:
        yield InvalidInput([FieldError(path, "must have an operation and an entity")])
        return
    if update["operation"] not in CHANGES or entity.get("type") != "CUSTOMER":
        return
    customer = part(entity, "data")
    for place, held in enumerate(dicts(part(customer, "base").get("subscriptions"))):
        purpose = source.purposes.get(held["id"]) if isinstance(held.get("id"), str) else None
        flag = flag_of(held)
        if purpose is None or (flag is not None and _is_ours(held, STATE[flag])) or (flag and customer.get("enabled") is False):
            continue
        try:
            yield _word(customer, held, purpose, received_at, source)
        except ValueError as error:
            yield InvalidInput([FieldError(f"{path}.entity.data.base.subscriptions.{place}", str(error))])


def _word(customer: Mapping[str, Any], held: Mapping[str, Any], purpose: str, received_at: datetime, source: base.SourceSettings) -> IncomingEvent:
    flag = flag_of(held)
    if flag is None:
        raise ValueError("must say whether it is subscribed")
    subject = _subject(customer, source.country)
    if not subject.identifiers():
        raise ValueError("belongs to a customer without an external id, an e-mail address or a mobile phone that could be read")
    dated = _given_at(customer, held) if flag else _withdrawn_at(customer, held) or received_at
    said_at, _ = base.heard_at(STATE[flag], (dated, dated), received_at, source)
    base_part = part(customer, "base")
    profile = readable_texts({ours: base_part.get(theirs) for ours, theirs in NAMES.items()}) if flag else {}
    return IncomingEvent(subject=subject, purpose=purpose, state=STATE[flag], event_time=said_at, profile=profile, profile_is_beside=True)


def _given_at(customer: Mapping[str, Any], held: Mapping[str, Any]) -> datetime:
    """The earliest date that a consent can carry: any other change of the customer shows it again, and must not make it newer than a withdrawal."""
    for one, name in ((held, "startDate"), (held, "registeredAt"), (held, "updatedAt"), (customer, "registeredAt")):
        if moment := instant(one.get(name)):
            return moment
    raise ValueError("must carry a startDate: a consent without any date cannot be ordered")


def _withdrawn_at(customer: Mapping[str, Any], held: Mapping[str, Any]) -> datetime | None:
    """The end date; if that is missing, or older than the last start, somebody only took the flag away, and the newest date counts."""
    start, end, updated = (instant(held.get(name)) for name in ("startDate", "endDate", "updatedAt"))
    if end and not (start and start > end):
        return end
    known = [moment for moment in (start, end, updated) if moment]
    return max(known) if known else instant(customer.get("updatedAt"))


def _is_ours(held: Mapping[str, Any], state: State) -> bool:
    moment = instant(held.get(OWN_DATE[state]))
    return moment is not None and any(one.get("key") == MARK and one.get("value") == mark_of(state, moment) for one in dicts(held.get("preferences")))


def _subject(customer: Mapping[str, Any], country: str | None) -> Subject:
    """Who a customer is; what cannot be read names nobody and does not hold up the rest."""
    contacts = part(part(customer, "base"), "contacts")
    readers: Sequence[tuple[str, Any, Callable[[str], str]]] = (
        ("external_id", customer.get("externalId"), normalise_external_id),
        ("email", contacts.get("email"), normalise_email),
        ("phone", contacts.get("mobilePhone"), lambda text: normalise_phone(text, country)),
    )
    found = {}
    for kind, value, read in readers:
        with contextlib.suppress(ValueError):
            found[kind] = read(value) if isinstance(value, str) and value.strip() else None
    return Subject(country=country, **found)
