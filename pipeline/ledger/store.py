"""Runs the ledger's scripts and commands in pipelines, and turns every way in which Redis can be away into one error.

Scripts are files beside this one, named as they are called, loaded once and again after a server restart. Every script may
be repeated if its answer was lost (what `unattend` has taken with it by then is found by the ledger).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis import exceptions

from pipeline.errors import LedgerUnavailable
from pipeline.ledger.guard import Guard
from pipeline.ledger.nodes import Command, Nodes, OneServer
from pipeline.ledger.pipes import in_blocks, piped

_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError, exceptions.ReadOnlyError, exceptions.OutOfMemoryError, OSError)
_IN_WORDS: Sequence[tuple[type[Exception], str]] = (
    (exceptions.AuthenticationError, "it refuses our password"),
    (exceptions.BusyLoadingError, "it is still loading its data"),
    (exceptions.ReadOnlyError, "it is read-only"),
    (exceptions.OutOfMemoryError, "its memory is full"),
    (exceptions.TimeoutError, "no answer in time"),
)
"""What operators are told of each; their own texts may quote an address."""
_REFUSING = ("NOREPLICAS", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ", "UNBLOCKED")
"""How a server's answer begins that cannot write now: too few replicas, a full disk, a failover under way, a script that hangs."""
_MOVING: Sequence[tuple[type[Exception], str]] = (
    (exceptions.MovedError, "a slot has moved to another node"),
    (exceptions.AskError, "a slot is moving to another node"),
    (exceptions.TryAgainError, "a slot is moving to another node"),
    (exceptions.ClusterDownError, "the cluster is down or a failover is under way"),
)

_TORN = "attempted to access a non local key"
"""What a script is told that meets a key of a slot of which a part has moved."""

_READING = frozenset({"count", "newer", "read"})
"""Scripts that write nothing."""
_READING_COMMANDS = frozenset({"EXISTS"})
"""Commands that only read, of those that are sent in one round trip with scripts whose answers they follow."""
_SHARED = ("many", "evidence")
"""Files that are no scripts: what others say that they use (`-- Uses many.lua`) is prepended to them."""
ALLOW_OOM = "#!lua flags=allow-oom\n"
ALSO_WHEN_FULL = "-- Also while memory is full\n"
"""What a script says that ends work under way: were it refused, what vendors were told would be forgotten and told again."""


@dataclass(frozen=True, slots=True)
class Durability:
    """How a write is confirmed: `fsync` (the server syncs before it answers), `waitaof` (we ask and wait), or `none` (nobody can say)."""

    mode: str
    wait: Command | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file: its text and the SHA-1 by which the server knows it."""

    name: str
    text: str
    sha: str


def load_scripts() -> dict[str, Script]:
    """All scripts of this folder by name."""
    texts = {path.stem: path.read_text() for path in Path(__file__).parent.glob("*.lua")}
    shared = {name: texts.pop(name) for name in _SHARED}
    texts = {name: "".join(part for used, part in shared.items() if f"-- Uses {used}.lua\n" in text) + text for name, text in texts.items()}
    texts = {name: ALLOW_OOM + text if ALSO_WHEN_FULL in text else text for name, text in texts.items()}
    return {name: Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()) for name, text in texts.items()}


class Store:
    """The servers of a ledger as it uses them; safe to share between threads.

    `check` is called before scripts are loaded again into a server that does not know them (it may have been restarted, perhaps empty, and must be
    recognised first), and once a second besides: a server that was emptied or set up anew while it ran knows its scripts all the same.
    """

    def __init__(self, client: redis.Redis | Nodes, check: Callable[[], object] | None = None, *, wait_milliseconds: int = 1000) -> None:
        self.nodes: Nodes = OneServer(client) if isinstance(client, redis.Redis) else client
        self._guard = Guard(check) if check is not None else None
        self._wait_milliseconds = wait_milliseconds
        self._scripts = load_scripts()
        self._writing = frozenset(script.sha for script in self._scripts.values() if script.name not in _READING)

    @property
    def client(self) -> Any:
        """A client of the server, or of any of them."""
        return self.nodes.primaries()[0]

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

    def run(self, commands: Sequence[Command], *, durability: Durability | None = None, replicated: bool = False) -> list[Any]:
        """Run commands in one round trip, answers in order; raises LedgerUnavailable if any of them could not be carried out.

        Returns once every server that was written to has confirmed what `durability` says, or, if `replicated`, once all replicas that may take its place have
        it. Commands that touch keys of different slots must not rely on their order; `run_in_order` keeps it.
        """
        if not commands:
            return []
        return self.round_trip(commands, durability=durability, replicated=replicated)

    def round_trip(self, commands: Sequence[Command], *, durability: Durability | None = None, replicated: bool = False, whole: bool = False) -> list[Any]:
        """What `run` and `run_in_order` are made of; `whole`: no command may be carried out before one that stands before it."""
        self.look()
        answers = self._send(commands, durability, replicated, whole)
        again = [n for n, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError | exceptions.MovedError)]
        if again:
            self._prepare([answers[n] for n in again])
            # What was read before that which it was to follow is read again.
            again += [n for n in range(again[0], len(commands)) if n not in again and self._reads(commands[n])]
            again.sort()
            for n, answer in zip(again, self._send([commands[n] for n in again], durability, replicated, whole), strict=True):
                answers[n] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._translated(answer)
        return answers

    def _reads(self, command: Command) -> bool:
        return command[0] in _READING_COMMANDS or (command[0] == "EVALSHA" and command[1] not in self._writing)

    def look(self, *, now: bool = False) -> None:
        """Have the ledger checked if it is time to, or `now`; raises what the check raises."""
        if self._guard is not None:
            self._guard.look(now=now)

    def run_in_order(self, stages: Sequence[Sequence[Command]], *, replicated: bool = False) -> list[Any]:
        """Run commands stage after stage: in one round trip on one server, in one for each stage where keys lie on several."""
        if not self.nodes.is_spread:
            return self.round_trip([command for stage in stages for command in stage], replicated=replicated, whole=True)
        return [answer for stage in stages for answer in self.run(stage, replicated=replicated and not all(map(self._reads, stage)))]

    def on_each(self, commands: Sequence[Command], *, and_replicas: bool = False) -> list[list[Any]]:
        """The answers of each primary to the same commands, and of each replica that can be reached; an error answer is raised."""
        with self._in_words():
            found = [piped(primary, commands) for primary in self.nodes.primaries()]
            for replica in self.nodes.replicas() if and_replicas else ():
                with suppress(*_AWAY):
                    found.append(piped(replica, commands))
        for answer in (answer for answers in found for answer in answers):
            if isinstance(answer, Exception):
                raise self._translated(answer)
        return found

    def scan(self, pattern: str, count: int) -> Iterator[Any]:
        """The names of all keys that fit, of every primary; keys written meanwhile may be missed."""
        with self._in_words():
            for primary in self.nodes.primaries():
                yield from primary.scan_iter(match=pattern, count=count)

    def page(self, pattern: str, cursor: int, count: int) -> tuple[list[Any], int]:
        """The names of one step through all keys that fit, and the next cursor, 0 after the last: the server's own, multiplied to tell which of the primaries it is of."""
        with self._in_words():
            primaries = self.nodes.primaries()
            inner, number = divmod(cursor, len(primaries))
            reached, names = primaries[number].execute_command("SCAN", inner, "MATCH", pattern, "COUNT", count)
        if int(reached):
            return names, int(reached) * len(primaries) + number
        return names, number + 1 if number + 1 < len(primaries) else 0

    def _send(self, commands: Sequence[Command], durability: Durability | None, replicated: bool, whole: bool) -> list[Any]:
        answers: list[Any] = [None] * len(commands)
        with self._in_words():
            for client, places in self.nodes.split(commands):
                waits = self._waits(client, durability, replicated)
                chosen = [commands[place] for place in places]
                found = piped(client, [*chosen, *waits]) if self.nodes.is_spread else in_blocks(client, chosen, waits, self._writing, whole=whole)
                _refuse_demoted(client, found)
                for place, answer in zip(places, found, strict=False):
                    answers[place] = answer
                for wait, answer in zip(waits, found[len(places) :], strict=True):
                    _refuse_unconfirmed(wait, answer)
        return answers

    def _waits(self, client: Any, durability: Durability | None, replicated: bool) -> list[Command]:
        """What makes a server say that a write is safe. A replica that syncs at once has done so by the second question: it answers the first one after that."""
        if not (durability or replicated) or (durability and durability.mode == "none"):
            return []
        replicas, wait = self.nodes.replicas_wanted(client), self._wait_milliseconds
        if not replicas:
            return [durability.wait] if durability and durability.wait else []
        return [("WAIT", replicas, wait), *([("WAITAOF", 1, replicas, wait)] if durability else [])]

    def _prepare(self, errors: Sequence[Exception]) -> None:
        """Load the scripts into servers that do not know them, or learn where slots have moved to, before commands are sent again."""
        if any(isinstance(error, exceptions.MovedError) for error in errors):
            self.nodes.note_moved()
        if any(isinstance(error, exceptions.NoScriptError) for error in errors):
            self.look(now=True)
            self.load()

    def load_if_possible(self) -> None:
        """The same at the start, so that another release's scripts are never half of ours; where memory is full they are loaded when they are missed."""
        with suppress(LedgerUnavailable):
            self.load()

    def load(self) -> None:
        """Make the scripts known to every server: all in one step, so that whoever asks meanwhile never carries out a step but not the one before it.

        A server whose memory is full takes no step of several commands: there those come first that end work under way.
        """
        loading = [("SCRIPT LOAD", script.text) for script in sorted(self._scripts.values(), key=lambda script: ALLOW_OOM not in script.text)]
        try:
            self.on_each([("MULTI",), *loading, ("EXEC",)])
        except LedgerUnavailable:
            self.on_each(loading)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (*_AWAY, exceptions.ResponseError) as error:
            self.nodes.note_moved()
            translated = self._translated(error)
            if translated is error:
                raise
            raise translated from error

    @staticmethod
    def _translated(error: Exception) -> Exception:
        if isinstance(error, _AWAY):
            return LedgerUnavailable(
                f"the ledger cannot be reached or written: {next((words for kind, words in _IN_WORDS if isinstance(error, kind)), 'no connection')}"
            )
        if words := next((words for kind, words in _MOVING if isinstance(error, kind)), ""):
            return LedgerUnavailable(f"the ledger cannot be reached or written: {words}")
        if _TORN in str(error).lower():
            return LedgerUnavailable("the ledger cannot be reached or written: a slot is moving to another node")
        if isinstance(error, exceptions.ResponseError) and str(error).startswith(_REFUSING):
            return LedgerUnavailable(f"the ledger cannot be written: {str(error).split()[0]}")
        return error


def _refuse_demoted(client: Any, answers: Sequence[Any]) -> None:
    """Raise where the server is no primary any more; its connections go, since redis-py does not see what is said within a block."""
    for answer in answers:
        if isinstance(answer, exceptions.ReadOnlyError):
            client.connection_pool.disconnect()
            raise answer


def _refuse_unconfirmed(wait: Command, answer: Any) -> None:
    """Raise LedgerUnavailable where an answer to WAIT or WAITAOF says that a write is not (yet) where it has to be."""
    if isinstance(answer, Exception):
        raise answer
    if wait[0] == "WAIT":
        if int(answer) < wait[1]:
            raise LedgerUnavailable(f"{answer} of {wait[1]} replicas that may take over confirmed in time that they have the write")
    elif not answer or int(answer[0]) < 1:
        raise LedgerUnavailable("the ledger did not confirm in time that the write is on disk")
    elif int(answer[1]) < wait[2]:
        raise LedgerUnavailable(f"{answer[1]} of {wait[2]} replicas that may take over confirmed in time that the write is on their disk")


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
