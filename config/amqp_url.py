"""Reads CONSENT_BROKER_URL where it names RabbitMQ: one URL, or several with `;` between them, and how certificates are checked with `amqps://`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from config.ledger_url import TLS_OPTIONS, UnusableUrl, read_options, tls_options

SCHEMES: Final = ("amqp", "amqps", "pyamqp")
TLS_SCHEME: Final = "amqps"


def speaks_amqp(url: str) -> bool:
    """Whether a broker URL names RabbitMQ; the first of several decides, as they have to be of one kind."""
    return _scheme(url) in SCHEMES


def parse(url: str) -> tuple[str, Mapping[str, Any] | None]:
    """The URLs as kombu reads them, and the options of TLS, named as with `rediss://`; None without TLS. Raises UnusableUrl.

    kombu would hand the options on under names that py-amqp does not know.
    """
    parts = [part.strip() for part in url.split(";") if part.strip()]
    with_tls = {_scheme(part) == TLS_SCHEME for part in parts}
    if len(with_tls) > 1:
        raise UnusableUrl("of several brokers all are amqps://, or none is: the login would go to one of them unsealed")
    checks = [_checks(part, is_tls=True in with_tls) for part in parts]
    if any(check != checks[0] for check in checks):
        raise UnusableUrl("several brokers are checked in one way: write the same ssl_ options after each of them")
    return ";".join(map(_without_checks, parts)), (checks[0] if True in with_tls else None)


def _scheme(url: str) -> str:
    return url.strip().partition("://")[0].lower()


def _checks(url: str, *, is_tls: bool) -> dict[str, Any]:
    options = read_options(url.partition("?")[2])
    unknown = sorted(name for name in options if name.startswith("ssl_") and name not in TLS_OPTIONS)
    if unknown:
        raise UnusableUrl(f"{', '.join(TLS_OPTIONS)} may stand after the ?, and nothing else that begins with ssl_")
    return tls_options(options, is_tls=is_tls, schemes="amqps://")


def _without_checks(url: str) -> str:
    address, _, query = url.partition("?")
    others = "&".join(option for option in query.split("&") if option and unquote(option.partition("=")[0]) not in TLS_OPTIONS)
    return f"{address}?{others}" if others else address
