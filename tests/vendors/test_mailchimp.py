"""The Mailchimp vendor: the contract, single and bulk calls, compliance state, and its sandbox."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
import pytest

from pipeline.domain import Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import base, mailchimp
from pipeline.vendors.base import Held, VendorRequest, VendorResponse
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.vendors.contract import PERSON, UNREADABLE, VendorContract, result
from tests.vendors.drivers import DirectDriver, replay

MD5 = hashlib.md5(b"ana@example.org").hexdigest()
COMPLIANCE = result(Outcome.REJECTED, "compliance_state")
OTHER = Subject(email="bia@example.org")


def answer(body: Any, status: int = 200) -> VendorResponse:
    return VendorResponse(status=status, body=json.dumps(body).encode())


def bulk(new: Sequence[Any] = (), updated: Sequence[Any] = (), errors: Sequence[Any] = ()) -> VendorResponse:
    totals = {"total_created": len(new), "total_updated": len(updated), "error_count": len(errors)}
    return answer({"new_members": list(new), "updated_members": list(updated), "errors": list(errors), **totals})


def member(email: str, status: str, contact_id: str = "c1") -> dict[str, Any]:
    return {"email_address": email, "status": status, "contact_id": contact_id, "id": "hash"}


def outcomes(results: Sequence[VendorResult]) -> list[tuple[Outcome, str]]:
    return [(one.outcome, one.reason) for one in results]


class TestMailchimp(VendorContract):
    vendor = "mailchimp"
    credentials: ClassVar = {"api_key": "test-mailchimp-key-us1"}
    options: ClassVar = {"list_id": "L1"}
    not_options: ClassVar = {"marketing_permission_id": 7}
    deviations: ClassVar = {
        "403 without a body": result(Outcome.THROTTLED, "bare_403"),
        "404": result(Outcome.MISCONFIGURED, "list_not_found"),
    }

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        return sandbox.states("mailchimp").get(f"L1/{subject.email}")


class TestMarketingPermission(TestMailchimp):
    options: ClassVar = {"list_id": "L1", "marketing_permission_id": "mp1"}

    def test_forces_single_calls(self) -> None:
        """The bulk call cannot carry permissions."""
        assert [self.adapter().batch_size(state) for state in State] == [1, 1]


class TestSingle:
    """One instruction and its answer to one PUT and its result."""

    contract = TestMailchimp()
    permission = TestMarketingPermission()

    def put(self, state: State, contract: VendorContract | None = None, **changed: Any) -> VendorRequest:
        contract = contract or self.contract
        (request,) = replay(contract.adapter().tell([contract.instruction(state, **changed)])).sent
        assert (request.operation, request.method, request.path) == ("put_member", "PUT", f"/lists/L1/members/{MD5}")
        assert request.query == (("skip_merge_validation", "true"),)
        return request

    def test_puts_a_consent_with_its_evidence(self) -> None:
        """A consent subscribes, known or new, with time and address of the opt-in."""
        assert orjson.loads(self.put(State.GIVEN).body) == {
            "email_address": "ana@example.org",
            "status": "subscribed",
            "status_if_new": "subscribed",
            "timestamp_opt": "2026-01-05T16:00:00+00:00",
            "ip_opt": "203.0.113.9",
        }

    def test_puts_a_withdrawal_without_more(self) -> None:
        """A withdrawal unsubscribes, known or new, and carries nothing else."""
        assert orjson.loads(self.put(State.WITHDRAWN).body) == {"email_address": "ana@example.org", "status": "unsubscribed", "status_if_new": "unsubscribed"}

    def test_leaves_out_what_is_no_address(self) -> None:
        """An IP address that is none is left out rather than sent to be refused."""
        assert "ip_opt" not in orjson.loads(self.put(State.GIVEN, evidence={"ip": "unknown"}).body)

    @pytest.mark.parametrize("state, enabled", [(State.GIVEN, True), (State.WITHDRAWN, False)])
    def test_puts_the_marketing_permission(self, state: State, enabled: bool) -> None:
        """With a permission configured it is set with the status, either way."""
        body = orjson.loads(self.put(state, self.permission).body)
        assert body["marketing_permissions"] == [{"marketing_permission_id": "mp1", "enabled": enabled}]

    @pytest.mark.parametrize(
        "state, said, expected",
        [
            (State.GIVEN, answer(member("ana@example.org", "subscribed")), (Outcome.APPLIED, "")),
            (State.GIVEN, answer(member("ana@example.org", "pending")), (Outcome.PENDING_CONFIRMATION, "")),
            (State.GIVEN, answer(member("ana@example.org", "unsubscribed")), (Outcome.REJECTED, "compliance_state")),
            (State.WITHDRAWN, answer(member("ana@example.org", "unsubscribed")), (Outcome.APPLIED, "")),
            (State.WITHDRAWN, answer(member("ana@example.org", "cleaned")), (Outcome.UNCHANGED, "")),
            (State.WITHDRAWN, answer(member("ana@example.org", "subscribed")), (Outcome.REJECTED, "status_not_set")),
            (State.GIVEN, answer({"title": "Member In Compliance State", "status": 400}, 400), (Outcome.REJECTED, "compliance_state")),
            (State.GIVEN, answer({"title": "Invalid Resource", "status": 400}, 400), (Outcome.REJECTED, "http_400")),
            (State.WITHDRAWN, answer({"title": "Resource Not Found"}, 404), (Outcome.MISCONFIGURED, "list_not_found")),
            (State.WITHDRAWN, VendorResponse(status=403, body=b"<html>"), (Outcome.THROTTLED, "bare_403")),
            (State.WITHDRAWN, answer({"title": "Forbidden"}, 403), (Outcome.MISCONFIGURED, "http_403")),
            (State.WITHDRAWN, answer({"title": "Too Many Requests"}, 429), (Outcome.THROTTLED, "http_429")),
            (State.WITHDRAWN, answer({"id": "hash"}), (Outcome.UNAVAILABLE, "unreadable_answer")),
        ],
    )
    def test_reads_the_status_that_came_back(self, state: State, said: VendorResponse, expected: tuple[Outcome, str]) -> None:
        """Only the member's status that comes back counts as told."""
        replayed = replay(self.contract.adapter().tell([self.contract.instruction(state)]), said)
        assert outcomes(replayed.result) == [expected]

    def test_the_reference_is_not_a_hash_of_the_address(self) -> None:
        """The contact id is kept as reference, never the MD5 of the address."""
        (told,) = replay(self.contract.adapter().tell([self.contract.instruction()]), answer({**member("ana@example.org", "subscribed"), "id": MD5})).result
        assert told.vendor_reference == "c1"

    def test_a_permission_that_was_not_set_is_refused(self) -> None:
        """A subscribed member without the permission has not consented."""
        off = {**member("ana@example.org", "subscribed"), "marketing_permissions": [{"marketing_permission_id": "mp1", "enabled": False}]}
        assert outcomes(replay(self.permission.adapter().tell([self.permission.instruction()]), answer(off)).result) == [
            (Outcome.REJECTED, "permission_not_set")
        ]


class TestBulk:
    """Many instructions to few calls, and one result for each."""

    contract = TestMailchimp()

    def test_posts_members_together(self) -> None:
        """Members of one list go in one call that updates those who exist."""
        told = [self.contract.instruction(State.WITHDRAWN), self.contract.instruction(State.GIVEN, OTHER, 2)]
        (request,) = replay(self.contract.adapter().tell(told)).sent
        assert (request.operation, request.method, request.path) == ("post_members", "POST", "/lists/L1")
        assert orjson.loads(request.body) == {
            "members": [
                {"email_address": "ana@example.org", "status": "unsubscribed"},
                {"email_address": "bia@example.org", "status": "subscribed", "timestamp_opt": "2026-01-05T16:00:00+00:00", "ip_opt": "203.0.113.9"},
            ],
            "update_existing": True,
        }

    @pytest.mark.parametrize(
        "said, expected",
        [
            (bulk(new=[member("ana@example.org", "unsubscribed")], updated=[member("BIA@example.org", "subscribed")]), ["applied", "applied"]),
            (bulk(updated=[member("ana@example.org", "unsubscribed"), member("bia@example.org", "unsubscribed")]), ["applied", "compliance_state"]),
            (bulk(updated=[member("ana@example.org", "unsubscribed")]), ["applied", "compliance_state"]),
            (bulk(updated=[member("bia@example.org", "subscribed")]), ["unreadable_answer", "applied"]),
            (
                bulk(errors=[{"email_address": address, "error": "bad", "error_code": "ERROR_GENERIC"} for address in ("ana@example.org", "bia@example.org")]),
                ["member_refused", "member_refused"],
            ),
            (
                bulk(
                    [member("ana@example.org", "unsubscribed")],
                    errors=[{"email_address": "bia@example.org", "error": "x", "error_code": "ERROR_CONTACT_EXISTS"}],
                ),
                ["applied", "contact_exists"],
            ),
            (
                bulk([member("ana@example.org", "unsubscribed")], errors=[{"email_address": "bia@example.org", "error": "is in a Compliance State due to"}]),
                ["applied", "compliance_state"],
            ),
            (answer({"title": "Too Many Requests"}, 429), ["http_429", "http_429"]),
            (answer({"new_members": []}), ["unreadable_answer", "unreadable_answer"]),
            (VendorResponse(status=200, body=b'{"new_'), ["unreadable_answer", "unreadable_answer"]),
        ],
    )
    def test_reads_each_member(self, said: VendorResponse, expected: list[str]) -> None:
        """Each member has his own result by his address, and one who is not shown was not told."""
        told = [self.contract.instruction(State.WITHDRAWN), self.contract.instruction(State.GIVEN, OTHER, 2)]
        results = replay(self.contract.adapter().tell(told), said).result
        assert [one.reason or one.outcome.value for one in results] == expected

    def test_an_unreadable_bulk_answer_is_not_definite(self) -> None:
        """Members may have been told although the answer was cut."""
        told = [self.contract.instruction(), self.contract.instruction(State.GIVEN, OTHER, 2)]
        assert list(replay(self.contract.adapter().tell(told), VendorResponse(status=200, body=b"{")).result) == [UNREADABLE] * 2

    def test_a_person_named_twice_is_sent_once(self) -> None:
        """Two purposes with the same word make one member, and both are told."""
        told = [self.contract.instruction(purpose="newsletter"), self.contract.instruction(purpose="offers", number=2)]
        replayed = replay(self.contract.adapter().tell(told), bulk(new=[member("ana@example.org", "subscribed")]))
        assert len(orjson.loads(replayed.sent[0].body)["members"]) == 1
        assert outcomes(replayed.result) == [(Outcome.APPLIED, "")] * 2

    def test_a_withdrawal_wins_within_a_call(self) -> None:
        """A person who withdrew for one purpose and consented for another is unsubscribed, whatever the order."""
        withdrawn, given = self.contract.instruction(State.WITHDRAWN, purpose="offers"), self.contract.instruction(State.GIVEN, number=2)
        kept = (Outcome.NOT_APPLICABLE, "withdrawn_for_another_purpose")
        for told, expected in (((withdrawn, given), [(Outcome.APPLIED, ""), kept]), ((given, withdrawn), [kept, (Outcome.APPLIED, "")])):
            replayed = replay(self.contract.adapter().tell(told), bulk(new=[member("ana@example.org", "unsubscribed")]))
            assert orjson.loads(replayed.sent[0].body)["members"] == [{"email_address": "ana@example.org", "status": "unsubscribed"}]
            assert outcomes(replayed.result) == expected

    def test_each_list_has_its_call(self) -> None:
        """Purposes with lists of their own go to these lists, and a permission goes alone."""
        told = [
            self.contract.instruction(State.WITHDRAWN),
            self.contract.instruction(State.WITHDRAWN, OTHER, 2, options={"list_id": "L2"}),
            self.contract.instruction(State.GIVEN, OTHER, 3, options={"list_id": "L3", "marketing_permission_id": "mp1"}),
        ]
        done = [bulk(new=[member("ana@example.org", "unsubscribed")]), bulk(new=[member("bia@example.org", "unsubscribed")])]
        replayed = replay(self.contract.adapter().tell(told), *done, answer(member("bia@example.org", "subscribed")))
        assert replayed.operations == ["post_members", "post_members", "put_member"]
        assert [request.path.split("/")[2] for request in replayed.sent] == ["L1", "L2", "L3"]
        assert outcomes(replayed.result) == [(Outcome.APPLIED, "")] * 3

    def test_too_many_lists_are_left_for_the_next_time(self) -> None:
        """A dialogue makes four calls at the most; the rest comes back at once, uncounted."""
        told = [self.contract.instruction(State.WITHDRAWN, OTHER, number, options={"list_id": f"L{number}"}) for number in range(5)]
        replayed = replay(self.contract.adapter().tell(told), *[bulk(new=[member("bia@example.org", "unsubscribed")])] * 4)
        assert len(replayed.sent) == 4
        assert replayed.result[4] == result(Outcome.THROTTLED, "next_dialogue", retry_after=0.0)

    def test_nobody_to_tell_sends_nothing(self) -> None:
        """A chunk without any address sends nothing."""
        replayed = replay(self.contract.adapter().tell([self.contract.instruction(subject=Subject(phone=PERSON.phone), number=n) for n in (1, 2)]))
        assert (replayed.sent, list(replayed.result)) == ([], [base.missing_identifier()] * 2)


class TestAsk:
    """What a member is read as."""

    contract = TestMailchimp()

    @pytest.mark.parametrize(
        "status, state",
        [
            ("subscribed", State.GIVEN),
            ("unsubscribed", State.WITHDRAWN),
            ("cleaned", State.WITHDRAWN),
            ("archived", State.WITHDRAWN),
            ("pending", None),
            ("transactional", None),
        ],
    )
    def test_reads_the_status(self, status: str, state: State | None) -> None:
        """Each status of a member is one state; who has not confirmed has said nothing."""
        replayed = replay(self.contract.adapter().ask(PERSON, {}), answer({**member("ana@example.org", status), "last_changed": "2026-01-06T00:00:00+00:00"}))
        assert [(request.method, request.path) for request in replayed.sent] == [("GET", f"/lists/L1/members/{MD5}")]
        assert replayed.result == Held(state=state, changed_at=datetime(2026, 1, 6, tzinfo=UTC), vendor_reference="c1")

    def test_an_absent_member_is_nobody(self) -> None:
        """404 is an answer here: the list does not know him."""
        assert replay(self.contract.adapter().ask(PERSON, {}), answer({"title": "Resource Not Found"}, 404)).result == Held()

    def test_a_permission_that_is_off_is_a_withdrawal(self) -> None:
        """With a permission configured, it decides beside the status."""
        off = {**member("ana@example.org", "subscribed"), "marketing_permissions": [{"marketing_permission_id": "mp1", "enabled": False}]}
        assert replay(self.contract.adapter().ask(PERSON, {"marketing_permission_id": "mp1"}), answer(off)).result.state is State.WITHDRAWN


class TestSettings:
    """Where the address comes from, and what must be there."""

    def test_the_key_names_the_data_centre(self) -> None:
        """Without a base_url the address follows from the key."""
        adapter = mailchimp.Adapter(credentials={"api_key": "test-key-us7"}, options={"list_id": "L1"})
        assert adapter.address == "https://us7.api.mailchimp.com/3.0"

    @pytest.mark.parametrize("key", ["test", "test-", "test-us7/../x", "test-us7\n", "test-7"])
    def test_a_key_without_data_centre_stops_the_start(self, key: str) -> None:
        """A key that names no data centre is refused without being shown."""
        with pytest.raises(ConfigurationError, match="data centre") as caught:
            mailchimp.Adapter(credentials={"api_key": key}, options={"list_id": "L1"})
        assert repr(key) not in str(caught.value)

    def test_a_list_is_the_place_of_a_contact(self) -> None:
        """Purposes with lists of their own do not share a status."""
        adapter = mailchimp.Adapter(credentials={"api_key": "test-key-us7"}, options={"list_id": "L1"})
        assert (adapter.place_of({}), adapter.place_of({"list_id": "L2"})) == ("L1", "L2")


class TestSandbox:
    """What the documentation says of Mailchimp holds for its sandbox."""

    contract = TestMailchimp()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["mailchimp"]) as handle:
            yield handle

    def send(self, sandbox: SandboxHandle, request: VendorRequest) -> VendorResponse:
        return DirectDriver()._send(self.contract.adapter(sandbox.url("mailchimp")), request)

    def test_refuses_the_eleventh_at_once(self, sandbox: SandboxHandle) -> None:
        """Ten calls at once pass, two more are told 429 without a time."""
        sandbox.settings("mailchimp", latency_seconds=0.3)
        request = VendorRequest(operation="get_member", method="GET", path=f"/lists/L1/members/{MD5}")
        answers: list[VendorResponse] = []
        threads = [threading.Thread(target=lambda: answers.append(self.send(sandbox, request))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(one.status for one in answers) == [404] * 10 + [429] * 2
        assert not any("retry-after" in one.headers for one in answers)
        assert sandbox.state("mailchimp")["max_concurrent"] == 12

    @pytest.mark.parametrize("size, status", [(500, 200), (501, 400)])
    def test_takes_five_hundred_members(self, sandbox: SandboxHandle, size: int, status: int) -> None:
        """A bulk call of more is refused whole."""
        body = orjson.dumps({"members": [{"email_address": f"p{number}@example.org", "status": "subscribed"} for number in range(size)]})
        said = self.send(sandbox, VendorRequest(operation="post_members", path="/lists/L1", body=body))
        assert (said.status, len(sandbox.states("mailchimp"))) == (status, 500 if status == 200 else 0)

    @pytest.mark.parametrize("bulk_ignored", ["shown", "omitted", "error"])
    def test_who_left_stays_away(self, sandbox: SandboxHandle, bulk_ignored: str) -> None:
        """Somebody who left by himself is refused by a single call and ignored by a bulk call, and the relay notices in each case."""
        sandbox.place("mailchimp", email="ana@example.org", status="unsubscribed")
        sandbox.settings("mailchimp", bulk_ignored=bulk_ignored)
        adapter = self.contract.adapter(sandbox.url("mailchimp"))
        told = [self.contract.instruction(), self.contract.instruction(State.GIVEN, OTHER, 2)]
        assert outcomes(self.contract.tell(DirectDriver(), adapter, told[0])) == [(Outcome.REJECTED, "compliance_state")]
        assert outcomes(self.contract.tell(DirectDriver(), adapter, *told)) == [(Outcome.REJECTED, "compliance_state"), (Outcome.APPLIED, "")]
        assert sandbox.states("mailchimp") == {"L1/ana@example.org": "withdrawn", "L1/bia@example.org": "given"}

    @pytest.mark.parametrize("compliance, outcome", [("any", Outcome.REJECTED), ("self", Outcome.APPLIED)])
    def test_who_was_unsubscribed_by_api(self, sandbox: SandboxHandle, compliance: str, outcome: Outcome) -> None:
        """Whether a member unsubscribed by API may come back is a setting."""
        sandbox.settings("mailchimp", compliance=compliance)
        adapter, driver = self.contract.adapter(sandbox.url("mailchimp")), DirectDriver()
        self.contract.tell(driver, adapter, self.contract.instruction(State.WITHDRAWN))
        assert self.contract.tell(driver, adapter, self.contract.instruction(State.GIVEN))[0].outcome is outcome

    def test_keeps_marketing_permissions(self, sandbox: SandboxHandle) -> None:
        """A permission comes back as it was set."""
        contract = TestMarketingPermission()
        contract.tell(DirectDriver(), contract.adapter(sandbox.url("mailchimp")), contract.instruction())
        assert sandbox.state("mailchimp")["contacts"]["L1/ana@example.org"]["marketing_permissions"] == {"mp1": True}

    def test_refuses_another_key(self, sandbox: SandboxHandle) -> None:
        """Another key gets 401, and nothing is kept."""
        adapter = self.contract.adapter(sandbox.url("mailchimp"), credentials={"api_key": "test-other-us1"})
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction()) == [result(Outcome.MISCONFIGURED, "http_401")]
        assert sandbox.states("mailchimp") == {}

    def test_a_list_that_is_not_there(self, sandbox: SandboxHandle) -> None:
        """A missing list is misconfigured for a withdrawal too: nobody was told."""
        sandbox.settings("mailchimp", lists=["L2"])
        adapter = self.contract.adapter(sandbox.url("mailchimp"))
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction(State.WITHDRAWN)) == [result(Outcome.MISCONFIGURED, "list_not_found")]

    def test_a_deleted_address_never_comes_back(self, sandbox: SandboxHandle) -> None:
        """After a permanent deletion the address cannot be imported again."""
        contract, driver = self.contract, DirectDriver()
        adapter = contract.adapter(sandbox.url("mailchimp"))
        contract.tell(driver, adapter, contract.instruction())
        said = self.send(sandbox, VendorRequest(operation="erase", path=f"/lists/L1/members/{MD5}/actions/delete-permanent"))
        assert (said.status, contract.tell(driver, adapter, contract.instruction())[0].reason) == (204, "http_400")
        assert sandbox.states("mailchimp") == {}
