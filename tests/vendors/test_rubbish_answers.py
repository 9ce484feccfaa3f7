"""A vendor may answer anything: each dialogue ends within its calls, with results of the right form, and repeats nothing that it was told.

The samples are what the sandboxes really answer; what is handed to the dialogues is near to those, or junk.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pipeline.domain import Outcome, Polled, State, VendorResult
from pipeline.identifiers import names_person
from pipeline.vendors import adapter_class, has_verb, vendor_names
from pipeline.vendors._authorizing import Authorizable
from pipeline.vendors.base import Adapter, Held, SignIn, SourceSettings, VendorRequest, VendorResponse
from tests.sandboxes import start_sandboxes
from tests.support.fuzzing import examples
from tests.support.mutations import near, texts_filled
from tests.vendors.contract import PERSON, VendorContract
from tests.vendors.drivers import DirectDriver, replay

TOLD = [name for name in vendor_names() if has_verb(name, "tell")]
NOW = datetime(2026, 1, 6, tzinfo=UTC)
LONGEST_WAIT_SECONDS = 86_400.0
MOST_ANSWERS = 60


def contracts(vendor: str) -> list[VendorContract]:
    """Every way in which this vendor's tests set it up."""
    module = importlib.import_module(f"tests.vendors.test_{vendor}")
    kinds = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, VendorContract) and kind.__name__.startswith("Test") and kind is not VendorContract
    ]
    return [kind() for kind in kinds]


class Recording(DirectDriver):
    """Drives dialogues and keeps every answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[VendorResponse] = []

    def _send(self, adapter: Adapter, request: VendorRequest) -> VendorResponse:
        self.answers.append(super()._send(adapter, request))
        return self.answers[-1]


def dialogues(contract: VendorContract, adapter: Adapter) -> dict[str, Callable[[], Any]]:
    """Everything that can be said to a vendor, by name."""
    can = adapter.capabilities
    states = sorted(can.states)
    told = {f"tell {state}": lambda state=state: adapter.tell([contract.instruction(state)]) for state in states}
    many = {
        f"tell many {state}": lambda state=state: adapter.tell(
            [contract.instruction(state, number=number) for number in range(min(3, adapter.batch_size(state)))]
        )
        for state in states
    }
    asked: dict[str, Callable[[], Any]] = {"ask": lambda: adapter.ask(PERSON, {})} if can.reads_back else {}
    if adapter.probes:
        asked["probe"] = lambda: adapter.probe({})
    if can.signs_in:
        asked["sign in"] = adapter.sign_in
    if type(adapter).poll is not Adapter.poll:
        source = SourceSettings(name="s", kind=contract.vendor, purposes={"newsletter": "newsletter", "__cls1": "newsletter"}, country="IT")
        asked["poll"] = lambda: adapter.poll("", source, NOW)
        asked["poll on"] = lambda: adapter.poll("7", source, NOW)
    return {**told, **many, **asked}


@pytest.fixture(scope="module")
def samples() -> dict[str, list[VendorResponse]]:
    """What each sandbox answers to everything, each answer once."""
    found: dict[str, list[VendorResponse]] = {}
    with start_sandboxes() as handle:
        for vendor in TOLD:
            driver = Recording()
            for contract in contracts(vendor):
                driver.token = None
                adapter = contract.adapter(handle.url(vendor))
                for name, begin in dialogues(contract, adapter).items():
                    if name != "sign in":
                        driver.drive(adapter, begin(), 3)
            unique = {(answer.status, answer.body): answer for answer in driver.answers}
            found[vendor] = list(unique.values())
            assert found[vendor]
    return found


def checked(name: str, ended: Any, size: int, secrets: list[str]) -> None:
    """The form of what a dialogue ended with."""
    if name.startswith(("tell", "probe")):
        assert len(ended) == size, ended
        results = list(ended)
    elif name == "sign in":
        assert isinstance(ended, SignIn)
        assert bool(ended.token) != bool(ended.refusal)
        assert ended.expires_in_seconds is None or 0 <= ended.expires_in_seconds < math.inf
        results = [ended.refusal] if ended.refusal else []
    else:
        assert isinstance(ended, Held | Polled | VendorResult)
        results = [ended] if isinstance(ended, VendorResult) else []
    for result in results:
        assert isinstance(result, VendorResult)
        assert isinstance(result.outcome, Outcome)
        assert result.retry_after_seconds is None or 0 <= result.retry_after_seconds <= LONGEST_WAIT_SECONDS
        assert len(result.reason) <= 60
        assert result.reason.isascii()
        assert not any(secret in result.reason for secret in secrets), result


HEADERS = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {
            "retry-after": st.one_of(
                st.sampled_from(["9" * 400, "-1", "1e9", "Wed, 21 Oct 9999 07:28:00 GMT", "Mon, 00 Xxx 0000 99:99:99 +9999", "", "86401"]), st.text(max_size=20)
            )
        }
    ),
)
STATUSES = st.sampled_from([200, 200, 200, 201, 202, 204, 206, 299, 300, 302, 400, 401, 403, 404, 405, 409, 410, 418, 422, 429, 451, 499, 500, 503, 599])


@pytest.mark.parametrize("vendor", TOLD)
def test_rubbish_ends_in_a_result(vendor: str, samples: dict[str, list[VendorResponse]]) -> None:
    """No exception, no endless dialogue, no word of the person and no secret in a reason, no wait without an end."""
    settings = contracts(vendor)
    bodies = sorted({answer.body for answer in samples[vendor]})

    @given(data=st.data())
    @examples(150)
    def rubbish(data: Any) -> None:
        contract = data.draw(st.sampled_from(settings))
        adapter = contract.adapter()
        every = dialogues(contract, adapter)
        name = data.draw(st.sampled_from(sorted(every)))
        dialogue = every[name]()
        answers: list[VendorResponse] = []
        try:
            request = next(dialogue)
            while True:
                assert len(answers) < MOST_ANSWERS, "the dialogue does not end"
                adapter.sign(request, "session-token")
                faithful = data.draw(st.integers(0, 2))
                answer = (
                    data.draw(st.sampled_from(samples[vendor]))
                    if faithful
                    else VendorResponse(status=data.draw(STATUSES), headers=data.draw(HEADERS), body=data.draw(near(bodies)))
                )
                answers.append(answer)
                adapter.is_signed_out(answer)
                request = dialogue.send(answer)
        except StopIteration as end:
            size = len(adapter.probes) if name == "probe" else min(3, adapter.batch_size(State(name.rpartition(" ")[2]))) if name.startswith("tell many") else 1
            checked(name, end.value, size, contract.personal())
        if name.startswith("tell"):
            state = State(name.rpartition(" ")[2])
            assert len(answers) <= max(adapter.max_calls(state), 1), "more calls than declared: they would not be counted against the limit"

    rubbish()


@pytest.mark.parametrize("vendor", TOLD)
def test_an_answer_that_names_the_person_is_not_repeated(vendor: str, samples: dict[str, list[VendorResponse]]) -> None:
    """With every text of every answer replaced by the person's address nothing of it is in the reason, nor in what is kept of the reference."""
    for contract in contracts(vendor):
        adapter = contract.adapter()
        for name, begin in dialogues(contract, adapter).items():
            for answer in samples[vendor]:
                try:
                    filled = json.dumps(texts_filled(json.loads(answer.body), PERSON.email or "")).encode()
                except ValueError:
                    continue
                dialogue = begin()
                ended = None
                try:
                    next(dialogue)
                    for _ in range(MOST_ANSWERS):
                        dialogue.send(structs.replace(answer, body=filled))
                except StopIteration as end:
                    ended = end.value
                if name.startswith("tell"):
                    for result in ended or ():
                        assert PERSON.email not in result.reason, (name, answer.body, result)
                        assert names_person(result.vendor_reference, PERSON) or PERSON.email not in result.vendor_reference


APPROVED = [name for name in TOLD if issubclass(adapter_class(name), Authorizable)]


def test_some_vendor_is_asked_for_an_approval() -> None:
    """Else what follows would try nothing."""
    assert APPROVED


@pytest.mark.parametrize("vendor", APPROVED)
def test_approval_survives_rubbish(vendor: str, samples: dict[str, list[VendorResponse]]) -> None:
    """Asking for an approval ends in an answer for the operator, whatever the vendor says."""
    kind: Any = adapter_class(vendor)
    kind = kind.authorization
    options = {name: "test" for name, option in kind.options.items() if option.required and option.type is str}
    authorization = kind(base_url="https://vendor.example/", credentials=dict.fromkeys(kind.credentials, "test"), options=options)

    @given(status=STATUSES, headers=HEADERS, body=near(sorted({answer.body for answer in samples[vendor]})))
    @examples(100)
    def rubbish(status: int, headers: dict[str, str], body: bytes) -> None:
        answer = VendorResponse(status=status, headers=headers, body=body)
        assert replay(authorization.authorize(), answer).result is not None

    rubbish()
