"""The examples of the vendors' own pages against what really goes over the wire, through each driver.

Where a page shows a body and ours is written the same way, the bytes are compared; where ours says more, or the same in another order, the values are,
and the test says why. People are invented; the pages' own keys, codes and addresses stand as they are there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
import pytest

from pipeline.domain import Instruction, Outcome, Standing, State, Subject, VendorResult
from pipeline.vendors import adapter_class
from pipeline.vendors.base import Adapter, Notification, SourceSettings
from tests.unit.exchange_servers import Server
from tests.vendors.drivers import DRIVERS, make_driver, results_of

SAID_AT = datetime(2026, 1, 5, 16, tzinfo=UTC)
ANA = Subject(email="ana@example.org", external_id="S-42")
MD5 = hashlib.md5(b"ana@example.org").hexdigest()
SHA256 = hashlib.sha256(b"ana@example.org").hexdigest()
JSON = "application/json"


@dataclass
class Wired:
    """One request as it arrived: its first line without the protocol, its headers in lower case, and its body."""

    line: str
    headers: dict[str, str] = field(repr=False)
    body: bytes

    @classmethod
    def read(cls, raw: bytes) -> Wired:
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return cls(first.removesuffix(" HTTP/1.1"), headers, body)

    def json(self) -> Any:
        return orjson.loads(self.body)


Told = tuple[list[Wired], list[VendorResult]]


@dataclass
class Wire:
    """Runs a dialogue of one vendor through a driver against a server that gives the answers of the page, and shows what arrived."""

    driver: Any

    def adapter(self, vendor: str, port: int, version: str, credentials: dict[str, str], options: dict[str, Any]) -> Adapter:
        return adapter_class(vendor)(base_url=f"http://127.0.0.1:{port}{version}", credentials=credentials, options=options)

    def run(
        self, vendor: str, answers: Sequence[bytes], act: Callable[[Adapter], Any], *, version: str = "", size: int = 1, **settings: Any
    ) -> tuple[list[Wired], Any]:
        waiting = iter(answers)
        with Server(lambda _: next(waiting)) as server:
            adapter = self.adapter(vendor, server.port, version, settings["credentials"], settings.get("options", {}))
            ended = self.driver.drive(adapter, act(adapter), size)
            assert list(waiting) == []
            return [Wired.read(raw) for raw in server.received.requests], ended

    def tell(self, vendor: str, answers: Sequence[bytes], *instructions: Instruction, **settings: Any) -> Told:
        sent, ended = self.run(vendor, answers, lambda adapter: adapter.tell(instructions), size=len(instructions), **settings)
        return sent, results_of(ended)


@pytest.fixture(params=DRIVERS)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    driver = make_driver(request.param)
    yield Wire(driver)
    driver.close()


def said(state: State, subject: Subject = ANA, *, number: int = 1, **changed: Any) -> Instruction:
    fixed = {"delivery_id": f"event{number}.main", "event_id": f"event{number}", "purpose": "newsletter", "event_time": SAID_AT}
    return Instruction(**{"subject": subject, "state": state, **fixed, **changed})


def reply(body: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()


def one_line(example: str) -> bytes:
    """An example that the page breaks for reading, as the one line that it stands for."""
    return "".join(line.strip() for line in example.splitlines()).encode()


class TestDinamize:
    """Privacy Tools' page on Dinamize, and the transcription of Dinamize's own."""

    token: ClassVar[dict[str, Any]] = {"credentials": {"token": "T"}, "options": {"list_code": "1"}}
    done = reply('{"code":"480001","code_detail":"Sucesso","body":{"code":"123456"},"request_unique":"abc","warning":[]}')

    @pytest.mark.parametrize("state, rest", [(State.WITHDRAWN, "2099-01-01"), (State.GIVEN, "2000-01-01")])
    def test_the_upsert(self, wire: Wire, state: State, rest: str) -> None:
        """Byte for byte: a withdrawal rests until 1 January 2099; a consent clears it by a past date, which is assumed."""
        (request,), results = wire.tell("dinamize", [self.done], said(state, profile={"name": "Ana"}), **self.token)
        assert request.line == "POST /emkt/contact/upsert"
        assert (request.headers["auth-token"], request.headers["content-type"]) == ("T", "application/json; charset=utf-8")
        example = '{"contact-list_code":"1","email":"ana@example.org","name":"Ana","external_code":"S-42","date_rest":"2099-01-01"}'
        assert request.body == example.replace("2099-01-01", rest).encode()
        assert results == [VendorResult(outcome=Outcome.APPLIED, vendor_reference="123456")]

    def test_the_limit(self, wire: Wire) -> None:
        """The page's refusal comes with 200 and its wait as a text in the body."""
        busy = reply('{"code":"240024","code_detail":"Requests limit exceeded","body":{"retry-after":"17"},"request_unique":"def","warning":[]}')
        _, results = wire.tell("dinamize", [busy], said(State.WITHDRAWN), **self.token)
        assert results == [VendorResult(outcome=Outcome.THROTTLED, reason="over_limit", retry_after_seconds=17.0)]

    def test_the_search(self, wire: Wire) -> None:
        """Byte for byte: a contact found under REST_ONLY rests."""
        found = reply('{"code":"480001","code_detail":"Success","body":{"items":[{"code":"123456","email":"ana@example.org"}],"next":false}}')
        (request,), held = wire.run("dinamize", [found], lambda adapter: adapter.ask(ANA, {}), **self.token)
        assert (request.line, request.headers["auth-token"]) == ("POST /emkt/contact/search", "T")
        assert request.body == one_line("""
            {"contact-list_code":"1","page_number":"1","page_size":"10","status_contact":"REST_ONLY",
            "search":[{"field":"email","operator":"=","value":"ana@example.org"}]}""")
        assert held.state is State.WITHDRAWN

    def test_the_login(self, wire: Wire) -> None:
        """Byte for byte: the session comes from POST /auth, and goes in the header `auth-token`."""
        login = {"user": "test-user", "password": "test-password", "client_code": "1000"}
        answers = [reply('{"code":"480001","body":{"auth-token":"S"}}'), self.done]
        (first, second), _ = wire.tell("dinamize", answers, said(State.WITHDRAWN), credentials=login, options={"list_code": "1"})
        assert (first.line, first.body) == ("POST /auth", b'{"user":"test-user","password":"test-password","client_code":"1000"}')
        assert (second.line, second.headers["auth-token"]) == ("POST /emkt/contact/upsert", "S")


class TestMailchimp:
    """Mailchimp's own reference."""

    account: ClassVar[dict[str, Any]] = {"version": "/3.0", "credentials": {"api_key": "KEY-us7"}}

    def signed(self, request: Wired) -> bool:
        """Basic with any user name and the key as password."""
        scheme, _, login = request.headers["authorization"].partition(" ")
        return (scheme, base64.b64decode(login).partition(b":")[2]) == ("Basic", b"KEY-us7")

    def test_the_put(self, wire: Wire) -> None:
        """The values of the example, in another order. The query is ours: without it a list with required merge fields refuses the member."""
        answer = reply(f'{{"id":"{MD5}","email_address":"ana@example.org","status":"subscribed","last_changed":"2026-01-05T16:00:01+00:00"}}')
        options = {"list_id": "L1", "marketing_permission_id": "mp1"}
        (request,), results = wire.tell("mailchimp", [answer], said(State.GIVEN), options=options, **self.account)
        assert request.line == f"PUT /3.0/lists/L1/members/{MD5}?skip_merge_validation=true"
        assert (self.signed(request), request.headers["content-type"]) == (True, JSON)
        example = """
            {"email_address":"ana@example.org","status_if_new":"subscribed","status":"subscribed",
            "marketing_permissions":[{"marketing_permission_id":"mp1","enabled":true}],"timestamp_opt":"2026-01-05T16:00:00+00:00"}"""
        assert request.json() == orjson.loads(one_line(example))
        assert results == [VendorResult(outcome=Outcome.APPLIED)]

    @pytest.mark.parametrize(
        "answer, expected",
        [
            (
                reply('{"type":"t","title":"Member In Compliance State","status":400,"detail":"d","instance":"i"}', "400 Bad Request"),
                VendorResult(outcome=Outcome.REJECTED, reason="compliance_state"),
            ),
            (reply('{"type":"t","title":"Too Many Requests","status":429}', "429 X"), VendorResult(outcome=Outcome.THROTTLED, reason="http_429")),
            (reply("", "403 Forbidden"), VendorResult(outcome=Outcome.THROTTLED, reason="bare_403")),
        ],
    )
    def test_the_refusals(self, wire: Wire, answer: bytes, expected: VendorResult) -> None:
        """A compliance state is for good; too many calls come as 429 or as a bare 403."""
        assert wire.tell("mailchimp", [answer], said(State.GIVEN), options={"list_id": "L1"}, **self.account)[1] == [expected]

    def test_the_bulk_call(self, wire: Wire) -> None:
        """The values of the example; of a consent ours also says when it was given. The answer is 200 although one member failed."""
        answer = reply(
            '{"new_members":[],"updated_members":[{"email_address":"ana@example.org","status":"unsubscribed"}],'
            '"errors":[{"email_address":"bad","error":"x","error_code":"ERROR_GENERIC"}],"total_created":0,"total_updated":1,"error_count":1}'
        )
        told = [said(State.WITHDRAWN), said(State.GIVEN, Subject(email="bad"), number=2)]
        (request,), results = wire.tell("mailchimp", [answer], *told, options={"list_id": "L1"}, **self.account)
        assert request.line == "POST /3.0/lists/L1?skip_merge_validation=true"
        assert (self.signed(request), request.headers["content-type"]) == (True, JSON)
        example = (
            '{"members":[{"email_address":"ana@example.org","status":"unsubscribed"},{"email_address":"bad","status":"subscribed"}],"update_existing":true}'
        )
        expected = orjson.loads(example)
        expected["members"][1]["timestamp_opt"] = "2026-01-05T16:00:00+00:00"
        assert request.json() == expected
        assert [(one.outcome, one.reason) for one in results] == [(Outcome.APPLIED, ""), (Outcome.REJECTED, "member_refused")]

    @pytest.mark.parametrize("state, status", [(State.WITHDRAWN, "inactive"), (State.GIVEN, "active")])
    def test_the_tag_of_privacy_tools_recipe(self, wire: Wire, state: State, status: str) -> None:
        """Byte for byte: a tag by the hash of the address; before a consent ours looks at the member."""
        member = reply('{"status":"subscribed","tags":[],"tags_count":0}')
        answers = [*([member] if state is State.GIVEN else []), b"HTTP/1.1 204 No Content\r\n\r\n"]
        sent, results = wire.tell("mailchimp", answers, said(state), options={"list_id": "L1", "tag": "newsletter"}, **self.account)
        assert [one.line for one in sent[:-1]] == [f"GET /3.0/lists/L1/members/{MD5}"] * (state is State.GIVEN)
        assert sent[-1].line == f"POST /3.0/lists/L1/members/{MD5}/tags"
        assert self.signed(sent[-1])
        assert sent[-1].body == f'{{"tags":[{{"name":"newsletter","status":"{status}"}}],"is_syncing":false}}'.encode()
        assert results == [VendorResult(outcome=Outcome.APPLIED)]


class TestPrivacyTools:
    """Privacy Tools' page on the consent import by phone."""

    def test_the_token_and_the_import_by_phone(self, wire: Wire) -> None:
        """The token call as it stands. The import says the same instant in UTC, and the flags that the example leaves out are written as off."""
        example = """
            {"consentDate":"2026-01-05T13:00:00.000-0300","consentValue":false,"name":"Ana","phone":"(51) 90000-0000",
            "templateHash":"<purpose hash>","updateUserData":true,"sendSMS":false,"userIp":"192.0.2.10"}"""
        token = reply('{"access_token":"tok","token_type":"bearer","refresh_token":"r","expires_in":33476,"scope":"password"}')
        credentials = {"public_key": "PUBKEY", "secret": "SECRET", "client_id": "client-id", "client_secret": "client-secret"}
        options = {"template_hash": "<purpose hash>", "update_user_data": True}
        told = said(State.WITHDRAWN, Subject(phone="+5551900000000"), profile={"name": "Ana"}, evidence={"ip": "192.0.2.10"})
        answers = [token, reply('{"success":true}')]
        (first, second), results = wire.tell("privacy_tools", answers, told, version="/external_api_v2", credentials=credentials, options=options)
        assert first.line == "POST /external_api_v2/oauth/token?username=PUBKEY&password=SECRET&grant_type=password"
        assert first.headers["authorization"] == "Basic " + base64.b64encode(b"client-id:client-secret").decode()
        assert first.body == b""
        assert second.line == "POST /external_api_v2/consent/import/phone"
        assert (second.headers["authorization"], second.headers["content-type"]) == ("bearer tok", JSON)
        expected, body = orjson.loads(one_line(example)), second.json()
        dates = [datetime.strptime(each.pop("consentDate"), "%Y-%m-%dT%H:%M:%S.%f%z") for each in (expected, body)]
        assert dates == [SAID_AT, SAID_AT]
        assert body == {**expected, "sendEmailPortal": False, "sendEmailPortalResetPassword": False}
        assert results == [VendorResult(outcome=Outcome.APPLIED)]


class TestRetargetly:
    """Retargetly's page on dynamic CRM lists."""

    done = reply('{"response":{"msg":"Successful upload.","code":"SUCCESS"}}')

    def told(self, wire: Wire, subject: Subject, **options: Any) -> Wired:
        (request,), results = wire.tell("retargetly", [self.done], said(State.GIVEN, subject), credentials={"public_key": "PK"}, options=options)
        assert (request.line, request.headers["content-type"]) == ("POST /crm?publickey=PK", JSON)
        assert results == [VendorResult(outcome=Outcome.APPLIED)]
        return request

    def test_the_array(self, wire: Wire) -> None:
        """Byte for byte: an array with one person by the SHA-256 of the address."""
        request = self.told(wire, Subject(email="ana@example.org", country="BR"), segment_ids=[13600])
        example = '[{"hashes":{"ml_sh2":"<sha256 hex of lower-cased e-mail>"},"country":"BR","segmentIds":[13600]}]'
        assert request.body == example.replace("<sha256 hex of lower-cased e-mail>", SHA256).encode()

    def test_what_is_hashed(self, wire: Wire) -> None:
        """The page's own phone, country and area code and number, and an address and an id as they are before they are hashed."""
        person = Subject(email="Ana@Example.org", phone="+541151190123", national_id="12345678")
        request = self.told(wire, person, segment_ids=[1], hashes=["ml_raw", "nid_raw", "mb_raw"])
        assert request.json() == [{"hashes": {"ml_raw": "ana@example.org", "nid_raw": "12345678", "mb_raw": "541151190123"}, "segmentIds": [1]}]


class TestContacthub:
    """Contacthub's specification, and what the vendor's plugins do."""

    hub: ClassVar[dict[str, Any]] = {
        "version": "/hub/v1",
        "credentials": {"token": "T"},
        "options": {"workspace_id": "W", "node_id": "N", "subscription_id": "newsletter", "mark_writes": False},
    }

    def test_the_create(self, wire: Wire) -> None:
        """The values of the example; ours has the subscription in it, so that a withdrawal holds from the customer's first moment."""
        entry = '{"id":"newsletter","kind":"DIGITAL_MESSAGE","subscribed":true,"startDate":"2026-01-05T16:00:00.000+0000","endDate":null}'
        answer = reply(f'{{"id":"c1","nodeId":"N","externalId":"S-42","base":{{"subscriptions":[{entry}]}}}}', "201 Created")
        (request,), results = wire.tell("contacthub", [answer], said(State.GIVEN), **self.hub)
        assert request.line == "POST /hub/v1/workspaces/W/customers"
        assert (request.headers["authorization"], request.headers["content-type"].split(";")[0]) == ("Bearer T", JSON)
        body = request.json()
        assert body["base"].pop("subscriptions") == [orjson.loads(entry)]
        assert body == orjson.loads('{"nodeId":"N","externalId":"S-42","base":{"contacts":{"email":"ana@example.org"}}}')
        assert results == [VendorResult(outcome=Outcome.APPLIED, vendor_reference="c1")]

    def test_the_conflict_and_the_subscription(self, wire: Wire) -> None:
        """A customer who is there is looked at and his subscription put: the values of the example, in another order."""
        href = "https://api.contactlab.it/hub/v1/workspaces/W/customers/c1"
        conflict = f'{{"message":"Conflict with exiting customer c1","logref":"r","data":{{"customer":{{"id":"c1","href":"{href}"}}}},"errors":[]}}'
        customer = '{"id":"c1","nodeId":"N","externalId":"S-42","base":{"contacts":{"email":"ana@example.org"}}}'
        example = '{"id":"newsletter","kind":"DIGITAL_MESSAGE","subscribed":false,"startDate":null,"endDate":"2026-01-05T16:00:00.000+0000"}'
        answers = [reply(conflict, "409 Conflict"), reply(customer), reply(example)]
        (_, looked, put), results = wire.tell("contacthub", answers, said(State.WITHDRAWN), **self.hub)
        assert [looked.line, put.line] == [
            "GET /hub/v1/workspaces/W/customers/c1",
            "PUT /hub/v1/workspaces/W/customers/c1/subscriptions/newsletter",
        ]
        assert put.json() == orjson.loads(example)
        assert results == [VendorResult(outcome=Outcome.APPLIED, vendor_reference="c1")]

    def test_the_reindexing(self, wire: Wire) -> None:
        """423 comes back later."""
        _, results = wire.tell("contacthub", [reply("", "423 Locked")], said(State.WITHDRAWN), **self.hub)
        assert results == [VendorResult(outcome=Outcome.UNAVAILABLE, reason="http_423")]


class TestMaileon:
    """Maileon's pages, and cmxOrganize's on what it sends there."""

    account: ClassVar[dict[str, Any]] = {"version": "/1.0", "credentials": {"api_key": "test-maileon-key"}}
    nobody = reply("<error><message>No such contact</message></error>", "404 Not Found")
    created = reply("<contact_id>7</contact_id>", "201 Created")
    path = "/1.0/contacts/email/ana%40example.org"
    tracking: ClassVar[dict[str, Any]] = {"doi_mailing": "KEY", "tracking_purpose": "tracking"}
    subscribed = (Standing(purpose="newsletter", state=State.GIVEN),)
    """The newsletter box, which comes with the tracking box: nobody is asked for tracking alone."""

    @pytest.mark.parametrize(
        "purpose, query",
        [
            ("tracking", "permission=1&sync_mode=1&doi=true&doiplus=true&doimailing=KEY&src=cmx"),
            ("newsletter", "permission=1&sync_mode=1&doi=true&doimailing=KEY&src=cmx"),
        ],
    )
    def test_the_double_opt_in(self, wire: Wire, purpose: str, query: str) -> None:
        """Byte for byte after the XML declaration; with the tracking box `doiplus`. Ours looks first, because each such call mails the person."""
        options = self.tracking if purpose == "tracking" else {"doi_mailing": "KEY"}
        told = said(State.GIVEN, purpose=purpose, profile={"first_name": "Ana"}, evidence={"form": "cmx"}, standings=self.subscribed)
        (looked, request), results = wire.tell("maileon", [self.nobody, self.created], told, options=options, **self.account)
        assert [looked.line, request.line] == [f"GET {self.path}", f"POST {self.path}?{query}"]
        assert request.headers["authorization"] == "Basic " + base64.b64encode(b"test-maileon-key").decode()
        assert request.headers["content-type"] == "application/vnd.maileon.api+xml; charset=utf-8"
        example = (
            b"<contact><external_id>S-42</external_id><standard_fields><field><name>FIRSTNAME</name><value>Ana</value></field>"
            # A full name made of what is known, which the example does not have.
            b"<field><name>FULLNAME</name><value>Ana</value></field></standard_fields></contact>"
        )
        assert request.body == b"<?xml version='1.0' encoding='utf-8'?>\n" + example
        assert results == [VendorResult(outcome=Outcome.PENDING_CONFIRMATION, vendor_reference="7")]

    def test_the_unsubscription(self, wire: Wire) -> None:
        """The call of the example, and then the marker, since an unsubscription is only accepted and carried out later."""
        answers = [reply("", "202 Accepted"), reply("", "201 Created")]
        (request, marker), results = wire.tell("maileon", answers, said(State.WITHDRAWN), **self.account)
        assert [request.line, marker.line] == [f"DELETE {self.path}/unsubscribe", f"PUT {self.path}/unsubscription"]
        assert request.headers["authorization"] == "Basic " + base64.b64encode(b"test-maileon-key").decode()
        assert request.body == b""
        assert results == [VendorResult(outcome=Outcome.APPLIED)]

    def test_a_registration_of_cmxorganize(self, wire: Wire) -> None:
        """The fields of the page arrive: names, the purchase's value as a custom field, the address in the path, the tracking box as `doiplus`.

        Maileon has one TITLE: the job title stands there, and the name prefix only where there is none.
        """
        registration = {
            "salutation": "Frau",
            "job_title": "Placeholder",
            "name_prefix": "Dr.",
            "last_name": "Beispiel",
            "first_name": "Ana",
            "email": "ana@example.org",
            "purchase_auto_value": "K-0042",
            "single_user_tracking": True,
            "newsletter": True,
        }
        source = SourceSettings(name="cmx", kind="cmxorganize", purposes={"newsletter": "newsletter", "single_user_tracking": "tracking"})
        posted = Notification(body=orjson.dumps(registration), media_type=JSON, received_at=SAID_AT)
        heard = adapter_class("cmxorganize").hear(posted, source)[0]
        told = said(heard.state, heard.subject, purpose=heard.purpose, profile=heard.profile, metadata=heard.metadata, standings=self.subscribed)
        options = {**self.tracking, "custom_fields": ["purchase_auto_value"]}
        (_, request), _ = wire.tell("maileon", [self.nobody, self.created], told, options=options, **self.account)
        assert "doiplus=true" in request.line
        fields = {"SALUTATION": "Frau", "TITLE": "Placeholder", "FIRSTNAME": "Ana", "LASTNAME": "Beispiel", "FULLNAME": "Ana Beispiel"}
        standard = "".join(f"<field><name>{name}</name><value>{value}</value></field>" for name, value in fields.items())
        custom = "<field><name>purchase_auto_value</name><value>K-0042</value></field>"
        body = f"<contact><standard_fields>{standard}</standard_fields><custom_fields>{custom}</custom_fields></contact>"
        assert request.body.partition(b"\n")[2] == body.encode()
