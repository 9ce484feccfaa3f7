"""Sources that speak for destinations, and those that are polled: what the routing file may say of them."""

from __future__ import annotations

import pytest

from pipeline.routing_summary import describe
from tests.unit.test_routing import complaints, load

GOOD = """\
version: 1
sources:
  hub-changes:
    kind: contacthub
    purposes: {newsletter: news}
    poll: {destination: hub, every_seconds: 30, credentials: {token: "${UPDATES_TOKEN:-test-updates}"}}
  shop: {kind: native, origin: [crm]}
purposes:
  news: {title: News}
destinations:
  hub:
    vendor: contacthub
    credentials: {token: "${TOKEN}"}
    options: {workspace_id: W, node_id: N, subscription_id: newsletter}
    rate: {calls: 20, per_seconds: 2, concurrent: 3}
  crm: {vendor: webhook, base_url: "https://crm.example.org/hook", credentials: {secret: whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE=}}
triggers:
  - {purposes: [news], deliver_to: [hub, crm]}
"""


def test_a_polled_source_speaks_for_the_destination_it_asks():
    """It asks at the destination's address, with its options and rate, by its own credentials and therefore as an account of its own."""
    routing = load(GOOD)
    poll = routing.sources["hub-changes"].poll
    assert poll is not None
    assert (poll.every_seconds, poll.asked.name, poll.asked.account, poll.asked.rate.calls) == (30.0, "hub", "poll:hub-changes", 20)
    assert poll.asked.adapter.settings["node_id"] == "N"
    assert poll.asked.adapter._secrets == {"token": "test-updates"}
    assert routing.destinations["hub"].adapter._secrets == {"token": "test-token"}
    assert routing.origin_of("hub-changes") == {"hub"}
    assert (routing.destinations["hub"].is_polled, routing.destinations["crm"].is_polled) == (True, False)


def test_without_credentials_of_its_own_a_poll_shares_the_account():
    """Reading and telling then share rate, pause and session."""
    poll = load(GOOD.replace(', credentials: {token: "${UPDATES_TOKEN:-test-updates}"}', "")).sources["hub-changes"].poll
    assert poll is not None
    assert poll.asked.account == "hub"


def test_a_source_without_a_poll_may_name_its_origin():
    """What it sends by itself is known to come from there; other sources speak for nobody."""
    routing = load(GOOD)
    assert (routing.origin_of("shop"), routing.origin_of("gone")) == ({"crm"}, frozenset())


def test_a_polled_source_needs_no_key():
    """It lets nobody in, and that is no reason to warn."""
    assert not any("hub-changes has no key" in warning for warning in load(GOOD).warnings)


def test_describe_says_who_is_polled_and_speaks_for_whom():
    """A person reads what the file does, without a secret."""
    text = "\n".join(describe(load(GOOD)))
    assert "hub-changes: contacthub, keys: 0, ingest, hub is polled every 30 s, speaks for hub" in text
    assert "shop: native, keys: 0, ingest, speaks for crm" in text
    assert "test-updates" not in text


POLL = '    poll: {destination: hub, every_seconds: 30, credentials: {token: "${UPDATES_TOKEN:-test-updates}"}}\n'


@pytest.mark.parametrize(
    "poll, complaint",
    [
        ("poll: {every_seconds: 30}", "poll of hub-changes needs the destination to ask and every_seconds"),
        ("poll: {destination: hub}", "poll of hub-changes needs the destination to ask and every_seconds"),
        ("poll: {destination: hub, every_seconds: 0.5}", "every_seconds of hub-changes must be 1 or more"),
        ("poll: {destination: hob, every_seconds: 5}", "unknown destination 'hob' in destination; did you mean 'hub'?"),
        ("poll: {destination: crm, every_seconds: 5}", "source hub-changes of kind contacthub cannot poll crm, which is webhook"),
        ("poll: {destination: hub, every_seconds: 5, credentials: {key: x}}", "credentials of the poll of hub-changes has an unknown key 'key'"),
        ("origin: [hob]", "unknown destination 'hob' in origin of hub-changes; did you mean 'hub'?"),
    ],
)
def test_a_wrong_poll_is_refused_by_line(poll: str, complaint: str):
    """Each mistake is named with its line and what was expected."""
    found = complaints(GOOD.replace(POLL, f"    {poll}\n"))
    assert any(each.startswith("consent.yaml:") and complaint in each for each in found), found


def test_a_destination_is_polled_by_one_source_alone():
    """Two would take each other's news away."""
    twice = GOOD.replace("  shop:", "  hub-again: {kind: contacthub, poll: {destination: hub, every_seconds: 9}}\n  shop:")
    assert complaints(twice) == ["consent.yaml:7: hub is polled by source hub-changes already; expected one source for each"]


def test_a_kind_that_sends_nothing_has_to_be_polled_and_takes_no_key():
    """Contactsend tells of nothing by itself: a source of it without a poll would hear nothing, and a key would open a door to nowhere."""
    deaf = GOOD.replace("  shop:", f'  send: {{kind: contactsend, keys: ["sha256:{"ab" * 32}"]}}\n  shop:')
    assert complaints(deaf) == [
        "consent.yaml:7: source send of kind contactsend can only be polled, so nobody posts for it; expected no keys",
        "consent.yaml:7: source send of kind contactsend can only be polled; expected poll",
    ]


SPOKEN = """\
version: 1
sources:
  platform: {kind: privacy_tools, keys: ["sha256:%s"], purposes: {test-hash: news}}
purposes:
  news: {title: News}
  sms: {title: Text messages}
destinations:
  tools:
    vendor: privacy_tools
    credentials: {public_key: k, secret: s, client_id: c, client_secret: t}
    options: {template_hash: test-hash}
  crm: {vendor: webhook, base_url: "https://crm.example.org/hook", credentials: {secret: whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE=}}
triggers:
  - {purposes: [sms], deliver_to: [crm]}
  - {purposes: [news], when: {source: web}, deliver_to: [tools]}
  - {purposes: [news], deliver_to: [crm]}
""" % ("cd" * 32)
SPOKEN = SPOKEN.replace("sources:\n", f'sources:\n  web: {{kind: native, keys: ["sha256:{"ab" * 32}"]}}\n')
ECHO = ("consent.yaml:4: source platform hears privacy_tools, and no origin names tools, which is told of news: our own word coming back would count as news",)


def test_a_source_of_a_vendor_that_is_told_should_say_for_whom_it_speaks() -> None:
    """Also where its own events do not go there: what others said comes back from there as well."""
    assert load(SPOKEN).warnings == ECHO
    assert load(SPOKEN.replace("when: {source: web}, ", "")).warnings == ECHO


@pytest.mark.parametrize(
    "old, new",
    [
        ("purposes: {test-hash: news}}", "purposes: {test-hash: news}, origin: [tools]}"),
        ("  platform:", f'  platform-hook: {{kind: privacy_tools, url_keys: ["sha256:{"ef" * 32}"], origin: [tools]}}\n  platform:'),
        ("purposes: {test-hash: news}}", "purposes: {test-hash: sms}}"),
        ("kind: privacy_tools,", "kind: cmxorganize,"),
    ],
    ids=["it says so", "another source does", "it never hears what is told there", "another vendor"],
)
def test_what_cannot_be_our_own_word_is_not_warned_of(old: str, new: str) -> None:
    """The destination has its speaker, or nothing that is told there can come by this source."""
    assert load(SPOKEN.replace(old, new)).warnings == ()


SEND = """\
  send-changes:
    kind: contactsend
    purposes: {__cls1: news, __cls2: sms}
    poll: {destination: send, every_seconds: 60}
"""
UNDATED = (
    GOOD.replace("  shop:", f"{SEND}  shop:")
    .replace("  news: {title: News}\n", "  news: {title: News}\n  sms: {title: Text messages}\n")
    .replace(
        "  crm:",
        """  send:
    vendor: contactsend
    credentials: {api_key: k, user_key: u}
    options: {source_id: 6, webform_code: "2300", registration_field: __cls1}
  crm:""",
    )
    .replace("purposes: [news], deliver_to: [hub, crm]", "deliver_to: [hub, crm, send]")
)


def test_a_poll_that_shows_no_dates_is_warned_of() -> None:
    """Its first look makes every withdrawal one of now, so a person should bring the state there in line before; not where each purpose has its date."""
    warning = (
        "consent.yaml:7: source send-changes shows states without saying since when: whoever stands withdrawn at send when it is polled for the first time "
        "withdraws now, for every destination; bring its state in line before"
    )
    assert warning in load(UNDATED).warnings
    one, both = (
        UNDATED.replace("registration_field: __cls1}", f"registration_field: __cls1, changed_at_fields: {{{dates}}}}}")
        for dates in ("__cls1: D1", "__cls1: D1, __cls2: D2")
    )
    assert warning in load(one).warnings
    assert not any("since when" in each for each in load(both).warnings)
    assert not any("hub-changes shows" in each for each in load(UNDATED).warnings)
