"""What chaos runs are judged by, without any chaos: each thing that may go wrong is seen."""

from __future__ import annotations

import json
from types import SimpleNamespace

from tests.chaos.test_kills import unexplained
from tests.support.accounting import unrecorded
from tests.support.load import Arrival, Sent, corrections, stale_arrivals
from tests.support.verdict import Verdict, faults, repeated_after, repeated_in, wrong_states

ANA = ("ana@example.org", "newsletter")


def sent(state: str, order: int, *, begun: float, answered: float) -> Sent:
    body = {"subject": {"email": ANA[0]}, "purpose": ANA[1], "state": state}
    return Sent(body=body, order=order, begun_at=begun, answered_at=answered, ids=[f"event-{order}"])


def arrival(state: str, at: float) -> Arrival:
    return Arrival(about=ANA, state=state, at=at)


GIVEN, WITHDRAWN = sent("given", 1, begun=1.0, answered=1.1), sent("withdrawn", 2, begun=2.0, answered=2.1)


def test_a_given_after_a_newer_withdrawal_is_stale():
    """One that arrives before its 202 is not, and neither is one that a newer given excuses."""
    newer = sent("given", 3, begun=4.0, answered=4.1)
    told = [arrival("given", at) for at in (1.5, 2.5, 4.5)]
    assert [(stale.at, by) for stale, by in stale_arrivals([GIVEN, WITHDRAWN, newer], told)] == [(2.5, WITHDRAWN)]


def test_a_correction_is_the_withdrawal_that_follows():
    """Without one it is infinite, which no limit allows."""
    assert corrections([GIVEN, WITHDRAWN], [arrival("given", 2.5), arrival("given", 2.6), arrival("withdrawn", 3.0)]) == [0.5, 0.3999999999999999]
    assert corrections([GIVEN, WITHDRAWN], [arrival("withdrawn", 2.2), arrival("given", 2.5)]) == [float("inf")]


def test_a_late_given_is_explained_by_a_worker_that_stood_still():
    """Between the withdrawal's 202 and the arrival; ingest sends nothing."""
    late = [(10.0, 14.0)]
    assert unexplained(late, [("worker-1", 9.0, 13.0)]) == 0
    assert unexplained(late, [("worker-1", 3.0, 9.0), ("worker-2", 15.0, 16.0), ("ingest", 9.0, 13.0)]) == 1


def test_repeated_calls_are_counted_once_for_all_their_identifiers():
    """The same call again is a repeat; the same call to one more identifier is none."""
    again = {
        "email:a/n": [{"webhook_id": "1"}, {"webhook_id": "1"}],
        "phone:b/n": [{"webhook_id": "1"}, {"webhook_id": "1"}],
        "email:c/n": [{"webhook_id": "2"}],
    }
    assert repeated_in(again) == (3, 1)
    assert repeated_in({"email:a/n": [{"webhook_id": "1"}, {"webhook_id": "1"}], "phone:b/n": [{"webhook_id": "1"}]}) == (2, 0)


def test_vendors_that_hold_something_else_are_named():
    """An old state, a missing contact and one of whom nothing was said."""

    def stack(*contacts: tuple[str, str]) -> SimpleNamespace:
        return SimpleNamespace(sandbox=lambda _: {"contacts": {key: {"state": state} for key, state in contacts}})

    events, only = [GIVEN, WITHDRAWN], {"webhook": {"newsletter"}}
    right = ("email:ana@example.org/newsletter", "withdrawn")
    assert wrong_states(stack(right), events, only) == []
    assert wrong_states(stack((right[0], "given")), events, only) == [("webhook", ANA, "withdrawn", "given")]
    assert wrong_states(stack(), events, only) == [("webhook", ANA, "withdrawn", None)]
    assert len(wrong_states(stack(right, ("email:ben@example.org/newsletter", "given")), events, only)) == 1


def test_an_outage_is_no_fault_of_a_task():
    """Any other failure is."""
    lines = [json.dumps({"event": "task_failed", "error": error}) for error in ("LedgerUnavailable: away", "builtins.KeyError")]
    assert faults(SimpleNamespace(log=lambda: "\n".join(["ready", *lines]))) == [lines[1]]


def test_every_broken_promise_is_a_problem():
    """A verdict without any has none."""
    good = {"events": 10, "calls": 100, "doubled": 1, "lost": (), "wrong": (), "unaccounted": 0.0, "dead": 0.0, "lags": (), "corrections": ()}
    good |= {"late": (), "stale_sends": 0, "uncounted": 0, "several_ids": 0, "accepted": 10, "gaps": ()}
    assert Verdict(**good).problems(doubled_share=0.01) == []
    wrong = {
        "doubled": 2,
        "lost": ("x",),
        "wrong": (("webhook", ANA, "withdrawn", None),),
        "unaccounted": 1.0,
        "dead": 1.0,
        "uncounted": 1,
        "several_ids": 1,
        "gaps": ("an event that is not on record",),
        "accepted": 11,
    }
    for name, value in wrong.items():
        assert len(Verdict(**{**good, name: value}).problems(doubled_share=0.01)) == 1


def test_calls_that_no_record_has_are_named_unless_a_worker_may_have_made_them():
    """By their keyed hash and how often; each delivery that a dead worker had taken up covers a dialogue."""
    assert unrecorded({"a": 2, "b": 1}, {"a": 2, "b": 3}, 0) == []
    assert "1 calls are not on record" in unrecorded({"a": 2, "b": 1}, {"a": 1, "b": 1}, 0)[0]
    assert unrecorded({"a": 7}, {"a": 1}, 1) == []
    assert unrecorded({"a": 8}, {"a": 1}, 1) != []


def test_what_is_made_again_when_a_lease_has_run_out_is_told_from_what_comes_at_once() -> None:
    """And a call that names somebody further is none that was made again."""

    def history(*times: float, further: float | None = None) -> dict[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]] = {"email:ana": [{"webhook_id": "e.webhook", "at": at} for at in times]}
        return found | ({"phone:1": [{"webhook_id": "e.webhook", "at": further}]} if further else {})

    assert repeated_after(history(10.0, 16.0), 5.0) == 1
    assert repeated_after(history(10.0, 10.2), 5.0) == 0
    assert repeated_after(history(10.0, 16.0, further=16.0), 5.0) == 0
    assert repeated_after(history(10.0), 5.0) == 0
