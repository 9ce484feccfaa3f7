"""The embedded server: durable, private, and what a killed parent left behind is stopped."""

import subprocess
import time
from pathlib import Path

import pytest
import redis

from tests.support.servers import wait_for_answer
from workers.embedded import EmbeddedServer, free_port, is_free, server_environment


@pytest.fixture
def started():
    """Starts servers and ends the processes that are left."""
    processes = []

    def start(folder: Path) -> tuple[EmbeddedServer, subprocess.Popen]:
        server = EmbeddedServer(folder)
        command = server.prepare()
        process = subprocess.Popen(command, env=server_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        processes.append(process)
        wait_for_answer(server)
        return server, process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_it_starts_soon_and_is_durable(started, tmp_path):
    """Appends every write to disk, evicts nothing, and asks for a password; a folder with spaces and quotes is fine."""
    begin = time.monotonic()
    server, _ = started(tmp_path / 'a "quoted" folder')
    assert time.monotonic() - begin < 5
    with redis.from_url(server.url, decode_responses=True) as client:
        found = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")
    assert found == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
    with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_it_allocates_by_jemalloc_where_there_is_one(started, tmp_path):
    """The name that was found is one that the loader takes."""
    if not server_environment():
        pytest.skip("this machine has no jemalloc (Debian: libjemalloc2)")
    _, process = started(tmp_path)
    assert "jemalloc" in Path(f"/proc/{process.pid}/maps").read_text()


def test_its_secrets_are_for_the_owner_only(started, tmp_path):
    """Password and configuration have mode 0600, and the command line names neither."""
    server, process = started(tmp_path)
    password = (tmp_path / "password").read_text()
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("password", "valkey.conf", "port")} == {0o600}
    assert password not in " ".join(process.args)
    assert password in server.url


def test_data_survive_a_kill(started, tmp_path):
    """What was confirmed is there after SIGKILL, on the same port if the same object starts it again."""
    server, process = started(tmp_path)
    with redis.from_url(server.url) as client:
        client.set("kept", "1")
    process.kill()
    process.wait()
    again, _ = started(tmp_path)
    with redis.from_url(again.url) as client:
        assert client.get("kept") == b"1"


def test_a_server_left_behind_is_stopped_first(started, tmp_path):
    """A new parent finds the old server by port and password, stops it, and takes over its data."""
    server, process = started(tmp_path)
    with redis.from_url(server.url) as client:
        client.set("kept", "1")
    again, _ = started(tmp_path)
    assert process.wait(5) == 0
    with redis.from_url(again.url) as client:
        assert client.get("kept") == b"1"


def test_a_stranger_on_the_remembered_port_is_left_alone(started, tmp_path):
    """Another server there, even one with our password, is not ours unless it works on our folder."""
    theirs, process = started(tmp_path / "theirs")
    ours = EmbeddedServer(tmp_path / "ours")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "port").write_text(str(theirs.port))
    (tmp_path / "ours" / "password").write_text((tmp_path / "theirs" / "password").read_text())
    assert not ours.stop_left_behind()
    assert process.poll() is None


def test_shut_down_frees_the_port(started, tmp_path):
    """The process ends by itself and the port can be used again."""
    server, process = started(tmp_path)
    server.shut_down()
    assert process.wait(5) == 0
    assert is_free(server.port)


def test_a_free_port_is_free():
    """What is named free can be bound."""
    assert is_free(free_port())
