"""Run the sandboxes as a process: `python -m tests.sandboxes --port 0 --vendor mailchimp --ready-file PATH`."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path

from tests.sandboxes import sandbox_names, start_sandboxes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sandboxes", description="Run vendor sandboxes on one port, each under /<vendor>.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--vendor", action="append", choices=sandbox_names(), help="may be repeated; all by default")
    parser.add_argument("--ready-file", type=Path, help="is written with the port once requests are taken")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    handle = start_sandboxes(given.vendor, host=given.host, port=given.port)
    if given.ready_file:
        partial = given.ready_file.with_name(f".{given.ready_file.name}.{os.getpid()}")
        partial.write_text(f"{handle.port}\n")
        partial.replace(given.ready_file)
    print(f"ready http://{given.host}:{handle.port}", flush=True)
    stop.wait()
    handle.close()


main()
