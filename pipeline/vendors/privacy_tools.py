"""Privacy Tools: told by consent import, by e-mail or by phone, asked by `getConsentsUser`, and heard in the same import bodies.

A withdrawal is the same call with `consentValue: false`. Dates go out in the one form that cannot be misread. Documentation:
https://privacyts.atlassian.net/wiki/spaces/GSD/pages/1665433601 (2026-11). Not documented there, so settings with assumed defaults or read
leniently: the body of an import's answer, the body of `getConsentsUser`, the literal of `grant_type`, and whether phones may be in E.164.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import quote

import orjson
import phonenumbers
from msgspec import structs

from pipeline.domain import EMPTY, IncomingEvent, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, InvalidInput
from pipeline.vendors import base
from pipeline.vendors._json_items import read_items
from pipeline.vendors._privacy_tools_body import EVIDENCE, Body
from pipeline.vendors.base import Capabilities, Held, Option, Rate, SignIn, VendorRequest, VendorResponse

MOST_BODIES: Final = 5_000
BRAZIL: Final = 55
PHONE_FORMATS: Final = {"national", "e164"}
JSON_HEADERS: Final = (("content-type", "application/json"),)
# Renewed before it ends: the vendor advises to fetch a token before use rather than to wait for a 401.
USED_PART_OF_LIFE: Final = 0.9
TEMPLATE_NAMES: Final = ("templateHash", "hashTemplate", "encryptedTemplate", "template", "hash")
VALUE_NAMES: Final = ("consentValue", "value", "consent", "accepted")
DATE_NAMES: Final = ("consentDate", "date", "updatedAt", "createdAt")
STATES: Final = {True: State.GIVEN, False: State.WITHDRAWN, "true": State.GIVEN, "false": State.WITHDRAWN}


class Adapter(base.Adapter):
    """Tells and asks the consent platform, and reads what its forms, webhooks or import clients send."""

    title = "Privacy Tools"
    docs_url = "https://privacyts.atlassian.net/wiki/spaces/GSD/pages/1665433601"
    base_url = "https://dpo.privacytools.com.br/external_api_v2"
    credentials: ClassVar = {
        "public_key": Option(description="public key of the API user", required=True),
        "secret": Option(description="secret of the API user", required=True),
        "client_id": Option(description="client id of the token call", required=True),
        "client_secret": Option(description="client secret of the token call", required=True),
    }
    options: ClassVar = {
        "template_hash": Option(description="hash of the purpose", required=True),
        "group_name": Option(description="group that people are put in"),
        "default_name": Option(description="name sent for a person whose name is not known, because a name is mandatory", default="-"),
        "update_user_data": Option(description="let the import change the profile of a person already there", default=False, type=bool),
        "portal_hash": Option(description="hash of the portal that mails and texts lead to"),
        "send_email_portal": Option(description="have the platform mail a portal invitation on `given`", default=False, type=bool),
        "send_email_portal_reset_password": Option(description="have the platform mail a new portal password on `given`", default=False, type=bool),
        "send_sms": Option(description="have the platform send a text on `given`; needs 'portal_hash'", default=False, type=bool),
        "send_sms_message": Option(description="what that text says"),
        "phone_format": Option(description="national (Brazilian numbers as in the vendor's sample) or e164", default="national"),
        "grant_type": Option(description="grant_type of the token call: the API user's scope (assumed)", default="password"),
        "trust_status": Option(description="count every 2xx as told, whatever its body", default=False, type=bool),
        "user_agent": Option(description="User-Agent to send, where the vendor's firewall refuses ours"),
    }
    capabilities = Capabilities(identifiers=("email", "phone"), reads_back=True, sends_events=True, signs_in=True, max_calls=2)
    probes = ("sign-in and look-up",)
    rate = Rate(calls=20, per_seconds=4.0, concurrent=4)  # By plan, without a public figure: five a second, in a window with room for four dialogues.

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        if self.settings["send_sms"] and not self.settings["portal_hash"]:
            raise ConfigurationError("option 'send_sms' needs 'portal_hash' (and is sent only for people with e-mail and phone)")
        if self.settings["phone_format"] not in PHONE_FORMATS:
            raise ConfigurationError(f"option 'phone_format' must be one of {', '.join(sorted(PHONE_FORMATS))}")
        if not self.settings["default_name"]:
            raise ConfigurationError("option 'default_name' must not be empty: the import demands a name")
        if not _is_header(self.settings["user_agent"] or "-"):
            raise ConfigurationError("option 'user_agent' must be printable ASCII")

    def tell(self, instructions: Sequence[Instruction]) -> base.TellDialogue:
        """One import for each person; of somebody known by e-mail and phone a withdrawal goes to both, as either may have consented before."""
        results = []
        for instruction in instructions:
            result = base.missing_identifier()
            for operation, path in _imports(instruction):
                response = yield VendorRequest(operation=operation, path=path, headers=JSON_HEADERS, body=orjson.dumps(self._body(instruction)))
                result = self._read_import(response)
                if result.outcome is not Outcome.APPLIED:
                    break
            results.append(result)
        return results

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> base.AskDialogue:
        """What the platform holds for the purpose; it can only be asked by the person's `hashUser`, our external id."""
        template = self.option(options, "template_hash")
        if not subject.external_id or not template:
            return Held(readable=False)
        path = f"/public_api/consent/getConsentsUser/{quote(subject.external_id, safe='')}/{quote(template, safe='')}"
        response = yield VendorRequest(operation="get_consents", method="GET", path=path)
        return _held(response.json(), template) if response.status == 200 else Held(readable=False)

    @classmethod
    def hear(cls, notification: base.Notification, source: base.SourceSettings) -> Sequence[IncomingEvent | InvalidInput]:
        """One body, or a JSON array of them; of an array each wrong body is an InvalidInput in its place."""
        items, is_array = read_items(notification, most=MOST_BODIES, one="body", many="bodies")
        if not is_array:
            return [Body(items[0], notification, source).event()]
        return [_attempt(item, notification, source) for item in items]

    def probe(self, options: Mapping[str, Any]) -> base.ProbeDialogue:
        """A look-up of nobody, after signing in; what it finds is not documented, so any answer but a refusal will do."""
        path = f"/public_api/consent/getConsentsUser/{base.NOBODY}/{quote(self.option(options, 'template_hash'), safe='')}"
        response = yield VendorRequest(operation="get_consents", method="GET", path=path)
        refused = None if response.status == 404 else base.refusal(response)
        is_page = response.body.lstrip().startswith(b"<")
        return [refused or (base.unreadable() if is_page else VendorResult(outcome=Outcome.UNCHANGED))]

    def sign_in(self) -> base.SignInDialogue:
        response = yield VendorRequest(operation="sign_in", path="/oauth/token")
        refused = base.refusal(response)
        answer = response.json() if refused is None else None
        token, kind = (answer.get("access_token"), answer.get("token_type") or "bearer") if isinstance(answer, dict) else (None, None)
        if isinstance(answer, dict) and isinstance(token, str) and token and _is_header(f"{kind} {token}"):
            return SignIn(token=f"{kind} {token}", expires_in_seconds=_life(answer.get("expires_in")))
        if refused and refused.outcome is Outcome.REJECTED:
            refused = VendorResult(outcome=Outcome.MISCONFIGURED, reason="sign_in_refused")
        # Nothing about a person was sent yet, so whatever happened is definite.
        return SignIn(refusal=structs.replace(refused or base.unreadable(), definite=True))

    def is_signed_out(self, response: VendorResponse) -> bool:
        return response.status == 401

    def sign(self, request: VendorRequest, token: str | None) -> VendorRequest:
        """Sign in by the login, look up by the public key, import by the session (whose token carries its type)."""
        headers, query = request.headers, request.query
        if self.settings["user_agent"]:
            headers = (*headers, ("user-agent", self.settings["user_agent"]))
        if request.operation == "sign_in":
            query = (("username", self._secrets["public_key"]), ("password", self._secrets["secret"]), ("grant_type", self.settings["grant_type"]))
            login = base64.b64encode(f"{self._secrets['client_id']}:{self._secrets['client_secret']}".encode()).decode()
            signature = ("authorization", f"Basic {login}")
        elif request.operation == "get_consents":
            signature = ("publicAuthorization", f"publicAuthorization#{self._secrets['public_key']}")
        else:
            signature = ("authorization", token or "")
        return structs.replace(request, query=query, headers=(*headers, signature))

    def _body(self, instruction: Instruction) -> dict[str, Any]:
        """The body of both imports, with what is not known left out."""
        subject, profile = instruction.subject, instruction.profile
        name = profile.get("name") or " ".join(filter(None, (profile.get("first_name"), profile.get("last_name"))))
        known = {
            "email": subject.email,
            "phone": _phone(subject.phone, self.option(instruction.options, "phone_format")) if subject.phone else None,
            "templateHash": self.option(instruction.options, "template_hash"),
            "document": subject.national_id,
            "hashUser": subject.external_id,
            "groupName": self.option(instruction.options, "group_name"),
            **{theirs: instruction.evidence.get(ours) for theirs, ours in EVIDENCE.items()},
            "metadata": [{"name": key, "value": value} for key, value in instruction.metadata.items()],
        }
        return {
            "consentDate": _date(instruction.event_time),
            "consentValue": instruction.state is State.GIVEN,
            "name": name or self.option(instruction.options, "default_name"),
            **{field: value for field, value in known.items() if value},
            # Without a name of the person the stand-in would replace the one on the platform.
            "updateUserData": bool(name) and self.option(instruction.options, "update_user_data"),
            **self._messages(instruction),
        }

    def _messages(self, instruction: Instruction) -> dict[str, Any]:
        """The mails and texts that the platform is asked for: none unless an option says so, and never for a withdrawal."""

        def wanted(name: str) -> bool:
            return bool(self.option(instruction.options, name)) and instruction.state is State.GIVEN and bool(instruction.subject.email)

        portal, text = (self.option(instruction.options, name) for name in ("portal_hash", "send_sms_message"))
        sends_sms = wanted("send_sms") and bool(portal) and bool(instruction.subject.phone)
        return {
            "sendEmailPortal": wanted("send_email_portal"),
            "sendEmailPortalResetPassword": wanted("send_email_portal_reset_password"),
            "sendSMS": sends_sms,
            **({"sendSMSMessage": text} if sends_sms and text else {}),
            **({"portalHash": portal} if portal else {}),
        }

    def _read_import(self, response: VendorResponse) -> VendorResult:
        """No body is documented, so a JSON object that reports no error counts as told; a page of a firewall or a proxy does not."""
        refused = base.refusal(response)
        if refused or self.settings["trust_status"]:
            return refused or VendorResult(outcome=Outcome.APPLIED)
        answer = response.json()
        if not isinstance(answer, dict):
            return base.unreadable()
        is_refusal = answer.get("success") is False or bool(answer.get("error") or answer.get("errors"))
        return VendorResult(outcome=Outcome.REJECTED, reason="not_accepted") if is_refusal else VendorResult(outcome=Outcome.APPLIED)


def _attempt(item: Any, notification: base.Notification, source: base.SourceSettings) -> IncomingEvent | InvalidInput:
    try:
        return Body(item, notification, source).event()
    except InvalidInput as error:
        return error


def _imports(instruction: Instruction) -> Iterator[tuple[str, str]]:
    subject = instruction.subject
    if subject.email:
        yield "import", "/consent/import"
    if subject.phone and (not subject.email or instruction.state is State.WITHDRAWN):
        yield "import_by_phone", "/consent/import/phone"


def _date(instant: datetime) -> str:
    """`yyyy-MM-dd'T'HH:mm:ss.SSSZ`, in UTC: the one documented form that says the day, the half of the day and the zone."""
    utc = instant.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}+0000"


def _phone(number: str, form: str) -> str:
    """Brazilian numbers as in the vendor's sample, `(51) 99999-9999`, by which people are found; others only make sense in E.164."""
    parsed = phonenumbers.parse(number)
    is_national = form == "national" and parsed.country_code == BRAZIL
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL) if is_national else number


def _is_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _life(seconds: Any) -> float | None:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0
    return seconds * USED_PART_OF_LIFE if is_number else None


def _held(answer: Any, template: str) -> Held:
    """The newest word about a purpose; whatever cannot be read for certain is no state."""
    words = []
    for entry in answer if isinstance(answer, list) else [answer]:
        if not isinstance(entry, dict):
            return Held(readable=False)
        if _first(entry, TEMPLATE_NAMES) not in (None, template):
            continue
        value = _first(entry, VALUE_NAMES)
        state = STATES.get(value) if isinstance(value, bool | str) else None
        if state is None:
            return Held(readable=False)
        words.append((_instant(_first(entry, DATE_NAMES)), state))
    if not words:
        return Held()
    if len({state for _, state in words}) > 1 and any(instant is None for instant, _ in words):
        return Held(readable=False)
    newest, state = max(words, key=lambda word: (word[0] or datetime.min.replace(tzinfo=UTC), word[1] is State.WITHDRAWN))
    return Held(state=state, changed_at=newest)


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _instant(text: Any) -> datetime | None:
    """An instant with its zone; the platform's other forms of date leave open which day they mean."""
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else None
