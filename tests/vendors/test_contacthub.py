"""The Contacthub vendor: the contract, what is sent, what answers mean, the update stream, and its sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import orjson
import pytest
from msgspec import structs

from pipeline.domain import IncomingEvent, Outcome, State, Subject, VendorResult
from pipeline.errors import InvalidInput
from pipeline.identifiers import Hasher
from pipeline.vendors import contacthub
from pipeline.vendors.base import Held, Notification, SourceSettings, VendorRequest, VendorResponse
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.vendors.contract import PERSON, SAID_AT, UNREADABLE, VendorContract, result
from tests.vendors.drivers import DRIVERS, DirectDriver, Replayed, make_driver, replay

STAMP = "2026-01-05T16:00:00.000+0000"
CUSTOMERS = "/workspaces/test-workspace/customers"
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
SOURCE = SourceSettings(name="hub", kind="contacthub", purposes={"newsletter": "newsletter", "sms": "marketing-sms"}, country="IT")


def answer(body: Any, status: int = 200) -> VendorResponse:
    return VendorResponse(status=status, body=json.dumps(body).encode())


def marked(state: str, at: str = STAMP) -> list[dict[str, str]]:
    return [{"key": "consent-relay", "value": f"{state} {at}"}]


def entry(subscribed: bool, **more: Any) -> dict[str, Any]:
    dates = {"startDate": STAMP if subscribed else None, "endDate": None if subscribed else STAMP}
    return {"id": "newsletter", "kind": "DIGITAL_MESSAGE", "subscribed": subscribed, **dates, **more}


def customer(*subscriptions: dict[str, Any], **more: Any) -> dict[str, Any]:
    record = {"contacts": {"email": "ana@example.org"}, "firstName": "Ana", "lastName": "Placeholder", "subscriptions": list(subscriptions)}
    return {"id": "c1", "nodeId": "test-node", "externalId": "person-4711", "base": record, **more}


CONFLICT = answer({"message": "Conflict with exiting customer c1", "logref": "r", "data": {"customer": {"id": "c1", "href": f"https://x{CUSTOMERS}/c1"}}}, 409)


def outcomes(results: Sequence[VendorResult]) -> list[tuple[Outcome, str]]:
    return [(one.outcome, one.reason) for one in results]


class TestContacthub(VendorContract):
    vendor = "contacthub"
    credentials: ClassVar = {"token": "test-contacthub-token"}
    options: ClassVar = {"workspace_id": "test-workspace", "node_id": "test-node", "subscription_id": "newsletter"}
    not_options: ClassVar[dict[str, Any]] = {"consents": ["email"], "subscribed_field": "on", "subscription_kind": "MAIL", "mark_writes": "yes"}
    deviations: ClassVar = {"404": result(Outcome.MISCONFIGURED, "node_not_found")}

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        return sandbox.states("contacthub").get(f"{subject.email or subject.external_id}/{purpose}")


class TestContacthubWithConsents(TestContacthub):
    options: ClassVar = {**TestContacthub.options, "consents": ["marketing.automatic.email", "profiling.online"]}


class TestTell:
    """What is sent for an instruction, and what follows from each answer."""

    contract = TestContacthub()

    def tell(self, state: State, *answers: VendorResponse, options: dict[str, Any] | None = None, **changed: Any) -> Replayed:
        adapter = self.contract.adapter(options={**self.contract.options, **(options or {})})
        return replay(adapter.tell([self.contract.instruction(state, **changed)]), *answers)

    def test_creates_a_customer_with_the_consent(self) -> None:
        """A new customer comes with identifiers, names and the subscription as the vendor's plugins write it."""
        told = self.tell(State.GIVEN, answer(customer(entry(subscribed=True)), 201))
        (request,) = told.sent
        assert (request.operation, request.method, request.path, request.query) == ("create_customer", "POST", CUSTOMERS, ())
        assert orjson.loads(request.body) == {
            "nodeId": "test-node",
            "externalId": "person-4711",
            "base": {
                "firstName": "Ana",
                "lastName": "Placeholder",
                "contacts": {"email": "ana@example.org"},
                "subscriptions": [
                    {"kind": "DIGITAL_MESSAGE", "id": "newsletter", "subscribed": True, "startDate": STAMP, "endDate": None, "preferences": marked("given")}
                ],
            },
        }
        assert list(told.result) == [VendorResult(outcome=Outcome.APPLIED, vendor_reference="c1")]

    def test_says_whether_its_writes_can_be_told_from_others(self) -> None:
        """By the mark, which may be switched off for the destination or for one purpose."""
        adapter = self.contract.adapter()
        unmarked = self.contract.adapter(options={**self.contract.options, "mark_writes": False})
        assert [adapter.marks_own_writes({}), adapter.marks_own_writes({"mark_writes": False}), unmarked.marks_own_writes({})] == [True, False, False]

    def test_creates_a_customer_with_the_withdrawal(self) -> None:
        """Somebody unknown who withdraws is kept with identifiers and the closed subscription, and no names."""
        told = self.tell(State.WITHDRAWN, answer(customer(entry(subscribed=False)), 201), options={"mark_writes": False})
        assert orjson.loads(told.sent[0].body)["base"] == {
            "contacts": {"email": "ana@example.org"},
            "subscriptions": [{"kind": "DIGITAL_MESSAGE", "id": "newsletter", "subscribed": False, "startDate": None, "endDate": STAMP}],
        }
        assert outcomes(told.result) == [(Outcome.APPLIED, "")]

    def test_a_new_customer_who_does_not_show_it_is_told_again(self) -> None:
        """The answer to a create counts only if it shows the subscription; otherwise it is put."""
        told = self.tell(State.WITHDRAWN, answer({"id": "c1"}, 201), answer(entry(subscribed=False)))
        assert told.operations == ["create_customer", "put_subscription"]
        assert outcomes(told.result) == [(Outcome.APPLIED, "")]

    def test_an_external_id_alone_is_enough(self) -> None:
        """Without an e-mail address there are no contacts in the record."""
        told = self.tell(State.WITHDRAWN, subject=Subject(external_id="person-4711"))
        assert orjson.loads(told.sent[0].body).keys() == {"nodeId", "externalId", "base"}
        assert orjson.loads(told.sent[0].body)["base"].keys() == {"subscriptions"}

    def test_puts_the_withdrawal_of_a_known_customer(self) -> None:
        """The conflict names the customer; what else the subscription holds is kept, and the record is left alone."""
        held = entry(subscribed=True, name="News", registeredAt=STAMP, updatedAt=STAMP, preferences=[{"key": "language", "value": "it"}, *marked("given")])
        told = self.tell(State.WITHDRAWN, CONFLICT, answer(customer(held, externalId=None)), answer(entry(subscribed=False)))
        assert told.operations == ["create_customer", "get_customer", "put_subscription"]
        assert (told.sent[1].method, told.sent[1].path) == ("GET", f"{CUSTOMERS}/c1")
        assert (told.sent[2].method, told.sent[2].path) == ("PUT", f"{CUSTOMERS}/c1/subscriptions/newsletter")
        preferences = [{"key": "language", "value": "it"}, *marked("withdrawn")]
        assert orjson.loads(told.sent[2].body) == entry(subscribed=False, name="News", registeredAt=STAMP, preferences=preferences)
        assert list(told.result) == [VendorResult(outcome=Outcome.APPLIED, vendor_reference="c1")]

    def test_patches_what_the_record_lacks(self) -> None:
        """A consent adds the external id and names that are missing, without nodeId, and overwrites nothing."""
        bare = {"id": "c1", "nodeId": "test-node", "base": {"contacts": {"email": "other@example.org"}, "firstName": "Anna"}}
        told = self.tell(State.GIVEN, CONFLICT, answer(bare), answer({}), answer(entry(subscribed=True)))
        assert told.operations == ["create_customer", "get_customer", "patch_customer", "put_subscription"]
        assert (told.sent[2].method, told.sent[2].path) == ("PATCH", f"{CUSTOMERS}/c1")
        assert orjson.loads(told.sent[2].body) == {"externalId": "person-4711", "base": {"lastName": "Placeholder"}}

    @pytest.mark.parametrize("state", list(State))
    def test_what_is_so_already_is_not_written(self, state: State) -> None:
        """A customer whose subscription says it already is left alone, which ends every round of echoes."""
        told = self.tell(state, CONFLICT, answer(customer(entry(subscribed=state is State.GIVEN))))
        assert told.operations == ["create_customer", "get_customer"]
        assert list(told.result) == [VendorResult(outcome=Outcome.UNCHANGED, vendor_reference="c1")]

    @pytest.mark.parametrize("status", [403, 404, 405])
    def test_a_customer_who_may_not_be_read_is_told_anyway(self, status: int) -> None:
        """Without reading, a consent is patched as the plugins do it, without nodeId; a withdrawal writes the subscription only."""
        unread = answer({"message": "no"}, status)
        told = self.tell(State.GIVEN, CONFLICT, unread, answer({}), answer(entry(subscribed=True)))
        assert told.operations == ["create_customer", "get_customer", "patch_customer", "put_subscription"]
        patched = orjson.loads(told.sent[2].body)
        assert patched == {"externalId": "person-4711", "base": {"firstName": "Ana", "lastName": "Placeholder", "contacts": {"email": "ana@example.org"}}}
        assert self.tell(State.WITHDRAWN, CONFLICT, unread, answer(entry(subscribed=False))).operations[2:] == ["put_subscription"]

    @pytest.mark.parametrize("state", list(State))
    def test_the_longest_dialogue_is_declared(self, state: State) -> None:
        """A conflict, an unknown subscription and consents to set make five calls, as declared; a withdrawal stops the mail first."""
        changes = [answer({}, 404), answer(entry(subscribed=state is State.GIVEN), 201)]
        steps = [answer({}), *changes] if state is State.GIVEN else [*changes, answer({})]
        told = self.tell(state, CONFLICT, answer(customer()), *steps, options={"consents": ["marketing.automatic.email"]})
        subscription = ["put_subscription", "post_subscription"]
        expected = ["patch_customer", *subscription] if state is State.GIVEN else [*subscription, "patch_customer"]
        assert told.operations == ["create_customer", "get_customer", *expected]
        assert len(told.sent) == contacthub.Adapter.capabilities.max_calls
        assert outcomes(told.result) == [(Outcome.APPLIED, "")]

    def test_sets_the_entries_of_the_consents_block(self) -> None:
        """Each entry follows the state as far as it differs, keeps its limitation and objection, and carries the notice of a consent."""
        held = {"marketing": {"automatic": {"email": {"status": False, "objection": True}, "sms": {"status": True}}}, "profiling": {"online": {"status": True}}}
        options = {"consents": ["marketing.automatic.email", "profiling.online"]}
        known = answer(customer(entry(subscribed=True), consents=held))
        told = self.tell(State.GIVEN, CONFLICT, known, answer({}), options=options, evidence={"notice_version": "7"})
        assert orjson.loads(told.sent[2].body) == {
            "consents": {"marketing": {"automatic": {"email": {"status": True, "objection": True}}}, "disclaimer": {"date": STAMP, "version": "7"}}
        }
        told = self.tell(State.WITHDRAWN, CONFLICT, known, answer(entry(subscribed=False)), answer({}), options=options)
        assert orjson.loads(told.sent[3].body) == {"consents": {"profiling": {"online": {"status": False}}}}
        assert outcomes(told.result) == [(Outcome.APPLIED, "")]

    def test_writes_the_flag_of_the_specification_if_told_so(self) -> None:
        """With `enable` the other name is never written, and it is read as well."""
        options = {"subscribed_field": "enable"}
        told = self.tell(State.WITHDRAWN, CONFLICT, answer(customer(entry(subscribed=True))), answer({"id": "newsletter", "enable": False}), options=options)
        assert orjson.loads(told.sent[2].body)["enable"] is False
        assert "subscribed" not in orjson.loads(told.sent[2].body)
        assert outcomes(told.result) == [(Outcome.APPLIED, "")]

    @pytest.mark.parametrize(
        "said, expected",
        [
            ([answer({"message": "Conflict", "data": {}}, 409)], (Outcome.MISCONFIGURED, "token_not_trusted")),
            ([answer({"message": "Conflict", "data": None}, 409)], (Outcome.MISCONFIGURED, "token_not_trusted")),
            ([VendorResponse(status=409, body=b"<html>")], (Outcome.UNAVAILABLE, "unreadable_answer")),
            ([answer({"message": "node not found N"}, 404)], (Outcome.MISCONFIGURED, "node_not_found")),
            ([answer({"message": "workspace not found: W"}, 403)], (Outcome.MISCONFIGURED, "http_403")),
            ([answer({"message": "Reindexing in progress"}, 423)], (Outcome.UNAVAILABLE, "http_423")),
            ([answer({"base": {}}, 201)], (Outcome.UNAVAILABLE, "unreadable_answer")),
            ([CONFLICT, answer({"message": "Reindexing"}, 423)], (Outcome.UNAVAILABLE, "http_423")),
            ([CONFLICT, answer({"id": "another"})], (Outcome.UNAVAILABLE, "unreadable_answer")),
            ([CONFLICT, answer(customer()), answer({}, 423)], (Outcome.UNAVAILABLE, "http_423")),
            ([CONFLICT, answer(customer()), answer({}, 404), answer({}, 404)], (Outcome.UNAVAILABLE, "customer_gone")),
            ([CONFLICT, answer(customer()), answer({}, 404), answer({}, 409)], (Outcome.UNAVAILABLE, "changed_meanwhile")),
            ([CONFLICT, answer(customer()), answer({"id": "newsletter"})], (Outcome.UNAVAILABLE, "unreadable_answer")),
            ([CONFLICT, answer(customer()), answer(entry(subscribed=True))], (Outcome.REJECTED, "flag_not_set")),
            ([CONFLICT, answer(customer()), answer({"message": "bad"}, 400)], (Outcome.REJECTED, "http_400")),
        ],
    )
    def test_reads_each_answer(self, said: list[VendorResponse], expected: tuple[Outcome, str]) -> None:
        """Only the flag that comes back counts as told; reindexing and races are tried again."""
        assert outcomes(self.tell(State.WITHDRAWN, *said).result) == [expected]

    def test_reindexing_is_definite(self) -> None:
        """423 says that nothing was written, a cut answer does not."""
        assert self.tell(State.GIVEN, answer({}, 423)).result[0].definite
        assert list(self.tell(State.GIVEN, VendorResponse(status=201, body=b'{"id"')).result) == [UNREADABLE]

    def test_a_subscription_is_the_place_of_a_contact(self) -> None:
        """Purposes that share a subscription share its state, others do not touch each other."""
        adapter = self.contract.adapter()
        assert (adapter.place_of({}), adapter.place_of({"subscription_id": "offers"})) == ("newsletter", "offers")

    def test_ids_are_escaped(self) -> None:
        """No id can lead to another path."""
        strange = answer({"data": {"customer": {"id": "../x y"}}}, 409)
        options = {"subscription_id": "a/b", "workspace_id": "w/1"}
        told = self.tell(State.WITHDRAWN, strange, answer({"id": "../x y"}), answer(entry(subscribed=False)), options=options)
        assert told.sent[2].path == "/workspaces/w%2F1/customers/..%2Fx%20y/subscriptions/a%2Fb"


class TestAsk:
    """Whom a lookup finds, and what it reads."""

    contract = TestContacthub()

    def ask(self, *answers: VendorResponse, subject: Subject = PERSON) -> Replayed:
        return replay(self.contract.adapter().ask(subject, {}), *answers)

    def test_looks_by_external_id_first(self) -> None:
        """The external id is a parameter of its own, within the node."""
        asked = self.ask(answer({"elements": [customer(entry(subscribed=False))]}))
        assert asked.sent[0].query == (("nodeId", "test-node"), ("externalId", "person-4711"), ("size", "10"))
        assert asked.result == Held(state=State.WITHDRAWN, changed_at=SAID_AT, vendor_reference="c1")

    def test_looks_by_email_next(self) -> None:
        """Who is not found by external id is looked for by e-mail, and must have just that one."""
        asked = self.ask(answer({"elements": []}), answer({"elements": [customer(entry(subscribed=True), base={}), customer(entry(subscribed=True))]}))
        condition = orjson.loads(dict(asked.sent[1].query)["query"])["query"]["are"]["condition"]
        assert condition == {"type": "atomic", "attribute": "base.contacts.email", "operator": "EQUALS", "value": "ana@example.org"}
        assert asked.result == Held(state=State.GIVEN, changed_at=SAID_AT, vendor_reference="c1")

    @pytest.mark.parametrize("subject", [Subject(phone=PERSON.phone), Subject(national_id=PERSON.national_id)])
    def test_cannot_look_by_another_kind(self, subject: Subject) -> None:
        """Nothing is sent for an identifier that the vendor is not told by."""
        asked = self.ask(subject=subject)
        assert (asked.sent, asked.result) == ([], Held(readable=False))

    def test_a_customer_without_the_subscription_has_no_state(self) -> None:
        """A customer who has no such subscription has said nothing."""
        assert self.ask(answer({"elements": [customer()]})).result == Held(vendor_reference="c1")


def update(data: dict[str, Any], operation: str = "UPDATE", kind: str = "CUSTOMER") -> dict[str, Any]:
    return {"operation": operation, "entity": {"type": kind, "data": data}}


def hear(*updates: Any, body: bytes | None = None, media_type: str = "application/json") -> list[IncomingEvent | InvalidInput]:
    content = orjson.dumps({"nextOffset": len(updates), "updates": list(updates)}) if body is None else body
    return list(contacthub.Adapter.hear(Notification(body=content, media_type=media_type, received_at=NOW), SOURCE))


def day(number: int) -> str:
    return f"2026-01-{number:02d}T00:00:00.000+0000"


class TestHear:
    """What a page of the update stream says."""

    @pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
    def test_hears_each_subscription_with_a_purpose(self, operation: str) -> None:
        """Every subscription tied to a purpose is a word of the customer, dated by its own start or end; a consent brings his names, a withdrawal does not."""
        person = customer(entry(subscribed=False), {"id": "sms", "subscribed": True, "startDate": day(7)}, {"id": "other", "subscribed": True})
        person["base"]["contacts"]["mobilePhone"] = "347 123 4567"
        subject = Subject(external_id="person-4711", email="ana@example.org", phone="+393471234567", country="IT")
        assert hear(update(person, operation)) == [
            IncomingEvent(subject=subject, purpose="newsletter", state=State.WITHDRAWN, event_time=SAID_AT, profile_is_beside=True),
            IncomingEvent(
                subject=subject,
                purpose="marketing-sms",
                state=State.GIVEN,
                event_time=datetime(2026, 1, 7, tzinfo=UTC),
                profile={"first_name": "Ana", "last_name": "Placeholder"},
                profile_is_beside=True,
            ),
        ]

    @pytest.mark.parametrize("name", [None, "", " ", 5, ["Ana"], "An\x00a", "A" * 1_001, "An\N{REPLACEMENT CHARACTER}"])
    def test_a_name_of_no_use_is_left_out(self, name: Any) -> None:
        """It does not hold up the consent, nor the other name."""
        person = customer(entry(subscribed=True))
        person["base"]["firstName"] = name
        (heard,) = hear(update(person))
        assert isinstance(heard, IncomingEvent)
        assert heard.profile == {"last_name": "Placeholder"}

    @pytest.mark.parametrize("operation, kind", [("DELETE", "CUSTOMER"), ("UPDATE", "EVENT")])
    def test_other_changes_say_nothing(self, operation: str, kind: str) -> None:
        """A deleted customer has not withdrawn, and events are no customers."""
        assert hear(update(customer(entry(subscribed=True)), operation, kind)) == []

    def test_an_empty_page_says_nothing(self) -> None:
        """A page without changes is read without complaint."""
        assert hear() == []

    @pytest.mark.parametrize("subscribed, state", [(True, "given"), (False, "withdrawn")])
    def test_our_own_writes_are_no_news(self, subscribed: bool, state: str) -> None:
        """A subscription whose mark fits its flag and date is as we wrote it, however the date is written."""
        for stamp in (STAMP, "2026-01-05T16:00:00Z", "2026-01-05T17:00:00.000+01:00"):
            ours = entry(subscribed=subscribed, preferences=marked(state))
            ours["startDate" if subscribed else "endDate"] = stamp
            assert hear(update(customer(ours))) == []

    @pytest.mark.parametrize(
        "changed",
        [
            entry(subscribed=False, preferences=marked("given")),
            entry(subscribed=True, preferences=marked("withdrawn")),
            entry(subscribed=False, endDate=day(9), preferences=marked("withdrawn")),
            entry(subscribed=False, preferences=[{"key": "other", "value": f"withdrawn {STAMP}"}]),
            entry(subscribed=False, preferences="none"),
        ],
    )
    def test_a_mark_that_no_longer_fits_hides_nothing(self, changed: dict[str, Any]) -> None:
        """Who changes the flag or its date after us is heard, even if the mark was left standing."""
        (heard,) = hear(update(customer(changed)))
        assert isinstance(heard, IncomingEvent)
        assert heard.state is (State.GIVEN if changed["subscribed"] else State.WITHDRAWN)

    @pytest.mark.parametrize(
        "held, said_at",
        [
            (entry(subscribed=True, startDate=day(3), registeredAt=day(1), updatedAt=day(9)), day(3)),
            (entry(subscribed=True, startDate=None, registeredAt=day(1), updatedAt=day(9)), day(1)),
            (entry(subscribed=True, startDate=None, updatedAt=day(9)), day(9)),
            (entry(subscribed=True, startDate="soon"), day(2)),
            (entry(subscribed=False, startDate=day(1), endDate=day(3), updatedAt=day(9)), day(3)),
            (entry(subscribed=False, startDate=day(5), endDate=day(3), updatedAt=day(9)), day(9)),
            (entry(subscribed=False, startDate=day(5), endDate=day(3)), day(5)),
            (entry(subscribed=False, endDate=None, updatedAt=day(9)), day(9)),
            (entry(subscribed=False, endDate=None), day(20)),
            (entry(subscribed=False, endDate="2027-01-01T00:00:00.000+0000"), NOW.isoformat()),
        ],
    )
    def test_a_word_has_the_date_it_can_prove(self, held: dict[str, Any], said_at: str) -> None:
        """A consent is never dated later than it may have been said, a withdrawal never earlier, and neither in the future."""
        (heard,) = hear(update(customer(held, registeredAt=day(2), updatedAt=day(20))))
        assert isinstance(heard, IncomingEvent)
        assert heard.event_time == datetime.fromisoformat(said_at)

    def test_a_withdrawal_without_any_date_is_of_now(self) -> None:
        """A withdrawal is heard even if nothing dates it."""
        (heard,) = hear(update(customer({"id": "newsletter", "subscribed": False})))
        assert isinstance(heard, IncomingEvent)
        assert (heard.state, heard.event_time) == (State.WITHDRAWN, NOW)

    def test_a_disabled_customer_gives_nothing(self) -> None:
        """A customer who is put away consents to nothing, and still withdraws."""
        held = [update(customer(entry(subscribed=on), enabled=False)) for on in (True, False)]
        assert [one.state for one in hear(*held) if isinstance(one, IncomingEvent)] == [State.WITHDRAWN]

    def test_what_repeats_is_the_same_word(self) -> None:
        """The stream shows whole customers: another change of theirs, be it of the name, repeats the word with the same content, so that it is a duplicate."""
        person = customer(entry(subscribed=True))
        changed = {**person, "base": {**person["base"], "firstName": "Anna"}, "updatedAt": day(20)}
        first, second = hear(update(person), update(changed))
        assert isinstance(first, IncomingEvent)
        assert isinstance(second, IncomingEvent)
        assert (structs.replace(first, profile={}), second.profile["first_name"]) == (structs.replace(second, profile={}), "Anna")
        assert Hasher(b"pepper").content_hash(first) == Hasher(b"pepper").content_hash(second)

    def test_what_cannot_be_read_names_nobody(self) -> None:
        """A phone or address of no use does not hold up the withdrawal of somebody who is named otherwise."""
        person = customer(entry(subscribed=False), base={"contacts": {"email": "no address", "mobilePhone": "12"}, "subscriptions": [entry(subscribed=False)]})
        (heard,) = hear(update(person))
        assert isinstance(heard, IncomingEvent)
        assert heard.subject == Subject(external_id="person-4711", country="IT")

    @pytest.mark.parametrize(
        "wrong, path",
        [
            (5, "updates.1"),
            ({"operation": "UPDATE"}, "updates.1"),
            (update(customer({"id": "newsletter"})), "updates.1.entity.data.base.subscriptions.0"),
            (update(customer({"id": "newsletter", "subscribed": True})), "updates.1.entity.data.base.subscriptions.0"),
            (update(customer(entry(subscribed=True, startDate="2026-03-01T00:00:00.000+0000"))), "updates.1.entity.data.base.subscriptions.0"),
            (update({"base": {"subscriptions": [entry(subscribed=False)]}}), "updates.1.entity.data.base.subscriptions.0"),
        ],
    )
    def test_a_wrong_change_stands_alone(self, wrong: Any, path: str) -> None:
        """A change that cannot be read is told by its place, without its values, and the others are heard."""
        first, second, third = hear(update(customer(entry(subscribed=True))), wrong, update(customer(entry(subscribed=False))))
        assert isinstance(second, InvalidInput)
        assert [error.path for error in second.errors] == [path]
        assert "ana" not in str(second)
        assert (isinstance(first, IncomingEvent), isinstance(third, IncomingEvent)) == (True, True)

    @pytest.mark.parametrize(
        "body, media_type, status",
        [
            (b"{}", "text/plain", 415),
            (b'{"updates"', "application/json", 400),
            (b"[]", "application/json", 422),
            (b'{"updates": {}}', "application/json", 422),
            (b'{"updates": [' + b"1," * 4000 + b"1]}", "application/json", 413),
        ],
    )
    def test_refuses_what_is_no_page(self, body: bytes, media_type: str, status: int) -> None:
        """A body that is no page of the stream is refused whole."""
        with pytest.raises(InvalidInput) as caught:
            hear(body=body, media_type=media_type)
        assert caught.value.status == status


class TestSandbox:
    """What the documentation says of Contacthub holds for its sandbox, and the relay lives with it."""

    contract = TestContacthub()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["contacthub"]) as handle:
            yield handle

    def send(self, sandbox: SandboxHandle, method: str, path: str, body: Any = None, *, token: str = "test-contacthub-token", **query: Any) -> VendorResponse:
        adapter = self.contract.adapter(sandbox.url("contacthub"), credentials={"token": token})
        asked = tuple((name, str(value)) for name, value in query.items())
        content = orjson.dumps(body) if body is not None else b""
        return DirectDriver()._send(adapter, VendorRequest(operation="test", method=method, path=path, query=asked, body=content))

    def tell(self, sandbox: SandboxHandle, state: State, **changed: Any) -> VendorResult:
        (told,) = self.contract.tell(DirectDriver(), self.contract.adapter(sandbox.url("contacthub")), self.contract.instruction(state, **changed))
        return told

    def page(self, sandbox: SandboxHandle, offset: int = 0, **query: Any) -> VendorResponse:
        return self.send(sandbox, "GET", "/workspaces/test-workspace/updates", token="test-contacthub-updates", offset=offset, **query)

    def heard(self, sandbox: SandboxHandle, offset: int = 0) -> list[Any]:
        later = Notification(body=self.page(sandbox, offset).body, media_type="application/json", received_at=datetime.now(UTC) + timedelta(minutes=1))
        return list(contacthub.Adapter.hear(later, SOURCE))

    def test_an_existing_customer_is_a_conflict(self, sandbox: SandboxHandle) -> None:
        """A record with the e-mail of another, in any case, or his external id is refused with his id and address."""
        sandbox.place("contacthub", email="Ana@example.org", external_id="person-4711")
        for record in ({"base": {"contacts": {"email": "ana@example.org"}}}, {"externalId": "person-4711"}):
            said = self.send(sandbox, "POST", CUSTOMERS, {"nodeId": "test-node", **record})
            assert said.status == 409
            assert said.json()["message"] == "Conflict with exiting customer c1"
            assert said.json()["data"] == {"customer": {"id": "c1", "href": f"https://api.contactlab.it/hub/v1{CUSTOMERS}/c1"}}

    @pytest.mark.parametrize(
        "token, path, body, status",
        [
            ("test-nobody", CUSTOMERS, {}, 401),
            ("test-contacthub-updates", CUSTOMERS, {}, 403),
            ("test-contacthub-token", "/workspaces/another/customers", {}, 403),
            ("test-contacthub-token", CUSTOMERS, {"nodeId": "another", "externalId": "x"}, 404),
            ("test-contacthub-token", CUSTOMERS, {"nodeId": "test-node"}, 400),
            ("test-contacthub-token", CUSTOMERS, {"externalId": "x"}, 400),
            ("test-contacthub-token", f"{CUSTOMERS}/c9/subscriptions", {"id": "x", "subscribed": True}, 404),
        ],
    )
    def test_refuses_as_documented(self, sandbox: SandboxHandle, token: str, path: str, body: Any, status: int) -> None:
        """Each refusal has its status, and nothing is kept."""
        assert self.send(sandbox, "POST", path, body, token=token).status == status
        assert sandbox.state("contacthub")["customers"] == {}

    @pytest.mark.parametrize("state", list(State))
    def test_an_untrusted_token_cannot_update(self, sandbox: SandboxHandle, state: State) -> None:
        """Its conflict names no customer: misconfigured with an alert, nothing written, and nothing lost."""
        sandbox.place("contacthub", email="ana@example.org", subscriptions=[entry(subscribed=state is State.WITHDRAWN)])
        adapter = self.contract.adapter(sandbox.url("contacthub"), credentials={"token": "test-contacthub-untrusted"})
        before = sandbox.states("contacthub")
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction(state)) == [result(Outcome.MISCONFIGURED, "token_not_trusted")]
        assert sandbox.states("contacthub") == before
        new = self.contract.instruction(state, Subject(email="bia@example.org"))
        assert self.contract.tell(DirectDriver(), adapter, new)[0].outcome is Outcome.APPLIED

    def test_waits_for_reindexing(self, sandbox: SandboxHandle) -> None:
        """While the workspace is reindexed nothing is written; afterwards the same instruction is."""
        sandbox.settings("contacthub", reindexing_until=time.time() + 60)
        assert self.tell(sandbox, State.WITHDRAWN) == result(Outcome.UNAVAILABLE, "http_423")
        assert sandbox.states("contacthub") == {}
        sandbox.settings("contacthub", reindexing_until=0.0)
        assert self.tell(sandbox, State.WITHDRAWN).outcome is Outcome.APPLIED

    @pytest.mark.parametrize("put_creates", [True, False])
    def test_a_known_customer_gets_the_subscription(self, sandbox: SandboxHandle, put_creates: bool) -> None:
        """Whether PUT creates a subscription or not, a customer without one has it in the end, and his others stay."""
        sandbox.settings("contacthub", put_creates=put_creates)
        sandbox.place("contacthub", email="ana@example.org", subscriptions=[{"id": "other", "subscribed": True}])
        assert self.tell(sandbox, State.WITHDRAWN).outcome is Outcome.APPLIED
        assert sandbox.states("contacthub") == {"ana@example.org/other": "given", "ana@example.org/newsletter": "withdrawn"}

    def test_finds_by_external_id_who_has_another_address(self, sandbox: SandboxHandle) -> None:
        """A customer who is found by external id keeps his own address, and is stopped."""
        sandbox.place("contacthub", email="old@example.org", external_id="person-4711", subscriptions=[entry(subscribed=True)])
        for state in (State.WITHDRAWN, State.GIVEN):
            assert self.tell(sandbox, state).outcome is Outcome.APPLIED
        customers = sandbox.state("contacthub")["customers"]
        assert [one["base"]["contacts"]["email"] for one in customers.values()] == ["old@example.org"]

    def test_the_stream_has_offsets(self, sandbox: SandboxHandle) -> None:
        """Each page says where the next one starts; the last one starts where the stream ends."""
        for number in range(3):
            sandbox.place("contacthub", email=f"p{number}@example.org")
        first = self.page(sandbox, size=2).json()
        assert (first["nextOffset"], [one["operation"] for one in first["updates"]]) == (2, ["CREATE", "CREATE"])
        assert len(self.page(sandbox, 2).json()["updates"]) == 1
        assert self.page(sandbox, 3).json() == {"nextOffset": 3, "updates": []}
        assert self.page(sandbox, nodeId="another").json() == {"nextOffset": 3, "updates": []}
        assert (self.page(sandbox, size=4001).status, self.page(sandbox, size=4000).status) == (400, 200)
        assert self.send(sandbox, "GET", "/workspaces/test-workspace/updates", offset=0).status == 403

    def test_nothing_we_wrote_comes_back(self, sandbox: SandboxHandle) -> None:
        """Our words are in the stream and are not heard, whether the customer is new, known, or changed by somebody else afterwards."""
        for state in (State.GIVEN, State.WITHDRAWN, State.GIVEN):
            assert self.tell(sandbox, state).outcome is Outcome.APPLIED
        sandbox.place("contacthub", email="ana@example.org", more={"extra": "changed by somebody else"})
        assert len(self.page(sandbox).json()["updates"]) == 4
        assert self.heard(sandbox) == []

    def test_what_others_did_is_heard_and_not_echoed(self, sandbox: SandboxHandle) -> None:
        """A change at the vendor is heard; told back to the vendor it is found there already, and nothing is written."""
        self.tell(sandbox, State.GIVEN)
        offset = self.page(sandbox).json()["nextOffset"]
        held = sandbox.state("contacthub")["customers"]["c1"]["base"]["subscriptions"][0]
        left = {**held, "subscribed": False, "startDate": None, "endDate": day(20)}
        sandbox.place("contacthub", email="ana@example.org", subscriptions=[left])
        (heard,) = self.heard(sandbox, offset)
        assert (heard.state, heard.purpose, heard.event_time) == (State.WITHDRAWN, "newsletter", datetime(2026, 1, 20, tzinfo=UTC))
        before = self.page(sandbox).json()["nextOffset"]
        assert self.tell(sandbox, heard.state, subject=heard.subject, event_time=heard.event_time).outcome is Outcome.UNCHANGED
        assert self.page(sandbox).json()["nextOffset"] == before

    @pytest.mark.parametrize("kind", DRIVERS)
    def test_polling_walks_the_stream_to_its_end(self, sandbox: SandboxHandle, kind: str) -> None:
        """Page after page every change of the node is heard once; the end of the stream is where the next poll begins."""
        for number in range(contacthub.PAGE_SIZE + 3):
            sandbox.place("contacthub", email=f"p{number}@example.org", subscriptions=[entry(subscribed=False)])
        adapter = self.contract.adapter(sandbox.url("contacthub"), credentials={"token": "test-contacthub-updates"})
        driver, position, pages = make_driver(kind), "", []
        try:
            while not pages or pages[-1].more:
                pages.append(driver.drive(adapter, adapter.poll(position, SOURCE, datetime.now(UTC) + timedelta(minutes=1)), 0))
                position = pages[-1].position
        finally:
            driver.close()
        assert [len(page.events) for page in pages] == [50, 3, 0]
        assert [(page.position, page.more) for page in pages] == [("50", True), ("53", True), ("53", False)]
        assert {one.state for page in pages for one in page.events} == {State.WITHDRAWN}


@pytest.mark.parametrize(
    "response, refused",
    [
        (answer({"message": "no", "errors": []}, 403), result(Outcome.MISCONFIGURED, "http_403")),
        (answer({}, 423), result(Outcome.UNAVAILABLE, "http_423")),
        (VendorResponse(status=429, headers={"retry-after": "9"}), result(Outcome.THROTTLED, "http_429", retry_after=9.0)),
        (VendorResponse(status=200, body=b"<html>"), UNREADABLE),
        (answer({"updates": []}), UNREADABLE),
        (answer({"nextOffset": 7, "updates": "none"}), UNREADABLE),
    ],
)
def test_a_poll_that_cannot_be_read_says_why(response: VendorResponse, refused: VendorResult) -> None:
    """A refusal or a page of another shape is a result by its name, and moves nothing."""
    adapter = TestContacthub().adapter()
    replayed = replay(adapter.poll("7", SOURCE, NOW), response)
    assert replayed.result == refused
    assert (replayed.sent[0].path, dict(replayed.sent[0].query)["offset"]) == ("/workspaces/test-workspace/updates", "7")
