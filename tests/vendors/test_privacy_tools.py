"""The Privacy Tools vendor told and asked: the contract, its imports on the wire, its sessions, its lookup, the webhook template, and its sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
from msgspec import structs

from pipeline.domain import Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, InvalidInput
from pipeline.identifiers import Hasher
from pipeline.vendors import adapter_class
from pipeline.vendors.base import Adapter, Held, Notification, SourceSettings, VendorRequest, VendorResponse, missing_identifier
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.vendors.contract import EVIDENCE, PERSON, UNREADABLE, VendorContract, result
from tests.vendors.drivers import DirectDriver, replay

PAGE = Path(__file__).parents[2] / "docs" / "vendors" / "privacy_tools.md"
APPLIED = result(Outcome.APPLIED)
YES = VendorResponse(status=200, body=b'{"success":true}')
BY_PHONE = Subject(phone="+5551900000000")
CREDENTIALS = {
    "public_key": "test-privacy-public-key",
    "secret": "test-privacy-secret",
    "client_id": "test-privacy-client",
    "client_secret": "test-privacy-client-secret",
}


def answer(content: Any, status: int = 200) -> VendorResponse:
    return VendorResponse(status=status, body=orjson.dumps(content))


class TestPrivacyTools(VendorContract):
    vendor = "privacy_tools"
    credentials: ClassVar = CREDENTIALS
    options: ClassVar = {"template_hash": "test-hash"}
    not_options: ClassVar = {"phone_format": "local", "default_name": "", "send_sms": True, "user_agent": "a\r\nb: c", "update_user_data": "yes"}

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        person = f"email:{subject.email}" if subject.email else f"phone:{(subject.phone or '').removeprefix('+55')}"
        return sandbox.states("privacy_tools").get(f"test-hash/{person}")

    def expire(self, sandbox: SandboxHandle, *, forever: bool, driver: Any, adapter: Adapter) -> None:
        self.tell(driver, adapter, self.instruction())
        sandbox.settings("privacy_tools", refuse_tokens=forever)
        if not forever:
            sandbox.reset("privacy_tools")


class TestTell:
    """Instruction and answer to import and result."""

    contract = TestPrivacyTools()

    def sent(self, *answers: VendorResponse, state: State = State.GIVEN, options: dict[str, Any] | None = None, **changed: Any) -> list[VendorRequest]:
        adapter = self.contract.adapter(options={"template_hash": "test-hash", **(options or {})})
        return replay(adapter.tell([self.contract.instruction(state, **changed)]), *answers).sent

    def body(self, **changed: Any) -> dict[str, Any]:
        body: dict[str, Any] = orjson.loads(self.sent(**changed)[0].body)
        return body

    def test_the_import_by_phone_is_the_vendors_own_example(self) -> None:
        """The example of the page, byte for byte, with its instant in UTC and the flags it leaves out written as off."""
        (request,) = self.sent(
            state=State.WITHDRAWN,
            subject=BY_PHONE,
            profile={"name": "Ana"},
            evidence={"ip": "192.0.2.10"},
            options={"template_hash": "<purpose hash>", "update_user_data": True},
        )
        assert (request.operation, request.method, request.path, request.query) == ("import_by_phone", "POST", "/consent/import/phone", ())
        assert dict(request.headers) == {"content-type": "application/json"}
        assert request.body == (
            b'{"consentDate":"2026-01-05T16:00:00.000+0000","consentValue":false,"name":"Ana","phone":"(51) 90000-0000","templateHash":"<purpose hash>",'
            b'"userIp":"192.0.2.10","updateUserData":true,"sendEmailPortal":false,"sendEmailPortalResetPassword":false,"sendSMS":false}'
        )

    def test_the_import_by_email_says_all_that_is_known(self) -> None:
        """Mandatory fields first, then identifiers, group, evidence and metadata under the vendor's names."""
        (request,) = self.sent(
            options={"group_name": "customers"},
            evidence={**EVIDENCE, "website": "https://example.org", "form": "signup"},
            metadata={"shop": "7", "campaign": "spring"},
        )
        assert (request.operation, request.path) == ("import", "/consent/import")
        assert request.body == (
            b'{"consentDate":"2026-01-05T16:00:00.000+0000","consentValue":true,"name":"Ana Placeholder","email":"ana@example.org","phone":"(11) 91234-5678",'
            b'"templateHash":"test-hash","document":"12345678909","hashUser":"person-4711","groupName":"customers","userIp":"203.0.113.9",'
            b'"userAgent":"Placeholder/1.0","websiteOrigin":"https://example.org","formOrigin":"signup",'
            b'"metadata":[{"name":"shop","value":"7"},{"name":"campaign","value":"spring"}],"updateUserData":false,"sendEmailPortal":false,'
            b'"sendEmailPortalResetPassword":false,"sendSMS":false}'
        )

    @pytest.mark.parametrize(
        "state, subject, paths",
        [
            (State.GIVEN, Subject(email="ana@example.org"), ["/consent/import"]),
            (State.GIVEN, BY_PHONE, ["/consent/import/phone"]),
            (State.GIVEN, PERSON, ["/consent/import"]),
            (State.WITHDRAWN, Subject(email="ana@example.org"), ["/consent/import"]),
            (State.WITHDRAWN, BY_PHONE, ["/consent/import/phone"]),
            (State.WITHDRAWN, PERSON, ["/consent/import", "/consent/import/phone"]),
        ],
    )
    def test_imports_by_what_the_person_has(self, state: State, subject: Subject, paths: list[str]) -> None:
        """E-mail is preferred; a withdrawal is said to both, because an older consent may have come by either."""
        adapter = self.contract.adapter()
        replayed = replay(adapter.tell([self.contract.instruction(state, subject)]), *[YES] * len(paths))
        assert ([request.path for request in replayed.sent], list(replayed.result)) == (paths, [APPLIED])

    def test_half_a_withdrawal_is_none(self) -> None:
        """If the second import is refused, that is the result."""
        replayed = replay(self.contract.adapter().tell([self.contract.instruction(State.WITHDRAWN)]), YES, VendorResponse(status=500))
        assert list(replayed.result) == [result(Outcome.UNAVAILABLE, "http_500", definite=False)]

    @pytest.mark.parametrize(
        "said_at, text",
        [
            (datetime(2026, 4, 3, 2, 1, 0, 999_999, UTC), "2026-04-03T02:01:00.999+0000"),
            (datetime.fromisoformat("2026-01-05T13:00:00-03:00"), "2026-01-05T16:00:00.000+0000"),
        ],
    )
    def test_a_date_cannot_be_misread(self, said_at: datetime, text: str) -> None:
        """Only the form with year first and zone is sent."""
        assert self.body(event_time=said_at)["consentDate"] == text

    @pytest.mark.parametrize(
        "profile, name, update",
        [
            ({"name": "Ana", "last_name": "P."}, "Ana", True),
            ({"first_name": "Ana", "last_name": "P."}, "Ana P.", True),
            ({"last_name": "P."}, "P.", True),
            ({}, "-", False),
        ],
    )
    def test_a_name_is_never_invented(self, profile: dict[str, str], name: str, update: bool) -> None:
        """Without a name the stand-in goes, and then never over the name that the platform has."""
        body = self.body(profile=profile, options={"update_user_data": True})
        assert (body["name"], body["updateUserData"]) == (name, update)

    @pytest.mark.parametrize(
        "phone, form, written",
        [
            ("+5551999999999", "national", "(51) 99999-9999"),
            ("+5551999999999", "e164", "+5551999999999"),
            ("+541151190123", "national", "+541151190123"),
        ],
    )
    def test_a_phone_is_written_as_the_vendor_does(self, phone: str, form: str, written: str) -> None:
        """Brazilian numbers as in the vendor's sample, others in E.164."""
        assert self.body(subject=Subject(phone=phone), options={"phone_format": form})["phone"] == written

    @pytest.mark.parametrize(
        "state, subject, flags",
        [
            (State.GIVEN, PERSON, {"sendEmailPortal", "sendEmailPortalResetPassword", "sendSMS"}),
            (State.GIVEN, Subject(email="ana@example.org"), {"sendEmailPortal", "sendEmailPortalResetPassword"}),
            (State.GIVEN, BY_PHONE, set()),
            (State.WITHDRAWN, PERSON, set()),
        ],
    )
    def test_messages_only_where_asked_for_and_possible(self, state: State, subject: Subject, flags: set[str]) -> None:
        """With every flag on, a text still needs e-mail and phone, a mail an e-mail, and a withdrawal causes none."""
        options = {"portal_hash": "portal", "send_email_portal": True, "send_email_portal_reset_password": True, "send_sms": True, "send_sms_message": "Hello"}
        body = self.body(state=state, subject=subject, options=options)
        assert {name for name, value in body.items() if name.startswith("send") and value is True} == flags
        assert (body["portalHash"], body.get("sendSMSMessage")) == ("portal", "Hello" if "sendSMS" in flags else None)

    def test_a_purpose_may_have_its_own_hash(self) -> None:
        """The hash of the instruction comes before the destination's."""
        (request,) = replay(self.contract.adapter().tell([self.contract.instruction(options={"template_hash": "other"})])).sent
        assert orjson.loads(request.body)["templateHash"] == "other"

    @pytest.mark.parametrize(
        "said, expected",
        [
            (answer({}), APPLIED),
            (answer({"success": True, "error": None}, 201), APPLIED),
            (answer({"success": False}), result(Outcome.REJECTED, "not_accepted")),
            (answer({"error": "Bad Request", "status": 400}), result(Outcome.REJECTED, "not_accepted")),
            (answer({"errors": ["name"]}), result(Outcome.REJECTED, "not_accepted")),
            (VendorResponse(status=200, body=b"<html>"), UNREADABLE),
            (VendorResponse(status=204), UNREADABLE),
        ],
    )
    def test_reads_the_answer_with_care(self, said: VendorResponse, expected: VendorResult) -> None:
        """An object without an error counts; a page, nothing at all, or a word of refusal does not."""
        assert list(replay(self.contract.adapter().tell([self.contract.instruction()]), said).result) == [expected]

    @pytest.mark.parametrize("said, expected", [(VendorResponse(status=204), APPLIED), (VendorResponse(status=400), result(Outcome.REJECTED, "http_400"))])
    def test_a_status_may_be_trusted(self, said: VendorResponse, expected: VendorResult) -> None:
        """As no body is documented, a setting lets every 2xx count."""
        adapter = self.contract.adapter(options={"template_hash": "test-hash", "trust_status": True})
        assert list(replay(adapter.tell([self.contract.instruction()]), said).result) == [expected]

    def test_a_document_alone_names_nobody(self) -> None:
        """Neither import takes a person without e-mail and phone: nothing is sent."""
        replayed = replay(self.contract.adapter().tell([self.contract.instruction(State.WITHDRAWN, Subject(national_id="01234567809"))]))
        assert (replayed.sent, list(replayed.result)) == ([], [missing_identifier()])


class TestSession:
    """The token call and what is signed with it."""

    contract = TestPrivacyTools()

    def test_signs_in_as_the_vendors_own_example(self) -> None:
        """Keys of the API user in the query, those of the client in Basic, and the token with the type that came with it."""
        adapter = self.contract.adapter()
        token = {"access_token": "tok", "token_type": "bearer", "refresh_token": "r", "expires_in": 33476, "scope": "password"}
        replayed = replay(adapter.sign_in(), answer(token))
        (request,) = replayed.sent
        assert (request.operation, request.method, request.path, request.query, request.body) == ("sign_in", "POST", "/oauth/token", (), b"")
        signed = adapter.sign(request, None)
        assert signed.query == (("username", "test-privacy-public-key"), ("password", "test-privacy-secret"), ("grant_type", "password"))
        assert dict(signed.headers) == {"authorization": "Basic dGVzdC1wcml2YWN5LWNsaWVudDp0ZXN0LXByaXZhY3ktY2xpZW50LXNlY3JldA=="}
        assert (replayed.result.token, replayed.result.refusal) == ("bearer tok", None)
        assert replayed.result.expires_in_seconds == pytest.approx(30128.4)
        (told,) = replay(adapter.tell([self.contract.instruction()])).sent
        assert dict(adapter.sign(told, "bearer tok").headers)["authorization"] == "bearer tok"

    @pytest.mark.parametrize(
        "said, token, seconds",
        [
            ({"access_token": "tok", "token_type": "Bearer", "expires_in": 100}, "Bearer tok", 90.0),
            ({"access_token": "tok"}, "bearer tok", None),
            ({"access_token": "tok", "expires_in": "soon"}, "bearer tok", None),
            ({"access_token": "tok", "expires_in": 0}, "bearer tok", None),
        ],
    )
    def test_reads_type_and_life_of_the_token(self, said: dict[str, Any], token: str, seconds: float | None) -> None:
        """The type is the answer's; a life that cannot be read leaves the token until it is refused."""
        signed_in = replay(self.contract.adapter().sign_in(), answer(said)).result
        assert (signed_in.token, signed_in.expires_in_seconds) == (token, seconds)

    @pytest.mark.parametrize(
        "said, expected",
        [
            (VendorResponse(status=401), result(Outcome.MISCONFIGURED, "http_401")),
            (answer({"error": "invalid_grant"}, 400), result(Outcome.MISCONFIGURED, "sign_in_refused")),
            (VendorResponse(status=302), result(Outcome.MISCONFIGURED, "sign_in_refused")),
            (VendorResponse(status=429, headers={"retry-after": "3"}), result(Outcome.THROTTLED, "http_429", retry_after=3.0)),
            (VendorResponse(status=500), result(Outcome.UNAVAILABLE, "http_500")),
            (answer({"access_token": ""}), result(Outcome.UNAVAILABLE, "unreadable_answer")),
            (answer({"access_token": "a\nb"}), result(Outcome.UNAVAILABLE, "unreadable_answer")),
            (answer(["tok"]), result(Outcome.UNAVAILABLE, "unreadable_answer")),
        ],
    )
    def test_a_refused_sign_in_kills_no_delivery(self, said: VendorResponse, expected: VendorResult) -> None:
        """A refused login is misconfigured, never a rejection of the person whose delivery came first."""
        signed_in = replay(self.contract.adapter().sign_in(), said).result
        assert (signed_in.token, signed_in.refusal) == (None, expected)

    def test_only_401_ends_a_session(self) -> None:
        """403 is the firewall or a right that is missing; a new token would not help."""
        adapter = self.contract.adapter()
        assert [adapter.is_signed_out(VendorResponse(status=status)) for status in (200, 401, 403)] == [False, True, False]

    @pytest.mark.parametrize("name", list(CREDENTIALS))
    def test_a_wrong_login_changes_nothing(self, name: str) -> None:
        """Each of the four is needed, and no consent was written without."""
        with start_sandboxes(["privacy_tools"]) as sandbox:
            adapter = self.contract.adapter(sandbox.url("privacy_tools"), credentials={**CREDENTIALS, name: "test-wrong"})
            assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction())[0].outcome is Outcome.MISCONFIGURED
            assert sandbox.states("privacy_tools") == {}

    def test_a_text_needs_a_portal(self) -> None:
        """Without the portal's hash the start is refused; with it, not."""
        with pytest.raises(ConfigurationError, match="'portal_hash'"):
            self.contract.adapter(options={"template_hash": "test-hash", "send_sms": True})
        assert self.contract.adapter(options={"template_hash": "test-hash", "send_sms": True, "portal_hash": "p"})


class TestAsk:
    """What a lookup is read as."""

    contract = TestPrivacyTools()

    def held(self, content: Any) -> Held:
        held: Held = replay(self.contract.adapter().ask(PERSON, {}), answer(content)).result
        return held

    def test_asks_by_the_persons_hash(self) -> None:
        """The lookup names person and purpose, and is signed with the public key instead of a session."""
        adapter = self.contract.adapter()
        (request,) = replay(adapter.ask(structs.replace(PERSON, external_id="a/b"), {"template_hash": "h 1"})).sent
        assert (request.method, request.path) == ("GET", "/public_api/consent/getConsentsUser/a%2Fb/h%201")
        assert dict(adapter.sign(request, "bearer tok").headers) == {"publicAuthorization": "publicAuthorization#test-privacy-public-key"}

    @pytest.mark.parametrize("subject", [structs.replace(PERSON, external_id=None), Subject()])
    def test_asks_nobody_without_a_hash(self, subject: Subject) -> None:
        """Without an external id nothing is sent, and nothing is known."""
        replayed = replay(self.contract.adapter().ask(subject, {}))
        assert (replayed.sent, replayed.result) == ([], Held(readable=False))

    @pytest.mark.parametrize(
        "content, expected",
        [
            ([], Held()),
            ([{"templateHash": "test-hash", "value": True}], Held(state=State.GIVEN)),
            ({"hashTemplate": "test-hash", "consentValue": "false"}, Held(state=State.WITHDRAWN)),
            ([{"value": False, "date": "2026-01-05T16:00:00.000+0000"}], Held(state=State.WITHDRAWN, changed_at=datetime(2026, 1, 5, 16, tzinfo=UTC))),
            ([{"templateHash": "other", "value": True}], Held()),
            ([{"templateHash": "other", "value": False}, {"templateHash": "test-hash", "value": True}], Held(state=State.GIVEN)),
            (
                [{"value": False, "date": "2026-01-06T16:00:00.000+0000"}, {"value": True, "date": "2026-01-05T16:00:00.000+0000"}],
                Held(state=State.WITHDRAWN, changed_at=datetime(2026, 1, 6, 16, tzinfo=UTC)),
            ),
            ([{"value": True, "date": "03/04/2026"}, {"value": False, "date": "04/04/2026"}], Held(readable=False)),
            ([{"value": True}, {"value": True}], Held(state=State.GIVEN)),
            ([{"templateHash": "test-hash"}], Held(readable=False)),
            ([{"value": "perhaps"}], Held(readable=False)),
            ([{"value": 1}], Held(readable=False)),
            ({"error": "x"}, Held(readable=False)),
            (True, Held(readable=False)),
        ],
    )
    def test_reads_what_is_certain(self, content: Any, expected: Held) -> None:
        """The newest word for this purpose in any likely form; whatever leaves a doubt is no state."""
        assert self.held(content) == expected

    def test_not_found_says_nothing(self) -> None:
        """A 404 may as well mean a wrong address, so it is not read as `unknown to the platform`."""
        assert replay(self.contract.adapter().ask(PERSON, {}), VendorResponse(status=404)).result == Held(readable=False)


class TestWebhookTemplate:
    """The body that the documentation tells tenants to paste into a webhook."""

    source = SourceSettings(name="privacy-tools", kind="privacy_tools", purposes={"test-template-hash-newsletter": "newsletter"}, country="BR")

    def template(self) -> str:
        found = re.search(r"```json\n(\{.*?\})\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        assert found
        return found[1]

    def hear(self, received_at: datetime = datetime(2026, 1, 7, tzinfo=UTC), **values: str) -> Any:
        body = re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.template())
        (event,) = adapter_class("privacy_tools").hear(Notification(body=body.encode(), media_type="application/json", received_at=received_at), self.source)
        return event

    def test_the_template_is_heard(self) -> None:
        """Filled in, it is a withdrawal of the purpose it names."""
        event = self.hear(email="ana@example.org", document="012.345.678-09", date="05/01/2026 13:00")
        assert event.subject == Subject(email="ana@example.org", national_id="01234567809", country="BR")
        assert (event.state, event.purpose, event.profile) == (State.WITHDRAWN, "newsletter", {})

    def test_a_variable_that_was_not_filled_is_absent(self) -> None:
        """The withdrawal is taken all the same, at the moment of its receipt."""
        event = self.hear(email="ana@example.org")
        assert (event.subject, event.event_time) == (Subject(email="ana@example.org", country="BR"), datetime(2026, 1, 7, tzinfo=UTC))

    def test_nobody_named_is_refused(self) -> None:
        """Without e-mail and phone nobody withdrew."""
        with pytest.raises(InvalidInput):
            self.hear(document="012.345.678-09")

    def test_a_repeat_is_the_same_event(self) -> None:
        """Without a delivery id the content is the key: subject, purpose, value and date."""
        hasher = Hasher(b"test-pepper-of-thirty-two-bytes!")
        values = {"email": "ana@example.org", "date": "05/01/2026 13:00"}
        first, again = self.hear(**values), self.hear(datetime(2026, 1, 8, tzinfo=UTC), **values)
        later = self.hear(**{**values, "date": "06/01/2026 13:00"})
        assert hasher.content_hash(first) == hasher.content_hash(again) != hasher.content_hash(later)


class TestSandbox:
    """What the documentation says of Privacy Tools holds for its sandbox."""

    contract = TestPrivacyTools()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["privacy_tools"]) as handle:
            yield handle

    def tell(self, sandbox: SandboxHandle, state: State = State.WITHDRAWN, options: dict[str, Any] | None = None, **changed: Any) -> VendorResult:
        adapter = self.contract.adapter(sandbox.url("privacy_tools"), options={"template_hash": "test-hash", **(options or {})})
        return self.contract.tell(DirectDriver(), adapter, self.contract.instruction(state, **changed))[0]

    def test_a_consent_by_phone_is_reached_by_a_withdrawal_by_both(self, sandbox: SandboxHandle) -> None:
        """Who consented by phone alone and withdraws with an e-mail as well has no consent left."""
        assert self.tell(sandbox, State.GIVEN, subject=structs.replace(PERSON, email=None)) == APPLIED
        assert self.tell(sandbox) == APPLIED
        assert sandbox.states("privacy_tools") == {"test-hash/phone:11912345678": "withdrawn", "test-hash/email:ana@example.org": "withdrawn"}

    @pytest.mark.parametrize("update, name", [(False, "Ana Placeholder"), (True, "Bia Placeholder")])
    def test_a_profile_changes_only_where_asked(self, sandbox: SandboxHandle, update: bool, name: str) -> None:
        """The consent is recorded either way."""
        for profile, state in (({"name": "Ana Placeholder"}, State.GIVEN), ({"name": "Bia Placeholder"}, State.WITHDRAWN)):
            self.tell(sandbox, state, {"update_user_data": update}, profile=profile, subject=Subject(email="ana@example.org"))
        held = sandbox.state("privacy_tools")["contacts"]["test-hash/email:ana@example.org"]
        assert (held["state"], held["name"]) == ("withdrawn", name)

    def test_a_text_is_sent_once_told(self, sandbox: SandboxHandle) -> None:
        """The platform is asked for a text on a consent, and for none on the withdrawal."""
        options = {"send_sms": True, "portal_hash": "p", "send_sms_message": "Hello"}
        assert [self.tell(sandbox, state, options) for state in (State.GIVEN, State.WITHDRAWN)] == [APPLIED] * 2
        assert sandbox.state("privacy_tools")["messages"] == [{"kind": "sendSMS", "message": "Hello"}]

    def test_an_unknown_purpose_is_refused(self, sandbox: SandboxHandle) -> None:
        """A hash that the platform does not know is 400, and nothing is kept."""
        sandbox.settings("privacy_tools", templates=["other"])
        assert self.tell(sandbox) == result(Outcome.REJECTED, "http_400")
        assert sandbox.states("privacy_tools") == {}

    def test_a_token_ends(self, sandbox: SandboxHandle) -> None:
        """A token past its life is refused."""
        sandbox.settings("privacy_tools", token_life_seconds=0.0)
        assert self.tell(sandbox).outcome is Outcome.MISCONFIGURED

    def test_a_firewall_wants_a_browser(self, sandbox: SandboxHandle) -> None:
        """403 by the firewall is misconfigured, and a User-Agent like a browser's passes it."""
        sandbox.settings("privacy_tools", waf=True)
        assert self.tell(sandbox) == result(Outcome.MISCONFIGURED, "http_403")
        assert self.tell(sandbox, options={"user_agent": "Mozilla/5.0 (compatible)"}) == APPLIED

    def test_what_a_person_said_on_the_platform_is_read(self, sandbox: SandboxHandle) -> None:
        """A change made there is what the lookup finds."""
        sandbox.place("privacy_tools", template="test-hash", email="ana@example.org", state="withdrawn", user="person-4711")
        adapter = self.contract.adapter(sandbox.url("privacy_tools"))
        assert DirectDriver().drive(adapter, adapter.ask(PERSON, {})) == Held(state=State.WITHDRAWN, changed_at=datetime(2026, 1, 6, 12, tzinfo=UTC))
