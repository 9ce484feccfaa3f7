"""One value that is found nowhere else for every personal field and every secret. The lists follow the declarations, so they cannot fall behind.

A field of the schemas, a field that a source reads, a credential of a vendor file or a hidden setting that is added gets a canary by itself, or the test
of this list fails and says what has none.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlencode

from config.settings import Settings
from pipeline.schemas import TEXTS
from pipeline.vendors import _mailchimp_webhooks, _privacy_tools_body, adapter_class, cmxorganize, has_verb, vendor_names
from pipeline.vendors._authorizing import Authorizable
from tests.support.readers import heard_kinds

MARK = "q7x3v9"
"""Part of every canary, so that none is found by chance."""
SAID_AT = "2026-01-05T13:00:00-03:00"
NOT_PERSONAL = frozenset({"country"})
NOT_SECRET = frozenset({("dinamize", "token_header"), ("dinamize", "connection_id")})
"""A header's name; and whom to ask for approval, which is personal: `consent authorize` has tests of its own."""
CODES = {kind: number for number, kind in enumerate(heard_kinds())}


def canary(place: str, name: str) -> str:
    """The value of one field of one body."""
    code = CODES[place]
    special = {
        "email": f"canary.{place.replace('_', '-')}.{MARK}@example.org",
        "phone": f"+55119876{43210 + code}",
        "national_id": f"{98765432100 + code}",
        "document": f"{98765432150 + code}",
        "ip": f"2001:db8:ca:{code}::{MARK[1]}e3",
        "userIp": f"2001:db8:cb:{code}::{MARK[1]}e3",
    }
    return special.get(name, f"Canary {place} {name} {MARK}é")


def native_body() -> dict[str, Any]:
    """Every text of every part of a native event, a metadata name and value, and the idempotency key."""
    parts = {part: {name: canary("native", name) for name in names if name not in NOT_PERSONAL} for part, names in TEXTS.items()}
    metadata = {f"Canary-name-{MARK}": canary("native", "metadata")}
    return {
        **parts,
        "metadata": metadata,
        "idempotency_key": canary("native", "idempotency_key"),
        "purpose": "newsletter",
        "state": "given",
        "event_time": SAID_AT,
    }


def bodies() -> dict[str, tuple[str, bytes]]:
    """One body for each kind of source, with a canary in every field that its reader knows and in some that it does not: (media type, body)."""
    tools = {name: canary("privacy_tools", name) for name in _privacy_tools_body._KNOWN - {"metadata", "consentValue"}}
    tools |= {"consentDate": "05/01/2026 13:00", "templateHash": "test-template-hash-newsletter", "consentValue": True}
    tools |= {"metadata": [{"name": f"canary_{MARK}", "value": canary("privacy_tools", "metadata")}]}
    shop = {name: canary("cmxorganize", name) for name in cmxorganize.TEXTS} | {
        "registered_at": "2026-01-05T13:00:00+01:00",
        "newsletter": True,
        "single_user_tracking": True,
    }
    form = {
        f"data[{name}]": canary("mailchimp", name) for name in ("email", "merges][EMAIL", "merges][FNAME", "merges][PHONE", "reason", "email_type", "web_id")
    }
    form |= {name: canary("mailchimp", name) for name in _mailchimp_webhooks.ADDRESSES} | {"data[email]": canary("mailchimp", "email")}
    form |= {"type": "unsubscribe", "fired_at": "2026-01-05 12:00:00", "data[action]": "unsub", "data[list_id]": "test-list"}
    mail = {name: canary("maileon", name) for name in ("email", "external_id", "firstname", "fullname", "unknown")} | {"timestamp": 1767620000000}
    contacts = {"email": canary("contacthub", "email"), "phone": canary("contacthub", "phone"), "otherContacts": [{"value": canary("contacthub", "other")}]}
    subscriptions = [
        {
            "id": "newsletter",
            "subscribed": False,
            "endDate": "2026-01-05T10:00:00.000+0000",
            "preferences": [{"key": "k", "value": canary("contacthub", "preference")}],
        }
    ]
    base = {
        "contacts": contacts,
        "firstName": canary("contacthub", "first_name"),
        "lastName": canary("contacthub", "last_name"),
        "dob": canary("contacthub", "dob"),
        "subscriptions": subscriptions,
    }
    hub = {
        "updates": [{"operation": "UPDATE", "entity": {"type": "CUSTOMER", "data": {"externalId": canary("contacthub", "external_id"), "base": base}}}],
        "nextOffset": "1",
    }
    return {
        "native": ("application/json", json.dumps(native_body()).encode()),
        "privacy_tools": ("application/json", json.dumps(tools).encode()),
        "cmxorganize": ("application/json", json.dumps(shop).encode()),
        "mailchimp": ("application/x-www-form-urlencoded", urlencode(form).encode()),
        "maileon": ("application/json", json.dumps({"event": "unsubscription", **mail}).encode()),
        "contacthub": ("application/json", json.dumps(hub).encode()),
    }


def personal() -> dict[str, str]:
    """Every personal value of every body, by kind and field."""
    found = {}
    for kind, (media_type, body) in bodies().items():
        values = json.loads(body) if media_type == "application/json" else dict(_pairs(body))
        found |= {path: text for path, text in _leaves(values, kind) if MARK in text or text.startswith(("+55119876", "987654321", "2001:db8:c"))}
    return found | {"native metadata name": f"Canary-name-{MARK}"}


def _pairs(body: bytes) -> Iterator[tuple[str, str]]:
    from urllib.parse import parse_qsl

    yield from parse_qsl(body.decode())


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path} {name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif isinstance(value, str):
        yield path, value


def credential(vendor: str, name: str) -> str:
    """A credential that nobody takes, in the form that the vendor file wants."""
    plain = f"canary-{vendor}-{name}-{MARK}"
    if (vendor, name) == ("webhook", "secret"):
        return "whsec_" + base64.b64encode(hashlib.sha256(plain.encode()).digest()).decode()
    return plain + "-us1" if vendor == "mailchimp" else plain


def credentials() -> dict[tuple[str, str], str]:
    """One for every credential that any vendor file declares, that of its approval included."""
    found = {}
    for vendor in vendor_names():
        declared: Any = adapter_class(vendor)
        names = {*declared.credentials, *(declared.authorization.credentials if issubclass(declared, Authorizable) else ())}
        found |= {(vendor, name): credential(vendor, name) for name in names if (vendor, name) not in NOT_SECRET}
    return found


def hidden_settings() -> set[str]:
    """The settings that may carry a secret: those that their dataclasses hide."""
    top = {item.name for item in fields(Settings) if not item.repr}
    sections = {item.name: Settings.__annotations__[item.name] for item in fields(Settings)}
    import config.sections as kinds

    for name, annotation in sections.items():
        kind = getattr(kinds, str(annotation).rpartition(".")[2], None)
        if kind is not None and is_dataclass(kind):
            top |= {f"{name}.{item.name}" for item in fields(kind) if not item.repr}
    return top


def told() -> list[str]:
    """The vendors that are told."""
    return [name for name in vendor_names() if has_verb(name, "tell")]
