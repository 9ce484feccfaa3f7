"""Contacthub's hub API 1.51 as its specification, SDKs and plugins describe it: customers in nodes, subscriptions, conflicts, reindexing, the update stream.

Documented: roles of tokens, 409 with the customer's id and href (without them for an untrusted source), 403 for an unknown workspace, 404 for an unknown
node, 423 while reindexing, the offsets of `/updates`, `sourceInfo`. Assumed, for want of a public word: that a PUT creates a subscription
(`put_creates`), that PATCH replaces arrays and merges objects, that an external id is enough for a new customer, and the answer of `last-offset`.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request, as_json

ADDRESS = "https://api.contactlab.it/hub/v1"
WRITERS = {"ADMIN", "USER", "TRUSTED_APPLICATION", "UNTRUSTED_APPLICATION"}
READERS = {"ADMIN", "USER", "GUEST", "TRUSTED_APPLICATION"}
DELETERS = {"ADMIN", "USER", "TRUSTED_APPLICATION"}
STREAM_READERS = {"ADMIN", "USER", "PLATFORM_UPDATES"}
TOKENS = {
    "test-contacthub-token": {"role": "TRUSTED_APPLICATION", "source": "test-relay"},
    "test-contacthub-untrusted": {"role": "UNTRUSTED_APPLICATION", "source": "test-web-form"},
    "test-contacthub-updates": {"role": "PLATFORM_UPDATES", "source": "test-updates"},
}


class Sandbox(base.Sandbox):
    name = "contacthub"
    version_path = "/hub/v1"
    defaults: ClassVar = {
        "tokens": TOKENS,
        "workspaces": ["test-workspace"],
        "nodes": ["test-node"],
        "matching": ["base.contacts.email"],
        "case_sensitive": False,
        "reindexing_until": 0.0,
        "flag": "subscribed",
        "put_creates": True,
    }

    world: ClassVar = (*base.Sandbox.world, "customers", "updates")

    def reset(self) -> None:
        super().reset()
        self.customers: dict[str, dict[str, Any]] = {}
        self.updates: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)

    def operation(self, request: Request) -> str:
        """Without ids of customers."""
        return re.sub(r"/customers/[^/]+", "/customers/{id}", f"{request.method} {request.path.removeprefix('/hub/v1')}")

    def handle(self, request: Request) -> Reply:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = self.settings["tokens"].get(token) if scheme == "Bearer" else None
        if known is None:
            return problem(401, "The client is not authorized to access the API")
        parts = [unquote(part) for part in request.path.split("/")[1:]]
        if len(parts) < 3 or parts[0] != "workspaces":
            return problem(404, "not found")
        if parts[1] not in self.settings["workspaces"]:
            return problem(403, f"workspace not found: {parts[1]}")
        if parts[2] == "updates":
            return self.stream(request, parts[3:]) if known["role"] in STREAM_READERS else forbidden()
        if parts[2] != "customers" or len(parts) > 6:
            return problem(404, "not found")
        return self.allowed(request, parts[3:], known["role"]) or self.routed(request, parts[3:], known)

    def allowed(self, request: Request, rest: list[str], role: str) -> Reply | None:
        """Why the role may not do this, or why nobody may just now."""
        roles = {"GET": READERS if rest else READERS | WRITERS, "DELETE": DELETERS}.get(request.method, WRITERS)
        if role not in roles:
            return forbidden()
        if request.method != "GET" and time.time() < self.settings["reindexing_until"]:
            return problem(423, "Reindexing in progress")
        return None

    def routed(self, request: Request, rest: list[str], known: Mapping[str, str]) -> Reply:
        body = request.json() if request.body else {}
        if not isinstance(body, dict):
            return problem(400, "malformed JSON")
        if not rest:
            return {"GET": self.find, "POST": self.create}.get(request.method, not_allowed)(request, body, known)
        customer = self.customers.get(rest[0])
        if customer is None:
            return problem(404, f"customer not found {rest[0]}")
        if len(rest) == 1:
            act = {"GET": lambda *_: as_json(customer), "PATCH": self.patch, "DELETE": self.delete}.get(request.method, not_allowed)
            return act(customer, body, known)
        if rest[1] != "subscriptions":
            return problem(404, "not found")
        return self.subscription(request.method, customer, rest[2] if len(rest) == 3 else None, body, known)

    def create(self, _request: Request, body: dict[str, Any], known: Mapping[str, str]) -> Reply:
        if not isinstance(body.get("nodeId"), str):
            return invalid("nodeId", "may not be null")
        if body["nodeId"] not in self.settings["nodes"]:
            return problem(404, f"node not found {body['nodeId']}")
        if not body.get("externalId") and not any(value_at(body, path) for path in self.settings["matching"]):
            return invalid(self.settings["matching"][0], "unique customer property is required")
        if not subscriptions_are_right(body, self.settings["flag"]):
            return invalid("base.subscriptions", "id and flag are required")
        clash = self.match(body["nodeId"], body)
        if clash:
            shown = {"customer": {"id": clash["id"], "href": self.href(clash)}} if known["role"] in DELETERS else {}
            return problem(409, f"Conflict with exiting customer {clash['id']}", shown)
        fresh = {"id": f"c{next(self.numbers)}", "externalId": None, "base": {}, "consents": {}, "enabled": True, "registeredAt": now()}
        customer = {**fresh, **body, "sourceInfo": {"createdBy": known["source"]}}
        self.customers[customer["id"]] = customer
        self.written("CREATE", customer, known)
        return as_json(customer, 201)

    def match(self, node_id: str, body: Mapping[str, Any], but: str | None = None) -> dict[str, Any] | None:
        """Whom a record would double: by a property of the workspace's policy, or by external id within the node."""
        for customer in self.customers.values():
            if customer["id"] == but or customer["nodeId"] != node_id:
                continue
            paths = ["externalId", *self.settings["matching"]]
            if any(value_at(body, path) and self.folded(body, path) == self.folded(customer, path) for path in paths):
                return customer
        return None

    def folded(self, record: Mapping[str, Any], path: str) -> str:
        value = str(value_at(record, path))
        return value if self.settings["case_sensitive"] or path == "externalId" else value.lower()

    def href(self, customer: Mapping[str, Any]) -> str:
        return f"{ADDRESS}/workspaces/{self.settings['workspaces'][0]}/customers/{customer['id']}"

    def find(self, request: Request, _body: Any, _known: Any) -> Reply:
        node_id = request.query.get("nodeId")
        if not node_id:
            return invalid("nodeId", "may not be null")
        if node_id not in self.settings["nodes"]:
            return problem(404, f"node not found {node_id}")
        found = [customer for customer in self.customers.values() if customer["nodeId"] == node_id]
        if "externalId" in request.query:
            found = [customer for customer in found if customer["externalId"] == request.query["externalId"]]
        if "query" in request.query:
            condition = json.loads(request.query["query"])["query"]["are"]["condition"]
            found = [customer for customer in found if self.folded(customer, condition["attribute"]) == condition["value"].lower()]
        size, page = int(request.query.get("size", 10)), int(request.query.get("page", 0))
        shown = {"size": size, "totalElements": len(found), "totalPages": -(-len(found) // size), "number": page}
        return as_json({"elements": found[page * size : page * size + size], "page": shown})

    def patch(self, customer: dict[str, Any], body: dict[str, Any], known: Mapping[str, str]) -> Reply:
        if "nodeId" in body:
            return invalid("nodeId", "may not be changed")
        merged = merge(customer, body)
        if not subscriptions_are_right(merged, self.settings["flag"]):
            return invalid("base.subscriptions", "id and flag are required")
        if self.match(customer["nodeId"], merged, but=customer["id"]):
            return problem(409, "Conflict")
        customer.update(merged)
        self.written("UPDATE", customer, known)
        return as_json(customer)

    def delete(self, customer: dict[str, Any], _body: Any, known: Mapping[str, str]) -> Reply:
        del self.customers[customer["id"]]
        self.contacts = {key: held for key, held in self.contacts.items() if held["customer_id"] != customer["id"]}
        self.log("DELETE", customer, known)
        return Reply()

    def subscription(self, method: str, customer: dict[str, Any], name: str | None, body: dict[str, Any], known: Mapping[str, str]) -> Reply:
        held = customer["base"].setdefault("subscriptions", [])
        place = next((place for place, one in enumerate(held) if one["id"] == (name or body.get("id"))), None)
        if method in ("GET", "DELETE") and place is not None:
            shown = as_json(held[place])
            if method == "DELETE":
                del held[place]
                self.written("UPDATE", customer, known)
            return shown
        creates = method == "POST" and name is None
        if not creates and (method != "PUT" or name is None or (place is None and not self.settings["put_creates"])):
            return problem(404, "subscription not found")
        if not isinstance(body.get("id"), str) or body["id"] != (name or body["id"]) or not isinstance(body.get(self.settings["flag"]), bool):
            return invalid(self.settings["flag"], "id and flag are required")
        if creates and place is not None:
            return problem(409, "Conflict")
        entry = {"registeredAt": held[place].get("registeredAt") if place is not None else now(), **body, "updatedAt": now()}
        customer["base"]["subscriptions"] = [*(one for one in held if one["id"] != entry["id"]), entry]
        self.written("UPDATE", customer, known)
        return as_json(entry, 201 if creates else 200)

    def written(self, operation: str, customer: dict[str, Any], known: Mapping[str, str]) -> None:
        """Note who wrote last, what each subscription is now, and the change."""
        customer["updatedAt"] = now()
        customer["sourceInfo"] = {**customer["sourceInfo"], "updatedBy": known["source"]}
        person = value_at(customer, "base.contacts.email") or customer["externalId"] or customer["id"]
        for entry in customer["base"].get("subscriptions") or []:
            key, state = f"{person.lower()}/{entry['id']}", "given" if entry[self.settings["flag"]] else "withdrawn"
            if self.contacts.get(key, {}).get("subscription") != entry:
                self.told(key, state, start=entry.get("startDate"), end=entry.get("endDate"), source=known["source"])
            self.contacts[key] = {"state": state, "customer_id": customer["id"], "subscription": dict(entry), "consents": customer["consents"]}
        self.log(operation, customer, known)

    def log(self, operation: str, customer: dict[str, Any], known: Mapping[str, str]) -> None:
        data = copy.deepcopy(customer)
        self.updates.append({"operation": operation, "entity": {"type": "CUSTOMER", "data": data}, "at": time.time(), "source": known["source"]})

    def stream(self, request: Request, rest: list[str]) -> Reply:
        if request.method != "GET" or rest not in ([], ["last-offset"]):
            return problem(404, "not found")
        if rest:
            return as_json({"offset": len(self.updates)})
        size = int(request.query.get("size", 50))
        if not 1 <= size <= 4000 or not {"offset", "timestamp"} & request.query.keys():
            return invalid("size", "offset or timestamp is required, and a size of at most 4000")
        start = int(request.query["offset"]) if "offset" in request.query else self.offset_at(int(request.query["timestamp"]) / 1000)
        page = self.updates[start : start + size]
        shown = [{"operation": one["operation"], "entity": one["entity"]} for one in page if self.is_asked(one, request.query)]
        return as_json({"nextOffset": start + len(page), "updates": shown})

    def offset_at(self, since: float) -> int:
        return next((place for place, one in enumerate(self.updates) if one["at"] >= since), len(self.updates))

    def is_asked(self, update: Mapping[str, Any], query: Mapping[str, str]) -> bool:
        entity = update["entity"]
        return query.get("entity", entity["type"]) == entity["type"] and query.get("nodeId", entity["data"]["nodeId"]) == entity["data"]["nodeId"]

    def forget(self, contact: Mapping[str, Any]) -> None:
        super().forget(contact)
        email = contact["email"].lower()
        self.customers = {number: one for number, one in self.customers.items() if value_at(one, "base.contacts.email") != email}

    def place(self, contact: Mapping[str, Any]) -> None:
        """A customer as somebody else left it: `email` or `external_id`, `subscriptions` (whole entries) and `more` fields of the record."""
        record: dict[str, Any] = {"nodeId": contact.get("node_id", self.settings["nodes"][0]), "externalId": contact.get("external_id")}
        record["base"] = {"contacts": {"email": contact["email"]}} if contact.get("email") else {}
        known = {"source": contact.get("source", "test-somebody-else")}
        held = self.match(record["nodeId"], record)
        customer = held or {"id": f"c{next(self.numbers)}", "consents": {}, "enabled": True, "registeredAt": now(), "sourceInfo": {}, **record}
        customer.update(merge(customer, contact.get("more", {})))
        ours = {one["id"]: one for one in [*customer["base"].get("subscriptions", []), *contact.get("subscriptions", [])]}
        customer["base"]["subscriptions"] = list(ours.values())
        self.customers[customer["id"]] = customer
        self.written("UPDATE" if held else "CREATE", customer, known)

    def snapshot(self, most_calls: int | None = None) -> dict[str, Any]:
        return {**super().snapshot(most_calls), "customers": {name: dict(one) for name, one in self.customers.items()}, "updates": list(self.updates)}


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Objects are merged, everything else is replaced."""
    return {**old, **{name: merge(old[name], value) if isinstance(value, dict) and isinstance(old.get(name), dict) else value for name, value in new.items()}}


def value_at(record: Any, path: str) -> Any:
    for name in path.split("."):
        record = record.get(name) if isinstance(record, dict) else None
    return record


def subscriptions_are_right(record: Mapping[str, Any], flag: str) -> bool:
    entries: Iterator[Any] = iter(value_at(record, "base.subscriptions") or [])
    return all(isinstance(one, dict) and isinstance(one.get("id"), str) and isinstance(one.get(flag), bool) for one in entries)


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "+0000"


def problem(status: int, message: str, data: Any = None, errors: list[Any] | None = None) -> Reply:
    return as_json({"message": message, "logref": "test-logref", "data": data, "errors": errors or []}, status)


def invalid(path: str, message: str) -> Reply:
    return problem(400, "Validation failed", errors=[{"message": message, "path": path, "data": None, "code": "invalid"}])


def forbidden() -> Reply:
    return problem(403, "You don't have the necessary permissions for the resource")


def not_allowed(*_: Any) -> Reply:
    return problem(405, "method not allowed")
