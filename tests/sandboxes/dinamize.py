"""Dinamize as its documentation describes it: HTTP 200 to everything, the code in the body decides.

Documented: the envelope, the auth call, the codes 480001, 240002/3/4/29 and 240024 with `retry-after` as a string in the body, sessions of an hour idle
and a day at most, 60 calls a minute, search with its filters; that a call with an application token, `redirect_url`, `requested_permissions` and
`connection_id` yields a ConnectionToken, and a person's approval (`POST /_sandbox/dinamize/approve`) the Consent-Token of an e-mail. Assumed, for want
of a public word: the codes of an expired session, of invalid fields and of a missing permission (settings), the address of that call and the name of the
ConnectionToken in its answer (settings), the limit's scope (client), and that a past or empty `date_rest` lets mail flow again.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, ClassVar

import orjson

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request, as_json

DETAILS = {
    "480001": ("Success", "Sucesso"),
    "240002": ("Password is missing", "Senha ausente"),
    "240003": ("User is missing", "Usuário ausente"),
    "240004": ("Invalid user or password", "Usuário ou senha inválidos"),
    "240024": ("Requests limit exceeded", "Limite de requisições excedido"),
    "240029": ("Invalid client code", "Código de cliente inválido"),
}
LOGIN = {"user": "test-dinamize-user", "password": "test-dinamize-password"}
CLIENT = "test-client"
TOKEN = "test-dinamize-token"
APPLICATION_TOKENS = ("test-dinamize-application-homologation", "test-dinamize-application-production")
PERMISSIONS = {"EMKT_READ_CONTACTS", "EMKT_WRITE_CONTACTS"}
READING = {"search", "get"}


class Sandbox(base.Sandbox):
    name = "dinamize"
    defaults: ClassVar = {
        "calls_per_minute": 60,
        "language": "both",
        "token_header": "auth-token",
        "token_idle_seconds": 3600.0,
        "token_life_seconds": 86400.0,
        "signed_out_code": "240001",
        "invalid_code": "240199",
        "forbidden_code": "240198",
        "connection_path": "/connection-token",
        "connection_token_name": "connection-token",
    }

    def reset(self) -> None:
        super().reset()
        self.sessions: dict[str, list[float]] = {}
        self.spent: dict[str, deque[float]] = {}
        self.asked: dict[str, dict[str, Any]] = {}
        self.consents: dict[str, set[str]] = {}
        self.numbers, self.codes = itertools.count(1), itertools.count(100001)

    def operation(self, request: Request) -> str:
        return request.path.strip("/")

    def throttled(self, seconds: float | None) -> Reply:
        return self.envelope("240024", {"retry-after": str(math.ceil(17 if seconds is None else seconds))})

    def envelope(self, code: str, body: Any = None) -> Reply:
        number = next(self.numbers)
        language = {"en": 0, "pt": 1}.get(self.settings["language"], number % 2)
        detail = DETAILS.get(code, ("Invalid request", "Requisição inválida"))[language]
        return as_json({"code": code, "code_detail": detail, "body": body or {}, "request_unique": f"u{number}", "warning": []})

    def handle(self, request: Request) -> Reply:
        fields = request.json()
        if request.method != "POST" or not isinstance(fields, dict):
            return self.envelope(self.settings["invalid_code"])
        if request.path == "/auth":
            return self.over_limit(CLIENT) or self.auth(fields)
        if request.path == self.settings["connection_path"]:
            return self.over_limit(CLIENT) or self.ask_owner(request, fields)
        if not self.is_signed_in(request.headers.get(self.settings["token_header"], "")):
            return self.envelope(self.settings["signed_out_code"])
        act = {"upsert": self.upsert, "add": self.upsert, "search": self.search, "get": self.get, "delete": self.delete, "update": self.update}
        action = request.path.removeprefix("/emkt/contact/")
        granted = self.consents.get(request.headers.get(self.settings["token_header"], ""), PERMISSIONS)
        if ("EMKT_READ_CONTACTS" if action in READING else "EMKT_WRITE_CONTACTS") not in granted:
            return self.envelope(self.settings["forbidden_code"])
        return self.over_limit(CLIENT) or act.get(action, lambda _: self.envelope(self.settings["invalid_code"]))(fields)

    def over_limit(self, client: str) -> Reply | None:
        """Any window of a minute takes so many calls; a refused one does not count."""
        most, now = self.settings["calls_per_minute"], time.time()
        spent = self.spent.setdefault(client, deque())
        while spent and spent[0] <= now - 60:
            spent.popleft()
        if most is not None and len(spent) >= most:
            return self.throttled(spent[0] + 60 - now if spent else 60)
        spent.append(now)
        return None

    def auth(self, fields: Mapping[str, Any]) -> Reply:
        if not fields.get("password"):
            return self.envelope("240002")
        if not fields.get("user"):
            return self.envelope("240003")
        if fields["user"] != LOGIN["user"] or fields["password"] != LOGIN["password"]:
            return self.envelope("240004")
        if fields.get("client_code") != CLIENT:
            return self.envelope("240029")
        token = f"test-session-{next(self.numbers)}"
        self.sessions[token] = [time.time(), time.time()]
        return self.envelope("480001", {"auth-token": token})

    def ask_owner(self, request: Request, fields: Mapping[str, Any]) -> Reply:
        """Note who asks for what; nothing is allowed before the owner approves."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Application" or token not in APPLICATION_TOKENS:
            return self.envelope(self.settings["signed_out_code"])
        wanted, owner = fields.get("requested_permissions"), fields.get("connection_id")
        is_json = request.headers.get("content-type", "").replace(" ", "").lower() == "application/json;charset=utf-8"
        if not is_json or not fields.get("redirect_url") or not wanted or set(wanted) - PERMISSIONS or not re.fullmatch(r"[^@\s]+@[^@\s]+", str(owner)):
            return self.envelope(self.settings["invalid_code"])
        connection = f"test-connection-{next(self.numbers)}"
        self.asked[connection] = {"connection_id": owner, "permissions": sorted(wanted)}
        return self.envelope("480001", {self.settings["connection_token_name"]: connection})

    def act(self, what: str, body: bytes) -> dict[str, Any]:
        """`approve`: what the owner does, and the e-mail that follows; the one who asked last unless a `connection_token` is named."""
        if what != "approve":
            return super().act(what, body)
        if not self.asked:
            raise ValueError("nobody has asked for a Consent-Token")
        wanted = self.asked.pop(orjson.loads(body).get("connection_token") or list(self.asked)[-1])
        consent = f"test-consent-{next(self.numbers)}"
        self.consents[consent] = set(wanted["permissions"])
        return {"to": wanted["connection_id"], "consent_token": consent}

    def is_signed_in(self, token: str) -> bool:
        if token == TOKEN or token in self.consents:
            return True
        times, now = self.sessions.get(token), time.time()
        if times is None or now - times[0] >= self.settings["token_life_seconds"] or now - times[1] >= self.settings["token_idle_seconds"]:
            self.sessions.pop(token, None)
            return False
        times[1] = now
        return True

    def upsert(self, fields: Mapping[str, Any]) -> Reply:
        listed, email = fields.get("contact-list_code"), fields.get("email")
        if not isinstance(listed, str) or not listed or not isinstance(email, str) or not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
            return self.envelope(self.settings["invalid_code"])
        if not _is_rest(fields.get("date_rest", "")):
            return self.envelope(self.settings["invalid_code"])
        contact = self.keep(listed, email.lower(), fields)
        self.told(f"{listed}/{contact['email']}", contact["state"], date_rest=contact["date_rest"])
        return self.envelope("480001", {"code": contact["code"]})

    def keep(self, listed: str, email: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        fresh = {"code": str(next(self.codes)), "email": email, "name": "", "external_code": "", "date_rest": "", "optout": False, "spam": False}
        contact = self.contacts.setdefault(f"{listed}/{email}", {**fresh, "list": listed, "insert_date": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"})
        contact |= {name: fields[name] for name in ("name", "external_code", "date_rest", "optout", "spam") if name in fields}
        contact["state"] = "withdrawn" if _rests(contact["date_rest"]) else "given"
        return contact

    def place(self, contact: Mapping[str, Any]) -> None:
        self.keep(contact.get("list", "1"), contact["email"].lower(), contact)

    def find(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        wanted = (fields.get("contact-list_code"), fields.get("contact_code"))
        return next((contact for contact in self.contacts.values() if (contact["list"], contact["code"]) == wanted), None)

    def get(self, fields: Mapping[str, Any]) -> Reply:
        contact = self.find(fields)
        return self.envelope("480001", _shown(contact)) if contact else self.envelope(self.settings["invalid_code"])

    def update(self, fields: Mapping[str, Any]) -> Reply:
        contact = self.find(fields)
        return self.upsert({**fields, "email": contact["email"]}) if contact else self.envelope(self.settings["invalid_code"])

    def delete(self, fields: Mapping[str, Any]) -> Reply:
        contact = self.find(fields)
        if contact is None:
            return self.envelope(self.settings["invalid_code"])
        del self.contacts[f"{contact['list']}/{contact['email']}"]
        return self.envelope("480001")

    def search(self, fields: Mapping[str, Any]) -> Reply:
        size, page = int(fields.get("page_size", 10)), int(fields.get("page_number", 1))
        if not fields.get("contact-list_code") or not 1 <= size <= 10_000:
            return self.envelope(self.settings["invalid_code"])
        found = [contact for contact in self.contacts.values() if contact["list"] == fields["contact-list_code"] and _matches(contact, fields)]
        shown = [_shown(contact) for contact in found[(page - 1) * size : page * size]]
        return self.envelope("480001", {"items": shown, "next": len(found) > page * size})


def _rests(day: str) -> bool:
    return bool(day) and date.fromisoformat(day) >= datetime.now(UTC).date()


def _is_rest(day: Any) -> bool:
    if not isinstance(day, str):
        return False
    try:
        return not day or bool(date.fromisoformat(day))
    except ValueError:
        return False


def _shown(contact: Mapping[str, Any]) -> dict[str, Any]:
    """A contact as answers show it: `date_rest` is not among the documented fields."""
    names = ("code", "email", "name", "external_code", "insert_date", "optout", "spam")
    return {**{name: contact[name] for name in names}, "status": "ACTIVE", "custom_fields": {}}


def _matches(contact: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    wanted = {"REST_ONLY": True, "NO_REST": False}.get(fields.get("status_contact", ""))
    if wanted is not None and _rests(contact["date_rest"]) is not wanted:
        return False
    return all(_meets(str(contact.get(term["field"], "")), term["operator"], term["value"]) for term in fields.get("search") or [])


def _meets(held: str, operator: str, value: str) -> bool:
    negated = operator.startswith("!")
    match operator.removeprefix("!"):
        case "=":
            met = held == value
        case "*v*":
            met = value in held
        case "v*":
            met = held.startswith(value)
        case "*v":
            met = held.endswith(value)
        case "<" | "<=" | ">" | ">=" as order:
            met = {"<": held < value, "<=": held <= value, ">": held > value, ">=": held >= value}[order]
        case _:
            met = False
    return met is not negated
