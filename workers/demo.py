"""`consent demo`: everything with the sandboxes, the sample events over HTTP, people who confirm by mail, and a table of what came of it all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import requests
from rich.console import Console

from config.settings import CHECKOUT
from workers.commands.common import FAILED, console, table
from workers.commands.events import STYLES
from workers.counting import counted
from workers.sender import Sender, read_events
from workers.up import Relay, running, watch_until_stopped

SAMPLES: Final = CHECKOUT / "samples"
FILES: Final = (
    ("native.json", "native", None),
    ("privacy-tools-import.json", "privacy_tools", "privacy-tools"),
    ("privacy-tools-import-phone.json", "privacy_tools", "privacy-tools"),
    ("cmxorganize.json", "cmxorganize", "shop"),
)
"""Each file of samples, whose key it is sent with, and the source if its body is not our own."""
TOLD_SECONDS: Final = 90.0
INTERRUPTED: Final = 130
AWAITED: Final = "awaiting_confirmation"
FINAL: Final = frozenset({"delivered", "skipped", "superseded", "dead"})


def run_demo(environment: Mapping[str, str], *, stay: bool) -> int:
    """Run it; the exit code is 0 once every delivery of every sample is final, and none died but what its vendor cannot express."""
    screen = console()
    screen.print("starting: server, sandboxes, workers, beat, ingest, Flower")
    with running(environment, sandbox=True) as relay:
        if relay.stopping:
            return INTERRUPTED
        screen.print(f"ready {relay.ingest_url}")
        demo = Demo(relay)
        thread = threading.Thread(target=demo.run, name="demo", daemon=True)
        thread.start()
        watch_until_stopped(relay, lambda: not thread.is_alive())
        if relay.stopping:
            return INTERRUPTED
        code = demo.report(screen)
        _show_addresses(screen, relay)
        if stay:
            screen.print("Ctrl-C stops everything")
            watch_until_stopped(relay)
        screen.print("stopping")
        return code


def _show_addresses(screen: Console, relay: Relay) -> None:
    screen.print(f"ingest    {relay.ingest_url}  (API: {relay.ingest_url}/docs, metrics: {relay.ingest_url}/metrics)")
    screen.print(f"Flower    {relay.flower_url}  (login {relay.settings.flower.login})")
    screen.print(f"sandboxes {relay.sandbox_url}")
    screen.print(f"logs      {relay.state.logs}", soft_wrap=True)


class Demo:
    """Sends the samples and follows them, beside the thread that looks after the processes."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._operator = Sender(relay.ingest_url, relay.state.sample_key("operator"))
        self._views: list[tuple[str, dict[str, Any]]] = []
        self._problems: list[str] = []

    def run(self) -> None:
        try:
            events = [sent for file, key, source in FILES for sent in self._send(file, key, source)]
            self._follow(events, lambda status: status in FINAL or status == AWAITED)
            if any(delivery["status"] == AWAITED for _, view in self._views for delivery in view["deliveries"]):
                self._confirm()
                self._follow(events, lambda status: status in FINAL)
            self._note_problems()
        except Exception as error:  # noqa: BLE001 - reported as the demo's result
            self._problems.append(f"{type(error).__name__}: {error}")

    def report(self, screen: Console) -> int:
        """Print event x outcome x destinations and what needs a person; returns the exit code."""
        rows = []
        for sample, view in self._views:
            first = [sample, view["subject_key"], view["purpose"], view["state"]]
            for (word, came_of_it), names in _grouped(view).items():
                rows.append([*first, f"[{STYLES.get(word, 'default')}]{came_of_it}[/]", ", ".join(names)])
                first = [""] * 4
        screen.print(table("what every destination was told", ("sample", "subject", "purpose", "state", "outcome", "destinations"), rows))
        unsupported = sum(map(_is_unsupported, self._deliveries()))
        if unsupported:
            screen.print(
                f"{counted(unsupported, 'withdrawal')} cannot be told by a call: `consent export retargetly-removals` writes the file that does it, until then a dead letter stands for each"
            )
        for problem in self._problems:
            screen.print(f"[bold red]{problem}[/]")
        return FAILED if self._problems else 0

    def _send(self, file: str, key: str, source: str | None) -> list[tuple[str, str]]:
        """Post a file of samples; (name of the sample, event id) of each that was taken."""
        path = SAMPLES / file
        sender = Sender(self._relay.ingest_url, self._relay.state.sample_key(key))
        events = read_events(str(path))
        result = sender.send_to_source(source, events) if source else sender.send(events)
        self._problems += [f"{file} {index + 1}: {why}" for index, why in result.refused]
        return [(f"{Path(file).stem.removeprefix('privacy-tools-')} {place}", event_id) for place, event_id in enumerate(result.event_ids, start=1)]

    def _follow(self, events: list[tuple[str, str]], is_told: Callable[[str], bool]) -> None:
        until = time.monotonic() + TOLD_SECONDS
        while True:
            self._views = [(sample, self._operator.get(f"/v1/consent-events/{event_id}")) for sample, event_id in events]
            waiting = [sample for sample, view in self._views if not _is_through(view, is_told)]
            if not waiting or self._relay.stopping:
                return
            if time.monotonic() > until:
                self._problems += [f"{sample} was not told within {TOLD_SECONDS:g} seconds" for sample in waiting]
                return
            time.sleep(0.3)

    def _confirm(self) -> None:
        """Play those who were mailed by Maileon: each confirms, and Maileon posts its webhook to the relay."""
        with requests.Session() as session:
            session.trust_env = False
            control = f"{self._relay.sandbox_url}/_sandbox/maileon"
            held = session.get(f"{control}/state", timeout=10).json()["contacts"].values()
            mailed = [each["email"] for each in held if each["asked"] > each["permission"]]
            session.post(f"{control}/contacts", json=[{"email": email, "confirmed": True} for email in mailed], timeout=10).raise_for_status()
            contacts = session.get(f"{control}/state", timeout=10).json()["contacts"]
            address = f"{self._relay.ingest_url}/v1/sources/maileon-webhooks/{self._relay.state.sample_key('maileon')}?event=doi"
            for email in mailed:
                body = {"email": email, "permission": contacts[email]["permission"]}
                session.post(address, json=body, timeout=10).raise_for_status()

    def _deliveries(self) -> list[dict[str, Any]]:
        return [delivery for _, view in self._views for delivery in view["deliveries"]]

    def _note_problems(self) -> None:
        self._problems += [
            f"{sample}: {delivery['destination']} died ({delivery['reason']})"
            for sample, view in self._views
            for delivery in view["deliveries"]
            if delivery["status"] == "dead" and not _is_unsupported(delivery)
        ]


def _is_through(view: Mapping[str, Any], is_told: Callable[[str], bool]) -> bool:
    """Whether every delivery has come as far as is waited for; an event without any must be complete."""
    return bool(view["complete"]) or (bool(view["deliveries"]) and all(is_told(delivery["status"]) for delivery in view["deliveries"]))


def _is_unsupported(delivery: Mapping[str, Any]) -> bool:
    return bool(delivery["status"] == "dead" and delivery["outcome"] == "unsupported")


def _grouped(view: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """(status, what came of it) -> the destinations of which that is so."""
    groups: dict[tuple[str, str], list[str]] = {}
    for delivery in view["deliveries"] or [{"destination": "-", "status": view["status"], "outcome": "", "reason": ""}]:
        came_of_it = " ".join(filter(None, (delivery["status"], delivery["outcome"], delivery["reason"])))
        groups.setdefault((delivery["status"], came_of_it), []).append(delivery["destination"])
    return groups
