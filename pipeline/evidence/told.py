"""What every destination was last told of a person, as the evidence has it: the ledger knows that only while a standing names the event that was told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, func, select

from pipeline.evidence.summary import TELLING
from pipeline.evidence.tables import RECORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One destination's last word on a purpose: what it was told, when that was done, and of which event."""

    state: str
    at: str
    event_id: str
    source: str


def last_told(connection: Connection, chains: Iterable[str]) -> Mapping[tuple[str, str], Told]:
    """(purpose, destination) -> what it was told last, by the records of these chains."""
    query = select(RECORDS.c.content).where(RECORDS.c.chain.in_(list(chains)), RECORDS.c.kind.in_(sorted(TELLING)), func.length(RECORDS.c.content) > 0)
    found: dict[tuple[str, str], Told] = {}
    for (content,) in connection.execute(query.order_by(RECORDS.c.at_ms, RECORDS.c.chain, RECORDS.c.sequence)):
        said = orjson.loads(content)
        if said.get("status") == "delivered":
            found[said["purpose"], said["destination"]] = Told(state=said["state"], at=said["at"], event_id=said["event_id"], source=said["source"])
    return found
