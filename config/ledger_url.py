"""Reads CONSENT_REDIS_URL: which servers the ledger is on. One server, the primary of a service that Sentinel watches, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote, urlsplit

ONE: Final = ("redis", "rediss")
SENTINEL: Final = ("sentinel", "redis+sentinel", "rediss+sentinel")
CLUSTER: Final = ("redis+cluster", "rediss+cluster")
EXAMPLES: Final = "redis://127.0.0.1:6379/0, sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
SENTINEL_PREFIXES: Final = tuple(f"{scheme}://" for scheme in SENTINEL)
SENTINEL_PORT: Final = 26379
SERVER_PORT: Final = 6379


class UnusableUrl(ValueError):
    """The text says what is wrong and quotes nothing: a URL may carry a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """`kind` is one, sentinel or cluster; `hosts` are the Sentinels or some nodes of the cluster, for one server the URL says it all."""

    kind: str
    url: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    def broker_url(self, database: int) -> str:
        """The same servers as Celery's broker, in another database; kombu wants each Sentinel as a URL of its own."""
        login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        return ";".join(f"sentinel://{login}{host}:{port}/{database}" for host, port in self.hosts)


def parse(url: str) -> Address:
    """The servers that a URL names. Raises UnusableUrl."""
    scheme = url.partition("://")[0].lower()
    try:
        if scheme in ONE and "://" in url and urlsplit(url).port != 0:
            return Address(kind="one", url=url)
        if scheme in (*SENTINEL, *CLUSTER):
            return _several(url, scheme)
    except ValueError as error:
        if isinstance(error, UnusableUrl):
            raise
        raise UnusableUrl(f"a URL such as {EXAMPLES} was expected") from None
    if scheme == "unix":
        raise UnusableUrl("unix:// is not supported: redis:// or rediss:// was expected")
    raise UnusableUrl(f"a URL such as {EXAMPLES} was expected")


def _several(url: str, scheme: str) -> Address:
    parts = urlsplit(url)
    if parts.query:
        raise UnusableUrl("takes no options after a ?: the ledger is read where it is written, since a replica may not know of a withdrawal yet")
    login, _, names = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    path = [unquote(part) for part in parts.path.split("/") if part]
    is_sentinel = scheme in SENTINEL
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
        tls=scheme.startswith("rediss"),
    )


def _host(name: str, default_port: int) -> tuple[str, int]:
    """One `host:port`; an IPv6 address stands in brackets."""
    parts = urlsplit(f"//{name}")
    if not parts.hostname or parts.port == 0 or parts.path:
        raise UnusableUrl("each server is named host:port, with commas between them")
    return parts.hostname, parts.port or default_port
