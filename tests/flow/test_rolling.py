"""A rolling deploy: workers and ingest of the release before and of this one over one ledger and broker; messages of either are understood by both."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import requests
from celery import Celery

from pipeline.ledger.keys import SCHEMA_VERSION
from tests.support.load import Clients, invent, posts_of, stale_lags
from tests.support.servers import valkey_server
from tests.support.stack import ROOT, Stack, running_stack, wait_until
from tests.support.verdict import BEGUN_BEFORE_SECONDS, arrivals_of, check_end
from tests.support.world import PURPOSES, SHORT, routing
from workers.embedded import free_port
from workers.queues import plain_queue

EVENTS = 500


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of the last commit before the schema was raised to what it is: a program of the release before."""
    history = ["git", "-C", str(ROOT), "log", "-1", "--format=%H", "-G", "^SCHEMA_VERSION", "--", "pipeline/ledger/identity.py", "pipeline/ledger/keys.py"]
    raised = subprocess.run(history, capture_output=True, text=True, check=False).stdout.strip() if shutil.which("git") else ""
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", f"{raised}^"], capture_output=True, check=False) if raised else None
    if packed is None or packed.returncode != 0:
        pytest.skip("this checkout has no history in which to find the release before")
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@contextlib.contextmanager
def beside(stack: Stack, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this release over the ledger and broker of a stack of the former one."""
    log = (stack.folder / "logs" / f"new-{words[0]}.log").open("ab")
    with (
        log,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.cli", *words], env={**os.environ, **stack.environment, **environment, "PYTHONPATH": str(ROOT)}, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{url}/health/ready", timeout=2).status_code == 200
    return False


def worked(stack: Stack) -> dict[str, int]:
    """How many tasks each worker has done."""
    with Celery(broker=stack.broker_url) as app:
        found = app.control.inspect(timeout=3).stats() or {}
    return {name.partition("@")[0]: sum(each["total"].values()) for name, each in found.items()}


@pytest.mark.timeout(240)
def test_old_and_new_processes_work_side_by_side(former: Path):
    """Half of the events come in by each release, both have workers, people say the opposite at either: nothing is lost or stale, and the ledger stays as it was
    until the old ones are gone. Then it is migrated while the new ones go on working.
    """
    chance, port = random.Random(11), free_port()
    with (
        valkey_server() as ledger_url,
        running_stack(routing=routing(), environment={**SHORT, "CONSENT_REDIS_URL": ledger_url}, checkout=former, vendors_apart=True) as stack,
    ):
        stack.settings("dinamize", calls_per_minute=None)
        stack.settings("mailchimp", compliance="self")
        events = invent(chance, EVENTS, people=100, purposes=PURPOSES)
        with beside(stack, "worker", "--single", "--name", "new-1"), beside(stack, "serve", CONSENT_INGEST_PORT=str(port)), beside(stack, "beat"):
            wait_until(lambda: answers(f"http://127.0.0.1:{port}") and worked(stack).keys() == {"worker-1", "worker-2", "new-1"}, 60)
            halves = [events[: EVENTS // 2], events[EVENTS // 2 :]]
            urls = [stack.url, f"http://127.0.0.1:{port}"]
            clients = [Clients(url, stack.headers(), posts_of(chance, half), threads=4, seconds=5.0) for url, half in zip(urls, halves, strict=True)]
            for each in clients:
                each.start()
            for each in clients:
                each.join(90)
            check_end(stack, events, seconds=90, is_on_record=False)  # the older release keeps no evidence
            arrivals = [arrival for told in arrivals_of(stack).values() for arrival in told]
            late = sum(lag > BEGUN_BEFORE_SECONDS for lag in stale_lags(events, arrivals))
            assert late <= stack.metric("consent_stale_sends_total")
            assert stack.metric("consent_events_total", status="accepted") == EVENTS
            assert min(worked(stack).values()) > 20
            refused = stack.consent("ledger", "migrate", "--yes")
            assert refused.returncode == 2, refused.stdout + refused.stderr
            assert "older release still run: worker-1@" in refused.stderr
            stack.process.send_signal(signal.SIGTERM)
            stack.process.wait(60)
            stack.url = f"http://127.0.0.1:{port}"
            more = invent(chance, EVENTS, people=100, purposes=PURPOSES, first=EVENTS)
            load = Clients(stack.url, stack.headers(), posts_of(chance, more), threads=4, seconds=20.0)
            load.start()
            wait_until(lambda: stack.consent("ledger", "migrate", "--yes").returncode == 0, 60)
            assert not all(sent.ids for sent in more), "it was migrated after the work was done"
            load.join(90)
            check_end(stack, events + more, seconds=90, is_on_record=False)
            assert f"schema version: {SCHEMA_VERSION}" in stack.consent("ledger", "show").stdout
        answer = subprocess.run(
            [sys.executable, "-m", "workers.cli", "doctor"], cwd=former, env={**os.environ, **stack.environment}, capture_output=True, text=True, check=False
        )
        assert f"FAIL ledger: the ledger has schema {SCHEMA_VERSION}, this release works with" in answer.stdout


@pytest.mark.timeout(120)
def test_messages_of_other_releases_are_understood():
    """Messages as another release may write them, with keywords that this one does not know and without ones that it writes: what they point at is told; one
    that lacks what cannot be missed is no harm. Beat stands still, so nothing else has it told.
    """
    with running_stack(routing=routing(), environment=SHORT) as stack:
        stack.settings("dinamize", calls_per_minute=None)
        stack.settings("mailchimp", compliance="self")
        for name in ("dinamize", "mailchimp", "webhook"):
            assert stack.consent("destination", "pause", name).returncode == 0
        waiting = stack.accept("withdrawn", email="ana@example.org")
        wait_until(lambda: {reason for _, reason in stack.deliveries(waiting).values()} == {"paused"}, 20)
        time.sleep(3)  # tasks that stay at their destination have left it
        beat = stack.pids("beat")[0]
        os.kill(beat, signal.SIGSTOP)
        try:
            for name in ("dinamize", "mailchimp", "webhook"):
                assert stack.consent("destination", "resume", name).returncode == 0
            with Celery(broker=stack.broker_url) as app:
                app.conf.update(task_serializer="json", task_default_exchange="", task_create_missing_queues=True, task_ignore_result=True)
                for kwargs in (FROZEN, {**FROZEN, "unknown": {"since": "next release"}, "attempt": 3}):
                    for name in ("dinamize", "mailchimp"):
                        send(app, "deliver", f"deliver.{name}.withdrawn", {**kwargs, "destination": name, "event_ids": [waiting]})
                send(app, "deliver", "deliver.webhook.withdrawn", {"destination": "webhook", "event_ids": [waiting]})
                send(app, "fan_out", "fan_out.withdrawn", {"lane": "withdrawn", "event_ids": [waiting], "shard": 7})
                send(app, "release_due", "control", {"round": 1})
            wait_until(lambda: all(status == "delivered" for status, _ in stack.deliveries(waiting).values()), 30, lambda: str(stack.deliveries(waiting)))
        finally:
            os.kill(beat, signal.SIGCONT)
        assert stack.log().count('"task_failed"') == 1  # the one without a lane
        assert stack.metric("consent_unaccounted") == 0


FROZEN = {"lane": "withdrawn"}
"""What a `deliver` message of schema 1 cannot miss, beside destination and event ids."""


def send(app: Celery, task: str, queue: str, kwargs: dict[str, object]) -> None:
    app.send_task(task, kwargs=kwargs, queue=plain_queue(queue), ignore_result=True)
