"""The ledger and the broker over TLS with an authority of the operator's own, and with logins: a user who is not `default`, and Sentinels that have another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from config.celery import publish_options, queue_arguments
from config.settings import load_settings
from pipeline.errors import ConfigurationError
from tests.flow.conftest import ROUTING
from tests.support.cluster import valkey_cluster
from tests.support.engines import single
from tests.support.rabbitmq import RabbitNode
from tests.support.sentinel import SERVICE, Login, Server, behind_sentinel
from tests.support.stack import Stack, running_stack, wait_until
from tests.support.tls import behind_tls, make_certificates
from tests.support.world import SHORT
from workers.app import create_app
from workers.queues import CeleryPublisher
from workers.servers import ledger_servers

pytestmark = pytest.mark.timeout(180)

RELAY = Login("relay", "p@ss/w+rd:1")
WATCHER = Login("watcher", "w&tch=r@2")
WATCHERS_OPTIONS = f"sentinel_username={WATCHER.name}&sentinel_password={quote(WATCHER.password, safe='')}"
SECRETS = [text for login in (RELAY, WATCHER) for text in (login.password, quote(login.password, safe=""))]

Environment = dict[str, str]
Ports = Callable[[Server], int]


def hosts(servers: Sequence[Server], port: Ports) -> str:
    return ",".join(f"127.0.0.1:{port(server)}" for server in servers)


def one(servers: Mapping[str, Sequence[Server]], port: Ports, options: str) -> Environment:
    return {"CONSENT_REDIS_URL": f"rediss://{RELAY.in_url()}{hosts(servers['data'], port)}/0?{options}"}


def sentinel(servers: Mapping[str, Sequence[Server]], port: Ports, options: str) -> Environment:
    scheme = "rediss+sentinel" if options else "sentinel"
    options = "&".join(part for part in (options, WATCHERS_OPTIONS) if part)
    return {"CONSENT_REDIS_URL": f"{scheme}://{RELAY.in_url()}{hosts(servers['sentinels'], port)}/{SERVICE}/0?{options}"}


def cluster(servers: Mapping[str, Sequence[Server]], port: Ports, options: str) -> Environment:
    return {
        "CONSENT_REDIS_URL": f"rediss+cluster://{RELAY.in_url()}{hosts(servers['data'], port)}?{options}",
        "CONSENT_BROKER_URL": f"rediss://{RELAY.in_url()}{hosts(servers['broker'], port)}/1?{options}",
    }


@contextmanager
def running(kind: Callable[..., Environment]) -> Iterator[dict[str, Sequence[Server]]]:
    """The servers of one kind, with their logins."""
    with ExitStack() as stack:
        if kind is sentinel:
            found = stack.enter_context(behind_sentinel(login=RELAY, watcher=WATCHER))
            yield {"data": found.servers, "sentinels": found.sentinels}
        elif kind is cluster:
            yield {"data": stack.enter_context(valkey_cluster(login=RELAY)).servers, "broker": [stack.enter_context(single(RELAY))]}
        else:
            yield {"data": [stack.enter_context(single(RELAY))]}


def check_flower(stack: Stack) -> None:
    """Flower hears of the workers, and can ask the broker how long its queues are; RabbitMQ's management API knows that some seconds later."""

    def shown(path: str) -> Any:
        return stack.session.get(stack.flower_url + path, auth=stack.flower_login, timeout=20).json()

    def lengths() -> dict[str, int | None]:
        shown("/api/workers?refresh=1")
        return {queue["name"]: queue.get("messages") for queue in shown("/api/queues/length")["active_queues"]}

    wait_until(lambda: lengths().get("control") is not None, 30, lambda: str(lengths()))


def check_way(stack: Stack) -> None:
    """An event is accepted, told and confirmed; doctor is content; no password is in any log."""
    event_id = stack.accept("withdrawn", email="ana@example.org")
    stack.wait_complete([event_id])
    assert set(stack.deliveries(event_id).values()) == {("delivered", None)}
    doctor = stack.consent("doctor")
    assert [name for name in ("ledger", "broker", "worker") if f"ok   {name}: " not in doctor.stdout] == [], doctor.stdout
    written = stack.log() + doctor.stdout + doctor.stderr
    assert [secret for secret in SECRETS if secret in written] == []


@pytest.mark.parametrize("kind", [one, sentinel, cluster])
def test_an_event_is_told_over_tls_with_a_login(kind: Callable[..., Environment], tmp_path: Path) -> None:
    """The authority is named in the URL, and believed by the ledger's client, kombu's, the publisher's, Flower's and doctor's."""
    authority, context = make_certificates(tmp_path)
    with running(kind) as servers, behind_tls(context, [server.port for group in servers.values() for server in group]) as doors:
        environment = kind(servers, lambda server: doors.port_of[server.port], f"ssl_ca_certs={authority}")
        with running_stack(routing=ROUTING, environment={**SHORT, **environment}) as stack:
            check_way(stack)
            check_flower(stack)
        assert doors.trusted > 0


def test_sentinels_have_another_login_than_the_servers() -> None:
    """The same without TLS; with the servers' login at the Sentinels, or none, nothing starts, and the reason says where to look."""
    with running(sentinel) as servers:
        environment = sentinel(servers, lambda server: server.port, "")
        with running_stack(routing=ROUTING, environment={**SHORT, **environment}) as stack:
            check_way(stack)
            check_flower(stack)
        url = environment["CONSENT_REDIS_URL"]
        for wrong in (url.partition("?")[0], url.replace(WATCHERS_OPTIONS, "sentinel_username=relay&sentinel_password=p%40ss")):
            with pytest.raises(ConfigurationError, match="the Sentinels' own login"):
                ledger_servers(load_settings({"CONSENT_REDIS_URL": wrong}))


def test_a_certificate_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    """By the ledger and by the broker, before a password is sent; and so is a name that is not the server's."""
    authority, context = make_certificates(tmp_path)
    with running(one) as servers, behind_tls(context, [servers["data"][0].port]) as doors:
        for host, options in (("127.0.0.1", ""), ("localhost", f"ssl_ca_certs={authority}")):
            url = one(servers, lambda server: doors.port_of[server.port], options)["CONSENT_REDIS_URL"].replace("127.0.0.1", host)
            check_refused(url)
        assert doors.trusted == 0


def test_rabbitmq_is_spoken_to_over_tls(rabbitmq: RabbitNode, tmp_path: Path) -> None:
    """By workers, beat, the publisher, doctor and Flower; its management API is another matter."""
    authority, context = make_certificates(tmp_path)
    with behind_tls(context, [rabbitmq.port]) as doors:
        url = f"amqps://guest:guest@127.0.0.1:{doors.port_of[rabbitmq.port]}//?ssl_ca_certs={authority}"
        environment = {**SHORT, "CONSENT_BROKER_URL": url, "CONSENT_FLOWER_BROKER_API": rabbitmq.api_url}
        with running_stack(routing=ROUTING, environment=environment) as stack:
            check_way(stack)
            wait_until(lambda: stack.metric("consent_last_beat_seconds") < 5, 20)
            check_flower(stack)
            assert "hint_not_sent" not in stack.log()
        assert doors.trusted > 0


def test_a_hint_over_tls_is_given_up_within_a_second(rabbitmq: RabbitNode, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As without TLS: a node that stands still holds up nobody who accepts an event."""
    authority, context = make_certificates(tmp_path)
    with behind_tls(context, [rabbitmq.port]) as doors:
        url = f"amqps://guest:guest@127.0.0.1:{doors.port_of[rabbitmq.port]}//?ssl_ca_certs={authority}"
        settings = load_settings({"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_BROKER_URL": url})
        publisher = CeleryPublisher(create_app(settings, ["sealed"]), publish_options(settings), pause_seconds=0.1, queue_arguments=queue_arguments(settings))
        publisher.deliver("sealed", "given", ["e1"], 1)
        assert publisher.depth("sealed", "given") == 1
        rabbitmq.freeze()
        begun = time.monotonic()
        try:
            publisher.deliver("sealed", "given", ["e2"], 1)
            assert 0.5 < time.monotonic() - begun < 2.5
        finally:
            rabbitmq.thaw()
        assert [record.message for record in caplog.records] == ["hint_not_sent"]
        wait_until(lambda: publisher.depth("sealed", "given") >= 1, 10)
        publisher.close()


def check_refused(url: str) -> None:
    settings = load_settings({"CONSENT_REDIS_URL": url})
    servers = ledger_servers(settings)
    with pytest.raises(Exception, match="certificate verify failed"):
        servers.primaries()[0].ping()
    servers.close()
    with create_app(settings, ()).connection_for_write() as connection, pytest.raises(Exception, match="certificate verify failed"):
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
