"""What every vendor file builds on: three verbs as dialogues without I/O, declared capabilities, and the reading of plain HTTP refusals.

A dialogue is a generator: it yields `VendorRequest`s, is handed each `VendorResponse`, and returns its results. It never
sends anything itself, so a test hands it answers and one driver (`exchange`) runs hundreds at once. A request that got no
answer at all (refused connection, timeout) ends the dialogue outside the vendor file: the driver reports `unavailable`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from pipeline import signatures
from pipeline.dates import require_past
from pipeline.domain import EMPTY, IncomingEvent, Instruction, Outcome, Polled, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, FieldError, InvalidInput
from pipeline.vendors._http import VendorRequest, VendorResponse, read_seconds, refusal, retry_after, unreadable

__all__ = ["VendorRequest", "VendorResponse", "read_seconds", "refusal", "retry_after", "unreadable"]


TellDialogue = Generator[VendorRequest, VendorResponse, Sequence[VendorResult]]
AskDialogue = Generator[VendorRequest, VendorResponse, "Held"]
PollDialogue = Generator[VendorRequest, VendorResponse, Polled | VendorResult]
Step = Generator[VendorRequest, VendorResponse, VendorResult]
ProbeDialogue = TellDialogue
SignInDialogue = Generator[VendorRequest, VendorResponse, "SignIn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a vendor holds about one subject: a state, or None for `unknown to the vendor`; `readable` False if it could not be told."""

    state: State | None = None
    readable: bool = True
    changed_at: datetime | None = None
    vendor_reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """The end of a sign-in: a token to keep, or the result to report for everything that waited for it."""

    token: str | None = field(default=None, repr=False)
    expires_in_seconds: float | None = None
    refusal: VendorResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A vendor's declared limit: at most `calls` in any window of `per_seconds` (None: no limit known), `concurrent` at once."""

    calls: int | None = None
    per_seconds: float = 1.0
    concurrent: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a vendor can do; the capability table in the docs is printed from these.

    `identifiers`: kinds it can find a person by, in order of preference; one of them is enough. `scope`: `purpose` if it keeps a state for each
    purpose, `contact` if one state stops everything. `repeatable`: the same tell twice leaves the same state and no second mail.
    `batch_size`: instructions one dialogue can carry. `max_calls`: requests one `tell` makes at the most, sign-in apart.
    `ask_calls`: the same of one `ask`. `sees_standings`: what it is told of one purpose hangs on what stands for the others.
    """

    states: frozenset[State] = frozenset(State)
    identifiers: tuple[str, ...] = ("email",)
    scope: str = "purpose"
    double_opt_in: bool = False
    repeatable: bool = True
    reads_back: bool = False
    sends_events: bool = False
    signs_in: bool = False
    sees_standings: bool = False
    batch_size: int = 1
    max_calls: int = 1
    ask_calls: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One credential or option of a vendor: what it is, whether it must be there, its default and its type (`str`, `int`, `bool`, `list`, `dict` of texts)."""

    description: str
    required: bool = False
    default: Any = None
    type: type = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Something a vendor or a source sent us: the body as it came, its media type (without parameters), and the time it arrived."""

    body: bytes = field(repr=False)
    media_type: str
    received_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """What `hear` may know of the source it reads for."""

    name: str
    kind: str
    purposes: Mapping[str, str] = field(default_factory=dict)
    date_order: str = "day_first"
    time_zone: str = "UTC"
    country: str | None = None
    allowed_skew_seconds: float = 300.0


NOBODY = "consent-relay-probe@example.invalid"  # Whom a probe looks for: an address that cannot exist (RFC 6761).
SIGN_IN_CALLS = 2
"""Requests that a session may add to a dialogue: signing in, and repeating the request that was refused."""


class Adapter:
    """Base of the one class in each vendor file; says only what holds for all of them.

    Subclasses declare the class attributes and override `tell`, and `ask`, `hear`, `sign_in`, `is_signed_out` where the vendor has them.
    An adapter is made once for each destination and keeps no state of its own.

    Raises ConfigurationError if a credential or option is missing, unknown, or of the wrong type.
    """

    title: ClassVar[str]
    docs_url: ClassVar[str]
    base_url: ClassVar[str]
    credentials: ClassVar[Mapping[str, Option]] = {}
    options: ClassVar[Mapping[str, Option]] = {}
    capabilities: ClassVar[Capabilities] = Capabilities()
    rate: ClassVar[Rate] = Rate()
    probes: ClassVar[tuple[str, ...]] = ()
    """What `probe` tries, in words; empty if this vendor has no request that changes nothing."""
    timeout_seconds: ClassVar[float | None] = None
    """Total time for one request, where the vendor needs another than the exchange's default."""

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        self.address = (base_url or self.base_url).rstrip("/")
        self.settings = self._read(options, self.options, "option")
        self._secrets = self._read(credentials, self.credentials, "credential")

    def tell(self, instructions: Sequence[Instruction]) -> TellDialogue:
        """Tell the vendor; returns one result for each instruction, in order. All of them are of one state."""
        raise NotImplementedError

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> AskDialogue:
        """Ask what the vendor holds about one subject; only where `capabilities.reads_back`."""
        raise NotImplementedError

    @classmethod
    def hear(cls, notification: Notification, source: SourceSettings) -> Sequence[IncomingEvent | InvalidInput]:
        """Read what a source or vendor sent into consent events; raises InvalidInput by field.

        Of a body that carries several events each wrong one is an InvalidInput in its place, so that the others are still heard.
        """
        raise NotImplementedError

    @classmethod
    def signature_error(cls, secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> FieldError | None:
        """What is wrong with the signature of a notification; None if it holds. Standard Webhooks, unless a vendor signs in its own way."""
        return signatures.standard_webhooks(secret, headers, body, now)

    def poll(self, position: str, source: SourceSettings, received_at: datetime) -> PollDialogue:
        """Ask what has changed since `position` ("" the first time), one page at a time; only for vendors that offer no better way to be heard.

        Returns what was heard, or the VendorResult that says why nothing could be: then `position` is asked for again later.
        """
        raise NotImplementedError

    def polls_undated(self, source: SourceSettings) -> bool:  # noqa: ARG002 (for subclasses)
        """Whether `poll` shows states of some purpose without saying since when, so that the first withdrawals it shows count as said now."""
        return False

    def marks_own_writes(self, options: Mapping[str, Any]) -> bool:  # noqa: ARG002 (for subclasses)
        """Whether what we write there carries a mark by which `hear` and `poll` pass it by."""
        return False

    def probe(self, options: Mapping[str, Any]) -> ProbeDialogue:
        """Try by requests that change nothing whether we may do what we have to; one result for each of `probes`, unchanged if it works."""
        raise NotImplementedError

    def sign_in(self) -> SignInDialogue:
        """Get a session token; only where `capabilities.signs_in`."""
        raise NotImplementedError

    def needs_session(self) -> bool:
        """Whether this destination, as configured, works with a session token."""
        return self.capabilities.signs_in

    def is_signed_out(self, response: VendorResponse) -> bool:  # noqa: ARG002 (for subclasses)
        """Whether an answer says that the session token is no longer good."""
        return False

    def max_calls(self, state: State) -> int:  # noqa: ARG002 (for subclasses)
        """Requests one dialogue of such instructions makes at the most, sign-in apart."""
        return self.capabilities.max_calls

    def most_calls(self, state: State) -> int:
        """Requests one dialogue may make in all: its own, and where there are sessions those to sign in and to repeat the refused one."""
        return self.max_calls(state) + (SIGN_IN_CALLS if self.needs_session() else 0)

    def batch_size(self, state: State) -> int:  # noqa: ARG002 (for subclasses)
        """Instructions of one state that one dialogue may carry with these options."""
        return self.capabilities.batch_size

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (for subclasses)
        """Add the secrets to a request: the only method that touches them. `token` is the session's, if there is one."""
        return request

    def contact_of(self, subject: Subject) -> dict[str, str]:
        """The identifiers of `subject` that this vendor would be sent (kind -> value); empty if there is none it can use."""
        held = subject.identifiers()
        return {kind: held[kind] for kind in self.capabilities.identifiers if kind in held}

    def place_of(self, options: Mapping[str, Any]) -> str:  # noqa: ARG002 (for subclasses)
        """Which list at the vendor a contact is in with these options; where the scope is `contact`, purposes of one place share one state.

        Empty means that the vendor keeps one state for the whole account.
        """
        return ""

    @classmethod
    def conflict(cls, by_purpose: Sequence[Adapter]) -> str | None:  # noqa: ARG003 (for subclasses)
        """What is wrong between the options of the purposes of one destination, each good by itself; None if nothing is."""
        return None

    def option(self, options: Mapping[str, Any], name: str) -> Any:
        """One option as it holds for an instruction: the instruction's own, else the destination's."""
        return options[name] if name in options else self.settings[name]

    def credential_digest(self, name: str) -> str:
        """What tells whether two destinations have one credential in common, for comparing only: never shown, stored or logged."""
        return hashlib.sha256(str(self._secrets[name]).encode()).hexdigest()

    def login_digest(self) -> bytes:
        """What tells whose session it is: another vendor, address or credential makes another one. As secret as `credential_digest`."""
        return hashlib.sha256(repr((self.title, self.address, self._secrets)).encode()).digest()

    def _read(self, given: Mapping[str, Any], declared: Mapping[str, Option], what: str) -> dict[str, Any]:
        for name in given:
            if name not in declared:
                raise ConfigurationError(f"unknown {what} {name!r}; {self.title} knows {', '.join(sorted(declared)) or 'none'}")
        values = {}
        for name, option in declared.items():
            value = given.get(name, option.default)
            if value in (None, "") and option.required:
                raise ConfigurationError(f"missing {what} {name!r}: {option.description}")
            if value is not None and not isinstance(value, option.type):
                raise ConfigurationError(f"{what} {name!r} must be {option.type.__name__}: {option.description}")
            values[name] = value
        return values


def heard_at(state: State, interval: tuple[datetime, datetime], received_at: datetime, source: SourceSettings) -> tuple[datetime, datetime]:
    """The interval in which a word that was heard may have been said; raises ValueError if it is a consent from the future.

    A withdrawal is not refused because clock or zone are ahead: it is taken as said when it came.
    """
    if state is State.WITHDRAWN:
        return interval if interval[0] <= received_at else (received_at, received_at)
    require_past(interval[0], received_at, source.allowed_skew_seconds)
    return interval


def missing_identifier() -> VendorResult:
    """The result for a subject that the vendor could not find by any identifier at hand: nothing is sent."""
    return VendorResult(outcome=Outcome.NOT_APPLICABLE, reason="missing_identifier")


def one_by_one(adapter: Adapter, instructions: Sequence[Instruction], tell_one: Callable[[Instruction], Step]) -> TellDialogue:
    """Tell of one person after the other, of those the vendor could find."""
    results = []
    for instruction in instructions:
        result = missing_identifier()
        if adapter.contact_of(instruction.subject):
            result = yield from tell_one(instruction)
        results.append(result)
    return results
