"""The vendor's own connector between Contacthub and Contactsend: a change of a paired subscription on either side appears on the other after a delay.

It copies the state that it saw change, as it was then, so two changes within the delay may cross. It dates the subscription at Contacthub with the time of the
copy, adds who is unknown on the other side, writes nothing where the state is there already, and does not copy back what it wrote itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.sandboxes import contacthub
from tests.sandboxes.base import Sandbox

SOURCE = "contactsend-connector"


class Connector:
    """Listens to both; the pairs (subscription id -> webform code) and the delay are settings of the Contactsend sandbox."""

    def __init__(self, hub: Sandbox, send: Any, call_later: Callable[..., Any]) -> None:
        self.hub, self.send, self.call_later = hub, send, call_later
        hub.listeners.append(self.hub_changed)
        send.listeners.append(self.send_changed)

    def hub_changed(self, key: str, state: str, more: Mapping[str, Any]) -> None:
        person, _, subscription_id = key.rpartition("/")
        code = self.send.settings["hub_pairs"].get(subscription_id)
        if code and "@" in person and self.is_news(self.hub, key, more):
            self.later(self.to_send, key, person, code, state)

    def send_changed(self, key: str, state: str, more: Mapping[str, Any]) -> None:
        subscription_id = next((one for one, code in self.send.settings["hub_pairs"].items() if code == more["webform_code"]), None)
        if subscription_id and more["email"] and state != "pending" and self.is_news(self.send, key, more):
            self.later(self.to_hub, key, more["email"].lower(), subscription_id, state)

    def is_news(self, sandbox: Sandbox, key: str, more: Mapping[str, Any]) -> bool:
        """Whether somebody else changed the state, and not only something beside it."""
        states = [told["state"] for told in sandbox.history[key]]
        return more["source"] != SOURCE and states[-1:] != states[-2:-1]

    def later(self, act: Callable[..., None], *arguments: str) -> None:
        self.call_later(self.send.settings["sync_delay_seconds"], act, *arguments)

    def to_send(self, key: str, email: str, code: str, state: str) -> None:
        if key in self.hub.contacts:  # Else the sandbox was reset meanwhile.
            self.send.set_by_address(email, code, state, SOURCE)

    def to_hub(self, key: str, email: str, subscription_id: str, state: str) -> None:
        held = self.hub.contacts.get(f"{email}/{subscription_id}", {})
        if key not in self.send.contacts or held.get("state") == state:
            return
        is_on, now = state == "given", contacthub.now()
        dates = {"startDate": now, "endDate": None} if is_on else {"startDate": None, "endDate": now}
        entry = {"kind": "DIGITAL_MESSAGE", "registeredAt": now, **held.get("subscription", {}), "id": subscription_id, **dates, "updatedAt": now}
        self.hub.place({"email": email, "source": SOURCE, "subscriptions": [{**entry, self.hub.settings["flag"]: is_on}]})
