"""Bad input: each case is answered with its exact status and path, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
import pytest

from pipeline.ingest import IngestLimits
from tests.unit.ingest_fakes import EVENT, IMPORT, KEYS, URL_KEY, make_relay, paths_of

NATIVE = "/v1/consent-events"
BATCH = "/v1/consent-events/batch"
TOOLS = "/v1/sources/privacy-tools"
JSON = "application/json"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Case:
    """One bad request; `body` as bytes, `paths` are those of the errors in the answer."""

    name: str
    body: bytes
    status: int = 422
    paths: tuple[str, ...] = ("",)
    path: str = NATIVE
    content_type: str | None = JSON
    key: str | None = KEYS["web-forms"]
    headers: dict = field(default_factory=dict)


def event(**changes) -> bytes:
    merged = {**EVENT, **changes}
    return orjson.dumps({name: value for name, value in merged.items() if value is not ...})


def person(**identifiers) -> bytes:
    return event(subject=identifiers)


def tools(**changes) -> Case:
    (path,) = changes.keys()
    return Case(f"privacy tools: wrong {path}", orjson.dumps({**IMPORT, **changes}), 422, (path,), TOOLS, key=KEYS["privacy-tools"])


CASES = [
    # Bytes that are no JSON, or not the JSON that is asked for.
    Case("empty body", b"", 400),
    Case("blank body", b"  \n", 400),
    Case("cut JSON", event()[:-1], 400),
    Case("two documents", event() + event(), 400),
    Case("not UTF-8", event().replace(b"ana", b"an\xff"), 400),
    Case("UTF-16", event().decode().encode("utf-16"), 400),
    Case("byte order mark", b"\xef\xbb\xbf" + event(), 400),
    Case("NaN", event().replace(b'"given"', b"NaN"), 400),
    Case("single quotes", event().replace(b'"', b"'"), 400),
    Case("lone surrogate", event().replace(b"ana", b"\\ud800"), 400),
    Case("deep array", b"[" * 100_000 + b"]" * 100_000, 400),
    Case("deep object", b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400),
    Case("deep in a field", event(metadata={"a": [[[[[[[[[[1]]]]]]]]]]}), 400),
    Case("a list, not an event", b"[" + event() + b"]"),
    Case("a string", b'"given"'),
    Case("a number", b"7"),
    Case("null", b"null"),
    # Fields that are missing, unknown, or of the wrong type.
    Case("empty object", b"{}", paths=("event_time", "purpose", "state", "subject")),
    Case("unknown field", event(consent=True), paths=("consent",)),
    Case("unknown field of the subject", person(email="ana@example.com", mail="x"), paths=("subject.mail",)),
    Case("unknown field of the profile", event(profile={"nick": "x"}), paths=("profile.nick",)),
    Case("unknown field of the evidence", event(evidence={"cookie": "x"}), paths=("evidence.cookie",)),
    Case("unknown field that looks like a person", event(**{"ana@example.com": 1}), paths=("?",)),
    Case("no subject", event(subject=...), paths=("subject",)),
    Case("subject is null", event(subject=None), paths=("subject",)),
    Case("subject is a string", event(subject="ana@example.com"), paths=("subject",)),
    Case("subject is a list", event(subject=[]), paths=("subject",)),
    Case("nobody", person(), paths=("subject",)),
    Case("only a country", person(country="BR"), paths=("subject",)),
    Case("blank identifiers", person(email=" ", phone=""), paths=("subject",)),
    Case("e-mail is a number", person(email=7), paths=("subject.email",)),
    Case("e-mail without @", person(email="ana.example.com"), paths=("subject.email",)),
    Case("two e-mails", person(email="ana@example.com,bo@example.com"), paths=("subject.email",)),
    Case("e-mail with a line break", person(email="ana@example.com\nBcc: x"), paths=("subject.email",)),
    Case("e-mail too long", person(email="a" * 250 + "@example.com"), paths=("subject.email",)),
    Case("phone without country", person(phone="11987654321"), paths=("subject.phone",)),
    Case("phone too short", person(phone="+5511"), paths=("subject.phone",)),
    Case("phone of letters", person(phone="+55 call me"), paths=("subject.phone",)),
    Case("national id of signs", person(national_id="***"), paths=("subject.national_id",)),
    Case("external id too long", person(external_id="x" * 255), paths=("subject.external_id",)),
    Case("external id with a zero byte", person(external_id="a\0b"), paths=("subject.external_id",)),
    Case("no such country", person(email="ana@example.com", country="XX"), paths=("subject.country",)),
    Case("country in three letters", person(email="ana@example.com", country="BRA"), paths=("subject.country",)),
    Case("two bad identifiers", person(email="x", phone="y"), paths=("subject.email", "subject.phone")),
    Case("unknown purpose", event(purpose="profiling"), paths=("purpose",)),
    Case("purpose in other case", event(purpose="Newsletter"), paths=("purpose",)),
    Case("empty purpose", event(purpose=""), paths=("purpose",)),
    Case("purpose is a list", event(purpose=["newsletter"]), paths=("purpose",)),
    Case("unknown state", event(state="revoked"), paths=("state",)),
    Case("state in other case", event(state="Given"), paths=("state",)),
    Case("state is true", event(state=True), paths=("state",)),
    Case("state is a list", event(state=[]), paths=("state",)),
    Case("state is an object", event(state={"given": True}), paths=("state",)),
    Case("state is null", event(state=None), paths=("state",)),
    # Times.
    Case("time without zone", event(event_time="2026-01-05T13:00:00"), paths=("event_time",)),
    Case("bare date", event(event_time="2026-01-05"), paths=("event_time",)),
    Case("slashed date", event(event_time="05/01/2026 13:00:00"), paths=("event_time",)),
    Case("Unix time", event(event_time=1767628800), paths=("event_time",)),
    Case("no such day", event(event_time="2026-02-30T13:00:00Z"), paths=("event_time",)),
    Case("no such hour", event(event_time="2026-01-05T25:00:00Z"), paths=("event_time",)),
    Case("no such zone", event(event_time="2026-01-05T13:00:00+25:00"), paths=("event_time",)),
    Case("beyond the allowed skew", event(event_time="2026-03-01T12:05:01Z"), paths=("event_time",)),
    Case("next century", event(event_time="2126-01-05T13:00:00Z"), paths=("event_time",)),
    Case("before 1970", event(event_time="1969-12-31T23:59:59Z"), paths=("event_time",)),
    Case("year one, east", event(event_time="0001-01-01T00:00:00+01:00"), paths=("event_time",)),
    # Sizes and texts.
    Case("empty key", event(idempotency_key=""), paths=("idempotency_key",)),
    Case("key too long", event(idempotency_key="k" * 201), paths=("idempotency_key",)),
    Case("key is a number", event(idempotency_key=1), paths=("idempotency_key",)),
    Case("profile text too long", event(profile={"name": "n" * 1001}), paths=("profile.name",)),
    Case("control characters", event(profile={"name": "a\x1b[2J"}), paths=("profile.name",)),
    Case("profile is a list", event(profile=["Ana"]), paths=("profile",)),
    Case("metadata value is a number", event(metadata={"visits": 3}), paths=("metadata.visits",)),
    Case("metadata is a list", event(metadata=["a"]), paths=("metadata",)),
    Case("too much metadata", event(metadata={f"m{number}": "x" for number in range(1000)}), paths=("metadata",)),
    Case("body over 1 MiB", event(metadata={"a": "x" * 1_048_576}), 413),
    # Media types and encodings.
    Case("no media type", event(), 415, ("content-type",), content_type=None),
    Case("text", event(), 415, ("content-type",), content_type="text/plain"),
    Case("form", b"state=given", 415, ("content-type",), content_type="application/x-www-form-urlencoded"),
    Case("JSON by another name", event(), 415, ("content-type",), content_type="application/vnd.api+json"),
    Case("two media types", event(), 415, ("content-type",), content_type="application/json, text/plain"),
    Case("latin-1", event(), 415, ("content-type",), content_type="application/json; charset=iso-8859-1"),
    Case("NDJSON as one event", event(), 415, ("content-type",), content_type=NDJSON),
    Case("compressed", b"\x1f\x8b", 415, ("content-encoding",), headers={"Content-Encoding": "gzip"}),
    Case("compressed batch", b"\x1f\x8b", 415, ("content-encoding",), BATCH, headers={"Content-Encoding": "identity, br"}),
    # Who is calling.
    Case("no key", event(), 401, ("authorization",), key=None),
    Case("wrong key", event(), 401, ("authorization",), key="wrong"),
    Case("key in another case", event(), 401, ("authorization",), key="KEY-WEB-FORMS"),
    Case("digest as key", event(), 401, ("authorization",), key="4b0d1f9e" * 8),
    Case("basic login", event(), 401, ("authorization",), key=None, headers={"Authorization": "Basic a2V5Og=="}),
    Case("no scheme", event(), 401, ("authorization",), key=None, headers={"Authorization": KEYS["web-forms"]}),
    Case("empty bearer", event(), 401, ("authorization",), key=None, headers={"Authorization": "Bearer "}),
    Case("key without the scope", event(), 403, ("authorization",), key=KEYS["reader"]),
    Case("batch without the scope", b"[]", 403, ("authorization",), BATCH, key=KEYS["reader"]),
    Case("another source's address", event(), 403, ("authorization",), TOOLS),
    Case("an address that nobody has", event(), 403, ("authorization",), "/v1/sources/nobody"),
    Case("all sources is for reading", orjson.dumps(IMPORT), 403, ("authorization",), TOOLS, key=KEYS["auditor"]),
    Case("wrong key in the address", orjson.dumps(IMPORT), 401, ("url_key",), f"{TOOLS}/{URL_KEY}x", key=None),
    Case("another source's key in the address", orjson.dumps(IMPORT), 401, ("url_key",), f"/v1/sources/web-forms/{URL_KEY}", key=None),
    Case("bearer key in the address", orjson.dumps(IMPORT), 401, ("url_key",), f"{TOOLS}/{KEYS['privacy-tools']}", key=None),
    # Batches that cannot be read at all.
    Case("batch is an object", event(), path=BATCH),
    Case("batch is empty", b"[]", path=BATCH),
    Case("batch without lines", b"\n\n", path=BATCH, content_type=NDJSON),
    Case("batch is cut", b"[" + event(), 400, path=BATCH),
    Case("batch of too many", b"[" + b",".join([b"1"] * 5001) + b"]", 413, path=BATCH),
    Case("too many lines", b"1\n" * 5001, 413, path=BATCH, content_type=NDJSON),
    Case("batch over 16 MiB", b"[" + b" " * 16 * 1_048_576, 413, path=BATCH),
    Case("batch as a form", b"a=b", 415, ("content-type",), BATCH, "application/x-www-form-urlencoded"),
    # A source's own body.
    Case("privacy tools: not JSON", b"{", 400, path=TOOLS, key=KEYS["privacy-tools"]),
    Case("privacy tools: a form", b"a=b", 415, path=TOOLS, key=KEYS["privacy-tools"], content_type="application/x-www-form-urlencoded"),
    Case("privacy tools: a number", b"7", 422, path=TOOLS, key=KEYS["privacy-tools"]),
    tools(consentDate="2026-01-05"),
    tools(consentDate="31/31/2026"),
    tools(consentValue="maybe"),
    tools(templateHash="hash-2"),
    tools(email="ana"),
    tools(surprise=1),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_bad_request_has_its_status_and_path(case):
    """Given a bad request, it is refused with exactly this status and these paths, and nothing is written."""
    relay = make_relay()
    headers = {**({"Content-Type": case.content_type} if case.content_type else {}), **case.headers}
    answer = relay.post(case.path, body=case.body, key=case.key, headers=headers)
    assert (answer.status_code, paths_of(answer)) == (case.status, sorted(case.paths))
    assert relay.acceptor.groups == []


@pytest.mark.parametrize("case", [case for case in CASES if case.status == 422], ids=lambda case: case.name)
def test_no_refusal_repeats_what_was_sent(case):
    """Given a bad value, the answer names the field and never the value."""
    answer = make_relay().post(case.path, body=case.body, key=case.key, headers={"Content-Type": case.content_type})
    for value in ("example.com", "Bcc", "call me", "profiling", "revoked", "hash-2"):
        assert value not in answer.text


BAD_ITEMS = [
    (b"{", ""),
    (b"\xff", ""),
    (b"7", ""),
    (b"[]", ""),
    (b"[" * 50 + b"]" * 50, ""),
    (event(purpose="profiling"), "purpose"),
    (event(state=["given"]), "state"),
    (event(event_time="2026-01-05"), "event_time"),
    (person(email="ana"), "subject.email"),
]


@pytest.mark.parametrize("line, path", BAD_ITEMS)
def test_a_bad_line_is_named_and_its_neighbours_are_accepted(line, path):
    """Given NDJSON with one bad line between two good ones, 207 names it by its index and only the good ones are written."""
    relay = make_relay()
    body = b"\n".join([event(idempotency_key="1"), b"", line, event(idempotency_key="2"), b""])
    answer = relay.post(BATCH, body=body, headers={"Content-Type": NDJSON})
    assert answer.status_code == 207
    assert {name: answer.json[name] for name in ("accepted", "duplicates", "superseded", "rejected")} == {
        "accepted": 2,
        "duplicates": 0,
        "superseded": 0,
        "rejected": 1,
    }
    assert [result["status"] for result in answer.json["results"]] == ["accepted", "rejected", "accepted"]
    assert [error["path"] for error in answer.json["results"][1]["errors"]] == [path]
    assert answer.json["results"][1]["index"] == 1
    assert len(relay.acceptor.events) == 2


def test_a_batch_of_nothing_but_bad_items_writes_nothing():
    """Given an array of which no item can be accepted, 207 names them all and nothing is written."""
    relay = make_relay()
    answer = relay.post(BATCH, body=b"[1, null, {}]", headers={"Content-Type": JSON})
    assert (answer.status_code, answer.json["rejected"]) == (207, 3)
    assert relay.acceptor.groups == []


def test_a_body_without_declared_length_is_cut_off_at_the_cap():
    """Given a body in chunks that grows beyond the cap, it is refused while it arrives."""
    relay = make_relay(limits=IngestLimits(max_body_bytes=1000, max_batch_bytes=2000))
    headers = {"Content-Type": JSON, "Transfer-Encoding": "chunked"}
    for path, size in ((NATIVE, 1001), (BATCH, 2001)):
        answer = relay.post(path, body=b" " * size, headers=headers, extras={"headers": _without_length(headers)})
        assert (answer.status_code, paths_of(answer)) == (413, [""])
    assert relay.acceptor.groups == []


def test_a_body_that_ends_early_is_refused():
    """Given fewer bytes than the declared length, the event is refused even if they are whole JSON."""
    relay = make_relay()
    headers = {"Content-Type": JSON, "Content-Length": str(len(event()) + 1)}
    answer = relay.post(body=event(), headers=headers, extras={"headers": _with_length(headers)})
    assert (answer.status_code, paths_of(answer)) == (400, [""])
    assert relay.acceptor.groups == []


def _without_length(headers):
    return [(b"host", b"x"), (b"authorization", b"Bearer key-web-forms"), *((name.lower().encode(), value.encode()) for name, value in headers.items())]


_with_length = _without_length
