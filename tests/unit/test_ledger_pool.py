"""Connections that are used again without a look: never with another command's answer, never in another process, and checked after a rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pipeline.ledger import pool
from pipeline.ledger.pipes import piped
from pipeline.ledger.pool import KeepingPool


@pytest.fixture
def relay(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_pool(KeepingPool.from_url(valkey_url, max_connections=3, socket_timeout=2)) as opened:
        opened.flushall()
        yield opened


def own_id(client: redis.Redis) -> int:
    return int(piped(client, [("CLIENT ID",)])[0])


def test_one_after_the_other_uses_the_same_connection(relay: redis.Redis) -> None:
    assert len({own_id(relay) for _ in range(5)}) == 1


def test_a_connection_that_rested_is_looked_at(relay: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server closed it meanwhile: whoever comes next does not notice."""
    first = own_id(relay)
    with redis.Redis.from_url(url_of(relay)) as other:
        other.client_kill_filter(_id=str(first))
    monkeypatch.setattr(pool, "FRESH_SECONDS", 0.0)

    assert own_id(relay) != first


def test_one_that_was_lost_a_moment_ago_fails_one_command(relay: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FRESH_SECONDS", 60.0)
    first = own_id(relay)
    with redis.Redis.from_url(url_of(relay)) as other:
        other.client_kill_filter(_id=str(first))

    with pytest.raises(redis.ConnectionError):
        own_id(relay)
    assert own_id(relay) != first


def test_who_is_interrupted_leaves_no_answer_behind(relay: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands were sent and their answers not read: the connection is not used again, or the next command would be given them."""
    relay.mset({"a": "1", "b": "2"})
    connection = relay.connection_pool.get_connection()
    relay.connection_pool.release(connection)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(connection, "read_response", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            piped(relay, [("GET", "a"), ("GET", "a")])

    assert piped(relay, [("GET", "b")]) == [b"2"]


def test_what_cannot_be_sent_harms_no_later_command(relay: redis.Redis) -> None:
    with pytest.raises(TypeError):
        piped(relay, [("SET", "a", object())])
    assert piped(relay, [("SET", "a", 1), ("GET", "a")]) == [True, b"1"]


def test_answers_have_the_form_that_redis_py_gives_them(relay: redis.Redis) -> None:
    relay.hset("h", mapping={"one": "1"})
    commands = [("HGETALL", "h"), ("TIME",), ("CONFIG GET", "appendonly"), ("INFO", "server"), ("SET", "a", 1, "NX"), ("SET", "a", 2, "NX"), ("EXISTS", "a")]

    by_us = piped(relay, commands)
    redis_py: Any = relay
    by_redis_py = [redis_py.execute_command(*command) for command in (*commands[:4], ("SET", "c", 1, "NX"), ("SET", "c", 2, "NX"), ("EXISTS", "c"))]

    assert [type(each) for each in by_us] == [type(each) for each in by_redis_py]
    assert (by_us[0], by_us[2], by_us[4:]) == (by_redis_py[0], by_redis_py[2], by_redis_py[4:])


def test_threads_share_as_many_as_are_allowed(relay: redis.Redis) -> None:
    """Those that are kept are not opened again: three threads at a time need three, however often they come."""
    wrong: list[object] = []
    room = threading.Semaphore(3)

    def work(number: int) -> None:
        for turn in range(50):
            with room:
                wrong.extend(answer for answer in piped(relay, [("SET", f"k{number}", turn), ("GET", f"k{number}")])[1:] if answer != str(turn).encode())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert wrong == []
    assert relay.info("clients")["connected_clients"] <= 4


def test_one_that_is_released_twice_is_given_to_one(relay: redis.Redis) -> None:
    connection = relay.connection_pool.get_connection()
    relay.connection_pool.release(connection)
    relay.connection_pool.release(connection)

    assert relay.connection_pool.get_connection() is connection
    assert relay.connection_pool.get_connection() is not connection


def test_a_closed_pool_leaves_no_connection(relay: redis.Redis) -> None:
    first = own_id(relay)
    relay.close()
    with redis.Redis.from_url(url_of(relay)) as other:
        assert first not in {int(each["id"]) for each in other.client_list()}


def test_a_forked_process_opens_its_own(relay: redis.Redis) -> None:
    first = own_id(relay)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(own_id(relay)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reading, 64))
    os.close(reading)
    os.close(writing)

    assert theirs != first
    assert own_id(relay) == first


def url_of(client: redis.Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"redis://{where['host']}:{where['port']}"
