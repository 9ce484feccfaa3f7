"""A receiver of Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks, spec of 2024): checks signatures, keeps every arrival.

Keeps the last state by arrival for each (identifier, purpose), and drops no repeat, so that a test sees all that was sent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any, ClassVar

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request, as_json

SECRET = "whsec_" + base64.b64encode(b"test-webhook-signing-secret-0001").decode()


class Sandbox(base.Sandbox):
    name = "webhook"
    defaults: ClassVar = {"secret": SECRET, "tolerance_seconds": 300.0}

    def reset(self) -> None:
        super().reset()
        self.messages: list[dict[str, Any]] = []

    def account_of(self, request: Request) -> str:
        return request.path.strip("/")

    def take(self) -> dict[str, Any]:
        taken = super().take()
        self.messages = []
        return taken

    def operation(self, request: Request) -> str:
        return "post"

    def handle(self, request: Request) -> Reply:
        if request.method != "POST":
            return as_json({"error": "POST only"}, 405)
        if not self.is_signed(request):
            return as_json({"error": "signature"}, 401)
        message = request.json()
        if not isinstance(message, dict) or "type" not in message or "data" not in message:
            return as_json({"error": "not a message"}, 400)
        events = message["data"] if message["type"] == "consent.batch" else [message["data"]]
        self.messages.append({"id": request.headers["webhook-id"], "type": message["type"], "events": len(events), "at": time.time()})
        for event in events:
            self.note(event, request)
        return Reply(204)

    def note(self, event: dict[str, Any], request: Request) -> None:
        place = request.path.strip("/")
        for kind, value in event["subject"].items():
            key = f"{place}/{kind}:{value}/{event['purpose']}" if place else f"{kind}:{value}/{event['purpose']}"
            self.contacts[key] = {"state": event["state"], "event_id": event["event_id"], "event_time": event["event_time"]}
            self.told(key, event["state"], event_id=event["event_id"], webhook_id=request.headers["webhook-id"])

    def is_signed(self, request: Request) -> bool:
        given = [request.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")]
        if not all(given) or not given[1].isdigit() or abs(time.time() - int(given[1])) > self.settings["tolerance_seconds"]:
            return False
        key = base64.b64decode(self.settings["secret"].removeprefix("whsec_"))
        expected = base64.b64encode(hmac.digest(key, f"{given[0]}.{given[1]}.".encode() + request.body, hashlib.sha256)).decode()
        return any(hmac.compare_digest(part, f"v1,{expected}") for part in given[2].split())

    def snapshot(self, most_calls: int | None = None) -> dict[str, Any]:
        return {**super().snapshot(most_calls), "messages": list(self.messages)}
