"""Retargetly's dynamic CRM lists as the page describes them: an array of hashed people, one code for all of it, and segments that only ever grow.

Documented: the address with its key, the nine hashes, the countries, the envelope of success, and that only segments of type CRM are populated (no error is
mentioned for others); of the file feed its columns, of which the first three are mandatory, and device types. Assumed, for want of a public word: one wrong
item refuses the array whole, with `refusal_status` and the code `refusal_code`; of the file feed by what a device type finds people (`feed_ids`), the
separator of segments, and that a row it cannot read is left out.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.sandboxes import base
from tests.sandboxes.base import Reply, Request, as_json

PUBLIC_KEY = "test-retargetly-key"
COUNTRIES = frozenset({"AR", "MX", "BR", "CL", "CO", "PE", "US", "UY"})
HASHES = {
    **dict.fromkeys(("ml_sh2", "nid_sh2", "mb_sh2"), r"[0-9a-f]{64}"),
    **dict.fromkeys(("ml_sh5", "nid_sh5", "mb_sh5"), r"[0-9a-f]{128}"),
    "ml_raw": r"[^\sA-Z]+@[^\sA-Z]+",
    "nid_raw": r"[0-9]+",
    "mb_raw": r"[1-9][0-9]+",
}

GZIP = b"\x1f\x8b"
FEED_COLUMNS = {"device_type", "device_id", "segments", "country_code", "partner_segment_id", "remove_segments", "remove_partner_segment_id"}


class Sandbox(base.Sandbox):
    name = "retargetly"
    defaults: ClassVar = {
        "public_keys": [PUBLIC_KEY],
        "segments": {"13600": "CRM", "13601": "CRM", "900": "STANDARD"},
        "max_items": None,
        "refused_hashes": [],
        "refusal_status": 200,
        "refusal_code": "ERROR",
        "feed_ids": {"email": ["ml_"], "external_id": ["nid_", "mb_"]},
        "feed_separator": ",",
    }

    def handle(self, request: Request) -> Reply:
        if request.path != "/crm" or request.method != "POST":
            return envelope(404, "NOT_FOUND", "Not found.")
        if request.query.get("publickey") not in self.settings["public_keys"]:
            return envelope(401, "UNAUTHORIZED", "Invalid public key.")
        items = request.json()
        too_many = isinstance(items, list) and self.settings["max_items"] is not None and len(items) > self.settings["max_items"]
        if not isinstance(items, list) or not items or too_many or not all(map(self.is_right, items)):
            return envelope(self.settings["refusal_status"], self.settings["refusal_code"], "Invalid body.")
        for item in items:
            self.add(item)
        return envelope(200, "SUCCESS", "Successful upload.")

    def is_right(self, item: Any) -> bool:
        hashes, segments = item["hashes"], item["segmentIds"]
        if not hashes or item.keys() - {"hashes", "segmentIds", "country"} or ("country" in item and item["country"] not in COUNTRIES):
            return False
        are_hashes = all(name in HASHES and re.fullmatch(HASHES[name], value) for name, value in hashes.items())
        is_refused = bool(set(hashes.values()) & set(self.settings["refused_hashes"]))
        return are_hashes and not is_refused and bool(segments) and all(type(segment) is int for segment in segments)

    def add(self, item: Mapping[str, Any]) -> None:
        """Into each segment of type CRM; any other is left as it is without a word."""
        for segment in item["segmentIds"]:
            if self.settings["segments"].get(str(segment)) == "CRM":
                for name, value in item["hashes"].items():
                    key = f"{segment}/{name}:{value}"
                    self.contacts[key] = {"state": "given", "country": item.get("country")}
                    self.told(key, "given")

    def act(self, what: str, body: bytes) -> dict[str, Any]:
        """`file`: the TSV of the file feed is handed over, plain or gzipped; says how many rows were read and how often somebody was taken out of a segment."""
        return self.take_file(body) if what == "file" else super().act(what, body)

    def take_file(self, content: bytes) -> dict[str, Any]:
        text = (gzip.decompress(content) if content[:2] == GZIP else content).decode()
        columns, *rows = [line.split("\t") for line in text.splitlines()]
        if columns[:3] != ["device_type", "device_id", "segments"] or set(columns) - FEED_COLUMNS:
            raise ValueError("not the header row of the file feed")
        cells = [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns) and row[0] in self.settings["feed_ids"]]
        return {"rows": len(cells), "unreadable": len(rows) - len(cells), "removed": sum(self.remove(row) for row in cells)}

    def remove(self, row: Mapping[str, str]) -> int:
        names = [name for name in HASHES if name.startswith(tuple(self.settings["feed_ids"][row["device_type"]]))]
        segments = row.get("remove_segments", "").split(self.settings["feed_separator"])
        held = [key for segment in segments for name in names if (key := f"{segment}/{name}:{row['device_id']}") in self.contacts]
        for key in held:
            del self.contacts[key]
            self.told(key, "withdrawn")
        return len(held)

    def place(self, contact: Mapping[str, Any]) -> None:
        """Somebody who is in a segment already: `hashes`, and `segmentIds` [13600] by default."""
        self.add({"segmentIds": [13600], **contact})


def envelope(status: int, code: str, text: str) -> Reply:
    return as_json({"response": {"msg": text, "code": code}}, status)
