"""Native events: what is read, and the exact path of everything that is refused."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import RAISE, Schema

from pipeline import answers
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import InvalidInput
from pipeline.plain import plain_event
from pipeline.routing import Source
from pipeline.schemas import PLAIN, ConsentEventSchema, NativeReader, read_batch, read_json, read_time
from pipeline.sources import read_source
from pipeline.vendors.base import Notification

NOW = datetime(2026, 1, 6, tzinfo=UTC)
READER = NativeReader({"newsletter"}, lambda: NOW, 300)


def body(**changes):
    """The event printed in the contract, with its empty texts."""
    whole = {
        "idempotency_key": "order-7",
        "subject": {"external_id": "", "email": "Ana@Example.org", "phone": "", "national_id": "", "country": "BR"},
        "purpose": "newsletter",
        "state": "given",
        "event_time": "2026-01-05T13:00:00-03:00",
        "profile": {"name": "Ana", "first_name": "", "last_name": "", "salutation": "", "title": "", "name_prefix": "", "language": ""},
        "evidence": {"ip": "192.0.2.1", "user_agent": "", "website": "", "form": "", "notice_version": ""},
        "metadata": {"any": "string"},
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def paths(item):
    with pytest.raises(InvalidInput) as caught:
        READER.read(item)
    assert caught.value.status == 422
    return {error.path: error.message for error in caught.value.errors}


def test_the_contracts_event_is_read_whole():
    """Every part arrives, blank texts are absent, the time is UTC."""
    assert READER.read(body()) == IncomingEvent(
        subject=Subject(email="ana@example.org", country="BR"),
        purpose="newsletter",
        state=State.GIVEN,
        event_time=datetime(2026, 1, 5, 16, tzinfo=UTC),
        idempotency_key="order-7",
        profile={"name": "Ana"},
        evidence={"ip": "192.0.2.1"},
        metadata={"any": "string"},
    )


def test_the_least_event_is_enough():
    """One identifier, purpose, state and time; null counts as absent where a part may be left out."""
    least = {"subject": {"external_id": "7"}, "purpose": "newsletter", "state": "withdrawn", "event_time": "2026-01-05T13:00:00Z"}
    nulls = {"idempotency_key": None, "profile": None, "evidence": None, "metadata": None}
    assert READER.read(least) == READER.read({**least, **nulls, "subject": {"external_id": "7", "email": None}})
    assert READER.read(least).idempotency_key is None


@pytest.mark.parametrize(
    "text,microseconds",
    [("2026-01-05T16:00:00Z", 0), ("2026-01-05t16:00:00z", 0), ("2026-01-05T13:00:00.5-03:00", 500_000), ("2026-01-05T16:00:00.123456789+00:00", 123_456)],
)
def test_times_are_rfc_3339(text, microseconds):
    """Any zone, and fractions to the microsecond."""
    assert READER.read(body(event_time=text)).event_time == datetime(2026, 1, 5, 16, 0, 0, microseconds, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes,path,message",
    [
        ({"subject": ...}, "subject", "is required"),
        ({"purpose": ...}, "purpose", "is required"),
        ({"state": ...}, "state", "is required"),
        ({"event_time": ...}, "event_time", "is required"),
        ({"subject": None}, "subject", "must not be null"),
        ({"subject": "ana"}, "subject", "must be an object"),
        ({"subject": []}, "subject", "must be an object"),
        ({"subject": {}}, "subject", "needs at least one of external_id, email, phone, national_id"),
        ({"subject": {"country": "BR"}}, "subject", "needs at least one of external_id, email, phone, national_id"),
        ({"subject": {"email": 7}}, "subject.email", "must be a string"),
        ({"subject": {"email": "ana"}}, "subject.email", "must be one e-mail address such as ana@example.org"),
        ({"subject": {"email": "a" * 255}}, "subject.email", "must have at most 254 characters"),
        ({"subject": {"email": "a\n@example.org"}}, "subject.email", "must not contain control characters"),
        ({"subject": {"phone": "51999999999"}}, "subject.phone", "must start with + and the country code, or the country must be given"),
        ({"subject": {"phone": "+55"}}, "subject.phone", "must be a phone number such as +5551999999999"),
        ({"subject": {"national_id": "12#3"}}, "subject.national_id", "must be made of digits and letters, with at most . - / _ or blanks between them"),
        ({"subject": {"external_id": "7", "country": "ZZ"}}, "subject.country", "must be an ISO 3166-1 alpha-2 country code such as BR"),
        ({"subject": {"external_id": "7", "country": "BRA"}}, "subject.country", "must have at most 2 characters"),
        ({"subject": {"external_id": "7", "shoe": "42"}}, "subject.shoe", "unknown field"),
        ({"purpose": "sms"}, "purpose", "unknown purpose"),
        ({"purpose": ""}, "purpose", "unknown purpose"),
        ({"purpose": ["newsletter"]}, "purpose", "must be a string"),
        ({"state": "granted"}, "state", "must be given or withdrawn"),
        ({"state": "GIVEN"}, "state", "must be given or withdrawn"),
        ({"state": True}, "state", "must be a string"),
        ({"event_time": 1767618000}, "event_time", "must be a string"),
        ({"event_time": "2026-01-05T13:00:00"}, "event_time", "must be a time with its zone such as 2026-01-05T13:00:00-03:00"),
        ({"event_time": "2026-01-05"}, "event_time", "must be a time with its zone such as 2026-01-05T13:00:00-03:00"),
        ({"event_time": "2026-02-30T13:00:00Z"}, "event_time", "must be a time with its zone such as 2026-01-05T13:00:00-03:00"),
        ({"event_time": "0001-01-01T00:00:00+23:59"}, "event_time", "must be a time with its zone such as 2026-01-05T13:00:00-03:00"),
        ({"event_time": "1969-12-31T23:59:59Z"}, "event_time", "must not lie before 1970"),
        ({"event_time": "2026-01-06T00:05:01Z"}, "event_time", "must not lie in the future"),
        ({"idempotency_key": ""}, "idempotency_key", "must have 1 to 200 characters"),
        ({"idempotency_key": "k" * 201}, "idempotency_key", "must have 1 to 200 characters"),
        ({"idempotency_key": 7}, "idempotency_key", "must be a string"),
        ({"idempotency_key": "a\x00"}, "idempotency_key", "must not contain control characters"),
        ({"profile": []}, "profile", "must be an object"),
        ({"profile": {"name": "x" * 1001}}, "profile.name", "must have at most 1000 characters"),
        ({"profile": {"nick": "x"}}, "profile.nick", "unknown field"),
        ({"evidence": {"ip": 1}}, "evidence.ip", "must be a string"),
        ({"evidence": {"user_agent": "a\r\nb"}}, "evidence.user_agent", "must not contain control characters"),
        ({"metadata": ["a"]}, "metadata", "must be an object"),
        ({"metadata": {"a": 1}}, "metadata.a", "must be a string"),
        ({"metadata": {"a": {"b": "c"}}}, "metadata.a", "must be a string"),
        ({"metadata": {"key": 1}}, "metadata.key", "must be a string"),
        ({"metadata": {"": "b"}}, "metadata.?", "must have 1 to 100 characters"),
        ({"metadata": {"k" * 101: "b"}}, "metadata.?", "must have 1 to 100 characters"),
        ({"metadata": {"a": "x" * 1001}}, "metadata.a", "must have at most 1000 characters"),
        ({"metadata": {str(index): "x" for index in range(51)}}, "metadata", "must have at most 50 entries"),
        ({"colour": "red"}, "colour", "unknown field"),
        ({"ana@example.org": "x"}, "?", "unknown field"),
    ],
)
def test_each_wrong_field_is_named_by_its_path(changes, path, message):
    """One thing is wrong and one error says so."""
    assert paths(body(**changes)) == {path: message}


NAMES = st.sampled_from(["subject", "email", "phone", "purpose", "state", "event_time", "metadata", "profile", "key", "value", "_schema"]) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_refused(item):
    """Whatever comes, the answer is an event or InvalidInput with at least one error."""
    try:
        assert isinstance(READER.read(item), IncomingEvent)
    except InvalidInput as error:
        assert error.errors  # noqa: PT017  either ending is right


@pytest.mark.parametrize("item", [None, 5, "x", [], True])
def test_what_is_no_object_is_refused(item):
    """The path of the whole body is empty."""
    assert paths(item) == {"": "must be an object"}


def test_all_errors_come_at_once_and_repeat_no_value():
    """Wrong types, unknown words and wrong identifiers together."""
    item = body(subject={"email": "ana-secret", "shoe": "42", "country": "ZZ"}, purpose="secret-purpose", state="secret-state", extra="secret-extra")
    found = paths(item)
    assert sorted(found) == ["extra", "purpose", "state", "subject.country", "subject.email", "subject.shoe"]
    assert "secret" not in str(found)


def test_the_skew_and_the_country_of_the_source_are_honoured():
    """A time within the skew passes, and a phone is read in the source's country."""
    event = READER.read(body(event_time="2026-01-06T00:05:00Z", subject={"phone": "(51) 99999-9999"}), default_country="BR")
    assert event.event_time == NOW + timedelta(minutes=5)
    assert event.subject == Subject(phone="+5551999999999")


@pytest.mark.parametrize(
    "raw,message",
    [
        (b"", "is not valid JSON at line 1, column 1"),
        (b"{", "is not valid JSON at line 1, column 2"),
        (b'{"a": NaN}', "is not valid JSON at line 1, column 7"),
        (b'{"a": 1e999}', "is not valid JSON at line 1, column 7"),
        (b"\xff\xfe", "is not UTF-8 at byte 1"),
        (b'{"a": "\xff"}', "is not UTF-8 at byte 8"),
        (b'"\\ud800"', "is not valid JSON at line 1, column 2"),
        (b"\xef\xbb\xbf{}", "is not valid JSON at line 1, column 1"),
        (b"{} {}", "is not valid JSON at line 1, column 4"),
        (b"[" * 9 + b"]" * 9, "is nested deeper than 8 levels"),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "is nested deeper than 8 levels"),
        (b"[" * 100_000, None),
    ],
)
def test_unreadable_bodies_are_a_400(raw, message):
    """Bytes that are no JSON, or too deep, name the place and nothing of the body."""
    with pytest.raises(InvalidInput) as caught:
        read_json(raw)
    assert caught.value.status == 400
    assert [error.path for error in caught.value.errors] == [""]
    assert message is None or caught.value.errors[0].message == message


def test_depth_is_counted_in_levels():
    """Eight levels pass, whatever their width; of equal keys the last counts."""
    assert read_json(b"[" * 8 + b"]" * 8) == [[[[[[[[]]]]]]]]
    assert len(read_json(b"[" + b"[]," * 100 + b"[]]")) == 101
    assert read_json(b'{"a": 1, "a": 2}') == {"a": 2}


def test_a_batch_is_an_array_or_lines():
    """A broken line is named in its place, blank ones do not count, and the others stand."""
    assert read_batch(b"[1, {}]", "application/json") == [1, {}]
    items = read_batch(b'{"a": 1}\r\n\n{broken\n  \n[2]', "application/x-ndjson")
    assert (items[0], items[2], len(items)) == ({"a": 1}, [2], 3)
    assert isinstance(items[1], InvalidInput)
    assert items[1].status == 400


@pytest.mark.parametrize(
    "raw,media_type,status",
    [
        (b"{}", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"\n \n", "application/x-ndjson", 422),
        (b"[1", "application/json", 400),
        (b"[1,2,3]", "application/json", 413),
        (b"1\n2\n3\n", "application/x-ndjson", 413),
        (b"[]", "text/plain", 415),
        (b"[]", "", 415),
    ],
)
def test_a_batch_that_cannot_be_taken_is_refused_whole(raw, media_type, status):
    """Unreadable, no array, empty, too many, or of another media type."""
    with pytest.raises(InvalidInput) as caught:
        read_batch(raw, media_type, max_items=2)
    assert caught.value.status == status


def test_a_native_source_may_post_to_its_own_address():
    """One event, an array, or lines; a wrong one among several stays in its place."""
    source = Source(name="web", country="BR")

    def read(raw, media_type="application/json"):
        return read_source(source, Notification(body=raw, media_type=media_type, received_at=NOW), READER)

    good = orjson.dumps(body())
    assert read(good) == [READER.read(body())]
    for several, media_type in ((b"[" + good + b", {}]", "application/json"), (good + b"\n{", "application/x-ndjson")):
        first, second = read(several, media_type)
        assert first == READER.read(body())
        assert isinstance(second, InvalidInput)
    for wrong, media_type, status in ((b"{}", "application/json", 422), (good, "text/plain", 415), (b"x", "application/json", 400)):
        with pytest.raises(InvalidInput) as caught:
            read(wrong, media_type)
        assert caught.value.status == status


def test_every_schema_prints_as_openapi():
    """Requests and answers become components, with their limits."""
    spec = APISpec(title="t", version="1", openapi_version="3.1.0", plugins=[MarshmallowPlugin()])
    spec.components.schema("ConsentEvent", schema=ConsentEventSchema)
    schemas = [value for value in vars(answers).values() if isinstance(value, type) and issubclass(value, Schema) and value is not Schema]
    for schema in schemas:
        if schema.__name__.removesuffix("Schema") not in spec.components.schemas:
            spec.components.schema(schema.__name__.removesuffix("Schema"), schema=schema)
    printed = spec.to_dict()["components"]["schemas"]
    assert printed["ConsentEvent"]["required"] == ["event_time", "purpose", "state", "subject"]
    assert printed["ConsentEvent"]["properties"]["idempotency_key"]["maxLength"] == 200
    assert printed["Accepted"]["properties"]["status"]["enum"] == ["accepted", "duplicate", "superseded"]


TEXTS_OF_ALL_KINDS = st.one_of(
    st.text(max_size=6), st.sampled_from(["", " ", "BR", "ana@example.org", "a\x00b", "x" * 255, "x" * 1001]), st.none(), st.integers(), st.booleans()
)
PARTS = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(["email", "external_id", "country", "name", "ip", "unknown", "phone"]), TEXTS_OF_ALL_KINDS, max_size=4),
    st.lists(st.text(max_size=2), max_size=1),
)
TIMES = st.one_of(
    st.sampled_from(["2026-01-05T13:00:00Z", "2026-01-05t13:00:00.123-03:00", "1969-12-31T23:59:59Z", "2026-01-05", "9999-12-31T23:59:59-23:00", ""]),
    st.integers(),
    st.none(),
)
ITEMS = st.fixed_dictionaries(
    {"subject": PARTS, "purpose": TEXTS_OF_ALL_KINDS, "state": st.sampled_from(["given", "withdrawn", "granted", None]), "event_time": TIMES},
    optional={"profile": PARTS, "evidence": PARTS, "metadata": PARTS, "idempotency_key": TEXTS_OF_ALL_KINDS, "other": st.just(1)},
)


@given(item=ITEMS)
@settings(max_examples=400, deadline=None)
def test_the_quick_look_takes_only_what_the_schema_takes_and_as_it_does(item):
    """Whatever is taken without the schema is loaded by it too, to the very same values."""
    plain = plain_event(item, PLAIN, read_time)
    if plain is not None:
        assert plain == ConsentEventSchema(unknown=RAISE).load(item)


@pytest.mark.parametrize(
    "part, name, longest",
    [
        ("", "purpose", 40),
        ("", "idempotency_key", 200),
        ("subject", "external_id", 254),
        ("subject", "country", 2),
        ("profile", "first_name", 1000),
        ("evidence", "user_agent", 1000),
        ("metadata", "campaign", 1000),
        ("metadata", "", 100),
    ],
)
def test_the_quick_look_knows_how_long_texts_may_be(part, name, longest):
    """A text of the greatest length, in characters and not bytes, is taken; a longer one and one with a control character are the schema's."""

    def event(text):
        item = {"subject": {"email": "ana@example.org"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-05T13:00:00Z"}
        values = {text: "x"} if part and not name else {name: text}
        return item | ({part: item.get(part, {}) | values} if part else values)

    assert plain_event(event("\u00e9" * longest), PLAIN, read_time) is not None
    assert plain_event(event("\u00e9" * (longest + 1)), PLAIN, read_time) is None
    assert all(plain_event(event(character), PLAIN, read_time) is None for character in ("\x00", "\n", "\x7f", "\x85", "\u2028", "\ud800"))
    assert plain_event(event("\u200d"), PLAIN, read_time) is not None  # not printable, and no control character either


def test_an_ordinary_event_needs_no_schema():
    """What a producer sends by the documentation takes the short way."""
    for item in json.loads((Path(__file__).parents[2] / "samples/native.json").read_text()):
        assert plain_event(item, PLAIN, read_time) == ConsentEventSchema(unknown=RAISE).load(item)
