"""Ten destinations with limits of their own, each at a sandbox account that meters what it is asked: calls in any sliding window, and calls at once."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.sandboxes.webhook import SECRET
from tests.support.stack import Stack, running_stack
from tests.support.world import SHORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One destination and what its vendor allows; `calls` None means no limit on the rate."""

    name: str
    concurrent: int
    calls: int | None = None
    per_seconds: float = 1.0
    vendor: str = "webhook"
    options: str = "{}"
    purposes: str = "news"

    @property
    def place(self) -> str:
        """The account's name at its sandbox."""
        return self.name if self.vendor == "webhook" else ""

    def yaml(self) -> str:
        path = {"webhook": f"webhook/{self.name}", "dinamize": "dinamize", "mailchimp": "mailchimp/3.0"}[self.vendor]
        credentials = {"webhook": f'secret: "{SECRET}"', "dinamize": "token: test-dinamize-token", "mailchimp": "api_key: test-mailchimp-key-us1"}
        rate = f"calls: {self.calls}, per_seconds: {self.per_seconds:g}, " if self.calls else ""
        return f"""
  {self.name}:
    vendor: {self.vendor}
    base_url: "http://127.0.0.1:${{CONSENT_SANDBOX_PORT}}/{path}"
    allow_private_network: true
    credentials: {{{credentials[self.vendor]}}}
    options: {self.options}
    rate: {{{rate}concurrent: {self.concurrent}}}"""


ACCOUNTS = (
    Account(name="hangs", concurrent=4),
    Account(name="fails", concurrent=4),
    Account(name="throttles", concurrent=4),
    Account(name="open-wide", concurrent=6),
    Account(name="two-at-once", concurrent=2),
    Account(name="one-at-once", concurrent=1),
    Account(name="by-the-second", concurrent=4, calls=10),
    Account(name="by-three-seconds", concurrent=8, calls=30, per_seconds=3),
    Account(name="two-calls-each", concurrent=4, calls=16, per_seconds=2, vendor="dinamize", options='{list_code: "1"}'),
    Account(name="in-bulk", concurrent=3, calls=6, per_seconds=2, vendor="mailchimp", options="{list_id: test-list}"),
)
"""The ten that are told of everything."""
HEALTHY = ("open-wide", "two-at-once", "one-at-once", "by-the-second")
"""Those whose throughput is compared: the vendor's window, where it has one, is shorter than a phase, or bursts would be compared with pauses."""
FAULTY: Mapping[str, Mapping[str, Any]] = {
    "hangs": {"kind": "hang", "times": None, "seconds": 20.0, "match": "hangs"},
    "fails": {"kind": "status", "times": None, "status": 500, "match": "fails"},
    "throttles": {"kind": "throttle", "times": None, "seconds": 1, "match": "throttles"},
}
NARROW = Account(name="narrow", concurrent=2, calls=20, per_seconds=2, purposes="bulk")
AWAY = Account(name="away", concurrent=2, calls=20, per_seconds=2, purposes="changes")
ALL = (*ACCOUNTS, NARROW, AWAY)


def routing() -> str:
    """The routing file: `news` goes to the ten, `bulk` and `changes` to one destination each."""
    told = {purpose: [each.name for each in ALL if each.purposes == purpose] for purpose in ("news", "bulk", "changes")}
    triggers = "".join(f"\n  - {{purposes: [{purpose}], deliver_to: [{', '.join(names)}]}}" for purpose, names in told.items())
    return f"""
version: 1
sources:
  web-forms: {{kind: native, keys: ["${{CONSENT_SAMPLE_KEY_SHA256:-}}"], scopes: [ingest, read, replay], country: BR}}
purposes:
  news: {{title: News}}
  bulk: {{title: What many are told by a narrow way}}
  changes: {{title: What people change their minds about}}
destinations:{"".join(each.yaml() for each in ALL)}
triggers:{triggers}
"""


@contextmanager
def ten_accounts(*, workers: int, latency_seconds: float) -> Iterator[Stack]:
    """A running relay with so many worker processes, its vendors metering."""
    with running_stack(routing=routing(), environment={**SHORT, "CONSENT_WORKER_PROCESSES": str(workers)}) as stack:
        for vendor in ("webhook", "dinamize", "mailchimp"):
            windows = {each.place: each.per_seconds for each in ALL if each.vendor == vendor}
            stack.settings(vendor, latency_seconds=latency_seconds, account_windows=windows)
        stack.settings("dinamize", calls_per_minute=None)
        yield stack


def meters(stack: Stack) -> dict[str, dict[str, int]]:
    """Destination -> what its account has metered."""
    found = {vendor: stack.session.get(f"{stack.sandbox_url}/_sandbox/{vendor}/accounts", timeout=10).json() for vendor in ("webhook", "dinamize", "mailchimp")}
    nothing = dict.fromkeys(("calls", "done", "max_concurrent", "max_in_window"), 0)
    return {each.name: found[each.vendor].get(each.place, nothing) for each in ALL}


def exceeded(stack: Stack) -> list[str]:
    """Every limit that an account has seen exceeded."""
    metered = meters(stack)
    rates = [
        f"{each.name}: {metered[each.name]['max_in_window']} calls in a window of {each.calls}"
        for each in ALL
        if each.calls and metered[each.name]["max_in_window"] > each.calls
    ]
    return rates + [
        f"{each.name}: {metered[each.name]['max_concurrent']} calls at once, {each.concurrent} allowed"
        for each in ALL
        if metered[each.name]["max_concurrent"] > each.concurrent
    ]


def told_per_second(stack: Stack, names: Collection[str], seconds: float) -> dict[str, float]:
    """How many calls each account has answered well a second, measured over so many seconds."""
    before, begun_at = meters(stack), time.monotonic()
    time.sleep(seconds)
    after, passed = meters(stack), time.monotonic() - begun_at
    return {name: (after[name]["done"] - before[name]["done"]) / passed for name in names}


def post_all(stack: Stack, events: list[dict[str, Any]], *, at_once: int = 1000) -> list[str]:
    """Post events in batches; returns their ids."""
    ids = []
    for first in range(0, len(events), at_once):
        answer = stack.session.post(f"{stack.url}/v1/consent-events/batch", json=events[first : first + at_once], headers=stack.headers(), timeout=60)
        assert answer.status_code == 202, answer.text[:500]
        ids += [result["event_id"] for result in answer.json()["results"]]
    return ids


def said(person: str, state: str, purpose: str, *, second: int = 0) -> dict[str, Any]:
    """One event about a person."""
    at = f"2026-01-05T{10 + second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"
    return {"subject": {"email": f"{person}@example.org"}, "purpose": purpose, "state": state, "event_time": at}
