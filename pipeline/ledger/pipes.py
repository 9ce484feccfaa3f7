"""How commands travel to one server: in one round trip, and scripts that write in blocks that the server carries out as one.

A server that syncs always does so each time it has read what lies in its socket, 16 KiB at the most: without blocks (MULTI, EXEC) a pipeline of 300 KiB costs some
twenty syncs in a row instead of a few. A server that dies within a block has done nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from hiredis import pack_command
from redis import exceptions

from pipeline.ledger.nodes import Command

BLOCK_ARGUMENTS = 4000
"""Arguments in one block at the most: some ten milliseconds of the server's time, in which it serves nobody else."""


def piped(client: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands to one server; an error that it answers takes the place of the answer.

    redis-py's own pipeline does the same at twice the cost, most of it for features that no command of ours uses.
    """
    connection = client.connection_pool.get_connection()
    try:
        connection.send_packed_command([b"".join(map(_packed, commands))])
        return [_answer(connection, client.response_callbacks, command[0]) for command in commands]
    except BaseException:
        connection.disconnect()  # answers that were not read would be taken for those of the next commands
        raise
    finally:
        client.connection_pool.release(connection)


def _packed(command: Command) -> bytes:
    name = command[0]
    packed: bytes = pack_command((*name.split(), *command[1:]) if " " in name else command)
    return packed


def _answer(connection: Any, callbacks: dict[str, Callable[[Any], Any]], name: str) -> Any:
    """The next answer, in the form that redis-py gives to answers of this command."""
    try:
        reply = connection.read_response()
    except exceptions.ResponseError as error:
        return error
    callback = dict.get(callbacks, name)  # its own `get` folds case
    return callback(reply) if callback is not None else reply


def in_blocks(client: Any, commands: Sequence[Command], waits: Sequence[Command], writing: Collection[str], *, whole: bool) -> list[Any]:
    """The same for a server that holds all keys, and then the answers to `waits`, which ask whether what was written is safe.

    `writing` are the SHA-1s of scripts that write; `whole`: what follows must not overtake what precedes it. An error inside a block stops nothing that follows.
    """
    blocks = list(_blocks(commands, writing, most=len(commands) * BLOCK_ARGUMENTS if whole else BLOCK_ARGUMENTS))
    if all(len(block) == 1 for block in blocks):
        return piped(client, [*commands, *waits])
    wrapped: list[Command] = []
    for block in blocks:
        wrapped += block if len(block) == 1 else [("MULTI",), *block, ("EXEC",)]
    replies = iter(piped(client, [*wrapped, *waits]))
    answers: list[Any] = []
    is_late = False
    for block in blocks:
        if len(block) == 1:
            answers.append(next(replies))
            continue
        begun, *each, executed = [next(replies) for _ in range(len(block) + 2)]
        if isinstance(executed, exceptions.ExecAbortError):
            # One that the server refuses to queue (its memory is full) ends the block before anything was done; those before it may be carried out all the same.
            answers, is_late = answers + _until_refused(client, block), True
        else:
            answers += each if isinstance(begun, exceptions.ResponseError) else executed
    # What was written afterwards was not there when the waits were answered.
    return answers + (piped(client, waits) if is_late and waits else list(replies))


def _until_refused(client: Any, commands: Sequence[Command]) -> list[Any]:
    """One after the other; from the first error on, that error for all."""
    answers: list[Any] = []
    for command in commands:
        answers += piped(client, [command])
        if isinstance(answers[-1], exceptions.ResponseError):
            break
    return answers + answers[-1:] * (len(commands) - len(answers))


def _blocks(commands: Sequence[Command], writing: Collection[str], *, most: int) -> Iterator[Sequence[Command]]:
    """Runs of scripts of which one writes, each up to `most` arguments; everything else by itself."""
    run: list[Command] = []
    size, writes = 0, False
    for command in commands:
        is_script = command[0] == "EVALSHA"
        if run and (not is_script or size + len(command) > most):
            yield from [run] if writes else [[each] for each in run]
            run, size, writes = [], 0, False
        if is_script:
            run.append(command)
            size, writes = size + len(command), writes or command[1] in writing
        else:
            yield [command]
    yield from [run] if writes else [[each] for each in run]
