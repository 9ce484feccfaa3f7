"""Mailchimp Marketing API 3.0 as its documentation and field reports describe it: members and their tags, the bulk call, compliance, ten calls at once.

Settings: `compliance` says which unsubscribed members may not be subscribed again by API, `any` (as most reports put it) or `self` (only those who left
by themselves or bounced); `bulk_ignored` what the bulk call shows of such a member: `shown` unchanged, `omitted`, or an `error`.

Tags go by the hash of the address only, and a call on them answers 204 without a body whatever it changed. A member shows at most fifty. Of an archived
member nothing but a look and a PUT is known; he keeps his tags.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request, as_json

API_KEY = "test-mailchimp-key-us1"
STATUSES = frozenset({"subscribed", "unsubscribed", "cleaned", "pending", "transactional"})
MOST_TAGS_SHOWN = 50
KEPT = ("language", "merge_fields", "ip_signup", "timestamp_signup", "ip_opt", "timestamp_opt", "interests")


class Sandbox(base.Sandbox):
    name = "mailchimp"
    version_path = "/3.0"
    defaults: ClassVar = {
        "api_keys": [API_KEY],
        "lists": None,
        "permissions": None,
        "max_concurrent": 10,
        "bulk_max": 500,
        "compliance": "any",
        "bulk_ignored": "shown",
    }

    def reset(self) -> None:
        super().reset()
        self.forgotten: set[str] = set()
        self.numbers = itertools.count(1)

    def operation(self, request: Request) -> str:
        """Without the hash of the address."""
        return re.sub(r"/members/[^/]+", "/members/{hash}", f"{request.method} {request.path.removeprefix('/3.0')}")

    def throttled(self, seconds: float | None) -> Reply:
        return problem(429, "Too Many Requests", "You have exceeded the limit of 10 simultaneous connections.")

    def handle(self, request: Request) -> Reply:
        return self.refused(request) or self.routed(request)

    def refused(self, request: Request) -> Reply | None:
        if request.concurrent > self.settings["max_concurrent"]:
            return self.throttled(None)
        if not self.is_known(request.headers.get("authorization", "")):
            return problem(401, "API Key Invalid", "Your API key may be invalid, or you've attempted to access the wrong datacenter.")
        return None

    def routed(self, request: Request) -> Reply:
        parts = [unquote(part) for part in request.path.split("/")[1:]]
        if len(parts) < 2 or parts[0] != "lists" or (self.settings["lists"] is not None and parts[1] not in self.settings["lists"]):
            return not_found()
        body = request.json() if request.body else {}
        if not isinstance(body, dict):
            return problem(400, "JSON Parse Error", "We encountered an unspecified JSON parsing error.")
        if len(parts) == 2:
            return self.audience(parts[1], body, request)
        if parts[2] != "members" or len(parts) not in (4, 5, 6):
            return not_found()
        return self.tags(parts[1], parts[3], request, body) if parts[4:] == ["tags"] else self.member(parts[1], parts[3:], request.method, body)

    def audience(self, listed: str, body: Mapping[str, Any], request: Request) -> Reply:
        if request.method == "GET":
            return as_json({"id": listed, "name": "Test audience"} if request.query.get("fields") != "id" else {"id": listed})
        return self.post_list(listed, body, request) if request.method == "POST" else not_allowed()

    def is_known(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return value in self.settings["api_keys"]
        try:
            return base64.b64decode(value).decode().partition(":")[2] in self.settings["api_keys"]
        except ValueError:
            return False

    def member(self, listed: str, rest: list[str], method: str, body: Mapping[str, Any]) -> Reply:
        held = self.contacts.get(f"{listed}/{self.address(listed, rest[0])}")
        if rest[1:] == ["actions", "delete-permanent"] and method == "POST":
            return self.erase(held)
        if method == "PUT" and len(rest) == 1:
            return self.put(listed, rest[0], held, body)
        if held is None or (held["status"] == "archived" and method != "GET"):
            return not_found()
        if method == "DELETE":
            held |= {"status": "archived", "state": "withdrawn"}
            return Reply(204)
        if method == "PATCH":
            return self.write(held, body, body.get("status"))
        return as_json(shown(held)) if method == "GET" else not_allowed()

    def tags(self, listed: str, digest: str, request: Request, body: Mapping[str, Any]) -> Reply:
        """Only the hash of the address is taken here, neither the address nor the contact id."""
        held = next((one for one in self.contacts.values() if (one["list_id"], one["id"]) == (listed, digest)), None)
        if held is None or (held["status"] == "archived" and request.method != "GET"):
            return not_found()
        if request.method == "GET":
            first, count = int(request.query.get("offset", 0)), min(int(request.query.get("count", 10)), 1000)
            return as_json({"tags": tags_of(held)[first : first + count], "total_items": len(held["tags"])})
        return self.set_tags(held, body.get("tags")) if request.method == "POST" else not_allowed()

    def set_tags(self, held: dict[str, Any], wanted: Any) -> Reply:
        if not isinstance(wanted, list) or not all(is_tag(one) for one in wanted):
            return invalid("tags")
        for one in wanted:
            if one["status"] == "active":
                held["tags"].setdefault(one["name"], next(self.numbers))
            else:
                held["tags"].pop(one["name"], None)
            self.told(f"{held['list_id']}/{held['email_address'].lower()}#{one['name']}", "given" if one["status"] == "active" else "withdrawn")
        return Reply(204)

    def address(self, listed: str, name: str) -> str:
        """The address that a path names by MD5, by itself, or by contact id."""
        if "@" in name:
            return name.lower()
        held = (contact for contact in self.contacts.values() if contact["list_id"] == listed and name in (contact["id"], contact["contact_id"]))
        return next((contact["email_address"].lower() for contact in held), "")

    def put(self, listed: str, name: str, held: dict[str, Any] | None, body: Mapping[str, Any]) -> Reply:
        email = body.get("email_address", held and held["email_address"])
        if not is_email(email) or body.get("status_if_new") not in STATUSES:
            return invalid("email_address" if not is_email(email) else "status_if_new")
        if email.lower() in self.forgotten:
            return problem(400, "Forgotten Email Not Subscribed", "This address was permanently deleted and cannot be re-imported.")
        if held is None and "@" not in name and name != md5(email):
            return invalid("email_address")
        fresh = held is None or held["status"] == "archived"
        return self.write(held or self.fresh(listed, email), body, body["status_if_new"] if fresh and "status" not in body else body.get("status"))

    def fresh(self, listed: str, email: str) -> dict[str, Any]:
        return {
            "id": md5(email),
            "email_address": email,
            "contact_id": f"c{next(self.numbers):08x}",
            "list_id": listed,
            "status": "new",
            "marketing_permissions": {},
            "tags": {},
            "by_self": False,
        }

    def write(self, member: dict[str, Any], body: Mapping[str, Any], status: Any) -> Reply:
        permissions = body.get("marketing_permissions", [])
        known = self.settings["permissions"]
        if (status is not None and status not in STATUSES) or any(known is not None and one["marketing_permission_id"] not in known for one in permissions):
            return invalid("status" if status not in STATUSES else "marketing_permissions")
        if status == "subscribed" and self.is_barred(member):
            detail = f"{member['email_address']} is already a list member in compliance state due to unsubscribe, bounce, or compliance review"
            return problem(400, "Member In Compliance State", f"{detail} and cannot be subscribed.")
        member["marketing_permissions"] |= {one["marketing_permission_id"]: bool(one["enabled"]) for one in permissions}
        self.keep(member, body, status or member["status"])
        return as_json(shown(member))

    def is_barred(self, member: Mapping[str, Any]) -> bool:
        left = member["status"] == "unsubscribed" and (member["by_self"] or self.settings["compliance"] == "any")
        return left or member["status"] == "cleaned"

    def keep(self, member: dict[str, Any], body: Mapping[str, Any], status: str) -> None:
        member |= {name: body[name] for name in KEPT if name in body}
        member |= {"status": status, "state": "given" if status == "subscribed" else "withdrawn", "last_changed": now()}
        member["by_self"] = member["by_self"] and status == "unsubscribed"
        key = f"{member['list_id']}/{member['email_address'].lower()}"
        self.contacts[key] = member
        self.told(key, member["state"], status=status)

    def place(self, contact: Mapping[str, Any]) -> None:
        """A member as he came or left by himself: `email`, `status`, `tags`, and `list_id` L1 by default."""
        listed, email = contact.get("list_id", "L1"), contact["email"]
        member = self.contacts.get(f"{listed}/{email.lower()}") or self.fresh(listed, email)
        self.keep(member, {}, contact["status"])
        member["by_self"] = True
        member["tags"] |= {name: next(self.numbers) for name in contact.get("tags", ())}

    def erase(self, held: dict[str, Any] | None) -> Reply:
        if held is None:
            return not_found()
        self.forgotten.add(held["email_address"].lower())
        del self.contacts[f"{held['list_id']}/{held['email_address'].lower()}"]
        return Reply(204)

    def post_list(self, listed: str, body: Mapping[str, Any], request: Request) -> Reply:
        members = body.get("members")
        if not isinstance(members, list) or len(members) > self.settings["bulk_max"]:
            return invalid("members")
        answer: dict[str, list[Any]] = {"new_members": [], "updated_members": [], "errors": []}
        seen: set[str] = set()
        for item in members:
            email = str(item.get("email_address", "")).lower()
            if email in seen:
                answer["errors"].append(error_of(item, "This contact is in the batch more than once."))
                continue
            seen.add(email)
            self.import_one(listed, item, body.get("update_existing") is True, answer)
        totals = {"total_created": len(answer["new_members"]), "total_updated": len(answer["updated_members"]), "error_count": len(answer["errors"])}
        return as_json({**answer, **totals})

    def import_one(self, listed: str, item: Mapping[str, Any], update: bool, answer: dict[str, list[Any]]) -> None:
        email, status = item.get("email_address"), item.get("status")
        held = self.contacts.get(f"{listed}/{str(email).lower()}")
        if not is_email(email) or status not in STATUSES or str(email).lower() in self.forgotten:
            answer["errors"].append(error_of(item, "Please provide a valid email address."))
        elif held is None:
            member = self.fresh(listed, str(email))
            self.keep(member, item, status)
            answer["new_members"].append(shown(member))
        elif not update:
            answer["errors"].append(error_of(item, f"{email} is already a list member.", "ERROR_CONTACT_EXISTS"))
        elif status == "subscribed" and self.is_barred(held):
            if self.settings["bulk_ignored"] == "shown":
                answer["updated_members"].append(shown(held))
            elif self.settings["bulk_ignored"] == "error":
                answer["errors"].append(error_of(item, f"{email} is in a compliance state due to unsubscribe, bounce, or compliance review."))
        else:
            self.keep(held, item, status)
            answer["updated_members"].append(shown(held))


def md5(email: str) -> str:
    return hashlib.md5(email.lower().encode()).hexdigest()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_email(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value) is not None


def shown(member: Mapping[str, Any]) -> dict[str, Any]:
    permissions = [{"marketing_permission_id": name, "text": "Email", "enabled": enabled} for name, enabled in member["marketing_permissions"].items()]
    hidden = {"state", "by_self", "marketing_permissions", "tags"}
    tags = {"tags_count": len(member["tags"]), "tags": tags_of(member)[:MOST_TAGS_SHOWN]}
    return {**{name: value for name, value in member.items() if name not in hidden}, "marketing_permissions": permissions, **tags}


def tags_of(member: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for name, number in member["tags"].items()]


def is_tag(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and bool(value["name"]) and value.get("status") in ("active", "inactive")


def error_of(item: Mapping[str, Any], text: str, code: str = "ERROR_GENERIC") -> dict[str, str]:
    return {"email_address": str(item.get("email_address", "")), "error": text, "error_code": code, "field": "", "field_message": ""}


def problem(status: int, title: str, detail: str) -> Reply:
    body = {"type": "https://mailchimp.com/developer/marketing/docs/errors/", "title": title, "status": status, "detail": detail, "instance": "test-instance"}
    return as_json(body, status, "application/problem+json; charset=utf-8")


def invalid(name: str) -> Reply:
    return problem(400, "Invalid Resource", f"The resource submitted could not be validated: {name}.")


def not_found() -> Reply:
    return problem(404, "Resource Not Found", "The requested resource could not be found.")


def not_allowed() -> Reply:
    return problem(405, "Method Not Allowed", "The requested method and resource are not compatible.")
