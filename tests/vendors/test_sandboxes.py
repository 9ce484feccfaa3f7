"""The sandbox server itself: faults on order, what it writes down, and running as a process."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandboxes import SandboxHandle, sandbox_names, start_sandboxes

ROOT = Path(__file__).parents[2]
UPSERT = json.dumps({"contact-list_code": "1", "email": "ana@example.org", "date_rest": "2099-01-01"})
TOKEN = {"auth-token": "test-dinamize-token"}


@pytest.fixture
def sandbox() -> Iterator[SandboxHandle]:
    with start_sandboxes() as handle:
        yield handle


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, timeout: float = 5) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body if body is None or isinstance(body, str) else json.dumps(body), headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def upsert(sandbox: SandboxHandle, timeout: float = 5) -> tuple[int, bytes, dict[str, str]]:
    return ask(sandbox.port, "POST", "/dinamize/emkt/contact/upsert", UPSERT, TOKEN, timeout=timeout)


def test_every_vendor_is_served(sandbox: SandboxHandle) -> None:
    """All sandboxes answer on one port, each with its own state."""
    status, body, _ = ask(sandbox.port, "GET", "/_sandbox")
    assert (status, json.loads(body)) == (200, {"sandboxes": sandbox_names()})
    upsert(sandbox)
    assert [sandbox.state(name)["call_count"] for name in sandbox_names()] == [1 if name == "dinamize" else 0 for name in sandbox_names()]


def test_the_root_address_shows_every_sandbox(sandbox: SandboxHandle) -> None:
    """A page for people: contacts with their states, the last calls, a link to all of it; what was sent cannot change the page."""
    upsert(sandbox)
    sandbox.place("dinamize", list="1", email="<b>@example.org")
    status, body, headers = ask(sandbox.port, "GET", "/")
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert [name for name in sandbox_names() if f'<a href="/_sandbox/{name}/state">' not in page] == []
    assert "<td>1/ana@example.org</td><td>withdrawn</td>" in page
    assert "<td>1/&lt;b&gt;@example.org</td><td>given</td>" in page
    assert "<td>emkt/contact/upsert</td><td>200</td>" in page
    assert sandbox.state("dinamize")["call_count"] == 1


def test_writes_down_each_call(sandbox: SandboxHandle) -> None:
    """A call is recorded with its operation, times, status and how many there were at once and in a minute."""
    upsert(sandbox)
    upsert(sandbox)
    state = json.loads(ask(sandbox.port, "GET", "/_sandbox/dinamize/state?calls=1")[1])
    (call,) = state["calls"]
    assert (call["operation"], call["status"], call["fault"], call["concurrent"], call["in_window"]) == ("emkt/contact/upsert", 200, None, 1, 2)
    assert 0 <= call["answered_at"] - call["arrived_at"] < 5
    assert (state["call_count"], state["max_concurrent"], state["max_in_window"], state["concurrent"]) == (2, 1, 2, 0)
    assert [told["state"] for told in state["history"]["1/ana@example.org"]] == ["withdrawn", "withdrawn"]


def test_forgets_on_reset(sandbox: SandboxHandle) -> None:
    """A reset forgets contacts, calls and faults, and keeps settings."""
    upsert(sandbox)
    ask(sandbox.port, "POST", "/_sandbox/dinamize/settings", {"calls_per_minute": 7})
    ask(sandbox.port, "POST", "/_sandbox/dinamize/faults", [{"kind": "html"}])
    assert ask(sandbox.port, "POST", "/_sandbox/dinamize/reset")[0] == 200
    state = sandbox.state("dinamize")
    assert (state["contacts"], state["call_count"], state["faults"], state["settings"]["calls_per_minute"]) == ({}, 0, [], 7)


@pytest.mark.parametrize(
    "path, body",
    [
        ("dinamize/faults", [{"kind": "earthquake"}]),
        ("dinamize/faults", [{"colour": 1}]),
        ("dinamize/settings", {"colour": 1}),
        ("dinamize/colour", {}),
        ("dinamize/contacts", [{}]),
    ],
)
def test_refuses_what_it_does_not_know(sandbox: SandboxHandle, path: str, body: Any) -> None:
    """A misspelt fault or setting is refused rather than ignored."""
    assert ask(sandbox.port, "POST", f"/_sandbox/{path}", body)[0] == 400


@pytest.mark.parametrize(
    "fault, status, body, held",
    [
        ({"kind": "status", "status": 503, "headers": {"Retry-After": "9"}}, 503, b"", {}),
        ({"kind": "status", "status": 403, "body": {"title": "Forbidden"}}, 403, b'{"title":"Forbidden"}', {}),
        ({"kind": "status", "status": 500, "body": "oops", "applied": True}, 500, b"oops", {"1/ana@example.org": "withdrawn"}),
        ({"kind": "html"}, 200, b"<html><body><h1>Be right back</h1></body></html>", {}),
        ({"kind": "empty"}, 200, b"", {}),
        ({"kind": "redirect"}, 302, b"", {}),
    ],
)
def test_answers_wrongly_on_order(sandbox: SandboxHandle, fault: dict[str, Any], status: int, body: bytes, held: dict[str, str]) -> None:
    """A fault spoils as many answers as ordered, and the next one is right."""
    sandbox.faults("dinamize", fault)
    said = upsert(sandbox)
    assert (said[0], said[1]) == (status, body)
    assert fault.get("headers", {}).items() <= said[2].items()
    assert sandbox.states("dinamize") == held
    assert json.loads(upsert(sandbox)[1])["code"] == "480001"


def test_cuts_an_answer_after_acting(sandbox: SandboxHandle) -> None:
    """A cut answer is half of the right one."""
    sandbox.faults("dinamize", {"kind": "cut_json"})
    said = upsert(sandbox)[1]
    with pytest.raises(json.JSONDecodeError):
        json.loads(said)
    assert sandbox.states("dinamize") == {"1/ana@example.org": "withdrawn"}


@pytest.mark.parametrize("kind, held", [("reset", {}), ("lost_answer", {"1/ana@example.org": "withdrawn"})])
def test_breaks_off(sandbox: SandboxHandle, kind: str, held: dict[str, str]) -> None:
    """A reset comes before acting, a lost answer after it."""
    sandbox.faults("dinamize", {"kind": kind, "times": None, "match": "upsert"})
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        upsert(sandbox)
    assert sandbox.states("dinamize") == held
    assert sandbox.state("dinamize")["concurrent"] == 0


def test_hangs_until_the_client_goes(sandbox: SandboxHandle) -> None:
    """A hanging call counts as open until its client gives up, and changes nothing."""
    sandbox.faults("dinamize", {"kind": "hang"})
    with pytest.raises(TimeoutError):
        upsert(sandbox, timeout=0.1)
    deadline = time.monotonic() + 5
    while sandbox.state("dinamize")["concurrent"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (sandbox.state("dinamize")["concurrent"], sandbox.states("dinamize")) == (0, {})


def test_a_late_write_takes_effect(sandbox: SandboxHandle) -> None:
    """A slow call is carried out although its client has gone: what a relay must reckon with."""
    sandbox.faults("dinamize", {"kind": "latency", "seconds": 0.3})
    with pytest.raises(TimeoutError):
        upsert(sandbox, timeout=0.1)
    assert sandbox.states("dinamize") == {}
    deadline = time.monotonic() + 5
    while not sandbox.states("dinamize") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sandbox.states("dinamize") == {"1/ana@example.org": "withdrawn"}


def test_keeps_connections_open(sandbox: SandboxHandle) -> None:
    """Requests that arrive together on one connection are answered in order, one of them waiting for `100 Continue`."""
    head = f"POST /dinamize/emkt/contact/upsert HTTP/1.1\r\nHost: x\r\nauth-token: test-dinamize-token\r\nContent-Length: {len(UPSERT)}\r\n"
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as raw:
        raw.sendall((f"{head}\r\n{UPSERT}" * 2).encode() + f"{head}Expect: 100-continue\r\n\r\n".encode())
        received = b""
        while b"100 Continue" not in received:
            received += raw.recv(65536)
        raw.sendall(UPSERT.encode())
        while received.count(b'"480001"') < 3:
            received += raw.recv(65536)
    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_runs_as_a_process(tmp_path: Path) -> None:
    """The command writes its port to the ready file, prints one line, serves, and ends on SIGTERM."""
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "tests.sandboxes", "--port", "0", "--vendor", "webhook", "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(ready.read_text())
        assert line == f"ready http://127.0.0.1:{port}\n"
        assert json.loads(ask(port, "GET", "/_sandbox")[1]) == {"sandboxes": ["webhook"]}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_what_a_person_does_at_a_vendor_is_done_by_post(sandbox: SandboxHandle) -> None:
    """An unknown act is named with what there is, looking changes nothing, and each sandbox knows its own acts only."""
    for method, path in (("POST", "dinamize/dance"), ("POST", "webhook/approve"), ("GET", "dinamize/approve"), ("POST", "dinamize/approve")):
        status, body, _ = ask(sandbox.port, method, f"/_sandbox/{path}", "{}")
        assert (status, list(json.loads(body))) == (400, ["error"]), path
    assert "nobody does 'dance' here" in json.loads(ask(sandbox.port, "POST", "/_sandbox/dinamize/dance", "{}")[1])["error"]
