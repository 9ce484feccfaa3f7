"""Everything that a running relay keeps, writes, shows and answers, as bytes by place: what must name nobody and hold no secret."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from tests.support.canaries import files_in, redis_content
from tests.support.stack import Stack
from workers.wiring import Parts

KEEPS_SECRETS = ("environment.json", "subject_pepper", "vault_keys", "flower_login", "server/password", "server/valkey.conf", "consent.yaml")
"""Files of the state directory, readable by the owner only, whose purpose is to keep secrets; and the keys of the samples."""
FLOWER_PAGES = ("/", "/workers", "/tasks", "/broker", "/metrics", "/api/tasks", "/api/workers?refresh=1", "/api/task/types", "/api/queues/length")


def is_allowed(name: str) -> bool:
    return name in KEEPS_SECRETS or (name.startswith("sample_") and name.endswith("_key"))


def kept(stack: Stack) -> dict[str, bytes]:
    """Every key of every database of the server, and every file but those that keep secrets: logs, the append-only file, what processes printed."""
    places = {name: content for name, content in files_in(stack.folder).items() if not is_allowed(name)}
    with redis.Redis.from_url(stack.environment["CONSENT_REDIS_URL"]) as client:
        databases = [name for name in client.info("keyspace") if name.startswith("db")]
        assert {"db0", "db1"} <= set(databases)
    for name in databases:
        url = stack.environment["CONSENT_REDIS_URL"].rpartition("/")[0] + f"/{name.removeprefix('db')}"
        with redis.Redis.from_url(url) as client:
            places |= redis_content(client, name)
    return places


def shown(stack: Stack) -> dict[str, bytes]:
    """Flower's pages and API with one page of each worker and of each kind of task, and the metrics."""
    places = {}

    def look(path: str) -> Any:
        answer = stack.session.get(stack.flower_url + path, auth=stack.flower_login, timeout=20)
        assert answer.status_code == 200, (path, answer.status_code)
        places[f"flower {path}"] = answer.content + str(dict(answer.headers)).encode()
        return answer

    for path in FLOWER_PAGES:
        look(path)
    for name in look("/api/workers").json():
        look(f"/worker/{name}")
    kinds = {task["name"]: task_id for task_id, task in look("/api/tasks").json().items()}
    for task_id in kinds.values():
        look(f"/task/{task_id}")
        look(f"/api/task/info/{task_id}")
    refused = stack.session.get(stack.flower_url + "/api/tasks", auth=("operator", "wrong"), timeout=10)
    assert refused.status_code == 401
    places["flower refusal"] = refused.content
    places["metrics"] = stack.session.get(f"{stack.url}/metrics", timeout=10).content
    return places


@contextlib.contextmanager
def watching_arguments() -> Iterator[dict[str, bytes]]:
    """Collects the command lines of all processes of the machine while it is open: any user can read them."""
    seen: dict[str, bytes] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if content := path.read_bytes():
                        seen[f"arguments {content[:200]!r}"] = content
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def inspected(stack: Stack) -> dict[str, bytes]:
    """What `celery inspect` and `celery report` say of the workers, and every repr of our settings and parts."""
    parts = Parts(stack.environment)
    try:
        names = sorted(answer for each in parts.app.control.ping(timeout=2.0) for answer in each)
        assert names
        inspect = parts.app.control.inspect(destination=names, timeout=5.0)
        asked = ("stats", "report", "active", "reserved", "scheduled", "registered", "active_queues")
        places = {f"inspect {name}": repr(getattr(inspect, name)()).encode() for name in asked}
        places["inspect conf"] = repr(inspect.conf(with_defaults=True)).encode()
        assert all(name.encode() in places["inspect conf"] for name in names)
        places["celery report"] = parts.app.bugreport().encode()
        return places | _reprs(parts)
    finally:
        parts.close()


def _reprs(parts: Parts) -> dict[str, bytes]:
    ledger, destinations = parts.ledger, parts.routing.destinations.values()
    ours = [parts.settings, parts.routing, parts.vault, parts.hasher, ledger, ledger.identity, parts.exchange, parts.deliver, parts.acceptor]
    ours += [*destinations, *(each.adapter for each in destinations)]
    return {f"repr {type(value).__name__} {number}": f"{value!r} {value}".encode() for number, value in enumerate(ours)}


def refusals_of(stack: Stack, wrong: Mapping[str, str]) -> dict[str, bytes]:
    """The traceback of a start with each setting that is wrong, one at a time."""
    places = {}
    for name, value in wrong.items():
        try:
            Parts({**stack.environment, name: value}).ledger  # noqa: B018
        except Exception as error:
            places[f"traceback of a wrong {name}"] = "".join(traceback.format_exception(error)).encode()
        else:
            raise AssertionError(name)
    return places
