"""The Contactsend vendor: the contract, what is sent, what answers and faults mean, looking through the database, and its sandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import pytest

from pipeline.domain import IDENTIFIER_KINDS, IncomingEvent, Outcome, Polled, Sighting, State, Subject, VendorResult
from pipeline.errors import InvalidInput
from pipeline.vendors import _contactsend_soap as soap
from pipeline.vendors import contacthub
from pipeline.vendors.base import Adapter, Held, Notification, SourceSettings, VendorRequest, VendorResponse
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.vendors.contract import PERSON, UNREADABLE, VendorContract, result
from tests.vendors.drivers import DirectDriver, Replayed, make_driver, replay

SERVICE = "http://ws.api.contactlab.com/"
SOAP = "http://www.w3.org/2003/05/soap-envelope"
SCHEMA = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xs="http://www.w3.org/2001/XMLSchema"'
MODIFY = "modifySubscriberSubscriptionStatus"
CODE = "230004001355"
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
SOURCE = SourceSettings(name="send", kind="contactsend", purposes={"__cls1": "newsletter"}, country="IT", time_zone="Europe/Rome")
ONLY_ADDRESS = Subject(email="ana@example.org")


def envelope(content: str, status: int = 200) -> VendorResponse:
    text = f'<?xml version="1.0"?><S:Envelope xmlns:S="{SOAP}"><S:Header/><S:Body>{content}</S:Body></S:Envelope>'
    return VendorResponse(status=status, body=text.encode("utf-8", "surrogatepass"))


def answer(operation: str, returned: str = "", status: int = 200) -> VendorResponse:
    return envelope(f'<n:{operation}Response xmlns:n="{SERVICE}" {SCHEMA}>{returned}</n:{operation}Response>', status)


def person(identifier: object = 77, **attributes: object) -> str:
    """The inside of a subscriber, each value with the type that it has at Contactsend."""
    known = {"EMAIL": "ana@example.org", "CRM_ID": "person-4711", "__cls1": 1, **attributes}
    entries = [
        f'<attributes><key>{key}</key><value xsi:type="xs:{"int" if isinstance(value, int) else "string"}">{value}</value></attributes>'
        for key, value in known.items()
        if value is not None
    ]
    return f"<identifier>{identifier}</identifier>{''.join(entries)}"


def found(*persons: str, page: int = 1, last: int | None = 1, operation: str = "findSubscribers") -> VendorResponse:
    items = "".join(f"<currentPageItems>{one}</currentPageItems>" for one in persons)
    end = f"<maxPageNumber>{last}</maxPageNumber>" if last is not None else ""
    return answer(operation, f"<return><currentPageNumber>{page}</currentPageNumber>{end}{items}</return>")


def fault(code: str, text: str = "", *, detail: str = "", status: int = 500) -> VendorResponse:
    reason = f'<S:Reason><S:Text xml:lang="en">{text}</S:Text></S:Reason>'
    return envelope(f"<S:Fault><S:Code><S:Value>S:{code}</S:Value></S:Code>{reason}<S:Detail>{detail}</S:Detail></S:Fault>", status)


def sent_texts(request: VendorRequest) -> dict[str, str]:
    """The texts of a message by the way to them; of attributes the key stands for the way."""
    call = ET.fromstring(request.body)[0][0]
    assert call.tag == f"{{{SERVICE}}}{request.operation}"
    texts = {}
    for element in call.iter():
        if element.find("key") is not None:
            texts[f"{element.tag} {element.findtext('key')}"] = element.findtext("value") or ""
        elif element.text and element.tag not in ("key", "value"):
            texts[element.tag] = element.text
    return texts


SET = answer(MODIFY)
NOBODY = found(last=0)


class TestContactsend(VendorContract):
    vendor = "contactsend"
    credentials: ClassVar = {"api_key": "test-contactsend-api-key", "user_key": "test-contactsend-user-key"}
    options: ClassVar = {
        "source_id": 6,
        "webform_code": CODE,
        "registration_field": "__cls1",
        "fields": {"email": "EMAIL", "external_id": "CRM_ID", "first_name": "NOME", "last_name": "COGNOME"},
    }
    not_options: ClassVar = {
        "source_id": 0,
        "webform_code": "newsletter",
        "fields": {"phone": "CELLULARE"},
        "changed_at_fields": {"__cls1": ""},
        "page_size": 1001,
        "locked_faults": [""],
    }
    deviations: ClassVar = {"404": result(Outcome.MISCONFIGURED, "http_404")}

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        state = sandbox.state("contactsend")
        for number, one in state["subscribers"].items():
            if subject.email in {None, one["EMAIL"]} and (subject.email or one["CRM_ID"] == subject.external_id):
                return next((held["state"] for held in state["contacts"].values() if held["identifier"] == int(number)), None)
        return None

    def expire(self, sandbox: SandboxHandle, *, forever: bool, driver: Any, adapter: Adapter) -> None:
        self.tell(driver, adapter, self.instruction())
        sandbox.settings("contactsend", idle_seconds=0.0 if forever else 1200.0)
        if not forever:
            sandbox.reset("contactsend")

    @pytest.mark.parametrize("kind", IDENTIFIER_KINDS)
    def test_declared_identifiers_are_true(self, sandbox: SandboxHandle, driver: Any, kind: str) -> None:
        """One declared identifier is enough; by external id only who is there can be found."""
        if kind == "external_id":
            sandbox.place("contactsend", attributes={"EMAIL": "ana@example.net", "CRM_ID": PERSON.external_id, "__cls1": 1})
        super().test_declared_identifiers_are_true(sandbox, driver, kind)


class TestTell:
    """Instruction and answers to messages and result."""

    contract = TestContactsend()

    def tell(self, *answers: VendorResponse, state: State = State.WITHDRAWN, settings: Mapping[str, Any] | None = None, **changed: Any) -> Replayed:
        adapter = self.contract.adapter(options={**self.contract.options, **(settings or {})})
        return replay(adapter.tell([self.contract.instruction(state, **{"subject": ONLY_ADDRESS, **changed})]), *answers)

    def test_finds_and_sets(self) -> None:
        """A withdrawal finds the subscriber by his address and sets the status by the webform code."""
        told = self.tell(found(person()), SET)
        assert told.operations == ["findSubscribers", MODIFY]
        assert sent_texts(told.sent[0]) == {
            "sourceIdentifier": "6",
            "attribute EMAIL": "ana@example.org",
            "pageNumber": "1",
            "matchingMode": "EQUALS",
            "sortingMode": "ASCENDING",
        }
        assert sent_texts(told.sent[1]) == {"webFormCode": CODE, "subscriberIdentifier": "77", "isSubscribed": "false"}
        assert list(told.result) == [VendorResult(outcome=Outcome.APPLIED, vendor_reference="77")]

    def test_speaks_soap_1_2(self) -> None:
        """Every message is a post of one envelope with the media type of SOAP 1.2; a value carries its type."""
        (request,) = self.tell().sent
        assert (request.method, request.path, request.query) == ("POST", "", ())
        assert dict(request.headers)["content-type"] == 'application/soap+xml; charset=utf-8; action=""'
        assert ET.fromstring(request.body).tag == f"{{{SOAP}}}Envelope"
        assert b'xmlns:xs="http://www.w3.org/2001/XMLSchema"' in request.body
        assert b'xsi:type="xs:string">ana@example.org</value>' in request.body

    def test_per_purpose_options_hold(self) -> None:
        """A purpose may have a webform code and registration field of its own."""
        told = self.tell(found(person(__cls2=1)), SET, options={"webform_code": "230004001356", "registration_field": "__cls2"})
        assert sent_texts(told.sent[1])["webFormCode"] == "230004001356"
        adapter = self.contract.adapter()
        assert (adapter.place_of({}), adapter.place_of({"registration_field": "__CLS2"})) == ("6/__cls1", "6/__cls2")

    @pytest.mark.parametrize(
        "state, says",
        [(State.GIVEN, 1), (State.WITHDRAWN, -1), (State.GIVEN, "1.0"), (State.WITHDRAWN, "-1.00")],
    )
    def test_what_the_field_says_is_unchanged(self, state: State, says: object) -> None:
        """Nothing is written where the registration field says so already."""
        told = self.tell(found(person(__cls1=says)), state=state)
        assert (told.operations, list(told.result)) == (["findSubscribers"], [VendorResult(outcome=Outcome.UNCHANGED, vendor_reference="77")])

    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("says", [0, "", "yes", None, "nan"])
    def test_what_is_neither_is_told(self, state: State, says: object) -> None:
        """A pending double opt-in, and a field that is empty, unreadable or not there, is neither given nor withdrawn."""
        told = self.tell(found(person(__cls1=says)), SET, state=state)
        assert sent_texts(told.sent[1])["isSubscribed"] == ("true" if state is State.GIVEN else "false")
        assert told.result[0].outcome is Outcome.APPLIED

    def test_adds_who_consents(self) -> None:
        """Somebody unknown who consents is added with what the user database has attributes for, and then set."""
        told = self.tell(NOBODY, NOBODY, answer("addSubscriber", f"<return>{person(78, __cls1=0)}</return>"), SET, state=State.GIVEN, subject=PERSON)
        assert told.operations == ["findSubscribers", "findSubscribers", "addSubscriber", MODIFY]
        assert sent_texts(told.sent[2]) == {
            "sourceIdentifier": "6",
            "attributes EMAIL": "ana@example.org",
            "attributes CRM_ID": "person-4711",
            "attributes NOME": "Ana",
            "attributes COGNOME": "Placeholder",
        }
        assert sent_texts(told.sent[3]) == {"webFormCode": CODE, "subscriberIdentifier": "78", "isSubscribed": "true"}
        assert list(told.result) == [VendorResult(outcome=Outcome.APPLIED, vendor_reference="78")]

    def test_keeps_out_who_withdraws(self) -> None:
        """Somebody unknown who withdraws is added as unsubscribed, without his profile, in one step."""
        told = self.tell(NOBODY, answer("addSubscriber", f"<return>{person(78, __cls1=-1)}</return>"))
        assert sent_texts(told.sent[1]) == {"sourceIdentifier": "6", "attributes EMAIL": "ana@example.org", "attributes __cls1": "-1"}
        assert b'xsi:type="xs:int">-1</value>' in told.sent[1].body
        assert (told.operations, list(told.result)) == (["findSubscribers", "addSubscriber"], [VendorResult(outcome=Outcome.APPLIED, vendor_reference="78")])

    def test_sets_whom_adding_did_not(self) -> None:
        """Where the answer does not show the withdrawal, it is told as to anybody else."""
        told = self.tell(NOBODY, answer("addSubscriber", f"<return>{person(78, __cls1=0)}</return>"), SET)
        assert sent_texts(told.sent[2]) == {"webFormCode": CODE, "subscriberIdentifier": "78", "isSubscribed": "false"}

    @pytest.mark.parametrize("returned", ["", "<return/>", f"<return>{person(0)}</return>", f"<return>{person('x')}</return>"])
    def test_an_addition_must_show_its_number(self, returned: str) -> None:
        """Without the identifier of the new subscriber nothing is taken for done."""
        assert list(self.tell(NOBODY, answer("addSubscriber", returned)).result) == [UNREADABLE]

    @pytest.mark.parametrize(
        "state, expected",
        [(State.GIVEN, result(Outcome.NOT_APPLICABLE, "missing_identifier")), (State.WITHDRAWN, result(Outcome.UNCHANGED, "nobody_to_mail"))],
    )
    def test_adds_nobody_without_an_address(self, state: State, expected: VendorResult) -> None:
        """Who is unknown and named by an external id only cannot be mailed: there is nobody to add."""
        told = self.tell(NOBODY, state=state, subject=Subject(external_id="person-4711"))
        assert (told.operations, list(told.result)) == (["findSubscribers"], [expected])

    def test_a_withdrawal_reaches_all_with_one_address(self) -> None:
        """Every subscriber with the address or the external id who is not unsubscribed is set, each once and in order."""
        answers = [found(person(80, __cls1=0), person(79, __cls1=-1)), found(person(80), person(81, EMAIL="old@example.org")), SET, SET]
        told = self.tell(*answers, subject=PERSON)
        assert [sent_texts(one)["subscriberIdentifier"] for one in told.sent[2:]] == ["80", "81"]
        assert told.result[0].outcome is Outcome.APPLIED

    def test_a_consent_subscribes_one_of_several(self) -> None:
        """Of several subscribers one is set, and none if one is subscribed, so that nobody gets each mail twice."""
        told = self.tell(found(person(80, __cls1=-1), person(79, __cls1=0)), SET, state=State.GIVEN)
        assert [sent_texts(one)["subscriberIdentifier"] for one in told.sent[1:]] == ["79"]
        told = self.tell(found(person(79, __cls1=-1), person(80, __cls1=1)), state=State.GIVEN)
        assert list(told.result) == [VendorResult(outcome=Outcome.UNCHANGED, vendor_reference="80")]

    def test_a_consent_looks_no_further_than_needed(self) -> None:
        """Who is found by address is not looked for by external id."""
        assert self.tell(found(person(__cls1=0)), SET, state=State.GIVEN, subject=PERSON).operations == ["findSubscribers", MODIFY]

    def test_many_are_told_in_several_dialogues(self) -> None:
        """Five are set in one dialogue; it is then handed back, uncounted, and goes on with the next."""
        told = self.tell(found(*(person(number) for number in range(1, 8))), *[SET] * 5)
        assert (len(told.sent), list(told.result)) == (6, [result(Outcome.THROTTLED, "next_dialogue", retry_after=0.0)])
        told = self.tell(found(*(person(number, __cls1=-1 if number < 6 else 1) for number in range(1, 8))), SET, SET)
        assert told.result[0].outcome is Outcome.APPLIED

    def test_reads_further_pages(self) -> None:
        """A search of two pages is read to its end; without the number of the last page an empty one ends it."""
        told = self.tell(found(person(1), last=2), found(person(2), page=2, last=2), SET, SET)
        assert [sent_texts(one).get("pageNumber") for one in told.sent] == ["1", "2", None, None]
        assert self.tell(found(person(1), last=None), found(page=2, last=None), SET).result[0].outcome is Outcome.APPLIED

    def test_a_crowd_with_one_address_is_for_a_person_to_look_at(self) -> None:
        """More than two pages with one address are no person: rejected with an alert, and nobody is set."""
        told = self.tell(found(person(1), last=3), found(person(2), page=2, last=3))
        assert (told.operations, list(told.result)) == (["findSubscribers"] * 2, [result(Outcome.REJECTED, "too_many_subscribers")])

    def test_strangers_are_never_set(self) -> None:
        """Whoever does not carry the identifier is left alone, whatever the search takes for equal; the case of an address does not matter."""
        strangers = found(person(1, EMAIL="anna@example.org"), person(2, EMAIL="Ana@Example.org"))
        told = self.tell(strangers, found(person(3, CRM_ID="PERSON-4711")), SET, subject=PERSON)
        assert [sent_texts(one)["subscriberIdentifier"] for one in told.sent[2:]] == ["2"]

    def test_an_attribute_that_is_not_there_is_a_wrong_setting(self) -> None:
        """A search that shows people without the attribute did not understand it: nobody is set or added."""
        told = self.tell(found(person(EMAIL=None)))
        assert (told.operations, list(told.result)) == (["findSubscribers"], [result(Outcome.MISCONFIGURED, "attribute_not_found")])

    @pytest.mark.parametrize(
        "said",
        [
            envelope(""),
            answer("findSubscribers"),
            envelope(f'<modifySubscriberSubscriptionStatusResponse xmlns:n="{SERVICE}"/>'),
            VendorResponse(status=202),
            VendorResponse(status=200, body=answer(MODIFY).body[:-9]),
            VendorResponse(status=200, body=answer(MODIFY).body.replace(b"<S:Env", b"<!DOCTYPE x [<!ENTITY a 'b'>]><S:Env", 1)),
            VendorResponse(status=200, body=answer(MODIFY).body.replace(SOAP.encode(), b"http://example.org/")),
        ],
    )
    def test_only_the_response_element_is_success(self, said: VendorResponse) -> None:
        """The status returns nothing, so its response element, in a whole SOAP envelope without document type, must be there."""
        assert list(self.tell(found(person()), said).result) == [UNREADABLE]

    def test_an_answer_with_another_status_is_no_success(self) -> None:
        """A response element under an error status does not count."""
        assert list(self.tell(found(person()), answer(MODIFY, status=500)).result) == [result(Outcome.UNAVAILABLE, "http_500", definite=False)]

    def test_reads_answers_of_later_versions(self) -> None:
        """Elements that the service adds, types of its own and dates that are none do not hold up a withdrawal."""
        odd = '<attributes><key>NATO</key><value xsi:type="xs:date">0000-00-00</value></attributes>'
        odd += '<attributes><key>C</key><value xsi:type="m:Charset">x</value></attributes><attributes><key>N</key><value xsi:nil="true"/></attributes>'
        told = self.tell(found(person() + odd + "<added><more/></added>"), SET)
        assert told.result[0].outcome is Outcome.APPLIED

    def test_a_profile_stays_text(self) -> None:
        """Markup and characters that XML does not allow do no harm."""
        told = self.tell(NOBODY, state=State.GIVEN, profile={"first_name": "<b>&\x07ü"})
        assert sent_texts(told.sent[1])["attributes NOME"] == "<b>&ü"


class TestFaults:
    """What a SOAP fault means, by its words and by whose fault it says it is."""

    contract = TestContactsend()

    @pytest.mark.parametrize(
        "said, expected",
        [
            (fault("Receiver", "The userDB 6 is locked"), result(Outcome.UNAVAILABLE, "database_locked")),
            (fault("Sender", "subscriber source is readOnly", status=400), result(Outcome.UNAVAILABLE, "database_locked")),
            (fault("Receiver", "IP 192.0.2.9 not authorized"), result(Outcome.MISCONFIGURED, "address_not_authorised")),
            (fault("Receiver", detail="<x:IPNotAllowedException xmlns:x='u'/>"), result(Outcome.MISCONFIGURED, "address_not_authorised")),
            (fault("Receiver", detail="<x:InvalidTokenException xmlns:x='u'/>"), result(Outcome.MISCONFIGURED, "session_refused")),
            (fault("Sender", "Operation not authorized", status=400), result(Outcome.MISCONFIGURED, "not_authorised")),
            (fault("Sender", "ana@example.org is not an address", status=400), result(Outcome.REJECTED, "fault_sender")),
            (fault("Receiver", "ana@example.org"), result(Outcome.UNAVAILABLE, "fault_receiver", definite=False)),
            (fault("MustUnderstand"), result(Outcome.MISCONFIGURED, "fault_protocol")),
            (fault("Receiver", "The zip code is missing", status=200), result(Outcome.UNAVAILABLE, "fault_receiver", definite=False)),
        ],
    )
    @pytest.mark.parametrize("state", list(State))
    def test_faults_have_meanings(self, said: VendorResponse, expected: VendorResult, state: State) -> None:
        """A fault counts under whatever status, for a search, an addition and a change alike; whole words are compared."""
        adapter = self.contract.adapter()
        told = self.contract.instruction(state, ONLY_ADDRESS)
        says = 0 if state is State.GIVEN else 1
        for answers in ([said], [NOBODY, said], [found(person(__cls1=says)), said]):
            assert list(replay(adapter.tell([told]), *answers).result) == [expected]

    def test_soap_1_1_faults_are_read(self) -> None:
        """A server that refuses the version says so in the older envelope."""
        old = '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><e:Fault>'
        body = f"{old}<faultcode>e:VersionMismatch</faultcode><faultstring>no</faultstring></e:Fault></e:Body></e:Envelope>"
        told = replay(self.contract.adapter().tell([self.contract.instruction()]), VendorResponse(status=500, body=body.encode()))
        assert list(told.result) == [result(Outcome.MISCONFIGURED, "fault_protocol")]

    def test_the_words_are_options(self) -> None:
        """No word is documented, so each may be changed."""
        adapter = self.contract.adapter(options={**self.contract.options, "locked_faults": ["in manutenzione"], "signed_out_faults": ["sessione scaduta"]})
        told = replay(adapter.tell([self.contract.instruction()]), fault("Receiver", "Database in manutenzione"))
        assert list(told.result) == [result(Outcome.UNAVAILABLE, "database_locked")]
        assert adapter.is_signed_out(fault("Receiver", "SessioneScaduta"))
        assert not adapter.is_signed_out(fault("Receiver", "token"))

    def test_only_a_fault_ends_a_session(self) -> None:
        """A lock, an address, a page and an answer that talks of tokens do not."""
        adapter = self.contract.adapter()
        assert adapter.is_signed_out(fault("Sender", "Token expired", status=400))
        others = [
            fault("Receiver", "locked"),
            fault("Sender", "IP token"),
            found(person(EMAIL="token@example.org")),
            VendorResponse(status=401, body=b"Fault token"),
        ]
        assert not any(adapter.is_signed_out(one) for one in others)

    def test_no_fault_is_repeated(self) -> None:
        """A fault may quote a person: neither the result nor a repr shows its words."""
        said = fault("Receiver", "ana@example.org")
        told = replay(self.contract.adapter().tell([self.contract.instruction()]), said)
        assert "ana" not in repr([told.result, soap.read_fault(said), soap.read("findSubscribers", found(person()))])


class TestSignIn:
    """Borrowing a token."""

    contract = TestContactsend()

    def test_borrows_a_token(self) -> None:
        """The keys go into the envelope when it is signed, and the token into every other one."""
        adapter = self.contract.adapter()
        replayed = replay(adapter.sign_in(), answer("borrowToken", "<return><content>test-session</content></return>"))
        (request,) = replayed.sent
        assert sent_texts(request) == {}
        assert sent_texts(adapter.sign(request, None)) == {"apiKey": "test-contactsend-api-key", "userKey": "test-contactsend-user-key"}
        assert (replayed.result.token, replayed.result.refusal) == ("test-session", None)
        assert "test-session" not in repr(replayed.result)
        (search,) = replay(adapter.tell([self.contract.instruction()])).sent
        signed = adapter.sign(search, "test-<session>")
        assert sent_texts(signed) == {**sent_texts(search), "content": "test-<session>"}
        assert ET.fromstring(signed.body)[0][0][0].tag == "token"

    @pytest.mark.parametrize(
        "said, expected",
        [
            (fault("Sender", "Wrong apiKey"), result(Outcome.MISCONFIGURED, "sign_in_refused")),
            (fault("Receiver", "unauthorized"), result(Outcome.MISCONFIGURED, "sign_in_refused")),
            (fault("Sender", "The IP address is not authorized"), result(Outcome.MISCONFIGURED, "address_not_authorised")),
            (fault("Receiver", "out of memory"), result(Outcome.UNAVAILABLE, "fault_receiver", definite=False)),
            (answer("borrowToken"), UNREADABLE),
            (answer("borrowToken", "<return/>"), UNREADABLE),
            (VendorResponse(status=403), result(Outcome.MISCONFIGURED, "http_403")),
        ],
    )
    def test_a_refused_sign_in_says_why(self, said: VendorResponse, expected: VendorResult) -> None:
        """Without a token nothing goes on, and the reason is that of everything that waited."""
        ended = replay(self.contract.adapter().sign_in(), said).result
        assert (ended.token, ended.refusal) == (None, expected)


class TestAsk:
    """What Contactsend holds of somebody."""

    contract = TestContactsend()

    @pytest.mark.parametrize(
        "persons, expected",
        [
            ([], Held()),
            ([person(__cls1=1)], Held(state=State.GIVEN, vendor_reference="77")),
            ([person(__cls1=-1)], Held(state=State.WITHDRAWN, vendor_reference="77")),
            ([person(__cls1=0)], Held(vendor_reference="77")),
            ([person(7, __cls1=-1), person(8, __cls1=1)], Held(state=State.GIVEN, vendor_reference="8")),
            ([person(7, __cls1=0), person(8, __cls1=-1)], Held(state=State.WITHDRAWN, vendor_reference="8")),
            ([person(__cls1=None)], Held(readable=False)),
        ],
    )
    def test_the_registration_field_says_it(self, persons: list[str], expected: Held) -> None:
        """One subscription is enough for given; a field that is not there cannot be read."""
        assert replay(self.contract.adapter().ask(ONLY_ADDRESS, {}), found(*persons)).result == expected

    def test_without_an_identifier_nothing_is_asked(self) -> None:
        """Somebody who cannot be found is unreadable, and nothing was sent."""
        asked = replay(self.contract.adapter().ask(Subject(phone="+390000000000"), {}))
        assert (asked.sent, asked.result) == ([], Held(readable=False))


class TestPoll:
    """Looking through the user database page by page."""

    contract = TestContactsend()

    def poll(self, *answers: VendorResponse, position: str = "", source: SourceSettings = SOURCE, **settings: Any) -> Replayed:
        adapter = self.contract.adapter(options={**self.contract.options, **settings})
        return replay(adapter.poll(position, source, NOW), *answers)

    def page(self, *persons: str, page: int = 1, last: int | None = 1) -> VendorResponse:
        return found(*persons, page=page, last=last, operation="findSubscribersBy")

    def test_asks_for_no_more_than_it_needs(self) -> None:
        """A page in a fixed order with what names a person, the names that are mapped, and the fields of the source, not the whole record."""
        (request,) = self.poll().sent
        assert request.operation == "findSubscribersBy"
        assert sent_texts(request) == {
            "sourceIdentifier": "6",
            "useBaseFilter": "false",
            "selectedAttribute": "__cls1",
            "sortField": "EMAIL",
            "sortOrder": "ASC",
            "currentPage": "1",
            "pageSize": "100",
        }
        assert [one.text for one in ET.fromstring(request.body).iter("selectedAttribute")] == ["EMAIL", "CRM_ID", "NOME", "COGNOME", "__cls1"]
        assert b"sort" not in self.poll(sort_order="").sent[0].body

    def test_shows_states(self) -> None:
        """1 is a sighting of a consent, -1 of a withdrawal, 0 and anything else of nothing."""
        persons = [person(5, __cls1=1), person(6, EMAIL="Bia@example.org", CRM_ID="", __cls1=-1), person(7, __cls1=0), person(8, __cls1=None)]
        assert self.poll(self.page(*persons)).result == Polled(
            position="",
            events=[],
            sightings=[
                Sighting(
                    place="6/__cls1",
                    reference="5",
                    subject=Subject(email="ana@example.org", external_id="person-4711", country="IT"),
                    purpose="newsletter",
                    state=State.GIVEN,
                ),
                Sighting(place="6/__cls1", reference="6", subject=Subject(email="bia@example.org", country="IT"), purpose="newsletter", state=State.WITHDRAWN),
            ],
        )

    @pytest.mark.parametrize("dates", [{}, {"__cls1": "__cls1_at"}])
    def test_a_consent_brings_the_mapped_names(self, dates: dict[str, str]) -> None:
        """With a date or without; those that are empty or of no use are left out, and a withdrawal brings none."""
        at = {"__cls1_at": "2026-01-05 13:00:00"}
        persons = [person(5, NOME=" Ana ", COGNOME="", CELLULARE="x", **at), person(6, NOME="Bia", COGNOME="B" * 1_001, __cls1=-1, **at)]
        polled = self.poll(self.page(*persons), changed_at_fields=dates).result
        given, withdrawn = polled.events if dates else polled.sightings
        assert (given.profile, withdrawn.profile) == ({"first_name": "Ana"}, {})
        assert "Ana" not in repr(given)

    def test_every_field_of_the_source_is_a_purpose(self) -> None:
        """One page serves all purposes of a source."""
        source = SourceSettings(name="send", kind="contactsend", purposes={"__cls1": "newsletter", "__cls2": "marketing-sms"})
        polled = self.poll(self.page(person(__cls1=1, __cls2=-1)), source=source).result
        assert [(one.place, one.reference, one.purpose, one.state) for one in polled.sightings] == [
            ("6/__cls1", "77", "newsletter", State.GIVEN),
            ("6/__cls2", "77", "marketing-sms", State.WITHDRAWN),
        ]

    def test_goes_on_where_it_was(self) -> None:
        """The position is the next page; the last page ends the look and starts the next one at the beginning."""
        polled = self.poll(self.page(person(), last=2)).result
        assert (polled.position, polled.more) == ("2", True)
        second = self.poll(self.page(person(), page=2, last=2), position="2")
        assert sent_texts(second.sent[0])["currentPage"] == "2"
        assert (second.result.position, second.result.more) == ("", False)
        assert sent_texts(self.poll(position="soon").sent[0])["currentPage"] == "1"

    def test_without_a_last_page_an_empty_one_ends_it(self) -> None:
        """The number of the last page is optional."""
        polled = self.poll(self.page(person(), last=None)).result
        assert (polled.position, polled.more) == ("2", True)
        assert self.poll(self.page(page=2, last=None), position="2").result == Polled(position="", events=[], sightings=[])

    def test_a_date_makes_it_an_event(self) -> None:
        """With `changed_at_fields` a state is dated in the zone of the source; without a usable date it stays a sighting."""
        dates = ["2026-01-05 13:00:00", "2026-01-05T12:00:00+00:00", "2026-01-05", "0000-00-00 00:00:00", "2026-03-01 00:00:00", ""]
        persons = [person(number, __cls1=-1, __cls1_at=date) for number, date in enumerate(dates, 1)]
        replayed = self.poll(self.page(*persons), changed_at_fields={"__cls1": "__cls1_at"})
        assert [one.text for one in ET.fromstring(replayed.sent[0].body).iter("selectedAttribute")][-1] == "__cls1_at"
        subject = Subject(email="ana@example.org", external_id="person-4711", country="IT")
        event = IncomingEvent(
            subject=subject, purpose="newsletter", state=State.WITHDRAWN, event_time=datetime(2026, 1, 5, 12, tzinfo=UTC), profile_is_beside=True
        )
        assert replayed.result.events == [event, event]
        assert [one.reference for one in replayed.result.sightings] == ["3", "4", "5", "6"]

    def test_who_cannot_be_named_is_reported(self) -> None:
        """A state of somebody without a readable identifier is told by his place on the page, once, without values and without his number; the others are heard."""
        polled = self.poll(self.page(person("x"), person(4711, EMAIL="anywhere", CRM_ID=""), person(6))).result
        _, wrong = polled.events
        assert isinstance(wrong, InvalidInput)
        assert [error.path for error in wrong.errors] == ["currentPageItems.1"]
        assert not any(value in str(wrong) for value in ("anywhere", "4711"))
        assert [one.reference for one in polled.sightings] == ["6"]

    def test_one_subscriber_that_cannot_be_read_does_not_cost_the_others(self) -> None:
        """He is reported by his place on the page, and the look goes on; told is nobody on such a page, as he may be the person."""
        polled = self.poll(self.page(person("x"), person(6), last=None)).result
        (wrong,) = polled.events
        assert isinstance(wrong, InvalidInput)
        assert [error.path for error in wrong.errors] == ["currentPageItems.0"]
        assert ([one.reference for one in polled.sightings], polled.position) == (["6"], "2")
        assert self.poll(self.page(person("x"), last=None)).result.more is True
        told = replay(self.contract.adapter().tell([self.contract.instruction(State.WITHDRAWN)]), found(person("x")))
        assert ([request.operation for request in told.sent], told.result) == (["findSubscribers"], [UNREADABLE])

    @pytest.mark.parametrize("typed", ["&#x1;", "&#xD800;", "&#56320;", "&#x7FFFFF;", "\x0b", "\ud800", "\ufffe"])
    def test_what_xml_may_not_hold_does_not_cost_the_page(self, typed: str) -> None:
        """A control character or half a character in one record leaves the others readable; an identifier with it names nobody."""
        persons = [person(5, EMAIL=f"a{typed}@example.org", CRM_ID="S-5"), person(6, CRM_ID=f"S{typed}"), person(7, EMAIL="b&#x69;a@example.org", CRM_ID="")]
        polled = self.poll(self.page(*persons)).result
        assert [(one.subject.email, one.subject.external_id) for one in polled.sightings] == [
            (None, "S-5"),
            ("ana@example.org", None),
            ("bia@example.org", None),
        ]

    @pytest.mark.parametrize(
        "said, expected",
        [
            (fault("Receiver", "locked"), result(Outcome.UNAVAILABLE, "database_locked")),
            (VendorResponse(status=503), result(Outcome.UNAVAILABLE, "http_503")),
            (answer("findSubscribers"), UNREADABLE),
            (found(person(), operation="findSubscribersBy", last=None).__class__(status=200, body=b"<html/>"), UNREADABLE),
            (found(person(EMAIL="&#x1; &"), operation="findSubscribersBy"), UNREADABLE),
            (found(person(), operation="findSubscribersBy").__class__(status=200, body=b"<a>&#xD800;\xff</a>"), UNREADABLE),
        ],
    )
    def test_a_page_that_cannot_be_read_says_why(self, said: VendorResponse, expected: VendorResult) -> None:
        """Nothing is heard of a page in which anything cannot be read, so that no position passes it by."""
        assert self.poll(said).result == expected


class TestSandbox:
    """What the documentation says of Contactsend holds for its sandbox, and the relay lives with it."""

    contract = TestContactsend()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["contactsend"]) as handle:
            yield handle

    def tell(self, sandbox: SandboxHandle, state: State = State.WITHDRAWN, driver: Any = None, **changed: Any) -> VendorResult:
        adapter = self.contract.adapter(sandbox.url("contactsend"))
        (told,) = self.contract.tell(driver or DirectDriver(), adapter, self.contract.instruction(state, **{"subject": ONLY_ADDRESS, **changed}))
        return told

    def operations(self, sandbox: SandboxHandle) -> list[str]:
        return [call["operation"] for call in sandbox.state("contactsend")["calls"]]

    @pytest.mark.parametrize("name", ["direct", "curl", "requests"])
    def test_a_token_is_borrowed_once(self, sandbox: SandboxHandle, name: str) -> None:
        """One token serves every call until it was idle too long; then another one is borrowed, and the withdrawal told."""
        driver = make_driver(name)
        for state in (State.GIVEN, State.WITHDRAWN):
            assert self.tell(sandbox, state, driver).outcome is Outcome.APPLIED
        assert self.operations(sandbox) == ["borrowToken", "findSubscribers", "addSubscriber", MODIFY, "findSubscribers", MODIFY]
        sandbox.settings("contactsend", idle_seconds=0.2)
        time.sleep(0.25)
        assert self.tell(sandbox, State.GIVEN, driver).outcome is Outcome.APPLIED
        assert self.operations(sandbox)[6:] == ["findSubscribers", "borrowToken", "findSubscribers", MODIFY]
        driver.close()

    @pytest.mark.parametrize("setting", ["locked", "read_only"])
    def test_waits_for_a_locked_database(self, sandbox: SandboxHandle, setting: str) -> None:
        """While the database is locked or read-only nothing is written; afterwards the same withdrawal is."""
        sandbox.place("contactsend", attributes={"EMAIL": "ana@example.org", "__cls1": 1})
        sandbox.settings("contactsend", **{setting: True})
        assert self.tell(sandbox) == result(Outcome.UNAVAILABLE, "database_locked")
        assert sandbox.states("contactsend") == {f"ana@example.org/{CODE}": "given"}
        sandbox.settings("contactsend", **{setting: False})
        assert self.tell(sandbox).outcome is Outcome.APPLIED
        assert sandbox.states("contactsend") == {f"ana@example.org/{CODE}": "withdrawn"}

    def test_needs_an_authorised_address(self, sandbox: SandboxHandle) -> None:
        """From another address not even a token is lent: misconfigured with a reason of its own."""
        sandbox.settings("contactsend", caller_address="192.0.2.99")
        assert self.tell(sandbox) == result(Outcome.MISCONFIGURED, "address_not_authorised")
        assert self.operations(sandbox) == ["borrowToken"]

    @pytest.mark.parametrize(
        "changed, expected",
        [
            ({"api_key": "test-another"}, result(Outcome.MISCONFIGURED, "sign_in_refused")),
            ({"source_id": 7}, result(Outcome.REJECTED, "fault_sender")),
            ({"webforms": {}}, result(Outcome.REJECTED, "fault_sender")),
            ({"attributes": ["CRM_ID"]}, result(Outcome.REJECTED, "fault_sender")),
        ],
    )
    def test_refuses_as_documented(self, sandbox: SandboxHandle, changed: dict[str, Any], expected: VendorResult) -> None:
        """Wrong keys, another database, an unknown webform and an unknown attribute are refused, and nothing is changed."""
        sandbox.place("contactsend", attributes={"EMAIL": "ana@example.org", "__cls1": 1})
        sandbox.settings("contactsend", **changed)
        assert self.tell(sandbox) == expected
        assert sandbox.states("contactsend") == {f"ana@example.org/{CODE}": "given"}

    def test_speaks_only_soap_1_2(self, sandbox: SandboxHandle) -> None:
        """Another media type, another method and another version are refused."""
        adapter = self.contract.adapter(sandbox.url("contactsend"))
        (request,) = replay(adapter.sign_in()).sent
        send = DirectDriver()._send
        assert send(adapter, VendorRequest(operation="borrowToken", headers=(("content-type", "text/xml"),), body=request.body)).status == 415
        assert send(adapter, VendorRequest(operation="borrowToken", method="PUT", headers=request.headers, body=request.body)).status == 404
        body = request.body.replace(SOAP.encode(), b"http://schemas.xmlsoap.org/soap/envelope/")
        refused = send(adapter, VendorRequest(operation="borrowToken", headers=request.headers, body=body))
        assert (refused.status, soap.read_fault(refused)) == (500, soap.Fault("protocol", "soap version mismatch soap 1 2 is expected"))

    def call(self, sandbox: SandboxHandle, operation: str, inner: str, token: str = "") -> VendorResponse:
        """One operation as any other client of the service would send it."""
        session = f"<token><content>{token}</content></token>" if token else ""
        body = envelope(f'<n:{operation} xmlns:n="{SERVICE}">{session}{inner}</n:{operation}>').body
        request = VendorRequest(operation=operation, headers=(("content-type", "application/soap+xml"),), body=body)
        send: Any = DirectDriver()._send
        said: VendorResponse = send(SimpleNamespace(address=sandbox.url("contactsend"), sign=lambda request, _: request), request)
        return said

    def test_knows_what_else_a_client_may_ask(self, sandbox: SandboxHandle) -> None:
        """A lock can be asked for, a token kept alive and given back, and a search may be for a part; what is unknown is refused."""
        keys = "<apiKey>test-contactsend-api-key</apiKey><userKey>test-contactsend-user-key</userKey>"
        token = ET.fromstring(self.call(sandbox, "borrowToken", keys).body).findtext(".//content") or ""
        sandbox.place("contactsend", attributes={"EMAIL": "ana@example.org"})
        part = "<attribute><key>email</key><value>ANA%</value></attribute><lookupPrefs><matchingMode>LIKE</matchingMode></lookupPrefs>"
        database = "<sourceIdentifier>6</sourceIdentifier>"
        assert self.call(sandbox, "findSubscribers", database + part, token).body.count(b"<identifier>1</identifier>") == 1
        assert b"<return>false</return>" in self.call(sandbox, "isSubscriberSourceLocked", "<subscriberSourceId>6</subscriberSourceId>", token).body
        for operation, status in (("keepaliveToken", 200), ("removeEverything", 400), ("invalidateToken", 200), ("keepaliveToken", 400)):
            assert self.call(sandbox, operation, "", token).status == status

    def test_one_item_is_one_element(self, sandbox: SandboxHandle) -> None:
        """The XML of one item and of several differ in nothing but their number, which clients have turned into an object and a list."""
        adapter, driver = self.contract.adapter(sandbox.url("contactsend")), DirectDriver()
        for count in (1, 2):
            sandbox.place("contactsend", attributes={"EMAIL": "ana@example.org", "__cls1": 1}, another=True)
            driver.drive(adapter, adapter.ask(ONLY_ADDRESS, {}))
            (search,) = replay(adapter.ask(ONLY_ADDRESS, {})).sent
            shown = driver._send(adapter, search)
            assert shown.body.count(b"<currentPageItems>") == count
            read = soap.read("findSubscribers", shown)
            assert isinstance(read, soap.Answer)
            assert len(read.returned.currentPageItems) == count

    @pytest.mark.parametrize("name", ["direct", "curl", "requests"])
    def test_all_with_one_address_are_stopped(self, sandbox: SandboxHandle, name: str) -> None:
        """Twenty subscribers with one address, on two pages, are unsubscribed in four dialogues; each of them keeps within its calls."""
        driver = make_driver(name)
        for number in range(20):
            sandbox.place("contactsend", attributes={"EMAIL": "Ana@example.org", "CRM_ID": f"p{number}", "__cls1": 1}, another=True)
        told = [self.tell(sandbox, driver=driver) for _ in range(5)]
        assert [one.outcome for one in told] == [*[Outcome.THROTTLED] * 3, Outcome.APPLIED, Outcome.UNCHANGED]
        assert set(sandbox.states("contactsend").values()) == {"withdrawn"}
        assert len(self.operations(sandbox)) == 1 + 4 * (2 + 5) + 2
        driver.close()

    def test_a_form_that_waits_for_confirmation_is_stopped(self, sandbox: SandboxHandle) -> None:
        """Somebody who subscribed by a form and has not confirmed is told his withdrawal."""
        sandbox.place("contactsend", attributes={"EMAIL": "ana@example.org", "__cls1": 0})
        assert sandbox.states("contactsend") == {f"ana@example.org/{CODE}": "pending"}
        assert self.tell(sandbox).outcome is Outcome.APPLIED
        assert sandbox.states("contactsend") == {f"ana@example.org/{CODE}": "withdrawn"}

    @pytest.mark.parametrize("name", ["direct", "curl", "requests"])
    def test_a_look_through_the_database_sees_everybody(self, sandbox: SandboxHandle, name: str) -> None:
        """Five people on pages of two are seen in one look of three pages; a change is seen in the next one, also when the token has ended meanwhile."""
        driver = make_driver(name)
        for number in range(5):
            sandbox.place("contactsend", attributes={"EMAIL": f"p{number}@example.org", "__cls1": 1})
        assert self.look(sandbox, driver) == {f"p{number}@example.org": State.GIVEN for number in range(5)}
        sandbox.place("contactsend", attributes={"EMAIL": "p3@example.org", "__cls1": -1})
        sandbox.settings("contactsend", idle_seconds=0.2)
        time.sleep(0.25)
        assert self.look(sandbox, driver)["p3@example.org"] is State.WITHDRAWN
        driver.close()

    def test_a_look_says_what_a_tell_refers_to(self, sandbox: SandboxHandle) -> None:
        """What was told is known when it is seen: place and reference are those of the tell."""
        adapter, driver = self.contract.adapter(sandbox.url("contactsend")), DirectDriver()
        told = self.tell(sandbox)
        (seen,) = driver.drive(adapter, adapter.poll("", SOURCE, NOW), 0).sightings
        assert (seen.place, seen.reference, seen.state) == (adapter.place_of({}), told.vendor_reference, State.WITHDRAWN)

    def look(self, sandbox: SandboxHandle, driver: Any) -> dict[str | None, State]:
        adapter = self.contract.adapter(sandbox.url("contactsend"), options={**self.contract.options, "page_size": 2})
        position, seen = "", {}
        for pages in (1, 2, 3):
            polled = driver.drive(adapter, adapter.poll(position, SOURCE, NOW), 0)
            assert polled.more is (pages < 3)
            seen |= {one.subject.email: one.state for one in polled.sightings}
            position = polled.position
        assert position == ""
        return seen


class TestConnector:
    """The vendor's own synchronisation between the two sandboxes, as its connector does it."""

    send = TestContactsend()
    key = f"ana@example.org/{CODE}"

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["contacthub", "contactsend"]) as handle:
            handle.settings("contactsend", hub_pairs={"newsletter": CODE}, sync_delay_seconds=0.05)
            yield handle

    def wait_for(self, sandbox: SandboxHandle, vendor: str, states: dict[str, str]) -> None:
        deadline = time.monotonic() + 5
        while sandbox.states(vendor) != states and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sandbox.states(vendor) == states

    def settle(self, sandbox: SandboxHandle) -> tuple[int, int]:
        """The number of words on either side once the connector has had time to copy whatever it would."""
        time.sleep(0.2)
        return tuple(sum(len(words) for words in sandbox.state(vendor)["history"].values()) for vendor in ("contacthub", "contactsend"))  # type: ignore[return-value]

    def subscription(self, state: str) -> dict[str, Any]:
        return {"id": "newsletter", "kind": "DIGITAL_MESSAGE", "subscribed": state == "given", "startDate": None, "endDate": None}

    def test_a_change_at_contacthub_appears_at_contactsend(self, sandbox: SandboxHandle) -> None:
        """An unknown person is added, a known one changed, after the delay; nothing is copied back."""
        for state in ("given", "withdrawn"):
            sandbox.place("contacthub", email="ana@example.org", subscriptions=[self.subscription(state)])
            self.wait_for(sandbox, "contactsend", {self.key: state})
        assert self.settle(sandbox) == (2, 2)

    def test_a_change_at_contactsend_appears_at_contacthub(self, sandbox: SandboxHandle) -> None:
        """The copy is dated with its own time and names the connector as the last writer; a pending opt-in is not copied."""
        before = datetime.now(UTC).replace(microsecond=0)
        for value, state, date in ((1, "given", "startDate"), (-1, "withdrawn", "endDate")):
            sandbox.place("contactsend", attributes={"EMAIL": "Ana@example.org", "__cls1": 0})
            sandbox.place("contactsend", attributes={"EMAIL": "Ana@example.org", "__cls1": value})
            self.wait_for(sandbox, "contacthub", {"ana@example.org/newsletter": state})
            (customer,) = sandbox.state("contacthub")["customers"].values()
            (held,) = customer["base"]["subscriptions"]
            assert datetime.fromisoformat(held[date]) >= before
            assert (held["subscribed"], customer["sourceInfo"]["updatedBy"]) == (state == "given", "contactsend-connector")
        assert self.settle(sandbox) == (2, 4)

    def test_other_subscriptions_are_not_copied(self, sandbox: SandboxHandle) -> None:
        """Only pairs are kept in step."""
        sandbox.place("contacthub", email="ana@example.org", subscriptions=[{**self.subscription("given"), "id": "other"}])
        sandbox.place("contactsend", attributes={"EMAIL": "ana@example.org", "__cls2": 1})
        assert self.settle(sandbox) == (1, 1)

    def test_what_we_tell_both_does_not_go_round(self, sandbox: SandboxHandle) -> None:
        """A withdrawal told to both vendors is copied by neither, whichever is told first."""
        sandbox.place("contacthub", email="ana@example.org", subscriptions=[self.subscription("given")])
        self.wait_for(sandbox, "contactsend", {self.key: "given"})
        adapter = self.send.adapter(sandbox.url("contactsend"))
        hub = contacthub.Adapter(
            base_url=sandbox.url("contacthub"),
            credentials={"token": "test-contacthub-token"},
            options={"workspace_id": "test-workspace", "node_id": "test-node", "subscription_id": "newsletter"},
        )
        for one in (hub, adapter):
            (told,) = self.send.tell(DirectDriver(), one, self.send.instruction(State.WITHDRAWN, ONLY_ADDRESS, options=dict(one.settings)))
            assert told.outcome is Outcome.APPLIED
        assert self.settle(sandbox) == (2, 2)

    def test_a_copy_is_heard_as_somebody_elses_word(self, sandbox: SandboxHandle) -> None:
        """What the connector wrote at Contacthub is in the stream, although the mark of an older write of ours is still there."""
        preferences = [{"key": "consent-relay", "value": "given 2026-01-05T16:00:00.000+0000"}]
        ours = {**self.subscription("given"), "startDate": "2026-01-05T16:00:00.000+0000", "preferences": preferences}
        sandbox.place("contacthub", email="ana@example.org", subscriptions=[ours])
        self.wait_for(sandbox, "contactsend", {self.key: "given"})
        sandbox.place("contactsend", attributes={"EMAIL": "ana@example.org", "__cls1": -1})
        self.wait_for(sandbox, "contacthub", {"ana@example.org/newsletter": "withdrawn"})
        hub = contacthub.Adapter(
            base_url=sandbox.url("contacthub"),
            credentials={"token": "test-contacthub-updates"},
            options={"workspace_id": "test-workspace", "node_id": "test-node", "subscription_id": "newsletter"},
        )
        asked = VendorRequest(operation="test", method="GET", path="/workspaces/test-workspace/updates", query=(("offset", "0"),))
        page = DirectDriver()._send(hub, asked)
        source = SourceSettings(name="hub", kind="contacthub", purposes={"newsletter": "newsletter"})
        heard = contacthub.Adapter.hear(Notification(body=page.body, media_type="application/json", received_at=datetime.now(UTC)), source)
        assert [one.state for one in heard if isinstance(one, IncomingEvent)] == [State.WITHDRAWN]
