"""Takes values and links from identifiers of whom nothing was said for long: a page of the ledger in each round of beat.

Words stay, for ever: they are the fence, so an older `given` still loses. And as after an erasure, nothing from before that time teaches them again, and no `given` from before is told.
What it costs: a withdrawal that names such a person by one identifier reaches only the vendors that know him by that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.domain import DeliveryStatus
from pipeline.ledger import Ledger
from pipeline.ledger.erasures import Erasure
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.standings import Reach
from pipeline.ledger.walks import END
from pipeline.subjects import withdrawals_spread

PAGE = 500
DAY_US = 86_400_000_000


class Quiet:
    """Looks after quiet identifiers; safe to run twice at once. `days` 0: never."""

    def __init__(self, ledger: Ledger, *, days: float) -> None:
        self._ledger, self._days = ledger, days

    def run(self) -> int:
        """One page, from where the last round stopped; returns from how many identifiers something was taken."""
        if not self._days:
            return 0
        page = self._ledger.walks.identifiers(self._ledger.erasures.quiet_cursor(), PAGE)
        until_us = self._ledger.clock_ms() * 1000 - int(self._days * DAY_US)
        reaches = self._ledger.standings.reach([[name] for name in page.names]) if until_us > 0 else []
        quiet = [reach for reach in reaches if _is_quiet(reach, until_us)]
        event_ids = sorted({word.event_id for reach in quiet for ring in reach.rings for record in ring for word in record.words.values()})
        stored = dict(zip(event_ids, self._ledger.events.load(event_ids, payloads=False), strict=True)) if event_ids else {}
        taken = sum(self._take(reach, until_us) for reach in quiet if not _is_open(reach, stored))
        self._ledger.erasures.quiet_cursor(0 if page.cursor == END else page.cursor)
        return taken

    def _take(self, reach: Reach, until_us: int) -> int:
        records = {record.key: record for ring in reach.rings for record in ring}
        erasure = Erasure(at_us=until_us, keys=(reach.rings[0][0].key,))
        if merges := withdrawals_spread(records.values()):
            self._ledger.standings.merge(merges)
        self._ledger.erasures.forbid(erasure)
        return len(self._ledger.erasures.strip(erasure, {key: record.links for key, record in records.items()}, only_quiet=True))


def _is_quiet(reach: Reach, until_us: int) -> bool:
    """Whether there is something to take, and neither this identifier nor one linked to it has a word since."""
    own = reach.rings[0][0]
    return bool(own.value or own.links) and all(word.order_us <= until_us for ring in reach.rings for record in ring for word in record.words.values())


def _is_open(reach: Reach, stored: Mapping[str, StoredEvent | None]) -> bool:
    """Whether anything of what was said last is still to be told, or dead."""
    events: Sequence[StoredEvent | None] = [stored[word.event_id] for ring in reach.rings for record in ring for word in record.words.values()]
    return any(not event.complete or any(result.status is DeliveryStatus.DEAD for result in event.results.values()) for event in events if event is not None)
