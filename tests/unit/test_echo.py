"""What comes back from a destination: our own consent is no newer word, its own word is not told back, and it confirms what awaited it."""

from __future__ import annotations

import orjson
import pytest
import redis
from msgspec import structs

from pipeline.domain import DeliveryStatus, IncomingEvent, Instruction, Outcome, State, Subject, VendorResult, Word
from pipeline.echo import echo_until_us
from pipeline.envelope import open_if_readable
from pipeline.ledger.deliveries import Row
from pipeline.ledger.events import Facts, StoredEvent
from pipeline.ledger.results import DeliveryResult
from pipeline.routing import Conditions, RetryPolicy, Source, Trigger
from pipeline.settle import Ending
from pipeline.vendors.base import AskDialogue, Capabilities, Held, TellDialogue, VendorRequest, VendorResponse
from tests.support.relay import PlainAdapter, Relay, Vendor, destination, routing

ANA, PHONE = "ana@example.org", "+5511987654321"


class ReadableAdapter(PlainAdapter):
    """A vendor that can be asked; `holds` is what it answers."""

    capabilities = Capabilities(reads_back=True)
    holds: Held = Held()

    def ask(self, subject: Subject, options: object) -> AskDialogue:
        yield VendorRequest(operation="ask", body=b"[]")
        return self.holds


class ConfirmedAdapter(ReadableAdapter):
    """A vendor whose consents await a confirmation by the person."""

    capabilities = Capabilities(reads_back=True, double_opt_in=True)

    def tell(self, instructions: list[Instruction]) -> TellDialogue:  # type: ignore[override]
        yield VendorRequest(operation="tell", body=orjson.dumps([{"to": {}, "purpose": each.purpose, "state": each.state} for each in instructions]))
        given = VendorResult(outcome=Outcome.PENDING_CONFIRMATION, vendor_reference="c1")
        return [given if each.state is State.GIVEN else VendorResult(outcome=Outcome.APPLIED) for each in instructions]


def crm_relay(client: redis.Redis, kind: type[PlainAdapter] = ReadableAdapter) -> Relay:
    """`crm` is told and heard (source `crm-news` speaks for it), `mail` is told."""
    sources = (Source(name="web"), Source(name="crm-news", origin=("crm",)))
    return Relay(client, routing([destination("crm", kind), destination("mail")], sources=sources))


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return crm_relay(client)


def told(relay: Relay, name: str) -> list[str]:
    return [call["state"] for call in relay.vendors[name].calls]


def holds(relay: Relay, state: State | None, *, readable: bool = True) -> None:
    relay.rules.destinations["crm"].adapter.holds = Held(state=state, readable=readable)  # type: ignore[attr-defined]


def happen(relay: Relay, state: str, minute: float, source: str = "web") -> str:
    event = relay.event(state, minute, source=source, email=ANA)
    relay.drain()
    return event


# Not told back


def test_a_withdrawal_that_its_origin_still_holds_is_not_written_there(relay: Relay) -> None:
    """The origin is asked, keeps its own word untouched, and the delivery ends as unchanged."""
    holds(relay, State.WITHDRAWN)
    event = happen(relay, "withdrawn", 1, "crm-news")
    assert (told(relay, "crm"), told(relay, "mail")) == ([], ["withdrawn"])
    assert relay.deliveries(event) == {"crm": ("delivered", None), "mail": ("delivered", None)}


@pytest.mark.parametrize("held", [Held(state=State.GIVEN), Held(), Held(readable=False)])
def test_a_withdrawal_that_its_origin_no_longer_holds_is_told_there(relay: Relay, held: Held) -> None:
    """If an older consent of ours has overwritten it meanwhile, or nobody can tell, the withdrawal is written: it is never dropped."""
    relay.rules.destinations["crm"].adapter.holds = held  # type: ignore[attr-defined]
    event = happen(relay, "withdrawn", 1, "crm-news")
    relay.again()
    assert told(relay, "crm") == ["withdrawn"]
    assert relay.deliveries(event)["crm"] == ("delivered", None)


def test_a_withdrawal_is_told_to_an_origin_that_cannot_be_read(client: redis.Redis) -> None:
    """Without a way to look, telling twice does no harm and silence might."""
    relay = crm_relay(client, PlainAdapter)
    happen(relay, "withdrawn", 1, "crm-news")
    assert told(relay, "crm") == ["withdrawn"]


def test_a_consent_is_never_told_to_its_origin(relay: Relay) -> None:
    """It may have heard of a withdrawal since: it is skipped there, and says why."""
    holds(relay, State.WITHDRAWN)
    event = happen(relay, "given", 1, "crm-news")
    assert (told(relay, "crm"), told(relay, "mail")) == ([], ["given"])
    assert relay.deliveries(event)["crm"] == ("skipped", "heard_from_it")


# No newer word


def test_our_own_consent_coming_back_does_not_beat_a_withdrawal_that_came_between(relay: Relay) -> None:
    """Given at 1, told, shown there with the date of the telling (5), withdrawn at 3 and heard of late: the person has withdrawn."""
    happen(relay, "given", 1)
    echo = happen(relay, "given", 5, "crm-news")
    withdrawal = happen(relay, "withdrawn", 3)
    assert told(relay, "mail") == ["given", "withdrawn"]
    assert relay.ledger.event(echo)["status"] == "superseded"  # type: ignore[index]
    assert relay.ledger.event(withdrawal)["status"] == "accepted"  # type: ignore[index]


def test_a_consent_that_comes_back_after_the_withdrawal_is_no_newer_word_and_has_it_told_again(relay: Relay) -> None:
    """Whatever put the consent there, it stands against a withdrawal that was told: it loses, and the withdrawal is told there again."""
    withdrawal = happen(relay, "withdrawn", 3)
    assert told(relay, "crm") == ["withdrawn"]
    echo = happen(relay, "given", 5, "crm-news")
    relay.again()
    assert (told(relay, "crm"), told(relay, "mail")) == (["withdrawn", "withdrawn"], ["withdrawn"])
    view = relay.ledger.event(echo)
    assert view is not None
    assert (view["status"], view["superseded_by"]) == ("superseded", withdrawal)


def test_a_person_who_comes_back_later_is_heard(relay: Relay) -> None:
    """Long after the withdrawal was accepted, no copy of ours can turn up any more: what the origin shows is the person's word."""
    relay.acceptor._echo_seconds = 0.0
    happen(relay, "withdrawn", 3)
    later = relay.ledger.now()
    answer = relay.acceptor.accept_many(
        [(relay.rules.sources["crm-news"], IncomingEvent(subject=Subject(email=ANA), purpose="news", state=State.GIVEN, event_time=later))]
    )
    relay.drain()
    assert answer[0].status == "accepted"  # type: ignore[union-attr]
    assert told(relay, "mail") == ["withdrawn", "given"]


def test_a_withdrawal_that_comes_back_counts(relay: Relay) -> None:
    """It can only stop more than it had to: it is taken with its own date."""
    holds(relay, State.WITHDRAWN)
    happen(relay, "given", 1)
    happen(relay, "withdrawn", 5, "crm-news")
    assert told(relay, "mail") == ["given", "withdrawn"]


def test_other_sources_are_not_suspected(relay: Relay) -> None:
    """A form that speaks for no destination says what the person says."""
    happen(relay, "withdrawn", 3)
    happen(relay, "given", 5)
    assert told(relay, "mail") == ["withdrawn", "given"]


def test_an_echo_is_found_by_any_identifier_of_the_person(relay: Relay) -> None:
    """The withdrawal named the phone only; a consent linked both, and comes back by e-mail: it still loses."""
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.drain()
    relay.event("withdrawn", 3, phone=PHONE)
    relay.drain()
    relay.event("given", 5, source="crm-news", email=ANA)
    relay.drain()
    assert told(relay, "mail")[-1] == "withdrawn"


MINUTE_US = 60_000_000
INFINITE = float("inf")


def stored(state: State, *, received_minute: float = 10, planned: tuple[str, ...] | None = ("crm",), **results: DeliveryResult) -> StoredEvent:
    facts = Facts(source="web", subject_key="x", purpose="news", state=state, event_us=0, order_us=0, received_us=int(received_minute * MINUTE_US))
    return StoredEvent(event_id="e", facts=facts, payload=None, planned=planned, results=results)


def result(status: DeliveryStatus, minute: float = 20) -> DeliveryResult:
    return DeliveryResult(status=status, updated_ms=int(minute * 60_000))


@pytest.mark.parametrize(
    "event, gave_minute, minutes",
    [
        (None, 0, 0),
        (None, 30, 30 + 15),
        (stored(State.WITHDRAWN, planned=("mail",), mail=result(DeliveryStatus.DELIVERED, 99)), 0, 10 + 15),
        (stored(State.WITHDRAWN, planned=("mail",)), 30, 30 + 15),
        (stored(State.WITHDRAWN), 0, INFINITE),
        (stored(State.WITHDRAWN, crm=result(DeliveryStatus.WAITING)), 0, INFINITE),
        (stored(State.WITHDRAWN, crm=result(DeliveryStatus.DEAD)), 0, INFINITE),
        (stored(State.WITHDRAWN, crm=result(DeliveryStatus.DELIVERED)), 0, 20 + 15),
        (stored(State.GIVEN, planned=None), 0, INFINITE),
        (stored(State.GIVEN), 0, INFINITE),
        (stored(State.GIVEN, crm=result(DeliveryStatus.WAITING)), 0, INFINITE),
        (stored(State.GIVEN, crm=result(DeliveryStatus.AWAITING_CONFIRMATION)), 0, INFINITE),
        (stored(State.GIVEN, crm=result(DeliveryStatus.DELIVERED)), 20, 20 + 15),
        (stored(State.GIVEN, crm=result(DeliveryStatus.SKIPPED)), 0, 0),
        (stored(State.GIVEN, crm=result(DeliveryStatus.DEAD)), 0, 0),
        (stored(State.GIVEN, planned=("mail",), mail=result(DeliveryStatus.DELIVERED)), 0, 0),
    ],
)
def test_until_when_a_consent_may_be_an_echo(event: StoredEvent | None, gave_minute: float, minutes: float) -> None:
    """A quarter of an hour after any consent was told there, or the withdrawal; as long as the word that stands may still be told; never where nothing was."""
    newest = Word(order_us=0, state=event.facts.state if event else State.WITHDRAWN, event_id="e")
    assert echo_until_us(newest, event, frozenset({"crm"}), int(gave_minute * MINUTE_US), 900.0) == minutes * MINUTE_US


def other_ways(client: redis.Redis) -> Relay:
    """What the web form hears is told to the CRM alone, what the shop hears to the mailing tool: neither is told of everything."""
    triggers = [Trigger(deliver_to=("mail",)), Trigger(deliver_to=("crm",), when=Conditions(source=frozenset({"web"})))]
    sources = (Source(name="web"), Source(name="shop"), Source(name="crm-news", origin=("crm",)))
    return Relay(client, routing([destination("crm", ReadableAdapter), destination("mail")], sources=sources, triggers=triggers))


def test_an_older_consent_that_was_told_there_is_an_echo_too(client: redis.Redis) -> None:
    """The consent that stands went elsewhere; the one before it was told to the CRM, and comes back."""
    relay = other_ways(client)
    happen(relay, "given", 1)
    happen(relay, "given", 2, "shop")
    happen(relay, "given", 5, "crm-news")
    happen(relay, "withdrawn", 3)
    assert told(relay, "mail")[-1] == "withdrawn"


def test_a_consent_that_may_have_been_told_is_an_echo_too(client: redis.Redis) -> None:
    """It died without an answer, and yet the CRM has it."""
    patient = destination("crm", ReadableAdapter, retry=RetryPolicy(waits_seconds=(0.01,), give_up_after_seconds=0))
    relay = Relay(client, routing([patient, destination("mail")], sources=(Source(name="web"), Source(name="crm-news", origin=("crm",)))))
    relay.vendors["crm"].answers = ["lost"]
    event = happen(relay, "given", 1)
    assert relay.deliveries(event)["crm"][0] == "dead"
    happen(relay, "given", 5, "crm-news")
    happen(relay, "withdrawn", 3)
    assert told(relay, "mail")[-1] == "withdrawn"


def test_a_copy_that_turns_up_while_the_withdrawal_waits_is_an_echo_however_late(relay: Relay) -> None:
    """The CRM cannot be told for hours, so whatever it shows is from before: the withdrawal stands for everybody else."""
    happen(relay, "given", 1)
    relay.vendors["crm"].answers = [503] * 9
    withdrawal = happen(relay, "withdrawn", 3)
    assert relay.deliveries(withdrawal)["crm"][0] == "waiting"
    relay.acceptor._echo_seconds = 0.0
    happen(relay, "given", 50, "crm-news")
    assert told(relay, "mail") == ["given", "withdrawn"]


# Told again


def test_the_same_consent_shown_again_has_the_withdrawal_told_again(relay: Relay) -> None:
    """A vendor that shows a consent of old with its old date says nothing new, but it does not hold the withdrawal that it was told."""
    subject, key = {"email": ANA}, "shown"
    relay.event("given", 1, source="crm-news", key=key, **subject)
    relay.drain()
    happen(relay, "withdrawn", 3)
    assert told(relay, "crm") == ["withdrawn"]
    relay.event("given", 1, source="crm-news", key=key, **subject)
    relay.again()
    assert told(relay, "crm") == ["withdrawn", "withdrawn"]


def test_the_withdrawal_that_stands_is_told_there_whether_or_not_it_was_before(client: redis.Redis) -> None:
    """An older withdrawal was told to the CRM, the one that stands went elsewhere: the CRM shows a consent, so it is told the one that stands."""
    relay = other_ways(client)
    happen(relay, "withdrawn", 3)
    happen(relay, "withdrawn", 4, "shop")
    happen(relay, "given", 5, "crm-news")
    relay.again()
    assert told(relay, "crm") == ["withdrawn", "withdrawn"]
    assert relay.figures().unaccounted == 0


def test_a_withdrawal_whose_data_is_gone_is_told_again_by_what_the_destination_knows(client: redis.Redis) -> None:
    """Nothing personal is kept of it; the vendor itself has just named the person."""
    sources = (Source(name="web", retention="forward_and_delete"), Source(name="crm-news", origin=("crm",)))
    relay = Relay(client, routing([destination("crm", ReadableAdapter), destination("mail")], sources=sources))
    withdrawal = happen(relay, "withdrawn", 3)
    relay.again()
    assert relay.ledger.events.load([withdrawal])[0].payload is None  # type: ignore[union-attr]
    happen(relay, "given", 5, "crm-news")
    relay.again()
    assert told(relay, "crm") == ["withdrawn", "withdrawn"]
    assert relay.figures().unaccounted == 0


def test_a_withdrawal_that_is_being_told_is_told_again(relay: Relay) -> None:
    """The vendor took it, a copy of a consent overwrote it, and that was heard before our answer was written down."""
    shown: list[str] = []

    class Overwritten(Vendor):
        def receive(self, body: bytes) -> VendorResponse | None:
            answer = Vendor.receive(self, body)
            if not shown and self.calls:
                shown.append(relay.event("given", 5, source="crm-news", email=ANA))
                relay.fan_out.run(shown)
            return answer

    relay.vendors["crm"] = relay.exchange.vendors["crm"] = Overwritten()
    happen(relay, "withdrawn", 3)
    relay.again(3)
    assert told(relay, "crm") == ["withdrawn", "withdrawn"]


# Confirmations


def test_the_vendor_s_own_word_closes_what_awaited_it(client: redis.Redis) -> None:
    """A double opt-in that the vendor tells of ends the delivery at once, without asking, and changes nothing else."""
    relay = crm_relay(client, ConfirmedAdapter)
    event = happen(relay, "given", 1)
    assert relay.deliveries(event)["crm"] == ("awaiting_confirmation", None)
    happen(relay, "given", 9, "crm-news")
    assert relay.deliveries(event)["crm"] == ("delivered", "confirmed")
    assert relay.ledger.event(event)["complete"] is True  # type: ignore[index]
    assert (relay.figures().unaccounted, told(relay, "mail")) == (0, ["given"])
    happen(relay, "given", 10, "crm-news")
    assert relay.figures().unaccounted == 0


def test_a_withdrawal_closes_what_awaits_a_confirmation(client: redis.Redis) -> None:
    """Who withdraws before confirming has nothing left to confirm: the consent ends as superseded, without waiting for its next look."""
    relay = crm_relay(client, ConfirmedAdapter)
    event = happen(relay, "given", 1)
    holds(relay, None)
    withdrawal = happen(relay, "withdrawn", 2, "crm-news")
    relay.beat()
    relay.drain()
    relay.beat()
    relay.drain()
    view = relay.ledger.event(event)
    assert view is not None
    assert [(each["status"], each["reason"]) for each in view["deliveries"] if each["destination"] == "crm"] == [("superseded", "newer_word")]
    assert relay.deliveries(withdrawal)["crm"] == ("delivered", None)
    assert relay.ledger.store.client.hgetall("cr:{d:crm}:awaiting") == {}


def test_an_old_confirmation_confirms_no_newer_consent(client: redis.Redis) -> None:
    """Confirmed, withdrawn, and given again: what is heard of the first confirmation does not end the waiting for the second."""
    relay = crm_relay(client, ConfirmedAdapter)
    happen(relay, "given", 1)
    happen(relay, "withdrawn", 5)
    again = happen(relay, "given", 8)
    happen(relay, "given", 3, "crm-news")
    assert relay.deliveries(again)["crm"][0] == "awaiting_confirmation"
    happen(relay, "given", 9, "crm-news")
    assert relay.deliveries(again)["crm"] == ("delivered", "confirmed")


class UnsureAdapter(ReadableAdapter):
    """A vendor that takes everything in without saying that it is done."""

    def tell(self, instructions: list[Instruction]) -> TellDialogue:  # type: ignore[override]
        results = yield from super().tell(instructions)
        return [structs.replace(each, outcome=Outcome.PENDING_CONFIRMATION) for each in results]


class UnsureBlindAdapter(UnsureAdapter):
    """One that cannot be asked either."""

    capabilities = Capabilities()


@pytest.mark.parametrize("kind", [UnsureAdapter, UnsureBlindAdapter])
def test_a_withdrawal_that_nobody_confirms_is_told_again(client: redis.Redis, caplog: pytest.LogCaptureFixture, kind: type[PlainAdapter]) -> None:
    """A look that finds the vendor at `given`, or finds nothing, has it told again; beyond its time it raises the alert, until a look finds it."""
    crm = destination("crm", kind, retry=RetryPolicy(waits_seconds=(0.01,), give_up_after_seconds=0))
    relay = Relay(client, routing([crm]))
    holds(relay, State.GIVEN)
    event = happen(relay, "withdrawn", 1)
    assert (told(relay, "crm"), relay.deliveries(event)["crm"][0]) == (["withdrawn"], "awaiting_confirmation")
    relay.again()
    assert relay.deliveries(event)["crm"][0] == "waiting"
    assert [record.alert for record in caplog.records if record.name == "pipeline.settler"] == ["withdrawal_overdue"]
    relay.again()
    assert (told(relay, "crm"), relay.deliveries(event)["crm"][0]) == (["withdrawn"] * 2, "awaiting_confirmation")
    assert relay.figures().unaccounted == 0
    holds(relay, State.WITHDRAWN)
    relay.again()
    assert relay.deliveries(event)["crm"][0] == ("delivered" if kind is UnsureAdapter else "waiting")
    assert told(relay, "crm") == ["withdrawn"] * 2


def test_a_confirmation_that_is_being_asked_about_is_left_to_its_answer(client: redis.Redis) -> None:
    """While a worker holds the delivery, the vendor's word does not end it twice; an answer from before is followed by another look."""
    relay = crm_relay(client, ConfirmedAdapter)
    event = happen(relay, "given", 1)
    relay.hurry()
    assert [each.event_id for each in relay.ledger.deliveries.claim("crm", "given", "worker", 60_000, [event])] == [event]
    happen(relay, "given", 9, "crm-news")
    assert relay.deliveries(event)["crm"][0] == "awaiting_confirmation"
    relay.settler.settle(relay.rules.destinations["crm"], "given", "worker", [_still_unconfirmed(relay, event)], relay.ledger.clock_ms())
    holds(relay, State.GIVEN)
    relay.beat()
    relay.drain()
    assert relay.deliveries(event)["crm"][0] == "delivered"
    assert relay.figures().unaccounted == 0


def _still_unconfirmed(relay: Relay, event_id: str) -> Ending:
    """What a worker finds that asked just before the person confirmed."""
    event = open_if_readable(relay.ledger.events.load([event_id])[0], relay.vault)
    result = VendorResult(outcome=Outcome.PENDING_CONFIRMATION, reason="not_confirmed_yet")
    key = relay.hasher.identifier_key("email", ANA)
    return Ending(event=event, event_id=event_id, row=Row(state="given", awaiting=True), result=result, contact_keys=(key,))
