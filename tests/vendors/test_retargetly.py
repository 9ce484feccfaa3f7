"""The Retargetly vendor: the contract, what is hashed and how, the division of a refused array, and its sandbox."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain import Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.fence import sharing
from pipeline.identifiers import normalise_national_id, normalise_phone
from pipeline.routing import Routing, Source
from pipeline.routing_file import load_routing
from pipeline.vendors._removing import Removal
from pipeline.vendors.base import VendorResponse, missing_identifier
from pipeline.vendors.retargetly import HASH_KEYS, MOST_CALLS
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.support.relay import Relay
from tests.vendors.contract import PERSON, UNREADABLE, VendorContract, result
from tests.vendors.drivers import DirectDriver, replay
from workers.exporting import write_removals

APPLIED = result(Outcome.APPLIED)
LATER = result(Outcome.THROTTLED, "next_dialogue", retry_after=0.0)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def said(code: Any, status: int = 200) -> VendorResponse:
    return VendorResponse(status=status, body=orjson.dumps({"response": {"msg": "Text for people.", "code": code}}))


YES = VendorResponse(status=200, body=b'{"response":{"msg":"Successful upload.","code":"SUCCESS"}}')
NO = said("ERROR")
REFUSED = result(Outcome.REJECTED, "code_ERROR")


class TestRetargetly(VendorContract):
    vendor = "retargetly"
    credentials: ClassVar = {"public_key": "test-retargetly-key"}
    options: ClassVar = {"segment_ids": [13600]}
    not_options: ClassVar = {"segment_ids": ["13600"], "hashes": ["ml_md5"], "country": "ES", "batch_size": 501, "busy_codes": "WAIT"}
    not_removal_options: ClassVar = {"removal_hashes": ["ml_md5"], "removal_device_types": {"cookie": "web"}, "removal_separator": "\t"}
    not_states: ClassVar = frozenset({State.WITHDRAWN})

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        plain = {"ml": subject.email, "nid": subject.national_id, "mb": (subject.phone or "").removeprefix("+")}
        states = {sandbox.states("retargetly").get(f"13600/{prefix}_sh2:{sha256(value)}") for prefix, value in plain.items() if value}
        assert len(states) == 1
        return states.pop()


def items_of(contract: VendorContract, *told: Instruction, **options: Any) -> list[dict[str, Any]]:
    adapter = contract.adapter(options={"segment_ids": [13600], **options})
    (request,) = replay(adapter.tell(told)).sent
    items: list[dict[str, Any]] = orjson.loads(request.body)
    return items


class TestItems:
    """What one person becomes."""

    contract = TestRetargetly()

    def item(self, subject: Subject, **options: Any) -> dict[str, Any]:
        (item,) = items_of(self.contract, self.contract.instruction(subject=subject), **options)
        return item

    def test_the_body_is_the_vendors_own_example(self) -> None:
        """The example of the page, byte for byte, with the key added by the signature alone."""
        adapter = self.contract.adapter()
        (request,) = replay(adapter.tell([self.contract.instruction(subject=Subject(email="ana@example.org", country="BR"))])).sent
        assert (request.operation, request.method, request.path, request.query) == ("post_crm", "POST", "/crm", ())
        assert dict(request.headers) == {"content-type": "application/json"}
        assert request.body == b'[{"hashes":{"ml_sh2":"%s"},"country":"BR","segmentIds":[13600]}]' % sha256("ana@example.org").encode()
        assert adapter.sign(request, None).query == (("publickey", "test-retargetly-key"),)

    def test_all_nine_hashes(self) -> None:
        """Each of the three identifiers, plain and by both digests in lower-case hex."""
        plain = {"ml": "ana@example.org", "nid": "12345678909", "mb": "5511912345678"}
        expected = {f"{prefix}_raw": text for prefix, text in plain.items()}
        expected |= {f"{prefix}_sh2": sha256(text) for prefix, text in plain.items()}
        expected |= {f"{prefix}_sh5": hashlib.sha512(text.encode()).hexdigest() for prefix, text in plain.items()}
        assert self.item(PERSON, hashes=list(HASH_KEYS))["hashes"] == expected
        assert set(expected) == set(HASH_KEYS)

    def test_nothing_goes_raw_by_default(self) -> None:
        """The three SHA-256 digests go, and no identifier itself."""
        item = self.item(PERSON)
        assert list(item["hashes"]) == ["ml_sh2", "nid_sh2", "mb_sh2"]
        assert not [value for value in PERSON.identifiers().values() if value in str(item)]

    @pytest.mark.parametrize("name", list(HASH_KEYS))
    def test_only_what_is_listed_goes(self, name: str) -> None:
        """One key listed, one key sent."""
        assert list(self.item(PERSON, hashes=[name])["hashes"]) == [name]

    @pytest.mark.parametrize(
        "local, country, digits",
        [
            ("(011) 5119-0123", "AR", "541151190123"),
            ("011 15-5119-0123", "AR", "541151190123"),
            ("+54 9 11 5119 0123", None, "541151190123"),
            ("(051) 99999-9999", "BR", "5551999999999"),
            ("099 123 456", "UY", "59899123456"),
            ("+1 202 555 0123", None, "12025550123"),
        ],
    )
    def test_a_phone_is_country_area_and_number(self, local: str, country: str | None, digits: str) -> None:
        """Digits alone, without a trunk zero, and without the 9 or 15 of Argentine mobiles, as in the page's example."""
        assert self.item(Subject(phone=normalise_phone(local, country)), hashes=["mb_raw"])["hashes"] == {"mb_raw": digits}

    def test_the_nine_may_stay(self) -> None:
        """Where an account's segments were made from E.164."""
        assert self.item(Subject(phone="+5491151190123"), hashes=["mb_raw"], keep_mobile_nine=True)["hashes"] == {"mb_raw": "5491151190123"}

    def test_an_email_is_in_lower_case(self) -> None:
        """Dots and tags stay: without them it may be another person's."""
        assert self.item(Subject(email=" Ana.P+x@Example.org "), hashes=["ml_sh2"])["hashes"] == {"ml_sh2": sha256("ana.p+x@example.org")}

    @pytest.mark.parametrize("text, digits", [("012.345.678-09", "01234567809"), ("00.000.001", "00000001")])
    def test_a_national_id_keeps_its_zeros(self, text: str, digits: str) -> None:
        """Digits alone, leading zeros included."""
        assert self.item(Subject(national_id=normalise_national_id(text)), hashes=["nid_raw"])["hashes"] == {"nid_raw": digits}

    def test_a_national_id_with_letters_is_left_out(self) -> None:
        """Its digits alone may be another person's; without anything else nothing is sent."""
        subject = Subject(national_id="12345678K", country="CL")
        replayed = replay(self.contract.adapter().tell([self.contract.instruction(subject=subject)]))
        assert (replayed.sent, list(replayed.result)) == ([], [missing_identifier()])

    @pytest.mark.parametrize("own", ["AR", "MX", "BR", "CL", "CO", "PE", "US", "UY"])
    def test_the_countries_of_the_page(self, own: str) -> None:
        """Each is sent as it is."""
        assert self.item(Subject(email="ana@example.org", country=own))["country"] == own

    @pytest.mark.parametrize("own, option, expected", [("ES", None, None), ("ES", "BR", None), (None, None, None), (None, "BR", "BR"), ("AR", "BR", "AR")])
    def test_a_country_that_is_not_on_the_page_is_left_out(self, own: str | None, option: str | None, expected: str | None) -> None:
        """The person's own counts; the setting stands in only where it is not known."""
        assert self.item(Subject(email="ana@example.org", country=own), country=option).get("country") == expected

    def test_a_purpose_may_have_its_own_segments(self) -> None:
        """The segments of the instruction come before the destination's."""
        (item,) = items_of(self.contract, self.contract.instruction(options={"segment_ids": [1, 2], "hashes": ["mb_sh2"], "country": None}))
        assert (item["segmentIds"], list(item["hashes"])) == ([1, 2], ["mb_sh2"])

    @pytest.mark.parametrize("segments", [[], ["1"], [True], [1.5], [0], [-1]])
    def test_segments_are_whole_numbers(self, segments: list[Any]) -> None:
        """Anything else would be refused for everybody in the array."""
        with pytest.raises(ConfigurationError, match="'segment_ids'"):
            self.contract.adapter(options={"segment_ids": segments})


class TestAnswers:
    """What an answer is read as."""

    contract = TestRetargetly()

    @pytest.mark.parametrize(
        "answer, expected",
        [
            (YES, APPLIED),
            (said("SUCCESS", 201), APPLIED),
            (said("SUCCESS", 500), result(Outcome.UNAVAILABLE, "http_500", definite=False)),
            (said("success"), result(Outcome.REJECTED, "unknown_code")),
            (said("INVALID_BODY"), result(Outcome.REJECTED, "code_INVALID_BODY")),
            (said("ana@example.org"), result(Outcome.REJECTED, "unknown_code")),
            (said("ERROR", 400), result(Outcome.REJECTED, "http_400")),
            (said("KEY", 400), result(Outcome.MISCONFIGURED, "misconfigured_code")),
            (said(17), result(Outcome.MISCONFIGURED, "misconfigured_code")),
            (said("WAIT"), result(Outcome.THROTTLED, "busy_code")),
            (said(None), UNREADABLE),
            (said(""), UNREADABLE),
            (said(["SUCCESS"]), UNREADABLE),
            (VendorResponse(status=200, body=b'{"code":"SUCCESS"}'), UNREADABLE),
            (VendorResponse(status=200, body=b'{"response":"SUCCESS"}'), UNREADABLE),
        ],
    )
    def test_only_the_vendors_word_is_success(self, answer: VendorResponse, expected: VendorResult) -> None:
        """SUCCESS in the envelope counts, nothing else does; codes that an operator knows are settings."""
        options = {"segment_ids": [13600], "misconfigured_codes": ["KEY", 17], "busy_codes": ["WAIT"]}
        assert list(replay(self.contract.adapter(options=options).tell([self.contract.instruction()]), answer).result) == [expected]


class TestDivision:
    """Many people in one array, and what becomes of a refused one."""

    contract = TestRetargetly()

    def people(self, count: int) -> list[Instruction]:
        return [self.contract.instruction(subject=Subject(email=f"p{number}@example.org"), number=number) for number in range(count)]

    def drive(self, told: Sequence[Instruction], bad: Collection[str], most: int = 500) -> tuple[list[int], list[VendorResult]]:
        """The sizes of the arrays sent, and the results, at a vendor that refuses every array with a bad person, or with too many."""
        dialogue = self.contract.adapter(options={"segment_ids": [13600], "hashes": ["ml_raw"]}).tell(told)
        sizes = []
        try:
            request = next(dialogue)
            while True:
                sent = {item["hashes"]["ml_raw"] for item in orjson.loads(request.body)}
                sizes.append(len(sent))
                request = dialogue.send(NO if sent & set(bad) or len(sent) > most else YES)
        except StopIteration as end:
            return sizes, list(end.value)

    def test_one_array_for_all(self) -> None:
        """Five hundred people are one call; those who cannot be told are left out and keep their place."""
        told = self.people(500)
        told[3] = self.contract.instruction(subject=Subject(external_id="p3"))
        told[5] = self.contract.instruction(State.WITHDRAWN)
        sizes, results = self.drive(told, [])
        assert sizes == [498]
        assert (results[3], results[5]) == (missing_identifier(), result(Outcome.UNSUPPORTED, "cannot_express_withdrawn"))
        assert results.count(APPLIED) == 498

    def test_one_bad_person_is_found_by_halves(self) -> None:
        """The others are told; a part known to hold the bad one is not sent whole again."""
        sizes, results = self.drive(self.people(8), ["p6@example.org"])
        assert sizes == [8, 4, 2, 1, 1]
        assert results == [APPLIED] * 6 + [REFUSED, APPLIED]

    def test_several_bad_people_are_found(self) -> None:
        """Refused are those alone."""
        _, results = self.drive(self.people(4), ["p0@example.org", "p3@example.org"])
        assert results == [REFUSED, APPLIED, APPLIED, REFUSED]

    def test_what_stays_undecided_comes_back(self) -> None:
        """Eight calls at the most; the rest is for the next dialogue, at once and uncounted."""
        sizes, results = self.drive(self.people(500), ["p499@example.org"])
        assert (len(sizes), sizes[0]) == (MOST_CALLS, 500)
        assert results.count(APPLIED) == sum(sizes[1:])
        assert results.count(LATER) == 500 - results.count(APPLIED)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 120), st.sets(st.integers(0, 119), max_size=8), st.sampled_from([500, 7, 1]))
    def test_every_dialogue_decides_about_somebody(self, count: int, bad: set[int], most: int) -> None:
        """However many are bad or too many, in the end all the good are told and the bad refused, and no dialogue was in vain."""
        names = {f"p{number}@example.org" for number in bad}
        waiting, decided = self.people(count), {}
        while waiting:
            sizes, results = self.drive(waiting, names, most)
            assert len(sizes) <= MOST_CALLS
            done = {one.subject.email: each for one, each in zip(waiting, results, strict=True) if each != LATER}
            assert done
            decided |= done
            waiting = [one for one in waiting if one.subject.email not in done]
        assert decided == {f"p{number}@example.org": REFUSED if number in bad else APPLIED for number in range(count)}

    @pytest.mark.parametrize(
        "answer, met, unsent",
        [
            (VendorResponse(status=429, headers={"retry-after": "7"}), *[result(Outcome.THROTTLED, "http_429", retry_after=7.0)] * 2),
            (VendorResponse(status=401), *[result(Outcome.MISCONFIGURED, "http_401")] * 2),
            (VendorResponse(status=500), result(Outcome.UNAVAILABLE, "http_500", definite=False), result(Outcome.UNAVAILABLE, "http_500")),
            (VendorResponse(status=200), UNREADABLE, result(Outcome.UNAVAILABLE, "unreadable_answer")),
        ],
    )
    def test_trouble_on_the_way_ends_the_dialogue(self, answer: VendorResponse, met: VendorResult, unsent: VendorResult) -> None:
        """Who was told stays told; those who were not sent are known not to have been."""
        replayed = replay(self.contract.adapter().tell(self.people(8)), NO, YES, answer)
        assert list(replayed.result) == [APPLIED] * 4 + [met] * 2 + [unsent] * 2


class TestSandbox:
    """What the page says of Retargetly holds for its sandbox."""

    contract = TestRetargetly()

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes(["retargetly"]) as handle:
            yield handle

    def tell(self, sandbox: SandboxHandle, *told: Instruction, **options: Any) -> list[VendorResult]:
        adapter = self.contract.adapter(sandbox.url("retargetly"), options={"segment_ids": [13600], "hashes": ["ml_sh2"], **options})
        return self.contract.tell(DirectDriver(), adapter, *(told or [self.contract.instruction()]))

    def test_a_segment_of_another_type_is_not_populated(self, sandbox: SandboxHandle) -> None:
        """The answer is a success all the same, so a test with one person is the only way to notice."""
        assert self.tell(sandbox, segment_ids=[900, 13601]) == [APPLIED]
        assert sandbox.states("retargetly") == {f"13601/ml_sh2:{sha256('ana@example.org')}": "given"}

    def test_segments_only_grow(self, sandbox: SandboxHandle) -> None:
        """A withdrawal sends nothing, and whoever was there stays until the file feed removes him."""
        self.tell(sandbox)
        assert self.tell(sandbox, self.contract.instruction(State.WITHDRAWN)) == [result(Outcome.UNSUPPORTED, "cannot_express_withdrawn")]
        assert (list(sandbox.states("retargetly").values()), sandbox.state("retargetly")["call_count"]) == (["given"], 1)

    @pytest.mark.parametrize("status, reason", [(200, "code_ERROR"), (400, "http_400")])
    def test_one_wrong_person_does_not_cost_the_others(self, sandbox: SandboxHandle, status: int, reason: str) -> None:
        """An array is refused whole; divided, all but one are added, whichever way the refusal is put."""
        sandbox.settings("retargetly", refused_hashes=[sha256("p2@example.org")], refusal_status=status)
        told = [self.contract.instruction(subject=Subject(email=f"p{number}@example.org"), number=number) for number in range(5)]
        assert [one.reason for one in self.tell(sandbox, *told)] == ["", "", reason, "", ""]
        assert len(sandbox.states("retargetly")) == 4

    def test_too_many_in_one_array(self, sandbox: SandboxHandle) -> None:
        """An unknown limit is found by dividing."""
        sandbox.settings("retargetly", max_items=3)
        told = [self.contract.instruction(subject=Subject(email=f"p{number}@example.org"), number=number) for number in range(6)]
        assert self.tell(sandbox, *told) == [APPLIED] * 6

    def test_refuses_another_key(self, sandbox: SandboxHandle) -> None:
        """Another key gets 401, and nobody is added."""
        adapter = self.contract.adapter(sandbox.url("retargetly"), credentials={"public_key": "test-other"})
        assert self.contract.tell(DirectDriver(), adapter, self.contract.instruction()) == [result(Outcome.MISCONFIGURED, "http_401")]
        assert sandbox.states("retargetly") == {}


class TestSegments:
    """Purposes that share their segments share one state there."""

    def routed(self, options: str, by_purpose: str) -> Routing:
        text = f"""\
version: 1
sources: {{}}
purposes: {{news: {{}}, offers: {{}}, events: {{}}}}
destinations:
  crm: {{vendor: retargetly, credentials: {{public_key: test-key}}, options: {options}, options_by_purpose: {by_purpose}}}
triggers: [{{deliver_to: crm}}]
"""
        return load_routing(text, filename="consent.yaml", environment={})

    @pytest.mark.parametrize(
        "options, by_purpose, shared",
        [
            ("{segment_ids: [1]}", "{}", ["events", "offers"]),
            ("{segment_ids: [1, 2]}", "{offers: {segment_ids: [2, 1]}, events: {segment_ids: [3]}}", ["offers"]),
            ("{segment_ids: [1, 2]}", "{offers: {segment_ids: [3]}, events: {segment_ids: [4], hashes: [ml_sh2]}}", []),
            ("{}", "{news: {segment_ids: [1]}, offers: {segment_ids: [2]}, events: {segment_ids: [1]}}", ["events"]),
        ],
    )
    def test_only_purposes_with_the_same_segments_share_a_state(self, options: str, by_purpose: str, shared: list[str]) -> None:
        """From the routing file: a withdrawal holds back the consents of those purposes that would put the person back, and of no others."""
        routing = self.routed(options, by_purpose)
        assert sharing("news", routing.destinations["crm"], routing.purposes_of("crm")) == shared

    @pytest.mark.parametrize(
        "by_purpose",
        [
            "{offers: {segment_ids: [2, 3]}}",
            "{offers: {segment_ids: [1]}}",
            "{offers: {hashes: [nid_sh2]}}",
        ],
    )
    def test_segments_that_are_shared_in_part_stop_the_start(self, by_purpose: str) -> None:
        """No file could remove a person from what one purpose alone put him into; nor by hashes that only the other sends."""
        with pytest.raises(ConfigurationError, match="a segment in common must have all their 'segment_ids' and 'hashes' in common"):
            self.routed("{segment_ids: [1, 2]}", by_purpose)

    def test_a_consent_does_not_put_back_who_withdrew_another(self, client: redis.Redis) -> None:
        """Two purposes, one segment: withdrawn for one, the consent of the other is skipped, and nothing is sent."""
        relay = Relay(client, replace(self.routed("{segment_ids: [13600]}", "{}"), sources={"web": Source(name="web")}))
        relay.event("withdrawn", 2, email="ana@example.org")
        given = relay.event("given", 3, purpose="offers", email="ana@example.org")
        relay.drain()
        assert relay.deliveries(given) == {"crm": ("skipped", "contact_withdrawn")}
        assert relay.vendors["crm"].calls == []


ALL_TYPES = {"ml": "email", "nid": "external_id", "mb": "external_id"}


def removal(subject: Subject = PERSON, by_purpose: dict[str, Any] | None = None, **options: Any) -> Any:
    """What the file feed holds of one person who withdrew."""
    adapter = TestRetargetly().adapter(options={"segment_ids": [13600, 13601], **options})
    (found,) = adapter.export_removals([TestRetargetly().instruction(State.WITHDRAWN, subject, options=by_purpose or {})])
    return found


class TestFileFeed:
    """The rows that remove a person, which `/crm` cannot."""

    def test_one_row_for_each_hash_that_was_sent(self) -> None:
        """The same hashes as a `given` sends, in the columns of the page, with the segments in `remove_segments` and none to add."""
        assert TestRetargetly().adapter().removal_columns == ("device_type", "device_id", "segments", "remove_segments", "country_code")
        found = removal(removal_device_types=ALL_TYPES)
        assert found.rows == (
            ("email", sha256("ana@example.org"), "", "13600,13601", "BR"),
            ("external_id", sha256("12345678909"), "", "13600,13601", "BR"),
            ("external_id", sha256("5511912345678"), "", "13600,13601", "BR"),
        )
        assert found.unnamed == ()
        assert sha256("ana@example.org") not in repr(found)

    def test_a_kind_without_a_device_type_is_said_and_not_guessed(self) -> None:
        """Only the type of an e-mail is documented: whoever was told by phone or national id as well is not removed for certain."""
        assert removal().unnamed == ("national_id", "phone")
        assert removal(Subject(email="ana@example.org")).unnamed == ()
        assert removal(hashes=["ml_sh2"]).unnamed == ()
        assert removal(Subject(external_id="person-4711")) == Removal()

    def test_what_the_vendor_takes_as_id_is_a_setting(self) -> None:
        """Another hash or the raw value, another separator; whatever was sent and is not named by them is unnamed."""
        found = removal(Subject(email="ana@example.org"), removal_hashes=["ml_raw", "ml_sh5"], removal_separator="|")
        assert found.rows == (
            ("email", "ana@example.org", "", "13600|13601", ""),
            ("email", hashlib.sha512(b"ana@example.org").hexdigest(), "", "13600|13601", ""),
        )
        assert removal(removal_hashes=["ml_raw"], removal_device_types=ALL_TYPES).unnamed == ("national_id", "phone")

    def test_segments_are_those_of_the_purpose(self) -> None:
        """And the country is the destination's where the person's is not known, or left empty."""
        found = removal(Subject(email="ana@example.org"), {"segment_ids": [900]}, country="AR")
        assert found.rows == (("email", sha256("ana@example.org"), "", "900", "AR"),)
        assert removal(Subject(email="ana@example.org", country="ES")).rows[0][4] == ""

    @pytest.mark.parametrize("name", TestRetargetly.not_removal_options)
    def test_a_wrong_setting_stops_the_start(self, name: str) -> None:
        """Named, with what was expected."""
        with pytest.raises(ConfigurationError, match=name):
            TestRetargetly().adapter(options={"segment_ids": [13600], name: TestRetargetly.not_removal_options[name]})

    @pytest.mark.parametrize("compressed", [False, True])
    def test_the_sandbox_takes_people_out_by_such_a_file(self, tmp_path: Path, compressed: bool) -> None:
        """Told of a consent by call and of the withdrawal by file, a person is in the segments of another purpose only."""
        contract = TestRetargetly()
        with start_sandboxes(["retargetly"]) as sandbox:
            adapter = contract.adapter(sandbox.url("retargetly"), options={"segment_ids": [13600], "removal_device_types": ALL_TYPES})
            contract.tell(DirectDriver(), adapter, contract.instruction())
            contract.tell(DirectDriver(), adapter, contract.instruction(options={"segment_ids": [13601]}))
            assert len(sandbox.states("retargetly")) == 6
            (found,) = adapter.export_removals([contract.instruction(State.WITHDRAWN)])
            path = tmp_path / f"removals.tsv{'.gz' if compressed else ''}"
            write_removals(path, adapter.removal_columns, found.rows)
            assert sandbox.act("retargetly", "file", path.read_bytes()) == {"rows": 3, "unreadable": 0, "removed": 3}
            assert {key.partition("/")[0] for key in sandbox.states("retargetly")} == {"13601"}

    def test_the_sandbox_leaves_out_what_is_no_row_of_the_feed(self) -> None:
        """A wrong header refuses the file; an unknown device type or a short row is left out."""
        with start_sandboxes(["retargetly"]) as sandbox:
            with pytest.raises(ValueError, match="not the header row"):
                sandbox.act("retargetly", "file", b"device_id\tdevice_type\tsegments\n")
            taken = sandbox.act("retargetly", "file", b"device_type\tdevice_id\tsegments\tremove_segments\nphone\tabc\t\t13600\nemail\tabc\n")
            assert taken == {"rows": 0, "unreadable": 2, "removed": 0}
