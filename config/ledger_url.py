"""Reads CONSENT_REDIS_URL: which servers the ledger is on. One server, the primary of a service that Sentinel watches, or a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

ONE: Final = ("redis", "rediss")
SENTINEL: Final = ("sentinel", "redis+sentinel", "rediss+sentinel")
CLUSTER: Final = ("redis+cluster", "rediss+cluster")
EXAMPLES: Final = "redis://127.0.0.1:6379/0, sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
SENTINEL_PREFIXES: Final = tuple(f"{scheme}://" for scheme in SENTINEL)
BROKER_PREFIXES: Final = tuple(f"{scheme}://" for scheme in (*ONE, *SENTINEL))
SENTINEL_PORT: Final = 26379
SERVER_PORT: Final = 6379
TLS_SCHEMES: Final = "rediss://, rediss+sentinel:// or rediss+cluster://"
CHECKED: Final = ("required", "optional", "none")
TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")


class UnusableUrl(ValueError):
    """The text says what is wrong and quotes nothing: a URL may carry a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """`kind` is one, sentinel or cluster; `hosts` are the Sentinels or some nodes of the cluster, for one server the URL says it all.

    `tls_options` are how certificates are checked, as redis-py and kombu name it; the login of the Sentinels themselves is their own.
    """

    kind: str
    url: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_options: Mapping[str, Any] = field(default_factory=dict)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def broker_url(self, database: int) -> str:
        """The same servers as Celery's broker, in another database and without options; kombu wants each Sentinel as a URL of its own."""
        if self.kind == "one":
            return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}", query=""))
        login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        return ";".join(f"sentinel://{login}{host}:{port}/{database}" for host, port in self.hosts)

    def tls_settings(self) -> dict[str, Any]:
        """How a client of redis-py is told of TLS; nothing without it."""
        return {"ssl": True, **self.tls_options} if self.tls else {}

    def sentinel_login(self) -> dict[str, str]:
        """The login of the Sentinels, which need none by default."""
        found = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {name: value for name, value in found.items() if value}


def parse(url: str) -> Address:
    """The servers that a URL names. Raises UnusableUrl."""
    scheme = url.partition("://")[0].lower()
    try:
        if scheme in ONE and "://" in url and urlsplit(url).port != 0:
            return _one(url, is_tls=scheme == "rediss")
        if scheme in (*SENTINEL, *CLUSTER):
            return _several(url, scheme)
    except ValueError as error:
        if isinstance(error, UnusableUrl):
            raise
        raise UnusableUrl(f"a URL such as {EXAMPLES} was expected") from None
    if scheme == "unix":
        raise UnusableUrl("unix:// is not supported: redis:// or rediss:// was expected")
    raise UnusableUrl(f"a URL such as {EXAMPLES} was expected")


def _one(url: str, *, is_tls: bool) -> Address:
    options = read_options(urlsplit(url).query)
    database = options.get("db") or urlsplit(url).path.strip("/") or "0"
    if not database.isdigit():
        raise UnusableUrl("the database after the / is a number, as in redis://127.0.0.1:6379/0")
    return Address(kind="one", url=url, database=int(database), tls=is_tls, tls_options=tls_options(options, is_tls=is_tls))


def read_options(query: str) -> dict[str, str]:
    """What stands after the ?, a plus being a plus, as in the login."""
    parts = (option.partition("=") for option in query.split("&") if option)
    return {unquote(name): unquote(value) for name, _, value in parts}


def tls_options(options: Mapping[str, str], *, is_tls: bool, schemes: str = TLS_SCHEMES) -> dict[str, Any]:
    """Certificates are checked, and the host's name in them, unless the URL says otherwise; `schemes` are those with TLS."""
    found: dict[str, Any] = {name: value for name, value in options.items() if name in TLS_OPTIONS}
    if not is_tls:
        if found:
            raise UnusableUrl(f"{', '.join(sorted(found))}: only with TLS: {schemes}")
        return {}
    found = {"ssl_cert_reqs": "required", **found}
    if found["ssl_cert_reqs"] not in CHECKED:
        raise UnusableUrl(f"ssl_cert_reqs is one of {', '.join(CHECKED)}")
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = found["ssl_check_hostname"].lower() not in ("false", "no", "0")
    if found["ssl_cert_reqs"] == "none":
        found["ssl_check_hostname"] = False
    return found


def _several(url: str, scheme: str) -> Address:
    parts = urlsplit(url)
    options = read_options(parts.query)
    is_sentinel, is_tls = scheme in SENTINEL, scheme.startswith("rediss")
    known = (*TLS_OPTIONS, *(SENTINEL_OPTIONS if is_sentinel else ()))
    if not options.keys() <= set(known):
        raise UnusableUrl(
            f"takes no options after a ? but {', '.join(known)}: the ledger is read where it is written, since a replica may not know of a withdrawal yet"
        )
    login, _, names = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    path = [unquote(part) for part in parts.path.split("/") if part]
    if is_sentinel and not (1 <= len(path) <= 2 and (len(path) == 1 or path[1].isdigit())):
        raise UnusableUrl("sentinel:// needs the service's name, and may name a database: sentinel://host:26379,host:26379/service/0")
    if not is_sentinel and path not in ([], ["0"]):
        raise UnusableUrl("a cluster has only database 0")
    return Address(
        kind="sentinel" if is_sentinel else "cluster",
        url=url,
        hosts=tuple(_host(name, SENTINEL_PORT if is_sentinel else SERVER_PORT) for name in names.split(",")),
        service=path[0] if is_sentinel else "",
        database=int(path[1]) if is_sentinel and len(path) == 2 else 0,
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=is_tls,
        tls_options=tls_options(options, is_tls=is_tls),
        sentinel_username=options.get("sentinel_username") or None,
        sentinel_password=options.get("sentinel_password") or None,
    )


def _host(name: str, default_port: int) -> tuple[str, int]:
    """One `host:port`; an IPv6 address stands in brackets."""
    parts = urlsplit(f"//{name}")
    if not parts.hostname or parts.port == 0 or parts.path:
        raise UnusableUrl("each server is named host:port, with commas between them")
    return parts.hostname, parts.port or default_port
