"""Dinamize: one upsert per contact; a far resting date stops all mail of the list, a past one lets it flow again.

Dinamize answers HTTP 200 to everything, so only the `code` in the body counts; `code_detail` comes in two languages and is never
compared. Documentation: https://panel.dinamize.com/apidoc/ (read through public transcriptions, 2026-11). Not documented there, so
settings with assumed defaults: the header of a Consent-Token, the codes of an expired session, and how to clear a resting date. The address
that asks for a Consent-Token is not public and has no default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, ClassVar, Final

import orjson
from msgspec import structs

from pipeline.domain import EMPTY, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import base
from pipeline.vendors._authorizing import Asked, Authorizable, Authorization, AuthorizeDialogue
from pipeline.vendors.base import Capabilities, Held, Option, Rate, SignIn, VendorRequest, VendorResponse

SUCCESS: Final = "480001"
OVER_LIMIT: Final = "240024"
BAD_CREDENTIALS: Final = {
    "240002": "password_missing",
    "240003": "user_missing",
    "240004": "bad_login",
    "240029": "bad_client_code",
}
WITHDRAWN_REST: Final = "2099-01-01"
SESSION_FIELDS: Final = ("user", "password", "client_code")
# A session ends after an hour of silence and after 24 hours at the latest; renewed before either can happen, because the code
# that tells of an expired one is not documented.
SESSION_SECONDS: Final = 3000.0
JSON_HEADERS: Final = (("content-type", "application/json; charset=utf-8"),)
SIGNED_OUT: Final = ("240001",)
PERMISSIONS: Final = ("EMKT_READ_CONTACTS", "EMKT_WRITE_CONTACTS")


class ConsentTokenRequest(Authorization):
    """Asks the account's owner to approve, with an application token; the Consent-Token then comes to them by e-mail."""

    title = "Dinamize"
    docs_url = "https://panel.dinamize.com/apidoc/"
    base_url = ""
    credentials: ClassVar = {
        "application_token": Option(description="application token of Dinamize; homologation and production have different ones", required=True),
        "connection_id": Option(description="login e-mail of the account's owner, to which the Consent-Token goes", required=True),
    }
    options: ClassVar = {
        "redirect_url": Option(description="page to which the owner returns after approving", required=True),
        "permissions": Option(description="what is asked for", default=list(PERMISSIONS), type=list),
    }
    personal = frozenset({"connection_id"})
    next_step = "The account's owner approves at Dinamize. The Consent-Token then arrives at the login e-mail, mostly within a minute or two."

    def authorize(self) -> AuthorizeDialogue:
        body = {"redirect_url": self.settings["redirect_url"], "requested_permissions": self.settings["permissions"]}
        response = yield _post("authorize", "", body)
        answer, refused = _answer(response, frozenset(SIGNED_OUT))
        if _code(response) is None and (named := _connection_token(response.json())) and base.refusal(response) is None:
            answer, refused = {"token": named}, None  # not in the envelope of the other calls: whether it is one is not documented
        return Asked(result=refused or VendorResult(outcome=Outcome.PENDING_CONFIRMATION), connection_token=_connection_token(answer))

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:  # noqa: ARG002 (there is no session)
        body = orjson.dumps({**orjson.loads(request.body), "connection_id": self._secrets["connection_id"]})
        return structs.replace(request, body=body, headers=(*request.headers, ("authorization", f"Application {self._secrets['application_token']}")))


class Adapter(Authorizable):
    """Tells Dinamize by contact upsert, with a session of its own or a Consent-Token given by the account's owner."""

    title = "Dinamize"
    docs_url = "https://panel.dinamize.com/apidoc/"
    base_url = "https://api.dinamize.com"
    credentials: ClassVar = {
        "token": Option(description="Consent-Token, which arrives by e-mail once the account's owner has approved"),
        "token_header": Option(description="header that carries the Consent-Token (assumed)", default="auth-token"),
        "user": Option(description="login of an API user"),
        "password": Option(description="password of that user"),
        "client_code": Option(description="code of the Dinamize client"),
    }
    options: ClassVar = {
        "list_code": Option(description="code of the contact list", required=True),
        "date_rest_given": Option(description="resting date sent on `given`: a past date, or empty to clear it (assumed)", default="2000-01-01"),
        "signed_out_codes": Option(description="answer codes of an expired session (assumed)", default=list(SIGNED_OUT), type=list),
    }
    capabilities = Capabilities(scope="contact", reads_back=True, signs_in=True, max_calls=1)
    probes = ("search in the list",)
    rate = Rate(calls=60, per_seconds=60, concurrent=4)
    authorization = ConsentTokenRequest
    token_credential = "token"  # noqa: S105 (its name)

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        session = [name for name in SESSION_FIELDS if self._secrets[name]]
        if bool(session) == bool(self._secrets["token"]):
            raise ConfigurationError("Dinamize needs either the credential 'token' or 'user', 'password' and 'client_code', not both")
        if session and len(session) < len(SESSION_FIELDS):
            raise ConfigurationError(f"missing credential {next(name for name in SESSION_FIELDS if name not in session)!r} for a Dinamize session")
        if not re.fullmatch(r"[A-Za-z0-9-]+", self._secrets["token_header"]):
            raise ConfigurationError("credential 'token_header' must be the name of a header")
        _check_past(self.settings["date_rest_given"])
        self._signed_out = frozenset(map(str, self.settings["signed_out_codes"]))

    def needs_session(self) -> bool:
        return not self._secrets["token"]

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        results = []
        for instruction in instructions:
            if not instruction.subject.email:
                results.append(base.missing_identifier())
                continue
            response = yield _post("upsert", "/emkt/contact/upsert", self._contact(instruction))
            results.append(self._read_upsert(response))
        return results

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """Whether the contact rests: answers do not show `date_rest`, only the filter of the search tells."""
        if not subject.email:
            return Held(readable=False)
        for status, state in (("REST_ONLY", State.WITHDRAWN), ("NO_REST", State.GIVEN)):
            response = yield _post("search", "/emkt/contact/search", self._search(subject.email, status, options))
            items = self._read_search(response)
            if items is None:
                return Held(readable=False)
            for item in items:
                if str(item.get("email", "")).lower() == subject.email.lower():
                    stopped = item.get("optout") is True or item.get("spam") is True
                    return Held(state=State.WITHDRAWN if stopped else state, vendor_reference=str(item.get("code") or ""))
        return Held()

    def probe(self, options: Mapping[str, Any]) -> base.ProbeDialogue:
        """A search for nobody in the list."""
        response = yield _post("search", "/emkt/contact/search", self._search(base.NOBODY, "REST_ONLY", options))
        _, refused = self._answer(response)
        return [refused or VendorResult(outcome=Outcome.UNCHANGED)]

    def with_token(self, token: str) -> Adapter:
        header = {"token_header": self._secrets["token_header"]}
        return Adapter(base_url=self.address, credentials={"token": token, **header}, options=self.settings)

    def sign_in(self) -> base.SignInDialogue:
        response = yield _post("sign_in", "/auth", {})
        answer, refused = self._answer(response)
        token = answer.get("auth-token")
        if refused is None and isinstance(token, str) and token:
            return SignIn(token=token, expires_in_seconds=SESSION_SECONDS)
        # Nothing about a person was sent yet, so whatever happened is definite.
        return SignIn(refusal=structs.replace(refused or base.unreadable(), definite=True))

    def is_signed_out(self, response: VendorResponse) -> bool:
        return _code(response) in self._signed_out

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:
        if request.operation == "sign_in":
            return structs.replace(request, body=orjson.dumps({name: self._secrets[name] for name in SESSION_FIELDS}))
        header = ("auth-token", token or "") if self.needs_session() else (self._secrets["token_header"], self._secrets["token"])
        return structs.replace(request, headers=(*request.headers, header))

    def _contact(self, instruction: Instruction) -> dict[str, str]:
        subject, profile = instruction.subject, instruction.profile
        rest = WITHDRAWN_REST if instruction.state is State.WITHDRAWN else self.option(instruction.options, "date_rest_given")
        name = profile.get("name") or " ".join(filter(None, (profile.get("first_name"), profile.get("last_name"))))
        contact = {"contact-list_code": self.option(instruction.options, "list_code"), "email": subject.email or ""}
        if name:
            contact["name"] = name
        if subject.external_id:
            contact["external_code"] = subject.external_id
        return {**contact, "date_rest": rest}

    def _search(self, email: str, status: str, options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "contact-list_code": self.option(options, "list_code"),
            "page_number": "1",
            "page_size": "10",
            "status_contact": status,
            "search": [{"field": "email", "operator": "=", "value": email}],
        }

    def _read_upsert(self, response: VendorResponse) -> VendorResult:
        answer, refused = self._answer(response)
        return refused or VendorResult(outcome=Outcome.APPLIED, vendor_reference=str(answer.get("code") or ""))

    def _read_search(self, response: VendorResponse) -> list[dict[str, Any]] | None:
        answer, refused = self._answer(response)
        items = answer.get("items")
        if refused or not isinstance(items, list):
            return None
        return [item for item in items if isinstance(item, dict)]

    def _answer(self, response: VendorResponse) -> tuple[dict[str, Any], VendorResult | None]:
        return _answer(response, self._signed_out)


def _post(operation: str, path: str, body: Mapping[str, Any]) -> VendorRequest:
    return VendorRequest(operation=operation, path=path, headers=JSON_HEADERS, body=orjson.dumps(body))


def _code(response: VendorResponse) -> str | None:
    answer = response.json()
    code = answer.get("code") if isinstance(answer, dict) else None
    return str(code) if isinstance(code, str | int) and code != "" else None


def _answer(response: VendorResponse, signed_out: frozenset[str]) -> tuple[dict[str, Any], VendorResult | None]:
    """The `body` of an answer, and the result that says why it is no success, if it is none."""
    refused = base.refusal(response)
    if refused:
        return {}, refused
    code = _code(response)
    if code is None:
        return {}, base.unreadable()
    body = response.json().get("body")
    body = body if isinstance(body, dict) else {}
    return body, None if code == SUCCESS else _refusal(code, body, signed_out)


def _refusal(code: str, body: Mapping[str, Any], signed_out: frozenset[str]) -> VendorResult:
    if code == OVER_LIMIT:
        told = base.read_seconds(str(body.get("retry-after", "")))
        seconds = Adapter.rate.per_seconds if told is None else told
        return VendorResult(outcome=Outcome.THROTTLED, reason="over_limit", retry_after_seconds=seconds)
    if code in BAD_CREDENTIALS:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason=BAD_CREDENTIALS[code])
    if code in signed_out:
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason="token_refused")
    return VendorResult(outcome=Outcome.REJECTED, reason=f"code_{code}" if re.fullmatch(r"[0-9]{6}", code) else "unknown_code")


def _connection_token(body: Any) -> str:
    """The ConnectionToken, however its name is spelled: the documentation shows it in a picture only."""
    held = body if isinstance(body, dict) else {}
    named = (value for name, value in held.items() if re.sub("[^a-z]", "", name.lower()) in ("connectiontoken", "token") and isinstance(value, str))
    return next(named, "")


def _check_past(text: str) -> None:
    """A resting date in the future would stop the mail of somebody who has just consented."""
    try:
        past = not text or date.fromisoformat(text) < datetime.now(UTC).date()
    except ValueError:
        past = False
    if not past:
        raise ConfigurationError("option 'date_rest_given' must be a past date as YYYY-MM-DD, or empty")
