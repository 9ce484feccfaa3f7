"""How commands travel to a server: in blocks that are carried out as one, without losing an answer, an error or the order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import redis

from pipeline.ledger.pipes import in_blocks
from tests.support.servers import valkey_server

WRITE = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
READ = "return redis.call('GET', KEYS[1])"
FAIL = "return redis.error_reply('NOTTODAY no')"
ALSO_WHEN_FULL = "#!lua flags=allow-oom\nreturn redis.call('INCRBY', KEYS[1], ARGV[1])"


def sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def script(text: str, key: str, *arguments: object) -> tuple[object, ...]:
    return ("EVALSHA", sha(text), 1, key, *arguments)


WRITING = {sha(WRITE), sha(FAIL), sha(ALSO_WHEN_FULL)}


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with valkey_server() as url, redis.Redis.from_url(url) as opened:
        for text in (WRITE, READ, FAIL, ALSO_WHEN_FULL):
            opened.script_load(text)
        yield opened


def blocks_of(client: redis.Redis) -> int:
    return int(client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"])


def test_answers_keep_their_places(client: redis.Redis) -> None:
    commands = [("SET", "a", 5), script(WRITE, "a", 1), script(READ, "a"), ("GET", "a"), script(READ, "a"), script(WRITE, "b", 7), script(WRITE, "a", 1)]

    assert in_blocks(client, commands, [], WRITING, whole=False) == [True, 6, b"6", b"6", b"6", 7, 7]
    assert blocks_of(client) == 2


def test_what_only_reads_needs_no_block(client: redis.Redis) -> None:
    assert in_blocks(client, [script(READ, "a"), script(READ, "b"), ("GET", "a")], [], WRITING, whole=False) == [None, None, None]
    assert blocks_of(client) == 0


def test_one_error_takes_the_place_of_its_answer(client: redis.Redis) -> None:
    one, error, two = in_blocks(client, [script(WRITE, "a", 1), script(FAIL, "a"), script(WRITE, "a", 1)], [], WRITING, whole=False)

    assert (one, two) == (1, 2)
    assert isinstance(error, redis.ResponseError)
    assert "NOTTODAY" in str(error)


def test_an_unknown_script_is_told_by_its_place(client: redis.Redis) -> None:
    client.script_flush()
    client.script_load(WRITE)

    one, error = in_blocks(client, [script(WRITE, "a", 1), script(ALSO_WHEN_FULL, "a", 1)], [], WRITING, whole=False)

    assert one == 1
    assert isinstance(error, redis.exceptions.NoScriptError)


def test_while_memory_is_full_only_what_ends_work_is_carried_out(client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)

    ended, refused = in_blocks(client, [script(ALSO_WHEN_FULL, "a", 1), script(WRITE, "b", 1)], [], WRITING, whole=True)

    assert ended == 1
    assert isinstance(refused, redis.exceptions.OutOfMemoryError)
    client.config_set("maxmemory", 0)
    assert client.mget("a", "b") == [b"1", None]


def test_what_was_written_after_all_is_waited_for_anew(client: redis.Redis) -> None:
    """The answers of waits are those to what was written, also where a block was refused and its commands were sent alone."""
    client.acl_setuser("default", enabled=True, nopass=True, keys=["a"], commands=["+@all"], reset=False, reset_keys=True)
    *_, waited = in_blocks(client, [script(WRITE, "a", 1), script(WRITE, "b", 1)], [("WAIT", 0, 10)], WRITING, whole=True)

    assert waited == 0
    assert client.info("commandstats")["cmdstat_wait"]["calls"] == 2


def test_where_blocks_are_forbidden_commands_go_alone(client: redis.Redis) -> None:
    client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-multi"], reset=False, reset_keys=True)

    assert in_blocks(client, [script(WRITE, "a", 1), script(WRITE, "a", 1)], [], WRITING, whole=True) == [1, 2]


def test_where_one_is_not_even_queued_nothing_follows_it(client: redis.Redis) -> None:
    client.acl_setuser("default", enabled=True, nopass=True, keys=["a"], commands=["+@all"], reset=False, reset_keys=True)

    done, *refused = in_blocks(client, [script(WRITE, "a", 1), script(WRITE, "b", 1), script(WRITE, "a", 1)], [], WRITING, whole=True)

    assert done == 1
    assert [type(each) for each in refused] == [redis.exceptions.NoPermissionError] * 2
    assert client.get("a") == b"1"


@pytest.mark.parametrize("whole, blocks", [(False, 2), (True, 1)])
def test_a_long_run_is_cut_unless_it_is_in_order(client: redis.Redis, *, whole: bool, blocks: int) -> None:
    padding = ["x"] * 900
    commands = [script(WRITE, key, 1, *padding) for key in "aaaabbb"]

    answers = in_blocks(client, commands, [], WRITING, whole=whole)

    assert answers == [1, 2, 3, 4, 1, 2, 3]
    assert blocks_of(client) == blocks
