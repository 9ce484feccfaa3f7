"""Gets and tries the token of a vendor whose account's owner must approve: asks, reads what the owner pastes, looks whether it works.

Works without a ledger. Nothing that is secret or personal is taken from the command line, printed without being asked for, or kept.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from config.settings import CHECKOUT, Settings
from pipeline.addresses import may_dial
from pipeline.domain import Outcome, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.exchange import Exchange, Work
from pipeline.routing import Destination
from pipeline.vendors._authorizing import Asked, Authorizable, Authorization
from pipeline.vendors.base import Adapter, ProbeDialogue

START_SECONDS = 30.0
"""How long a dialogue may start requests; somebody waits for it at a terminal."""
_HEADING = "## How to get credentials\n"


def variable(vendor: str, name: str) -> str:
    """The environment variable that holds a vendor's value: DINAMIZE_TOKEN."""
    return re.sub("[^A-Z0-9]", "_", f"{vendor}_{name}".upper())


def configured(vendor: str, name: str, settings: Settings, environment: Mapping[str, str]) -> Destination:
    """A destination of the routing file, although the variable of its token is not set yet. Raises ConfigurationError."""
    from pipeline.routing_file import load_routing
    from pipeline.vendors import adapter_class
    from workers.options import routing_text

    declared = adapter_class(vendor)
    token = variable(vendor, getattr(declared, "token_credential", "token"))
    path = settings.routing_path()
    known = load_routing(routing_text(path), filename=str(path), environment={token: "not-set-yet", **environment}, may_be_unset=True).destinations
    mine = sorted(each.name for each in known.values() if each.vendor == vendor)
    if name not in mine:
        raise ConfigurationError(
            f"{path}: no destination {name!r} of {vendor} can be read; there is {', '.join(mine) or 'none'} (of its variables only {token} may be unset)"
        )
    return known[name]


def refuse_open_way(address: str, what: str, *, allow_private_network: bool) -> None:
    """Raises ConfigurationError unless a secret may go there: by HTTPS, or in plain to a machine of the own network where that is allowed."""
    try:
        parts = urlsplit(address)
        is_whole = bool(parts.hostname) and parts.port != 0 and parts.username is None and not parts.fragment
    except ValueError:
        parts, is_whole = urlsplit(""), False
    if not is_whole or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{what} is not usable; expected https://host[:port]/path without user and fragment")
    if parts.scheme == "http" and not (allow_private_network and _is_near(parts.hostname or "")):
        raise ConfigurationError(f"{what} must begin with https:// (plain http only to an address of the own network, with --allow-private-network)")


def _is_near(host: str) -> bool:
    try:
        return not may_dial(str(ipaddress.ip_address(host)), allow_private=False)
    except ValueError:
        return host == "localhost"


def ask_owner(exchange: Exchange, authorization: Authorization, *, allow_private_network: bool) -> Asked:
    """Ask the vendor to have the account's owner approve."""
    kept: list[Asked] = []

    def keeping() -> ProbeDialogue:
        kept.append((yield from authorization.authorize()))
        return [VendorResult(outcome=Outcome.UNCHANGED)]

    (failure,) = _results(exchange, authorization, keeping(), 1, allow_private_network=allow_private_network)
    return kept[0] if kept else Asked(result=failure)


def tried(exchange: Exchange, adapter: Authorizable, options: Mapping[str, Any], *, allow_private_network: bool) -> VendorResult:
    """What comes of trying a token by requests that change nothing and concern nobody; `unchanged` says that it works."""
    results = _results(exchange, adapter, adapter.probe(options), len(adapter.probes), allow_private_network=allow_private_network)
    return next((result for result in results if result.outcome is not Outcome.UNCHANGED), results[0])


def _results(exchange: Exchange, adapter: Adapter, dialogue: ProbeDialogue, size: int, *, allow_private_network: bool) -> tuple[VendorResult, ...]:
    deadline = time.monotonic() + START_SECONDS
    done = exchange.run(
        Work(adapter=adapter, dialogue=dialogue, account="authorize", size=size, allow_private_network=allow_private_network, deadline=deadline)
    )
    assert isinstance(done.results, tuple)
    return done.results


def where_credentials_come_from(vendor: str, declared: type[Adapter]) -> list[str]:
    """What to tell about a vendor without such a step: what it needs, and what its page says about getting it."""
    lines = [f"{declared.title} has no step in which an owner approves. Its credentials go into the environment:"]
    lines += [f"  {name}: {option.description}" for name, option in declared.credentials.items()]
    page = CHECKOUT / "docs" / "vendors" / f"{vendor}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    section = text.partition(_HEADING)[2].partition("\n## ")[0].strip()
    return [*lines, *(["", section] if section else []), "", f"docs/vendors/{vendor}.md has more." if text else f"See {declared.docs_url}"]
