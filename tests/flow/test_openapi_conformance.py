"""Whatever is sent to the real server, its answer is one that the OpenAPI document names: status, content type and form, and never a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import requests
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from tests.support.fuzzing import FACTOR, examples
from tests.support.serving import Serving, key_line, serving

pytestmark = [pytest.mark.timeout(7200), pytest.mark.filterwarnings("default")]

KINDS = {
    "web-forms": "kind: native, scopes: [ingest, read, replay], all_sources: true",
    "privacy-tools": "kind: privacy_tools, date_order: day_first, time_zone: America/Sao_Paulo, purposes: {hash-1: newsletter}",
    "shop": "kind: cmxorganize, time_zone: Europe/Berlin, purposes: {newsletter: newsletter, single_user_tracking: sms}",
    "mailchimp": "kind: mailchimp, purposes: {test-list: newsletter}",
    "maileon": "kind: maileon, purposes: {doi: newsletter, doi+: sms}",
    "hub": "kind: contacthub, purposes: {newsletter: newsletter}",
}
SOURCES = "\n".join(f"  {name}: {{keys: ['{key_line('key-' + name)}'], url_keys: ['{key_line('url-' + name)}'], {rest}}}" for name, rest in KINDS.items())
ROUTING = f"""
version: 1
sources:
{SOURCES}
  read-only: {{kind: native, keys: ['{key_line("key-reader")}'], scopes: [read]}}
purposes:
  newsletter: {{title: Newsletter}}
  sms: {{title: Text messages}}
destinations:
  crm:
    vendor: webhook
    base_url: https://crm.example/hook
    credentials: {{secret: "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="}}
triggers:
  - {{deliver_to: [crm]}}
"""
OPERATIONS = (
    "postEvent",
    "postBatch",
    "getEvent",
    "getEventProof",
    "postSubjectProof",
    "postSource",
    "postSourceAddress",
    "probeSourceAddress",
    "subjectStatus",
    "listDeadLetters",
    "replayDeadLetters",
    "live",
    "ready",
    "metrics",
    "docs",
)
"""All but `openapi`, the document itself, which schemathesis leaves out."""
WITHOUT_INPUT = {"live", "ready", "metrics", "docs"}
NOTHING_TO_REFUSE = {"postSourceAddress", "probeSourceAddress"}
"""Any text may stand in their addresses, and any body is some source's own."""
ANSWERS_ITEM_BY_ITEM = {"postBatch"}
"""A batch with nothing good in it is answered 207: each item has its own refusal."""
SAYS_ALL = {"replayDeadLetters"}
"""What fits the schema is taken. Elsewhere the relay knows more than the document: its purposes, its cursors, its sources."""
MOST_GROWN_BYTES = 6_000_000 if FACTOR <= 1 else 20_000_000
"""What the warm process may hold more after everything that is sent here: keeping every request would take 13 MB in the short form, and as much again each time."""
KEYS = [None, "key-web-forms", "key-reader", "key-shop", "not-a-key"]


def warm_up(server: Serving) -> None:
    """Have the process import, connect and buffer what it will: every page, refusals, single events and a large batch."""
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer key-web-forms"
        for number in range(50):
            event = {"subject": {"email": f"warm-{number}@example.org"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-05T10:00:00Z"}
            accepted = session.post(f"{server.url}/v1/consent-events", json=event, timeout=10).json()["event_id"]
            for path in (f"/v1/consent-events/{accepted}", "/v1/dead-letters", "/metrics", "/docs", "/openapi.json", "/health/ready"):
                session.get(server.url + path, timeout=10)
            session.post(f"{server.url}/v1/sources/shop", data=b"{", timeout=10)
        assert session.post(f"{server.url}/v1/consent-events/batch", json=[event] * 1000, timeout=20).status_code == 202


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    """The server of all tests here; in the end it has answered thousands of requests, most of them nonsense, and keeps nothing of them."""
    with serving(ROUTING) as running:
        warm_up(running)
        before = running.memory_bytes()
        yield running
        grown = running.memory_bytes() - before
        print(f"{before / 1e6:.1f} MB when warm, {grown / 1e6:.1f} MB more in the end")
        assert grown < MOST_GROWN_BYTES, f"memory grew by {grown / 1e6:.1f} MB"
        assert "request_failed" not in running.log
        assert "event_poisoned" not in running.log
        assert running.process.poll() is None


@pytest.fixture(scope="module")
def document(server: Serving) -> Any:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


def operations(document: Any) -> dict[str, Any]:
    return {found.ok().definition.raw["operationId"]: found.ok() for found in document.get_all_operations()}


def checked(name: str, mode: GenerationMode, *, is_allowed: bool) -> list[Any]:
    """What must hold of an answer."""
    wanted = [
        *([checks.not_a_server_error] if name != "ready" else []),  # without workers it is not ready, and says so by 503
        openapi_checks.status_code_conformance,
        openapi_checks.content_type_conformance,
        openapi_checks.response_headers_conformance,
        openapi_checks.response_schema_conformance,
    ]
    if mode is GenerationMode.NEGATIVE and name not in ANSWERS_ITEM_BY_ITEM:
        wanted.append(openapi_checks.negative_data_rejection)
    if mode is GenerationMode.POSITIVE and is_allowed and name in SAYS_ALL:
        wanted.append(openapi_checks.positive_data_acceptance)
    return wanted


def made_real(case: Any, data: Any) -> None:
    """Put what this relay knows in the place of invented names, so that requests get further than to "unknown"."""
    if case.path_parameters and "source" in case.path_parameters:
        name = data.draw(st.sampled_from([*KINDS, "nobody"]))
        case.path_parameters["source"] = name
        if "url_key" in case.path_parameters:
            case.path_parameters["url_key"] = f"url-{name}"
    for event in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(event, dict) and isinstance(event.get("subject"), dict):
            event.update({"purpose": "newsletter"} if "purpose" in event else {})
            event["subject"] = {"email": "ana@example.org", **{name: text for name, text in event["subject"].items() if name != "email"}}


def test_every_operation_is_tried(document: Any) -> None:
    """One that is added to the document is added here."""
    assert tuple(operations(document)) == OPERATIONS


@pytest.mark.parametrize(
    "name, mode",
    [
        *((name, GenerationMode.POSITIVE) for name in OPERATIONS),
        *((name, GenerationMode.NEGATIVE) for name in OPERATIONS if name not in WITHOUT_INPUT | NOTHING_TO_REFUSE),
    ],
    ids=lambda value: value if isinstance(value, str) else value.value,
)
def test_every_answer_is_a_documented_one(document: Any, name: str, mode: GenerationMode) -> None:
    """With keys that may, may not, and are none; with input that fits the schema and input that does not."""
    operation = operations(document)[name]

    @given(case=operation.as_strategy(generation_mode=mode), key=st.sampled_from(KEYS), is_real=st.booleans(), data=st.data())
    @examples(3 if name in WITHOUT_INPUT else 60)
    def every_answer(case: Any, key: str | None, is_real: bool, data: Any) -> None:
        if is_real and mode is GenerationMode.POSITIVE:
            made_real(case, data)
        if key is None and case.headers and mode is GenerationMode.POSITIVE:
            case.headers.pop("Authorization", None)
        answer = case.call(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=10)
        case.validate_response(answer, checks=checked(name, mode, is_allowed=key == "key-web-forms"))

    every_answer()


BODIES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=12,
    ).map(lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) if not _is_large(value) else b"9" * 400),
)


def _is_large(value: Any) -> bool:
    if isinstance(value, int):
        return not -(2**63) <= value < 2**64
    return any(map(_is_large, value.values() if isinstance(value, dict) else value)) if isinstance(value, dict | list) else False


@pytest.mark.parametrize("name", KINDS)
def test_any_body_gets_a_clear_answer_from_every_source(server: Serving, name: str) -> None:
    """Bytes, texts and JSON of any form under any media type: taken, or refused as a problem, and memory does not grow."""
    session = requests.Session()
    types = st.sampled_from(
        ["application/json", "application/x-ndjson", "application/x-www-form-urlencoded", "text/xml", "multipart/form-data; boundary=x", "x", ""]
    )
    before = server.memory_bytes()

    @given(body=BODIES, media_type=types, query=st.text(max_size=10), in_address=st.booleans())
    @examples(50)
    def any_body(body: bytes, media_type: str, query: str, in_address: bool) -> None:
        address = f"{server.url}/v1/sources/{name}" + (f"/url-{name}" if in_address else "")
        headers = {**({} if in_address else {"Authorization": f"Bearer key-{name}"}), "Content-Type": media_type}
        answer = session.post(address, params={"event": query}, data=body, headers=headers, timeout=10)
        assert answer.status_code in (202, 207, 400, 413, 415, 422), (answer.status_code, answer.text)
        kind = "application/json" if answer.status_code in (202, 207) else "application/problem+json"
        assert answer.headers["content-type"] == kind

    any_body()
    session.close()
    assert server.memory_bytes() - before < 30_000_000


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "POST", "GET", "CONNECT", "FOO"])
def test_other_methods_are_refused_without_a_fault(server: Serving, document: Any, method: str) -> None:
    """No address answers a method that it does not know by a fault of ours, or by doing something."""
    for path in {found.ok().path for found in document.get_all_operations()}:
        answer = requests.request(method, server.url + path.format(event_id="x", source="shop", url_key="x"), timeout=10)
        assert answer.status_code < 500 or path == "/health/ready", (path, answer.status_code)
        if answer.status_code >= 400 and method != "HEAD" and path != "/health/ready":
            assert answer.headers["content-type"] == "application/problem+json", (path, answer.status_code, answer.text)
