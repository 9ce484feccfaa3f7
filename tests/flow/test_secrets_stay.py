"""At the door people and secrets stay where they belong: whatever is posted, rightly or wrongly, no canary shows in an answer, a log, a key or an argument.

Every kind of source, every field, every credential and every hidden setting has a canary (`tests/support/canary_list.py`); the log is at its most talkative.
"""

from __future__ import annotations

import redis

from tests.support import canary_list
from tests.support.canaries import redis_content, traces
from tests.support.canary_run import SETTINGS, Run, our_secrets, routing
from tests.support.looking import watching_arguments
from tests.support.serving import serving


def test_nothing_that_is_posted_shows() -> None:
    """Plain, encoded or as an unkeyed hash, in the ledger, the broker's messages, the log, every answer and the command lines of all processes."""
    environment = {**SETTINGS, "CONSENT_EVIDENCE_ENABLED": "off", "CONSENT_LOG_LEVEL": "debug", "CONSENT_SANDBOX_PORT": "1"}
    with watching_arguments() as arguments, serving(routing(), environment) as running:
        run = Run(running.url)
        assert len(run.accept_all()) >= len(canary_list.bodies())
        run.refuse_all()
        for path in ("/metrics", "/health/ready", "/openapi.json", "/docs", "/v1/dead-letters"):
            run.places[path] = run.session.get(running.url + path, timeout=10).content
        places = {**run.places, "log": running.log.encode()}
        for database in (0, 1):
            with redis.Redis.from_url(running.redis_url.rpartition("/")[0] + f"/{database}") as client:
                found = redis_content(client, f"database {database}")
                assert found
                places |= found
        run.session.close()
    assert '"level": "debug"' in places["log"].decode()
    wanted = {**canary_list.personal(), **our_secrets()}
    assert traces(places, wanted) == []
    assert traces(arguments, wanted) == []


def test_the_search_would_find_what_it_looks_for() -> None:
    """Each canary is found where it stands, so that finding none says something."""
    wanted = {**canary_list.personal(), **our_secrets()}
    found = traces({name: f"x{value}x".encode() for name, value in wanted.items()}, wanted)
    assert [name for name in wanted if f"{name}: {name} as plain" not in found] == []
