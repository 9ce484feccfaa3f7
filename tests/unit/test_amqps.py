"""RabbitMQ over TLS: the authority that the URL names is believed, and only for the host that is spoken to."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from config.settings import load_settings
from tests.support.tls import Doors, behind_tls, make_certificates
from workers.app import create_app
from workers.embedded import free_port


class HangsUp(socketserver.BaseRequestHandler):
    """What stands in for RabbitMQ: to be connected with is all that is asked of it."""


@pytest.fixture
def hanging_up() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangsUp) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def doors(tmp_path: Path, hanging_up: int) -> Iterator[tuple[Doors, int, Path]]:
    """TLS before it, with a certificate for 127.0.0.1; its port, and the authority."""
    authority, context = make_certificates(tmp_path)
    with behind_tls(context, [hanging_up]) as opened:
        yield opened, opened.port_of[hanging_up], authority


def connect(*addresses: str, options: str) -> set[str]:
    """Try each of them twice, and say what was refused besides."""
    refused: set[str] = set()
    url = ";".join(f"amqps://user:secret@{address}//{options}" for address in addresses)
    settings = load_settings({"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_BROKER_URL": url})
    with create_app(settings, ()).connection_for_write() as connection, suppress(OperationalError):
        connection.ensure_connection(lambda error, _: refused.add(str(error)), 2 * len(addresses), interval_start=0, interval_step=0, timeout=10)
    return refused


@pytest.mark.parametrize(
    "host,options,is_believed",
    [
        ("127.0.0.1", "?ssl_ca_certs={}", True),
        ("localhost", "?ssl_ca_certs={}", True),  # kombu speaks to 127.0.0.1 then
        ("127.0.0.1", "", False),
        ("127.1", "?ssl_ca_certs={}", False),
        ("127.1", "?ssl_ca_certs={}&ssl_check_hostname=false", True),
        ("127.1", "?ssl_cert_reqs=none", True),
    ],
)
def test_a_certificate_is_believed_for_its_host_alone(doors: tuple[Doors, int, Path], host: str, options: str, is_believed: bool) -> None:
    """127.1 is the same address, and no name that the certificate has; without the authority it is believed for none."""
    opened, port, authority = doors
    refused = connect(f"{host}:{port}", options=options.format(authority))
    assert (opened.trusted > 0, "certificate verify failed" in str(refused)) == (is_believed, not is_believed)


def test_each_of_several_brokers_is_checked_by_its_own_name(doors: tuple[Doors, int, Path]) -> None:
    """The name of the first one that was asked would be wrong for the second."""
    opened, port, authority = doors
    refused = connect(f"127.0.0.1:{free_port()}", f"127.1:{port}", options=f"?ssl_ca_certs={authority}")
    assert (opened.trusted, "certificate verify failed" in str(refused)) == (0, True)
    connect(f"127.1:{port}", f"127.0.0.1:{port}", options=f"?ssl_ca_certs={authority}")
    assert opened.trusted > 0
