"""Dates of sources: seven formats, two orders, and what they leave open."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.dates import parse_source_date, require_past

SAO_PAULO = "America/Sao_Paulo"


def instant(text):
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    "text,date_order,earliest,latest",
    [
        ("2026-01-05T13:00:00.000-0300", "day_first", "2026-01-05T16:00:00+00:00", "2026-01-05T16:00:00+00:00"),
        ("2026-01-05T13:00:00.250-03:00", "day_first", "2026-01-05T16:00:00.250000+00:00", "2026-01-05T16:00:00.250000+00:00"),
        ("2026-01-05T13:00:00Z", "month_first", "2026-01-05T13:00:00+00:00", "2026-01-05T13:00:00+00:00"),
        ("03/04/2026", "day_first", "2026-04-03T00:00:00-03:00", "2026-04-03T23:59:59.999999-03:00"),
        ("03/04/2026", "month_first", "2026-03-04T00:00:00-03:00", "2026-03-04T23:59:59.999999-03:00"),
        ("13/04/2026", "month_first", "2026-04-13T00:00:00-03:00", "2026-04-13T23:59:59.999999-03:00"),
        ("04/13/2026", "day_first", "2026-04-13T00:00:00-03:00", "2026-04-13T23:59:59.999999-03:00"),
        ("03/04/2026 01:02:03", "month_first", "2026-03-04T01:02:03-03:00", "2026-03-04T13:02:03-03:00"),
        ("03/04/2026 12:02:03", "month_first", "2026-03-04T00:02:03-03:00", "2026-03-04T12:02:03-03:00"),
        ("03/04/2026 14:02:03", "month_first", "2026-03-04T14:02:03-03:00", "2026-03-04T14:02:03-03:00"),
        ("03/04/2026 01:02:03", "day_first", "2026-04-03T01:02:03-03:00", "2026-04-03T01:02:03-03:00"),
        ("04/13/2026 01:02:03", "day_first", "2026-04-13T01:02:03-03:00", "2026-04-13T13:02:03-03:00"),
        ("03/04/2026 13:05", "day_first", "2026-04-03T13:05:00-03:00", "2026-04-03T13:05:59.999999-03:00"),
        ("03/04/2026 13:05", "month_first", "2026-04-03T13:05:00-03:00", "2026-04-03T13:05:59.999999-03:00"),
        ("03/04/2026 01:02:03 PM", "day_first", "2026-03-04T13:02:03-03:00", "2026-03-04T13:02:03-03:00"),
        ("03/04/2026 12:00:00 am", "day_first", "2026-03-04T00:00:00-03:00", "2026-03-04T00:00:00-03:00"),
    ],
)
def test_each_format_means_what_it_can_mean(text, date_order, earliest, latest):
    """The interval is as wide as the format leaves open and no wider."""
    assert parse_source_date(text, date_order, SAO_PAULO) == (instant(earliest), instant(latest))


@pytest.mark.parametrize(
    "text,earliest,latest",
    [
        ("25/10/2026 02:30:00", "2026-10-25T00:30:00+00:00", "2026-10-25T01:30:00+00:00"),
        ("29/03/2026 02:30:00", "2026-03-29T00:30:00+00:00", "2026-03-29T01:30:00+00:00"),
    ],
)
def test_an_hour_that_the_clocks_repeat_or_skip_covers_both_readings(text, earliest, latest):
    """Berlin's autumn and spring change."""
    assert parse_source_date(text, "day_first", "Europe/Berlin") == (instant(earliest), instant(latest))


def test_a_day_of_twenty_five_hours_is_whole():
    """A bare date ends at its own midnight, whatever the clocks did."""
    earliest, latest = parse_source_date("25/10/2026", "day_first", "Europe/Berlin")
    assert latest - earliest == timedelta(hours=25) - timedelta(microseconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2027-01-05",
        "2027-01-05T13:00:00",
        "2026-13-05T13:00:00Z",
        "2026-01-05T13:00:00+2500",
        "2026-01-05T13:00:00+0060",
        "31/02/2026",
        "00/01/2026",
        "13/13/2026",
        "04/13/2026 13:05",
        "13/04/2026 01:02:03 PM",
        "03/04/2026 13:00:00 PM",
        "03/04/2026 00:00:00 AM",
        "03/04/2026 24:00:00",
        "03/04/26",
        "31/12/9999",
        "01/01/0000",
        "٠٣/٠٤/٢٠٢٦",
        "03/04/2026T10:00:00",
        "1767618000",
    ],
)
def test_what_is_no_such_date_is_refused_without_being_repeated(text):
    """ValueError says what was expected, never what came."""
    with pytest.raises(ValueError, match="must be a date such as") as caught:
        parse_source_date(text, "day_first", SAO_PAULO)
    assert len(text) < 3 or text not in str(caught.value)


def test_dates_before_1970_are_refused():
    """Nobody consented by computer before the epoch; an order time could not hold it."""
    with pytest.raises(ValueError, match="before 1970"):
        parse_source_date("31/12/1969", "day_first", "UTC")


def test_the_future_is_refused_beyond_the_skew():
    """Clocks may differ by the allowed seconds and no more."""
    now = datetime(2026, 1, 5, tzinfo=UTC)
    require_past(now + timedelta(seconds=300), now, 300)
    with pytest.raises(ValueError, match="future"):
        require_past(now + timedelta(seconds=300.5), now, 300)
