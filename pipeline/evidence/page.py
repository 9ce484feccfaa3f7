"""A proof as a page for people: it stands alone, loads nothing, and prints well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from pipeline.evidence.findings import Finding, NoProof
from pipeline.evidence.records import KINDS
from pipeline.evidence.summary import ALL_RECORDS, ONE_EVENT, ONE_SOURCE
from pipeline.evidence.verify import verify

_TEMPLATE: Final = Path(__file__).with_name("page.html.j2")
_STANDS: Final = "What stands"
_ABOUT: Final = {
    ALL_RECORDS: ("everything a person said", _STANDS),
    ONE_EVENT: ("one event alone: what came before or after it is not shown", "What this event said"),
    ONE_SOURCE: ("what one source knows of a person alone: what others said is not shown", "What this source said last"),
}
"""What a proof shows -> what it is about, and the title of its first table. Only all records can tell what stands."""
_OTHERS: Final = ("what a person said, as far as it was followed", "What the records shown here said last")
_WORDS: Final = {"dpv:ConsentGiven": "given", "dpv:ConsentWithdrawn": "withdrawn", "dpv:ConsentUnknown": "unknown"}


def render(document: Mapping[str, Any]) -> str:
    """The page of a proof, with what checking it says."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(moment=_moment, word=lambda state: _WORDS.get(state, state), short=lambda text: text[:12])
    findings = _checked(document)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    about, title = _ABOUT.get(document["record_metadata"].get("shows"), _OTHERS)
    notes = [finding for finding in findings if finding.is_note]
    return template.render(
        proof=document, kinds=KINDS, about=about, title=title, stands=title == _STANDS, faults=[each for each in findings if not each.is_note], notes=notes
    )


def _checked(document: Mapping[str, Any]) -> list[Finding]:
    try:
        return verify(document)
    except NoProof as error:
        return [Finding(code="no_proof", where="", text=str(error))]


def _moment(text: str | None) -> str:
    """A time as people read it; the zone is said once, at the top."""
    return text[:19].replace("T", " ") if text else "-"
