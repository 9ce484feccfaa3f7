"""Privacy Tools in the routing file: no mail and no text unless asked for, and no text without what it needs."""

from __future__ import annotations

import orjson
import pytest

from pipeline.domain import Instruction, State, Subject
from pipeline.errors import ConfigurationError
from pipeline.routing import Destination
from pipeline.routing_file import load_routing
from tests.vendors.contract import PERSON, SAID_AT
from tests.vendors.drivers import replay

FLAGS = ("sendEmailPortal", "sendEmailPortalResetPassword", "sendSMS")
OPTIONS = ("send_email_portal", "send_email_portal_reset_password", "send_sms")
NEEDS_PORTAL = "option 'send_sms' needs 'portal_hash' (and is sent only for people with e-mail and phone)"


def file_with(options: str, by_purpose: str = "{}") -> str:
    return f"""\
version: 1
sources:
  web: {{kind: native}}
purposes:
  news: {{title: News}}
  sms: {{title: Texts}}
destinations:
  tools:
    vendor: privacy_tools
    credentials: {{public_key: test-public, secret: test-secret, client_id: test-client, client_secret: test-client-secret}}
    options: {{template_hash: test-hash, {options}}}
    options_by_purpose: {by_purpose}
triggers:
  - {{purposes: [news, sms], deliver_to: [tools]}}
"""


def load(text: str, **environment: str) -> Destination:
    return load_routing(text, filename="consent.yaml", environment=environment).destinations["tools"]


def flags_of(destination: Destination, purpose: str, subject: Subject = PERSON, state: State = State.GIVEN) -> list[str]:
    """The mails and texts that one import asks the platform for."""
    options = destination.options_for(purpose)
    told = Instruction(delivery_id="e.tools", event_id="e", subject=subject, purpose=purpose, state=state, event_time=SAID_AT, options=options)
    (request,) = replay(destination.adapter.tell([told])).sent
    body = orjson.loads(request.body)
    assert set(FLAGS) <= body.keys()
    return [name for name in FLAGS if body[name] is not False]


def test_every_flag_is_off_unless_the_destination_asks():
    """Given no option, no import asks for a mail or a text; given one, that one is asked for."""
    assert flags_of(load(file_with("")), "news") == []
    for flag, option in zip(FLAGS, OPTIONS, strict=True):
        assert flags_of(load(file_with(f"{option}: true, portal_hash: test-portal")), "news") == [flag]


@pytest.mark.parametrize(
    "options, by_purpose",
    [
        ("send_sms: true", "{}"),
        ("send_sms: true, portal_hash: ''", "{}"),
        ("send_sms: true, portal_hash: '${PORTAL_HASH:-}'", "{}"),
        ("send_sms_message: Hello", "{sms: {send_sms: true}}"),
        ("send_sms: true", "{sms: {portal_hash: test-portal}}"),
    ],
)
def test_a_text_without_a_portal_is_refused(options: str, by_purpose: str):
    """Given `send_sms` without `portal_hash` for any purpose that the destination is told of, the file is refused with the line."""
    with pytest.raises(ConfigurationError) as caught:
        load(file_with(options, by_purpose))
    assert str(caught.value).splitlines() == [f"consent.yaml:8: {NEEDS_PORTAL}"]


def test_a_text_may_be_wanted_for_one_purpose():
    """Given the portal for all and `send_sms` for one purpose, only its consents ask for a text."""
    destination = load(file_with("portal_hash: '${PORTAL_HASH}'", "{sms: {send_sms: true}}"), PORTAL_HASH="test-portal")
    assert [flags_of(destination, purpose) for purpose in ("news", "sms")] == [[], ["sendSMS"]]


@pytest.mark.parametrize("subject", [Subject(email="ana@example.org"), Subject(phone="+5551900000000")])
def test_a_text_needs_email_and_phone(subject: Subject):
    """Given somebody without one of both, which no file can know, the import goes and asks for no text."""
    assert flags_of(load(file_with("send_sms: true, portal_hash: test-portal")), "news", subject) == []


def test_a_withdrawal_asks_for_nothing():
    """Given every flag on, a withdrawal asks for no mail and no text."""
    every = ", ".join(f"{option}: true" for option in OPTIONS)
    assert flags_of(load(file_with(f"{every}, portal_hash: test-portal")), "news", state=State.WITHDRAWN) == []
