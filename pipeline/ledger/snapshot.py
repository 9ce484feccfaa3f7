"""A copy of the whole ledger at one moment, and putting one back.

The server is asked for a snapshot as a replica asks for one: it forks, so every key is of the same moment, and a copy of it is what a crash at that moment
would have left. Reading key by key from a ledger that moves would not be: an event accepted between the reading of its record and of the index that would
bring it back is known, a repeated post of it a duplicate, and nobody would ever tell it. (docs/adr: backups are snapshots of one moment.)
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from redis import exceptions

from pipeline.errors import ConfigurationError, LedgerMismatch, LedgerUnavailable
from pipeline.ledger.keys import META, PREFIX
from pipeline.ledger.lookout import MARGIN_MS, Quarantine
from pipeline.ledger.store import pairs_of, text

Command = tuple[Any, ...]

AT_ONCE: Final = 500
SNAPSHOT_SECONDS: Final = 60.0
"""How long the server may be silent while it makes a snapshot; it sends a line feed every few seconds."""
READ_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Proof of the moment of a snapshot: whatever was written before `at_ms` (the server's clock) is in one that holds the token."""

    token: str
    at_ms: int


def begin_cut(client: Any) -> Cut:
    """Leave a token in the ledger: a snapshot that the server had begun earlier, for somebody else, does not hold it."""
    seconds, microseconds = client.time()
    cut = Cut(token=secrets.token_hex(8), at_ms=int(seconds) * 1000 + int(microseconds) // 1000)
    client.hset(META, "cut", f"{cut.token}|{cut.at_ms}")
    return cut


def holds(client: Any, cut: Cut) -> bool:
    """Whether a copy is of the moment of a cut, or later."""
    return text(client.hget(META, "cut") or b"") == f"{cut.token}|{cut.at_ms}"


def receive(client: Any, file: BinaryIO, on_bytes: Callable[[int, int], object]) -> None:
    """Write a snapshot of the whole server to a file; `on_bytes` is told how many came and how many there are. Raises LedgerUnavailable, ConfigurationError."""
    connection = client.connection_pool.get_connection()
    try:
        connection.connect()
        for command in (("REPLCONF", "rdb-only", "1"), ("SYNC",)):
            connection.send_command(*command)
            if command[0] != "SYNC":
                _ignored(connection)
        wire = connection._sock  # noqa: SLF001 - a snapshot is no answer that its parser knows
        wire.settimeout(SNAPSHOT_SECONDS)
        _copy(wire, file, on_bytes)
    except (exceptions.RedisError, OSError) as error:
        raise LedgerUnavailable("the ledger's server broke off while it sent its snapshot; try again") from error
    finally:
        connection.disconnect()
        client.connection_pool.release(connection)


def _ignored(connection: Any) -> None:
    with contextlib.suppress(exceptions.ResponseError):  # an older server does not know the option, and sends what it would send a replica
        connection.read_response()


def _copy(wire: Any, file: BinaryIO, on_bytes: Callable[[int, int], object]) -> None:
    size, rest = _size(wire)
    received = len(rest)
    file.write(rest[:size])
    while received < size:
        part = wire.recv(min(READ_BYTES, size - received))
        if not part:
            raise ConnectionError("closed")
        file.write(part)
        received += len(part)
        on_bytes(min(received, size), size)


def _size(wire: Any) -> tuple[int, bytes]:
    """The announced number of bytes, and what came with the announcement."""
    head = b""
    while True:
        part = wire.recv(1)
        if not part:
            raise ConnectionError("closed")
        head += part
        if head == b"\n":
            head = b""
        elif head.endswith(b"\n"):
            line = head.strip().decode(errors="replace")
            if line.startswith("$") and line[1:].isdigit():
                return int(line[1:]), b""
            if line.startswith("+"):
                head = b""
                continue
            raise ConfigurationError(
                f"the ledger's server gives no snapshot ({line.lstrip('-').split(' ')[0]}): its user needs the right to SYNC; "
                "where a managed service forbids it, take the service's own snapshot and give the file with --rdb"
            )


def count_keys(client: Any) -> int:
    """Keys of the ledger on a server that nobody writes to."""
    return sum(1 for _ in client.scan_iter(match=f"{PREFIX}:*", count=AT_ONCE))


def identity_of(client: Any) -> dict[str, str]:
    """The ledger's own record."""
    return {text(name): text(value) for name, value in client.hgetall(META).items()}


def commands_of(client: Any, on_keys: Callable[[int], object] = lambda _: None) -> Iterator[list[Command]]:
    """What makes the ledger again on any server, a group for some keys; the ledger's own record first. Only for a server that nobody writes to."""
    yield [("HSET", META, *(value for pair in client.hgetall(META).items() for value in pair))]
    names: list[bytes] = []
    for name in client.scan_iter(match=f"{PREFIX}:*", count=AT_ONCE):
        if text(name) != META:
            names.append(name)
        if len(names) >= AT_ONCE:
            yield _commands(client, names)
            on_keys(len(names))
            names = []
    yield _commands(client, names)
    on_keys(len(names))


_READERS: Final[Mapping[str, tuple[str, str, tuple[Any, ...]]]] = {
    "string": ("SET", "GET", ()),
    "hash": ("HSET", "HGETALL", ()),
    "set": ("SADD", "SMEMBERS", ()),
    "zset": ("ZADD", "ZRANGE", (0, -1, "WITHSCORES")),
    "stream": ("XADD", "XRANGE", ("-", "+")),
}
"""Kinds of keys that the ledger has: what writes one, and what reads it."""


def _commands(client: Any, names: Sequence[bytes]) -> list[Command]:
    if not names:
        return []
    kinds = [text(kind) for kind in _ask(client, [("TYPE", name) for name in names])]
    present = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind != "none"]  # its time has come
    if unknown := {kind for _, kind in present} - _READERS.keys():
        raise LedgerMismatch(f"the ledger holds keys of kinds that no release of it makes: {', '.join(sorted(unknown))}")
    values = _ask(client, [(_READERS[kind][1], name, *_READERS[kind][2]) for name, kind in present])
    ends = _ask(client, [("PEXPIRETIME", name) for name, _ in present])
    found: list[Command] = []
    for (name, kind), value, end_ms in zip(present, values, ends, strict=True):
        found += [(_READERS[kind][0], name, *part) for part in _parts(kind, value)]
        if int(end_ms) >= 0:
            found.append(("PEXPIREAT", name, int(end_ms)))
    return found


def _parts(kind: str, value: Any) -> Iterator[list[Any]]:
    """The arguments that write a value, no more than some hundreds at a time."""
    if kind == "string":
        yield [value]
        return
    if kind == "stream":
        yield from ([entry, *(part for pair in pairs_of(values) for part in pair)] for entry, values in value)
        return
    if kind == "set":
        items: list[list[Any]] = [[member] for member in value]
    elif kind == "hash":
        items = [list(pair) for pair in pairs_of(value)]
    else:  # pairs, or one flat list, as the version of the protocol has it
        scored = value if value and isinstance(value[0], list | tuple) else pairs_of(value)
        items = [[_score(score), member] for member, score in scored]
    for first in range(0, len(items), AT_ONCE):
        yield [part for item in items[first : first + AT_ONCE] for part in item]


def _score(score: Any) -> str:
    """A score as the shortest text that is the same number again."""
    return repr(float(score))


def _ask(client: Any, commands: Sequence[Command]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return list(pipeline.execute())


def restore(client: Any, groups: Iterable[Sequence[Command]], *, at_ms: int, sha256: str, on_keys: Callable[[int], object] = lambda _: None) -> Quarantine:
    """Put a ledger back, quarantined before its first key is there; it may be worked with when all are. May be repeated if it was broken off.

    `at_ms` is the moment it was copied. Raises LedgerMismatch where there is a ledger already.
    """
    remaining = iter(groups)
    (record,) = next(remaining)
    if tuple(record[:2]) not in {("HSET", META), (b"HSET", META.encode())}:
        raise LedgerMismatch("the backup does not begin with the ledger's own record: it is no backup of a ledger")
    fields = {text(name): value for name, value in zip(record[2::2], record[3::2], strict=True)}
    refuse_occupied(client, sha256)
    found = Quarantine(reason="restored", since_ms=_now_ms(client), from_ms=max(0, at_ms - MARGIN_MS))
    era = int(fields.get("era", 0)) + 1
    fields.pop("lifted", None)
    client.hset(META, mapping={"restoring": sha256, **fields, "quarantine": found.encode(), "era": era})
    written = b""
    for group in remaining:
        pipeline = client.pipeline(transaction=False)
        for command in group:
            if (key := bytes(command[1])) != written:  # the commands of a key follow each other; what an earlier try has left of it goes
                pipeline.execute_command("DEL", key)
                written = key
            pipeline.execute_command(*command)
        pipeline.execute()
        on_keys(len({bytes(command[1]) for command in group}))
    # From now on it takes events: what was said until now may be missing.
    found = Quarantine(reason="restored", since_ms=_now_ms(client), from_ms=found.from_ms)
    client.hset(META, "quarantine", found.encode())
    client.hdel(META, "restoring")
    return found


def refuse_occupied(client: Any, sha256: str) -> None:
    """Raise LedgerMismatch where there is a ledger already, unless it is this backup, whose restore was broken off."""
    here = client.hget(META, "restoring")
    if here is not None and text(here) == sha256:
        return
    if here is not None:
        raise LedgerMismatch("the restore of another backup was broken off here: finish that one, or empty the database")
    if next(client.scan_iter(match=f"{PREFIX}:*", count=AT_ONCE), None) is not None:
        raise LedgerMismatch("there is a ledger already: restore into an empty database; nothing was changed")


def _now_ms(client: Any) -> int:
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000
