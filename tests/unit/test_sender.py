"""`consent send`: what files say, and how a busy relay is met."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from workers.sender import Sender, SendingFailed, read_events


@pytest.fixture
def relay():
    """A relay that answers as its list says, and notes what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.seen.append((self.path, self.headers["Authorization"], body))
            status, answer, *headers = server.answers.pop(0)
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.answers = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def test_batches_are_counted_and_refusals_have_their_place_in_the_file(relay):
    """The index is the file's, not the batch's."""
    relay.answers = [
        (202, {"results": [{"index": 0, "status": "accepted", "event_id": "a"}, {"index": 1, "status": "duplicate", "event_id": "b"}]}),
        (
            207,
            {
                "results": [
                    {"index": 0, "status": "rejected", "errors": [{"path": "purpose", "message": "is unknown"}]},
                    {"index": 1, "status": "superseded", "event_id": "c"},
                ]
            },
        ),
    ]
    result = Sender(relay.url, "k").send([1, 2, 3, 4], batch=2)
    assert (result.accepted, result.duplicates, result.superseded, result.refused) == (1, 1, 1, [(2, "purpose: is unknown")])
    assert relay.seen == [("/v1/consent-events/batch", "Bearer k", [1, 2]), ("/v1/consent-events/batch", "Bearer k", [3, 4])]


def test_a_busy_relay_is_asked_again(relay):
    """503 and 429 are waited for, with growing waits, and as long as `Retry-After` asks, within reason."""
    waits = []
    relay.answers = [
        (503, {}),
        (429, {}),
        (429, {}, ("Retry-After", "3")),
        (503, {}, ("Retry-After", "9999")),
        (202, {"results": [{"index": 0, "status": "accepted", "event_id": "a"}]}),
    ]
    assert Sender(relay.url, "k", sleep=waits.append).send([1]).accepted == 1
    assert waits == [0.4, 0.8, 3.0, 60.0]


def test_a_wrong_key_ends_it_at_once(relay):
    """401 does not get better, and the key is not in the text."""
    relay.answers = [(401, {})]
    with pytest.raises(SendingFailed, match="answered 401") as caught:
        Sender(relay.url, "hush").send([1])
    assert len(relay.seen) == 1
    assert "hush" not in str(caught.value)


def test_an_absent_relay_is_tried_six_times():
    """Then the text names the address."""
    waits = []
    with pytest.raises(SendingFailed, match=r"127\.0\.0\.1:1 cannot be reached"):
        Sender("http://127.0.0.1:1", "k", sleep=waits.append).send([1])
    assert len(waits) == 5


def test_files_are_read_by_their_ending(tmp_path):
    """JSON objects and arrays, NDJSON with empty lines, CSV with identifiers in the subject and dotted columns."""
    one, many, lines, sheet = (tmp_path / name for name in ("one.json", "many.json", "lines.ndjson", "sheet.csv"))
    one.write_text('{"a": 1}')
    many.write_text('[{"a": 1}, {"a": 2}]')
    lines.write_text('{"a": 1}\n\n{"a": 2}\n')
    sheet.write_text("\ufeffemail,national_id,purpose,profile.name,metadata.campaign\nana@example.org,00123456789,newsletter,Ana,\n")
    assert read_events(str(one)) == [{"a": 1}]
    assert read_events(str(many)) == read_events(str(lines)) == [{"a": 1}, {"a": 2}]
    assert read_events(str(sheet)) == [
        {"subject": {"email": "ana@example.org", "national_id": "00123456789"}, "purpose": "newsletter", "profile": {"name": "Ana"}}
    ]
    assert read_events("-", io.StringIO('{"a": 1}\n')) == [{"a": 1}]


def test_an_unreadable_file_is_named_by_line_and_not_quoted(tmp_path):
    """The line may hold a person."""
    broken = tmp_path / "broken.ndjson"
    broken.write_text('{"a": 1}\n{"email": "ana@example.org"\n')
    with pytest.raises(ValueError, match="line 2 is no JSON") as caught:
        read_events(str(broken))
    assert "ana" not in str(caught.value)


def test_columns_that_contradict_each_other_are_named(tmp_path):
    """`subject` cannot be a text and hold an e-mail address; the cells, which may name a person, are not quoted."""
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("subject,email\nana,ana@example.org\n")
    with pytest.raises(ValueError, match="one column is part of another: subject, email") as caught:
        read_events(str(sheet))
    assert "ana" not in str(caught.value).removeprefix(str(sheet))


def test_a_refusal_of_all_has_the_relays_words(relay):
    """A wrong key is named by the variable that holds it; what a proxy between says is not repeated."""
    words = {"title": "A valid key is needed", "errors": [{"path": "authorization", "message": "no valid key was given"}]}
    kind = ("Content-Type", "application/problem+json")
    asked = "is CONSENT_KEY a key of the source that these events come from, with the scope `ingest`?"
    answered = f"{relay.url}/v1/consent-events/batch answered"
    for answer, text in (
        ((401, words, kind), f"{answered} 401 Unauthorized: authorization: no valid key was given; {asked}"),
        ((404, {"title": "There is nothing here", "errors": []}, kind), f"{answered} 404 Not Found: There is nothing here"),
        ((403, {"title": "Go away"}), f"{answered} 403 Forbidden: {asked}"),
        ((400, words), f"{answered} 400 Bad Request"),
    ):
        relay.answers = [answer]
        with pytest.raises(SendingFailed) as caught:
            Sender(relay.url, "k").send([1])
        assert str(caught.value) == text
