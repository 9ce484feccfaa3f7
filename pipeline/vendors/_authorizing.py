"""For vendors whose token is given by a person: asking for the approval, and a destination that tries the token which comes of it (`probe`).

Like the other verbs these are dialogues without I/O. The request for approval goes to another address with other secrets than
a destination's, so it has a class of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pipeline.domain import EMPTY, VendorResult
from pipeline.vendors import base
from pipeline.vendors.base import VendorRequest, VendorResponse

AuthorizeDialogue = Generator[VendorRequest, VendorResponse, "Asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking: `pending_confirmation` while a person must approve, and the word by which the vendor names the request, if it gave one."""

    result: VendorResult
    connection_token: str = field(default="", repr=False)


class Authorization(base.Adapter):
    """Asks a vendor to have the account's owner approve; `base_url` is the whole address of that step, and "" where it is not public.

    `personal` names the credentials that name a person and are no secrets; `next_step` says what a person does once the vendor was asked.
    """

    personal: ClassVar[frozenset[str]] = frozenset()
    next_step: ClassVar[str]

    def __init__(self, *, base_url: str | None = None, credentials: Mapping[str, str] = EMPTY, options: Mapping[str, Any] = EMPTY) -> None:
        super().__init__(base_url=base_url, credentials=credentials, options=options)
        self.address = base_url or self.base_url  # whole, with the slash that it may end with

    @abstractmethod
    def authorize(self) -> AuthorizeDialogue:
        """Ask for the approval."""


class Authorizable(base.Adapter):
    """A vendor with such a step; `token_credential` is the credential that the approved token becomes."""

    authorization: ClassVar[type[Authorization]]
    token_credential: ClassVar[str]

    @abstractmethod
    def with_token(self, token: str) -> Self:
        """The same destination with this token, so that it can be tried before it is in force."""
