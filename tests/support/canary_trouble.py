"""What goes wrong around canaries: vendors that refuse, break off and quote the person, a killed worker, a server that lets nobody in, and what operators then read."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis

from tests.support import canary_list
from tests.support.canary_list import canary
from tests.support.canary_run import Run
from tests.support.stack import Stack


class Trouble(Run):
    """What goes wrong beside it."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack.url)
        self.stack = stack

    def break_vendors(self) -> None:
        """Refusals for good, outages and answers that quote the person in every place where a vendor says something."""
        email = canary("native", "email")
        quoting = {
            "title": email,
            "detail": email,
            "code": email,
            "code_detail": email,
            "message": email,
            "errors": [{"message": email, "field": email}],
            "id": email,
            "name": email,
        }
        for vendor, fault in {
            "webhook": {"kind": "status", "status": 400, "times": None},
            "mailchimp": {"kind": "status", "status": 400, "body": quoting, "times": 3},
            "dinamize": {"kind": "status", "status": 200, "body": quoting, "times": 2},
            "contacthub": {"kind": "status", "status": 500, "body": quoting, "times": 2},
            "contactsend": {"kind": "status", "status": 500, "body": f"<fault>{email}</fault>", "times": 2},
            "privacy_tools": {"kind": "reset", "times": 2},
            "retargetly": {"kind": "cut_json", "times": 2},
            "maileon": {"kind": "lost_answer", "times": 1},
        }.items():
            self.stack.fault(vendor, fault)

    def break_ourselves(self) -> None:
        """A worker is killed, payloads and values do not open, the server refuses everybody for a moment."""
        os.kill(self.stack.pids("worker-1")[0], signal.SIGKILL)
        with redis.Redis.from_url(self.stack.environment["CONSENT_REDIS_URL"]) as client:
            for name in list(client.scan_iter(match="cr:{e*}:p:*"))[:1]:
                client.set(name, client.get(name)[:4] + b"x" * 40, keepttl=True)
            password = client.connection_pool.connection_kwargs["password"]
            client.config_set("requirepass", "another-password-for-a-moment")
            try:
                others = [each["id"] for each in client.client_list() if each["id"] != str(client.client_id())]
                for number in others:
                    client.client_kill_filter(_id=number)
                answer = self.post(
                    "while the server refuses us",
                    "/v1/consent-events",
                    json.dumps({**canary_list.native_body(), "idempotency_key": None}).encode(),
                    Content_Type="application/json",
                )
                assert answer.status_code == 503, answer.text
                self.places["not ready"] = self.session.get(self.url + "/health/ready", timeout=20).content
                self.places["metrics while away"] = self.session.get(self.url + "/metrics", timeout=20).content
                self.places["doctor while away"] = _said(self.stack.consent("doctor"))
            finally:
                client.config_set("requirepass", password)

    def commands(self, event_id: str) -> None:
        """What an operator reads."""
        folder = self.stack.folder
        (folder / "person.json").write_text(json.dumps({"email": canary("native", "email")}))
        (folder / "send.json").write_text(
            json.dumps([canary_list.native_body(), {**canary_list.native_body(), "subject": {"email": "x" + canary("native", "name")}}])
        )
        lines = operators_commands(event_id, folder)
        with ThreadPoolExecutor(4) as several:
            for words, said in zip(lines, several.map(lambda words: _said(self.stack.consent(*words)), lines), strict=True):
                assert b"Traceback" not in said, said.decode()
                self.places[f"consent {' '.join(words)[:40]}"] = said
        for name in ("send.json", "person.json"):
            (folder / name).unlink()


def operators_commands(event_id: str, folder: Path) -> list[tuple[str, ...]]:
    """Every command that shows rows, and such as refuse what they are given."""
    events, person, letter = str(folder / "send.json"), str(folder / "person.json"), f"{event_id}.crm-webhook"
    return [
        ("status", event_id),
        ("status", event_id, "--json"),
        ("dead", "list"),
        ("dead", "list", "--json"),
        ("dead", "show", letter),
        ("dead", "replay", "--destination", "crm-webhook", "--dry-run"),
        ("subject", person),
        ("subject", person, "--json"),
        ("proof", event_id),
        ("check",),
        ("check", "--previous", str(folder / "consent.yaml")),
        ("doctor",),
        ("doctor", "--vendors"),
        ("ledger", "show"),
        ("evidence", "status"),
        ("reconcile", "--internal"),
        ("backfill", "crm-webhook", "--dry-run"),
        ("vault", "status"),
        ("vault", "reseal"),
        ("send", events),
        ("send", events, "--only", "crm-webhook", "--test"),
        ("destination", "pause", "crm-webhook"),
        ("serve",),
    ]


def _said(done: Any) -> bytes:
    return (done.stdout + done.stderr).encode()
