"""The questions asked of every vendor; a vendor's test inherits `VendorContract` and says only what is its own.

Half of them hand answers to the dialogue, without a network. The other half run against the vendor's sandbox, through each driver.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from msgspec import structs

from pipeline.domain import IDENTIFIER_KINDS, Instruction, Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import adapter_class, base
from pipeline.vendors.base import Adapter, Held, VendorResponse
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.support.stack import wait_until
from tests.vendors.drivers import DRIVERS, PATIENT_SECONDS, make_driver, replay, results_of

PERSON = Subject(external_id="person-4711", email="ana@example.org", phone="+5511912345678", national_id="12345678909", country="BR")
PROFILE = {"name": "Ana Placeholder", "first_name": "Ana", "last_name": "Placeholder"}
EVIDENCE = {"ip": "203.0.113.9", "user_agent": "Placeholder/1.0"}
SAID_AT = datetime(2026, 1, 5, 16, 0, tzinfo=UTC)
DONE = frozenset({Outcome.APPLIED, Outcome.UNCHANGED, Outcome.PENDING_CONFIRMATION})
NOT_DROPPED = frozenset({Outcome.REJECTED, Outcome.MISCONFIGURED, Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.UNSUPPORTED})


def result(outcome: Outcome, reason: str = "", *, definite: bool = True, retry_after: float | None = None) -> VendorResult:
    return VendorResult(outcome=outcome, reason=reason, definite=definite, retry_after_seconds=retry_after)


UNREADABLE = result(Outcome.UNAVAILABLE, "unreadable_answer", definite=False)
PROBLEM = b'{"type":"about:blank","title":"Refused","status":0,"detail":"","instance":""}'
PLAIN_HTTP: Mapping[str, tuple[VendorResponse, VendorResult]] = {
    "302": (VendorResponse(status=302, headers={"location": "https://example.net/"}), result(Outcome.REJECTED, "http_302")),
    "400": (VendorResponse(status=400, body=PROBLEM), result(Outcome.REJECTED, "http_400")),
    "401": (VendorResponse(status=401, body=PROBLEM), result(Outcome.MISCONFIGURED, "http_401")),
    "403": (VendorResponse(status=403, body=PROBLEM), result(Outcome.MISCONFIGURED, "http_403")),
    "403 without a body": (VendorResponse(status=403), result(Outcome.MISCONFIGURED, "http_403")),
    "404": (VendorResponse(status=404, body=PROBLEM), result(Outcome.REJECTED, "http_404")),
    "408": (VendorResponse(status=408), result(Outcome.UNAVAILABLE, "http_408", definite=False)),
    "410": (VendorResponse(status=410), result(Outcome.REJECTED, "http_410")),
    "422": (VendorResponse(status=422, body=PROBLEM), result(Outcome.REJECTED, "http_422")),
    "423": (VendorResponse(status=423), result(Outcome.UNAVAILABLE, "http_423")),
    "429": (VendorResponse(status=429), result(Outcome.THROTTLED, "http_429")),
    "429 with seconds": (VendorResponse(status=429, headers={"retry-after": "7"}), result(Outcome.THROTTLED, "http_429", retry_after=7.0)),
    "429 with a year": (VendorResponse(status=429, headers={"retry-after": "31536000"}), result(Outcome.THROTTLED, "http_429", retry_after=86_400.0)),
    "429 with 400 digits": (VendorResponse(status=429, headers={"retry-after": "9" * 400}), result(Outcome.THROTTLED, "http_429", retry_after=86_400.0)),
    "503 until the end of time": (
        VendorResponse(status=503, headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}),
        result(Outcome.UNAVAILABLE, "http_503", retry_after=86_400.0),
    ),
    "429 with a past date": (
        VendorResponse(status=429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        result(Outcome.THROTTLED, "http_429", retry_after=0.0),
    ),
    "429 with a date, by the vendor's own clock": (
        VendorResponse(status=429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:15 GMT"}),
        result(Outcome.THROTTLED, "http_429", retry_after=45.0),
    ),
    "429 with nonsense": (VendorResponse(status=429, headers={"retry-after": "soon"}), result(Outcome.THROTTLED, "http_429")),
    "500": (VendorResponse(status=500, body=b"<html>"), result(Outcome.UNAVAILABLE, "http_500", definite=False)),
    "503 with seconds": (VendorResponse(status=503, headers={"retry-after": "30"}), result(Outcome.UNAVAILABLE, "http_503", retry_after=30.0)),
    "empty body": (VendorResponse(status=200), UNREADABLE),
    "HTML body": (VendorResponse(status=200, body=b"<html><body>Be right back</body></html>"), UNREADABLE),
    "cut JSON": (VendorResponse(status=200, body=b'{"code":"48'), UNREADABLE),
    "other JSON": (VendorResponse(status=200, body=b'["ok"]'), UNREADABLE),
    "JSON null": (VendorResponse(status=200, body=b"null"), UNREADABLE),
    "not UTF-8": (VendorResponse(status=200, body=b'{"code":"\xff"}'), UNREADABLE),
}


class VendorContract:
    """Inherit, declare the class attributes, and write `held`."""

    vendor: ClassVar[str]
    credentials: ClassVar[Mapping[str, str]]
    options: ClassVar[Mapping[str, Any]] = {}
    not_options: ClassVar[Mapping[str, Any]] = {}
    """Options of this vendor with a value that must stop the start."""
    deviations: ClassVar[Mapping[str, VendorResult]] = {}
    """What this vendor's answers mean where they differ from plain HTTP."""
    not_states: ClassVar[frozenset[State]] = frozenset()
    """States that this vendor cannot be told."""

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        """The state that the sandbox holds: given, withdrawn or None."""
        raise NotImplementedError

    @pytest.fixture
    def sandbox(self) -> Iterator[SandboxHandle]:
        with start_sandboxes([self.vendor]) as handle:
            yield handle

    @pytest.fixture(params=DRIVERS)
    def driver(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        is_kept_waiting = request.node.callspec.params.get("kind") == "hang"
        driver = make_driver(request.param, 1.0 if is_kept_waiting else PATIENT_SECONDS)
        yield driver
        driver.close()

    def adapter(self, base_url: str = "http://127.0.0.1:9", **changed: Any) -> Adapter:
        settings = {"credentials": self.credentials, "options": self.options, **changed}
        adapter: Any = adapter_class(self.vendor)(base_url=base_url, **settings)
        adapter.timeout_seconds = None  # The driver's own, so that a hanging sandbox does not hold up the tests.
        return adapter

    def instruction(self, state: State = State.GIVEN, subject: Subject = PERSON, number: int = 1, **changed: Any) -> Instruction:
        fixed = {"delivery_id": f"event{number}.{self.vendor}-main", "event_id": f"event{number}", "purpose": "newsletter", "event_time": SAID_AT}
        return Instruction(**{"subject": subject, "state": state, "profile": PROFILE, "evidence": EVIDENCE, **fixed, **changed})

    def word(self) -> State:
        """What is told where either state would do: a withdrawal, unless this vendor cannot express it."""
        return State.WITHDRAWN if State.WITHDRAWN not in self.not_states else State.GIVEN

    def personal(self) -> list[str]:
        """Every text that must not show anywhere."""
        address = (PERSON.email or "").encode()
        return [*PERSON.identifiers().values(), *PROFILE.values(), EVIDENCE["ip"], hashlib.md5(address).hexdigest(), *self.credentials.values()]

    def tell(self, driver: Any, adapter: Adapter, *instructions: Instruction) -> list[VendorResult]:
        return results_of(driver.drive(adapter, adapter.tell(instructions), len(instructions)))

    # What is declared

    def test_declares_itself(self) -> None:
        """A vendor names itself, its documentation and a limit, and keeps within the known words."""
        adapter = self.adapter()
        can = adapter.capabilities
        assert adapter.title
        assert adapter.docs_url.startswith("https://")
        assert set(can.identifiers) <= set(IDENTIFIER_KINDS)
        assert can.identifiers
        assert can.states == frozenset(State) - self.not_states
        assert can.scope in {"purpose", "contact"}
        assert all(1 <= adapter.batch_size(state) <= can.batch_size for state in State)
        assert all(1 <= adapter.max_calls(state) <= can.max_calls for state in State)
        assert adapter.rate.concurrent >= 1

    def test_unknown_settings_stop_the_start(self) -> None:
        """An unknown credential or option is refused by name."""
        with pytest.raises(ConfigurationError, match="'colour'"):
            self.adapter(options={**self.options, "colour": "blue"})
        with pytest.raises(ConfigurationError, match="'passphrase'"):
            self.adapter(credentials={**self.credentials, "passphrase": "test"})

    def test_missing_settings_stop_the_start(self) -> None:
        """Each credential and required option that is missing or empty is refused by name, without showing the others."""
        for empty in (None, ""):
            for name in self.credentials:
                with pytest.raises(ConfigurationError) as caught:
                    self.adapter(credentials={**self.credentials, name: empty})
                assert not any(secret in str(caught.value) for secret in self.credentials.values())
            for name in (name for name, option in adapter_class(self.vendor).options.items() if option.required):
                with pytest.raises(ConfigurationError, match=f"'{name}'"):
                    self.adapter(options={**self.options, name: empty})

    def test_wrong_options_stop_the_start(self) -> None:
        """An option with a value of no use is refused by name."""
        for name, value in self.not_options.items():
            with pytest.raises(ConfigurationError, match=f"'{name}'"):
                self.adapter(options={**self.options, name: value})

    # Answers handed over, no network

    def test_no_identifier_sends_nothing(self) -> None:
        """A subject that the vendor cannot find is not applicable, and nothing was sent."""
        adapter = self.adapter()
        for state in State:
            replayed = replay(adapter.tell([self.instruction(state, Subject(country="BR"))]))
            assert replayed.sent == []
            assert list(replayed.result) == [result(Outcome.NOT_APPLICABLE, "missing_identifier")]

    def test_a_state_it_cannot_express_is_never_sent(self) -> None:
        """A vendor file handed such an instruction all the same says so and sends nothing, so that no withdrawal becomes a consent."""
        for state in self.not_states:
            replayed = replay(self.adapter().tell([self.instruction(state)]))
            assert (replayed.sent, list(replayed.result)) == ([], [result(Outcome.UNSUPPORTED, f"cannot_express_{state}")])

    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("name", list(PLAIN_HTTP))
    def test_reads_plain_http(self, name: str, state: State) -> None:
        """Each answer of plain HTTP has one outcome, the same for both states, and a withdrawal is never dropped in silence."""
        if state in self.not_states:
            return
        answer, common = PLAIN_HTTP[name]
        expected = self.deviations.get(name, common)
        replayed = replay(self.adapter().tell([self.instruction(state)]), answer)
        assert list(replayed.result) == [expected]
        assert expected.outcome in NOT_DROPPED | DONE

    @pytest.mark.parametrize("name", [name for name, (_, common) in PLAIN_HTTP.items() if common.outcome is not Outcome.APPLIED])
    def test_reads_nothing_out_of_a_bad_answer(self, name: str) -> None:
        """A lookup that gets a bad answer reads nothing, rather than a state."""
        adapter = self.adapter()
        if not adapter.capabilities.reads_back or name == "404":
            return
        replayed = replay(adapter.ask(PERSON, {}), PLAIN_HTTP[name][0])
        assert replayed.result == Held(readable=False)

    def test_hides_persons_and_secrets(self) -> None:
        """No personal value and no secret shows in the repr of an adapter, a request, an instruction or an answer."""
        adapter = self.adapter()
        told = self.instruction()
        for dialogue in (adapter.tell([told]), *([adapter.ask(PERSON, {})] if adapter.capabilities.reads_back else [])):
            (request,) = replay(dialogue).sent
            shown = [repr(adapter), repr(request), repr(adapter.sign(request, "test-session")), repr(told), repr(dialogue), request.operation]
            assert not [text for text in self.personal() if any(text in one for one in shown)]

    def test_secrets_come_with_the_signature_only(self) -> None:
        """A request carries no secret before it is signed."""
        adapter = self.adapter()
        (request,) = replay(adapter.tell([self.instruction()])).sent
        plain = b"".join([request.body, request.path.encode(), repr(request.headers).encode(), repr(request.query).encode()])
        assert not [secret for secret in self.credentials.values() if secret.encode() in plain]
        assert adapter.sign(request, "test-session") != request

    # Against the sandbox, through each driver

    def test_declared_states_are_true(self, sandbox: SandboxHandle, driver: Any) -> None:
        """The sandbox holds each declared state once it was told."""
        adapter = self.adapter(sandbox.url(self.vendor))
        for state in sorted(adapter.capabilities.states):
            assert self.tell(driver, adapter, self.instruction(state))[0].outcome in DONE
            assert self.held(sandbox, PERSON, "newsletter") == state

    @pytest.mark.parametrize("kind", IDENTIFIER_KINDS)
    def test_declared_identifiers_are_true(self, sandbox: SandboxHandle, driver: Any, kind: str) -> None:
        """One declared identifier is enough; with only another kind nothing was sent."""
        adapter = self.adapter(sandbox.url(self.vendor))
        subject = Subject(**{kind: getattr(PERSON, kind)})
        (told,) = self.tell(driver, adapter, self.instruction(self.word(), subject))
        if kind in adapter.capabilities.identifiers:
            assert told.outcome in DONE
            assert adapter.contact_of(subject) == {kind: getattr(PERSON, kind)}
            assert self.held(sandbox, subject, "newsletter") == self.word()
        else:
            assert told == base.missing_identifier()
            assert adapter.contact_of(subject) == {}
            self.called_at_most(0, sandbox, driver)  # A sign-in names nobody.

    @pytest.mark.parametrize("state", list(State))
    def test_twice_is_the_same_as_once(self, sandbox: SandboxHandle, driver: Any, state: State) -> None:
        """The same instruction told twice leaves the same state, and both are done."""
        if state in self.not_states:
            return
        adapter = self.adapter(sandbox.url(self.vendor))
        first = self.tell(driver, adapter, self.instruction(state))
        held = sandbox.states(self.vendor)
        assert self.tell(driver, adapter, self.instruction(state))[0].outcome in DONE
        assert first[0].outcome in DONE
        assert sandbox.states(self.vendor) == held

    def test_a_full_chunk_is_told_at_once(self, sandbox: SandboxHandle, driver: Any) -> None:
        """A chunk gets one result for each instruction in order, those without identifier included, in no more calls than declared."""
        adapter = self.adapter(sandbox.url(self.vendor))
        size = min(adapter.batch_size(self.word()), 40)
        persons = [Subject(external_id=f"p{number}", email=f"p{number}@example.org") for number in range(size)]
        told = [self.instruction(self.word(), person, number) for number, person in enumerate(persons)]
        if size > 1:
            told[3] = structs.replace(told[3], subject=Subject())
        results = self.tell(driver, adapter, *told)
        expected = [Outcome.NOT_APPLICABLE if size > 1 and number == 3 else Outcome.APPLIED for number in range(size)]
        assert [one.outcome for one in results] == expected
        self.called_at_most(adapter.max_calls(self.word()), sandbox, driver)

    @pytest.mark.parametrize("kind", ["hang", "reset", "redirect", "html", "empty", "cut_json", "lost_answer", "throttle"])
    def test_a_fault_heals_by_telling_again(self, sandbox: SandboxHandle, driver: Any, kind: str) -> None:
        """After any fault a delivery is waiting, rejected or done, never dropped, and telling it again ends in the right state."""
        adapter = self.adapter(sandbox.url(self.vendor))
        sandbox.faults(self.vendor, {"kind": kind, "times": 1})
        (spoilt,) = self.tell(driver, adapter, self.instruction(self.word()))
        assert spoilt.outcome in NOT_DROPPED | DONE
        if kind in {"hang", "reset", "lost_answer"}:
            assert (spoilt.outcome, spoilt.definite) == (Outcome.UNAVAILABLE, False) or adapter.needs_session()
        if kind in {"lost_answer", "cut_json"} and not adapter.needs_session():
            assert self.held(sandbox, PERSON, "newsletter") == self.word()
        if kind == "throttle":
            assert spoilt.outcome is Outcome.THROTTLED
        assert self.tell(driver, adapter, self.instruction(self.word()))[0].outcome in DONE
        assert self.held(sandbox, PERSON, "newsletter") == self.word()
        assert sandbox.state(self.vendor)["redirects_followed"] == 0

    def test_lookups_agree_with_what_was_told(self, sandbox: SandboxHandle, driver: Any) -> None:
        """A lookup finds nobody first, and then each state that was told."""
        adapter = self.adapter(sandbox.url(self.vendor))
        if not adapter.capabilities.reads_back:
            return
        assert driver.drive(adapter, adapter.ask(PERSON, {})) == Held()
        for state in sorted(adapter.capabilities.states):
            self.tell(driver, adapter, self.instruction(state))
            assert driver.drive(adapter, adapter.ask(PERSON, {})).state is state

    def test_lookups_keep_to_the_calls_that_are_declared(self, sandbox: SandboxHandle, driver: Any) -> None:
        """Comparing asks for room before it asks the vendor: for no more than `ask_calls`."""
        adapter = self.adapter(sandbox.url(self.vendor))
        if not adapter.capabilities.reads_back:
            return
        for state in (None, *sorted(adapter.capabilities.states)):
            if state is not None:
                self.tell(driver, adapter, self.instruction(state))
            before = self.calls(sandbox, driver)
            driver.drive(adapter, adapter.ask(PERSON, {}))
            self.called_at_most(before + adapter.capabilities.ask_calls, sandbox, driver)

    def test_probes_change_nothing(self, sandbox: SandboxHandle, driver: Any) -> None:
        """Where everything is in order every probe succeeds, in the calls that are declared, and nobody is there afterwards."""
        adapter = self.adapter(sandbox.url(self.vendor))
        if not adapter.probes:
            return
        results = self.probed(driver, adapter)
        assert [one.outcome for one in results] == [Outcome.UNCHANGED] * len(adapter.probes)
        self.called_at_most(len(adapter.probes), sandbox, driver)
        assert sandbox.states(self.vendor) == {}

    def test_probes_say_what_is_wrong(self, sandbox: SandboxHandle, driver: Any) -> None:
        """Refused credentials, and a vendor that is away, show in the probes; an answer of somebody else is no success."""
        adapter = self.adapter(sandbox.url(self.vendor))
        if not adapter.probes:
            return
        for kind, outcome in (({"kind": "status", "status": 401}, Outcome.MISCONFIGURED), ({"kind": "reset"}, Outcome.UNAVAILABLE)):
            sandbox.faults(self.vendor, {**kind, "times": None})
            assert {one.outcome for one in self.probed(driver, adapter)} == {outcome}
        sandbox.faults(self.vendor, {"kind": "html", "times": None})
        assert not {one.outcome for one in self.probed(driver, adapter)} & DONE

    def calls(self, sandbox: SandboxHandle, driver: Any) -> int:
        """How many calls the sandbox saw besides sign-ins."""
        return int(sandbox.state(self.vendor)["call_count"]) - driver.sign_ins

    def called_at_most(self, most: int, sandbox: SandboxHandle, driver: Any) -> None:
        """Waits for the count: a token is kept, and counted here as a sign-in, beside the dialogue that goes on with it."""
        wait_until(lambda: self.calls(sandbox, driver) <= most, 5)

    def probed(self, driver: Any, adapter: Adapter) -> list[VendorResult]:
        return results_of(driver.drive(adapter, adapter.probe({}), len(adapter.probes)))

    def test_an_expired_session_is_renewed_once(self, sandbox: SandboxHandle, driver: Any) -> None:
        """A refused token is renewed and the call repeated; if the new one is refused too, that is the answer."""
        adapter = self.adapter(sandbox.url(self.vendor))
        if not adapter.needs_session():
            return
        self.expire(sandbox, forever=False, driver=driver, adapter=adapter)
        assert self.tell(driver, adapter, self.instruction(State.WITHDRAWN))[0].outcome is Outcome.APPLIED
        wait_until(lambda: driver.sign_ins == 2, 5)
        self.expire(sandbox, forever=True, driver=driver, adapter=adapter)
        before = sandbox.state(self.vendor)["call_count"]
        assert self.tell(driver, adapter, self.instruction(State.WITHDRAWN))[0].outcome is Outcome.MISCONFIGURED
        assert sandbox.state(self.vendor)["call_count"] - before <= 4

    def expire(self, sandbox: SandboxHandle, *, forever: bool, driver: Any, adapter: Adapter) -> None:
        """Make the sandbox refuse the token in use, or every token; only for vendors with sessions."""
        raise NotImplementedError

    def test_nothing_personal_is_logged(self, sandbox: SandboxHandle, driver: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Neither log lines nor results name a person or a secret, in success and in failure."""
        caplog.set_level(logging.DEBUG)
        adapter = self.adapter(sandbox.url(self.vendor))
        results = self.tell(driver, adapter, self.instruction(self.word()))
        sandbox.faults(self.vendor, {"kind": "status", "status": 500}, {"kind": "reset"})
        results += self.tell(driver, adapter, self.instruction(self.word())) + self.tell(driver, adapter, self.instruction(State.GIVEN))
        shown = [repr(results), *(record.getMessage() for record in caplog.records)]
        assert not [text for text in self.personal() if any(text in one for one in shown)]
