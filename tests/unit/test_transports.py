"""What every transport promises; each test runs over libcurl and over requests."""

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from exchange_servers import END, HANG, OK, RESET, Server, SlowServer, self_signed

from pipeline.transports.base import Answer, Call, Failure
from pipeline.transports.curl import CurlTransport
from pipeline.transports.portable import PortableTransport


@pytest.fixture(params=[CurlTransport, PortableTransport], ids=["curl", "portable"])
def make(request):
    """Builds transports that are closed at the end."""
    made = []

    def build(**options):
        made.append(request.param(**options))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


@pytest.fixture
def transport(make):
    return make()


def carry(transport, url, *, wait_seconds=10, **options):
    """Submit one call and wait for its answer."""
    ended, answers = threading.Event(), []
    call = Call(**{"method": "POST", "url": url, "allow_private_network": True, "total_timeout_seconds": 3.0, "connect_timeout_seconds": 1.0, **options})
    transport.submit(call, lambda answer: (answers.append(answer), ended.set()))
    assert ended.wait(wait_seconds)
    assert len(answers) == 1
    return answers[0]


def lost(failure, *, may_have_arrived):
    return Answer(None, failure, may_have_arrived=may_have_arrived)


def test_a_call_arrives_as_it_was_meant_and_is_answered(transport):
    """Method, path, headers and body arrive unchanged; header names of the answer are lower-cased."""
    with Server() as server:
        answer = carry(transport, server.url + "/a%20b?q=1", method="PUT", headers=(("Content-Type", "text/x"), ("X-Key", "k")), body=b"a\0b")
        request = server.received.requests[0]
    assert (answer.response.status, answer.response.body, answer.response.headers["x-answer"], answer.failure) == (200, b"ok", "yes", None)
    assert request.startswith(b"PUT /a%20b?q=1 HTTP/1.1\r\n")
    assert b"\r\nContent-Type: text/x\r\n" in request
    assert b"\r\nX-Key: k\r\n" in request
    assert request.endswith(b"\r\n\r\na\0b")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_call_without_a_body_carries_no_media_type(transport, method):
    """Nothing is invented: no body, no content type."""
    with Server() as server:
        answer = carry(transport, server.url, method=method)
        assert answer.response.status == 200
        assert server.received.requests[0].startswith(method.encode() + b" / ")
        assert b"content-type" not in server.received.requests[0].lower()


def test_handles_do_not_carry_one_call_into_the_next(transport):
    """A GET after a POST has no body and none of its headers."""
    with Server() as server:
        carry(transport, server.url, headers=(("X-Key", "k"), ("Content-Type", "text/x")), body=b"first")
        carry(transport, server.url, method="GET")
        second = server.received.requests[1]
    assert second.startswith(b"GET / ")
    assert b"X-Key" not in second
    assert b"first" not in second
    assert b"text/x" not in second


@pytest.mark.parametrize("make_one", [CurlTransport, lambda: PortableTransport(threads=1)], ids=["curl", "portable"])
def test_connections_are_kept(make_one):
    """Calls one after another use one connection."""
    transport = make_one()
    with Server() as server:
        for _ in range(5):
            assert carry(transport, server.url).response.status == 200
        assert (server.received.connections, len(server.received.requests)) == (1, 5)
    transport.close()


def test_a_connection_for_private_addresses_is_not_reused_by_a_call_that_may_not(transport):
    """An open connection to a private address is no way around the check."""
    with Server() as server:
        assert carry(transport, server.url).response.status == 200
        assert carry(transport, server.url, allow_private_network=False) == lost(Failure.ADDRESS_REFUSED, may_have_arrived=False)
        assert (server.received.connections, len(server.received.requests)) == (1, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_a_private_address_is_refused_however_it_is_spelt(transport, host):
    """The dialled address counts, not its spelling; no connection is opened."""
    with Server() as server:
        answer = carry(transport, f"http://{host}:{server.port}/", allow_private_network=False)
        assert answer == lost(Failure.ADDRESS_REFUSED, may_have_arrived=False)
        assert server.received.connections == 0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://", "nonsense"])
def test_only_http_addresses_are_carried(transport, url):
    """Another scheme, or no address at all, is refused."""
    answer = carry(transport, url)
    assert answer.response is None
    assert not answer.may_have_arrived


def test_a_large_answer_is_cut_at_the_cap(transport):
    """An answer longer than allowed is given up, chunked or not."""
    with Server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 200_000) as server:
        assert carry(transport, server.url, max_response_bytes=100_000) == lost(Failure.RESPONSE_TOO_LARGE, may_have_arrived=True)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with Server(lambda _: [chunked] + [b"4000\r\n" + b"x" * 0x4000 + b"\r\n"] * 50) as server:
        assert carry(transport, server.url, max_response_bytes=100_000) == lost(Failure.RESPONSE_TOO_LARGE, may_have_arrived=True)


def test_an_answer_of_exactly_the_cap_is_read(transport):
    """The cap itself is allowed."""
    with Server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000) as server:
        assert len(carry(transport, server.url, max_response_bytes=1000).response.body) == 1000


def test_a_server_that_hangs_times_out(transport):
    """No answer within the total time: timed out, and the request may have arrived."""
    with Server(lambda _: HANG) as server:
        begun = time.monotonic()
        assert carry(transport, server.url, total_timeout_seconds=0.3) == lost(Failure.TIMED_OUT, may_have_arrived=True)
        assert time.monotonic() - begun < 3.0


def drip(head):
    yield head
    for _ in range(100):
        time.sleep(0.05)
        yield b"X"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"], ids=["headers", "body"])
def test_the_total_time_holds_against_a_dripping_server(transport, head):
    """A server that sends a byte now and then cannot keep a call longer than its total time."""
    with Server(lambda _: drip(head)) as server:
        begun = time.monotonic()
        assert carry(transport, server.url, total_timeout_seconds=0.3) == lost(Failure.TIMED_OUT, may_have_arrived=True)
        assert time.monotonic() - begun < 3.0


def test_a_refused_connection_is_definite(transport):
    """Nothing listens: connect failed, and nothing can have arrived."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert carry(transport, f"http://127.0.0.1:{port}/") == lost(Failure.CONNECT_FAILED, may_have_arrived=False)


def test_an_unknown_name_is_definite(transport):
    """A name that does not resolve: connect failed, and nothing can have arrived."""
    answer = carry(transport, "http://nobody.invalid/", total_timeout_seconds=3)
    assert answer.failure in (Failure.CONNECT_FAILED, Failure.TIMED_OUT)
    assert not answer.may_have_arrived


@pytest.mark.parametrize(
    "reply",
    [RESET, [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", RESET], [b"HTTP/1.1 200 OK\r\nContent-Le", RESET]],
    ids=["before", "body", "headers"],
)
def test_a_connection_reset_after_the_request_is_indefinite(transport, reply):
    """The connection breaks before the whole answer came: lost, and the request may have arrived."""
    with Server(lambda _: reply) as server:
        assert carry(transport, server.url, body=b"x") == lost(Failure.CONNECTION_LOST, may_have_arrived=True)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\nX-He", b"HTTP/1.1 200 OK\r\nX-Header: 1\r\n"])
def test_an_answer_that_ends_early_is_no_answer(transport, head):
    """A stream that ends within headers or body is not taken for a success."""
    with Server(lambda _: [head, END]) as server:
        assert carry(transport, server.url, body=b"x") == lost(Failure.CONNECTION_LOST, may_have_arrived=True)


@pytest.mark.parametrize("first", ["HEAD", "GET", "DELETE", "POST"])
def test_methods_may_follow_each_other_on_one_handle(transport, first):
    """Whatever came before, a PUT with a body is a PUT with a body and its answer is read."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    with Server(lambda request: head if request.startswith(b"HEAD") else OK) as server:
        assert carry(transport, server.url, method=first).response.status == 200
        assert carry(transport, server.url, method="PUT", body=b"x").response.body == b"ok"
        assert server.received.requests[1].startswith(b"PUT / ")
        assert server.received.requests[1].endswith(b"\r\n\r\nx")
        assert carry(transport, server.url, method="PUT").response.body == b"ok"
        assert b"\r\nContent-Length: 0\r\n" in server.received.requests[2]


def test_more_calls_than_connections_wait_their_turn():
    """The number of connections is bounded; calls beyond it wait within their total time."""
    transport = CurlTransport(max_connections=2)
    with Server() as server:
        answers, done = [], threading.Event()
        for _ in range(20):
            transport.submit(Call(method="GET", url=server.url, allow_private_network=True), lambda a: (answers.append(a), len(answers) == 20 and done.set()))
        assert done.wait(5)
        assert [answer.response.status for answer in answers] == [200] * 20
        assert server.received.connections <= 2
    transport.close()


def test_no_thread_runs_before_the_first_call(make):
    """A process may fork after building a transport."""
    before = threading.active_count()
    make()
    assert threading.active_count() == before


def test_redirects_are_not_followed(transport):
    """A redirect is an answer like any other; the other place hears nothing."""
    with Server() as other:
        redirect = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        with Server(lambda _: redirect) as server:
            assert carry(transport, server.url, body=b"x").response.status == 307
        assert other.received.connections == 0


def test_cookies_are_not_kept(transport):
    """A cookie that a vendor sets does not come back to it."""
    with Server(lambda _: b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n") as server:
        carry(transport, server.url)
        carry(transport, server.url)
        assert b"cookie" not in server.received.requests[1].lower()


def test_the_environment_is_not_read(transport, monkeypatch, tmp_path):
    """Neither a proxy nor a netrc of the environment has a say."""
    with Server() as proxy, Server() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login l password p\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert carry(transport, server.url).response.status == 200
        assert proxy.received.connections == 0
        assert b"authorization" not in server.received.requests[0].lower()


def test_a_certificate_nobody_vouches_for_is_refused(transport, tmp_path):
    """TLS is verified: a self-signed server is refused and the request is not sent."""
    context, _ = self_signed(tmp_path)
    with Server(tls=context) as server:
        assert carry(transport, server.url, body=b"secret") == lost(Failure.TLS_FAILED, may_have_arrived=False)
        assert server.received.requests == []


def test_a_certificate_that_is_trusted_is_accepted(make, tmp_path):
    """With the right authority a TLS server is spoken to, and the connection is kept."""
    context, authority = self_signed(tmp_path)
    with Server(tls=context) as server:
        transport = make(ca_file=authority)
        assert carry(transport, server.url, body=b"x").response.body == b"ok"
        assert server.received.requests[0].endswith(b"x")


def test_a_plain_server_on_a_tls_address_is_refused(transport):
    """A server that does not speak TLS gets no request."""
    with Server(lambda _: b"HTTP/1.1 400 Bad\r\n\r\n") as server:
        answer = carry(transport, f"https://127.0.0.1:{server.port}/", body=b"x", total_timeout_seconds=1.0)
        assert answer.failure in (Failure.TLS_FAILED, Failure.TIMED_OUT)
        assert not answer.may_have_arrived


def test_a_broken_answer_is_connection_lost(transport):
    """Bytes that are no HTTP end the call as lost."""
    with Server(lambda _: [b"garbage\r\n\r\n", RESET]) as server:
        assert carry(transport, server.url) == lost(Failure.CONNECTION_LOST, may_have_arrived=True)


def test_an_interim_answer_is_skipped(transport):
    """A 100 before the answer is not the answer."""
    with Server(lambda _: b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n" + OK) as server:
        response = carry(transport, server.url, body=b"x").response
        assert (response.status, response.headers.get("x-interim")) == (200, None)


def test_a_kept_connection_that_the_server_closed_is_replaced(transport):
    """A server that closes after each answer without saying so costs a connection, not a call."""
    with Server(lambda _: [OK, RESET]) as server:
        for _ in range(3):
            assert carry(transport, server.url, body=b"x").response.status == 200
            time.sleep(0.05)


def test_many_calls_at_once(make):
    """Hundreds of calls to a slow server go at once, not one after another."""
    transport = make()
    count = 300 if isinstance(transport, CurlTransport) else 32
    done, left = threading.Event(), [count]
    statuses = []

    def on_answer(answer):
        statuses.append(answer.response.status if answer.response else answer.failure)
        left[0] -= 1
        if not left[0]:
            done.set()

    with SlowServer(1.0) as server:
        for _ in range(count):
            transport.submit(Call(method="POST", url=server.url, body=b"x", allow_private_network=True), on_answer)
        assert done.wait(30)
        assert statuses == [200] * count
        assert server.most_at_once >= count // 3  # the first are answered while a busy machine still begins the last
        transport.close()


def test_an_answer_that_raises_does_not_stop_the_next(transport):
    """A caller's bug ends with the caller."""
    with Server() as server:
        transport.submit(Call(method="GET", url=server.url, allow_private_network=True), lambda _: 1 / 0)
        assert carry(transport, server.url).response.status == 200


def test_closing_answers_everything_in_flight(make):
    """What is under way ends as lost, and may have arrived; what comes later is not sent."""
    transport = make()
    with Server(lambda _: HANG) as server:
        answers = []
        for _ in range(3):
            transport.submit(Call(method="POST", url=server.url, body=b"x", allow_private_network=True), answers.append)
        deadline = time.monotonic() + 5
        while len(server.received.requests) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        transport.close()
        assert answers == [lost(Failure.CONNECTION_LOST, may_have_arrived=True)] * 3
        assert carry(transport, server.url) == lost(Failure.CONNECTION_LOST, may_have_arrived=False)
        assert len(server.received.requests) == 3
        assert not transport.post(lambda: None)


def test_closing_twice_or_before_use_is_harmless(make):
    """Close needs no beginning and may be repeated."""
    transport = make()
    transport.close()
    transport.close()


def test_a_call_shows_nothing_personal():
    """Address, headers and body stay out of the repr."""
    text = repr(Call(method="POST", url="https://v.example/someone", headers=(("Authorization", "hush"),), body=b"hush"))
    assert "someone" not in text
    assert "hush" not in text


def test_nothing_personal_is_logged(transport, caplog):
    """A call that cannot be sent is logged without its address."""
    caplog.set_level("DEBUG")
    with Server() as server:
        carry(transport, server.url + "/someone", body=b"x")
        carry(transport, "ftp://127.0.0.1/someone")
    assert "someone" not in caplog.text


def test_a_request_that_may_have_arrived_is_not_sent_again_in_silence(transport):
    """A kept connection that breaks off after the request was read ends the call: the library must not repeat it by itself."""
    answers = iter([OK, RESET, OK])
    with Server(lambda _: next(answers)) as server:
        assert carry(transport, server.url, body=b"first").response.status == 200
        lost = carry(transport, server.url, body=b"second")
        assert (lost.response, lost.failure, lost.may_have_arrived) == (None, Failure.CONNECTION_LOST, True)
        assert [request.rpartition(b"\r\n")[2] for request in server.received.requests] == [b"first", b"second"]
