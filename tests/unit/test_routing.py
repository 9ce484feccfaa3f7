"""The routing file: what is chosen for an event, and what is said about a file that is wrong."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipeline.domain import ConsentEvent, State, Subject
from pipeline.errors import ConfigurationError
from pipeline.routing import Conditions, RetryPolicy, Routing, Trigger
from pipeline.routing_file import load_routing, source_kinds
from pipeline.routing_summary import describe
from pipeline.vendors import has_verb, vendor_names, webhook
from pipeline.vendors.base import Capabilities, Rate

EXAMPLE = Path(__file__).parents[2] / "config" / "consent.yaml"
KEY = "sha256:" + "ab" * 32
SECRET = "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)

GOOD = f"""\
version: 1
sources:
  web: {{kind: native, keys: ["{KEY}"]}}
purposes:
  news: {{title: News}}
  sms: {{}}
destinations:
  lists:
    vendor: dinamize
    credentials: {{token: "${{TOKEN}}"}}
    options: {{list_code: 0010}}
  crm:
    vendor: webhook
    base_url: https://crm.example.org/hook
    credentials: {{secret: {SECRET}}}
triggers:
  - {{purposes: [news], deliver_to: [lists, crm]}}
  - {{purposes: [sms], states: [given], when: {{country: BR, group: [a, b]}}, deliver_to: crm}}
"""


def load(text, **environment):
    return load_routing(text, filename="consent.yaml", environment={"TOKEN": "test-token", **environment})


def complaints(text, **environment):
    with pytest.raises(ConfigurationError) as caught:
        load(text, **environment)
    return str(caught.value).splitlines()


def event(**changes):
    values = {
        "event_id": "e",
        "source": "web",
        "subject": Subject(email="ana@example.org", country="BR"),
        "subject_key": "k",
        "identifier_keys": {},
        "purpose": "news",
        "state": State.GIVEN,
        "event_time": NOON,
        "order_us": 1,
        "received_at": NOON,
    }
    return ConsentEvent(**(values | changes))


def test_a_good_file_becomes_values_with_defaults():
    """What is left out is filled from the vendor's declarations and from our defaults."""
    routing = load(GOOD)
    assert routing.sources["web"].keys == ("ab" * 32,)
    assert routing.sources["web"].scopes == {"ingest"}
    assert routing.purposes["sms"].title == "sms"
    lists = routing.destinations["lists"]
    assert lists.options_for("news")["list_code"] == "0010"
    assert lists.rate == Rate(calls=60, per_seconds=60, concurrent=4)
    assert lists.retry == RetryPolicy()
    assert (lists.enabled, lists.allow_private_network, lists.account) == (True, False, "lists")
    assert routing.destinations["crm"].adapter.address == "https://crm.example.org/hook"
    assert list(routing.warnings) == ["consent.yaml:12: crm is told given for sms but no trigger tells it of every withdrawal"]


def test_any_destination_may_say_how_long_it_waits_and_when_its_key_ends():
    """A confirmation is waited for a month and a key never ends, unless the file says otherwise."""
    crm = load(GOOD.replace("vendor: webhook", "vendor: webhook\n    confirmation_days: 7.5\n    key_expires_on: 2027-01-31")).destinations["crm"]
    assert (crm.confirmation_days, crm.key_expires_on) == (7.5, date(2027, 1, 31))
    lists = load(GOOD).destinations["lists"]
    assert (lists.confirmation_days, lists.key_expires_on) == (30.0, None)


def test_one_trigger_tells_several_destinations():
    """Both are told of both states, sorted and each once."""
    routing = load(GOOD)
    assert routing.route(event()) == ("crm", "lists")
    assert routing.route(event(state=State.WITHDRAWN)) == ("crm", "lists")
    assert routing.purposes_of("crm") == {"news", "sms"}
    assert routing.purposes_of("lists") == {"news"}
    assert routing.purposes_of("nobody") == frozenset()


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({"group": "a"}, ("crm",)),
        ({"group": "c"}, ()),
        ({"group": "a", "subject": Subject(email="a@example.org", country="AR")}, ()),
        ({"group": "a", "subject": Subject(email="a@example.org")}, ()),
        ({"group": "a", "state": State.WITHDRAWN}, ()),
        ({"group": "a", "purpose": "other"}, ()),
    ],
)
def test_a_trigger_fires_only_when_everything_it_names_fits(changes, expected):
    """Purpose, state, country and group must all fit."""
    assert load(GOOD).route(event(**{"purpose": "sms"} | changes)) == expected


def test_what_is_not_stated_lets_a_withdrawal_through_and_holds_a_consent_back():
    """A withdrawal without a country must not be lost to a condition on it; an unknown country is no consent."""
    trigger = Trigger(deliver_to=("crm",), when=Conditions(country=frozenset({"BR"}), group=frozenset({"a"})))
    stranger = Subject(email="ana@example.org")
    assert trigger.fires_for(event(subject=stranger, state=State.WITHDRAWN))
    assert not trigger.fires_for(event(subject=stranger, state=State.GIVEN))
    assert not trigger.fires_for(event(subject=Subject(email="a@example.org", country="AR"), state=State.WITHDRAWN))


def test_a_condition_on_the_source():
    """Only events of that source fire the trigger."""
    trigger = Trigger(deliver_to=("crm",), when=Conditions(source=frozenset({"web"})))
    assert trigger.fires_for(event())
    assert not trigger.fires_for(event(source="shop", state=State.WITHDRAWN))


def test_a_trigger_without_purposes_means_every_purpose():
    """Also those that are added later."""
    routing = load(GOOD.replace("{purposes: [news], deliver_to: [lists, crm]}", "{deliver_to: lists}"))
    assert routing.purposes_of("lists") == {"news", "sms"}
    assert routing.route(event(purpose="sms", state=State.WITHDRAWN)) == ("lists",)


def test_options_of_a_purpose_lie_over_those_of_the_destination():
    """A purpose is tied to its list; a required option may come from the purposes alone."""
    text = GOOD.replace("options: {list_code: 0010}", 'options_by_purpose: {news: {list_code: "7"}}')
    lists = load(text).destinations["lists"]
    assert lists.options_for("news")["list_code"] == "7"
    assert lists.options_for("sms")["list_code"] is None
    both = GOOD.replace("options: {list_code: 0010}", 'options: {list_code: "1"}\n    options_by_purpose: {sms: {list_code: "7"}}')
    assert load(both).destinations["lists"].options_for("news")["list_code"] == "1"
    assert load(both).destinations["lists"].options_for("sms")["list_code"] == "7"


def test_an_option_missing_for_one_of_the_purposes_is_named():
    """Told of two purposes, complete for one."""
    text = GOOD.replace("options: {list_code: 0010}", 'options_by_purpose: {sms: {list_code: "7"}}')
    assert complaints(text) == ["consent.yaml:8: missing option 'list_code': code of the contact list"]


def test_destinations_of_equal_credentials_share_an_account():
    """The account is named by the first of them, and shares one rate."""
    more = """\
  a-lists:
    vendor: dinamize
    credentials: {token: "${TOKEN}"}
    options: {list_code: "2"}
    rate: {calls: 30}
  other:
    vendor: dinamize
    credentials: {token: test-other}
    options: {list_code: "2"}
triggers:
"""
    destinations = load(GOOD.replace("triggers:\n", more)).destinations
    assert {name: destination.account for name, destination in destinations.items()} == {
        "lists": "a-lists",
        "crm": "crm",
        "a-lists": "a-lists",
        "other": "other",
    }
    assert destinations["lists"].rate == destinations["a-lists"].rate == Rate(calls=30, per_seconds=60, concurrent=4)
    assert destinations["other"].rate.calls == 60


def test_limit_group_overrides_the_account():
    """Two accounts that a vendor counts as one; with different rates the file is refused."""
    more = """\
  other:
    vendor: dinamize
    credentials: {token: test-other}
    options: {list_code: "2"}
    limit_group: lists
triggers:
"""
    text = GOOD.replace("triggers:\n", more)
    assert {destination.account for destination in load(text).destinations.values()} == {"lists", "crm"}
    differing = text.replace("limit_group: lists", "limit_group: lists\n    rate: {calls: 5}").replace(
        "list_code: 0010}", "list_code: 0010}\n    rate: {calls: 6}"
    )
    assert any("share the account lists but not the rate" in line for line in complaints(differing))


def test_a_limit_group_may_not_share_a_session():
    """A session token of one account must not serve another."""
    session = "{user: test-user, password: test-password, client_code: test-client}"
    more = f"  other:\n    vendor: dinamize\n    credentials: {session}\n    options: {{list_code: '2'}}\n    limit_group: lists\ntriggers:\n"
    found = complaints(GOOD.replace("triggers:\n", more))
    assert found == ["consent.yaml:8: limit_group 'lists' joins other credentials with a vendor that signs in; expected equal credentials"]


@pytest.mark.parametrize(
    "old,new,line,text",
    [
        ("version: 1", "version: 2", 1, "version must be 1"),
        ("version: 1", "versio: 1", 1, "unknown key 'versio'; did you mean 'version'?"),
        ("kind: native", "kind: nativ", 3, "unknown kind; did you mean 'native'?"),
        ("kind: native, ", "", 3, "source web has no kind; expected native, "),
        ("kind: native", "kind: dinamize", 3, "source web has an unknown kind; expected"),
        (KEY, "test-plain-key", 3, 'each of keys of web must be "sha256:" and 64 hex digits'),
        ("kind: native", "kind: native, shade: red", 3, "source web has an unknown key 'shade'; expected"),
        ("kind: native", "kind: native, scopes: [ingest, rea]", 3, "scopes of web has an unknown value; did you mean 'read'?"),
        ("kind: native", "kind: native, scopes: []", 3, "scopes of web is empty"),
        ("kind: native", "kind: native, time_zone: Mars/Base", 3, "time_zone of web is not in the time zone database"),
        ("kind: native", "kind: native, time_zone: ../../etc/passwd", 3, "time_zone of web is not in the time zone database"),
        ("kind: native", "kind: native, date_order: day_frist", 3, "date_order of web has an unknown value; did you mean 'day_first'?"),
        ("kind: native", "kind: native, country: Brazil", 3, "country of web must be an ISO 3166-1"),
        ("kind: native", "kind: native, links: yes", 3, "links of web must be true or false"),
        ("kind: native", "kind: native, dedup_days: 0", 3, "dedup_days of web must be a whole number, 1 or more"),
        ("kind: native", "kind: native, payload_days: 0", 3, "payload_days of web must be a number above 0"),
        ("  sms: {}", "  sms: {payload_days: short}", 6, "payload_days of sms must be a number above 0"),
        ("kind: native", "kind: native, purposes: {h: nws}", 3, "unknown purpose 'nws'; did you mean 'news'?"),
        ("  sms: {}", "  SMS: {}", 6, "the name 'SMS' in purposes is not usable"),
        ("  sms: {}", "  news: {}", 6, "purposes has 'news' twice"),
        ("vendor: dinamize", "vendor: dynamize", 9, "destination lists has an unknown vendor; did you mean 'dinamize'?"),
        ("    vendor: dinamize\n", "", 8, "destination lists has no vendor; expected "),
        ("{token: ", "{tokn: ", 10, "unknown key 'tokn'; did you mean 'token'?"),
        ("${TOKEN}", "${TOKN}", 10, "the environment variable TOKN is not set"),
        ("${TOKEN}", "${TOKEN", 10, "has ${ that does not begin a variable"),
        ("list_code: 0010", "list_cod: 1", 11, "options of lists has an unknown key 'list_cod'; did you mean 'list_code'?"),
        ("list_code: 0010", "list_code: [1]", 11, "option list_code of lists must be text"),
        ("options: {list_code: 0010}", "options: {}", 8, "missing option 'list_code'"),
        ("https://crm.example.org/hook", "crm.example.org", 14, "base_url of crm is not usable"),
        ("https://crm.example.org/hook", "https://user:word@crm.example.org", 14, "base_url of crm is not usable"),
        ("https://crm.example.org/hook", "https://crm.example.org:99999", 14, "base_url of crm is not usable"),
        ("https://crm.example.org/hook", "ftp://crm.example.org", 14, "base_url of crm is not usable"),
        (SECRET, "test-short", 12, "secret"),
        ("vendor: webhook", "vendor: webhook\n    rate: {calls: 0}", 14, "rate calls of crm must be a whole number, 1 or more"),
        ("vendor: webhook", "vendor: webhook\n    rate: {call: 1}", 14, "rate of crm has an unknown key 'call'; did you mean 'calls'?"),
        ("vendor: webhook", "vendor: webhook\n    rate: 60", 14, "rate of crm must be a mapping"),
        ("vendor: webhook", "vendor: webhook\n    retry: {waits_seconds: [5, x]}", 14, "each wait of crm must be a number above 0"),
        ("vendor: webhook", "vendor: webhook\n    retry: {waits_seconds: []}", 14, "waits_seconds of crm is empty"),
        ("vendor: webhook", "vendor: webhook\n    retry: {give_up_after_seconds: -1}", 14, "give_up_after_seconds of crm must be a number above 0"),
        ("vendor: webhook", "vendor: webhook\n    keep_contact_for: [news]", 14, "keep_contact_for of crm has no meaning"),
        ("vendor: dinamize", "vendor: dinamize\n    keep_contact_for: [nws]", 10, "unknown purpose 'nws' in keep_contact_for of lists"),
        ("vendor: webhook", "vendor: webhook\n    confirmation_days: 0", 14, "confirmation_days of crm must be a number above 0"),
        ("vendor: webhook", "vendor: webhook\n    key_expires_on: 31.01.2027", 14, "key_expires_on of crm must be a day as YYYY-MM-DD"),
        ("vendor: webhook", "vendor: webhook\n    key_expires_on: 2027-02-29", 14, "key_expires_on of crm must be a day as YYYY-MM-DD"),
        ("vendor: webhook", "vendor: webhook\n    reconcile: {missing: report}", 14, "reconcile of crm has no meaning, as its vendor cannot be asked"),
        (
            "vendor: dinamize",
            "vendor: dinamize\n    reconcile: {stricter: adpt}",
            10,
            "stricter in reconcile of lists has an unknown value; did you mean 'adopt'?",
        ),
        ("vendor: dinamize", "vendor: dinamize\n    reconcile: {looser: report}", 10, "reconcile of lists has an unknown key 'looser'"),
        ("vendor: dinamize", "vendor: dinamize\n    reconcile: {stricter: adopt}", 8, "stricter: adopt of lists needs a source that speaks for it"),
        ("news: {title: News}", "news: {tell_within_seconds: 0}", 5, "tell_within_seconds of news must be a number above 0"),
        ("vendor: webhook", "vendor: webhook\n    options_by_purpose: {nws: {}}", 14, "options_by_purpose of crm has an unknown key 'nws'"),
        ("deliver_to: [lists, crm]", "deliver_to: [lists, crn]", 17, "unknown destination 'crn' in deliver_to; did you mean 'crm'?"),
        (", deliver_to: [lists, crm]", "", 17, "a trigger has no deliver_to"),
        ("purposes: [news]", "purposes: [nws]", 17, "unknown purpose 'nws' in purposes; did you mean 'news'?"),
        ("deliver_to: [lists, crm]", "deliver_to: []", 17, "deliver_to is empty; name at least one"),
        ("kind: native", "kind: native, origin: []", 3, "origin of web is empty; leave it out for none, or name some"),
        ("purposes: [news]", "purposes: []", 17, "purposes is empty; leave it out for any, or name some"),
        ("states: [given]", "states: [granted]", 18, "states has an unknown value; expected given, withdrawn"),
        ("country: BR", "country: XX", 18, "country in when must be an ISO 3166-1"),
        ("country: BR", "source: wob", 18, "unknown source 'wob' in source; did you mean 'web'?"),
        ("country: BR", "land: BR", 18, "when has an unknown key 'land'"),
    ],
)
def test_each_problem_is_named_with_its_line_and_what_was_expected(old, new, line, text):
    """One thing is wrong: its line and reason are there, no secret is."""
    assert old in GOOD
    found = complaints(GOOD.replace(old, new, 1), TOKEN="test-very-secret")
    assert any(complaint.startswith(f"consent.yaml:{line}: ") and text in complaint for complaint in found), found
    assert not any("test-very-secret" in complaint or SECRET in complaint or "user:word" in complaint or "test-plain-key" in complaint for complaint in found)


def test_all_problems_come_at_once_in_the_order_of_lines():
    """Nobody should have to correct a file one error at a time."""
    broken = GOOD.replace("kind: native", "kind: x").replace("${TOKEN}", "${NO}").replace("[news]", "[nws]").replace("states: [given]", "states: [x]")
    assert [int(re.match(r"consent\.yaml:(\d+): ", line)[1]) for line in complaints(broken)] == [3, 10, 17, 18]


@pytest.mark.parametrize("options", ["{list_code: 0010, colour: red}", "{}"])
def test_a_destination_that_cannot_be_made_hides_none_of_its_other_problems(options):
    """Neither what it is nor its vendor's demands keep back what is wrong with its other settings, and a wrong address keeps back no demand."""
    wrong = ["base_url: lists.example.org", "rate: {calls: 0}", "retry: {waits_seconds: [x]}", "key_expires_on: soon", "limit_group: []"]
    text = (
        GOOD.replace("vendor: dinamize", "\n    ".join(["vendor: dinamize", *wrong]))
        .replace("{list_code: 0010}", options)
        .replace("country: BR", "country: XX")
    )
    found = complaints(text.replace(SECRET, "test-short").replace("https://crm.example.org/hook", "crm.example.org"))
    expected = [
        "option" if options == "{}" else "unknown key 'colour'",
        "base_url of lists",
        "rate calls of lists",
        "each wait of lists",
        "key_expires_on of lists",
    ]
    expected += ["limit_group of lists", "base_url of crm", "credential 'secret'", "country in when must be"]
    assert [each for each in expected if not any(each in line for line in found)] == []
    assert len(found) == len(expected), found


@pytest.mark.parametrize(
    "text,line,reason",
    [
        ("", 1, "is empty"),
        ("# nothing\n", 1, "is empty"),
        ("version: 1\nsources: [\n", 3, "is not YAML"),
        ("version: 1\n\ttabs: 1\n", 2, "is not YAML"),
        ("version: 1\nsources: *nobody\n", 2, "is not YAML"),
        ("a\x00b", 1, "is not YAML"),
        ("[" * 5000, 1, "is nested too deeply"),
        ("- 1\n", 1, "the routing file must be a mapping"),
        ("version: 1\npurposes: {}\ndestinations: {}\n", 1, "sources is missing"),
        ("version: 1\nsources: 5\npurposes: {}\ndestinations: {}\n", 2, "sources must be a mapping"),
        ("version: 1\nsources: !!python/name:os.system {}\npurposes: {}\ndestinations: {}\n? [a]\n: 1\n", 5, "a name that is not text"),
    ],
)
def test_what_is_no_routing_file_is_refused(text, line, reason):
    """Also what YAML itself cannot read."""
    assert any(complaint.startswith(f"consent.yaml:{line}: ") and reason in complaint for complaint in complaints(text))


def test_variables_have_defaults_and_norway_stays_norway():
    """`${NAME:-default}` needs no variable; plain YAML words are text where text is expected."""
    text = GOOD.replace('"${TOKEN}"', '"${ABSENT:-test-default}"').replace("country: BR", "country: [NO]").replace("https://crm", "https://${HOST:-crm}")
    routing = load(text)
    assert routing.triggers[1].when.country == {"NO"}
    assert routing.destinations["crm"].adapter.address == "https://crm.example.org/hook"
    assert load(text, HOST="crm2").destinations["crm"].adapter.address == "https://crm2.example.org/hook"


def test_a_key_belongs_to_one_source():
    """The same hash in two sources would leave open who is speaking."""
    found = complaints(GOOD.replace("purposes:\n", f'  shop: {{kind: native, keys: ["{KEY}"]}}\npurposes:\n', 1))
    assert found == ["consent.yaml:4: source shop has a key of source web; expected each key in one source"]


def test_a_key_may_end():
    """Its last day stands behind it; what is no date is refused."""
    source = load(GOOD.replace(KEY, f"{KEY} until 2027-01-31")).sources["web"]
    assert (source.keys, source.key_ends) == (("ab" * 32,), {"ab" * 32: date(2027, 1, 31)})
    assert "expected its last day" in complaints(GOOD.replace(KEY, f"{KEY} until soon"))[0]


def test_an_empty_key_is_no_key_and_is_warned_of():
    """An unset variable with an empty default leaves a source that accepts nobody."""
    routing = load(GOOD.replace(KEY, "${ABSENT:-}"))
    assert routing.sources["web"].keys == ()
    assert "consent.yaml:3: source web has no key, so nobody can send as it" in routing.warnings


@pytest.mark.parametrize(
    "old,new,warning",
    [
        ("purposes: [sms]", "purposes: [news]", "consent.yaml:6: no trigger tells anybody of purpose sms"),
        ("https://crm", "http://crm", "consent.yaml:12: crm is told over plain http, where anybody on the way can read it"),
        ("https://crm.example.org", "http://127.0.0.1:1", "consent.yaml:12: crm has a private address, which is refused; expected allow_private_network: true"),
    ],
)
def test_what_a_person_should_look_at_is_a_warning(old, new, warning):
    """The file is used, but says so."""
    assert warning in load(GOOD.replace(old, new)).warnings


def test_a_withdrawal_covered_by_a_wider_trigger_is_not_warned_of():
    """Given under a condition, withdrawn without one."""
    routing = load(GOOD + "  - {purposes: [sms], states: [withdrawn], deliver_to: [crm]}\n")
    assert routing.warnings == ()


def test_no_repr_shows_a_secret():
    """Credentials and signing secrets stay out of logs."""
    routing = load(GOOD.replace("kind: native", "kind: native, signing_secret: test-signing"), TOKEN="test-very-secret")
    shown = repr(routing) + "\n".join(describe(routing))
    assert not any(secret in shown for secret in ("test-very-secret", SECRET, "test-signing"))


def test_the_version_hash_is_of_the_text():
    """Equal texts have equal hashes; a changed comment is another version."""
    assert load(GOOD).version_hash == load(GOOD, TOKEN="test-rotated").version_hash
    assert load(GOOD).version_hash != load(GOOD + "# changed\n").version_hash


def test_the_default_retry_policy_is_the_settings():
    """A destination without `retry` waits as the settings say; a part of it may be written."""
    policy = RetryPolicy(waits_seconds=(1.0,), give_up_after_seconds=2.0)
    text = GOOD.replace("vendor: webhook", "vendor: webhook\n    retry: {waits_seconds: [7]}")
    routing: Routing = load_routing(text, filename="f", environment={"TOKEN": "t"}, default_retry=policy)
    assert routing.destinations["lists"].retry == policy
    assert routing.destinations["crm"].retry == RetryPolicy(waits_seconds=(7.0,), give_up_after_seconds=2.0)


def test_the_example_file_runs_against_the_sandboxes_as_it_is():
    """No variable is needed; beside the keys that a start provides it warns only of Contactsend, whose states carry no date."""
    text = EXAMPLE.read_text()
    routing = load_routing(text, filename="consent.yaml", environment={})
    assert [warning.split(": ", 1)[1].split(" shows")[0] for warning in routing.warnings if "has no key" not in warning] == ["source contactsend-changes"]
    told = {name for name in vendor_names() if has_verb(name, "tell")}
    assert {destination.vendor for destination in routing.destinations.values()} == told
    heard = {name for name in vendor_names() if has_verb(name, "hear") or has_verb(name, "poll")}
    assert {source.kind for source in routing.sources.values()} == {"native", *heard}
    for destination in routing.destinations.values():
        assert destination.adapter.address.startswith(f"http://127.0.0.1:8090/{destination.vendor}")
    names = re.findall(r"\$\{(CONSENT_SAMPLE_\w+)", text)
    keys = {name: f"sha256:{index:064x}" for index, name in enumerate(names)}
    assert len(load_routing(text, filename="consent.yaml", environment=keys).warnings) == 1
    assert [name for name, source in routing.sources.items() if source.kind != "native" and source.kind in told and not source.origin] == []
    assert routing.route(event(purpose="newsletter", state=State.WITHDRAWN)) == tuple(sorted(routing.destinations))
    assert routing.route(event(purpose="marketing-sms", state=State.GIVEN)) == ("crm-webhook", "privacy-platform")
    assert routing.route(event(purpose="single-user-tracking", state=State.GIVEN)) == ("maileon-main",)


def test_the_description_names_accounts_rates_and_triggers():
    """What `consent check` prints."""
    assert describe(load(GOOD))[1:] == [
        "sources",
        "  web: native, keys: 1, ingest",
        "purposes",
        "  news: News",
        "  sms: sms",
        "destinations",
        "  lists: dinamize, account lists, 60 calls per 60 s, 4 at once, told of news",
        "  crm: webhook, account crm, no known limit, 16 at once, told of news, sms",
        "triggers",
        "  news given and withdrawn -> lists, crm",
        "  sms given when country BR when group a or b -> crm",
        "warning: consent.yaml:12: crm is told given for sms but no trigger tells it of every withdrawal",
    ]


def test_a_vendor_that_can_express_nothing_is_no_destination(monkeypatch):
    """It may still be a source."""
    monkeypatch.setattr(webhook.Adapter, "capabilities", Capabilities(states=frozenset()))
    (found,) = complaints(GOOD)
    assert found.startswith("consent.yaml:13: vendor webhook can only be a source and cannot be told anything; expected ")


def test_privacy_tools_can_be_told():
    """It is a source and a destination."""
    login = "{public_key: a, secret: b, client_id: c, client_secret: d}"
    text = GOOD.replace("vendor: dinamize", "vendor: privacy_tools").replace('{token: "${TOKEN}"}', login).replace("{list_code: 0010}", "{template_hash: h}")
    assert load(text).destinations["lists"].options_for("news")["template_hash"] == "h"
    assert any("'portal_hash'" in found for found in complaints(text.replace("{template_hash: h}", "{template_hash: h, send_sms: true}")))


def test_sources_are_native_or_of_a_vendor_that_can_be_heard():
    """Kinds come from the vendor files."""
    assert source_kinds()[0] == "native"
    assert "privacy_tools" in source_kinds()
    assert "dinamize" not in source_kinds()


def test_a_rate_below_what_one_dialogue_needs_is_refused() -> None:
    """With a session a Dinamize dialogue may make three calls: a rate of two could never let it begin."""
    example = EXAMPLE.read_text().replace(
        'credentials: {token: "${DINAMIZE_TOKEN:-test-dinamize-token}"}', "credentials: {user: u, password: p, client_code: c}"
    )
    slow = example.replace("rate: {calls: 60, per_seconds: 60, concurrent: 4}", "rate: {calls: 2, per_seconds: 60}")
    assert slow != example
    load_routing(example, filename="consent.yaml", environment={})
    with pytest.raises(ConfigurationError, match=r"rate calls of dinamize-news is less than one dialogue may make; expected 3 or more"):
        load_routing(slow, filename="consent.yaml", environment={})


# Comparing


def test_a_purpose_says_how_soon_everybody_is_told() -> None:
    """An hour, unless it says otherwise."""
    text = GOOD.replace("purposes:", "purposes:\n  urgent: {title: Urgent, tell_within_seconds: 30}", 1)
    purposes = load(text).purposes
    assert purposes["urgent"].tell_within_seconds == 30
    assert {each.tell_within_seconds for name, each in purposes.items() if name != "urgent"} == {3600.0}


def test_what_follows_from_drift_is_reported_unless_the_file_says_otherwise() -> None:
    """Adopting a vendor's word needs a source that speaks for it."""
    lists = load(GOOD).destinations["lists"]
    assert (lists.when_stricter, lists.when_missing) == ("report", "report")
    text = GOOD.replace("vendor: dinamize", "vendor: dinamize\n    reconcile: {stricter: adopt, missing: tell}", 1)
    lists = load(text.replace("kind: native,", "kind: native, origin: [lists],", 1)).destinations["lists"]
    assert (lists.when_stricter, lists.when_missing) == ("adopt", "tell")


def test_a_consent_is_not_told_again_where_the_vendor_would_mail_the_person() -> None:
    """Double opt-in: each telling is a mail."""
    maileon = "vendor: maileon\n    reconcile: {missing: tell}\n    credentials: {api_key: test-key}\n  lists:\n    vendor: dinamize"
    found = complaints(GOOD.replace("  lists:\n    vendor: dinamize", f"  mails:\n    {maileon}", 1))
    assert any("missing in reconcile of mails cannot be tell" in complaint for complaint in found)
