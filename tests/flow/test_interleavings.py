"""Any interleaving of events, losses, crashes, interruptions and vendor faults ends with every vendor holding the newest word.

CONSENT_HYPOTHESIS_PROFILE=long searches for long and at random: CONSENT_HYPOTHESIS_EXAMPLES says how much, CONSENT_HYPOTHESIS_SEED repeats a run.
The normal run is the same each time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from random import randrange
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from pipeline.accept import Accepted
from pipeline.domain import IncomingEvent, State, Subject, us_from_utc
from pipeline.errors import LedgerUnavailable
from pipeline.vendors.base import VendorResponse
from tests.support.crashes import Crashed, Interruption, StormyRelay
from tests.support.oracle import Links, Oracle, Place, Said
from tests.support.relay import BASE_TIME, Vendor
from tests.support.storms import ANSWERS, DESTINATIONS, INTERRUPTIONS, KINDS, PLACES, PURPOSES, SECONDS, SPECS, rules

LONG = os.environ.get("CONSENT_HYPOTHESIS_PROFILE") == "long"
EXAMPLES = int(os.environ.get("CONSENT_HYPOTHESIS_EXAMPLES", "2000" if LONG else "60"))
ROUNDS_UNTIL_QUIET = 60


class Interleavings(RuleBasedStateMachine):
    """Drives a relay through anything that may happen, then lets everything come to rest and holds it against the oracle."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.relay = StormyRelay(self.client, rules())
        self.relay.on_arrival = self._arrived
        self.said: dict[str, Said] = {}
        self.requests: dict[str, tuple[str, IncomingEvent]] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        self.cut_short = False
        self.stale_now = 0
        self.stale_counted = 0
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(self.relay.virtual_time())

    # What may happen

    @rule(spec=SPECS, name=DESTINATIONS, answer=ANSWERS)
    def accept_and_drain(self, spec: dict[str, Any], name: str, answer: Any) -> None:
        """The common case, quickly: an event goes all the way, and one vendor answers as drawn."""
        self.relay.vendors[name].answers.insert(0, answer)
        self._accept([self._request(spec)])
        self._drain()

    @precondition(lambda self: self.said)
    @rule(which=st.integers(0, 2), minutes=st.sampled_from((1, 0, -1)), drained=st.booleans(), interruption=INTERRUPTIONS)
    def change_of_mind(self, which: int, minutes: int, drained: bool, interruption: Any) -> None:
        """Somebody heard of lately says the opposite, later, at the same time or earlier."""
        spec = self.specs[list(self.said)[-1 - which % len(self.said)]]
        opposite = "given" if spec["state"] == "withdrawn" else "withdrawn"
        self._accept([self._request({**spec, "state": opposite, "minute": spec["minute"] + minutes})], interruption)
        if drained:
            self._drain()

    @rule(spec=SPECS, interruption=INTERRUPTIONS)
    def accept(self, spec: dict[str, Any], interruption: Any) -> None:
        self._accept([self._request(spec)], interruption)

    @rule(specs=st.lists(SPECS, min_size=2, max_size=3), interruption=INTERRUPTIONS)
    def accept_batch(self, specs: list[dict[str, Any]], interruption: Any) -> None:
        self._accept([self._request(spec) for spec in specs], interruption)

    @precondition(lambda self: self.said)
    @rule(which=st.integers(0, 7), interruption=INTERRUPTIONS)
    def repeat(self, which: int, interruption: Any) -> None:
        """A client sends an event again, the latest rather than old ones."""
        self._accept([list(self.said)[-1 - which % len(self.said)]], interruption)

    @precondition(lambda self: self.relay.queue.messages)
    @rule(interruption=INTERRUPTIONS, redelivered=st.booleans())
    def carry_out_first(self, interruption: Any, redelivered: bool) -> None:
        self._carry_out(0, interruption, redelivered=redelivered)

    @precondition(lambda self: self.relay.queue.messages)
    @rule(position=st.integers(0, 7), interruption=INTERRUPTIONS, redelivered=st.booleans())
    def carry_out_any(self, position: int, interruption: Any, redelivered: bool) -> None:
        self._carry_out(position, interruption, redelivered=redelivered)

    @precondition(lambda self: self.relay.queue.messages)
    @rule()
    def drain(self) -> None:
        self._drain()

    @precondition(lambda self: self.relay.queue.messages)
    @rule(position=st.integers(0, 7), doubled=st.booleans())
    def lose_or_double(self, position: int, doubled: bool) -> None:
        messages = self.relay.queue.messages
        message = messages.pop(position % len(messages))
        messages += [message] * (2 * doubled)

    @rule(interruption=INTERRUPTIONS)
    def beat(self, interruption: Any) -> None:
        self._do(self.relay.beat, interruption)

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.relay.pass_time(seconds)

    @rule(name=DESTINATIONS, answer=ANSWERS)
    def next_answer(self, name: str, answer: Any) -> None:
        self.relay.vendors[name].answers.append(answer)

    @rule(name=DESTINATIONS)
    def act_late(self, name: str) -> None:
        self.relay.vendors[name].act_late()

    @rule(name=DESTINATIONS, paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        self.relay.ledger.deliveries.pause(name, paused=paused)

    # How it happens

    def _request(self, spec: dict[str, Any]) -> str:
        key = f"key-{len(self.said)}"
        subject = {KINDS[value[0]]: value for value in spec["who"].split()}
        incoming = IncomingEvent(
            subject=Subject(**subject, country=spec["country"]),
            purpose=spec["purpose"],
            state=State(spec["state"]),
            event_time=BASE_TIME + timedelta(minutes=spec["minute"]),
            idempotency_key=key,
        )
        self.requests[key] = spec["source"], incoming
        self.specs[key] = spec
        self.said[key] = Said(
            event_id=self.relay.hasher.event_id(spec["source"], f"k\0{key}"),
            identifiers=frozenset(subject.items()),
            purpose=spec["purpose"],
            state=spec["state"],
            links=spec["source"] == "web",
            country=spec["country"],
            asked=self.relay.answered,
        )
        return key

    def _accept(self, keys: list[str], interruption: Any = None) -> None:
        receipt = BASE_TIME + timedelta(days=1, seconds=self.relay.receipts + 1)
        items = []
        for key in keys:
            source, incoming = self.requests[key]
            items.append((self.relay.rules.sources[source], incoming))
            self.said[key].possible_orders_us.add(us_from_utc(min(incoming.event_time, receipt)))
        answers: list[Any] = []
        self._do(lambda: answers.extend(self.relay.acceptor.accept_many(items)), interruption)
        for key, answer in zip(keys, answers, strict=False):
            assert isinstance(answer, Accepted)
            assert answer.event_id == self.said[key].event_id
            if self.said[key].answered is None:
                self.relay.answered += 1
                self.said[key].answered = self.relay.answered

    def _carry_out(self, position: int, interruption: Any = None, *, redelivered: bool = False) -> None:
        messages = self.relay.queue.messages
        if messages:
            message = messages.pop(position % len(messages))
            if not self._do(lambda: self.relay.carry_out(*message), interruption) and redelivered:
                messages.append(message)

    def _drain(self) -> None:
        for _ in range(200):
            if not self.relay.queue.messages:
                return
            self._carry_out(0)

    def _do(self, act: Callable[[], Any], interruption: Any) -> bool:
        """Carry out an operation with what interrupts it; False if it was cut short (its processes are started anew)."""
        outer, self.stale_now = self.stale_now, 0
        try:
            with self.relay.steps.interrupted(self._interruption(interruption)):
                act()
        except (Crashed, LedgerUnavailable):
            self.relay.restart()
            self.cut_short = True
            return False
        else:
            self.stale_counted += self.stale_now
            return True
        finally:
            self.stale_now = outer

    def _interruption(self, drawn: Any) -> Interruption | None:
        if drawn is None:
            return None
        at, how, work = drawn
        return Interruption(at, how, lambda: self._meanwhile(work))

    def _meanwhile(self, work: tuple[tuple[str, Any], ...]) -> None:
        for name, value in work:
            match name:
                case "accept":
                    self._accept([self._request(value)])
                case "carry_out":
                    self._carry_out(value)
                case "drain":
                    self._drain()
                case "beat":
                    self._do(self.relay.beat, None)
                case "pass_time":
                    self.relay.pass_time(value)

    # What must hold whenever a vendor hears of a `given`

    def _arrived(self, told: list[dict[str, Any]], vendor: Vendor, answer: VendorResponse | None) -> None:
        by_id = {said.event_id: said for said in self.said.values()}
        place = next(place for place in PLACES if self.relay.vendors[place.name] is vendor)
        for each in told:
            said = by_id[each["id"]]
            if not said.withdrawn:
                before = [other for other in self.said.values() if other.answered is not None and other.answered <= self.relay.begun]
                fencing = list(self._fencing(said, place, before, Links(before).near(said)))
                assert not fencing, f"{place.name} was told {said} although {fencing} had been accepted"
                since = [other for other in self.said.values() if other.answered is not None]
                told_or_unknown = answer is None or answer.status == 200 or answer.status >= 500
                if told_or_unknown and any(other.purpose == said.purpose for other in self._fencing(said, place, since, set(said.identifiers))):
                    self.stale_now += 1

    def _fencing(self, said: Said, place: Place, accepted: list[Said], near: set[Any]) -> Iterator[Said]:
        """Withdrawals that were certainly accepted, are certainly newer, and of which no newer `given` could say otherwise."""
        for other in accepted:
            if other.withdrawn and other.identifiers & near:
                same = other.purpose == said.purpose and min(other.possible_orders_us) >= max(said.possible_orders_us)
                shared = place.contact_scope and other.purpose != said.purpose
                everybody = Links(self.said.values()).everybody(other)
                if (same or shared) and not any(
                    not third.withdrawn
                    and third.purpose == other.purpose
                    and third.identifiers & everybody
                    and max(third.possible_orders_us) > min(other.possible_orders_us)
                    for third in self.said.values()
                ):
                    yield other

    # What must hold at the end

    def teardown(self) -> None:
        try:
            self._come_to_rest()
            self._check()
        finally:
            self.stack.close()

    def _come_to_rest(self) -> None:
        for name, vendor in self.relay.vendors.items():
            vendor.answers.clear()  # what was sent before may still take effect while time passes
            self.relay.ledger.deliveries.pause(name, paused=False)
        for _ in range(ROUNDS_UNTIL_QUIET):
            self._drain()
            self._do(self.relay.beat, None)
            if self._is_quiet():
                return
            self.relay.pass_time(20.0)

    def _is_quiet(self) -> bool:
        waiting = sum(count for _, _, count in self.relay.figures().waiting) + self.relay.ledger.events.counts()["open"]
        return not waiting and not self.relay.queue.messages and not any(vendor.writes for vendor in self.relay.vendors.values())  # type: ignore[attr-defined]

    def _check(self) -> None:
        figures = self.relay.figures()
        assert figures.unaccounted == 0, figures
        views = self._views()
        oracle = Oracle([said for said in self.said.values() if said.event_id in views], PLACES)
        shown = {
            event_id: {each["destination"]: {**each, "by": each["vendor_reference"] if each["status"] == "superseded" else None} for each in view["deliveries"]}
            for event_id, view in views.items()
        }
        confirmed = {name: vendor.confirmed for name, vendor in self.relay.vendors.items()}  # type: ignore[attr-defined]
        wrong = oracle.wrong_endings(shown, lambda event_id, name: event_id in confirmed[name]) + self._wrong_states(oracle, shown)
        assert not wrong, "\n".join(wrong)
        assert all(view["complete"] for view in views.values())
        assert figures.stale_sends_total >= self.stale_counted, (figures.stale_sends_total, self.stale_counted)

    def _views(self) -> dict[str, dict[str, Any]]:
        """Every event that got into the ledger, with its order time checked and noted."""
        views = {}
        for said in self.said.values():
            view = self.relay.ledger.event(said.event_id)
            assert view is not None or said.answered is None, f"lost: {said}"
            if view is not None:
                said.order_us = us_from_utc(datetime.fromisoformat(view["order_time"]))
                assert said.order_us in said.possible_orders_us
                views[said.event_id] = view
        return views

    def _wrong_states(self, oracle: Oracle, shown: dict[str, dict[str, Any]]) -> list[str]:
        def died(event_id: str, name: str) -> bool:
            return shown[event_id].get(name, {}).get("status") == "dead"

        wrong = []
        values = sorted({identifier for said in self.said.values() for identifier in said.identifiers})
        for place in PLACES:
            held = self.relay.vendors[place.name].held
            for identifier in values:
                for purposes in [PURPOSES] if place.contact_scope else [(purpose,) for purpose in PURPOSES]:
                    must = oracle.must_hold(place, identifier, purposes, died) if identifier[0] in place.kinds else None
                    if must is not None and held.get(place.key(identifier[1], purposes[0])) != must:
                        wrong.append(f"{place.name} holds {held.get(place.key(identifier[1], purposes[0]))} for {identifier[1]} {purposes}, not {must}")
        return wrong


@pytest.mark.timeout(0 if LONG else 400)
def test_any_interleaving_ends_with_the_newest_word(client: redis.Redis) -> None:
    """Whatever is lost, doubled, late, interrupted or killed, every vendor ends with the newest word and no withdrawal is forgotten."""
    chosen = int(os.environ.get("CONSENT_HYPOTHESIS_SEED", "0")) or randrange(1, 2**32)
    machine = type("Interleavings", (Interleavings,), {"client": client})
    if LONG:
        print(f"CONSENT_HYPOTHESIS_SEED={chosen}")
        machine = seed(chosen)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40 if LONG else 30,
            derandomize=not LONG,
            database=None,
            deadline=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
