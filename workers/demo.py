"""`consent demo`: everything with the sandboxes, the sample events over HTTP, and a table of what came of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from config.settings import CHECKOUT
from workers.commands.common import FAILED, console, table
from workers.commands.events import STYLES
from workers.sender import Sender, read_events
from workers.up import Relay, running, watch_until_stopped

SAMPLES: Final = CHECKOUT / "samples"
TOLD_SECONDS: Final = 90.0
INTERRUPTED: Final = 130


def run_demo(environment: Mapping[str, str], *, stay: bool) -> int:
    """Run it; the exit code is 0 once every delivery of every sample is final and none died."""
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
        self._views: list[tuple[str, dict[str, Any]]] = []
        self._problems: list[str] = []

    def run(self) -> None:
        try:
            events = [*self._send("native.json", "native", None), *self._send_privacy_tools()]
            self._follow(events)
        except Exception as error:  # noqa: BLE001 - reported as the demo's result
            self._problems.append(f"{type(error).__name__}: {error}")

    def report(self, screen: Console) -> int:
        """Print event x destination x outcome and what went wrong; returns the exit code."""
        rows = []
        for sample, view in self._views:
            first = [sample, view["subject_key"], view["purpose"], view["state"]]
            for delivery in view["deliveries"] or [{"destination": "-", "status": view["status"], "outcome": "", "reason": ""}]:
                word = delivery["status"]
                came_of_it = " ".join(filter(None, (word, delivery["outcome"], delivery["reason"])))
                rows.append([*first, delivery["destination"], f"[{STYLES.get(word, 'default')}]{came_of_it}[/]"])
                first = [""] * 4
        screen.print(table("what every destination was told", ("sample", "subject", "purpose", "state", "destination", "outcome"), rows))
        for problem in self._problems:
            screen.print(f"[bold red]{problem}[/]")
        return FAILED if self._problems else 0

    def _send_privacy_tools(self) -> list[tuple[str, str]]:
        files = ("privacy-tools-import.json", "privacy-tools-import-phone.json")
        return [sent for file in files for sent in self._send(file, "privacy_tools", "privacy-tools")]

    def _send(self, file: str, key: str, source: str | None) -> list[tuple[str, str]]:
        """Post a file of samples; (name of the sample, event id) of each that was taken."""
        path = SAMPLES / file
        sender = Sender(self._relay.ingest_url, self._relay.state.sample_key(key))
        events = read_events(str(path))
        result = sender.send_to_source(source, events) if source else sender.send(events)
        self._problems += [f"{file} {index + 1}: {why}" for index, why in result.refused]
        return [(f"{Path(file).stem.removeprefix('privacy-tools-')} {place}", event_id) for place, event_id in enumerate(result.event_ids, start=1)]

    def _follow(self, events: list[tuple[str, str]]) -> None:
        operator = Sender(self._relay.ingest_url, self._relay.state.sample_key("operator"))
        until = time.monotonic() + TOLD_SECONDS
        while True:
            self._views = [(sample, operator.get(f"/v1/consent-events/{event_id}")) for sample, event_id in events]
            waiting = [sample for sample, view in self._views if not view["complete"]]
            if not waiting or time.monotonic() > until or self._relay.stopping:
                break
            time.sleep(0.3)
        self._problems += [f"{sample} was not told within {TOLD_SECONDS:g} seconds" for sample in waiting]
        self._problems += [
            f"{sample}: {delivery['destination']} died ({delivery['reason']})"
            for sample, view in self._views
            for delivery in view["deliveries"]
            if delivery["status"] == "dead"
        ]
