"""One small HTTP/1.1 server for all sandboxes, on its own thread: keep-alive, `/<vendor>/...`, and `/_sandbox/<vendor>/...` to look and to meddle.

Hand-written on asyncio because it must count what is in flight, answer late although the client has gone, and break off in every way.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import struct
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.sandboxes.base import Fault, Reply, Request, Sandbox, as_json
from tests.sandboxes.index_page import index_page

CONTROL = "/_sandbox"
ELSEWHERE = "/_elsewhere"
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Connection(asyncio.Protocol):
    """Reads requests one after another and writes what the server gives back."""

    def __init__(self, server: SandboxServer) -> None:
        self.server = server
        self.buffer = bytearray()
        self.busy = False
        self.continued = False
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.on_lost:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.busy:
            self.next_request()

    def next_request(self) -> None:
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        lines = self.buffer[:head_end].decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length") or 0)
        if len(self.buffer) < head_end + 4 + length:
            if headers.get("expect", "").lower() == "100-continue" and not self.continued:
                self.continued = True
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        body = bytes(self.buffer[head_end + 4 : head_end + 4 + length])
        del self.buffer[: head_end + 4 + length]
        self.busy, self.continued = True, False
        method, target, _ = lines[0].split(" ", 2)
        path, _, query = target.partition("?")
        self.server.serve(self, Request(method, path, dict(parse_qsl(query, keep_blank_values=True)), headers, body, time.time(), target))

    def reply(self, reply: Reply) -> None:
        if self.transport.is_closing():
            return
        head = [f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Status')}"]
        head += [f"{name}: {value}" for name, value in reply.headers]
        if reply.status != 204:
            head += [f"Content-Type: {reply.content_type}", f"Content-Length: {len(reply.body)}"]
        self.transport.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + (reply.body if reply.status != 204 else b""))
        self.busy = False
        if self.buffer:
            self.next_request()

    def reset(self) -> None:
        """Break off with RST rather than an orderly end."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None and not self.transport.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class SandboxServer:
    """Finds the sandbox of a request, applies its faults, and writes down when it came and went."""

    def __init__(self, names: Iterable[str], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.connections: set[Connection] = set()
        self.sandboxes: dict[str, Sandbox] = {name: importlib.import_module(f"tests.sandboxes.{name}").Sandbox() for name in names}
        for sandbox in self.sandboxes.values():
            sandbox.join(self.sandboxes, loop.call_later)

    def serve(self, connection: Connection, request: Request) -> None:
        if request.path == CONTROL or request.path.startswith(f"{CONTROL}/"):
            connection.reply(self.control(request))
            return
        if request.path == "/":
            connection.reply(index_page(self.sandboxes))
            return
        _, vendor, rest = (*request.path.split("/", 2), "")[:3]
        sandbox = self.sandboxes.get(vendor)
        if sandbox is None:
            connection.reply(as_json({"error": "no such sandbox"}, 404))
            return
        request.path = f"/{rest}" if rest else ""
        if request.path == ELSEWHERE:
            sandbox.redirects_followed += 1
        self.begin(connection, sandbox, request)

    def begin(self, connection: Connection, sandbox: Sandbox, request: Request) -> None:
        call = sandbox.arrive(request)
        fault = sandbox.take_fault(request.path)
        call["fault"] = fault and fault.kind
        wait = sandbox.settings["latency_seconds"] + (fault.seconds or 0.0 if fault and fault.kind == "latency" else 0.0)
        if wait:
            self.loop.call_later(wait, self.finish, connection, sandbox, request, call, fault)
        else:
            self.finish(connection, sandbox, request, call, fault)

    def finish(self, connection: Connection, sandbox: Sandbox, request: Request, call: dict[str, Any], fault: Fault | None) -> None:
        kind = fault.kind if fault else "latency"
        if kind == "hang":
            connection.on_lost = lambda: sandbox.leave(call, None)
            self.loop.call_later((fault and fault.seconds) or 3600.0, connection.transport.abort)
            return
        reply = self.answer(sandbox, request, fault)
        sandbox.leave(call, None if kind in {"reset", "lost_answer"} else reply.status)
        if kind == "reset":
            connection.reset()
        elif kind == "lost_answer":
            connection.transport.close()
        else:
            connection.reply(reply)

    def answer(self, sandbox: Sandbox, request: Request, fault: Fault | None) -> Reply:
        if fault is None or fault.kind in {"latency", "lost_answer"}:
            return self.handled(sandbox, request)
        if fault.kind == "lie":
            return sandbox.lie(lambda: self.handled(sandbox, request))
        if fault.kind == "cut_json":
            reply = self.handled(sandbox, request)
            reply.body = reply.body[: len(reply.body) // 2] or b'{"cut'
            return reply
        if fault.applied:
            self.handled(sandbox, request)
        return self.spoilt(sandbox, fault)

    def spoilt(self, sandbox: Sandbox, fault: Fault) -> Reply:
        match fault.kind:
            case "throttle":
                return sandbox.throttled(fault.seconds)
            case "html":
                return Reply(fault.status or 200, b"<html><body><h1>Be right back</h1></body></html>", "text/html")
            case "redirect":
                return Reply(fault.status or 302, headers=(("Location", f"/{sandbox.name}{ELSEWHERE}"),))
            case "status":
                reply = Reply(fault.status or 500, fault.body.encode()) if isinstance(fault.body, str) else Reply(fault.status or 500)
                reply = reply if fault.body is None or isinstance(fault.body, str) else as_json(fault.body, reply.status)
                reply.headers = tuple(fault.headers.items())
                return reply
            case _:
                return Reply(fault.status or 200)

    def handled(self, sandbox: Sandbox, request: Request) -> Reply:
        if not request.path.startswith(sandbox.version_path):
            return as_json({"error": "no such path"}, 404)
        request.path = request.path.removeprefix(sandbox.version_path)
        try:
            return sandbox.handle(request)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # A body of another shape; no vendor documents what comes then.
            return as_json({"error": f"the sandbox cannot read this: {type(error).__name__}"}, 500)

    def control(self, request: Request) -> Reply:
        """`GET .../state`, `POST .../take|reset|faults|settings|contacts` and what a person does at that vendor; everything answers JSON."""
        parts = [unquote(part) for part in request.path.split("/")[2:] if part]
        if not parts:
            return as_json({"sandboxes": sorted(self.sandboxes)})
        sandbox = self.sandboxes.get(parts[0])
        if sandbox is None or len(parts) != 2:
            return as_json({"error": "no such sandbox"}, 404)
        try:
            return as_json(self.meddle(sandbox, parts[1], request))
        except (ValueError, TypeError, KeyError) as error:
            return as_json({"error": str(error)}, 400)

    def meddle(self, sandbox: Sandbox, what: str, request: Request) -> Any:
        match request.method, what:
            case "GET", "state" | "accounts":
                return sandbox.look(what, request.query.get("calls"))
            case "POST", "take":
                return sandbox.take()
            case "POST", "reset":
                sandbox.reset()
            case "POST", "faults":
                sandbox.order(request.json())
            case "POST", "settings":
                sandbox.change(request.json())
            case "POST", "contacts":
                for contact in request.json():
                    sandbox.place(contact)
            case "POST", "forget":
                for contact in request.json():
                    sandbox.forget(contact)
            case "POST", _:
                return sandbox.act(what, request.body)
            case _:
                raise ValueError("unknown; there is GET state, the rest is POST")
        return {"done": True}
