"""A Mailchimp tag as the consent: the contract, the dialogue with a member and his tags, the lookup, and what the sandbox does with tags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import orjson
import pytest

from pipeline.domain import Outcome, State, Subject
from pipeline.errors import ConfigurationError
from pipeline.fence import sharing
from pipeline.routing_file import load_routing
from pipeline.vendors.base import Held, VendorRequest, VendorResponse
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.vendors import test_mailchimp as plain
from tests.vendors.contract import PERSON, PLAIN_HTTP
from tests.vendors.drivers import DirectDriver, replay
from tests.vendors.test_mailchimp import MD5, answer, member, outcomes

TAGS = f"/lists/L1/members/{MD5}/tags"
MEMBER = f"/lists/L1/members/{MD5}"
NOT_FOUND = answer({"title": "Resource Not Found", "status": 404}, 404)
NO_CONTENT = VendorResponse(status=204)


class TestTag(plain.TestMailchimp):
    """The contract where a tag is the consent; whom the contract tells is there and has the tag, so that a withdrawal takes something away."""

    options: ClassVar = {"list_id": "L1", "tag": "newsletter"}
    not_options: ClassVar = {"tag": "x" * 101, "marketing_permission_id": "mp1"}

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["mailchimp"]) as handle:
            for email in (PERSON.email, "p0@example.org"):
                handle.place("mailchimp", email=email, status="subscribed", tags=["vip", "newsletter"])
            yield handle

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        member = sandbox.state("mailchimp")["contacts"].get(f"L1/{subject.email}")
        return member and ("given" if "newsletter" in member["tags"] else "withdrawn")

    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("name", list(PLAIN_HTTP))
    def test_reads_plain_http(self, name: str, state: State) -> None:
        """As the contract says, but a 404 is no answer yet: a consent makes the member, a withdrawal asks whether the list is there."""
        said, common = PLAIN_HTTP[name]
        replayed = replay(self.adapter().tell([self.instruction(state)]), said)
        if name == "404":
            followed = {State.GIVEN: ["get_member", "put_member"], State.WITHDRAWN: ["post_tags", "get_list"]}
            assert (replayed.result, replayed.operations) == (None, followed[state])
        else:
            assert list(replayed.result) == [self.deviations.get(name, common)]

    def test_lookups_agree_with_what_was_told(self, sandbox: SandboxHandle, driver: Any) -> None:
        """As the contract says, of somebody whom the list does not know yet."""
        sandbox.reset("mailchimp")
        super().test_lookups_agree_with_what_was_told(sandbox, driver)

    def test_probes_change_nothing(self, sandbox: SandboxHandle, driver: Any) -> None:
        """As the contract says, of an audience without anybody."""
        sandbox.reset("mailchimp")
        super().test_probes_change_nothing(sandbox, driver)

    @pytest.mark.parametrize("kind", ["reset", "html", "empty", "cut_json", "lost_answer", "throttle"])
    @pytest.mark.parametrize("match", ["/members/", "/tags"])
    def test_a_new_member_is_made_and_tagged_whatever_breaks(self, sandbox: SandboxHandle, driver: Any, kind: str, match: str) -> None:
        """A consent of somebody new that broke off at any call ends with one member who has the tag, once it is told again."""
        sandbox.reset("mailchimp")
        sandbox.faults("mailchimp", {"kind": kind, "times": 1, "match": match})
        adapter = self.adapter(sandbox.url(self.vendor))
        self.tell(driver, adapter, self.instruction())
        assert self.tell(driver, adapter, self.instruction())[0].outcome in {Outcome.APPLIED, Outcome.UNCHANGED}
        held = sandbox.state("mailchimp")["contacts"]
        assert {key: (one["status"], list(one["tags"])) for key, one in held.items()} == {"L1/ana@example.org": ("subscribed", ["newsletter"])}

    def test_forces_single_calls(self) -> None:
        """A tag is set member by member."""
        assert {self.adapter().batch_size(state) for state in State} == {1}


def tagged(*names: str, status: str = "subscribed", count: int | None = None) -> VendorResponse:
    shown = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return answer({**member("ana@example.org", status), "tags": shown, "tags_count": len(names) if count is None else count})


class TestTagDialogue:
    """Instruction and answers to the calls on a member and his tags."""

    contract = TestTag()

    def told(self, state: State, *answers: VendorResponse) -> tuple[list[VendorRequest], list[tuple[Outcome, str]]]:
        replayed = replay(self.contract.adapter().tell([self.contract.instruction(state)]), *answers)
        return replayed.sent, outcomes(replayed.result)

    def test_a_withdrawal_takes_the_tag_away(self) -> None:
        """One call by the hash of the address, as the recipe has it; 204 is success."""
        (request,), ended = self.told(State.WITHDRAWN, NO_CONTENT)
        assert (request.operation, request.method, request.path, request.query) == ("post_tags", "POST", TAGS, ())
        assert request.body == b'{"tags":[{"name":"newsletter","status":"inactive"}],"is_syncing":false}'
        assert ended == [(Outcome.APPLIED, "")]

    @pytest.mark.parametrize(
        "said, expected",
        [
            (answer({"id": "L1"}), (Outcome.UNCHANGED, "")),
            (NOT_FOUND, (Outcome.MISCONFIGURED, "list_not_found")),
            (VendorResponse(status=200, body=b"<html>"), (Outcome.UNAVAILABLE, "unreadable_answer")),
            (answer({"title": "Too Many Requests"}, 429), (Outcome.THROTTLED, "http_429")),
        ],
    )
    def test_nobody_to_take_it_from(self, said: VendorResponse, expected: tuple[Outcome, str]) -> None:
        """A withdrawal of somebody absent is told only if the list is there: a wrong list answers 404 too."""
        sent, ended = self.told(State.WITHDRAWN, NOT_FOUND, said)
        assert [(one.method, one.path) for one in sent] == [("POST", TAGS), ("GET", "/lists/L1")]
        assert ended == [expected]

    def test_a_consent_makes_the_member_and_then_tags(self) -> None:
        """Somebody new is made with the evidence, and by `status_if_new` only: who unsubscribed meanwhile stays so."""
        sent, ended = self.told(State.GIVEN, NOT_FOUND, tagged(), NO_CONTENT)
        assert [(one.method, one.path) for one in sent] == [("GET", MEMBER), ("PUT", MEMBER), ("POST", TAGS)]
        evidence = {"timestamp_opt": "2026-01-05T16:00:00+00:00", "ip_opt": "203.0.113.9"}
        assert orjson.loads(sent[1].body) == {"email_address": "ana@example.org", "status_if_new": "subscribed", **evidence}
        assert orjson.loads(sent[2].body) == {"tags": [{"name": "newsletter", "status": "active"}], "is_syncing": False}
        assert ended == [(Outcome.APPLIED, "")]

    @pytest.mark.parametrize(
        "answers, calls, expected",
        [
            ((tagged("vip"), NO_CONTENT), 2, (Outcome.APPLIED, "")),
            ((tagged("vip", "newsletter"),), 1, (Outcome.UNCHANGED, "")),
            ((tagged("Newsletter"), NO_CONTENT), 2, (Outcome.APPLIED, "")),
            ((tagged(status="pending"), NO_CONTENT), 2, (Outcome.PENDING_CONFIRMATION, "")),
            ((tagged("newsletter", status="pending"),), 1, (Outcome.PENDING_CONFIRMATION, "")),
            ((tagged(status="unsubscribed"),), 1, (Outcome.REJECTED, "compliance_state")),
            ((tagged("newsletter", status="cleaned"),), 1, (Outcome.REJECTED, "compliance_state")),
            ((tagged("newsletter", status="archived"),), 1, (Outcome.REJECTED, "archived")),
            ((NOT_FOUND, tagged(status="unsubscribed")), 2, (Outcome.REJECTED, "compliance_state")),
            ((NOT_FOUND, answer({"title": "Member In Compliance State"}, 400)), 2, (Outcome.REJECTED, "compliance_state")),
            ((NOT_FOUND, NOT_FOUND), 2, (Outcome.MISCONFIGURED, "list_not_found")),
            ((tagged(status="transactional"), tagged(), NO_CONTENT), 3, (Outcome.APPLIED, "")),
            ((tagged(), NOT_FOUND), 2, (Outcome.UNAVAILABLE, "member_gone")),
            ((tagged(), VendorResponse(status=200)), 2, (Outcome.UNAVAILABLE, "unreadable_answer")),
            ((answer({"id": MD5}),), 1, (Outcome.UNAVAILABLE, "unreadable_answer")),
        ],
    )
    def test_a_consent_looks_first(self, answers: tuple[VendorResponse, ...], calls: int, expected: tuple[Outcome, str]) -> None:
        """Who left is not tagged, who has the tag is left alone, and who has not confirmed is waited for."""
        sent, ended = self.told(State.GIVEN, *answers)
        assert (len(sent), ended) == (calls, [expected])

    def test_a_transactional_member_is_subscribed(self) -> None:
        """Who only got receipts never said no, and mail flows only to subscribed members."""
        sent, _ = self.told(State.GIVEN, tagged(status="transactional"), tagged(), NO_CONTENT)
        assert orjson.loads(sent[1].body)["status"] == "subscribed"

    def test_purposes_with_tags_of_their_own_go_one_by_one(self) -> None:
        """In a chunk cut for whole lists as many are told as four requests allow, and the rest comes back at once, uncounted."""
        options = [{"tag": "offers"}, {"tag": "news"}, {"tag": "events"}]
        told = [self.contract.instruction(State.WITHDRAWN, number=number, options=one) for number, one in enumerate(options)]
        adapter = self.contract.adapter(options={"list_id": "L1"})
        replayed = replay(adapter.tell(told), NO_CONTENT, NO_CONTENT)
        assert [orjson.loads(one.body)["tags"][0]["name"] for one in replayed.sent] == ["offers", "news"]
        assert outcomes(replayed.result) == [(Outcome.APPLIED, ""), (Outcome.APPLIED, ""), (Outcome.THROTTLED, "next_dialogue")]

    def test_a_withdrawal_wins_where_two_purposes_share_a_tag(self) -> None:
        """One tag is one state: it is taken away once, and the consent for the other purpose is kept out."""
        told = [self.contract.instruction(), self.contract.instruction(State.WITHDRAWN, purpose="offers", number=2)]
        replayed = replay(self.contract.adapter().tell(told), NO_CONTENT)
        assert replayed.operations == ["post_tags"]
        assert outcomes(replayed.result) == [(Outcome.NOT_APPLICABLE, "withdrawn_for_another_purpose"), (Outcome.APPLIED, "")]

    def test_each_tag_is_a_place_of_its_own(self) -> None:
        """Tags of a list do not touch each other, nor the list's status."""
        adapter = self.contract.adapter()
        places = [adapter.place_of(options) for options in ({}, {"tag": "offers"}, {"list_id": "L2"}, {"tag": None})]
        assert places == ["L1 newsletter", "L1 offers", "L2 newsletter", "L1"]

    @pytest.mark.parametrize(
        "options, by_purpose, shared",
        [
            ("tag: news", "{offers: {tag: offers}, events: {tag: events}}", []),
            ("tag: news", "{offers: {tag: offers}}", ["events"]),
            ("tag: news", "{}", ["events", "offers"]),
            ("list_id: L1", "{offers: {tag: offers}, events: {list_id: L2}}", []),
        ],
    )
    def test_only_purposes_with_one_tag_share_a_state(self, options: str, by_purpose: str, shared: list[str]) -> None:
        """From the routing file: a withdrawal holds back the consents of those purposes that have the same tag, and of no others."""
        listed = options if "list_id" in options else f"list_id: L1, {options}"
        text = f"""\
version: 1
sources: {{}}
purposes: {{news: {{}}, offers: {{}}, events: {{}}}}
destinations:
  main: {{vendor: mailchimp, credentials: {{api_key: test-key-us1}}, options: {{{listed}}}, options_by_purpose: {by_purpose}}}
triggers: [{{deliver_to: main}}]
"""
        routing = load_routing(text, filename="consent.yaml", environment={})
        assert sharing("news", routing.destinations["main"], routing.purposes_of("main")) == shared

    def test_a_tag_and_a_permission_exclude_each_other(self) -> None:
        """One of them is the consent; with both the start is refused."""
        with pytest.raises(ConfigurationError, match="option 'tag' excludes 'marketing_permission_id'"):
            self.contract.adapter(options={"list_id": "L1", "tag": "news", "marketing_permission_id": "mp1"})

    def ask(self, *answers: VendorResponse) -> tuple[list[VendorRequest], Held]:
        replayed = replay(self.contract.adapter().ask(PERSON, {}), *answers)
        return replayed.sent, replayed.result

    @pytest.mark.parametrize(
        "said, expected",
        [
            (tagged("vip", "newsletter"), State.GIVEN),
            (tagged("vip"), State.WITHDRAWN),
            (tagged("newsletter", status="unsubscribed"), State.WITHDRAWN),
            (tagged("newsletter", status="cleaned"), State.WITHDRAWN),
            (tagged("newsletter", status="archived"), State.WITHDRAWN),
            (tagged("newsletter", status="pending"), None),
        ],
    )
    def test_reads_the_tag_of_a_member_who_is_mailed(self, said: VendorResponse, expected: State | None) -> None:
        """The tag is the state, but who left the list has left everything in it, and who has not confirmed has said nothing."""
        sent, held = self.ask(said)
        assert ([one.path for one in sent], held) == ([MEMBER], Held(state=expected, vendor_reference="c1"))

    @pytest.mark.parametrize(
        "said, expected",
        [
            (answer({"tags": [{"id": 1, "name": "newsletter"}], "total_items": 51}), Held(state=State.GIVEN, vendor_reference="c1")),
            (answer({"tags": [], "total_items": 0}), Held(state=State.WITHDRAWN, vendor_reference="c1")),
            (answer({"title": "Too Many Requests"}, 429), Held(readable=False)),
            (VendorResponse(status=200, body=b"<html>"), Held(readable=False)),
        ],
    )
    def test_asks_for_the_tags_that_a_member_does_not_show(self, said: VendorResponse, expected: Held) -> None:
        """A member shows fifty tags; where he has more, they are asked for, and without an answer nothing is known."""
        sent, held = self.ask(tagged("vip", count=51), said)
        assert [(one.path, one.query) for one in sent] == [(MEMBER, ()), (TAGS, (("count", "1000"),))]
        assert held == expected

    def test_a_member_without_his_tags_cannot_be_read(self) -> None:
        """An answer that shows no tags at all says nothing about one."""
        assert self.ask(answer(member("ana@example.org", "subscribed")))[1] == Held(readable=False)


class TestSandbox:
    """What the documentation says of tags holds for the sandbox."""

    contract = TestTag()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["mailchimp"]) as handle:
            yield handle

    def tell(self, sandbox: SandboxHandle, state: State) -> list[tuple[Outcome, str]]:
        return outcomes(self.contract.tell(DirectDriver(), self.contract.adapter(sandbox.url("mailchimp")), self.contract.instruction(state)))

    def test_tags_go_by_the_hash_only(self, sandbox: SandboxHandle) -> None:
        """Neither the address nor the contact id is taken for a call on tags, and nothing changed."""
        sandbox.place("mailchimp", email="ana@example.org", status="subscribed", tags=["vip"])
        contact_id = sandbox.state("mailchimp")["contacts"]["L1/ana@example.org"]["contact_id"]
        body = b'{"tags":[{"name":"vip","status":"inactive"}],"is_syncing":false}'
        paths = [f"/lists/L1/members/{name}/tags" for name in ("ana%40example.org", contact_id)]
        adapter = self.contract.adapter(sandbox.url("mailchimp"))
        said = [DirectDriver()._send(adapter, VendorRequest(operation="post_tags", path=path, body=body)) for path in paths]
        assert [one.status for one in said] == [404, 404]
        assert list(sandbox.state("mailchimp")["contacts"]["L1/ana@example.org"]["tags"]) == ["vip"]

    def test_a_member_shows_fifty_tags_and_all_can_be_asked_for(self, sandbox: SandboxHandle) -> None:
        """Somebody with more tags than a member shows is read by the call on tags."""
        sandbox.place("mailchimp", email="ana@example.org", status="subscribed", tags=[*(f"t{number}" for number in range(60)), "newsletter"])
        adapter = self.contract.adapter(sandbox.url("mailchimp"))
        assert DirectDriver().drive(adapter, adapter.ask(PERSON, {})).state is State.GIVEN
        assert sandbox.state("mailchimp")["call_count"] == 2

    def test_a_tag_leaves_the_others_and_the_status_alone(self, sandbox: SandboxHandle) -> None:
        """A withdrawal by tag takes away that tag; the member stays subscribed and keeps the rest."""
        sandbox.place("mailchimp", email="ana@example.org", status="subscribed", tags=["vip", "newsletter", "offers"])
        assert self.tell(sandbox, State.WITHDRAWN) == [(Outcome.APPLIED, "")]
        held = sandbox.state("mailchimp")["contacts"]["L1/ana@example.org"]
        assert (held["status"], list(held["tags"])) == ("subscribed", ["vip", "offers"])

    def test_who_left_is_not_tagged(self, sandbox: SandboxHandle) -> None:
        """A consent by tag of somebody who left by himself is refused, and no tag was set."""
        sandbox.place("mailchimp", email="ana@example.org", status="unsubscribed")
        assert self.tell(sandbox, State.GIVEN) == [(Outcome.REJECTED, "compliance_state")]
        assert sandbox.state("mailchimp")["contacts"]["L1/ana@example.org"]["tags"] == {}

    def test_a_withdrawal_by_tag_on_a_wrong_list_is_not_told(self, sandbox: SandboxHandle) -> None:
        """A missing list is misconfigured, not somebody who is absent already."""
        assert self.tell(sandbox, State.WITHDRAWN) == [(Outcome.UNCHANGED, "")]
        sandbox.settings("mailchimp", lists=["L2"])
        assert self.tell(sandbox, State.WITHDRAWN) == [(Outcome.MISCONFIGURED, "list_not_found")]
