"""Privacy Tools' external API as its wiki describes it: token call, consent import by e-mail and by phone, and the front end's lookup.

Documented: paths, mandatory fields, the seven forms of a date, what `sendSMS` needs, 401 for a missing or expired token, the lookup's header. Assumed, for
want of a public word: the bodies of all answers but the token's, 400 for wrong fields, and that a person is found by e-mail (import) or phone (import/phone).
`messages` lists the mails and texts that the platform was asked to send. `waf` refuses programs that do not call themselves a browser.
"""

from __future__ import annotations

import base64
import itertools
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request, as_json

LOGIN = {"username": "test-privacy-public-key", "password": "test-privacy-secret", "grant_type": "password"}
CLIENT = "test-privacy-client:test-privacy-client-secret"
PUBLIC = f"publicAuthorization#{LOGIN['username']}"
IMPORTS = {"/consent/import": "email", "/consent/import/phone": "phone"}
DATES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}|\d\d/\d\d/\d{4}( \d\d:\d\d(:\d\d( [AP]M)?)?)?")
MESSAGES = ("sendEmailPortal", "sendEmailPortalResetPassword", "sendSMS")


class Sandbox(base.Sandbox):
    name = "privacy_tools"
    version_path = "/external_api_v2"
    defaults: ClassVar = {"token_life_seconds": 33476.0, "refuse_tokens": False, "templates": None, "waf": False, "token_type": "bearer"}

    def reset(self) -> None:
        super().reset()
        self.numbers = itertools.count(1)
        self.tokens: dict[str, float] = {}
        self.messages: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}

    def operation(self, request: Request) -> str:
        """Without the hash of the person."""
        path = request.path.removeprefix(self.version_path)
        return re.sub(r"/getConsentsUser/[^/]+", "/getConsentsUser/{hash}", f"{request.method} {path}")

    def handle(self, request: Request) -> Reply:
        if self.settings["waf"] and not request.headers.get("user-agent", "").startswith("Mozilla/"):
            return Reply(403, b"<html>Access denied</html>", "text/html")
        if request.path == "/oauth/token" and request.method == "POST":
            return self.token(request)
        if request.path.startswith("/public_api/consent/getConsentsUser/") and request.method == "GET":
            return self.lookup(request)
        if request.path not in IMPORTS or request.method != "POST":
            return refused(404, "Not Found", request)
        if not self.is_signed_in(request.headers.get("authorization", "")):
            return refused(401, "Unauthorized", request)
        return self.imported(request, IMPORTS[request.path])

    def token(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Basic {base64.b64encode(CLIENT.encode()).decode()}":
            return refused(401, "Unauthorized", request)
        if request.query != LOGIN:
            return as_json({"error": "invalid_grant", "error_description": "Bad credentials"}, 400)
        token = f"test-privacy-token-{next(self.numbers)}"
        self.tokens[token] = time.time()
        life = int(self.settings["token_life_seconds"])
        kind = self.settings["token_type"]
        return as_json({"access_token": token, "token_type": kind, "refresh_token": "test-refresh", "expires_in": life, "scope": "password"})

    def is_signed_in(self, header: str) -> bool:
        kind, _, token = header.partition(" ")
        began = self.tokens.get(token)
        is_alive = began is not None and time.time() < began + self.settings["token_life_seconds"]
        return is_alive and kind == self.settings["token_type"] and not self.settings["refuse_tokens"]

    def imported(self, request: Request, key: str) -> Reply:
        body = request.json()
        wrong = next(self.wrong(body, key), None)
        if wrong:
            return refused(400, f"{wrong} is missing or wrong", request)
        self.messages += [{"kind": kind, "message": body.get("sendSMSMessage")} for kind in MESSAGES if body.get(kind)]
        person = f"{key}:{body['email'].lower() if key == 'email' else digits(body['phone'])}"
        if body.get("updateUserData") or person not in self.names:
            self.names[person] = body["name"]
        self.keep(body["templateHash"], person, value=body["consentValue"], date=body["consentDate"], user=body.get("hashUser"))
        return as_json({"success": True})

    def wrong(self, body: Any, key: str) -> Any:
        """The names of fields that are missing or wrong."""
        if not isinstance(body, dict):
            yield "body"
            return
        yield from (name for name in ("name", key, "templateHash", "consentDate") if not isinstance(body.get(name), str) or not body[name])
        if not isinstance(body.get("consentValue"), bool):
            yield "consentValue"
        if not DATES.fullmatch(str(body.get("consentDate"))):
            yield "consentDate"
        if key == "email" and not re.fullmatch(r"[^@\s]+@[^@\s]+", str(body.get("email"))):
            yield "email"
        if self.settings["templates"] is not None and body.get("templateHash") not in self.settings["templates"]:
            yield "templateHash"
        if body.get("sendSMS"):
            yield from (name for name in ("portalHash", "email", "phone") if not body.get(name))

    def keep(self, template: str, person: str, *, value: bool, date: str, user: str | None) -> None:
        """The latest to arrive holds, whatever its date; whether the vendor orders by date is not documented."""
        state = "given" if value else "withdrawn"
        held = self.contacts.get(f"{template}/{person}", {})
        kept = {"template": template, "state": state, "date": date, "user": user or held.get("user"), "name": self.names.get(person, "")}
        self.contacts[f"{template}/{person}"] = kept
        self.told(f"{template}/{person}", state, date=date)

    def place(self, contact: Mapping[str, Any]) -> None:
        """What a person said on the platform: `template`, `email` or `phone`, `state`, and `user` for the lookup."""
        person = f"email:{contact['email']}" if "email" in contact else f"phone:{digits(contact['phone'])}"
        self.keep(contact["template"], person, value=contact["state"] == "given", date="2026-01-06T12:00:00.000+0000", user=contact.get("user"))

    def lookup(self, request: Request) -> Reply:
        if request.headers.get("publicauthorization") != PUBLIC:
            return refused(401, "Unauthorized", request)
        user, _, template = request.path.removeprefix("/public_api/consent/getConsentsUser/").partition("/")
        found = [one for one in self.contacts.values() if one["user"] == unquote(user) and unquote(template) in ("", one["template"])]
        return as_json([{"templateHash": one["template"], "value": one["state"] == "given", "date": one["date"]} for one in found])

    def snapshot(self, most_calls: int | None = None) -> dict[str, Any]:
        return {**super().snapshot(most_calls), "messages": list(self.messages)}


def digits(phone: str) -> str:
    """The number within Brazil, in whichever way it was written."""
    found = re.sub(r"\D", "", phone)
    return found[2:] if phone.startswith("+55") else found


def refused(status: int, text: str, request: Request) -> Reply:
    """An error as the platform's framework (Spring) puts it."""
    return as_json({"timestamp": "2026-01-05T16:00:00.000+0000", "status": status, "error": text, "message": text, "path": request.path}, status)
