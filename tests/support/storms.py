"""What a storm is made of: the routing, the people, and what Hypothesis may draw."""

from __future__ import annotations

from hypothesis import strategies as st

from pipeline.routing import Conditions, RetryPolicy, Routing, Source, Trigger
from pipeline.vendors.base import Rate
from tests.support.oracle import Place
from tests.support.relay import adapter, destination, routing

PURPOSES = ("news", "sms")
KINDS = {"x": "external_id", "e": "email", "p": "phone"}
PEOPLE = ("e1", "x1", "p1", "x1 e1", "e1 p1", "x1 p1", "x1 e1 p1", "x1 e2", "e2", "x2 e3", "e3 p1", "e3", "x2", "p2", "x2 p2")
"""Ana is x1 and changes from e1 to e2; Ben is x2 and e3; p1 is the phone of both, p2 is Ben's own."""

PLACES = (
    Place(name="crm", kinds=("external_id",)),
    Place(name="hook", kinds=("external_id", "email", "phone")),
    Place(name="mail", kinds=("email",)),
    Place(name="promo", kinds=("email",), routes=lambda said: said.purpose == "news" and (said.withdrawn or said.country == "BR")),
    Place(name="stop", kinds=("email",), contact_scope=True),
)


def rules() -> Routing:
    """Five destinations that know people by different identifiers; `crm` gives up on a `given` at once, `stop` is slow, `promo` is for Brazil."""
    slow = RetryPolicy(waits_seconds=(60.0,), give_up_after_seconds=1e9)
    destinations = [
        destination("crm", adapter(identifiers=("external_id",)), retry=RetryPolicy(waits_seconds=(60.0,), give_up_after_seconds=0)),
        destination("hook", adapter(identifiers=("external_id", "email", "phone"), batch_size=3), retry=slow),
        destination("mail", adapter(identifiers=("email",)), retry=slow),
        destination("promo", adapter(identifiers=("email",)), retry=slow),
        destination("stop", adapter(identifiers=("email",), scope="contact"), retry=slow, rate=Rate(calls=3, per_seconds=10, concurrent=2)),
    ]
    triggers = [
        Trigger(deliver_to=("crm", "hook", "mail", "stop")),
        Trigger(deliver_to=("promo",), purposes=frozenset({"news"}), when=Conditions(country=frozenset({"BR"}))),
    ]
    return routing(destinations, triggers=triggers, sources=(Source(name="web"), Source(name="kiosk", links=False)))


SPECS = st.fixed_dictionaries(
    {
        "who": st.sampled_from(PEOPLE),
        "state": st.sampled_from(("withdrawn", "given")),
        "minute": st.sampled_from((1, 2, 2, 3, 4, 5, 6, 3000)),
        "purpose": st.sampled_from(("news", "news", "sms")),
        "source": st.sampled_from(("web", "web", "web", "kiosk")),
        "country": st.sampled_from((None, "BR")),
    }
)
ANSWERS = st.sampled_from((200, "late", "lost", "gone", 500, (429, {"retry-after": "5"}), 400, 401, 200))
DESTINATIONS = st.sampled_from(tuple(place.name for place in PLACES))
SECONDS = st.sampled_from((1.0, 16.0, 40.0, 70.0, 100.0))
OTHER_WORK = st.one_of(
    st.tuples(st.just("accept"), SPECS),
    st.tuples(st.just("carry_out"), st.integers(0, 7)),
    st.tuples(st.just("drain"), st.none()),
    st.tuples(st.just("beat"), st.none()),
    st.tuples(st.just("pass_time"), SECONDS),
)
INTERRUPTIONS = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.integers(0, 14), st.sampled_from(("before", "after", "half", "away")), st.just(())),
    st.tuples(st.integers(0, 14), st.just("meanwhile"), st.lists(OTHER_WORK, min_size=1, max_size=4).map(tuple)),
)
