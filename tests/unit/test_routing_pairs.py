"""Pairs of the routing file: one source, one node, one user database, and a subscription id for each webform code."""

import pytest

from pipeline.errors import ConfigurationError
from pipeline.routing import Pair
from pipeline.routing_summary import describe
from tests.support.pairs import ENVIRONMENT, changed, content, load, text_of, with_second_pair


def complaints(whole, **environment):
    with pytest.raises(ConfigurationError) as caught:
        load(whole, **environment)
    return str(caught.value).splitlines()


def test_a_pair_names_its_two_sides():
    """Enabled and without a description if it does not say otherwise; a good pair needs nobody's attention."""
    routing = load(content())
    assert routing.pairs == {"hub-and-send": Pair(name="hub-and-send", contacthub="hub", contactsend="send", description="", enabled=True)}
    assert routing.warnings == ()


def test_a_file_without_pairs_has_none():
    """The part may be left out."""
    routing = load(changed(("pairs", None)))
    assert (routing.pairs, routing.resting_destinations) == ({}, frozenset())
    assert "pairs" not in describe(routing)


def test_both_sides_of_a_disabled_pair_rest():
    """And of no other pair."""
    assert load(with_second_pair()).resting_destinations == frozenset()
    assert load(with_second_pair(("pairs.second.enabled", False))).resting_destinations == {"hub-2", "send-2"}


def test_a_person_reads_the_pairs():
    """What is kept equal with what, and whether it rests."""
    lines = describe(load(with_second_pair(("pairs.second.enabled", False), ("pairs.second.description", "The shop"))))
    start = lines.index("pairs")
    assert lines[start : start + 4] == [
        "pairs",
        "  hub-and-send: hub <-> send",
        "  second: hub-2 <-> send-2 (The shop), disabled (sources that poll either side rest)",
        "triggers",
    ]


@pytest.mark.parametrize(
    "path,value,offset,text",
    [
        ("contacthub", None, 0, "pair hub-and-send has no contacthub; expected the name of a destination of vendor contacthub"),
        ("contactsend", None, 0, "pair hub-and-send has no contactsend; expected the name of a destination of vendor contactsend"),
        ("contacthub", "hob", 1, "unknown destination 'hob' in pair hub-and-send; did you mean 'hub'?"),
        ("contacthub", "send", 1, "contacthub of pair hub-and-send is a destination of vendor contactsend; expected one of vendor contacthub"),
        ("contactsend", "hub", 2, "contactsend of pair hub-and-send is a destination of vendor contacthub; expected one of vendor contactsend"),
        ("contactsend", ["send"], 2, "contactsend of pair hub-and-send must be text"),
        ("enabled", "perhaps", 3, "enabled of pair hub-and-send must be true or false"),
        ("enable", True, 3, "pair hub-and-send has an unknown key 'enable'; did you mean 'enabled'?"),
    ],
)
def test_each_problem_of_a_pair_is_named_with_its_line(path, value, offset, text):
    """One thing is wrong, and it is the only complaint."""
    whole = changed((f"pairs.hub-and-send.{path}", value))
    assert complaints(whole) == [f"consent.yaml:{text_of(whole).line_of('hub-and-send') + offset}: {text}"]


def test_a_name_of_a_pair_is_a_name():
    """As everywhere in the file."""
    whole = changed(("pairs.Hub", {"contacthub": "hub", "contactsend": "send"}), ("pairs.hub-and-send", None))
    assert complaints(whole)[0].endswith("the name 'Hub' in pairs is not usable; expected a-z, 0-9 and -, at most 40, not beginning with -")


TWICE = "is in pair hub-and-send already; expected one node and one user database in one pair"


@pytest.mark.parametrize(
    "changes,texts",
    [
        ([("pairs.second.contacthub", "hub")], [f"destination hub {TWICE}", f"the node of hub {TWICE}"]),
        ([("pairs.second.contactsend", "send")], [f"destination send {TWICE}", f"the user database of send {TWICE}"]),
        ([("destinations.hub-2.options.node_id", "n1")], [f"the node of hub-2 {TWICE}"]),
        ([("destinations.send-2.options.source_id", "6")], [f"the user database of send-2 {TWICE}"]),
        (
            [("destinations.hub-2.options.node_id", "n1"), ("destinations.hub-2.base_url", "HTTPS://API.ContactLab.it:443/hub/v1/")],
            [f"the node of hub-2 {TWICE}"],
        ),
        (
            [("destinations.send-2.options.source_id", "6"), ("destinations.send-2.base_url", "https://SOAP.contactlab.it/soap/services//")],
            [f"the user database of send-2 {TWICE}"],
        ),
        (
            [("destinations.send-2.options.source_id", "6"), ("destinations.send-2.credentials.user_key", "test-other")],
            [f"the user database of send-2 {TWICE}"],
        ),
    ],
)
def test_a_destination_a_node_and_a_user_database_are_in_one_pair(changes, texts):
    """The later pair is named, also where the same thing is written in another way, and no value of the environment is shown."""
    whole = with_second_pair(*changes)
    found = complaints(whole)
    assert found == [f"consent.yaml:{text_of(whole).line_of('second')}: pair second: {text}" for text in sorted(texts)]
    assert not any(value in line for value in ENVIRONMENT.values() for line in found)


@pytest.mark.parametrize(
    "changes",
    [
        [("destinations.hub-2.options.node_id", "n1"), ("destinations.hub-2.options.workspace_id", "other")],
        [("destinations.hub-2.options.node_id", "n1"), ("destinations.hub-2.base_url", "https://api.example.org/hub/v1")],
        [("destinations.hub-2.options.node_id", "n1"), ("destinations.hub-2.base_url", "https://api.contactlab.it/HUB/v1")],
        [("destinations.hub-2.options.node_id", "N1")],
        [("destinations.send-2.options.source_id", "6"), ("destinations.send-2.credentials.api_key", "test-other")],
        [("destinations.send-2.options.source_id", "6"), ("destinations.send-2.base_url", "https://soap.contactlab.it:8443/soap/services")],
    ],
)
def test_what_differs_in_one_part_is_another_node_or_user_database(changes):
    """Two workspaces, two hosts, two paths, two companies: two pairs."""
    assert list(load(with_second_pair(*changes)).pairs) == ["hub-and-send", "second"]


@pytest.mark.parametrize(
    "path,value,text",
    [
        ("destinations.hub.options_by_purpose.news.node_id", "n9", "the purposes of hub name more than one node; expected one node in a pair"),
        (
            "destinations.send.options_by_purpose.news.source_id",
            "9",
            "the purposes of send name more than one user database; expected one user database in a pair",
        ),
        ("destinations.send.options_by_purpose.news.fields", {"email": "MAIL"}, "the fields of send differ by purpose; expected one mapping in a pair"),
        ("destinations.send.options.fields", None, "send has no fields; expected at least one, our name: its name in the user database"),
        ("destinations.send.options.fields", {}, "send has no fields; expected at least one, our name: its name in the user database"),
        (
            "destinations.hub.options_by_purpose.offers.subscription_id",
            "s1",
            "news and offers share their subscription_id but not their webform_code; expected one webform_code for each subscription_id",
        ),
        (
            "destinations.send.options_by_purpose.offers.webform_code",
            "101",
            "news and offers share their webform_code but not their subscription_id; expected one subscription_id for each webform_code",
        ),
    ],
)
def test_a_pair_has_one_of_each(path, value, text):
    """One node, one user database, one mapping that is not empty, and subscriptions that map one to one."""
    whole = changed((path, value))
    assert complaints(whole) == [f"consent.yaml:{text_of(whole).line_of('hub-and-send')}: pair hub-and-send: {text}"]


def test_a_node_that_only_the_purposes_name_is_read_from_them():
    """The destination itself need not have the option; an option of a purpose that is not told there says nothing."""
    whole = changed(
        ("destinations.hub.options.node_id", None),
        ("destinations.hub.options_by_purpose.news.node_id", "n1"),
        ("destinations.hub.options_by_purpose.offers.node_id", "n5"),
        ("triggers", [{"purposes": ["news"], "deliver_to": ["hub", "send"]}]),
    )
    assert list(load(whole).pairs) == ["hub-and-send"]


def test_two_purposes_may_share_subscription_and_webform():
    """Then they are one subscription on both sides."""
    whole = changed(("destinations.hub.options_by_purpose.offers.subscription_id", "s1"), ("destinations.send.options_by_purpose.offers.webform_code", "101"))
    assert list(load(whole).pairs) == ["hub-and-send"]


def test_a_purpose_told_to_one_side_only_is_a_warning():
    """It is no subscription of the pair, and the file is used; its ids need not map."""
    triggers = [{"purposes": ["news"], "deliver_to": ["hub", "send"]}, {"purposes": ["offers"], "deliver_to": ["send"]}]
    whole = changed(("triggers", triggers), ("destinations.send.options_by_purpose.offers.webform_code", "101"))
    line = text_of(whole).line_of("hub-and-send")
    assert load(whole).warnings == (f"consent.yaml:{line}: pair hub-and-send: offers is told to send but not to hub",)
    whole["triggers"][1]["deliver_to"] = ["hub"]
    assert load(whole).warnings == (f"consent.yaml:{line}: pair hub-and-send: offers is told to hub but not to send",)


def test_a_pair_whose_destination_is_wrong_is_not_complained_of_as_well():
    """The destination's own complaint is the one to act on."""
    found = complaints(changed(("destinations.hub.options.node_id", None)))
    assert [text.partition(": ")[2] for text in found] == ["missing option 'node_id': id of the node in which customers are created and looked for"]


def test_variables_that_are_not_set_leave_the_pair_readable():
    """For looking only: the pair keeps its names, the destination is left out, and the variable is named with its line."""
    routing = load(changed(("destinations.send.credentials.api_key", "${GONE}")), may_be_unset=True)
    assert (list(routing.pairs), list(routing.destinations)) == (["hub-and-send"], ["hub"])
    assert len(routing.unset) == 1
    assert routing.unset[0].endswith(": the environment variable GONE is not set; set it or write ${GONE:-default}")
    assert load(content()).unset == ()
