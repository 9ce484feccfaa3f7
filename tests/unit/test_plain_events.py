"""The quick look at an event by several threads: a crash in it would end the whole server."""

from __future__ import annotations

import subprocess
import sys

from workers.process import CHECKOUT, with_checkout

FIRST_LOOKS = """
import sys, threading
from datetime import datetime
from pipeline.plain import plain_event, plain_type
from pipeline.schemas import TEXTS

sys.setswitchinterval(1e-6)
event = {"subject": {"email": "ana@example.org"}, "purpose": "news", "state": "given", "event_time": "2026-01-05T12:00:00Z", "profile": {"name": "Ana"}}
for _ in range(300):
    plain = plain_type(TEXTS, {"purpose": 64, "idempotency_key": 64})
    together = threading.Barrier(4)
    def look():
        together.wait()
        seen.append(plain_event(event, plain, datetime.fromisoformat))
    seen = []
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4 and all(each["event_time"].year == 2026 for each in seen), seen
"""


def test_several_threads_may_be_the_first_to_look():
    """Two large posts right after the start are read by two threads."""
    ended = subprocess.run([sys.executable, "-c", FIRST_LOOKS], env=with_checkout({}), cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
