"""The webhook vendor: the contract, the messages it sends, and the words of its receivers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

import orjson
import pytest
from msgspec import structs

from pipeline.domain import Outcome, State, Subject, VendorResult
from pipeline.errors import ConfigurationError
from pipeline.vendors import base, webhook
from pipeline.vendors.base import VendorResponse
from tests.sandboxes import SandboxHandle
from tests.vendors.contract import PERSON, VendorContract, result
from tests.vendors.drivers import DirectDriver, replay

KEY = b"test-webhook-signing-secret-0001"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
YES = result(Outcome.APPLIED)


class TestWebhook(VendorContract):
    vendor = "webhook"
    credentials: ClassVar = {"secret": SECRET}
    not_options: ClassVar = {"batch_size": 0}
    deviations: ClassVar[Mapping[str, VendorResult]] = {
        "410": result(Outcome.REJECTED, "gone"),
        **dict.fromkeys(("empty body", "HTML body", "cut JSON", "other JSON", "JSON null", "not UTF-8"), YES),
    }

    def held(self, sandbox: SandboxHandle, subject: Subject, purpose: str) -> str | None:
        kind, value = next(iter(subject.identifiers().items()))
        return sandbox.states("webhook").get(f"{kind}:{value}/{purpose}")

    def test_signature_names_the_time_of_sending(self) -> None:
        """The time of the request, which the exchange takes from the clock that all processes share, is what is signed."""
        (request,) = replay(self.adapter().tell([self.instruction(State.GIVEN)])).sent
        headers = dict(self.adapter().sign(structs.replace(request, sent_at=1_767_614_400.9), None).headers)
        signed = hmac.digest(KEY, b"event1.webhook-main.1767614400." + request.body, hashlib.sha256)
        assert headers["webhook-timestamp"] == "1767614400"
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"

    @pytest.mark.parametrize("state", list(State))
    def test_posts_one_event(self, state: State) -> None:
        """One event is one message, with the delivery's id as the message's id."""
        (request,) = replay(self.adapter().tell([self.instruction(state)])).sent
        assert (request.operation, request.method, request.path, request.query) == ("post_event", "POST", "", ())
        assert dict(request.headers) == {"content-type": "application/json", "webhook-id": "event1.webhook-main"}
        assert orjson.loads(request.body) == {
            "type": f"consent.{state}",
            "timestamp": "2026-01-05T16:00:00Z",
            "data": {
                "event_id": "event1",
                "subject": {"external_id": "person-4711", "email": "ana@example.org", "phone": "+5511912345678", "national_id": "12345678909"},
                "purpose": "newsletter",
                "state": state.value,
                "event_time": "2026-01-05T16:00:00Z",
            },
        }

    def test_posts_many_events_at_once(self) -> None:
        """With a batch size the message is a batch, dated by its newest event, and a person without identifier is left out."""
        adapter = self.adapter(options={"batch_size": 10})
        later = structs.replace(self.instruction(State.WITHDRAWN, number=2), event_time=self.instruction().event_time + timedelta(hours=1))
        replayed = replay(adapter.tell([self.instruction(), later, self.instruction(subject=Subject(), number=3)]), VendorResponse(status=202))
        (request,) = replayed.sent
        body = orjson.loads(request.body)
        assert (body["type"], body["timestamp"]) == ("consent.batch", "2026-01-05T17:00:00Z")
        assert [(event["event_id"], event["state"]) for event in body["data"]] == [("event1", "given"), ("event2", "withdrawn")]
        assert list(replayed.result) == [YES, YES, base.missing_identifier()]

    def test_a_batch_of_one_is_a_batch(self) -> None:
        """The form of the body follows the setting, not the number of events."""
        (request,) = replay(self.adapter(options={"batch_size": 2}).tell([self.instruction()])).sent
        assert orjson.loads(request.body)["type"] == "consent.batch"

    def test_ids_are_stable(self) -> None:
        """A retry of the same deliveries, in any order, carries the same id; other deliveries carry another."""
        adapter = self.adapter(options={"batch_size": 10})
        one, two, three = (self.instruction(number=number) for number in (1, 2, 3))

        def message_id(*told: Any) -> str:
            return dict(replay(adapter.tell(told)).sent[0].headers)["webhook-id"]

        assert message_id(one, two) == message_id(two, one)
        assert message_id(one, two) != message_id(one, three)

    def test_a_refused_batch_is_refused_for_all(self) -> None:
        """One answer stands for every event of a batch."""
        adapter = self.adapter(options={"batch_size": 10})
        replayed = replay(adapter.tell([self.instruction(number=1), self.instruction(number=2)]), VendorResponse(status=410))
        assert list(replayed.result) == [result(Outcome.REJECTED, "gone")] * 2

    def test_signs_id_time_and_body(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The signature is HMAC-SHA256 over id, time and body, in base64 with the mark of its version."""
        monkeypatch.setattr(webhook.time, "time", lambda: 1767628800.9)
        adapter = self.adapter()
        (request,) = replay(adapter.tell([self.instruction()])).sent
        headers = dict(adapter.sign(request, None).headers)
        expected = base64.b64encode(hmac.digest(KEY, b"event1.webhook-main.1767628800." + request.body, hashlib.sha256)).decode()
        assert (headers["webhook-timestamp"], headers["webhook-signature"]) == ("1767628800", f"v1,{expected}")

    @pytest.mark.parametrize("secret", ["test", "whsec_", "whsec_!!!", "whsec_dGVzdA==", SECRET.removeprefix("whsec_")])
    def test_a_bad_secret_stops_the_start(self, secret: str) -> None:
        """A secret of another form is refused without being shown."""
        with pytest.raises(ConfigurationError, match="'secret'") as caught:
            self.adapter(credentials={"secret": secret})
        assert secret not in str(caught.value).replace("whsec_ followed", "") or secret == "whsec_"

    @pytest.mark.parametrize("size,is_good", [(23, False), (24, True), (64, True), (65, False)])
    def test_the_secret_has_the_length_that_standard_webhooks_asks_for(self, size: int, is_good: bool) -> None:
        """24 to 64 bytes, exactly."""
        secret = "whsec_" + base64.b64encode(b"x" * size).decode()
        with contextlib.nullcontext() if is_good else pytest.raises(ConfigurationError, match=r"24 to 64 bytes$"):
            self.adapter(credentials={"secret": secret})

    def test_needs_an_address(self) -> None:
        """There is no default address."""
        with pytest.raises(ConfigurationError, match="base_url"):
            webhook.Adapter(credentials={"secret": SECRET})

    @pytest.mark.parametrize("size", [0, 1001, "2"])
    def test_batch_size_has_limits(self, size: Any) -> None:
        """A batch size out of range or of another type is refused."""
        with pytest.raises(ConfigurationError, match="'batch_size'"):
            self.adapter(options={"batch_size": size})


class TestSandbox:
    """What the receiver itself does, as Standard Webhooks asks."""

    def test_refuses_another_secret(self) -> None:
        """A message signed with another secret is refused, and nothing is kept."""
        contract = TestWebhook()
        with contract_sandbox() as sandbox:
            adapter = contract.adapter(sandbox.url("webhook"), credentials={"secret": "whsec_" + base64.b64encode(b"another-secret-of-24-bytes").decode()})
            assert contract.tell(DirectDriver(), adapter, contract.instruction()) == [result(Outcome.MISCONFIGURED, "http_401")]
            assert sandbox.states("webhook") == {}

    def test_refuses_an_old_message(self) -> None:
        """A message older than the tolerance is refused."""
        contract = TestWebhook()
        with contract_sandbox() as sandbox:
            sandbox.settings("webhook", tolerance_seconds=-1)
            assert contract.tell(DirectDriver(), contract.adapter(sandbox.url("webhook")), contract.instruction())[0].reason == "http_401"

    def test_keeps_every_arrival_in_order(self) -> None:
        """Repeats are kept, the last arrival is the state, and each address has states of its own."""
        contract = TestWebhook()
        with contract_sandbox() as sandbox:
            adapter = contract.adapter(f"{sandbox.url('webhook')}/crm")
            for state in (State.GIVEN, State.GIVEN, State.WITHDRAWN):
                contract.tell(DirectDriver(), adapter, contract.instruction(state, Subject(email=PERSON.email)))
            state = sandbox.state("webhook")
            assert {key: held["state"] for key, held in state["contacts"].items()} == {"crm/email:ana@example.org/newsletter": "withdrawn"}
            assert [told["state"] for told in state["history"]["crm/email:ana@example.org/newsletter"]] == ["given", "given", "withdrawn"]
            assert [message["id"] for message in state["messages"]] == ["event1.webhook-main"] * 3


def contract_sandbox() -> SandboxHandle:
    from tests.sandboxes import start_sandboxes

    return start_sandboxes(["webhook"])
