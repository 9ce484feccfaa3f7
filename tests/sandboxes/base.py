"""What every sandbox shares: requests and replies, faults on order, the record of calls, and what each contact was told when."""

from __future__ import annotations

import copy
import functools
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

from pipeline.identifiers import Hasher

FAULT_KINDS = frozenset({"latency", "status", "reset", "hang", "lost_answer", "html", "empty", "cut_json", "redirect", "throttle", "lie"})


@dataclass(slots=True)
class Request:
    """One request as it came, its path without the vendor's prefix and version; `concurrent` counts it and all others not yet answered, `target` is what stood in the request line."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    arrived_at: float
    target: str = ""
    concurrent: int = 1

    def json(self) -> Any:
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


@dataclass(slots=True)
class Reply:
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def as_json(value: Any, status: int = 200, content_type: str = "application/json; charset=utf-8") -> Reply:
    return Reply(status, orjson.dumps(value), content_type)


@dataclass(slots=True, kw_only=True)
class Fault:
    """A misbehaviour on order, for the next `times` requests whose path contains `match` (None: until cleared).

    `lie` answers as if it had acted. `lost_answer` and `cut_json` act first and then spoil the answer; `applied` makes `html`, `empty` and `status` do so too.
    `headers` and `body` go with `status` (the body as JSON, or as it is if it is text).
    """

    kind: str
    times: int | None = 1
    seconds: float | None = None
    status: int | None = None
    match: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    applied: bool = False
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; known are {', '.join(sorted(FAULT_KINDS))}")


@dataclass(slots=True)
class Meter:
    """What one account was asked: calls under way, and calls in any window of `seconds` (it slides, it is not aligned)."""

    seconds: float
    window: deque[float] = field(default_factory=deque)
    concurrent: int = 0
    max_concurrent: int = 0
    max_in_window: int = 0
    calls: int = 0
    done: int = 0

    def arrive(self, at: float) -> None:
        self.calls += 1
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        self.window.append(at)
        while self.window[0] <= at - self.seconds:
            self.window.popleft()
        self.max_in_window = max(self.max_in_window, len(self.window))  # a window is fullest at an arrival

    def shown(self) -> dict[str, int]:
        names = ("calls", "done", "concurrent", "max_concurrent", "max_in_window")
        return {name: getattr(self, name) for name in names}


@functools.cache
def _hasher(pepper: str) -> Hasher:
    return Hasher(pepper.encode())


class Sandbox:
    """Base of the one class in each sandbox file; subclasses answer in `handle` and may be quick and single-threaded.

    `contacts` is what the vendor holds now, each with a `state` of given or withdrawn; `history` is every state that each was told, in order.
    """

    name: ClassVar[str]
    version_path: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, Any]] = {}
    world: ClassVar[tuple[str, ...]] = ("contacts", "history")
    """Where it keeps what it knows of people."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"latency_seconds": 0.0, "window_seconds": 60.0, "account_windows": {}, "pepper": "", **self.defaults}
        self.random = random.Random(1)
        self.listeners: list[Callable[[str, str, Mapping[str, Any]], None]] = []
        self.reset()

    def join(self, others: Mapping[str, Sandbox], call_later: Callable[..., Any]) -> None:
        """Called once all sandboxes of a server are there, for vendors that know each other; `call_later(seconds, act, ...)` is the server's clock."""

    def reset(self) -> None:
        """Forget contacts, calls and faults; settings stay."""
        self.contacts: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.calls: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.meters: dict[str, Meter] = {}
        self.under_way: dict[int, Meter] = {}
        self.window: deque[float] = deque()
        self.concurrent = self.max_concurrent = self.max_in_window = self.redirects_followed = 0

    def take(self) -> dict[str, Any]:
        """The state as it is now, and forget what came so far but for what contacts hold: runs of hours would fill the memory."""
        taken = self.snapshot()
        self.calls, self.history = [], {}
        return taken

    def handle(self, request: Request) -> Reply:
        raise NotImplementedError

    def account_of(self, request: Request) -> str:
        """The account that a request belongs to, where one sandbox serves several."""
        return ""

    def meter(self, request: Request) -> Meter:
        """The account's meter; the setting `account_windows` says over how many seconds its calls are limited."""
        account = self.account_of(request)
        if account not in self.meters:
            self.meters[account] = Meter(self.settings["account_windows"].get(account, self.settings["window_seconds"]))
        return self.meters[account]

    def operation(self, request: Request) -> str:
        return f"{request.method} {request.path}"

    def throttled(self, seconds: float | None) -> Reply:
        """How this vendor says `too many requests`."""
        headers = (("Retry-After", str(int(seconds))),) if seconds is not None else ()
        return Reply(429, headers=headers)

    def place(self, contact: Mapping[str, Any]) -> None:
        """Put a contact there as if somebody had done it at the vendor."""
        raise NotImplementedError

    def forget(self, contact: Mapping[str, Any]) -> None:
        """Lose somebody (`email`) as if he had never been there: deleted by a person, or by an accident."""
        email = contact["email"].lower()
        self.contacts = {key: held for key, held in self.contacts.items() if email not in key.lower().split("/")}

    def lie(self, answer: Callable[[], Reply]) -> Reply:
        """The answer of somebody who has acted, with nothing done."""
        kept = copy.deepcopy({name: getattr(self, name) for name in self.world})
        reply = answer()
        for name, value in kept.items():
            setattr(self, name, value)
        return reply

    def act(self, what: str, body: bytes) -> dict[str, Any]:
        """Do what a person does at this vendor, or with it, that is no call of its API; returns what that person then gets."""
        raise ValueError(f"nobody does {what!r} here; there are GET state, and POST reset, faults, settings, contacts")

    def change(self, settings: Mapping[str, Any]) -> None:
        unknown = set(settings) - set(self.settings)
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}; known are {sorted(self.settings)}")
        self.settings.update(settings)

    def order(self, faults: list[Mapping[str, Any]]) -> None:
        """Replace all faults."""
        self.faults = [Fault(**fault) for fault in faults]

    def arrive(self, request: Request) -> dict[str, Any]:
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        self.window.append(request.arrived_at)
        while self.window[0] <= request.arrived_at - self.settings["window_seconds"]:
            self.window.popleft()
        self.max_in_window = max(self.max_in_window, len(self.window))
        request.concurrent = self.concurrent
        meter = self.meter(request)
        meter.arrive(request.arrived_at)
        call = {"operation": self.operation(request), "method": request.method, "arrived_at": request.arrived_at, "answered_at": None}
        call |= {"status": None, "fault": None, "concurrent": self.concurrent, "in_window": len(self.window)}
        if pepper := self.settings["pepper"]:  # whoever holds evidence against calls knows them by this
            url = f"http://{request.headers.get('host', '')}{request.target}"
            call["request_hmac"] = _hasher(pepper).request_hmac(request.method, url, request.body)
        self.under_way[id(call)] = meter
        self.calls.append(call)
        return call

    def leave(self, call: dict[str, Any], status: int | None) -> None:
        if call["answered_at"] is None:
            self.concurrent -= 1
            if meter := self.under_way.pop(id(call), None):
                meter.concurrent -= 1
                meter.done += status is not None and 200 <= status < 300
            call["answered_at"], call["status"] = time.time(), status

    def take_fault(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.match in path and fault.times != 0 and self.random.random() < fault.probability:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def told(self, key: str, state: str, **more: Any) -> None:
        """Record a state in the order of arrival, and let others know; what the contact holds is up to the sandbox."""
        self.history.setdefault(key, []).append({"state": state, "at": time.time(), **more})
        for listen in self.listeners:
            listen(key, state, more)

    def look(self, what: str, most_calls: str | None) -> dict[str, Any]:
        """The whole state, with the last calls only where that is asked for, or what each account was asked."""
        if what == "accounts":
            return {name: meter.shown() for name, meter in self.meters.items()}
        return self.snapshot(int(most_calls) if most_calls else None)

    def snapshot(self, most_calls: int | None = None) -> dict[str, Any]:
        calls = self.calls if most_calls is None else self.calls[len(self.calls) - min(most_calls, len(self.calls)) :]
        return {
            "vendor": self.name,
            "contacts": {key: dict(contact) for key, contact in self.contacts.items()},
            "history": {key: list(states) for key, states in self.history.items()},
            "calls": [dict(call) for call in calls],
            "call_count": len(self.calls),
            "concurrent": self.concurrent,
            "max_concurrent": self.max_concurrent,
            "max_in_window": self.max_in_window,
            "accounts": {name: meter.shown() for name, meter in self.meters.items()},
            "redirects_followed": self.redirects_followed,
            "faults": [{"kind": fault.kind, "times": fault.times, "match": fault.match} for fault in self.faults],
            "settings": dict(self.settings),
        }
