"""Sends canaries to a relay: a body of every kind as it should be, and requests that are wrong in every way, by keys that are canaries themselves."""

from __future__ import annotations

import json
from typing import Any

import requests
import yaml

from pipeline.vendors import has_verb
from tests.support import canary_list
from tests.support.canary_list import MARK, canary, credential
from tests.support.serving import key_line
from tests.support.stack import ROOT

EXAMPLE = yaml.safe_load((ROOT / "config" / "consent.yaml").read_text())
KEYS = {kind: f"canary-key-{kind}-{MARK}" for kind in canary_list.bodies()}
ADDRESS_KEYS = {kind: f"canary-address-{kind}-{MARK}" for kind in canary_list.bodies()}
WRONG_KEY = f"canary-wrong-key-{MARK}"
SIGNING_SECRET = "whsec_" + "Y2FuYXJ5LXNpZ25pbmctc2VjcmV0LXE3eDN2OS1mb3ItdGVzdHM="
POLL_TOKEN = f"canary-poll-token-{MARK}"
SETTINGS = {
    "CONSENT_SUBJECT_PEPPER": f"canary-pepper-{MARK}-" + "p" * 20,
    "CONSENT_VAULT_KEYS": "Y2FuYXJ5LXZhdWx0LWtleS1xN3gzdjktMzItYnl0ZXM=,b2xkZXItdmF1bHQta2V5LXE3eDN2OS0zMi1ieXRlcyE=",
    "CONSENT_FLOWER_LOGIN": f"operator:canary-flower-{MARK}",
    "CONSENT_ALERTS_URL": f"https://alerts.example.org/canary-alerts-{MARK}",
    "CONSENT_EVIDENCE_URL": f"postgresql://canary:canary-evidence-{MARK}@127.0.0.1:9/canary",
    "CONSENT_FLOWER_BROKER_API": f"http://canary:canary-broker-api-{MARK}@127.0.0.1:9/api/",
    "CONSENT_ALERTS_SECRET": "whsec_Y2FuYXJ5LWFsZXJ0cy1zZWNyZXQtcTd4M3Y5LWZvci10ZXN0cw==",
}
ALTERNATIVES: dict[str, list[set[tuple[str, str]]]] = {
    vendor: [{name for name in canary_list.credentials() if name[0] == vendor}] for vendor in canary_list.told() if vendor != "dinamize"
} | {"dinamize": [{("dinamize", "token")}, {("dinamize", name) for name in ("user", "password", "client_code")}]}
"""The sets of credentials that a destination of each vendor has: all that it declares, where it is not one or the other."""


def source_name(kind: str) -> str:
    return kind.replace("_", "-")


def routing() -> str:
    """The example's destinations as they are, and once more with canaries for credentials; a source of every kind."""
    rules = {**EXAMPLE, "sources": {}, "pairs": {}}
    destinations = {name: dict(each) for name, each in EXAMPLE["destinations"].items()}
    for name, each in list(destinations.items()):
        for number, names in enumerate(ALTERNATIVES[each["vendor"]]):
            wrong = {**each, "credentials": {key: credential(vendor, key) for vendor, key in names}}
            destinations[f"wrong-{number}-{name}"] = wrong
    rules["destinations"] = destinations
    purposes = {
        "privacy_tools": {"test-template-hash-newsletter": "newsletter"},
        "cmxorganize": {"newsletter": "newsletter", "single_user_tracking": "single-user-tracking"},
    }
    purposes |= {"mailchimp": {"test-list": "newsletter"}, "maileon": {"doi": "newsletter"}, "contacthub": {"newsletter": "newsletter"}}
    for kind in canary_list.bodies():
        source: dict[str, Any] = {"kind": kind, "keys": [key_line(KEYS[kind])], "url_keys": [key_line(ADDRESS_KEYS[kind])]}
        source |= {"purposes": purposes[kind]} if kind in purposes else {"scopes": ["ingest", "read", "replay"], "all_sources": True}
        rules["sources"][source_name(kind)] = source
    rules["sources"]["signed"] = {"kind": "native", "signing_secret": SIGNING_SECRET}
    for name in ("contacthub-main", "contactsend-main"):
        vendor = destinations[name]["vendor"]
        assert has_verb(vendor, "poll")
        purpose = {"contacthub": {"newsletter": "newsletter"}, "contactsend": {"__cls1": "newsletter"}}[vendor]
        wrong = {"credentials": {"token": POLL_TOKEN}} if vendor == "contacthub" else {}
        rules["sources"][f"polled-{vendor}"] = {"kind": vendor, "purposes": purpose, "poll": {"destination": name, "every_seconds": 1, **wrong}}
    tracked = [name for name, each in destinations.items() if each["vendor"] in ("maileon", "webhook")]
    rules["triggers"] = [{"purposes": ["newsletter"], "deliver_to": list(destinations)}, {"purposes": ["single-user-tracking"], "deliver_to": tracked}]
    rules.pop("pairs")
    return yaml.safe_dump(rules)


def our_secrets() -> dict[str, str]:
    """Every secret that is known before the start, by name: our own and the vendors'."""
    found = {f"setting {name}": value for name, value in SETTINGS.items()}
    found |= {f"vault key {number}": text for number, text in enumerate(SETTINGS["CONSENT_VAULT_KEYS"].split(","))}
    found["flower password"] = SETTINGS["CONSENT_FLOWER_LOGIN"].partition(":")[2]
    found |= {f"{vendor} {name}": value for (vendor, name), value in canary_list.credentials().items()}
    found |= {f"key of {kind}": value for kind, value in KEYS.items()} | {f"address key of {kind}": value for kind, value in ADDRESS_KEYS.items()}
    found |= {"signing secret": SIGNING_SECRET, "poll token": POLL_TOKEN, "wrong key": WRONG_KEY}
    for name, each in EXAMPLE["destinations"].items():
        found |= {f"{name} {key}": value.partition(":-")[2].rstrip("}") for key, value in each["credentials"].items()}
    assert all(len(value) >= 12 for value in found.values()), found
    return found


class Run:
    """What happens to the relay, and everything that it answered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {KEYS['native']}"
        self.places: dict[str, bytes] = {}

    def post(self, what: str, path: str, body: bytes, **headers: str) -> Any:
        answer = self.session.post(self.url + path, data=body, headers={name.replace("_", "-"): value for name, value in headers.items()}, timeout=20)
        self.places[f"answer to {what}"] = answer.content + str(dict(answer.headers)).encode()
        return answer

    def accept_all(self) -> list[str]:
        """A body of every kind, by bearer key and again by the key in the address."""
        ids = []
        for kind, (media_type, body) in canary_list.bodies().items():
            path = "/v1/consent-events" if kind == "native" else f"/v1/sources/{source_name(kind)}"
            for where, key in ((path, KEYS[kind]), (f"/v1/sources/{source_name(kind)}/{ADDRESS_KEYS[kind]}", WRONG_KEY)):
                answer = self.post(f"{kind} at {where.count('/')}", where, body, Content_Type=media_type, Authorization=f"Bearer {key}")
                assert answer.status_code == 202, (kind, answer.text)
                ids += [item["event_id"] for item in answer.json().get("results", [answer.json()])]
        return list(dict.fromkeys(ids))

    def refuse_all(self) -> None:
        """Requests that are wrong in every way, with canaries in the wrong places."""
        email, event = canary("native", "email"), canary_list.native_body()
        wrong = {
            "unknown fields": {**event, email: email, "x": email},
            "wrong types": {**event, "state": [email], "purpose": {email: email}, "event_time": email, "metadata": {email: [email]}},
            "wrong values": {**event, "purpose": email[:30], "event_time": f"2026-13-01 {email}", "idempotency_key": email * 9},
            "two people": {**event, "subject": {"email": f"{email},{email}", "phone": email, "national_id": email, email: email}},
            "other content": {**event, "state": "withdrawn"},
        }
        for what, body in wrong.items():
            assert self.post(what, "/v1/consent-events", json.dumps(body).encode(), Content_Type="application/json").status_code in (409, 422), what
        for what, raw in {"no JSON": email.encode(), "half": json.dumps(event).encode()[:-5], "no UTF-8": b'{"' + email.encode() + b'":"\xff"}'}.items():
            assert self.post(what, "/v1/consent-events", raw, Content_Type="application/json").status_code == 400
        assert self.post("a media type", "/v1/consent-events", b"{}", Content_Type=f"text/{email}").status_code == 415
        batch = "\n".join([json.dumps(each) for each in wrong.values()] + [email])
        assert self.post("a batch", "/v1/consent-events/batch", batch.encode(), Content_Type="application/x-ndjson").status_code == 207
        for kind, (media_type, body) in canary_list.bodies().items():
            path, key = f"/v1/sources/{source_name(kind)}", f"Bearer {KEYS[kind]}"
            named = (
                json.dumps({**json.loads(body), email: email}).encode()
                if media_type == "application/json"
                else body + f"&{email}={email}&data[email]={email}".encode()
            )
            for number, nonsense in enumerate((f"data[email]={email}&type={email}".encode(), named)):
                answer = self.post(f"nonsense {number} for {kind}", path, nonsense, Content_Type=media_type, Authorization=key)
                assert answer.status_code in (202, 400, 409, 422), (kind, answer.status_code)
        wanted = json.dumps({"filter": {email: email}, email: 1}).encode()
        assert self.post("an unknown condition", "/v1/dead-letters/replay", wanted, Content_Type="application/json").status_code == 422
        for key in (WRONG_KEY, KEYS["native"] + email):
            assert self.post(f"key {len(key)}", "/v1/consent-events", b"{}", Authorization=f"Bearer {key}").status_code == 401
        assert self.post("address", f"/v1/sources/native/{WRONG_KEY}", b"{}", Authorization="").status_code == 401
        assert (
            self.post(
                "signature",
                "/v1/sources/signed",
                b"{}",
                Authorization="",
                Content_Type="application/json",
                webhook_id=MARK,
                webhook_timestamp="1",
                webhook_signature=SIGNING_SECRET,
            ).status_code
            == 401
        )
        for path in (
            f"/v1/consent-events/{email}",
            f"/v1/{email}",
            f"/v1/dead-letters?destination={email}&cursor={email}&{email}=1",
            f"/v1/dead-letters?{email}=1&{email}=2",
            f"/v1/sources/{email}/{WRONG_KEY}",
            f"/docs?{email}",
        ):
            self.places[f"GET {path[:20]}{len(path)}"] = self.session.get(self.url + path, timeout=10).content
