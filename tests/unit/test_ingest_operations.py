"""Dead letters, health, metrics and the documents."""

from __future__ import annotations

import html.parser
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from pipeline import VERSION
from pipeline.answers import AcceptedSchema, BatchSchema
from pipeline.errors import LedgerUnavailable
from pipeline.identifiers import Hasher, normalise_subject
from pipeline.ingest import Readiness, examples
from pipeline.ingest.openapi import build_document
from pipeline.metrics import LatencyHistogram, MetricsSnapshot, render_metrics
from tests.unit.ingest_fakes import EVENT, KEYS, FakeLedger, errors_of, make_relay, paths_of

LETTERS = "/v1/dead-letters"
REPLAY = "/v1/dead-letters/replay"


def ledger_of_two_sources() -> FakeLedger:
    return FakeLedger(sources={"a": "web-forms", "b": "reader", "c": "web-forms"}, dead=["a.x", "a.y", "b.x", "c.x"])


def test_a_page_of_dead_letters_has_the_defaults():
    """Given no parameters, the page is of the own source and of 100 items."""
    relay = make_relay(ledger=ledger_of_two_sources())
    answer = relay.get(LETTERS)
    assert answer.json == {"items": [{"delivery_id": "a.x"}, {"delivery_id": "a.y"}], "groups": [], "next_cursor": "2"}
    assert relay.ledger.calls == [
        ("dead_letters", {"destination": None, "reason": None, "state": None, "since": None, "cursor": None, "limit": 100, "source": "web-forms"})
    ]


def test_every_filter_reaches_the_ledger():
    """Given all parameters and a key for all sources, the ledger is asked exactly that."""
    relay = make_relay(ledger=ledger_of_two_sources())
    query = "destination=x&reason=http_400&state=withdrawn&since=2026-01-05T13:00:00-03:00&cursor=0&limit=500"
    assert relay.get(LETTERS, query_string=query.replace(":", "%3A"), key=KEYS["auditor"]).status_code == 200
    since = datetime(2026, 1, 5, 16, tzinfo=UTC)
    wanted = {"destination": "x", "reason": "http_400", "state": "withdrawn", "since": since, "cursor": "0", "limit": 500, "source": None}
    assert relay.ledger.calls == [("dead_letters", wanted)]


BAD_QUERIES = [
    ("limit=0", "limit"),
    ("limit=501", "limit"),
    ("limit=ten", "limit"),
    ("limit=1.5", "limit"),
    ("limit=", "limit"),
    ("limit=1&limit=2", "limit"),
    ("state=revoked", "state"),
    ("since=yesterday", "since"),
    ("since=2026-01-05T13:00:00", "since"),
    ("destination=", "destination"),
    ("destination=" + "x" * 201, "destination"),
    ("colour=red", "colour"),
]


@pytest.mark.parametrize("query, path", BAD_QUERIES)
def test_a_bad_query_is_named_by_its_parameter(query, path):
    """Given a parameter that cannot be used, 422 names it and nothing is looked up."""
    relay = make_relay()
    answer = relay.get(LETTERS, query_string=query)
    assert (answer.status_code, paths_of(answer), relay.ledger.calls) == (422, [path], [])


def test_a_cursor_of_somewhere_else_is_refused():
    """Given a cursor the ledger does not know as its own, 422 names it."""
    answer = make_relay(ledger=ledger_of_two_sources()).get(LETTERS, query_string="cursor=abc")
    assert (answer.status_code, errors_of(answer)) == (422, [("cursor", "is no cursor of this list")])


def test_own_letters_are_replayed_and_others_are_not_found():
    """Given ids of the own and of another source, only the own are replayed; the others look as if they did not exist."""
    relay = make_relay(ledger=ledger_of_two_sources())
    answer = relay.post(REPLAY, json={"ids": ["a.x", "b.x", "zzz", "a.x"]})
    not_found = [{"delivery_id": "b.x", "reason": "not_found"}, {"delivery_id": "zzz", "reason": "not_found"}]
    assert answer.json == {"dry_run": False, "replayed": ["a.x"], "not_replayed": not_found, "more": False}
    assert [call for call in relay.ledger.calls if call[0] == "replay"] == [("replay", (["a.x"], False))]


def test_a_filter_replays_every_page_of_the_own_source():
    """Given a filter over two pages and a dry run, all own letters are named and the ledger is told that it is dry."""
    relay = make_relay(ledger=ledger_of_two_sources())
    answer = relay.post(REPLAY, json={"filter": {}, "dry_run": True})
    assert answer.json == {"dry_run": True, "replayed": ["a.x", "a.y", "c.x"], "not_replayed": [], "more": False}
    assert relay.ledger.calls[-1] == ("replay", (["a.x", "a.y", "c.x"], True))


def test_all_sources_replays_all():
    """Given a key for all sources, letters of every source are replayed."""
    relay = make_relay(ledger=ledger_of_two_sources())
    assert relay.post(REPLAY, json={"filter": {}}, key=KEYS["auditor"]).json["replayed"] == ["a.x", "a.y", "b.x", "c.x"]


BAD_REPLAYS = [
    ({}, "ids"),
    ({"ids": ["a.x"], "filter": {}}, "ids"),
    ({"ids": []}, "ids"),
    ({"ids": "a.x"}, "ids"),
    ({"ids": [7]}, "ids.0"),
    ({"ids": ["a.x"] * 5001}, "ids"),
    ({"filter": {"colour": "red"}}, "filter.colour"),
    ({"filter": {"state": "x"}}, "filter.state"),
    ({"filter": []}, "filter"),
    ({"ids": ["a.x"], "dry_run": "yes"}, "dry_run"),
    ({"ids": ["a.x"], "dry_run": 1}, "dry_run"),
    ({"ids": ["a.x"], "force": True}, "force"),
    ([], ""),
]


@pytest.mark.parametrize("body, path", BAD_REPLAYS)
def test_a_bad_replay_replays_nothing(body, path):
    """Given a request that cannot be understood whole, 422 names the field and nothing is replayed."""
    relay = make_relay(ledger=ledger_of_two_sources())
    answer = relay.post(REPLAY, json=body)
    assert (answer.status_code, paths_of(answer), relay.ledger.calls) == (422, [path], [])


def test_reading_does_not_allow_replaying():
    """Given a key with `read` only, replay is 403 and nothing is replayed."""
    relay = make_relay()
    assert (relay.post(REPLAY, json={"filter": {}}, key=KEYS["reader"]).status_code, relay.ledger.calls) == (403, [])


SUBJECTS = "/v1/subjects/status"


def test_a_person_is_asked_about_in_the_body():
    """The ledger is asked about the normalised person; only a key for all sources sees what came from others."""
    relay = make_relay()
    assert relay.post(SUBJECTS, json={"subject": {"email": " ana@Example.COM"}}).json == {"subject_key": "ekey", "purposes": []}
    relay.post(SUBJECTS, json={"subject": {"email": "ana@example.com"}}, key=KEYS["auditor"])
    assert [(name, subject.email, source) for name, subject, source in relay.ledger.calls] == [
        ("subject", "ana@example.com", "web-forms"),
        ("subject", "ana@example.com", None),
    ]


@pytest.mark.parametrize(
    "body, path",
    [
        ([], ""),
        ({}, "subject"),
        ({"subject": "ana@example.com"}, "subject"),
        ({"subject": {}}, "subject"),
        ({"subject": {"email": "no address"}}, "subject.email"),
        ({"subject": {"name": "Ana"}}, "subject.name"),
        ({"subject": {"email": "ana@example.com"}, "purpose": "newsletter"}, "purpose"),
        ({"subject": {"ana@example.com": ""}}, "subject.?"),
        ({"subject": {"email": "ana@example.com"}, "ana@example.com": ""}, "?"),
    ],
)
def test_a_bad_question_about_a_person_is_named_by_path(body, path):
    """What is wrong is named, nothing of it is repeated, and the ledger is not asked."""
    relay = make_relay()
    answer = relay.post(SUBJECTS, json=body)
    assert (answer.status_code, path in paths_of(answer)) == (422, True)
    assert "ana@example.com" not in answer.text
    assert relay.ledger.calls == []


def test_a_person_is_only_shown_to_readers():
    """Sending alone does not allow asking."""
    assert make_relay().post(SUBJECTS, json={"subject": {"email": "ana@example.com"}}, key=KEYS["privacy-tools"]).status_code == 403


def test_an_unavailable_ledger_is_503_everywhere():
    """Given a ledger that is away, reading calls are 503 with Retry-After, and live still answers."""
    relay = make_relay(ledger=FakeLedger(failure=LedgerUnavailable("secret host")))
    for answer in (relay.get(LETTERS), relay.get("/v1/consent-events/a"), relay.post(REPLAY, json={"ids": ["a.x"]}), relay.get("/metrics")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "secret host" not in answer.text
    assert relay.get("/health/live", key=None).json == {"live": True}


@pytest.mark.parametrize("ready, status", [(True, 200), (False, 503)])
def test_ready_names_what_stands_in_the_way(ready, status):
    """Given the readiness of the moment, the status follows it and the problems are listed."""
    problems = [] if ready else ["the ledger does not persist"]
    answer = make_relay(readiness=lambda: Readiness(ready=ready, problems=problems)).get("/health/ready", key=None)
    assert (answer.status_code, answer.json) == (status, {"ready": ready, "problems": problems})


def test_a_notice_leaves_it_ready():
    """What operators should know takes no server out of a balancer: sources must be able to post again."""
    answer = make_relay(readiness=lambda: Readiness(ready=True, notices=["quarantined"])).get("/health/ready", key=None)
    assert (answer.status_code, answer.json) == (200, {"ready": True, "problems": [], "notices": ["quarantined"]})


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_can_be_asked_by_head(path):
    """Some balancers do: the status of GET, and no body."""
    answer = make_relay(readiness=lambda: Readiness(ready=False, problems=["the ledger does not persist"])).call("HEAD", path, key=None)
    assert (answer.status_code, answer.content) == (200 if path == "/health/live" else 503, b"")


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/metrics", "/health/live", "/health/ready"])
def test_what_is_open_answers_head_as_it_answers_get(path):
    """The same status and headers without the body (RFC 9110, 9.3.2), and a refusal names both methods."""
    relay = make_relay()
    got, asked = relay.get(path, key=None), relay.call("HEAD", path, key=None)
    assert (asked.status_code, dict(asked.headers), asked.content) == (got.status_code, dict(got.headers), b"")
    assert relay.call("DELETE", path, key=None).headers["allow"] == "GET, HEAD, OPTIONS"


def test_metrics_are_the_ledgers():
    """Given the ledger's snapshot, the text format carries it."""
    answer = make_relay().get("/metrics", key=None)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nconsent_unaccounted 3.0\n" in answer.text


def test_every_figure_has_its_contract_name():
    """Given a snapshot with every figure, each appears once under its name and labels."""
    snapshot = MetricsSnapshot(
        unaccounted=0,
        rescued_total=4,
        stale_sends_total=1,
        deliveries=[("dinamize-news", "applied", "given", 7)],
        dead_letters=[("dinamize-news", "withdrawn", "http_400", 2)],
        oldest_untold_withdrawal_seconds={"dinamize-news": 1.5},
        last_beat_seconds=0.5,
        accept_to_told=LatencyHistogram(buckets=[(0.1, 3), (1, 5)], sum_seconds=2.5, count=6),
        waiting=[("dinamize-news", "given", 9)],
        breaker_open={"dinamize-news": True},
        events={"accepted": 8},
        key_expires_in_days={"dinamize-news": -2},
    )
    lines = [line for line in render_metrics(snapshot).decode().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(
        [
            "consent_unaccounted 0.0",
            "consent_quarantined 0.0",
            "consent_rescued_total 4.0",
            "consent_stale_sends_total 1.0",
            'consent_deliveries_total{destination="dinamize-news",outcome="applied",state="given"} 7.0',
            'consent_dead_letters{destination="dinamize-news",reason="http_400",state="withdrawn"} 2.0',
            'consent_oldest_untold_withdrawal_seconds{destination="dinamize-news"} 1.5',
            "consent_last_beat_seconds 0.5",
            'consent_accept_to_told_seconds_bucket{le="0.1"} 3.0',
            'consent_accept_to_told_seconds_bucket{le="1.0"} 5.0',
            'consent_accept_to_told_seconds_bucket{le="+Inf"} 6.0',
            "consent_accept_to_told_seconds_count 6.0",
            "consent_accept_to_told_seconds_sum 2.5",
            'consent_waiting{destination="dinamize-news",lane="given"} 9.0',
            'consent_breaker_open{account="dinamize-news"} 1.0',
            'consent_events_total{status="accepted"} 8.0',
            'consent_key_expires_in_days{destination="dinamize-news"} -2.0',
            "consent_evidence_waiting_seconds 0.0",
        ]
    )


def test_the_openapi_document_is_valid_and_served():
    """Given the document, it is valid OpenAPI 3.1 and what the address answers."""
    document = build_document()
    validate(document)
    assert make_relay().get("/openapi.json", key=None).json == document
    assert document["openapi"] == "3.1.0"


@pytest.mark.parametrize("kind, alike, apart", [("external_id", "42", "shop-a:42"), ("national_id", "12345678", "DE-12345678")])
def test_the_document_says_that_an_identifier_names_one_person_everywhere(kind, alike, apart):
    """Whoever reads it learns to put a prefix before ids that are counted anew elsewhere; the country beside an id keeps nobody apart, the prefix does."""
    assert build_document()["components"]["schemas"]["Subject"]["properties"][kind]["description"].startswith("Names one person in all ")
    hasher = Hasher(b"pepper")
    keys = [hasher.subject_key(normalise_subject({kind: value, "country": country})) for value, country in ((alike, "BR"), (alike, "DE"), (apart, "DE"))]
    assert keys[0] == keys[1] != keys[2]


def test_every_example_fits_its_schema():
    """Given every example of the document, it holds against the schema beside it."""
    document = build_document()
    checked = 0
    for media in _find(document, "example", beside="schema"):
        schema = {**media["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(media["example"])
        checked += 1
    assert checked > 30


def test_the_posted_example_is_accepted_and_answers_fit_their_schemas():
    """Given the example event and batch, the application takes them and answers what the schemas say."""
    relay = make_relay()
    assert not AcceptedSchema().validate(relay.post(json=examples.EVENT).json)
    answer = relay.post("/v1/consent-events/batch", body=examples.NDJSON, headers={"Content-Type": "application/x-ndjson"})
    assert not BatchSchema().validate(answer.json)
    assert (answer.json["duplicates"], answer.json["accepted"]) == (1, 1)


def test_the_examples_of_the_manual_are_what_the_document_says():
    """Each call of docs/http-api.md goes to a documented address with a body that fits, and its answer is of that call's form."""
    document = build_document()
    text = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
    shown = re.findall(r"^[$] curl -s \"?http://127.0.0.1:8080([^ ?\"]+)(.*?)(?:-d '(.*?)')?\n(\{.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(shown) == text.count("$ curl") == 6
    for path, _, body, answer in shown:
        known = document["paths"][path if path in document["paths"] else "/v1/consent-events/{event_id}"]["post" if body else "get"]
        status = "207" if '"rejected":1' in answer else "202" if "202" in known["responses"] else "200"
        said = [(answer, known["responses"][status])] + ([(body, known["requestBody"])] if body else [])
        for material, where in said:
            schema = {**where["content"]["application/json"]["schema"], "components": document["components"]}
            Draft202012Validator(schema).validate(json.loads(material))


def test_every_route_is_documented():
    """Given each documented path and method, the application knows it; statuses of refusals are the contract's."""
    document = build_document()
    relay = make_relay()
    for path, methods in document["paths"].items():
        for method in methods:
            filled = path.replace("{event_id}", "a").replace("{source}", "web-forms").replace("{url_key}", "x")
            assert relay.call(method.upper(), filled).status_code != 405
    posted = document["paths"]["/v1/consent-events"]["post"]["responses"]
    assert set(posted) == {"202", "400", "401", "403", "408", "409", "413", "415", "422", "429", "500", "503"}
    assert all("500" in operation["responses"] for methods in document["paths"].values() for operation in methods.values())


def test_the_document_has_the_version_of_the_project():
    """One number, in pyproject.toml, wherever it is shown."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert build_document()["info"]["version"] == project["version"] == VERSION


@pytest.mark.parametrize(
    "query,path,message",
    [
        ("limit=0", "limit", "must be from 1 to 500"),
        ("limit=x", "limit", "must be a whole number"),
        ("state=hush", "state", "must be given or withdrawn"),
        ("since=hush", "since", "must be a time with its zone such as 2026-01-05T13:00:00-03:00"),
        ("since=2026-01-05T13:00:00", "since", "must be a time with its zone such as 2026-01-05T13:00:00-03:00"),
        ("hush=1", "hush", "unknown field"),
        ("ana%40example.org=1", "?", "unknown field"),
        ("ana%40example.org=1&ana%40example.org=2", "?", "is given more than once"),
        (f"reason={'x' * 201}", "reason", "must have 1 to 200 characters"),
    ],
)
def test_filters_are_refused_in_the_words_of_events(query, path, message):
    """One style for every refusal, and no value in it."""
    assert errors_of(make_relay().get(f"/v1/dead-letters?{query}")) == [(path, message)]


@pytest.mark.parametrize(
    "body,path,message",
    [
        ({"ids": []}, "ids", "must have 1 to 5000 entries"),
        ({"ids": "x"}, "ids", "must be a list"),
        ({"ids": [5]}, "ids.0", "must be a string"),
        ({"ids": [""]}, "ids.0", "must have 1 to 300 characters"),
        ({"ids": None}, "ids", "must not be null"),
        ({"filter": 5}, "filter", "must be an object"),
        ([], "", "must be an object"),
    ],
)
def test_replays_are_refused_in_the_words_of_events(body, path, message):
    """As above."""
    assert errors_of(make_relay().call("POST", "/v1/dead-letters/replay", json=body)) == [(path, message)]


def test_the_root_address_leads_to_the_page():
    """A browser that is given the bare address finds the documentation."""
    answer = make_relay().get("/", key=None)
    found = (answer.status_code, answer.headers["location"], answer.headers["content-type"], answer.text)
    assert found == (303, "/docs", "text/plain; charset=utf-8", "see /docs\n")


def test_the_page_loads_nothing_and_is_well_formed():
    """Given the documentation page, every element is closed, it names each path, and nothing comes from elsewhere."""
    answer = make_relay().get("/docs", key=None)
    parser = _Balance()
    parser.feed(answer.text)
    assert (parser.open, parser.sources) == ([], [])
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert all(f"<code>{path}</code>" in answer.text for path in build_document()["paths"])


def test_refusals_carry_the_security_header():
    """Given any answer, browsers are told not to guess its type."""
    assert make_relay().get("/nowhere").headers["x-content-type-options"] == "nosniff"
    assert errors_of(make_relay().get("/nowhere")) == [("", "there is nothing here")]
    assert make_relay().post(json=EVENT).headers["x-content-type-options"] == "nosniff"


class _Balance(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name == "src" or (name == "href" and "//" in value)]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _find(node, key, *, beside):
    if isinstance(node, dict):
        if key in node and beside in node:
            yield node
        for child in node.values():
            yield from _find(child, key, beside=beside)
    elif isinstance(node, list):
        for child in node:
            yield from _find(child, key, beside=beside)


def test_a_filter_that_looks_like_a_person_is_not_repeated():
    """Given an unknown condition that is somebody's address, the refusal does not say it."""
    answer = make_relay().post("/v1/dead-letters/replay", json={"filter": {"ana@example.org": 1}, "ana@example.org": 1})
    assert (answer.status_code, paths_of(answer)) == (422, ["?", "filter.?"])
    assert "ana@" not in answer.text
