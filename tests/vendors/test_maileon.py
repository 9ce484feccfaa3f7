"""The Maileon vendor: the contract with and without double opt-in, tracking, bulk, its webhooks, and its sandbox."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from msgspec import structs

from pipeline.domain import IDENTIFIER_KINDS, IncomingEvent, Outcome, Standing, State, Subject, VendorResult
from pipeline.errors import ConfigurationError, InvalidInput
from pipeline.vendors import _maileon_xml as xml
from pipeline.vendors import maileon
from pipeline.vendors.base import Held, Notification, SourceSettings, VendorRequest, VendorResponse
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.vendors.contract import PERSON, PLAIN_HTTP, SAID_AT, UNREADABLE, VendorContract, result
from tests.vendors.drivers import DirectDriver, replay

PATH = "/contacts/email/ana%40example.org"
PENDING = Outcome.PENDING_CONFIRMATION
OTHER = Subject(email="bia@example.org")
TRACKING = {"tracking_purpose": "single-user-tracking"}
BULK = (
    ("permission", "2"),
    ("sync_mode", "1"),
    ("ignore_invalid_contacts", "true"),
    ("reimport_unsubscribed_contacts", "false"),
    ("override_permission", "false"),
    ("use_external_id", "false"),
)


def answer(text: str = "", status: int = 200) -> VendorResponse:
    return VendorResponse(status=status, body=text.encode())


def contact(permission: object, updated: str = "2026-01-01 00:00:00") -> VendorResponse:
    return answer(f"<contact><id>7</id><email>ana@example.org</email><permission>{permission}</permission><updated>{updated}</updated></contact>")


def report(unsubscribed: int = 0, invalid: str = "") -> VendorResponse:
    counts = f"<count_contacts>9</count_contacts><count_unsubscribed_contacts>{unsubscribed}</count_unsubscribed_contacts>"
    return answer(f"<any_root><success>true</success>{counts}<invalid_contacts>{invalid}</invalid_contacts></any_root>")


NOBODY = answer("<error><message>There is no such contact.</message></error>", 404)
DONE = answer(status=202)
CREATED = answer(status=201)
LATER = result(Outcome.THROTTLED, "next_dialogue", retry_after=0.0)


class MaileonContract(VendorContract):
    vendor = "maileon"
    credentials: ClassVar = {"api_key": "test-maileon-key"}
    verbs: ClassVar[Mapping[State, str]]

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        """Maileon's delays are tried below; here an unsubscription and a confirmation happen at once."""
        with start_sandboxes(["maileon"]) as handle:
            handle.settings("maileon", unsubscribe_seconds=0.0, confirms_at_once=True)
            yield handle

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        contacts = sandbox.state("maileon")["contacts"].values()
        named = [one for one in contacts if subject.email in {None, one["email"]} and (subject.email or one["external_id"] == subject.external_id)]
        return named[0]["state"] if named else None

    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("name", list(PLAIN_HTTP))
    def test_reads_plain_http(self, name: str, state: State) -> None:
        """As the contract says, but 403 and 404 name the verb, and an unsubscription is accepted without a body, before the marker."""
        said, common = PLAIN_HTTP[name]
        verb = self.verbs[state]
        expected = {"403": f"http_403_{verb}", "403 without a body": f"http_403_{verb}", "404": f"http_404_{verb}"}
        replayed = replay(self.adapter().tell([self.instruction(state)]), said)
        if name == "empty body" and state is State.WITHDRAWN:
            assert (replayed.result, replayed.operations) == (None, ["unsubscribe", "set_marker"])
        else:
            assert list(replayed.result) == [result(Outcome.MISCONFIGURED, expected[name]) if name in expected else common]

    @pytest.mark.parametrize("kind", IDENTIFIER_KINDS)
    def test_declared_identifiers_are_true(self, sandbox: SandboxHandle, driver: Any, kind: str) -> None:
        """One declared identifier is enough; by external id Maileon can only find a contact that it has."""
        if kind == "external_id":
            sandbox.place("maileon", email="ana@example.net", external_id=PERSON.external_id, permission=4)
        super().test_declared_identifiers_are_true(sandbox, driver, kind)

    @pytest.mark.parametrize("kind", ["hang", "reset", "redirect", "html", "empty", "cut_json", "lost_answer", "throttle"])
    def test_a_fault_heals_by_telling_again(self, sandbox: SandboxHandle, driver: Any, kind: str) -> None:
        """As the contract says, of somebody who is subscribed: whom Maileon does not know, the first call does not change."""
        sandbox.place("maileon", email=PERSON.email, permission=4)
        super().test_a_fault_heals_by_telling_again(sandbox, driver, kind)


class TestMaileon(MaileonContract):
    options: ClassVar = {"double_opt_in": False}
    not_options: ClassVar = {"key_form": "sideways", "permission": 5, "double_opt_in": "yes"}
    verbs: ClassVar = {State.GIVEN: "post", State.WITHDRAWN: "delete"}

    def test_a_full_chunk_is_told_at_once(self, sandbox: SandboxHandle, driver: Any) -> None:
        """A chunk of consents is one call, in order; withdrawals go one by one, so that none has to come back."""
        adapter = self.adapter(sandbox.url("maileon"))
        told = [self.instruction(State.GIVEN, Subject(email=f"p{number}@example.org"), number) for number in range(adapter.batch_size(State.GIVEN))]
        told[3] = structs.replace(told[3], subject=Subject())
        results = self.tell(driver, adapter, *told)
        assert [one.outcome for one in results] == [Outcome.NOT_APPLICABLE if number == 3 else Outcome.APPLIED for number in range(100)]
        assert sandbox.state("maileon")["call_count"] == 1
        assert (adapter.batch_size(State.WITHDRAWN), adapter.max_calls(State.WITHDRAWN)) == (1, 3)
        assert self.tell(driver, adapter, structs.replace(told[4], state=State.WITHDRAWN)) == [result(Outcome.APPLIED)]
        assert sandbox.state("maileon")["call_count"] == 3


class TestDoubleOptIn(MaileonContract):
    verbs: ClassVar = {State.GIVEN: "get", State.WITHDRAWN: "delete"}


def tracking(state: State) -> Standing:
    return Standing(purpose="single-user-tracking", state=state, options=TRACKING)


def told(contract: VendorContract, *answers: VendorResponse, state: State = State.GIVEN, **changed: Any) -> tuple[list[VendorRequest], VendorResult]:
    replayed = replay(contract.adapter().tell([contract.instruction(state, **changed)]), *answers)
    return replayed.sent, replayed.result[0]


class TestOptIn:
    """A consent that the person confirms by mail."""

    contract = TestDoubleOptIn()

    def test_looks_and_then_mails(self) -> None:
        """A new person is created without permission and mailed; his address stands in the path only."""
        sent, ended = told(self.contract, NOBODY, answer("<contact_id>7</contact_id>", 201), evidence={"form": "cmx"}, options={"doi_mailing": "KEY"})
        assert [(one.operation, one.method, one.path) for one in sent] == [("get_contact", "GET", PATH), ("start_opt_in", "POST", PATH)]
        assert sent[1].query == (("permission", "1"), ("sync_mode", "1"), ("doi", "true"), ("doimailing", "KEY"), ("src", "cmx"))
        assert ended == VendorResult(outcome=PENDING, vendor_reference="7")
        assert dict(sent[1].headers)["content-type"] == "application/vnd.maileon.api+xml; charset=utf-8"
        assert sent[1].body.decode().partition("\n")[2] == (
            "<contact><external_id>person-4711</external_id><standard_fields>"
            "<field><name>FIRSTNAME</name><value>Ana</value></field><field><name>LASTNAME</name><value>Placeholder</value></field>"
            "<field><name>FULLNAME</name><value>Ana Placeholder</value></field></standard_fields></contact>"
        )

    @pytest.mark.parametrize(
        "said, expected",
        [
            (contact(4), Outcome.UNCHANGED),
            (contact("doi+"), Outcome.UNCHANGED),
            (contact(1, "2026-01-05 16:00:00"), PENDING),
            (contact(2, "2026-01-05 16:00:09.0"), PENDING),
        ],
    )
    def test_never_mails_twice(self, said: VendorResponse, expected: Outcome) -> None:
        """Who has confirmed, or was touched since the consent, gets no further mail."""
        sent, ended = told(self.contract, said)
        assert (len(sent), ended) == (1, VendorResult(outcome=expected, vendor_reference="7"))

    @pytest.mark.parametrize("permission", [1, 2, 3, 6])
    def test_lowers_no_permission(self, permission: int) -> None:
        """Somebody with another permission is mailed and keeps it until he confirms."""
        sent, _ = told(self.contract, contact(permission), answer("<id>7</id>"))
        assert dict(sent[1].query)["permission"] == str(permission)

    def test_by_external_id(self) -> None:
        """Without an address the external id names the contact; two with the same are refused for good."""
        subject = Subject(external_id="a/b c")
        sent, ended = told(self.contract, NOBODY, answer("<error/>", 409), subject=subject, profile={})
        assert (sent[1].path, sent[1].body.decode().partition("\n")[2]) == ("/contacts/externalid/a%2Fb%20c", "<contact />")
        assert ended == result(Outcome.REJECTED, "http_409")

    def test_an_unreadable_start_is_looked_at_again(self) -> None:
        """Without an id in the answer the mail may be out or not; the next look tells."""
        assert told(self.contract, NOBODY, answer("", 201))[1] == UNREADABLE
        assert told(self.contract, NOBODY, answer("", 403))[1] == result(Outcome.MISCONFIGURED, "http_403_post")

    def test_sends_the_profile(self) -> None:
        """Standard fields follow the profile, custom fields the metadata or profile that the destination names; markup and bad characters stay text."""
        profile = {"salutation": "Frau", "name_prefix": "Dr.", "last_name": "<b>&\x07ü", "language": "pt-br"}
        sent, _ = told(
            self.contract,
            NOBODY,
            answer("<id>7</id>", 201),
            profile=profile,
            metadata={"purchase": "K-1", "more": "x"},
            options={"custom_fields": ["purchase", "name_prefix", "absent"]},
        )
        root = xml.parse(sent[1].body)
        assert root is not None
        fields = {field.findtext("name"): field.findtext("value") for field in root.iter("field")}
        assert fields == {
            "SALUTATION": "Frau",
            "TITLE": "Dr.",
            "LASTNAME": "<b>&ü",
            "FULLNAME": "<b>&ü",
            "LOCALE": "pt_BR",
            "purchase": "K-1",
            "name_prefix": "Dr.",
        }


class TestTracking:
    """Single-user tracking as a purpose of its own."""

    contract = TestDoubleOptIn()

    def track(
        self, *answers: VendorResponse, state: State = State.GIVEN, standings: tuple[Standing, ...] = (), **options: Any
    ) -> tuple[list[VendorRequest], VendorResult]:
        return told(self.contract, *answers, state=state, purpose="single-user-tracking", standings=standings, options={**TRACKING, **options})

    def test_asks_for_tracking(self) -> None:
        """Only the tracking purpose ever asks for DOI+, also of a subscriber, and keeps his permission meanwhile."""
        sent, ended = self.track(contact(4), answer("<id>7</id>"))
        assert sent[1].query == (("permission", "4"), ("sync_mode", "1"), ("doi", "true"), ("doiplus", "true"), ("src", "consent-relay"))
        assert (ended.outcome, self.track(contact(5))[1].outcome) == (PENDING, Outcome.UNCHANGED)

    def test_a_subscription_never_asks_for_tracking(self) -> None:
        """The destination's other purposes start a plain double opt-in, whatever the metadata say, and also of somebody who withdrew tracking."""
        for standings in ((), (tracking(State.WITHDRAWN),), (Standing(purpose="offers", state=State.GIVEN),)):
            sent, _ = told(self.contract, NOBODY, answer("<id>7</id>", 201), standings=standings, metadata={"single_user_tracking": "true"})
            assert "doiplus" not in dict(sent[1].query)

    def test_one_mail_asks_for_both(self) -> None:
        """A subscription told while tracking stands by a word of its own asks for DOI+."""
        sent, _ = told(self.contract, NOBODY, answer("<id>7</id>", 201), standings=(tracking(State.GIVEN),))
        assert dict(sent[1].query)["doiplus"] == "true"

    @pytest.mark.parametrize(
        "said, standings, outcome",
        [
            (NOBODY, (), Outcome.NOT_APPLICABLE),
            (contact(1), (), Outcome.NOT_APPLICABLE),
            (contact(4), (Standing(purpose="newsletter", state=State.WITHDRAWN),), Outcome.NOT_APPLICABLE),
            (NOBODY, (Standing(purpose="newsletter", state=State.GIVEN),), PENDING),
            (contact(4), (), PENDING),
            (contact(4), (Standing(purpose="newsletter", state=State.WITHDRAWN), Standing(purpose="offers", state=State.GIVEN)), PENDING),
        ],
    )
    def test_tracking_alone_subscribes_nobody(self, said: VendorResponse, standings: tuple[Standing, ...], outcome: Outcome) -> None:
        """Confirming DOI+ subscribes, so who is no subscriber, or has just withdrawn, is sent no mail."""
        sent, ended = self.track(said, *([answer("<id>7</id>")] if outcome is PENDING else []), standings=standings)
        assert (ended.outcome, len(sent)) == (outcome, 2 if outcome is PENDING else 1)
        assert ended.reason == ("" if outcome is PENDING else "no_subscription")

    def test_a_withdrawal_turns_doi_plus_into_doi(self) -> None:
        """The subscription stays, nothing is unsubscribed, and it is done once Maileon shows it."""
        sent, ended = self.track(contact(5), answer(), contact(4), state=State.WITHDRAWN)
        assert [(one.method, one.path, one.query) for one in sent] == [("GET", PATH, ()), ("PUT", PATH, (("permission", "4"),)), ("GET", PATH, ())]
        assert ended == VendorResult(outcome=Outcome.APPLIED, vendor_reference="7")

    @pytest.mark.parametrize(
        "shown, expected",
        [
            (contact(5), VendorResult(outcome=Outcome.UNSUPPORTED, reason="tracking_not_lowered", vendor_reference="7")),
            (answer("", 500), result(Outcome.UNAVAILABLE, "http_500", definite=False)),
            (answer("<html></html>"), UNREADABLE),
        ],
    )
    def test_a_withdrawal_that_changed_nothing_is_no_success(self, shown: VendorResponse, expected: VendorResult) -> None:
        """Where an update does not lower DOI+ after all a person must know; an answer that shows nothing is asked for again."""
        assert self.track(contact(5), answer(), shown, state=State.WITHDRAWN)[1] == expected

    @pytest.mark.parametrize(
        "said, expected",
        [(contact(4), (Outcome.UNCHANGED, "")), (NOBODY, (Outcome.UNCHANGED, "")), (contact(1), (Outcome.UNSUPPORTED, "confirmation_pending"))],
    )
    def test_a_withdrawal_without_doi_plus(self, said: VendorResponse, expected: tuple[Outcome, str]) -> None:
        """Nothing to lower is unchanged; a mail that may be out cannot be called back, which a person must know."""
        sent, ended = self.track(said, state=State.WITHDRAWN)
        assert (len(sent), (ended.outcome, ended.reason)) == (1, expected)

    def test_needs_double_opt_in(self) -> None:
        """Tracking is never given without a confirmation."""
        assert self.track(double_opt_in=False) == ([], result(Outcome.UNSUPPORTED, "tracking_needs_double_opt_in"))

    def test_has_a_place_of_its_own(self) -> None:
        """A withdrawal of tracking does not hold back the subscription, and its mail goes first because it asks for both."""
        places = [self.contract.adapter().place_of(options) for options in (TRACKING, {})]
        assert places == sorted(places)
        assert len(set(places)) == 2

    def test_is_asked_for(self) -> None:
        """DOI+ is tracking given, any other permission tracking withdrawn, none no word."""
        for permission, state in ((5, State.GIVEN), (4, State.WITHDRAWN), (1, None)):
            assert replay(self.contract.adapter().ask(PERSON, TRACKING), contact(permission)).result.state is state


class TestWithdrawal:
    """Unsubscribing, and marking the address."""

    contract = TestDoubleOptIn()

    @pytest.mark.parametrize(
        "unsubscribed, marked, expected",
        [
            (DONE, CREATED, result(Outcome.APPLIED)),
            (DONE, answer(), result(Outcome.APPLIED)),
            (NOBODY, CREATED, result(Outcome.APPLIED)),
            (NOBODY, answer(), result(Outcome.UNCHANGED)),
            (answer("", 404), answer("", 404), result(Outcome.MISCONFIGURED, "http_404_put")),
            (DONE, answer("", 403), result(Outcome.MISCONFIGURED, "http_403_put")),
            (DONE, answer("<html></html>"), UNREADABLE),
            (DONE, answer("", 500), result(Outcome.UNAVAILABLE, "http_500", definite=False)),
        ],
    )
    def test_reads_both_answers(self, unsubscribed: VendorResponse, marked: VendorResponse, expected: VendorResult) -> None:
        """The marker is the definite word; 404 on it means that this is not Maileon."""
        sent, ended = told(self.contract, unsubscribed, marked, state=State.WITHDRAWN)
        assert [(one.method, one.path, one.body) for one in sent] == [("DELETE", f"{PATH}/unsubscribe", b""), ("PUT", f"{PATH}/unsubscription", b"")]
        assert ended == expected

    @pytest.mark.parametrize("said, expected", [(DONE, Outcome.APPLIED), (NOBODY, Outcome.UNCHANGED), (answer('{"not": "xml"}', 404), Outcome.MISCONFIGURED)])
    def test_by_external_id(self, said: VendorResponse, expected: Outcome) -> None:
        """There is no marker by external id."""
        sent, ended = told(self.contract, said, state=State.WITHDRAWN, subject=Subject(external_id="S-42"))
        assert ([one.path for one in sent], ended.outcome) == (["/contacts/externalid/S-42/unsubscribe"], expected)


class TestBulk:
    """Consents without double opt-in."""

    contract = TestMaileon()

    def tell(self, instructions: Any, *answers: VendorResponse) -> Any:
        return replay(self.contract.adapter().tell(instructions), *answers)

    def test_groups_by_permission(self) -> None:
        """One call for each permission, safe flags set, no contact twice."""
        said = [
            self.contract.instruction(profile={}),
            self.contract.instruction(purpose="offers", number=2, profile={}),
            self.contract.instruction(subject=OTHER, number=3, options={"permission": 3}, profile={}),
        ]
        replayed = self.tell(said, report(), report())
        assert [(one.method, one.path, one.query) for one in replayed.sent] == [
            ("POST", "/contacts", BULK),
            ("POST", "/contacts", (("permission", "3"), *BULK[1:])),
        ]
        body = "<contacts><contact><email>ana@example.org</email><external_id>person-4711</external_id></contact></contacts>"
        assert replayed.sent[0].body.decode().partition("\n")[2] == body
        assert list(replayed.result) == [result(Outcome.APPLIED)] * 3

    @pytest.mark.parametrize(
        "invalid", ['<contact><email>BIA@example.org</email><error code="3"/></contact>', "<email>bia@example.org</email><error><code>3</code></error>"]
    )
    def test_reads_each_error(self, invalid: str) -> None:
        """An invalid contact is refused for itself, however deep the report names it."""
        replayed = self.tell([self.contract.instruction(), self.contract.instruction(subject=OTHER, number=2)], report(0, invalid))
        assert list(replayed.result) == [result(Outcome.APPLIED), result(Outcome.REJECTED, "invalid_contact_3")]

    def test_finds_who_was_skipped(self) -> None:
        """The report only counts the unsubscribed, so they are found by halves and never resurrected."""
        said = [self.contract.instruction(subject=Subject(email=f"p{number}@example.org"), number=number) for number in range(4)]
        replayed = self.tell(said, report(1), report(0), report(1), report(1), report(0))
        assert [one.body.count(b"<email>") for one in replayed.sent] == [4, 2, 2, 1, 1]
        skipped, fine = result(Outcome.REJECTED, "unsubscribed"), result(Outcome.APPLIED)
        assert list(replayed.result) == [fine, fine, skipped, fine]

    def test_stops_after_eight_calls(self) -> None:
        """What could not be found out is handed back for the next dialogue."""
        said = [self.contract.instruction(subject=Subject(email=f"p{number}@example.org"), number=number) for number in range(100)]
        replayed = self.tell(said, *[report(1)] * 8)
        assert len(replayed.sent) == 8
        assert list(replayed.result) == [result(Outcome.REJECTED, "unsubscribed"), *[LATER] * 99]


class TestReading:
    """Answers that are more, or less, than they should be."""

    contract = TestDoubleOptIn()

    @pytest.mark.parametrize(
        "body",
        [
            b'<!DOCTYPE a [<!ENTITY b "c">]><contact><permission>5</permission></contact>',
            '<?xml version="1.0" encoding="utf-16"?><contact><permission>5</permission></contact>'.encode("utf-16"),
            b"<html><permission>5</permission></html>",
            b"<contact><permission>5</permission>",
            b"<contact><permission>seven</permission></contact>",
            b"<contacts><contact><permission>5</permission></contact><contact><permission>1</permission></contact></contacts>",
        ],
    )
    def test_reads_no_permission_out_of_it(self, body: bytes) -> None:
        """A document type, another encoding, a page, a cut answer or several contacts tell nothing."""
        assert xml.known_contact(body) is None
        assert replay(self.contract.adapter().ask(PERSON, {}), VendorResponse(status=200, body=body)).result == Held(readable=False)

    @pytest.mark.parametrize(
        "said, state",
        [((NOBODY, answer()), State.WITHDRAWN), ((NOBODY, NOBODY), None), ((contact(1),), None), ((contact(2),), None), ((contact(4),), State.GIVEN)],
    )
    def test_asks(self, said: tuple[VendorResponse, ...], state: State | None) -> None:
        """Gone and marked is withdrawn, confirmed is given, all else is no word."""
        assert replay(self.contract.adapter().ask(PERSON, {}), *said).result.state is state

    def test_asks_in_vain(self) -> None:
        """Without the right to look, or at another service, nothing is known."""
        for said in ((answer("", 403),), (answer("{}", 404),), (NOBODY, answer("", 403))):
            assert replay(self.contract.adapter().ask(PERSON, {}), *said).result == Held(readable=False)


class TestKey:
    """The form of the key."""

    encoded = base64.b64encode(b"test-maileon-key").decode()

    @pytest.mark.parametrize("key, form", [("test-maileon-key", "raw"), (encoded, "encoded")])
    def test_is_encoded_once(self, key: str, form: str) -> None:
        """Both forms end in the same header."""
        adapter = maileon.Adapter(credentials={"api_key": key}, options={"key_form": form})
        assert dict(adapter.sign(VendorRequest(operation="ping"), None).headers)["authorization"] == f"Basic {self.encoded}"

    @pytest.mark.parametrize("key, form", [(encoded, "raw"), ("test-maileon-key", "encoded"), (f"Basic {encoded}", "encoded"), ("Basic test", "raw")])
    def test_another_form_stops_the_start(self, key: str, form: str) -> None:
        """A key that is not what the setting says is refused without being shown."""
        with pytest.raises(ConfigurationError, match="'api_key'") as caught:
            maileon.Adapter(credentials={"api_key": key}, options={"key_form": form})
        assert key not in str(caught.value)

    def test_a_hexadecimal_key_is_raw(self) -> None:
        """A key of hexadecimal digits could be read as base64, but says nothing then."""
        maileon.Adapter(credentials={"api_key": "0123456789abcdef0123456789abcdef"})


class TestHear:
    """Webhooks as a source."""

    source = SourceSettings(name="maileon", kind="maileon", purposes={"doi": "newsletter", "doi+": "tracking"})

    def hear(self, body: bytes, event: str = "", media_type: str = "application/json") -> Any:
        query = {"event": event} if event else {}
        return maileon.Adapter.hear(Notification(body=body, media_type=media_type, received_at=SAID_AT, query=query), self.source)

    def said(self, purpose: str, state: State) -> IncomingEvent:
        return IncomingEvent(subject=Subject(email="ana@example.org"), purpose=purpose, state=state, event_time=SAID_AT, event_time_end=SAID_AT)

    def test_a_confirmation_is_a_consent(self) -> None:
        """A confirmed double opt-in is given for its purpose at Maileon's own time, with DOI+ for tracking too."""
        body = b'{"email": "Ana@Example.org", "timestamp": "2026-01-05 16:00:00", "other": 1}'
        assert self.hear(body, "doi") == [self.said("newsletter", State.GIVEN)]
        both = [self.said("newsletter", State.GIVEN), self.said("tracking", State.GIVEN)]
        for permission in (b'"permission": 5', b'"permission_status": "DOI+"'):
            assert self.hear(b'{"event": "doi", "timestamp": 1767628800000, "email": "ana@example.org", %s}' % permission) == both

    def test_an_unsubscription_is_a_withdrawal(self) -> None:
        """It ends all that the source stands for."""
        both = [self.said("newsletter", State.WITHDRAWN), self.said("tracking", State.WITHDRAWN)]
        assert self.hear(b'{"email": "ana@example.org", "timestamp": "2026-01-05T16:00:00Z"}', "unsubscription") == both

    def test_without_a_time_it_may_be_a_day_old(self) -> None:
        """Then a confirmation is ordered at the beginning of that day, where it overtakes no withdrawal, and an unsubscription at the receipt."""
        for event, state in (("doi", State.GIVEN), ("unsubscription", State.WITHDRAWN)):
            heard = self.hear(b'{"email": "ana@example.org"}', event)[0]
            assert (heard.state, heard.event_time, heard.event_time_end) == (state, SAID_AT - timedelta(days=1), SAID_AT)

    @pytest.mark.parametrize("said", [b'"2026-01-05 17:00:00"', b'"2026-01-05T16:00:01Z"', b"1767632400000", b'"06/01/2026"'])
    def test_a_withdrawal_ahead_of_the_clock_was_said_when_it_came(self, said: bytes) -> None:
        """Whether clock or zone are ahead: an unsubscription is not refused for it, a confirmation is."""
        body = b'{"email": "ana@example.org", "timestamp": %s}' % said
        assert [(one.state, one.event_time, one.event_time_end) for one in self.hear(body, "unsubscription")] == [(State.WITHDRAWN, SAID_AT, SAID_AT)] * 2

    def test_takes_its_time_and_its_external_id(self) -> None:
        """A timestamp is the event time."""
        for said in (b'"2026-01-05T13:00:00Z"', b'"2026-01-05 13:00:00.0"', b"1767618000", b'"1767618000000"', b'"05/01/2026 13:00:00"'):
            (event,) = self.hear(b'{"external_id": "S-1", "timestamp": %s}' % said, "doi")
            assert (event.subject, event.event_time, event.event_time_end) == (Subject(external_id="S-1"), *[SAID_AT - timedelta(hours=3)] * 2)

    @pytest.mark.parametrize(
        "body, event, path",
        [
            (b'{"email": "ana@example.org"}', "bounce", "event"),
            (b'{"email": "ana@example.org"}', "", "event"),
            (b"{}", "unsubscription", "subject"),
            (b'{"email": "no"}', "unsubscription", "subject.email"),
            (b'{"email": "ana@example.org", "timestamp": "2026-01-06 16:00:00"}', "doi", "timestamp"),
            (b'{"email": "ana@example.org", "timestamp": "soon"}', "doi", "timestamp"),
            (b"[]", "doi", ""),
            (b"{", "doi", ""),
        ],
    )
    def test_refuses_what_says_nothing(self, body: bytes, event: str, path: str) -> None:
        """Another event, or nobody named, is refused by name."""
        with pytest.raises(InvalidInput) as caught:
            self.hear(body, event)
        assert [error.path for error in caught.value.errors] == [path]


class TestSandbox:
    """What the documentation says of Maileon holds for its sandbox, and the relay copes."""

    contract = TestDoubleOptIn()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["maileon"]) as handle:
            yield handle

    def send(self, sandbox: SandboxHandle, method: str, path: str, body: bytes = b"<contact/>", **query: str) -> VendorResponse:
        request = VendorRequest(operation="try", method=method, path=path, query=tuple(query.items()), body=body)
        return DirectDriver()._send(self.contract.adapter(sandbox.url("maileon")), request)

    def permission(self, sandbox: SandboxHandle) -> int:
        return int(sandbox.state("maileon")["contacts"]["ana@example.org"]["permission"])

    def test_an_opt_in_from_mail_to_confirmation(self, sandbox: SandboxHandle) -> None:
        """One mail however often it is told, given only once the person has confirmed, and a withdrawal after that."""
        adapter, driver = self.contract.adapter(sandbox.url("maileon")), DirectDriver()
        said = self.contract.instruction(event_time=datetime.now(UTC))
        for _ in range(3):
            assert self.contract.tell(driver, adapter, said)[0].outcome is PENDING
        assert sandbox.state("maileon")["mails"] == [{"email": "ana@example.org", "plus": False, "mailing": None}]
        assert driver.drive(adapter, adapter.ask(PERSON, {})).state is None
        sandbox.place("maileon", email="ana@example.org", confirmed=True)
        assert (driver.drive(adapter, adapter.ask(PERSON, {})).state, self.permission(sandbox)) == (State.GIVEN, 4)
        assert self.contract.tell(driver, adapter, said)[0].outcome is Outcome.UNCHANGED

    def test_an_unsubscription_takes_its_time(self, sandbox: SandboxHandle) -> None:
        """The contact is still there after it was accepted, and gone and marked later."""
        sandbox.settings("maileon", unsubscribe_seconds=3600.0)
        sandbox.place("maileon", email="ana@example.org", permission=4)
        adapter, driver = self.contract.adapter(sandbox.url("maileon")), DirectDriver()
        assert self.contract.tell(driver, adapter, self.contract.instruction(State.WITHDRAWN)) == [result(Outcome.APPLIED)]
        assert self.send(sandbox, "GET", PATH).status == 200
        sandbox.place("maileon", email="ana@example.org", unsubscribed=True)
        assert [self.send(sandbox, "GET", path).status for path in (PATH, f"{PATH}/unsubscription")] == [404, 200]
        assert driver.drive(adapter, adapter.ask(PERSON, {})) == Held(state=State.WITHDRAWN)
        assert self.contract.tell(driver, adapter, self.contract.instruction(State.WITHDRAWN)) == [result(Outcome.UNCHANGED)]

    def test_tracking_is_given_and_withdrawn(self, sandbox: SandboxHandle) -> None:
        """DOI becomes DOI+ by one more confirmation, and DOI again by a withdrawal of tracking alone."""
        sandbox.settings("maileon", confirms_at_once=True)
        sandbox.place("maileon", email="ana@example.org", permission=4, updated="2026-01-01 00:00:00")
        adapter, driver = self.contract.adapter(sandbox.url("maileon")), DirectDriver()
        for state, outcome, permission in ((State.GIVEN, PENDING, 5), (State.WITHDRAWN, Outcome.APPLIED, 4)):
            said = self.contract.instruction(state, purpose="single-user-tracking", options=TRACKING)
            assert (self.contract.tell(driver, adapter, said)[0].outcome, self.permission(sandbox)) == (outcome, permission)

    def test_tracking_that_cannot_be_lowered_is_no_secret(self, sandbox: SandboxHandle) -> None:
        """Where an update lowers nothing the withdrawal is unsupported, and the subscription stays."""
        sandbox.settings("maileon", lowers=False)
        sandbox.place("maileon", email="ana@example.org", permission=5)
        said = self.contract.instruction(State.WITHDRAWN, purpose="single-user-tracking", options=TRACKING)
        (ended,) = self.contract.tell(DirectDriver(), self.contract.adapter(sandbox.url("maileon")), said)
        assert (ended.outcome, ended.reason, self.permission(sandbox)) == (Outcome.UNSUPPORTED, "tracking_not_lowered", 5)

    def test_ignores_existing_contacts_by_default(self, sandbox: SandboxHandle) -> None:
        """Without sync_mode=1 nothing changes; with it, DOI is never lowered by a create."""
        sandbox.place("maileon", email="ana@example.org", permission=1)
        self.send(sandbox, "POST", PATH, permission="3")
        assert self.permission(sandbox) == 1
        self.send(sandbox, "POST", PATH, permission="4", sync_mode="1")
        self.send(sandbox, "POST", PATH, permission="1", sync_mode="1")
        assert self.permission(sandbox) == 4

    @pytest.mark.parametrize("verb, state", [("GET", State.GIVEN), ("POST", State.GIVEN), ("DELETE", State.WITHDRAWN), ("PUT", State.WITHDRAWN)])
    def test_a_missing_right_is_named(self, sandbox: SandboxHandle, verb: str, state: State) -> None:
        """A key that lacks a verb holds its deliveries, with the verb as the reason."""
        sandbox.settings("maileon", rights=[right for right in ("GET", "POST", "PUT", "DELETE") if right != verb])
        adapter = self.contract.adapter(sandbox.url("maileon"))
        expected = result(Outcome.MISCONFIGURED, f"http_403_{verb.lower()}")
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction(state)) == [expected]

    def test_rights_can_be_tried(self, sandbox: SandboxHandle) -> None:
        """A probe pings by every verb, names the ones that the key lacks, and touches nobody."""
        sandbox.settings("maileon", rights=["GET", "POST"])
        adapter = self.contract.adapter(sandbox.url("maileon"))
        results = DirectDriver().drive(adapter, adapter.probe({}), 4)
        assert [one.reason or one.outcome.value for one in results] == ["unchanged", "unchanged", "http_403_put", "http_403_delete"]
        assert adapter.probes == ("right GET", "right POST", "right PUT", "right DELETE")
        assert sandbox.states("maileon") == {}

    def test_another_key_is_refused(self, sandbox: SandboxHandle) -> None:
        """An unknown or expired key is misconfigured, and nothing is kept."""
        adapter = self.contract.adapter(sandbox.url("maileon"), credentials={"api_key": "test-other-key"})
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction()) == [result(Outcome.MISCONFIGURED, "http_401")]
        assert sandbox.states("maileon") == {}

    def test_a_bulk_call_keeps_who_left_away(self, sandbox: SandboxHandle) -> None:
        """Of a bulk call the unsubscribed stay away and the invalid are named, the others are told, and permissions are kept."""
        contract = TestMaileon()
        sandbox.place("maileon", email="p2@example.org", unsubscribed=True)
        sandbox.place("maileon", email="p3@example.org", permission=5)
        persons = [Subject(email=f"p{number}@example.org") for number in range(4)] + [Subject(email="p4@localhost")]
        said = [contract.instruction(subject=person, number=number) for number, person in enumerate(persons)]
        results = contract.tell(DirectDriver(), contract.adapter(sandbox.url("maileon")), *said)
        assert [one.reason or one.outcome.value for one in results] == ["applied", "applied", "unsubscribed", "applied", "invalid_contact_3"]
        contacts = sandbox.state("maileon")["contacts"]
        assert {email: held["permission"] for email, held in contacts.items()} == {
            "p0@example.org": 2,
            "p1@example.org": 2,
            "p2@example.org": 1,
            "p3@example.org": 5,
        }

    def test_refuses_a_body_of_another_kind(self, sandbox: SandboxHandle) -> None:
        """Errors are XML."""
        said = self.send(sandbox, "POST", PATH, b"{}")
        assert (said.status, said.body.endswith(b"</message></error>")) == (400, True)
