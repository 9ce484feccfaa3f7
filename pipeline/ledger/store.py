"""Runs the ledger's scripts and commands in pipelines, and turns every way in which Redis can be away into one error.

Scripts are files beside this one, named as they are called, loaded once and again after a server restart. Every script is
idempotent, so a command whose answer was lost may be repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis import exceptions

from pipeline.errors import LedgerUnavailable
from pipeline.ledger.guard import Guard

_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError, exceptions.ReadOnlyError, exceptions.OutOfMemoryError, OSError)
_IN_WORDS: Sequence[tuple[type[Exception], str]] = (
    (exceptions.AuthenticationError, "it refuses our password"),
    (exceptions.BusyLoadingError, "it is still loading its data"),
    (exceptions.ReadOnlyError, "it is read-only"),
    (exceptions.OutOfMemoryError, "its memory is full"),
    (exceptions.TimeoutError, "no answer in time"),
)
"""What operators are told of each; their own texts may quote an address."""
_REFUSING = ("NOREPLICAS", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ")
"""How a server's answer begins that cannot write now: too few replicas, a full disk, a failover under way, a script that hangs."""

USES_SHARED = "-- Uses many.lua\n"
ALLOW_OOM = "#!lua flags=allow-oom\n"
ALSO_WHEN_FULL = "-- Also while memory is full\n"
"""What a script says that ends work under way: were it refused, what vendors were told would be forgotten and told again."""


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file: its text and the SHA-1 by which the server knows it."""

    name: str
    text: str
    sha: str


def load_scripts() -> dict[str, Script]:
    """All scripts of this folder by name."""
    texts = {path.stem: path.read_text() for path in Path(__file__).parent.glob("*.lua")}
    shared = texts.pop("many")
    texts = {name: shared + text if USES_SHARED in text else text for name, text in texts.items()}
    texts = {name: ALLOW_OOM + text if ALSO_WHEN_FULL in text else text for name, text in texts.items()}
    return {name: Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()) for name, text in texts.items()}


class Store:
    """A Redis or Valkey server as the ledger uses it; safe to share between threads.

    `check` is called before scripts are loaded again into a server that does not know them (it may have been restarted, perhaps empty, and must be
    recognised first), and once a second besides: a server that was emptied or set up anew while it ran knows its scripts all the same.
    """

    def __init__(self, client: redis.Redis, check: Callable[[], object] | None = None) -> None:
        self.client: Any = client  # its stubs know few of the commands that are sent here
        self._guard = Guard(check) if check is not None else None
        self._scripts = load_scripts()

    def script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """The command that runs a script, for `run`."""
        return ("EVALSHA", self._scripts[name].sha, len(keys), *keys, *arguments)

    def source(self, name: str) -> str:
        """The text of a script."""
        return self._scripts[name].text

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Run one script and return its answer."""
        return self.run([self.script(name, keys, arguments)])[0]

    def now_ms(self) -> int:
        """The server's clock."""
        seconds, microseconds = self.run([("TIME",)])[0]
        return int(seconds) * 1000 + int(microseconds) // 1000

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one round trip, answers in order; raises LedgerUnavailable if any of them could not be carried out."""
        if not commands:
            return []
        self.look()
        answers = self._send(commands)
        forgotten = [n for n, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)]
        if forgotten:
            self._reload()
            for n, answer in zip(forgotten, self._send([commands[n] for n in forgotten]), strict=True):
                answers[n] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._translated(answer)
        return answers

    def look(self, *, now: bool = False) -> None:
        """Have the ledger checked if it is time to, or `now`; raises what the check raises."""
        if self._guard is not None:
            self._guard.look(now=now)

    def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        try:
            if len(commands) == 1:
                return [self._single(commands[0])]
            pipeline = self.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return list(pipeline.execute(raise_on_error=False))
        except (*_AWAY, exceptions.ResponseError) as error:
            translated = self._translated(error)
            if translated is error:
                raise
            raise translated from error

    def _single(self, command: tuple[Any, ...]) -> Any:
        try:
            return self.client.execute_command(*command)
        except exceptions.NoScriptError as error:
            return error

    def _reload(self) -> None:
        self.look(now=True)
        self._send([("SCRIPT LOAD", script.text) for script in self._scripts.values()])

    @staticmethod
    def _translated(error: Exception) -> Exception:
        if isinstance(error, _AWAY):
            return LedgerUnavailable(
                f"the ledger cannot be reached or written: {next((words for kind, words in _IN_WORDS if isinstance(error, kind)), 'no connection')}"
            )
        if isinstance(error, exceptions.ResponseError) and str(error).startswith(_REFUSING):
            return LedgerUnavailable(f"the ledger cannot be written: {str(error).split()[0]}")
        return error


def pairs_of(reply: Any) -> list[tuple[Any, Any]]:
    """A Redis hash as pairs, whichever protocol version it came by."""
    return list(reply.items()) if isinstance(reply, dict) else list(zip(reply[::2], reply[1::2], strict=True))


def text(value: Any) -> str:
    """A Redis answer as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def scores_of(reply: Sequence[Any]) -> list[tuple[Any, float]]:
    """A sorted set with its scores as pairs, whichever protocol version it came by."""
    items = list(reply)
    if items and not isinstance(items[0], list | tuple):
        items = list(zip(items[::2], items[1::2], strict=True))
    return [(member, float(score)) for member, score in items]
