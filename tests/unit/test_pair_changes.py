"""Changes of a pair: each is detected, and needs what the vendor's table says, no more and no less."""

from itertools import combinations, product

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pair_changes import CONFIRMED_BY_A_PERSON, TABLE, Condition, Part, needs, pair_changes
from tests.support.pairs import ENVIRONMENT, change, changed, contactsend_known, content, load, with_second_pair
from workers.cli import main
from workers.commands.check import CONDITIONS, HELP

CONFIRMABLE = list(CONFIRMED_BY_A_PERSON)
DISABLED, CURRENT, NEW = Condition.SOURCE_DISABLED, Condition.CURRENT_NODE_EMPTY, Condition.NEW_NODE_EMPTY

NODE = ("destinations.hub.options.node_id", "n9")
API_KEY = ("destinations.send.credentials.api_key", "test-other-key")
DATABASE = ("destinations.send.options.source_id", "9")
SUBSCRIPTION = ("destinations.hub.options_by_purpose.news.subscription_id", "s9")
MAPPING = ("destinations.send.options.fields", {"email": "EMAIL", "first_name": "NAME"})
PRINTED = [
    ((NODE,), "node", {DISABLED, CURRENT}),
    ((API_KEY,), "apiKey", {DISABLED, CURRENT}),
    ((NODE, API_KEY), "node and apiKey", {DISABLED, CURRENT}),
    ((DATABASE,), "userdb id", {DISABLED, CURRENT, NEW}),
    ((NODE, DATABASE), "node and userdb id", {DISABLED, CURRENT, NEW}),
    ((SUBSCRIPTION,), "subscription (news)", {DISABLED}),
    ((MAPPING,), "mapping", {DISABLED}),
]
"""The vendor's page, row by row."""
NOT_PRINTED = [
    ((API_KEY, DATABASE), "apiKey, userdb id", {DISABLED, CURRENT, NEW}),
    ((NODE, API_KEY, DATABASE), "node and apiKey, node and userdb id", {DISABLED, CURRENT, NEW}),
    ((NODE, MAPPING), "node, mapping", {DISABLED, CURRENT}),
    ((SUBSCRIPTION, MAPPING), "subscription (news), mapping", {DISABLED}),
]
"""Changes that the page does not name need what each of them needs."""

SINGLE_CHANGES = [
    (NODE, Part.NODE),
    (("destinations.hub.options.workspace_id", "w9"), Part.NODE),
    (("destinations.hub.base_url", "https://hub.example.org/v1"), Part.NODE),
    (API_KEY, Part.API_KEY),
    (DATABASE, Part.DATABASE),
    (("destinations.send.base_url", "https://send.example.org/services"), Part.DATABASE),
    (SUBSCRIPTION, Part.SUBSCRIPTION),
    (("destinations.send.options_by_purpose.news.webform_code", "109"), Part.SUBSCRIPTION),
    (("destinations.send.options_by_purpose.news.registration_field", "__cls9"), Part.SUBSCRIPTION),
    (("destinations.send.options_by_purpose.news.registration_field", None), Part.SUBSCRIPTION),
    (("triggers", [{"purposes": ["news"], "deliver_to": ["hub", "send"]}]), Part.SUBSCRIPTION),
    (MAPPING, Part.MAPPING),
    (("destinations.send.options.fields", {"email": "MAIL"}), Part.MAPPING),
    (("destinations.send.options.fields", {"phone": "EMAIL"}), Part.MAPPING),
    (("destinations.send.credentials.user_key", "test-other-user-key"), Part.USER_KEY),
    (("destinations.hub.credentials.token", "test-other-token"), Part.TOKEN),
    (("pairs.hub-and-send.description", "The shop"), Part.DESCRIPTION),
    (("pairs.hub-and-send.enabled", False), Part.ENABLED),
]
FREE = {Part.USER_KEY, Part.TOKEN, Part.NAME, Part.DESCRIPTION, Part.ENABLED, Part.ADDED, Part.REMOVED}


def compare(previous, fresh, *confirmed):
    return pair_changes(load(previous, may_be_unset=True), load(fresh), confirmed)


def resting(*changes):
    return changed(("pairs.hub-and-send.enabled", False), *changes)


@pytest.mark.parametrize("changes,label,needed", [*PRINTED, *NOT_PRINTED])
def test_a_change_needs_what_its_rows_name_and_is_refused_without_any_of_it(changes, label, needed):
    """Every combination of what holds and what does not, for every row: what is missing is exactly what is needed and does not hold."""
    for disabled, count in product((True, False), range(len(CONFIRMABLE) + 1)):
        for confirmed in combinations(CONFIRMABLE, count):
            previous, fresh = (resting(), resting(*changes)) if disabled else (content(), changed(*changes))
            (found,) = compare(previous, fresh, *confirmed)
            held = {*confirmed, *([DISABLED] if disabled else [])}
            assert (found.pair, found.label()) == ("hub-and-send", label)
            assert set(found.needed) == needed
            assert set(found.missing) == needed - held
            assert len(list(found.refusals())) == len(needed - held)


def test_the_table_is_the_printed_one():
    """Each row of the page stands once, and two changes together need what each of them needs."""
    named = {frozenset(label.partition(" (")[0].split(" and ")): needed for _, label, needed in PRINTED}
    assert {frozenset(map(str, parts)): conditions for parts, conditions in TABLE} == named
    for parts, conditions in TABLE:
        assert set(conditions) == {condition for part in parts for condition in needs(frozenset({part}))}


def test_the_help_prints_the_same_table():
    """Each row with a cross for each condition, and every condition that can be confirmed, and no other."""
    rows = {}
    for line in HELP.splitlines():
        label, _, crosses = line.strip().partition("  ")
        if crosses and not crosses.replace("x", "").strip():
            rows[label] = crosses.count("x")
    assert rows == {label.partition(" (")[0]: len(needed) for _, label, needed in PRINTED}
    assert list(CONDITIONS) == CONFIRMABLE
    explained = [line.split()[0] for line in HELP.splitlines() if line.startswith("  ") and line.split()[0] in set(Condition)]
    assert explained == CONFIRMABLE


@pytest.mark.parametrize("was,becomes", [(True, True), (True, False), (False, True)])
def test_the_source_is_disabled_only_if_it_is_so_before_and_after(was, becomes):
    """A change that disables or enables the pair in the same step is made while it runs, or runs at once: it is refused."""
    (found,) = compare(changed(("pairs.hub-and-send.enabled", was)), changed(("pairs.hub-and-send.enabled", becomes), MAPPING))
    assert found.missing == (DISABLED,)
    assert list(found.lines())[-1] == "  source disabled: does not hold"
    assert next(iter(found.refusals())).endswith(
        "needs source disabled: the pair must be `enabled: false` in both files: disable it by a change of its own, then change it, and enable it again last"
    )


@pytest.mark.parametrize("single,part", SINGLE_CHANGES)
@pytest.mark.parametrize("enabled", [True, False])
def test_every_single_change_of_a_pair_is_detected_in_both_directions(single, part, enabled):
    """There and back, in a pair that runs and in one that rests."""
    one, other = content(), changed(single)
    if part is not Part.ENABLED:
        one["pairs"]["hub-and-send"]["enabled"] = other["pairs"]["hub-and-send"]["enabled"] = enabled
    for previous, fresh in ((one, other), (other, one)):
        (found,) = compare(previous, fresh)
        assert found.parts == {part}
        assert (found.needed == ()) is (part in FREE)


def test_what_is_not_in_the_table_needs_nothing():
    """And says so."""
    (found,) = compare(content(), changed(("destinations.send.credentials.user_key", "test-other-user-key")))
    assert list(found.lines()) == ["pair hub-and-send: userKey changed", "  not in the table: nothing must hold"]


@given(st.lists(st.sampled_from(SINGLE_CHANGES), unique_by=lambda each: each[1]), st.booleans())
def test_several_changes_need_what_each_needs(chosen, enabled):
    """No change, no entry; any set of changes is detected whole, and needs the union of what its members need."""
    chosen = [each for each in chosen if each[1] is not Part.ENABLED]
    previous, fresh = content(), changed(*(single for single, _ in chosen))
    previous["pairs"]["hub-and-send"]["enabled"] = fresh["pairs"]["hub-and-send"]["enabled"] = enabled
    assert compare(previous, previous) == compare(fresh, fresh) == []
    found = compare(previous, fresh)
    assert [set(each.parts) for each in found] == [{part for _, part in chosen}] * bool(chosen)
    for each in found:
        assert set(each.needed) == {condition for _, part in chosen for condition in needs(frozenset({part}))}
        assert not {condition for condition in each.needed if condition is not DISABLED} - set(each.missing)


@pytest.mark.parametrize(
    "path,value",
    [
        ("destinations.hub.base_url", "HTTPS://API.contactlab.IT:443/hub/v1/"),
        ("destinations.send.base_url", "https://Soap.Contactlab.it/soap/services/"),
        ("destinations.hub.rate", {"calls": 5}),
        ("destinations.hub.enabled", False),
        ("destinations.hub.options_by_purpose.news.node_id", "n1"),
        ("purposes.other", {}),
    ],
)
def test_what_is_no_change_of_a_pair_is_none(path, value):
    """The same thing written in another way, and what the vendor's source does not have."""
    fresh = changed((path, value))
    if path == "purposes.other":
        fresh["triggers"] = [{"purposes": ["news", "offers"], "deliver_to": ["hub", "send"]}]
    assert compare(content(), fresh) == []


def renamed(*changes):
    """The file with another name for the pair and for both destinations."""
    whole = changed(*changes)
    whole["destinations"] = {f"{name}-x": value for name, value in whole["destinations"].items()}
    whole["pairs"] = {"pair-x": {**whole["pairs"]["hub-and-send"], "contacthub": "hub-x", "contactsend": "send-x"}}
    whole["triggers"] = [{"deliver_to": ["hub-x", "send-x"]}]
    return whole


@pytest.mark.parametrize("single,part", [each for each in SINGLE_CHANGES if each[1] not in (Part.SUBSCRIPTION, Part.ENABLED)])
def test_a_pair_is_found_again_under_another_name(single, part):
    """By its node or its user database, so that a new name does not hide what changed with it."""
    (found,) = compare(content(), renamed(single))
    assert (found.pair, found.parts) == ("pair-x", {Part.NAME, part})


def test_a_renamed_pair_is_the_same_pair():
    """A new name needs nothing."""
    (found,) = compare(content(), renamed())
    assert (found.parts, found.needed) == ({Part.NAME}, ())


def test_a_renamed_pair_that_keeps_a_destination_is_found_by_it():
    """Even if node, key and user database are all new."""
    fresh = changed(NODE, API_KEY, DATABASE)
    fresh["pairs"] = {"pair-x": fresh["pairs"]["hub-and-send"]}
    (found,) = compare(content(), fresh)
    assert found.parts == {Part.NAME, Part.NODE, Part.API_KEY, Part.DATABASE}


def test_a_pair_that_took_the_name_of_another_does_not_hide_it():
    """The one with the old node and user database is the old one; the other is new."""
    fresh = with_second_pair()
    fresh["pairs"] = {"hub-and-send": fresh["pairs"]["second"], "second": fresh["pairs"]["hub-and-send"]}
    assert [(each.pair, each.parts) for each in compare(content(), fresh)] == [("hub-and-send", {Part.ADDED}), ("second", {Part.NAME})]


def test_exchanged_user_databases_are_seen_in_both_pairs():
    """Each keeps its name and node, and has the other's user database."""
    fresh = with_second_pair(("destinations.send.options.source_id", "7"), ("destinations.send-2.options.source_id", "6"))
    found = compare(with_second_pair(), fresh, *CONFIRMABLE)
    assert [(each.pair, each.parts, each.missing) for each in found] == [(name, {Part.DATABASE}, (DISABLED,)) for name in ("hub-and-send", "second")]


def test_pairs_come_and_go_without_conditions():
    """A new one and one taken out are named; the table has no row for them."""
    (new,) = compare(content(), with_second_pair())
    (gone,) = compare(with_second_pair(), content())
    assert (new.parts, gone.parts, new.pair, gone.pair) == ({Part.ADDED}, {Part.REMOVED}, "second", "second")
    assert list(gone.lines()) == ["pair second: removed", "  not in the table: nothing must hold"]


@pytest.mark.parametrize(
    "path,destination,parts",
    [
        ("destinations.send.credentials.api_key", "send", {Part.API_KEY, Part.DATABASE, Part.SUBSCRIPTION, Part.MAPPING, Part.USER_KEY}),
        ("destinations.hub.options.node_id", "hub", {Part.NODE, Part.SUBSCRIPTION, Part.TOKEN}),
    ],
)
def test_what_cannot_be_known_of_the_previous_file_counts_as_changed(path, destination, parts):
    """A variable of it that is not set: the whole destination is unknown, and unknown is not unchanged."""
    (found,) = compare(resting((path, "${GONE}")), resting())
    assert (found.parts, found.unread, found.missing[0]) == (parts, (destination,), CURRENT)
    assert f"  nothing is known of {destination} in the previous file, so all of it counts as changed" in found.lines()


def check(tmp_path, previous, fresh, *words, **environment):
    """Run `consent check` on two files with the stand-in vendor."""
    for name, whole in (("previous.yaml", previous), ("fresh.yaml", fresh)):
        (tmp_path / name).write_text(yaml.safe_dump(whole, sort_keys=False))
    variables = ENVIRONMENT | {"CONSENT_CONFIG": str(tmp_path / "fresh.yaml"), "CONSENT_STATE_DIR": str(tmp_path / "state")} | environment
    with contactsend_known():
        return CliRunner().invoke(main, ["check", "--previous", str(tmp_path / "previous.yaml"), *words], env=variables)


def test_the_command_lets_a_file_without_changes_pass(tmp_path):
    """Exit code 0, and it says that nothing changes."""
    done = check(tmp_path, content(), content())
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/previous.yaml: no pair changes"


def test_the_command_refuses_by_name_and_passes_what_is_confirmed(tmp_path):
    """Two conditions are missing, then one, then none; keys are compared and never shown."""
    fresh = resting(DATABASE, API_KEY)
    done = check(tmp_path, resting(), fresh)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"consent: {tmp_path}/previous.yaml: this change of pairs is not allowed yet",
        (
            "pair hub-and-send: apiKey, userdb id needs current node empty: make sure that no customer is left in the node that the pair had before the change, "
            "then say --holds current-node-empty"
        ),
        (
            "pair hub-and-send: apiKey, userdb id needs new node empty: make sure that no customer is in the node that the pair has after the change, "
            "then say --holds new-node-empty"
        ),
    ]
    assert "  source disabled: holds\n  current node empty: not confirmed\n  new node empty: not confirmed\n" in done.stdout
    assert check(tmp_path, resting(), fresh, "--holds", "current-node-empty").exit_code == 2
    good = check(tmp_path, resting(), fresh, "--holds", "current-node-empty", "--holds", "new-node-empty", "--holds", "userdb-empty")
    assert (good.exit_code, good.stderr) == (0, "")
    assert good.stdout.splitlines()[-2:] == [
        "--holds userdb-empty: no change asks for it",
        f"{tmp_path}/previous.yaml: 1 pair changed, all that must hold holds",
    ]
    for text in (done.output, good.output):
        assert not any(secret in text for secret in (*ENVIRONMENT.values(), API_KEY[1]))


def test_the_command_names_the_variables_that_the_previous_file_lacks(tmp_path):
    """The change is refused until the variable is set, or everything that it could hide is confirmed."""
    previous = resting(("destinations.send.credentials.api_key", "${OLD_KEY}"))
    done = check(tmp_path, previous, resting())
    assert done.exit_code == 2
    assert "previous.yaml:" in done.stdout
    assert "the environment variable OLD_KEY is not set" in done.stdout
    assert check(tmp_path, previous, resting(), OLD_KEY=ENVIRONMENT["SEND_API_KEY"]).exit_code == 0
    assert check(tmp_path, previous, resting(), "--holds", "current-node-empty", "--holds", "new-node-empty").exit_code == 0


def test_the_command_refuses_a_previous_file_that_is_wrong(tmp_path):
    """Its problems are named with their lines, and one that is not there is said to be missing."""
    wrong = content()
    change(wrong, "pairs.hub-and-send.contacthub", "hob")
    done = check(tmp_path, wrong, content())
    assert (done.exit_code, "previous.yaml:" in done.stderr, "unknown destination 'hob'" in done.stderr) == (2, True, True)
    (tmp_path / "previous.yaml").unlink()
    with contactsend_known():
        gone = CliRunner().invoke(
            main, ["check", "--previous", str(tmp_path / "gone.yaml")], env=ENVIRONMENT | {"CONSENT_CONFIG": str(tmp_path / "fresh.yaml")}
        )
    assert (gone.exit_code, "the routing file cannot be read" in gone.stderr) == (2, True)


def test_a_condition_without_a_previous_file_is_refused():
    """It would confirm nothing."""
    done = CliRunner().invoke(main, ["check", "--holds", "current-node-empty"])
    assert (done.exit_code, "--previous" in done.stderr) == (2, True)
