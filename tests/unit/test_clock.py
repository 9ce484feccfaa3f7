"""The ledger's clock: the server's, shared by all processes, never going back, and met again by the server's within twice the step."""

from __future__ import annotations

import pytest
import redis

from pipeline.ledger.clock import NOTED, Clock
from pipeline.ledger.store import Store


class Server:
    """A ledger's server whose clock a test sets; what is noted there is real."""

    def __init__(self, client: redis.Redis) -> None:
        self.store, self.at_ms = Store(client), 1_000_000
        self.asked = 0
        self._run = self.store.run
        self.store.run = self.run  # type: ignore[method-assign]

    def run(self, commands: list[tuple[object, ...]]) -> list[object]:
        answers = self._run(commands)
        self.asked += any(command == ("TIME",) for command in commands)
        return [[self.at_ms // 1000, self.at_ms % 1000 * 1000] if command == ("TIME",) else answer for command, answer in zip(commands, answers, strict=True)]


class Process:
    """A process with a clock of its own that only the test moves."""

    def __init__(self, server: Server) -> None:
        self.server, self.at = server, 50.0
        self.clock = Clock(server.store, lambda: self.at)

    def pass_ms(self, milliseconds: int) -> int:
        """Time passes everywhere; returns what the ledger's clock says then."""
        self.at += milliseconds / 1000
        self.server.at_ms += milliseconds
        return self.clock.now_ms()


@pytest.fixture
def server(client: redis.Redis) -> Server:
    return Server(client)


def noted(server: Server, milliseconds: int) -> None:
    server.store.client.hset(NOTED, "high", milliseconds)


def test_follows_the_server_and_asks_once_a_second(server: Server):
    """It is the server's clock, a process's own only carries it on."""
    process = Process(server)
    assert [process.clock.now_ms(), *(process.pass_ms(400) for _ in range(5))] == [1_000_000, 1_000_400, 1_000_800, 1_001_200, 1_001_600, 1_002_000]
    assert server.asked == 2


def test_never_goes_back_and_meets_the_server_again(server: Server):
    """Put back by ten seconds, the server is met after twenty; meanwhile the clock goes on at half its pace, and every second is later than the one before."""
    process = Process(server)
    process.clock.now_ms()
    server.at_ms -= 10_000
    said = [process.pass_ms(1001) for _ in range(25)]
    assert said == sorted(set(said))
    assert said[9] == pytest.approx(1_005_500, abs=10)
    assert said[-1] == pytest.approx(server.at_ms, abs=5)


def test_a_process_that_starts_after_a_step_knows_of_it(server: Server):
    """What beat has noted is the least that any process says."""
    noted(server, 1_500_000)
    process = Process(server)
    assert process.clock.now_ms() == 1_500_000
    assert process.pass_ms(1001) == 1_500_501


def test_small_differences_do_not_add_up(server: Server):
    """A process whose clock is a little fast is not carried away, and takes none of the others with it."""
    process = Process(server)
    process.clock.now_ms()
    for _ in range(500):
        process.at += 0.002
        process.pass_ms(1000)
    assert process.clock.now_ms() - server.at_ms <= 10


def test_one_who_must_not_wait_is_told_without_asking(server: Server):
    """The server is asked for it the first time only."""
    process = Process(server)
    process.clock.carried_ms()
    process.at += 3600
    assert process.clock.carried_ms() == 1_000_000 + 3_600_000
    assert server.asked == 1


def test_a_tick_notes_the_time_and_tells_of_a_step_until_it_is_accepted(client: redis.Redis):
    """Beat learns by how much the server's clock was put back; a crash before anything was done about it does not hide it."""
    clock = Clock(Store(client))
    assert [clock.tick(), clock.tick(60_000)] == [(0, 0), (0, 0)]
    assert abs(int(client.hget(NOTED, "high")) - clock.server_ms()) < 500
    client.hset(NOTED, "server", clock.server_ms() + 60_000)
    assert [round(clock.tick()[0] / 1000), round(clock.tick(60_000)[0] / 1000)] == [60, 60]
    clock.accept_step(60_000)
    assert [clock.tick(), clock.tick(60_000)] == [(0, 0), (0, 60_000)]
    client.hincrby(NOTED, "stepped", -60_000)
    assert clock.tick(60_000) == (0, 0)


def test_notes_never_go_back(client: redis.Redis):
    """A beat whose process knows less than another lowers nothing."""
    clock = Clock(Store(client))
    clock.tick()
    client.hset(NOTED, "high", 2**45)
    clock.tick()
    assert int(client.hget(NOTED, "high")) == 2**45
