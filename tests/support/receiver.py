"""A receiver of alerts, for tests: a real HTTP server on a free port that keeps what it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "whsec_dGVzdC1hbGVydC1zaWduaW5nLXNlY3JldC0wMDAx"


class Receiver:
    """Takes alerts; `answers` are the next statuses, then 200."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        received = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                received.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(received.answers.pop(0) if received.answers else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def said(self) -> list[tuple[str, str, str | None, int]]:
        """State, kind, where and count of each post."""
        data = [json.loads(body)["data"] for _, body in self.posts]
        return [(each["state"], each["alert"], each["where"], each["count"]) for each in data]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver for the time of a test."""
    found = Receiver()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
