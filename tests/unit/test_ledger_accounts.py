"""Accounts in the ledger: exact rates, exclusive contacts, late-write marks, and a gate that closes, probes and opens."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence

import pytest
import redis

from pipeline.ledger import Ledger
from pipeline.ledger.accounts import Admission, Asking, Farewell, Traffic, read_admission
from tests.support.parts import open_ledger, traffic

ANNA, BEN, CARL = "e" + "a" * 24, "e" + "b" * 24, "e" + "c" * 24
PHONE = "p" + "a" * 24
GIVEN, WITHDRAWN = "given", "withdrawn"
PERMITS = itertools.count()


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    return open_ledger(client)


def admit(ledger: Ledger, limits: Traffic, *contacts: Sequence[str] | str, lane: str = GIVEN, token: str = "w1", permit: int = 0) -> Admission:
    keys = [[contact] if isinstance(contact, str) else contact for contact in contacts]
    return ledger.accounts.admit(limits, lane, token, permit, keys)


def leave(
    ledger: Ledger, limits: Traffic, *contacts: str, lane: str = GIVEN, token: str = "w1", definite: bool = True, permits=((0, 1),), gate: str = "", pause=0
):
    farewells = [Farewell(lane=lane, definite=definite, identifier_keys=(contact,)) for contact in contacts]
    return ledger.accounts.leave(limits, token, list(permits), farewells, gate=gate, pause_ms=pause)


def token_of(ledger: Ledger) -> str | None:
    kept = ledger.accounts.get("shop")
    return kept[0] if kept else None


def people(count: int) -> list[str]:
    return [f"e{n:024d}" for n in range(count)]


def test_contact_belongs_to_one_worker(ledger: Ledger):
    """While one worker talks about a contact nobody else may, in either lane, by any of its identifiers."""
    limits = traffic()
    assert admit(ledger, limits, (ANNA, PHONE)).verdicts == (1,)
    for contact in (ANNA, PHONE, (BEN, PHONE)):
        for lane in (GIVEN, WITHDRAWN):
            verdict = admit(ledger, limits, contact, lane=lane, token="w2").verdicts[0]
            assert 0 < -verdict - ledger.now_ms() <= 1000
    assert admit(ledger, limits, BEN, token="w2").verdicts == (1,)


def test_refused_contact_claims_nothing(ledger: Ledger):
    """An instruction refused for one busy identifier leaves its other identifiers free and starts no dialogue."""
    limits = traffic()
    admit(ledger, limits, PHONE)
    refused = admit(ledger, limits, (BEN, PHONE), token="w2")
    assert refused.dialogues == 0
    assert admit(ledger, limits, BEN, token="w3").verdicts == (1,)


def test_own_token_is_no_pass(ledger: Ledger):
    """The same worker may not talk about one contact twice at once, not even in one request."""
    admission = admit(ledger, traffic(), ANNA, ANNA)
    assert (admission.dialogues, admission.verdicts[0]) == (1, 1)
    assert admission.verdicts[1] < 0


def test_leaving_frees_the_contact(ledger: Ledger):
    """After the goodbye the next worker is let in, and the goodbye says that the claim had lasted."""
    limits = traffic()
    admit(ledger, limits, ANNA, lane=WITHDRAWN)
    assert leave(ledger, limits, ANNA, lane=WITHDRAWN) == (False, [True])
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)


def test_claim_of_a_dead_worker_runs_out(ledger: Ledger):
    """A claim ends by itself; the first worker's late goodbye says it was outlived and does not end the second's claim."""
    limits = traffic(claim_ms=20)
    admit(ledger, limits, ANNA, lane=WITHDRAWN)
    time.sleep(0.03)
    assert admit(ledger, traffic(), ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)
    assert leave(ledger, limits, ANNA, lane=WITHDRAWN) == (False, [False])
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w3").verdicts[0] < 0


def test_claim_that_ran_out_unnoticed_is_outlived(ledger: Ledger):
    """Even if nobody took the contact meanwhile, a claim that ran out did not last."""
    limits = traffic(claim_ms=10)
    admit(ledger, limits, ANNA)
    time.sleep(0.02)
    assert leave(ledger, limits, ANNA) == (False, [False])


def test_claim_and_permit_are_renewed_while_their_holder_lives(ledger: Ledger):
    """A dialogue that is renewed keeps its contact and its place; without renewal both are free long before the longest dialogue ends."""
    limits = traffic(concurrent=1, hold_ms=200, claim_ms=60_000)
    admit(ledger, limits, ANNA, lane=WITHDRAWN)
    time.sleep(0.12)
    ledger.accounts.hold(limits, "w1", [0], [ANNA])
    time.sleep(0.12)
    assert admit(ledger, limits, BEN, lane=WITHDRAWN, token="w2").why == "concurrency"
    assert admit(ledger, traffic(), ANNA, lane=WITHDRAWN, token="w2").verdicts[0] < 0
    time.sleep(0.12)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)
    assert leave(ledger, limits, ANNA, lane=WITHDRAWN) == (False, [False])


def test_a_claim_that_went_to_somebody_else_is_not_renewed(ledger: Ledger):
    """Renewing after the end brings neither the claim nor the permit back."""
    limits = traffic(concurrent=1, hold_ms=20)
    admit(ledger, limits, ANNA, lane=WITHDRAWN)
    time.sleep(0.03)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)
    ledger.accounts.hold(traffic(concurrent=1), "w1", [0], [ANNA])
    time.sleep(0.03)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w3").verdicts == (1,)


def test_unanswered_given_leaves_a_mark(ledger: Ledger):
    """A withdrawal after a `given` without a definite answer is let in, and told until when a late write may come."""
    limits = traffic(late_write_ms=500)
    admit(ledger, limits, ANNA)
    leave(ledger, limits, ANNA, definite=False)
    verdict = admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts[0]
    assert 0 < verdict - ledger.now_ms() <= 500
    assert admit(ledger, limits, BEN, lane=WITHDRAWN, token="w2").verdicts == (1,)


def test_killed_given_leaves_a_mark(ledger: Ledger):
    """A worker that died while telling `given` leaves a mark that outlasts its claim by the late-write time."""
    limits = traffic(claim_ms=20, late_write_ms=500)
    admit(ledger, limits, ANNA)
    time.sleep(0.03)
    verdict = admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts[0]
    assert 400 < verdict - ledger.now_ms() <= 500


def test_answered_given_leaves_no_mark(ledger: Ledger):
    """After a definite answer a withdrawal is final at once."""
    limits = traffic()
    admit(ledger, limits, ANNA)
    leave(ledger, limits, ANNA, definite=True)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)


def test_second_answer_does_not_wipe_an_older_mark(ledger: Ledger):
    """A later `given` with a definite answer does not hide that an earlier one may still arrive."""
    limits = traffic(late_write_ms=500)
    admit(ledger, limits, ANNA)
    leave(ledger, limits, ANNA, definite=False)
    admit(ledger, limits, ANNA, token="w2")
    leave(ledger, limits, ANNA, token="w2", definite=True)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w3").verdicts[0] > 1


def test_second_answer_does_not_lengthen_an_older_mark(ledger: Ledger):
    """What an earlier `given` left stands no longer because a later one was answered."""
    limits = traffic(late_write_ms=500, claim_ms=60_000)
    admit(ledger, limits, ANNA)
    leave(ledger, limits, ANNA, definite=False)
    admit(ledger, limits, ANNA, token="w2")
    leave(ledger, limits, ANNA, token="w2", definite=True)
    verdict = admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w3").verdicts[0]
    assert 0 < verdict - ledger.now_ms() <= 500


def test_withdrawal_leaves_no_mark(ledger: Ledger):
    """An unanswered withdrawal marks nothing: told twice it does no harm."""
    limits = traffic()
    admit(ledger, limits, ANNA, lane=WITHDRAWN)
    leave(ledger, limits, ANNA, lane=WITHDRAWN, definite=False)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)


def test_mark_ends(ledger: Ledger):
    """After the late-write time a withdrawal is final again."""
    limits = traffic(late_write_ms=20, claim_ms=20)
    admit(ledger, limits, ANNA)
    leave(ledger, limits, ANNA, definite=False)
    time.sleep(0.05)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)


def test_concurrency_is_never_exceeded(ledger: Ledger):
    """Only as many dialogues as allowed are under way over all workers; each goodbye makes room for one."""
    limits = traffic(concurrent=3)
    assert admit(ledger, limits, *people(2)).dialogues == 2
    second = admit(ledger, limits, *people(6)[2:], token="w2")
    assert (second.dialogues, second.verdicts, second.why) == (1, (1, 0, 0, 0), "concurrency")
    leave(ledger, limits, people(1)[0])
    assert admit(ledger, limits, *people(6)[3:], token="w3").dialogues == 1


def test_batch_is_one_dialogue(ledger: Ledger):
    """With batches of three, seven instructions are three dialogues, and room for two admits six of them."""
    limits = traffic(concurrent=2, batch_size=3)
    admission = admit(ledger, limits, *people(7))
    assert (admission.dialogues, admission.verdicts) == (2, (1,) * 6 + (0,))


def test_dead_workers_make_room(ledger: Ledger):
    """A permit that was never handed back ends with its claim."""
    limits = traffic(concurrent=1, claim_ms=100)
    admit(ledger, limits, ANNA)
    assert admit(ledger, limits, BEN, token="w2").dialogues == 0
    time.sleep(0.11)
    assert admit(ledger, limits, BEN, token="w2").dialogues == 1


def test_reserve_is_for_withdrawals(ledger: Ledger):
    """`given` may not take the connection and the calls that are kept for withdrawals."""
    limits = traffic(concurrent=4, reserved_dialogues=1)
    assert admit(ledger, limits, *people(9)).dialogues == 3
    assert admit(ledger, limits, *people(9)[3:], lane=WITHDRAWN, token="w2").dialogues == 1
    rated = traffic(account="rated", calls=10, per_ms=60_000, reserved_calls=2, concurrent=50)
    assert admit(ledger, rated, *people(20)).dialogues == 8
    assert admit(ledger, rated, *people(20)[8:], lane=WITHDRAWN, token="w2").dialogues == 2


def test_waiting_withdrawals_go_first(ledger: Ledger):
    """Once withdrawals found no room, `given` is let in only with what they will not need; their admission ends that."""
    limits = traffic(concurrent=3)
    admit(ledger, limits, *people(3))
    assert admit(ledger, limits, *people(5)[3:], lane=WITHDRAWN, token="w2").verdicts == (0, 0)
    leave(ledger, limits, *people(3), permits=[(n, 1) for n in range(3)])
    assert admit(ledger, limits, *people(9)[5:], token="w3").dialogues == 1
    assert admit(ledger, limits, *people(5)[3:], lane=WITHDRAWN, token="w2").dialogues == 2
    leave(ledger, limits, *people(5)[3:], lane=WITHDRAWN, token="w2", permits=[(0, 1), (1, 1)])
    time.sleep(0.15)  # w3 has not asked in vain for a while
    assert admit(ledger, limits, *people(12)[9:], token="w4").dialogues == 2


def test_one_withdrawn_chunk_that_found_room_leaves_the_others_theirs(ledger: Ledger):
    """What another chunk of withdrawals still waits for stays out of the reach of `given`."""
    limits = traffic(concurrent=3)
    admit(ledger, limits, *people(3))
    assert admit(ledger, limits, *people(5)[3:], lane=WITHDRAWN, token="w2").verdicts == (0, 0)
    leave(ledger, limits, *people(3), permits=[(n, 1) for n in range(3)])
    assert admit(ledger, limits, *people(6)[5:], lane=WITHDRAWN, token="w3").dialogues == 1
    assert admit(ledger, limits, *people(9)[6:], token="w4").dialogues == 0
    assert admit(ledger, limits, *people(5)[3:], lane=WITHDRAWN, token="w2").dialogues == 2


def test_unused_calls_come_back(ledger: Ledger):
    """A dialogue that made fewer calls than it might gives the rest back at once; one that made more is charged for them."""
    limits = traffic(calls=6, per_ms=60_000, calls_per_dialogue=3)
    assert admit(ledger, limits, *people(3)).dialogues == 2
    leave(ledger, limits, *people(2), permits=[(0, 1), (1, 1)])
    assert admit(ledger, limits, *people(9)[3:], token="w2").dialogues == 1
    leave(ledger, limits, permits=[(0, 6)], token="w2")
    assert admit(ledger, limits, *people(9)[6:], token="w3").dialogues == 0


def test_says_when_to_come_back(ledger: Ledger):
    """When the rate is used up, the answer names the time at which enough calls are free again."""
    limits = traffic(calls=2, per_ms=300)
    admit(ledger, limits, ANNA, BEN)
    leave(ledger, limits, ANNA, BEN, permits=[(0, 1), (1, 1)])
    refused = admit(ledger, limits, CARL, token="w2")
    assert (refused.dialogues, refused.why) == (0, "rate")
    assert 200 < refused.retry_at_ms - ledger.now_ms() <= 300


@pytest.mark.parametrize("per_ms, soon_ms", [(200, 200), (60_000, 1000)])
def test_a_call_under_way_is_not_waited_for_as_long_as_it_might_take(ledger: Ledger, per_ms: int, soon_ms: int):
    """Its dialogue may take half a minute and mostly takes milliseconds, and gives back the calls that it has not made."""
    limits = traffic(calls=3, per_ms=per_ms, calls_per_dialogue=3, claim_ms=30_000)
    admit(ledger, limits, ANNA)
    refused = admit(ledger, limits, BEN, token="w2")
    assert (refused.dialogues, refused.why) == (0, "rate")
    assert soon_ms - 100 < refused.retry_at_ms - ledger.now_ms() <= soon_ms


@pytest.mark.parametrize("calls", [1, 7])
def test_rate_is_exact_over_any_window(client: redis.Redis, valkey_url: str, calls: int):
    """Sixteen threads in two processes' worth of connections: no window of `per` at the vendor ever holds more than the calls allowed."""
    per_ms, limits = 120, traffic(calls=calls, per_ms=120, concurrent=50)
    first = open_ledger(client)
    second = open_ledger(redis.Redis.from_url(valkey_url))
    arrived: list[float] = []
    stop_at = time.monotonic() + 0.6

    def work(ledger: Ledger, name: str) -> None:
        for number in itertools.count():
            if time.monotonic() >= stop_at:
                return
            contact = f"e{name:0>12}{number:012d}"
            if admit(ledger, limits, contact, token=f"{name}.{number}").dialogues:
                arrived.append(time.monotonic())  # anywhere between admission and goodbye
                leave(ledger, limits, contact, token=f"{name}.{number}")
            else:
                time.sleep(0.003)

    threads = [threading.Thread(target=work, args=(ledger, f"{n}{m}")) for n, ledger in enumerate((first, second)) for m in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second.store.client.close()
    arrived.sort()
    crowded = [n for n in range(len(arrived) - calls) if arrived[n + calls] - arrived[n] < per_ms / 1000 - 0.002]
    assert crowded == []
    assert len(arrived) >= 3 * calls  # and the limit is used, not just kept


def test_two_that_want_more_than_there_is_share(ledger: Ledger):
    """Whoever holds all connections gets none again while another wants its part; once that has enough, all are free to take."""
    limits, contacts = traffic(concurrent=4), people(12)

    def ask(token: str, names: Sequence[str], *, permit: int = 0, under_way: int = 0) -> int:
        return ledger.accounts.admit(limits, GIVEN, token, permit, [[name] for name in names], under_way=under_way).dialogues

    assert ask("w1", contacts[:4]) == 4
    assert ask("w2", contacts[4:8]) == 0
    leave(ledger, limits, *contacts[:2], permits=((0, 1), (1, 1)))
    assert ask("w1", contacts[8:10], permit=4, under_way=2) == 0
    assert ask("w2", contacts[4:8]) == 2
    leave(ledger, limits, *contacts[2:4], permits=((2, 1), (3, 1)))
    assert ask("w2", contacts[6:8], permit=4, under_way=2) == 0
    assert ask("w1", contacts[8:10], permit=6) == 2
    leave(ledger, limits, *contacts[8:10], permits=((6, 1), (7, 1)))
    time.sleep(0.15)  # nobody has asked in vain for a while
    assert ask("w1", contacts[10:12], permit=8) == 2


@pytest.mark.parametrize("wants_more,had", [(True, 1), (False, 2)])
def test_who_asks_for_less_than_it_wants_is_left_its_part(ledger: Ledger, wants_more: bool, had: int):
    """Of four connections one chunk had all; another that asks for one, and has it, still wants the second."""
    limits, contacts = traffic(concurrent=4), people(12)

    def ask(token: str, names: Sequence[str], permit: int, *, under_way: int = 0, wants_more: bool = False) -> int:
        asking = Asking(first_permit=permit, contacts=[[name] for name in names], under_way=under_way, wants_more=wants_more)
        (reply,) = ledger.store.run([ledger.accounts.admit_command(limits, GIVEN, token, asking)])
        return read_admission(reply).dialogues

    assert ask("w1", contacts[:4], 0) == 4
    assert ask("w2", contacts[4:8], 0) == 0
    leave(ledger, limits, *contacts[:3], permits=((0, 1), (1, 1), (2, 1)))
    assert ask("w2", contacts[4:5], 0, wants_more=wants_more) == 1
    assert ask("w1", contacts[8:10], 4, under_way=1) == had


def test_three_that_share_leave_the_reserve_alone(ledger: Ledger):
    """Of four connections one is kept for withdrawals, so each of three that want more gets one."""
    limits, contacts = traffic(concurrent=4, reserved_dialogues=1), people(12)

    def ask(token: str, first: int, *, permit: int = 0, under_way: int = 0) -> int:
        names = [[name] for name in contacts[first : first + 3]]
        return ledger.accounts.admit(limits, GIVEN, token, permit, names, under_way=under_way).dialogues

    assert (ask("w1", 0), ask("w2", 3), ask("w3", 6)) == (3, 0, 0)
    leave(ledger, limits, *contacts[:2], permits=((0, 1), (1, 1)))
    assert (ask("w1", 9, permit=3, under_way=1), ask("w2", 3), ask("w3", 6)) == (0, 1, 1)


class Chunks:
    """Chunks that want more connections than there are, and ask for another as soon as a dialogue of theirs has ended."""

    def __init__(self, ledger: Ledger, limits: Traffic, names: str) -> None:
        self._ledger, self._limits = ledger, limits
        self._serial = itertools.count()
        self.held: dict[str, list[tuple[int, str]]] = {name: [] for name in names}

    def ask(self, name: str, wanted: int = 4) -> int:
        first, held = 1000 * ord(name) + next(self._serial) * 10, self.held[name]
        contacts = [f"e{first + n:024d}" for n in range(wanted)]
        admission = self._ledger.accounts.admit(self._limits, GIVEN, name, first, [[each] for each in contacts], under_way=len(held))
        held += [(first + n, contacts[n]) for n in range(admission.dialogues)]
        return admission.dialogues

    def end_one(self, name: str) -> None:
        permit, contact = self.held[name].pop(0)
        leave(self._ledger, self._limits, contact, token=name, permits=[(permit, 1)])


def test_none_is_left_without_although_others_hold_all(ledger: Ledger):
    """Of four connections two chunks hold two each: the first that ends a dialogue leaves it to a third that has none, hungry or not as the other may be."""
    chunks = Chunks(ledger, traffic(concurrent=4), "abc")
    assert (chunks.ask("a", 2), chunks.ask("b", 2), chunks.ask("c")) == (2, 2, 0)
    chunks.end_one("a")
    assert (chunks.ask("a"), chunks.ask("c")) == (0, 1)


@pytest.mark.parametrize("concurrent, names", [(4, "abc"), (1, "ab")])
def test_what_cannot_be_divided_is_used_by_one_after_the_other(ledger: Ledger, concurrent: int, names: str):
    """Each has its part all the time, all connections are used, and every chunk has the one that is over for a while."""
    chunks, part = Chunks(ledger, traffic(concurrent=concurrent), names), concurrent // len(names)
    had, all_used, with_part, rounds = set(), 0, 0, 0
    until = time.monotonic() + 20
    while time.monotonic() < until and had != set(names):
        for name in names:
            if chunks.held[name]:
                chunks.end_one(name)
            chunks.ask(name)
        rounds += 1
        all_used += sum(map(len, chunks.held.values())) == concurrent
        with_part += all(len(held) >= part for held in chunks.held.values())
        had |= {name for name, held in chunks.held.items() if len(held) > part}
    assert had == set(names)
    assert min(all_used, with_part) > 0.5 * rounds  # a machine that takes a tenth of a second for a round forgets who is hungry


def test_concurrency_holds_under_threads(client: redis.Redis):
    """Sixteen threads never have more dialogues under way than allowed."""
    ledger, limits = open_ledger(client), traffic(concurrent=4, claim_ms=60_000)
    lock, under_way, most, done = threading.Lock(), [0], [0], [0]
    stop_at = time.monotonic() + 0.3

    def work(name: int) -> None:
        for number in itertools.count():
            if time.monotonic() >= stop_at + (0 if done[0] > 16 else 30):  # a slow machine is given time
                return
            contact = f"e{name:012d}{number:012d}"
            if admit(ledger, limits, contact, token=f"{name}.{number}").dialogues:
                with lock:
                    under_way[0] += 1
                    most[0] = max(most[0], under_way[0])
                time.sleep(0.002)
                with lock:
                    under_way[0] -= 1
                    done[0] += 1
                leave(ledger, limits, contact, token=f"{name}.{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 4
    assert done[0] > 16


def fail(ledger: Ledger, limits: Traffic, times: int = 1) -> list[bool]:
    moved = []
    for _ in range(times):
        admit(ledger, limits, ANNA, lane=WITHDRAWN)
        moved.append(leave(ledger, limits, ANNA, lane=WITHDRAWN, gate="failed")[0])
    return moved


def test_breaker_opens_after_failures_in_a_row(ledger: Ledger):
    """The breaker opens with the third failure, not before, and a success in between starts the count anew."""
    limits = traffic(breaker_failures=3, breaker_wait_ms=10_000)
    assert fail(ledger, limits, 2) == [False, False]
    leave(ledger, limits, gate="ok")
    assert fail(ledger, limits, 2) == [False, False]
    assert not ledger.accounts.gate_is_open("shop")
    assert fail(ledger, limits) == [True]
    assert ledger.accounts.open_because("shop") == "breaker"
    refused = admit(ledger, limits, BEN)
    assert (refused.dialogues, refused.why, refused.verdicts) == (0, "breaker", (0,))
    assert 9_000 < refused.retry_at_ms - ledger.now_ms() <= 10_000
    assert ledger.accounts.room(limits)[1] is True


def test_half_open_admits_exactly_one(ledger: Ledger):
    """After its wait the breaker lets exactly one dialogue probe; success opens the account to all."""
    limits = traffic(breaker_failures=1, breaker_wait_ms=20)
    fail(ledger, limits)
    time.sleep(0.03)
    probing = admit(ledger, limits, *people(5))
    assert (probing.dialogues, probing.verdicts) == (1, (1, 0, 0, 0, 0))
    assert admit(ledger, limits, BEN, token="w2").dialogues == 0
    assert admit(ledger, limits, CARL, lane=WITHDRAWN, token="w3").dialogues == 0
    assert leave(ledger, limits, people(1)[0], gate="ok")[0] is True
    assert not ledger.accounts.gate_is_open("shop")
    assert admit(ledger, limits, *people(4), token="w4").dialogues == 4


def test_failed_probe_waits_longer_each_time(ledger: Ledger):
    """A failed probe doubles the wait, up to the longest, and does not report that the breaker opened again."""
    limits = traffic(breaker_failures=1, breaker_wait_ms=60, breaker_wait_max_ms=150)
    assert fail(ledger, limits) == [True]
    for expected in (120, 150, 150):
        time.sleep(max(0.0, (admit(ledger, limits, CARL).retry_at_ms - ledger.now_ms()) / 1000) + 0.003)
        assert fail(ledger, limits) == [False]
        assert expected - 50 < admit(ledger, limits, CARL).retry_at_ms - ledger.now_ms() <= expected


def test_probe_that_never_answers_does_not_block_for_ever(ledger: Ledger):
    """If the probing worker dies, another may probe when its claim has run out."""
    limits = traffic(breaker_failures=1, breaker_wait_ms=10, claim_ms=150)
    fail(ledger, limits)
    time.sleep(0.02)
    assert admit(ledger, limits, ANNA).dialogues == 1
    assert admit(ledger, limits, BEN, token="w2").dialogues == 0
    time.sleep(0.17)
    assert admit(ledger, limits, BEN, token="w2").dialogues == 1


def test_retry_after_pauses_the_whole_account(ledger: Ledger):
    """A pause stops both lanes of every destination of the account until it is over; a success of another dialogue does not end it, a shorter one does not cut it."""
    limits = traffic()
    leave(ledger, limits, gate="paused", pause=300)
    leave(ledger, limits, gate="ok")
    leave(ledger, limits, gate="paused", pause=5)
    for lane in (GIVEN, WITHDRAWN):
        refused = admit(ledger, limits, ANNA, lane=lane)
        assert (refused.dialogues, refused.why) == (0, "retry_after")
        assert 100 < refused.retry_at_ms - ledger.now_ms() <= 300
    assert admit(ledger, traffic(account="other"), ANNA).dialogues == 1
    time.sleep(0.31)
    assert admit(ledger, limits, ANNA).dialogues == 1


def test_misconfigured_account_is_probed_and_resumes(ledger: Ledger):
    """Bad credentials pause the account; one dialogue probes after the pause; when it is let in, everybody is."""
    limits = traffic()
    assert leave(ledger, limits, gate="misconfigured", pause=100)[0] is True
    assert admit(ledger, limits, ANNA).why == "misconfigured"
    time.sleep(0.11)
    assert admit(ledger, limits, *people(3)).dialogues == 1
    assert leave(ledger, limits, people(1)[0], gate="misconfigured", pause=20)[0] is False
    time.sleep(0.03)
    assert admit(ledger, limits, *people(3), token="w2").dialogues == 1
    assert leave(ledger, limits, people(1)[0], token="w2", gate="ok")[0] is True
    assert admit(ledger, limits, *people(3), token="w3").dialogues == 3


def test_a_probe_of_bad_credentials_is_about_one_person(ledger: Ledger):
    """At a vendor that takes many at once the probe names one, so that somebody whom it refuses for himself does not speak for the others; then batches are whole again."""
    limits = traffic(batch_size=50)
    leave(ledger, limits, gate="misconfigured", pause=10)
    time.sleep(0.02)
    assert admit(ledger, limits, *people(3)).verdicts == (1, 0, 0)
    leave(ledger, limits, people(1)[0], gate="ok")
    assert admit(ledger, limits, *people(3), token="w2").verdicts == (1, 1, 1)


def test_session_is_sealed_and_dropped_once(ledger: Ledger):
    """A token is kept sealed for all workers; dropping a refused one does not drop its successor; it expires."""
    accounts = ledger.accounts
    assert accounts.get("shop") is None
    accounts.put("shop", "token-1", 60)
    assert token_of(ledger) == "token-1"
    assert b"token-1" not in ledger.store.client.get(ledger.keys.account("shop", "session"))
    accounts.put("shop", "token-2", 60)
    accounts.drop("shop", "token-1")
    assert token_of(ledger) == "token-2"
    accounts.drop("shop", "token-2")
    assert accounts.get("shop") is None
    accounts.put("shop", "token-3", 0.02)
    time.sleep(0.03)
    assert accounts.get("shop") is None


def test_a_token_is_read_with_what_is_left_of_it(ledger: Ledger, client: redis.Redis):
    """Who reads it learns when it ends, to the millisecond; one without an end counts as gone."""
    ledger.accounts.put("shop", "token-1", 60)
    client.pexpire(ledger.keys.account("shop", "session"), 1500)
    token, seconds_left = ledger.accounts.get("shop")
    assert (token, 0.5 < seconds_left <= 1.5) == ("token-1", True)
    client.persist(ledger.keys.account("shop", "session"))
    assert ledger.accounts.get("shop") is None


def test_a_token_opens_for_its_own_session_only(ledger: Ledger):
    """A token copied to another login's session counts as none."""
    ledger.accounts.put("shop:ana", "token-1", 60)
    ledger.store.client.copy(ledger.keys.account("shop:ana", "session"), ledger.keys.account("shop:ben", "session"))
    assert ledger.accounts.get("shop:ben") is None


def test_session_sealed_with_a_retired_key_is_no_session(client: redis.Redis):
    """After a vault key was retired a token sealed with it counts as none, so that workers sign in anew."""
    from pipeline.ledger import LedgerOptions
    from pipeline.vault import Vault
    from tests.support.parts import HASHER

    open_ledger(client).accounts.put("shop", "token-1", 60)
    other = Ledger(client, Vault([b"n" * 32]), LedgerOptions(partitions=4, pepper_fingerprint=HASHER.fingerprint(), needs_vault_keys=False))
    assert other.accounts.get("shop") is None
    other.accounts.drop("shop", "token-1")
    other.accounts.put("shop", "token-2", 60)
    assert token_of(other) == "token-2"


def test_who_only_asks_takes_no_more_than_a_given_and_leaves_no_mark(ledger: Ledger):
    """A question claims its contact, leaves withdrawals what is kept for them, and makes no later withdrawal wait for a write that never was."""
    limits = traffic(concurrent=2, calls=10, reserved_calls=4, reserved_dialogues=1)
    assert admit(ledger, limits, ANNA, BEN, lane="ask").verdicts == (1, 0)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts[0] < 0
    leave(ledger, limits, ANNA, lane="ask", definite=False)
    assert admit(ledger, limits, ANNA, lane=WITHDRAWN, token="w2").verdicts == (1,)


def test_who_asks_learns_of_a_late_write(ledger: Ledger):
    """What a vendor holds says little while a `given` without an answer may still arrive."""
    limits = traffic()
    admit(ledger, limits, ANNA)
    leave(ledger, limits, ANNA, definite=False)
    assert admit(ledger, limits, ANNA, lane="ask", token="w2").verdicts[0] > 1
