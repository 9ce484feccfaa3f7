"""Routing files with pairs, and a vendor of Contactsend's credentials and options that can be read but is never told anything here."""

from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import patch

import yaml

from pipeline import vendors
from pipeline.domain import State
from pipeline.routing_file import load_routing
from pipeline.vendors.base import Adapter, Capabilities, Option

ENVIRONMENT = {"HUB_TOKEN": "test-hub-token", "SEND_API_KEY": "test-api-key", "SEND_USER_KEY": "test-user-key"}


class StandIn(Adapter):
    """What the routing file needs to know of Contactsend."""

    title = "Contactsend"
    docs_url = "https://docs.example.org"
    base_url = "https://soap.contactlab.it/soap/services"
    credentials: ClassVar = {name: Option(description=name, required=True) for name in ("api_key", "user_key")}
    options: ClassVar = {
        "source_id": Option(description="id of the user database", required=True),
        "webform_code": Option(description="code of the webform", required=True),
        "registration_field": Option(description="column of the registration"),
        "fields": Option(description="our name -> their key", default={}, type=dict),
    }
    capabilities = Capabilities(states=frozenset(State))

    def tell(self, instructions):
        raise AssertionError("nothing is told here")


def contactsend_known():
    """A context in which the routing file reads destinations of vendor contactsend as the stand-in says, whatever its vendor file declares besides."""
    names, known = vendors.vendor_names, vendors.adapter_class

    def stand_in_names():
        return sorted({*names(), "contactsend"})

    def stand_in_class(vendor):
        return StandIn if vendor == "contactsend" else known(vendor)

    return patch.multiple("pipeline.routing_destinations", vendor_names=stand_in_names, adapter_class=stand_in_class)


def content():
    """A routing file with one pair, as a mapping that a test may change."""
    return {
        "version": 1,
        "sources": {},
        "purposes": {"news": {}, "offers": {}},
        "destinations": {
            "hub": {
                "vendor": "contacthub",
                "credentials": {"token": "${HUB_TOKEN}"},
                "options": {"workspace_id": "w", "node_id": "n1"},
                "options_by_purpose": {"news": {"subscription_id": "s1"}, "offers": {"subscription_id": "s2"}},
            },
            "send": {
                "vendor": "contactsend",
                "credentials": {"api_key": "${SEND_API_KEY}", "user_key": "${SEND_USER_KEY}"},
                "options": {"source_id": "6", "fields": {"email": "EMAIL"}},
                "options_by_purpose": {
                    "news": {"webform_code": "101", "registration_field": "__cls1"},
                    "offers": {"webform_code": "102", "registration_field": "__cls2"},
                },
            },
        },
        "pairs": {"hub-and-send": {"contacthub": "hub", "contactsend": "send"}},
        "triggers": [{"deliver_to": ["hub", "send"]}],
    }


def change(whole, path, value):
    """Set what stands at a path such as `destinations.hub.options.node_id`; None takes it out."""
    *way, last = path.split(".")
    for name in way:
        whole = whole.setdefault(name, {})
    if value is None:
        del whole[last]
    else:
        whole[last] = value


def changed(*changes):
    """The file with changes, each a path and a value."""
    whole = content()
    for path, value in changes:
        change(whole, path, value)
    return whole


def with_second_pair(*changes):
    """The file with another pair, of another node and user database, and then the changes."""
    whole = content()
    again = content()["destinations"]
    again["hub"]["options"]["node_id"], again["send"]["options"]["source_id"] = "n2", "7"
    whole["destinations"] |= {"hub-2": again["hub"], "send-2": again["send"]}
    whole["pairs"]["second"] = {"contacthub": "hub-2", "contactsend": "send-2"}
    whole["triggers"][0]["deliver_to"] += ["hub-2", "send-2"]
    for path, value in changes:
        change(whole, path, value)
    return whole


def load(whole, *, may_be_unset=False, **environment):
    """The routing that a mapping says."""
    text = yaml.safe_dump(whole, sort_keys=False)
    with contactsend_known():
        return load_routing(text, filename="consent.yaml", environment=ENVIRONMENT | environment, may_be_unset=may_be_unset)


def text_of(whole):
    """The file as text, and the line of each of its pairs."""
    text = yaml.safe_dump(whole, sort_keys=False)
    lines = text.splitlines()
    start = lines.index("pairs:")
    return SimpleNamespace(text=text, line_of=lambda name: lines.index(f"  {name}:", start) + 1)
