"""RabbitMQ over TLS. kombu and py-amqp by themselves take a certificate for any host's name.

They can be given one name to check, which is wrong for the second of several brokers; here it is the name of the host that is spoken to.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES, pyamqp

CHECKED: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
FILES: Final = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}


def tls_arguments(checks: Mapping[str, Any], host: str) -> dict[str, Any]:
    """What py-amqp is told for this `host:port`; `checks` are named as with `rediss://`, which is how Flower reads them as well."""
    found: dict[str, Any] = {theirs: checks[ours] for ours, theirs in FILES.items() if ours in checks}
    found["cert_reqs"] = CHECKED[checks.get("ssl_cert_reqs", "required")]
    if checks.get("ssl_check_hostname", True):
        found["server_hostname"] = host.rpartition(":")[0]
    return found


class CheckedConnection(pyamqp.Connection):  # type: ignore[misc]
    """A connection that believes a certificate only if it names the host."""

    def __init__(self, host: str, *, ssl: Any = None, **options: Any) -> None:
        super().__init__(host=host, ssl=tls_arguments(ssl if isinstance(ssl, Mapping) else {}, host), **options)


class CheckedTransport(pyamqp.SSLTransport):  # type: ignore[misc]
    """kombu's transport for `amqps://`."""

    Connection = CheckedConnection


def check_amqps() -> None:
    """Have kombu use it: a transport that is named to a connection is forgotten when it turns to the next of several URLs."""
    TRANSPORT_ALIASES["amqps"] = f"{__name__}:{CheckedTransport.__name__}"
