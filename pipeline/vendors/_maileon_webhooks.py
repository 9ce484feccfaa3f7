"""Maileon's webhooks: a confirmed double opt-in is a consent, an unsubscription a withdrawal.

Their bodies are configured by the account. Its fields are named in Maileon's own clients, their values are not: dates are read in every form that Maileon uses elsewhere.
One that does not say when it happened may have been under way for a day: by then the person may have withdrawn, so a confirmation counts from the beginning of that day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pipeline.dates import parse_source_date
from pipeline.domain import IncomingEvent, State, utc_from_us
from pipeline.errors import FieldError, InvalidInput
from pipeline.identifiers import normalise_subject
from pipeline.vendors.base import Notification, SourceSettings, VendorResponse, heard_at

LONGEST_WAY: Final = timedelta(days=1)
PERMISSION_FIELDS: Final = ("permission", "permission_status")


def read(notification: Notification, source: SourceSettings) -> Sequence[IncomingEvent]:
    """The events of one webhook, one for each purpose concerned; raises InvalidInput."""
    if notification.media_type not in {"application/json", "application/vnd.maileon.api+json"}:
        raise InvalidInput([FieldError("", "must be application/json")], status=415)
    body = VendorResponse(status=200, body=notification.body).json()
    if not isinstance(body, dict):
        raise InvalidInput([FieldError("", "must be a JSON object")], status=400 if body is None else 422)
    names, state = _heard(notification.query.get("event") or body.get("event"), body)
    purposes = dict.fromkeys(source.purposes[name] for name in names if name in source.purposes)
    if not purposes:
        raise InvalidInput([FieldError("event", "is not tied to a purpose by this source's `purposes`")])
    subject = normalise_subject({name: body[name] for name in ("email", "external_id") if body.get(name)}, default_country=source.country)
    earliest, latest = _said_at(state, body.get("timestamp"), notification.received_at, source)
    return [IncomingEvent(subject=subject, purpose=purpose, state=state, event_time=earliest, event_time_end=latest) for purpose in purposes]


def _heard(event: Any, body: Mapping[str, Any]) -> tuple[list[str], State]:
    """Which of the source's `purposes` an event is about, and what it says for them."""
    if event == "unsubscription":
        return ["doi", "doi+"], State.WITHDRAWN
    if event != "doi":
        raise InvalidInput([FieldError("event", "must be doi or unsubscription, in the address or in the body")])
    is_tracked = any(str(body.get(name, "")).strip().lower() in {"5", "doi+"} for name in PERMISSION_FIELDS)
    return ["doi", "doi+"] if is_tracked else ["doi"], State.GIVEN


def _interval(text: str, source: SourceSettings) -> tuple[datetime, datetime]:
    """Milliseconds or seconds since 1970, `yyyy-mm-dd hh:mm:ss` in the source's zone, or any other date that sources may write."""
    if re.fullmatch(r"[0-9]{10}|[0-9]{13}", text):
        instant = utc_from_us(int(text) * (1_000 if len(text) == 13 else 1_000_000))
        return instant, instant
    if dashed := re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.][0-9]+)?", text):
        return parse_source_date(f"{dashed[3]}/{dashed[2]}/{dashed[1]} {dashed[4]}", "day_first", source.time_zone)
    return parse_source_date(text, source.date_order, source.time_zone)


def _said_at(state: State, text: Any, received_at: datetime, source: SourceSettings) -> tuple[datetime, datetime]:
    if text in (None, ""):
        return received_at - LONGEST_WAY, received_at
    try:
        return heard_at(state, _interval(str(text).strip(), source), received_at, source)
    except ValueError as error:
        raise InvalidInput([FieldError("timestamp", str(error))]) from None
