"""The Dinamize vendor: the contract, its codes in the body, its sessions, and its sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import orjson
import pytest

from pipeline.domain import Outcome, State, Subject
from pipeline.errors import ConfigurationError
from pipeline.vendors.base import Adapter, Held, VendorResponse
from pipeline.vendors.dinamize import ConsentTokenRequest
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.vendors.contract import PERSON, PLAIN_HTTP, UNREADABLE, VendorContract, result
from tests.vendors.drivers import DirectDriver, replay

LOGIN = {"user": "test-dinamize-user", "password": "test-dinamize-password", "client_code": "test-client"}


def answer(code: Any, body: Any = None, detail: str = "Sucesso") -> VendorResponse:
    return VendorResponse(status=200, body=json.dumps({"code": code, "code_detail": detail, "body": body, "request_unique": "u", "warning": []}).encode())


class DinamizeContract(VendorContract):
    vendor = "dinamize"
    options: ClassVar = {"list_code": "1"}
    not_options: ClassVar = {"date_rest_given": "2098-01-01", "signed_out_codes": "240001"}

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        return sandbox.states("dinamize").get(f"1/{subject.email}")


class TestConsentToken(DinamizeContract):
    credentials: ClassVar = {"token": "test-dinamize-token"}


class TestSession(DinamizeContract):
    credentials: ClassVar = LOGIN

    def expire(self, sandbox: SandboxHandle, *, forever: bool, driver: Any, adapter: Adapter) -> None:
        self.tell(driver, adapter, self.instruction())
        sandbox.settings("dinamize", token_life_seconds=0.0 if forever else 86400.0)
        if not forever:
            sandbox.reset("dinamize")

    def test_signs_in_with_the_login(self) -> None:
        """The sign-in posts the login, added by the signature, and keeps the token for less than an hour."""
        adapter = self.adapter()
        replayed = replay(adapter.sign_in(), answer("480001", {"auth-token": "test-session"}))
        (request,) = replayed.sent
        assert (request.operation, request.method, request.path, request.body) == ("sign_in", "POST", "/auth", b"{}")
        assert orjson.loads(adapter.sign(request, None).body) == LOGIN
        assert (replayed.result.token, replayed.result.expires_in_seconds, replayed.result.refusal) == ("test-session", 3000.0, None)
        assert "test-session" not in repr(replayed.result)

    def test_signs_requests_with_the_session(self) -> None:
        """A request of a session carries the session's token."""
        adapter = self.adapter()
        (request,) = replay(adapter.tell([self.instruction()])).sent
        assert dict(adapter.sign(request, "test-session").headers)["auth-token"] == "test-session"

    @pytest.mark.parametrize(
        "refused, expected",
        [
            (answer("240002"), result(Outcome.MISCONFIGURED, "password_missing")),
            (answer("240003"), result(Outcome.MISCONFIGURED, "user_missing")),
            (answer("240004"), result(Outcome.MISCONFIGURED, "bad_login")),
            (answer("240029"), result(Outcome.MISCONFIGURED, "bad_client_code")),
            (answer("240024", {"retry-after": "17"}), result(Outcome.THROTTLED, "over_limit", retry_after=17.0)),
            (answer("480001", {}), result(Outcome.UNAVAILABLE, "unreadable_answer")),
            (VendorResponse(status=500), result(Outcome.UNAVAILABLE, "http_500")),
        ],
    )
    def test_a_refused_sign_in_is_the_result(self, refused: VendorResponse, expected: Any) -> None:
        """A refused sign-in says why, and is definite because nothing about a person was sent."""
        replayed = replay(self.adapter().sign_in(), refused)
        assert (replayed.result.token, replayed.result.refusal) == (None, expected)

    def test_knows_a_signed_out_answer(self) -> None:
        """The codes of an expired session are a setting."""
        assert self.adapter().is_signed_out(answer("240001"))
        assert not self.adapter().is_signed_out(answer("240024"))
        assert self.adapter(options={**self.options, "signed_out_codes": ["240777"]}).is_signed_out(answer("240777"))

    @pytest.mark.parametrize("name", ["password", "client_code"])
    def test_a_wrong_login_changes_nothing(self, sandbox: SandboxHandle, driver: Any, name: str) -> None:
        """A wrong login is misconfigured, and no contact was written."""
        adapter = self.adapter(sandbox.url("dinamize"), credentials={**LOGIN, name: "test-wrong"})
        assert self.tell(driver, adapter, self.instruction())[0].outcome is Outcome.MISCONFIGURED
        assert sandbox.states("dinamize") == {}


class TestTell:
    """Instruction and answer to request and result."""

    contract = TestConsentToken()

    @pytest.mark.parametrize(
        "state, changed, expected",
        [
            (State.WITHDRAWN, {}, {"name": "Ana Placeholder", "external_code": "person-4711", "date_rest": "2099-01-01"}),
            (State.GIVEN, {}, {"name": "Ana Placeholder", "external_code": "person-4711", "date_rest": "2000-01-01"}),
            (State.GIVEN, {"profile": {"first_name": "Ana", "last_name": "P."}}, {"name": "Ana P.", "external_code": "person-4711", "date_rest": "2000-01-01"}),
            (State.WITHDRAWN, {"profile": {}, "subject": Subject(email=PERSON.email)}, {"date_rest": "2099-01-01"}),
            (State.GIVEN, {"profile": {}, "subject": Subject(email=PERSON.email), "options": {"date_rest_given": ""}}, {"date_rest": ""}),
        ],
    )
    def test_sends_one_upsert(self, state: State, changed: dict[str, Any], expected: dict[str, str]) -> None:
        """One upsert says all, and leaves out what is not known."""
        replayed = replay(self.contract.adapter().tell([self.contract.instruction(state, **changed)]), answer("480001", {"code": "123456"}))
        (request,) = replayed.sent
        assert (request.operation, request.method, request.path) == ("upsert", "POST", "/emkt/contact/upsert")
        assert dict(request.headers) == {"content-type": "application/json; charset=utf-8"}
        assert orjson.loads(request.body) == {"contact-list_code": "1", "email": "ana@example.org", **expected}
        assert [(one.outcome, one.vendor_reference) for one in replayed.result] == [(Outcome.APPLIED, "123456")]

    def test_a_purpose_may_have_its_own_list(self) -> None:
        """The list of the instruction comes before the destination's."""
        (request,) = replay(self.contract.adapter().tell([self.contract.instruction(options={"list_code": "9"})])).sent
        assert orjson.loads(request.body)["contact-list_code"] == "9"

    @pytest.mark.parametrize(
        "said, expected",
        [
            (answer("480001", None), result(Outcome.APPLIED)),
            (answer("480001", {}, detail="Erro"), result(Outcome.APPLIED)),
            (answer(480001, {}), result(Outcome.APPLIED)),
            (answer("240024", {"retry-after": "17"}), result(Outcome.THROTTLED, "over_limit", retry_after=17.0)),
            (answer("240024", {"retry-after": "soon"}), result(Outcome.THROTTLED, "over_limit", retry_after=60.0)),
            (answer("240024"), result(Outcome.THROTTLED, "over_limit", retry_after=60.0)),
            (answer("240002"), result(Outcome.MISCONFIGURED, "password_missing")),
            (answer("240003"), result(Outcome.MISCONFIGURED, "user_missing")),
            (answer("240004"), result(Outcome.MISCONFIGURED, "bad_login")),
            (answer("240029"), result(Outcome.MISCONFIGURED, "bad_client_code")),
            (answer("240001"), result(Outcome.MISCONFIGURED, "token_refused")),
            (answer("240555", detail="Success"), result(Outcome.REJECTED, "code_240555")),
            (answer("ana@example.org"), result(Outcome.REJECTED, "unknown_code")),
            (answer(None), UNREADABLE),
            (answer(""), UNREADABLE),
            (answer({"deep": 1}), UNREADABLE),
        ],
    )
    def test_reads_the_code_in_the_body(self, said: VendorResponse, expected: Any) -> None:
        """Only the code decides: not the status, and not the words beside it."""
        for state in State:
            assert list(replay(self.contract.adapter().tell([self.contract.instruction(state)]), said).result) == [expected]

    def test_signs_with_the_named_header(self) -> None:
        """A Consent-Token goes into the header that the setting names."""
        adapter = self.contract.adapter(credentials={"token": "test-dinamize-token", "token_header": "Consent-Token"})
        (request,) = replay(adapter.tell([self.contract.instruction()])).sent
        assert dict(adapter.sign(request, None).headers)["Consent-Token"] == "test-dinamize-token"
        assert not adapter.needs_session()

    @pytest.mark.parametrize("credentials", [{}, {"token": "test-token", **LOGIN}, {"token": "test-token", "user": "u"}, {"user": "u", "password": "p"}])
    def test_needs_one_way_to_sign_in(self, credentials: dict[str, str]) -> None:
        """Neither way, both ways, or half of one stops the start."""
        with pytest.raises(ConfigurationError, match=r"'token'|'client_code'"):
            self.contract.adapter(credentials=credentials)

    def test_a_header_name_is_checked(self) -> None:
        """A name that is none cannot smuggle a header in."""
        with pytest.raises(ConfigurationError, match="'token_header'"):
            self.contract.adapter(credentials={"token": "test-token", "token_header": "a: b\r\nc"})


class TestAsk:
    """What a search is read as."""

    contract = TestConsentToken()

    @pytest.mark.parametrize(
        "answers, expected",
        [
            ([[{"email": "Ana@example.org", "code": "7"}]], Held(state=State.WITHDRAWN, vendor_reference="7")),
            ([[], [{"email": "ana@example.org", "code": "7"}]], Held(state=State.GIVEN, vendor_reference="7")),
            ([[], [{"email": "ana@example.org", "code": "7", "optout": True}]], Held(state=State.WITHDRAWN, vendor_reference="7")),
            ([[], [{"email": "other@example.org", "code": "8"}]], Held()),
            ([[], []], Held()),
        ],
    )
    def test_reads_the_filter(self, answers: list[list[dict[str, Any]]], expected: Held) -> None:
        """A contact among the resting is withdrawn, among the others given, unless he opted out; anybody else is nobody."""
        replayed = replay(self.contract.adapter().ask(PERSON, {}), *(answer("480001", {"items": items, "next": False}) for items in answers))
        assert replayed.operations == ["search"] * len(answers)
        assert replayed.result == expected
        assert [orjson.loads(request.body)["status_contact"] for request in replayed.sent] == ["REST_ONLY", "NO_REST"][: len(answers)]

    @pytest.mark.parametrize("said", [answer("240024", {"retry-after": "5"}), answer("480001", {}), PLAIN_HTTP["cut JSON"][0]])
    def test_a_refused_search_says_nothing(self, said: VendorResponse) -> None:
        """A refused or unreadable search is no state."""
        assert replay(self.contract.adapter().ask(PERSON, {}), said).result == Held(readable=False)

    def test_nobody_is_asked_without_an_address(self) -> None:
        """Without an e-mail nothing is sent."""
        replayed = replay(self.contract.adapter().ask(Subject(phone=PERSON.phone), {}))
        assert (replayed.sent, replayed.result) == ([], Held(readable=False))


class TestApproval:
    """Asking for a Consent-Token, and trying one, with answers handed to the dialogues."""

    contract = TestConsentToken()
    step = ConsentTokenRequest(
        base_url="https://dinamize.example/connect/",
        credentials={"application_token": "test-application", "connection_id": "owner@example.org"},
        options={"redirect_url": "https://example.org/done"},
    )

    def test_asks_with_the_application_token(self) -> None:
        """The whole address, the two permissions, and the application token and login e-mail only by the signature."""
        (request,) = replay(self.step.authorize()).sent
        assert (self.step.address + request.path, request.operation, request.method) == ("https://dinamize.example/connect/", "authorize", "POST")
        assert orjson.loads(request.body) == {
            "redirect_url": "https://example.org/done",
            "requested_permissions": ["EMKT_READ_CONTACTS", "EMKT_WRITE_CONTACTS"],
        }
        signed = self.step.sign(request, None)
        assert dict(signed.headers) == {"content-type": "application/json; charset=utf-8", "authorization": "Application test-application"}
        assert orjson.loads(signed.body)["connection_id"] == "owner@example.org"
        assert [word for word in ("test-application", "owner@example.org") if word in f"{request!r}{signed!r}{self.step!r}"] == []

    @pytest.mark.parametrize(
        "said, expected, token",
        [
            (answer("480001", {"connection-token": "test-connection"}), result(Outcome.PENDING_CONFIRMATION), "test-connection"),
            (answer("480001", {"ConnectionToken": "test-connection"}), result(Outcome.PENDING_CONFIRMATION), "test-connection"),
            (answer("480001", {}), result(Outcome.PENDING_CONFIRMATION), ""),
            (VendorResponse(status=200, body=b'{"connection_token": "test-connection"}'), result(Outcome.PENDING_CONFIRMATION), "test-connection"),
            (VendorResponse(status=401, body=b'{"connection_token": "test-connection"}'), result(Outcome.MISCONFIGURED, "http_401"), ""),
            (answer("240001", {}), result(Outcome.MISCONFIGURED, "token_refused"), ""),
            (answer("240199", {}), result(Outcome.REJECTED, "code_240199"), ""),
            (answer("240024", {"retry-after": "9"}), result(Outcome.THROTTLED, "over_limit", retry_after=9.0), ""),
            (VendorResponse(status=200, body=b"<html>"), UNREADABLE, ""),
        ],
    )
    def test_reads_the_answer(self, said: VendorResponse, expected: Any, token: str) -> None:
        """Taken by the vendor's own word only; the ConnectionToken under whatever spelling, and never in a repr."""
        asked = replay(self.step.authorize(), said).result
        assert (asked.result, asked.connection_token) == (expected, token)
        assert "test-connection" not in repr(asked)

    @pytest.mark.parametrize("left_out", ["application_token", "connection_id"])
    def test_needs_both_secrets(self, left_out: str) -> None:
        """Neither the application token nor the login e-mail has a default."""
        given = {"application_token": "test-application", "connection_id": "owner@example.org"}
        del given[left_out]
        with pytest.raises(ConfigurationError, match=f"missing credential '{left_out}'"):
            ConsentTokenRequest(base_url="https://dinamize.example/connect", credentials=given, options={"redirect_url": "https://example.org"})

    def test_tries_a_token_without_asking_about_anybody(self) -> None:
        """One search of the destination's list for an address that cannot exist, signed with the new token in the destination's header."""
        adapter = self.contract.adapter(credentials={"token": "test-old", "token_header": "x-consent"}).with_token("test-new")
        replayed = replay(adapter.probe({"list_code": "7"}), answer("480001", {"items": [], "next": False}))
        (request,) = replayed.sent
        body = orjson.loads(request.body)
        assert (request.path, body["contact-list_code"], body["search"]) == (
            "/emkt/contact/search",
            "7",
            [{"field": "email", "operator": "=", "value": "consent-relay-probe@example.invalid"}],
        )
        assert dict(adapter.sign(request, None).headers)["x-consent"] == "test-new"
        assert replayed.result == [result(Outcome.UNCHANGED)]

    @pytest.mark.parametrize(
        "said, expected",
        [
            (answer("240001"), result(Outcome.MISCONFIGURED, "token_refused")),
            (answer("240198"), result(Outcome.REJECTED, "code_240198")),
            (VendorResponse(status=500), result(Outcome.UNAVAILABLE, "http_500", definite=False)),
            (VendorResponse(status=200, body=b""), UNREADABLE),
        ],
    )
    def test_a_token_that_fails_is_said_to(self, said: VendorResponse, expected: Any) -> None:
        """Nothing but the vendor's own code of success makes a token good."""
        assert replay(self.contract.adapter().probe({}), said).result == [expected]


class TestSandbox:
    """What the documentation says of Dinamize holds for its sandbox."""

    contract = TestConsentToken()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["dinamize"]) as handle:
            yield handle

    def tell(self, sandbox: SandboxHandle, state: State = State.WITHDRAWN) -> Any:
        return self.contract.tell(DirectDriver(), self.contract.adapter(sandbox.url("dinamize")), self.contract.instruction(state))[0]

    def test_refuses_the_61st_call_in_a_minute(self, sandbox: SandboxHandle) -> None:
        """Sixty calls pass; the next is told to wait up to a minute, by HTTP 200, and changes nothing."""
        for _ in range(60):
            assert self.tell(sandbox).outcome is Outcome.APPLIED
        refused = self.tell(sandbox, State.GIVEN)
        assert (refused.outcome, refused.reason) == (Outcome.THROTTLED, "over_limit")
        assert 50 <= refused.retry_after_seconds <= 60
        assert sandbox.states("dinamize") == {"1/ana@example.org": "withdrawn"}
        assert {call["status"] for call in sandbox.state("dinamize")["calls"]} == {200}

    def ask(self, sandbox: SandboxHandle, *, application: str = "test-dinamize-application-homologation", **options: Any) -> Any:
        secrets = {"application_token": application, "connection_id": "owner@example.org"}
        step = ConsentTokenRequest(
            base_url=sandbox.url("dinamize") + "/connection-token", credentials=secrets, options={"redirect_url": "https://example.org", **options}
        )
        return DirectDriver().drive(step, step.authorize())

    def test_a_consent_token_works_once_the_owner_has_approved(self, sandbox: SandboxHandle) -> None:
        """The ConnectionToken alone opens nothing; the Consent-Token of the approval searches and writes."""
        asked = self.ask(sandbox)
        assert asked.result.outcome is Outcome.PENDING_CONFIRMATION
        early = self.contract.adapter(sandbox.url("dinamize"), credentials={"token": asked.connection_token})
        assert DirectDriver().drive(early, early.probe({})) == [result(Outcome.MISCONFIGURED, "token_refused")]
        mail = sandbox.act("dinamize", "approve")
        assert mail["to"] == "owner@example.org"
        adapter = self.contract.adapter(sandbox.url("dinamize"), credentials={"token": mail["consent_token"]})
        assert DirectDriver().drive(adapter, adapter.probe({})) == [result(Outcome.UNCHANGED)]
        assert sandbox.states("dinamize") == {}
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction())[0].outcome is Outcome.APPLIED

    def test_a_consent_token_does_what_was_asked_for_and_no_more(self, sandbox: SandboxHandle) -> None:
        """Asked for reading only, it searches and may not write."""
        self.ask(sandbox, permissions=["EMKT_READ_CONTACTS"])
        adapter = self.contract.adapter(sandbox.url("dinamize"), credentials={"token": sandbox.act("dinamize", "approve")["consent_token"]})
        assert DirectDriver().drive(adapter, adapter.probe({})) == [result(Outcome.UNCHANGED)]
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction()) == [result(Outcome.REJECTED, "code_240198")]
        assert sandbox.states("dinamize") == {}

    def test_a_wrong_application_token_or_permission_asks_nobody(self, sandbox: SandboxHandle) -> None:
        """Refused, and there is nothing to approve."""
        assert self.ask(sandbox, application="test-wrong").result == result(Outcome.MISCONFIGURED, "token_refused")
        assert self.ask(sandbox, permissions=["EMKT_ALL"]).result == result(Outcome.REJECTED, "code_240199")
        with pytest.raises(ValueError, match="nobody has asked"):
            sandbox.act("dinamize", "approve")

    def test_the_limit_is_a_setting(self, sandbox: SandboxHandle) -> None:
        """A lower limit refuses earlier, none never."""
        sandbox.settings("dinamize", calls_per_minute=1)
        assert [self.tell(sandbox).outcome for _ in range(2)] == [Outcome.APPLIED, Outcome.THROTTLED]
        sandbox.settings("dinamize", calls_per_minute=None)
        assert self.tell(sandbox).outcome is Outcome.APPLIED

    def test_answers_in_both_languages(self, sandbox: SandboxHandle) -> None:
        """The words beside the code change their language from call to call."""
        adapter, driver = self.contract.adapter(sandbox.url("dinamize")), DirectDriver()
        (request,) = replay(adapter.tell([self.contract.instruction()])).sent
        assert {driver._send(adapter, request).json()["code_detail"] for _ in range(2)} == {"Success", "Sucesso"}

    def test_a_token_dies_idle(self, sandbox: SandboxHandle) -> None:
        """A session that was idle for too long is refused."""
        sandbox.settings("dinamize", token_idle_seconds=0.0)
        told = self.contract.tell(DirectDriver(), self.contract.adapter(sandbox.url("dinamize"), credentials=LOGIN), self.contract.instruction())
        assert told == [result(Outcome.MISCONFIGURED, "token_refused")]
        assert sandbox.states("dinamize") == {}

    def test_refuses_fields_it_cannot_read(self, sandbox: SandboxHandle) -> None:
        """A date in another form is refused, and nothing is kept."""
        adapter, driver = self.contract.adapter(sandbox.url("dinamize")), DirectDriver()
        (request,) = replay(adapter.tell([self.contract.instruction(options={"date_rest_given": "01/01/2099"})])).sent
        assert driver._send(adapter, request).json()["code"] == "240199"
        assert sandbox.states("dinamize") == {}
