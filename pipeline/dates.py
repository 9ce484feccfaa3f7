"""Reads the dates of sources into the interval of instants they can mean; pure, standard library only.

Some sources write `03/04/2026`: the day or the month first, in their own time zone, sometimes on a 12-hour clock without am or
pm. Which word is the newest hangs on it, so what a text leaves open stays open as an interval instead of being guessed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DATE_ORDERS: Final = ("day_first", "month_first")
DEFAULT_SKEW_SECONDS: Final = 300.0

_EXPECTED: Final = "must be a date such as 2026-01-05T13:00:00.000-0300, 05/01/2026 or 05/01/2026 13:00:00"
_ISO: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.]([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})")
_SLASHED: Final = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?: +([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?(?: *([AaPp])[.]?[Mm][.]?)?)?")
_INSTANT: Final = timedelta(0)
_MICROSECOND: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)
_HALF_DAY: Final = timedelta(hours=12)


def parse_source_date(text: str, date_order: str, time_zone: str) -> tuple[datetime, datetime]:
    """The earliest and the latest instant (UTC) that a date in one of the seven Privacy Tools formats can mean.

    - `yyyy-MM-ddTHH:mm:ss.SSSZ` carries its zone; every other form is local to `time_zone`.
    - `dd/MM/yyyy HH:mm` is always day first and a `... a` (am, pm) form always month first, as there is no other format of that shape.
      A bare date and `HH:mm:ss` exist both ways: an impossible month settles it, otherwise `date_order` does.
    - A bare date is its whole day, a time without seconds its whole minute, `MM/dd/yyyy hh:mm:ss` both halves of the day unless the
      hour can only be of a 24-hour clock. An hour that the clocks skip or repeat covers both readings.

    Raises ValueError, without the text, if it is no such date.
    """
    try:
        exact = _ISO.fullmatch(text)
        if exact:
            instant = _zoned(exact)
            interval = instant, instant
        else:
            interval = _local_interval(text, date_order, ZoneInfo(time_zone))
    except (ValueError, OverflowError):
        raise ValueError(_EXPECTED) from None
    if interval[0].year < 1970:
        raise ValueError("must not lie before 1970")
    return interval


def require_past(earliest: datetime, now: datetime, allowed_skew_seconds: float) -> None:
    """Raise ValueError if an event could only have happened after `now`, clocks being allowed to differ a little."""
    if earliest > now + timedelta(seconds=allowed_skew_seconds):
        raise ValueError("must not lie in the future")


def _zoned(match: re.Match[str]) -> datetime:
    *numbers, fraction, zone = match.groups()
    year, month, day, hour, minute, second = map(int, numbers)
    offset = timedelta(0) if zone == "Z" else timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    if offset >= _DAY or int(zone[-2:] if zone != "Z" else 0) > 59:
        raise ValueError(_EXPECTED)
    local = datetime(year, month, day, hour, minute, second, int((fraction or "0").ljust(6, "0")[:6]), tzinfo=UTC)
    return local + offset if zone[0] == "-" else local - offset


def _local_interval(text: str, date_order: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    match = _SLASHED.fullmatch(text.strip())
    if match is None:
        raise ValueError(_EXPECTED)
    first, second, year, hour, minute, seconds, half = match.groups()
    is_month_first = _is_month_first(int(first), int(second), date_order, has_half=half is not None, has_only_minutes=hour is not None and seconds is None)
    month, day = (first, second) if is_month_first else (second, first)
    midnight = datetime(int(year), int(month), int(day))  # noqa: DTZ001  local on purpose: its zone comes last
    if hour is None:
        return utc_interval(midnight, midnight + _DAY - _MICROSECOND, zone)
    start, width = _clock(int(hour), int(minute), seconds, half, is_month_first=is_month_first)
    begin = datetime.combine(midnight, start)
    return utc_interval(begin, begin + width, zone)


def _is_month_first(first: int, second: int, date_order: str, *, has_half: bool, has_only_minutes: bool) -> bool:
    if has_half or has_only_minutes:
        return has_half
    if first > 12 or second > 12:
        return second > 12
    return date_order == "month_first"


def _clock(hour: int, minute: int, seconds: str | None, half: str | None, *, is_month_first: bool) -> tuple[time, timedelta]:
    """The earliest time of day, and how much later it may have been."""
    if half is not None:
        if not 1 <= hour <= 12:
            raise ValueError(_EXPECTED)
        hour = hour % 12 + (12 if half in "Pp" else 0)
        return time(hour, minute, int(seconds or 0)), _INSTANT if seconds else _MINUTE - _MICROSECOND
    if seconds is None:
        return time(hour, minute), _MINUTE - _MICROSECOND
    if is_month_first and 1 <= hour <= 12:
        return time(hour % 12, minute, int(seconds)), _HALF_DAY
    return time(hour, minute, int(seconds)), _INSTANT


def utc_interval(begin: datetime, end: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The interval between two local times; an hour that the clocks skip or repeat covers both readings."""
    earliest = min(begin.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    latest = max(end.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return earliest, latest
