"""The commands as people and containers run them: real processes, a real server, the sandboxes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
import requests
import yaml
from click.testing import CliRunner

from config.settings import CHECKOUT
from tests.support.parts import open_ledger
from tests.support.servers import valkey_server, wait_for_answer
from tests.support.stack import wait_until
from workers.cli import main
from workers.embedded import EmbeddedServer, free_port
from workers.state import new_pepper, new_vault_key

pytestmark = pytest.mark.timeout(180)

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")} | {"PYTHONPATH": str(CHECKOUT)}
ANY_PORT = {"CONSENT_INGEST_PORT": "0", "CONSENT_FLOWER_PORT": "0", "CONSENT_SANDBOX_PORT": "0"}


def command(*words):
    return [sys.executable, "-P", "-m", "workers.cli", *words]


def consent(*words, timeout=60, **environment):
    """Run a command to its end, from a directory that is not the checkout."""
    return subprocess.run(command(*words), env=PLAIN | environment, cwd="/", check=False, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """One running `consent up --sandbox`."""
    state = tmp_path_factory.mktemp("up") / "state"
    environment = PLAIN | ANY_PORT | {"CONSENT_STATE_DIR": str(state), "CONSENT_BEAT_AUDIT_SECONDS": "1"}
    with subprocess.Popen(command("up", "--sandbox"), env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("ready http://127.0.0.1:"), process.stderr.read()
        yield state, line.split()[1], process
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def tasks(state, name):
    """What Flower knows of the tasks of a name."""
    port = json.loads((state / "environment.json").read_text())["CONSENT_FLOWER_PORT"]
    login = tuple((state / "flower_login").read_text().split(":"))
    return requests.get(f"http://127.0.0.1:{port}/api/tasks?taskname={name}", auth=login, timeout=10).json()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_samples_are_sent_and_every_destination_is_told(up):
    """`send` answers in counts, `status` shows each delivery, sending again makes duplicates only."""
    state, url, _ = up
    mine = {"CONSENT_STATE_DIR": str(state), "CONSENT_KEY": (state / "sample_native_key").read_text()}
    first = consent("send", str(CHECKOUT / "samples/native.json"), **mine)
    assert (first.returncode, first.stdout.splitlines()[-1]) == (0, "accepted 5, duplicates 0, superseded 1, refused 0")
    again = consent("send", str(CHECKOUT / "samples/native.json"), "--url", url, **mine)
    assert again.stdout.splitlines()[-1] == "accepted 0, duplicates 6, superseded 0, refused 0"
    event = json.loads((CHECKOUT / "samples/native.json").read_text())[0]
    event_id = requests.post(f"{url}/v1/consent-events", json=event, headers={"Authorization": f"Bearer {mine['CONSENT_KEY']}"}, timeout=10).json()["event_id"]
    until = time.monotonic() + 60
    told = {"crm-webhook", "dinamize-news", "mailchimp-main", "privacy-platform", "retargetly-audience", "contacthub-main", "contactsend-main"}
    expected = {**dict.fromkeys(told, "delivered"), "maileon-main": "awaiting_confirmation"}
    while (found := _statuses(event_id, mine)) != expected:
        assert time.monotonic() < until, found
    assert consent("status", "unknown", **mine).returncode == 1


def _statuses(event_id, mine):
    view = json.loads(consent("status", event_id, "--json", **mine).stdout)
    return {each["destination"]: each["status"] for each in view["deliveries"]}


def test_what_holds_for_a_person_is_asked_without_naming_them_on_the_command_line(up, tmp_path):
    """`subject` reads the person from a file, prints purposes and destinations and nothing personal; an unknown one is exit code 1."""
    state, _, _ = up
    mine = {"CONSENT_STATE_DIR": str(state), "CONSENT_KEY": (state / "sample_native_key").read_text()}
    file = tmp_path / "events.json"
    file.write_text(
        json.dumps({"subject": {"email": "subject-ana@example.org"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-05T13:00:00Z"})
    )
    assert consent("send", str(file), **mine).returncode == 0
    person = tmp_path / "person.json"
    person.write_text('{"email": "subject-ana@example.org"}')
    shown = consent("subject", str(person), "--json", **mine)
    assert shown.returncode == 0, shown.stderr
    (purpose,) = json.loads(shown.stdout)["purposes"]
    assert (purpose["purpose"], purpose["state"], purpose["source"]) == ("newsletter", "given", "web-forms")
    readable = consent("subject", str(person), **mine)
    assert "newsletter: given since 2026-01-05T13:00:00Z" in readable.stdout
    assert "subject-ana" not in readable.stdout + shown.stdout + readable.stderr + shown.stderr
    person.write_text('{"email": "nobody@example.org"}')
    assert consent("subject", str(person), **mine).returncode == 1
    person.write_text('{"email": "not an address"}')
    refused = consent("subject", str(person), **mine)
    assert (refused.returncode, "email" in refused.stderr, "not an address" in refused.stderr) == (2, True, False)


def test_a_refused_event_is_named_and_fails_the_command(up, tmp_path):
    """Its place in the file and the path of what is wrong; the value is not repeated."""
    state, _, _ = up
    (tmp_path / "bad.json").write_text(
        '[{"subject": {"email": "no-address"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-01T00:00:00Z"}]'
    )
    done = consent("send", str(tmp_path / "bad.json"), CONSENT_STATE_DIR=str(state), CONSENT_KEY=(state / "sample_native_key").read_text())
    assert done.returncode == 1
    assert "event 1: subject.email" in done.stderr
    assert "no-address" not in done.stderr


def test_what_is_kept_is_the_owners_alone(up):
    """Also what the server, the archive and the sandboxes write, and every log; a directory that lets others in would show nothing."""
    state, _, _ = up
    kept = {str(file.relative_to(state)): file.stat().st_mode & 0o077 for file in state.rglob("*")}
    assert {"evidence.sqlite", "sandbox-ready", "logs/up.log", "logs/worker-1.log", "server/appendonlydir"} <= set(kept)
    assert {name for name, others in kept.items() if others} == set()


def test_operators_commands_look_at_what_runs(up):
    """Doctor, dead list, pause and resume, backfill find the running relay by its state directory."""
    state, _, _ = up
    mine = {"CONSENT_STATE_DIR": str(state)}
    unwell = consent("doctor", **mine)
    assert (unwell.returncode, "FAIL dead letters: withdrawals that nobody will tell unless you act: retargetly-audience 2" in unwell.stdout) == (1, True)
    dead = json.loads(consent("dead", "list", "--json", **mine).stdout)
    assert dead["groups"] == [{"destination": "retargetly-audience", "state": "withdrawn", "reason": "cannot_express_withdrawn", "count": 2}]
    assert consent("dead", "discard", *(each["delivery_id"] for each in dead["items"]), "--reason", "removed by hand", **mine).returncode == 0
    found = consent("doctor", **mine)
    assert (found.returncode, found.stdout.count("ok  ")) == (0, 14), found.stdout
    (state / "wrong.yaml").write_text("version: 2\n")
    wrong = consent("doctor", CONSENT_CONFIG=str(state / "wrong.yaml"), **mine)
    assert (wrong.returncode, "FAIL routing: " in wrong.stdout, wrong.stdout.count("ok  ")) == (1, True, 9), wrong.stdout
    assert consent("doctor", "--worker", CONSENT_CONFIG=str(state / "wrong.yaml"), **mine).returncode == 0
    assert json.loads(consent("dead", "list", "--json", **mine).stdout) == {"items": [], "groups": [], "next_cursor": None}
    assert consent("destination", "pause", "crm-webhook", **mine).returncode == 0
    assert "note paused: deliveries wait at paused or disabled destinations: crm-webhook 0" in consent("doctor", **mine).stdout
    assert consent("destination", "resume", "crm-webhook", **mine).returncode == 0
    assert consent("destination", "pause", "nobody", **mine).returncode == 2
    assert consent("dead", "list", **mine).stdout == "no dead letters\n"
    for words in (("list",), ("replay", "--dry-run")):
        refused = consent("dead", *words, "--destination", "nobody", **mine)
        assert (refused.returncode, "no destination 'nobody'; there is contacthub-main, " in refused.stderr) == (2, True)
    nothing = consent("dead", "replay", "nope.crm-webhook", **mine)
    assert (nothing.returncode, json.loads(nothing.stdout)["not_replayed"][0]["reason"]) == (1, "not_found")
    assert nothing.stderr == "consent: no dead delivery nope.crm-webhook\n"
    nothing = consent("dead", "discard", "nope.crm-webhook", "--reason", "test", **mine)
    assert (nothing.returncode, json.loads(nothing.stdout), nothing.stderr) == (1, {"discarded": []}, "consent: no dead delivery nope.crm-webhook\n")
    for option, value in (("--limit", "0"), ("--since", "yesterday"), ("--since", "2026-01-05T13:00:00"), ("--cursor", "abc")):
        refused = consent("dead", "list", option, value, **mine)
        assert (refused.returncode, refused.stdout, option in refused.stderr) == (2, "", True), refused.stderr
    assert consent("dead", "list", "--since", "2026-01-05T13:00:00-03:00", **mine).stdout == "no dead letters\n"
    assert consent("dead", "replay", "--state", "withdrawn", **mine).returncode == 0
    assert json.loads(consent("backfill", "crm-webhook", "--dry-run", **mine).stdout)["unreadable"] == 0


def test_doctor_asks_vendors_where_it_is_wanted(up):
    """Else it says that it did not; each destination has its line, and nobody is there because of it."""
    mine = {"CONSENT_STATE_DIR": str(up[0])}
    assert "note vendors: not asked (`consent doctor --vendors` asks them)" in consent("doctor", **mine).stdout
    lines = consent("doctor", "--vendors", **mine).stdout.splitlines()
    assert [line for line in lines if line.startswith("ok   vendor ")] == [
        "ok   vendor dinamize-news: search in the list works",
        "ok   vendor mailchimp-main: audience works",
        "ok   vendor privacy-platform: sign-in and look-up works",
        "ok   vendor contacthub-main: customers of the node works",
        "ok   vendor contactsend-main: search in the user database works",
        "ok   vendor maileon-main: right GET, right POST, right PUT, right DELETE works",
    ]
    assert "note vendor crm-webhook: not asked: its vendor has no request that changes nothing" in lines


def test_status_and_dead_need_no_secret_of_the_routing_file(up, tmp_path):
    """From another shell, where the vendors' secrets are not set; what needs them says in one line which one is missing."""
    text = (CHECKOUT / "config/consent.yaml").read_text().replace("DINAMIZE_TOKEN:-test-dinamize-token", "NOT_SET_HERE")
    (tmp_path / "routing.yaml").write_text(text)
    mine = {"CONSENT_STATE_DIR": str(up[0]), "CONSENT_CONFIG": str(tmp_path / "routing.yaml")}
    assert consent("status", "unknown", **mine).stderr == "Error: no event unknown\n"
    for words in (("list",), ("list", "--destination", "dinamize-news"), ("replay", "--destination", "crm-webhook")):
        done = consent("dead", *words, **mine)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    missing = consent("destination", "pause", "crm-webhook", **mine)
    assert (missing.returncode, "NOT_SET_HERE is not set" in missing.stderr, missing.stderr.count("\n")) == (2, True, 1)


def test_check_looks_at_the_file_it_is_given_whatever_runs(up, tmp_path):
    """A new routing file is checked before it is put in place: a running `up` does not answer for it with its own."""
    (tmp_path / "bad.yaml").write_text("version: 1\n")
    checked = consent("check", CONSENT_STATE_DIR=str(up[0]), CONSENT_CONFIG=str(tmp_path / "bad.yaml"))
    assert checked.returncode == 2
    assert "bad.yaml:1" in checked.stderr


def test_flower_asks_for_its_login_and_changes_nothing(up):
    """Wrong or no login 401; with it reading works and running a task is refused."""
    state, _, _ = up
    port = json.loads((state / "environment.json").read_text())["CONSENT_FLOWER_PORT"]
    flower, login = f"http://127.0.0.1:{port}", tuple((state / "flower_login").read_text().split(":"))
    assert [requests.get(f"{flower}{page}", timeout=10).status_code for page in ("/tasks", "/api/tasks", "/broker")] == [401] * 3
    assert requests.get(f"{flower}/tasks", auth=login, timeout=10).status_code == 200
    assert requests.post(f"{flower}/api/task/async-apply/fan_out", auth=login, json={}, timeout=10).status_code == 403


def test_a_second_up_on_the_same_state_directory_is_refused(up):
    """With the process that has it."""
    state, _, process = up
    done = consent("up", CONSENT_STATE_DIR=str(state), **ANY_PORT)
    assert done.returncode == 2
    assert f"in use by process {process.pid}" in done.stderr


def test_a_killed_worker_comes_back(up):
    """SIGKILL on one worker: the supervisor starts another within seconds."""
    state, _, process = up
    before = set(children(process.pid))
    victim = next(pid for pid in before if b"worker-1" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(victim, signal.SIGKILL)
    until = time.monotonic() + 15
    while not any(b"worker-1" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in set(children(process.pid)) - before):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert '"event": "child_died"' in (state / "logs/up.log").read_text()
    wait_until(lambda: (state / "logs/worker-1.log").read_text().count(" ready.") == 2, 30)


def test_no_task_failed_and_nothing_personal_or_secret_is_in_any_log(up):
    """After all of the above, and a round of the audit."""
    state, _, _ = up
    audited = {name for name, task in tasks(state, "audit").items() if task["state"] in ("SUCCESS", "FAILURE")}
    wait_until(lambda: any(name not in audited and task["state"] in ("SUCCESS", "FAILURE") for name, task in tasks(state, "audit").items()), 30)
    written = "".join(log.read_text(errors="replace") for log in (state / "logs").glob("*.log"))
    assert "task_failed" not in written
    assert "superuser privileges" not in written
    assert "Inspect method" not in written
    secrets = [(state / name).read_text() for name in ("subject_pepper", "vault_keys", "sample_native_key", "flower_login", "server/password")]
    assert [word for word in ("example.org", "Souza", "+5551900000005", *secrets) if word in written] == []


def test_zz_stop_ends_every_process(up):
    """SIGTERM: exit code 0, no child left. Runs last."""
    state, _, process = up
    running = children(process.pid)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [pid for pid in running if Path(f"/proc/{pid}").exists()] == []
    for log in ("worker-1", "ingest", "beat"):
        lines = (state / f"logs/{log}.log").read_text().splitlines()
        assert [line for line in lines if not line.startswith("{")] == []
    assert '"event": "worker_stopped"' in (state / "logs/worker-1.log").read_text()


@pytest.mark.parametrize("name", ["serve", "worker"])
@pytest.mark.parametrize("missing", ["CONSENT_REDIS_URL", "CONSENT_SUBJECT_PEPPER", "CONSENT_VAULT_KEYS"])
def test_single_commands_have_no_default_secrets(name, missing):
    """Exit code 2, the variable, and how to make one."""
    given = {"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_SUBJECT_PEPPER": new_pepper(), "CONSENT_VAULT_KEYS": new_vault_key()}
    done = consent(name, **{key: value for key, value in given.items() if key != missing})
    assert done.returncode == 2
    assert f"{missing} is not set" in done.stderr


def test_up_refuses_the_ledger_of_another_pepper_before_it_starts_anything(tmp_path):
    """2, with the reason in its own words, and no process of it has written a line."""
    state = tmp_path / "state"
    with valkey_server() as url, redis.Redis.from_url(url) as client:
        open_ledger(client)
        done = consent("up", **{**ANY_PORT, "CONSENT_SANDBOX_PORT": "8090"}, CONSENT_STATE_DIR=str(state), CONSENT_REDIS_URL=url)
    assert done.returncode == 2
    assert done.stderr.startswith("consent: the ledger was made with another CONSENT_SUBJECT_PEPPER")
    assert [log.name for log in (state / "logs").iterdir()] == ["up.log"]


@pytest.mark.parametrize("words", ["status x", "dead list", "doctor", "destination pause crm-webhook", "backfill crm-webhook", "vault status"])
def test_without_a_running_relay_commands_say_so(words, tmp_path):
    """Not which variable is missing, but that nothing runs there and what to do."""
    done = consent(*words.split(), CONSENT_STATE_DIR=str(tmp_path / "state"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"consent: no `consent up` is running on {tmp_path / 'state'}: start one")


@pytest.mark.parametrize(
    "words,variable,value",
    [
        ("serve", "CONSENT_REDIS_URL", "foo"),
        ("worker", "CONSENT_BROKER_URL", "nonsense://x"),
        ("beat", "CONSENT_BROKER_URL", "nonsense://x"),
        ("flower", "CONSENT_BROKER_URL", "nonsense://x"),
        ("flower", "CONSENT_FLOWER_LOGIN", "nocolon"),
        ("up", "CONSENT_STATE_DIR", "/dev/null"),
        ("up", "CONSENT_REDIS_URL", "redis+cluster://h/1"),
    ],
)
def test_a_mistake_in_a_variable_is_one_line_that_names_it(words, variable, value, tmp_path):
    """Exit code 2 and no traceback."""
    given = {"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_SUBJECT_PEPPER": new_pepper(), "CONSENT_VAULT_KEYS": new_vault_key()}
    given |= {**ANY_PORT, "CONSENT_FLOWER_PORT": str(free_port()), "CONSENT_STATE_DIR": str(tmp_path / "state"), "CONSENT_FLOWER_LOGIN": "a:b"}
    done = consent(words, **given | {variable: value})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"consent: {variable}: ")


def test_a_port_in_use_names_its_setting(tmp_path):
    """Before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = consent("up", **{**ANY_PORT, "CONSENT_STATE_DIR": str(tmp_path / "state"), "CONSENT_FLOWER_PORT": port})
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use: stop what listens there or set CONSENT_FLOWER_PORT" in done.stderr


def test_check_warns_of_a_key_that_expires(tmp_path):
    """20 days before it is a warning, and afterwards the exit code is 2."""
    example = (CHECKOUT / "config/consent.yaml").read_text()
    for days, code in ((20, 0), (-1, 2)):
        day = datetime.now(UTC).date() + timedelta(days=days)
        (tmp_path / "key.yaml").write_text(example.replace("    vendor: mailchimp\n", f"    vendor: mailchimp\n    key_expires_on: {day}\n"))
        checked = consent("check", CONSENT_CONFIG=str(tmp_path / "key.yaml"))
        when = f"expires in 20 days ({day})" if code == 0 else f"has expired ({day})"
        assert (checked.returncode, f"warning: the key of mailchimp-main {when}\n" in checked.stdout) == (code, True)
    assert checked.stderr == f"consent: the key of mailchimp-main has expired ({day})\n"


def test_check_says_what_the_routing_file_does_and_what_is_wrong(tmp_path):
    """0 with the triggers in words; 2 with file and line."""
    good = consent("check")
    assert good.returncode == 0
    everybody = "dinamize-news, mailchimp-main, privacy-platform, retargetly-audience, contacthub-main, contactsend-main, maileon-main, crm-webhook"
    assert f"newsletter withdrawn -> {everybody}" in good.stdout
    (tmp_path / "bad.yaml").write_text("version: 1\nsources: {}\npurposes: {}\ndestinations: {}\ntriggers:\n  - {purposes: [nothing], deliver_to: [nobody]}\n")
    bad = consent("check", CONSENT_CONFIG=str(tmp_path / "bad.yaml"))
    assert bad.returncode == 2
    assert "bad.yaml:6" in bad.stderr


def test_secrets_that_are_printed_can_be_used():
    """`keys secret` prints lines of an environment file, `keys new` a key and its hash."""
    lines = dict(line.split("=", 1) for line in consent("keys", "secret").stdout.splitlines())
    assert set(lines) == {"CONSENT_SUBJECT_PEPPER", "CONSENT_VAULT_KEYS"}
    made = consent("keys", "new", "web-forms")
    assert made.stdout.startswith("crk_")
    assert "warning" not in made.stderr
    assert "has no source 'nope' (it has " in consent("keys", "new", "nope").stderr
    assert re.search(r'"sha256:[0-9a-f]{64}"', made.stderr)
    assert made.stdout.strip() not in made.stderr


def test_a_key_is_revoked_by_its_hash_or_a_clear_beginning_of_it(tmp_path):
    """The line is named; a word, a short or an ambiguous beginning, and a file that is not there are refused in one line."""
    routing, one, two = tmp_path / "routing.yaml", "ab" * 32, "ab" * 31 + "cd"
    routing.write_text(f'keys:\n  - "sha256:{one}"\n  - "sha256:{two}"\n  - "sha256:{"ef" * 32}"\n')

    def revoke(digits, path=routing):
        done = CliRunner().invoke(main, ["keys", "revoke", digits], env={"CONSENT_CONFIG": str(path)})
        assert isinstance(done.exception, SystemExit | None)
        return done.exit_code, done.output

    assert revoke(f"sha256:{two}") == (0, f"take it out of {routing}, line 3, then send SIGHUP to the running relay\n")
    assert revoke("EFEFEFEF")[1].startswith(f"take it out of {routing}, line 4,")
    assert [revoke(digits)[0] for digits in ("a", "keys", "efefefe", one + "0")] == [2] * 4
    assert revoke("abababab") == (1, f"Error: the hashes of 2 keys in {routing} begin with abababab, at lines 2, 3: give more of it\n")
    assert revoke("00000000") == (1, f"Error: no key 00000000 in {routing}, nor in a variable that it names and that is set here\n")
    assert revoke("00000000", tmp_path / "none.yaml") == (
        2,
        f"consent: {tmp_path / 'none.yaml'}: the routing file cannot be read (No such file or directory); CONSENT_CONFIG names another\n",
    )


def test_every_service_of_the_compose_file_runs_by_its_exact_command(tmp_path):
    """All five as processes on one server, with the variables of the compose file: health checks pass, SIGTERM ends each."""
    services = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["services"]
    server = EmbeddedServer(tmp_path / "server")
    ports = {f"CONSENT_{name}_PORT": str(free_port()) for name in ("INGEST", "FLOWER", "SANDBOX")}
    given = PLAIN | ports | {"CONSENT_SUBJECT_PEPPER": new_pepper(), "CONSENT_VAULT_KEYS": new_vault_key(), "CONSENT_FLOWER_LOGIN": "operator:for-this-test"}
    processes = {"valkey": subprocess.Popen(server.prepare(), stdout=subprocess.DEVNULL)}
    try:
        wait_for_answer(server)
        environment = given | {"CONSENT_REDIS_URL": server.url, "CONSENT_STATE_DIR": str(tmp_path / "state")}
        for name in ("ingest", "worker", "beat", "flower", "sandbox"):
            output = (tmp_path / f"{name}.log").open("wb")
            processes[name] = subprocess.Popen(command(*services[name]["command"][1:]), env=environment, cwd="/", stdout=output, stderr=output)
            output.close()
        wait_for(f"http://127.0.0.1:{ports['CONSENT_INGEST_PORT']}/health/ready")
        wait_for(f"http://127.0.0.1:{ports['CONSENT_FLOWER_PORT']}/healthcheck")
        for name in ("worker", "beat"):
            until = time.monotonic() + 40
            while (
                done := subprocess.run(
                    command(*services[name]["healthcheck"]["test"][2:]), env=environment, cwd="/", check=False, capture_output=True, text=True
                )
            ).returncode:
                assert time.monotonic() < until, done.stdout + done.stderr
        assert [name for name, process in processes.items() if process.poll() is not None] == []
        for name in ("ingest", "beat", "worker", "flower", "sandbox", "valkey"):
            processes[name].terminate()
            processes[name].wait(40)
        assert {name: process.returncode for name, process in processes.items() if name != "sandbox"} == dict.fromkeys(
            ("valkey", "ingest", "worker", "beat", "flower"), 0
        )
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_for(address, seconds=40):
    until = time.monotonic() + seconds
    while True:
        try:
            if requests.get(address, timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        assert time.monotonic() < until, address
        time.sleep(0.1)


def test_a_changed_routing_file_is_taken_by_sighup_and_a_wrong_one_is_not(tmp_path):
    """Ingest reads it again, workers start anew; with a mistake in it everything stays as it was."""
    routing = tmp_path / "routing.yaml"
    text = (CHECKOUT / "config/consent.yaml").read_text()
    routing.write_text(text)
    state = tmp_path / "state"
    mine = {"CONSENT_STATE_DIR": str(state), "CONSENT_CONFIG": str(routing)}
    with subprocess.Popen(
        command("up", "--sandbox"), env=PLAIN | ANY_PORT | mine, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            url = process.stdout.readline().split()[1]
            key = {"Authorization": "Bearer " + (state / "sample_native_key").read_text()}
            event = {"subject": {"email": "ana@example.org"}, "purpose": "surveys", "state": "given", "event_time": "2026-01-01T00:00:00Z"}
            assert requests.post(f"{url}/v1/consent-events", json=event, headers=key, timeout=10).status_code == 422
            routing.write_text(text.replace("purposes:\n  newsletter:", "purposes:\n  newsletterr:"))
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: (state / "logs/up.log").read_text().count('"event": "routing_refused"') == 1, 20)
            routing.write_bytes(text.replace("Newsletter", "Bolet\u00edn").encode("latin-1"))
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: (state / "logs/up.log").read_text().count('"event": "routing_refused"') == 2, 20)
            assert process.poll() is None
            routing.write_text(text.replace("purposes:\n  newsletter:", "purposes:\n  surveys: {title: Surveys}\n  newsletter:"))
            process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 20
            while requests.post(f"{url}/v1/consent-events", json=event, headers=key, timeout=10).status_code != 202:
                assert time.monotonic() < until
                time.sleep(0.1)
        finally:
            process.terminate()
            process.wait(60)
    assert '"routing_loaded"' in (state / "logs/ingest.log").read_text()
