"""The driver of dialogues, over both transports and real local servers."""

import gc
import socket
import sys
import threading
import time
import weakref
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from msgspec import structs

sys.path.insert(0, str(Path(__file__).parent))
from exchange_servers import HANG, OK, RESET, Server, SlowServer

from config.settings import load_settings
from pipeline.domain import Outcome, VendorResult
from pipeline.exchange import Exchange, Work
from pipeline.identifiers import Hasher
from pipeline.transports.curl import CurlTransport
from pipeline.transports.portable import PortableTransport
from pipeline.vendors.base import Adapter, Held, Option, SignIn, VendorRequest, unreadable
from tests.support.parts import HASHER
from tests.support.stack import wait_until
from workers import options

APPLIED = VendorResult(outcome=Outcome.APPLIED)
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
SECRET = "hush-hush"
SESSION = "main:login"
"""The session of every vendor here, where a test does not look at who signs in."""


class Memory:
    """Sessions kept in a dict, counting how they are used; all have as long left."""

    seconds_left = 60.0

    def __init__(self, **held):
        self.held, self.log = held, []

    def get(self, session):
        self.log.append(("get", session))
        return (self.held[session], self.seconds_left) if session in self.held else None

    def put(self, session, token, ttl_seconds):
        self.log.append(("put", session, token, ttl_seconds))
        self.held[session] = token

    def drop(self, session, token):
        self.log.append(("drop", session, token))
        if self.held.get(session) == token:
            del self.held[session]


class Plain(Adapter):
    """A vendor of one call for each instruction."""

    title = "Plain"
    calls = 1

    def tell(self, instructions):
        for _ in range(self.calls):
            response = yield VendorRequest(operation="tell", path="/tell", body=b"x")
        return [APPLIED if response.status == 200 else unreadable() for _ in instructions]

    def ask(self, _subject, _options):
        response = yield VendorRequest(operation="ask", method="GET", path="/ask", query=(("q", "a b&c"),))
        return Held(vendor_reference=response.body.decode())

    def sign(self, request, token):
        return structs.replace(request, headers=(*request.headers, ("Authorization", f"{SECRET} {token}")))


class Signing(Plain):
    """A vendor with session tokens `t1`, `t2`, ..."""

    refusal = None
    life_seconds = 60.0

    def needs_session(self):
        return True

    def is_signed_out(self, response):
        return response.status == 401

    def sign_in(self):
        response = yield VendorRequest(operation="sign_in", path="/sign-in")
        if self.refusal:
            return SignIn(refusal=self.refusal)
        return SignIn(token=response.body.decode(), expires_in_seconds=self.life_seconds)


class Login(Signing):
    """The same, signed in to with a password."""

    credentials: ClassVar = {"password": Option(description="with which we sign in", required=True)}


class SessionVendor:
    """The other side of Signing: every sign-in makes the tokens before it invalid."""

    def __init__(self, *, always_refuse=False):
        self.sign_ins, self.always_refuse, self.lock = 0, always_refuse, threading.Lock()

    def __call__(self, request):
        if b"/sign-in" in request.split(b"\r\n")[0]:
            with self.lock:
                self.sign_ins += 1
                token = f"t{self.sign_ins}".encode()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(token), token)
        good = f"{SECRET} t{self.sign_ins}\r\n".encode()
        return OK if good in request and not self.always_refuse else REFUSED


@pytest.fixture
def sessions():
    return Memory()


@pytest.fixture(params=[CurlTransport, PortableTransport], ids=["curl", "portable"])
def exchange(request, sessions):
    made = Exchange(request.param(), sessions, total_timeout_seconds=2.0, connect_timeout_seconds=1.0, max_response_bytes=10_000, session_key=lambda _: "login")
    yield made
    made.close()


def work(server, adapter_class=Plain, *, size=1, seconds=30.0, allow=True, dialogue=None, url=None):
    adapter = adapter_class(base_url=url or server.url)
    return Work(
        adapter=adapter,
        dialogue=dialogue or adapter.tell([None] * size),
        account="main",
        size=size,
        allow_private_network=allow,
        deadline=time.monotonic() + seconds,
    )


def ended(result):
    """Outcome, reason and definiteness of the only result, and the calls made."""
    (only,) = result.results
    assert result.definite == only.definite
    return only.outcome, only.reason, only.definite, result.calls


def test_a_dialogue_is_signed_sent_and_answered(exchange):
    """One request, signed just before it is sent; one result for each instruction."""
    with Server() as server:
        result = exchange.run(work(server, size=3))
        assert (result.results, result.calls, result.definite, result.failure) == ((APPLIED,) * 3, 1, True, None)
        assert f"Authorization: {SECRET} None\r\n".encode() in server.received.requests[0]
        assert server.received.requests[0].startswith(b"POST /tell HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "adapter_class,answer", [(Plain, OK), (Signing, OK), (Plain, RESET), (Plain, b"no HTTP")], ids=["told", "signed in", "lost", "unreadable"]
)
def test_what_was_told_is_freed_at_once(exchange, adapter_class, answer):
    """A dialogue that ended is held by nobody, without Python having to look for cycles: each would keep its events in memory until then."""
    with Server(lambda _: answer) as server:
        exchange.run(work(server, adapter_class))  # what is made once for all
        gc.disable()
        try:
            told = work(server, adapter_class)
            dialogue = weakref.ref(told.dialogue)
            exchange.run(told)
            del told
            wait_until(lambda: dialogue() is None, 5.0)
        finally:
            gc.enable()


def test_an_ask_returns_what_the_vendor_holds(exchange):
    """An ask has no instructions; its query is percent-encoded."""
    with Server() as server:
        adapter = Plain(base_url=server.url)
        result = exchange.run(work(server, size=0, dialogue=adapter.ask(None, {})))
        assert (result.results, result.calls, result.failure) == (Held(vendor_reference="ok"), 1, None)
        assert server.received.requests[0].startswith(b"GET /ask?q=a%20b%26c HTTP/1.1\r\n")


def test_an_ask_may_stand_in_for_a_tell(exchange):
    """An ask with one instruction returns what is held; if it fails, that is the result of the instruction."""
    with Server() as server:
        adapter = Plain(base_url=server.url)
        assert exchange.run(work(server, dialogue=adapter.ask(None, {}))).results == Held(vendor_reference="ok")
    with Server(lambda _: RESET) as server:
        adapter = Plain(base_url=server.url)
        assert ended(exchange.run(work(server, dialogue=adapter.ask(None, {})))) == (Outcome.UNAVAILABLE, "connection_lost", False, 1)


def test_a_failed_ask_is_not_readable(exchange):
    """An ask that could not be carried says so, with the reason beside it."""
    with Server(lambda _: RESET) as server:
        adapter = Plain(base_url=server.url)
        result = exchange.run(work(server, size=0, dialogue=adapter.ask(None, {})))
        assert result.results == Held(readable=False)
        assert result.failure.reason == "connection_lost"


@pytest.mark.parametrize(
    "answer,reason",
    [(HANG, "timed_out"), (RESET, "connection_lost"), (b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000, "response_too_large")],
)
def test_a_request_without_an_answer_is_unavailable_and_indefinite(exchange, answer, reason):
    """The vendor may have acted: every instruction is unavailable, and not definite."""
    with Server(lambda _: answer) as server:
        result = exchange.run(work(server, size=2))
        assert result.results == (VendorResult(outcome=Outcome.UNAVAILABLE, reason=reason, definite=False),) * 2
        assert (result.calls, result.definite) == (1, False)


def test_a_refused_connection_is_definite(exchange):
    """Nobody can have acted where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert ended(exchange.run(work(None, url=url))) == (Outcome.UNAVAILABLE, "connect_failed", True, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_misconfigured(exchange, host):
    """A destination that may not reach private networks does not, however its address is spelt."""
    with Server() as server:
        result = exchange.run(work(server, allow=False, url=f"http://{host}:{server.port}"))
        assert ended(result) == (Outcome.MISCONFIGURED, "address_refused", True, 1)
        assert server.received.connections == 0


def test_after_the_deadline_nothing_is_sent(exchange):
    """A work whose deadline has passed is put back unsent."""
    with Server() as server:
        assert ended(exchange.run(work(server, seconds=-1.0))) == (Outcome.THROTTLED, "deadline_passed", True, 0)
        assert ended(exchange.run(work(server, Signing, seconds=-1.0))) == (Outcome.THROTTLED, "deadline_passed", True, 0)
        assert server.received.connections == 0


def test_the_deadline_is_looked_at_before_every_request(exchange):
    """The second request of a dialogue does not start after the deadline."""

    class Twice(Plain):
        calls = 2

    def slow(_request):
        time.sleep(0.3)
        return OK

    with Server(slow) as server:
        assert ended(exchange.run(work(server, Twice, seconds=0.2))) == (Outcome.THROTTLED, "deadline_passed", True, 1)
        assert len(server.received.requests) == 1


def raising(_message):
    yield VendorRequest(operation="tell", path="/tell")
    raise KeyError(_message)


def raising_at_once(message):
    raise KeyError(message)
    yield


def too_few():
    yield VendorRequest(operation="tell", path="/tell")
    return []


def no_result():
    yield VendorRequest(operation="tell", path="/tell")
    return [None]


@pytest.mark.parametrize(
    "dialogue,definite,calls",
    [
        (lambda: raising("someone@example.com"), False, 1),
        (lambda: raising_at_once("someone@example.com"), True, 0),
        (too_few, False, 1),
        (no_result, False, 1),
    ],
    ids=["after a request", "at once", "too few results", "something else for a result"],
)
def test_a_bug_in_a_vendor_file_ends_its_dialogue_only(exchange, caplog, dialogue, definite, calls):
    """The result says adapter_error; the log names the type of the error and nothing it quotes."""
    with Server() as server:
        assert ended(exchange.run(work(server, dialogue=dialogue()))) == (Outcome.UNAVAILABLE, "adapter_error", definite, calls)
        assert exchange.run(work(server)).results == (APPLIED,)
    assert [record.getMessage() for record in caplog.records] == ["adapter_error"]
    assert "someone" not in str([vars(record) for record in caplog.records])


def test_signatures_name_the_time_that_all_processes_share():
    """What is signed is dated by the clock the exchange is given, not by this machine's own, which may be hours off."""
    dated = []

    class Dating(Plain):
        def sign(self, request, token):
            dated.append(request.sent_at)
            return request

    made = Exchange(CurlTransport(), Memory(), clock=lambda: 1_767_614_400.5)
    try:
        with Server() as server:
            assert made.run(work(server, Dating)).results == (APPLIED,)
    finally:
        made.close()
    assert dated == [1_767_614_400.5]


@pytest.mark.parametrize(
    "request_made",
    [
        VendorRequest(operation="tell", path="/members/.."),
        VendorRequest(operation="tell", path="/members/%2E%2e/all"),
        VendorRequest(operation="tell", path="/a b"),
        VendorRequest(operation="tell", path="/a\r\nX: y"),
        VendorRequest(operation="tell", path="/ä"),
        VendorRequest(operation="tell", headers=(("X-Name", "a\r\nX-Other: b"),)),
        VendorRequest(operation="tell", headers=(("X-Name", "a\0b"),)),
    ],
)
def test_a_request_that_would_go_elsewhere_is_not_sent(exchange, request_made):
    """Dot segments, line breaks and characters no URL has end as rejected, before anything is sent."""

    def dialogue():
        yield request_made

    with Server() as server:
        assert ended(exchange.run(work(server, dialogue=dialogue()))) == (Outcome.REJECTED, "unsafe_request", True, 0)
        assert server.received.connections == 0


def test_a_session_is_opened_once_for_all_that_wait(exchange, sessions):
    """Twenty dialogues of one account share one sign-in; its call is counted once and its token is stored."""
    vendor = SessionVendor()
    with Server(vendor) as server:
        results = run_all(exchange, [work(server, Signing) for _ in range(20)])
        assert [result.results for result in results] == [(APPLIED,)] * 20
        assert (vendor.sign_ins, sum(result.calls for result in results)) == (1, 21)
    exchange.close()
    assert sessions.log == [("get", SESSION), ("put", SESSION, "t1", 60.0)]


def test_a_stored_session_is_used(exchange, sessions):
    """A token that another process stored saves the sign-in."""
    vendor = SessionVendor()
    vendor.sign_ins, sessions.held[SESSION] = 7, "t7"
    with Server(vendor) as server:
        assert exchange.run(work(server, Signing)).calls == 1
    assert vendor.sign_ins == 7


def test_a_stored_session_is_held_no_longer_than_the_store_keeps_it(exchange, sessions):
    """Once it has ended, it is not used any more, even where the vendor would not say that it has."""
    vendor = SessionVendor()
    vendor.sign_ins, sessions.held[SESSION], sessions.seconds_left = 7, "t7", 0.3
    with Server(vendor) as server:
        assert exchange.run(work(server, Signing)).calls == 1
        time.sleep(0.3)
        assert [exchange.run(work(server, Signing)).calls for _ in range(2)] == [2, 1]
    assert vendor.sign_ins == 8


def test_a_session_of_unsaid_length_ends_for_all_at_once(exchange, sessions, monkeypatch):
    """Where the vendor does not say how long a token lives, who signed in holds it as long as the store does."""

    class Unsaid(Signing):
        life_seconds = None

    monkeypatch.setattr("pipeline.sessions.LIFE_SECONDS", 0.3)
    with Server(SessionVendor()) as server:
        assert exchange.run(work(server, Unsaid)).calls == 2
        time.sleep(0.3)
        assert exchange.run(work(server, Unsaid)).calls == 2
    exchange.close()
    assert [entry for entry in sessions.log if entry[0] == "put"] == [("put", SESSION, "t1", 0.3), ("put", SESSION, "t2", 0.3)]


def test_an_expired_session_is_renewed_once(exchange, sessions):
    """A signed-out answer drops the token, signs in and repeats the refused request: three calls, one renewal for all."""
    vendor = SessionVendor()
    vendor.sign_ins, sessions.held[SESSION] = 7, "t3"
    with Server(vendor) as server:
        result = exchange.run(work(server, Signing))
        assert (result.results, result.calls, result.definite) == ((APPLIED,), 3, True)
        results = run_all(exchange, [work(server, Signing) for _ in range(10)])
        assert sum(result.calls for result in results) == 10
    exchange.close()
    assert vendor.sign_ins == 8
    assert sessions.log == [("get", SESSION), ("drop", SESSION, "t3"), ("get", SESSION), ("put", SESSION, "t8", 60.0)]


def test_a_session_renewed_elsewhere_is_taken_over(exchange, sessions):
    """Signed out because another process signed in: its newer token is used, no sign-in of our own."""
    vendor = SessionVendor()
    vendor.sign_ins, sessions.held[SESSION] = 1, "t1"
    with Server(vendor) as server:
        assert exchange.run(work(server, Signing)).calls == 1
        vendor.sign_ins, sessions.held[SESSION] = 2, "t2"
        assert exchange.run(work(server, Signing)).calls == 2
    assert vendor.sign_ins == 2


def test_another_login_never_finds_a_session(sessions):
    """Other credentials or another address under the same name are signed in for, in this process and after a restart; the same ones share a session."""
    made = [options.exchange(load_settings({}), sessions, hasher=HASHER) for _ in range(2)]
    with Server(SessionVendor()) as server, Server(SessionVendor()) as other:
        for login, (url, password) in enumerate(((server.url, "first"), (server.url, "second"), (other.url, "second")), 1):
            adapter = Login(base_url=url, credentials={"password": password})
            for exchange, calls in zip(made, (2, 1), strict=True):
                result = exchange.run(structs.replace(work(server), adapter=adapter, dialogue=adapter.tell([None])))
                assert (result.results, result.calls) == ((APPLIED,), calls)
                wait_for(lambda login=login: len(sessions.held) == login)
        for exchange in made:
            exchange.close()
    assert sorted(sessions.held.values()) == ["t1", "t1", "t2"]


def test_the_name_of_a_session_gives_no_credential_away(sessions):
    """It takes the pepper to make it, and without one an exchange makes names that no other finds."""
    digest = Login(base_url="https://vendor.example", credentials={"password": "first"}).login_digest()
    assert HASHER.session_key(digest) == Hasher(b"pepper-for-tests").session_key(digest) != Hasher(b"another-pepper").session_key(digest)
    with Server(SessionVendor()) as server:
        for _ in range(2):
            with closing(Exchange(CurlTransport(), sessions)) as exchange:
                assert exchange.run(work(server, Signing)).calls == 2
    assert len(sessions.held) == 2


def test_a_second_refusal_is_misconfigured(exchange):
    """A session is renewed once, not for ever."""
    vendor = SessionVendor(always_refuse=True)
    with Server(vendor) as server:
        assert ended(exchange.run(work(server, Signing))) == (Outcome.MISCONFIGURED, "session_refused", True, 4)
    assert vendor.sign_ins == 2


def test_a_refused_sign_in_is_the_result_of_all_that_wait(exchange):
    """Nobody sends anything without a session."""

    class Refusing(Signing):
        refusal = VendorResult(outcome=Outcome.MISCONFIGURED, reason="bad_password")

    with Server() as server:
        results = run_all(exchange, [work(server, Refusing, size=2) for _ in range(3)])
        assert [result.results for result in results] == [(Refusing.refusal,) * 2] * 3
        assert all(b"/tell" not in request for request in server.received.requests)


def test_a_lost_sign_in_is_definite(exchange):
    """The answer to the sign-in was lost, but the request that waited for it was never sent."""
    with Server(lambda _: RESET) as server:
        outcome, reason, definite, _ = ended(exchange.run(work(server, Signing)))
        assert (outcome, reason, definite) == (Outcome.UNAVAILABLE, "connection_lost", True)


@pytest.mark.parametrize("exchange", [CurlTransport], indirect=True, ids=["curl"])
def test_a_store_that_is_away_costs_a_sign_in_and_no_more(exchange, sessions, monkeypatch):
    """Without the store this process signs in for itself."""
    for name in ("get", "put", "drop"):
        monkeypatch.setattr(sessions, name, lambda *_: 1 / 0)
    with Server(SessionVendor()) as server:
        assert exchange.run(work(server, Signing)).results == (APPLIED,)


def test_a_callback_that_raises_does_not_stop_the_exchange(exchange):
    """Whoever takes a result badly harms nobody else."""
    with Server() as server:
        exchange.start(work(server), lambda _work, _result: 1 / 0)
        assert exchange.run(work(server)).results == (APPLIED,)


def test_closing_ends_what_is_in_flight_and_refuses_what_comes_later(exchange):
    """In flight: lost and indefinite. Later: lost, definite, nothing sent."""
    with Server(lambda _: HANG) as server:
        results = []
        exchange.start(work(server), lambda _work, result: results.append(result))
        wait_for(lambda: server.received.requests)
        exchange.close()
        assert [ended(result) for result in results] == [(Outcome.UNAVAILABLE, "connection_lost", False, 1)]
        assert ended(exchange.run(work(server))) == (Outcome.UNAVAILABLE, "connection_lost", True, 0)
        assert len(server.received.requests) == 1


def test_closing_lets_those_go_that_wait_for_a_session(exchange):
    """Whoever waits for a sign-in that hangs gets a result all the same, and was not sent."""
    with Server(lambda _: HANG) as server:
        results = []
        for _ in range(3):
            exchange.start(work(server, Signing), lambda _work, result: results.append(result))
        wait_for(lambda: server.received.requests)
        exchange.close()
        assert [ended(result)[:3] for result in results] == [(Outcome.UNAVAILABLE, "connection_lost", True)] * 3


def test_hundreds_of_dialogues_run_at_once(sessions):
    """Three hundred dialogues with a vendor that takes its time are under way together, or nearly."""
    exchange = Exchange(CurlTransport(), sessions)
    with SlowServer(1.0) as server:
        results = run_all(exchange, [work(server) for _ in range(300)])
        exchange.close()
    assert [result.results for result in results] == [(APPLIED,)] * 300
    assert server.most_at_once >= 100


def test_work_shows_no_secret_and_nothing_personal():
    """A work may be logged."""
    adapter = Plain(base_url="https://v.example")
    assert "v.example" not in repr(Work(adapter=adapter, dialogue=adapter.tell([None]), account="main", size=1, deadline=0.0))


def run_all(exchange, works):
    results, done = [], threading.Event()

    def on_done(_work, result):
        results.append(result)
        if len(results) == len(works):
            done.set()

    for one in works:
        exchange.start(one, on_done)
    assert done.wait(15)
    return results


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()
