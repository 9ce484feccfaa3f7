"""Whatever a source posts is read or refused by field: no exception, no event that could not be kept, no wait."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import IncomingEvent
from tests.support.fuzzing import examples
from tests.support.mutations import near
from tests.support.readers import DATES, FORM, JSON, LINES, ZONES, heard_kinds, read_body, read_dates, read_native_batch, samples

KINDS = heard_kinds()


def test_every_kind_has_samples_that_are_heard() -> None:
    """A source that is added gets samples, or what follows would not get beyond its first check."""
    assert set(samples()) == set(KINDS)
    for kind, bodies in samples().items():
        for body in bodies[: 2 if kind == "native" else None]:
            assert any(isinstance(item, IncomingEvent) for item in read_body(kind, body)), (kind, body)


@pytest.mark.parametrize("kind", KINDS)
def test_rubbish_is_refused_by_field(kind: str) -> None:
    """Near to what the system sends, or far from it, under its media type or another."""
    queries = st.one_of(st.just({}), st.dictionaries(st.sampled_from(["event", "type", ""]), st.text(max_size=10), max_size=2))

    @given(body=near(samples()[kind]), media_type=st.sampled_from(["", "", "", JSON, FORM, LINES, "text/xml"]), query=queries)
    @examples(100)
    def rubbish(body: bytes, media_type: str, query: dict[str, str]) -> None:
        begun = time.process_time()
        read_body(kind, body, media_type, query)
        assert time.process_time() - begun < 1.0

    rubbish()


@given(body=near(samples()["native"]), media_type=st.sampled_from([JSON, LINES, FORM]))
@examples(100)
def test_rubbish_in_a_batch_is_refused_item_by_item(body: bytes, media_type: str) -> None:
    """Each item is an event or says what is wrong with it."""
    assert read_native_batch(body, media_type)


@given(
    text=st.one_of(
        st.text(max_size=40),
        st.sampled_from(DATES),
        st.from_regex(r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}( [0-9]{1,2}:[0-9]{2}(:[0-9]{2})?( ?[ap]m)?)?", fullmatch=True),
        st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:?[0-9]{2})", fullmatch=True),
    ),
    order=st.sampled_from(["day_first", "month_first"]),
    zone=st.sampled_from(ZONES),
)
@examples(300)
def test_dates_are_intervals_or_refused(text: str, order: str, zone: str) -> None:
    """In every zone and order: from earliest to latest, from 1970 on."""
    read_dates(text, order, zone)
