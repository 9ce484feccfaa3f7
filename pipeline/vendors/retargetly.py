"""Retargetly: adds hashed people to CRM segments, up to 500 in one array; it only ever adds, so a withdrawal is a row of a file feed.

One code stands for the whole array, and no table of codes is public: any but SUCCESS is a refusal, and a refused array is divided until the items
to blame are alone. Documentation: https://desk.retargetly.com/l/es/article/gvq16jkr0c-integrar-listas-de-crm-din-micas (2026-11). Not documented
there, so settings or assumptions: limits, error codes, and that an array is taken or refused whole. The file feed is described at
https://desk.retargetly.com/l/en/article/0hgnpy3bbu-file-format-specs; what it takes as the id of a person is a setting.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import orjson
from msgspec import structs

from pipeline.domain import EMPTY, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import base
from pipeline.vendors._removing import Removal, RemovesByFile
from pipeline.vendors.base import Capabilities, Option, Rate, VendorRequest, VendorResponse

SUCCESS: Final = "SUCCESS"
COUNTRIES: Final = ("AR", "MX", "BR", "CL", "CO", "PE", "US", "UY")
PREFIXES: Final = {"ml": "email", "nid": "national_id", "mb": "phone"}
FORMS: Final = ("raw", "sh2", "sh5")
HASH_KEYS: Final = tuple(f"{prefix}_{form}" for prefix in PREFIXES for form in FORMS)
MOST_ITEMS: Final = 500
MOST_CALLS: Final = 8
LATER: Final = VendorResult(outcome=Outcome.THROTTLED, reason="next_dialogue", retry_after_seconds=0.0)
CANNOT: Final = VendorResult(outcome=Outcome.UNSUPPORTED, reason=f"cannot_express_{State.WITHDRAWN}")
JSON_HEADERS: Final = (("content-type", "application/json"),)


class Adapter(RemovesByFile):
    """Tells Retargetly who may be addressed; who withdraws must be removed by the file feed, which is why a withdrawal is a dead letter here."""

    title = "Retargetly"
    docs_url = "https://desk.retargetly.com/l/es/article/gvq16jkr0c-integrar-listas-de-crm-din-micas"
    base_url = "https://api.retargetly.com"
    credentials: ClassVar = {"public_key": Option(description="public key of the account", required=True)}
    options: ClassVar = {
        "segment_ids": Option(description="ids of CRM segments; others are silently not populated", required=True, type=list),
        "country": Option(description=f"country of people whose own is not known, one of {' '.join(COUNTRIES)}"),
        "hashes": Option(description=f"what is sent of a person, of {' '.join(HASH_KEYS)}", default=["ml_sh2", "nid_sh2", "mb_sh2"], type=list),
        "batch_size": Option(description=f"people in one array, 1 to {MOST_ITEMS} (assumed)", default=MOST_ITEMS, type=int),
        "keep_mobile_nine": Option(description="keep the 9 that Argentine mobile numbers have after 54 in E.164", default=False, type=bool),
        "misconfigured_codes": Option(description="answer codes that mean a wrong key or account (none is public)", default=[], type=list),
        "busy_codes": Option(description="answer codes that mean `try again later` (none is public)", default=[], type=list),
        "removal_hashes": Option(description="what the file feed names people by, of the same; left out: as `hashes` (assumed)", default=[], type=list),
        "removal_device_types": Option(
            description="device type in the file feed of ml, nid and mb; only that of ml is known", default={"ml": "email"}, type=dict
        ),
        "removal_separator": Option(description="what stands between two segments of one row (assumed)", default=","),
    }
    # A person is in a segment or not: purposes that share their segments share its state, others do not touch each other (`place_of`, `conflict`).
    capabilities = Capabilities(
        states=frozenset({State.GIVEN}), identifiers=("email", "phone", "national_id"), scope="contact", batch_size=MOST_ITEMS, max_calls=MOST_CALLS
    )
    rate = Rate(calls=40, per_seconds=8.0, concurrent=4)  # Five a second, assumed; a window in which four dialogues of eight calls have room.
    removal_columns = ("device_type", "device_id", "segments", "remove_segments", "country_code")

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        segments, hashes = self.settings["segment_ids"], self.settings["hashes"]
        if not segments or not all(type(segment) is int and segment > 0 for segment in segments):
            raise ConfigurationError("option 'segment_ids' must be a list of whole numbers, with one at least")
        if not hashes or not set(hashes) <= set(HASH_KEYS):
            raise ConfigurationError(f"option 'hashes' must be a list of some of {', '.join(HASH_KEYS)}")
        if self.settings["country"] not in (None, *COUNTRIES):
            raise ConfigurationError(f"option 'country' must be one of {', '.join(COUNTRIES)}")
        if not 1 <= self.settings["batch_size"] <= MOST_ITEMS:
            raise ConfigurationError(f"option 'batch_size' must be from 1 to {MOST_ITEMS}")
        _check_removals(self.settings)
        self._misconfigured, self._busy = (frozenset(map(str, self.settings[name])) for name in ("misconfigured_codes", "busy_codes"))

    def place_of(self, options: Mapping[str, Any]) -> str:
        return ",".join(map(str, sorted(set(self.option(options, "segment_ids")))))

    @classmethod
    def conflict(cls, by_purpose: Sequence[base.Adapter]) -> str | None:
        """Segments of two purposes are the same, sent by the same hashes, or have none in common: else a file could not remove one without the other."""
        for one, other in itertools.combinations([each.settings for each in by_purpose], 2):
            segments, others = set(one["segment_ids"]), set(other["segment_ids"])
            if segments & others and (segments != others or set(one["hashes"]) != set(other["hashes"])):
                return "purposes with a segment in common must have all their 'segment_ids' and 'hashes' in common"
        return None

    def batch_size(self, state: State) -> int:  # noqa: ARG002 (the same for both)
        return int(self.settings["batch_size"])

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        """One array for all. A refused one is divided; what eight calls leave undecided is handed back for the next dialogue."""
        items = {place: item for place, instruction in enumerate(instructions) if (item := self._item(instruction))}
        results = [LATER if place in items else _untold(instruction) for place, instruction in enumerate(instructions)]
        # Each part with whether something in it is known to be refused; the last one is next.
        parts: list[tuple[list[int], bool]] = [(list(items), False)] if items else []
        for calls_left in range(MOST_CALLS, 0, -1):
            if not parts:
                break
            part, is_suspect = parts.pop()
            size = _share(len(part), calls_left) if is_suspect else len(part)
            part, rest = part[:size], part[size:]
            response = yield VendorRequest(operation="post_crm", path="/crm", headers=JSON_HEADERS, body=orjson.dumps([items[place] for place in part]))
            result = self._outcome(response)
            if rest:
                parts.append((rest, result.outcome is Outcome.APPLIED))
            if result.outcome is Outcome.REJECTED and len(part) > 1:
                parts.append((part, True))
                continue
            _fill(results, part, result)
            if result.outcome not in (Outcome.APPLIED, Outcome.REJECTED):
                for unsent, _ in parts:
                    _fill(results, unsent, structs.replace(result, definite=True))
                break
        return results

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        return structs.replace(request, query=(*request.query, ("publickey", self._secrets["public_key"])))

    def _item(self, instruction: Instruction) -> dict[str, Any] | None:
        """One entry of the array, or None if there is nothing in it that names a person, or that may be said."""
        if instruction.state is not State.GIVEN:
            return None
        hashes = self._hashes(instruction.subject, self.option(instruction.options, "hashes"))
        country = self._country(instruction)
        at = {"country": country} if country else {}
        return {"hashes": hashes, **at, "segmentIds": self.option(instruction.options, "segment_ids")} if hashes else None

    def export_removals(self, instructions: Sequence[Instruction]) -> Sequence[Removal]:
        """One row for each hash that a `given` would have sent, with the segments of its purpose."""
        return [self._removal(instruction) for instruction in instructions]

    def _removal(self, instruction: Instruction) -> Removal:
        subject, sent = instruction.subject, self.option(instruction.options, "hashes")
        types: Mapping[str, str] = self.option(instruction.options, "removal_device_types")
        named = self._hashes(subject, self.option(instruction.options, "removal_hashes") or sent)
        ids = [(types[prefix], value) for key, value in named.items() if (prefix := key.partition("_")[0]) in types]
        reached = {key.partition("_")[0] for key in named} & types.keys()
        told_by = {key.partition("_")[0] for key in self._hashes(subject, sent)}
        segments = self.option(instruction.options, "removal_separator").join(map(str, self.option(instruction.options, "segment_ids")))
        rows = tuple((kind, value, "", segments, self._country(instruction)) for kind, value in ids)
        return Removal(rows=rows, unnamed=tuple(sorted(PREFIXES[prefix] for prefix in told_by - reached)))

    def _hashes(self, subject: Subject, keys: Sequence[str]) -> dict[str, str]:
        plain = {prefix: self._plain(subject, kind) for prefix, kind in PREFIXES.items()}
        parts = [key.partition("_") for key in keys]
        return {f"{prefix}_{form}": _hashed(plain[prefix], form) for prefix, _, form in parts if plain[prefix]}

    def _country(self, instruction: Instruction) -> str:
        country = instruction.subject.country or self.option(instruction.options, "country")
        return country if country in COUNTRIES else ""

    def _plain(self, subject: Subject, kind: str) -> str:
        """What is hashed: the e-mail in lower case, a phone in digits, a national id in digits with its leading zeros."""
        value: str = getattr(subject, kind) or ""
        if kind == "email":
            return value.strip().lower()
        if kind == "phone":
            digits = re.sub(r"[^0-9]", "", value)
            # Country code, area code and number, says the page; this 9 is none of them, and the page's own example is without it.
            return digits if self.settings["keep_mobile_nine"] else re.sub(r"\A549(?=[0-9]{10}\Z)", "54", digits)
        # Without its letters an id may be another person's.
        return "" if re.search(r"[^\W\d]", value) else re.sub(r"[^0-9]", "", value)

    def _outcome(self, response: VendorResponse) -> VendorResult:
        answer = response.json()
        envelope = answer.get("response") if isinstance(answer, dict) else None
        code = envelope.get("code") if isinstance(envelope, dict) else None
        if code is not None and str(code) in self._misconfigured:
            return VendorResult(outcome=Outcome.MISCONFIGURED, reason="misconfigured_code")
        if code is not None and str(code) in self._busy:
            return VendorResult(outcome=Outcome.THROTTLED, reason="busy_code", retry_after_seconds=base.retry_after(response))
        refused = base.refusal(response)
        if refused:
            return refused
        if not isinstance(code, str) or not code:
            return base.unreadable()
        if code == SUCCESS:
            return VendorResult(outcome=Outcome.APPLIED)
        return VendorResult(outcome=Outcome.REJECTED, reason=f"code_{code}" if re.fullmatch(r"[A-Z_]{1,40}", code) else "unknown_code")


def _check_removals(settings: Mapping[str, Any]) -> None:
    types = settings["removal_device_types"]
    if not set(settings["removal_hashes"]) <= set(HASH_KEYS):
        raise ConfigurationError(f"option 'removal_hashes' must be a list of some of {', '.join(HASH_KEYS)}")
    if not types.keys() <= PREFIXES.keys() or not all(re.fullmatch("[a-z_]{1,40}", kind) for kind in types.values()):
        raise ConfigurationError(f"option 'removal_device_types' must give some of {', '.join(PREFIXES)} a device type such as email")
    if not re.fullmatch("[,;| ]", settings["removal_separator"]):
        raise ConfigurationError("option 'removal_separator' must be one of , ; | and a space")


def _untold(instruction: Instruction) -> VendorResult:
    return CANNOT if instruction.state is State.WITHDRAWN and instruction.subject.identifiers() else base.missing_identifier()


def _fill(results: list[VendorResult], places: Sequence[int], result: VendorResult) -> None:
    for place in places:
        results[place] = result


def _share(count: int, calls_left: int) -> int:
    """How many of a refused part to send next: half, or fewer if halves would not come down to one person before the calls run out.

    So every dialogue decides about somebody, and people do not come back for ever.
    """
    return max(1, min(count // 2, int(count ** ((calls_left - 1) / calls_left))))


def _hashed(text: str, form: str) -> str:
    """Lower-case hex without salt, as the page's samples are."""
    if form == "raw":
        return text
    return (hashlib.sha256 if form == "sh2" else hashlib.sha512)(text.encode()).hexdigest()
