"""`consent send --only DESTINATION --test` as people run it: against a running relay, and where there is no ledger at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import CHECKOUT
from tests.sandboxes import start_sandboxes
from tests.support.servers import valkey_server
from tests.support.stack import Stack
from workers.state import new_pepper, new_vault_key

pytestmark = pytest.mark.timeout(180)

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("CONSENT_", "DINAMIZE_"))} | {"PYTHONPATH": str(CHECKOUT)}


def event(email, state="given", purpose="newsletter", **more):
    return {"subject": {"email": email}, "purpose": purpose, "state": state, "event_time": "2026-01-05T13:00:00-03:00", **more}


def written(folder: Path, *events) -> str:
    (folder / "events.json").write_text(json.dumps(list(events)))
    return str(folder / "events.json")


def contacts(stack: Stack, vendor: str) -> list[str]:
    return sorted(stack.sandbox(vendor)["contacts"])


def test_one_person_at_one_vendor(stack: Stack, tmp_path: Path) -> None:
    """The first event that the routing sends there, shown without the person; the ledger and the other vendors know nothing."""
    accepted = stack.metric("consent_events_total")
    file = written(tmp_path, event("sms@example.org", purpose="marketing-sms"), event("ana@example.org"), event("bruno@example.org"))
    done = stack.consent("send", file, "--only", "dinamize-news", "--test")
    assert done.returncode == 0, done.stderr
    assert contacts(stack, "dinamize") == ["1/ana@example.org"]
    row = next(line for line in done.stdout.splitlines() if "upsert" in line)
    assert [word in row for word in ("2", "given", "newsletter", "applied: taken", stack.sandbox("dinamize")["contacts"]["1/ana@example.org"]["code"])] == [
        True
    ] * 5
    assert "No event of this is in the ledger, and no other destination heard of it." in done.stdout
    assert [word for word in ("ana@example.org", "test-dinamize-token", "\x1b[") if word in done.stdout + done.stderr] == []
    assert [stack.sandbox(vendor)["call_count"] for vendor in ("mailchimp", "webhook")] == [0, 0]
    assert stack.metric("consent_events_total") == accepted


def test_as_many_as_are_asked_for(stack: Stack, tmp_path: Path) -> None:
    """`--count 2` tells two, in order, and a file with fewer tells those."""
    file = written(tmp_path, event("carla@example.org"), event("dora@example.org"), event("eva@example.org"))
    assert stack.consent("send", file, "--only", "dinamize-news", "--test", "--count", "2").returncode == 0
    assert contacts(stack, "dinamize") == ["1/carla@example.org", "1/dora@example.org"]
    file = written(tmp_path, event("fay@example.org"))
    assert stack.consent("send", file, "--only", "mailchimp-main", "--test", "--count", "9").returncode == 0
    assert stack.sandbox("mailchimp")["call_count"] >= 1


def test_a_refusal_is_exit_code_1_with_what_the_vendor_said(stack: Stack, tmp_path: Path) -> None:
    """In our words and with the reason's code."""
    stack.fault("mailchimp", {"kind": "status", "status": 400, "times": None})
    done = stack.consent("send", written(tmp_path, event("gil@example.org")), "--only", "mailchimp-main", "--test")
    stack.fault("mailchimp")
    assert (done.returncode, "rejected: refused" in done.stdout, "http_400" in done.stdout) == (1, True, True), done.stdout


def test_who_stands_withdrawn_is_not_told(stack: Stack, tmp_path: Path) -> None:
    """The ledger is asked even where it may be done without; the vendor keeps what it was told, and no other event of the file takes its place."""
    stack.wait_complete([stack.accept("withdrawn", email="hana@example.org")])
    calls = stack.sandbox("dinamize")["call_count"]
    file = written(tmp_path, event("hana@example.org"), event("iris@example.org"))
    for words in ([], ["--without-ledger"]):
        done = stack.consent("send", file, "--only", "dinamize-news", "--test", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "consent: this person stands withdrawn for newsletter in the ledger: a test must not overtake that\n"
    assert stack.sandbox("dinamize")["call_count"] == calls
    assert stack.sandbox("dinamize")["contacts"]["1/hana@example.org"]["state"] == "withdrawn"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--only", "dinamize-news"], "--only and --test go together"),
        (["--test"], "--only and --test go together"),
        (["--count", "2"], "--count and --without-ledger belong to --only DESTINATION --test"),
        (["--without-ledger"], "--count and --without-ledger belong to --only DESTINATION --test"),
        (["--only", "dinamize-news", "--test", "--url", "http://127.0.0.1:9"], "--url is where a relay is"),
        (["--only", "nobody", "--test"], "no destination 'nobody'; there is crm-webhook, dinamize-news, mailchimp-main"),
        (["--only", "dinamize-news", "--test", "--source", "nobody"], "no source 'nobody'; there is web-forms, privacy-tools"),
        (["--only", "dinamize-news", "--test", "--count", "0"], "--count"),
    ],
)
def test_half_a_test_is_refused(stack: Stack, tmp_path: Path, words: list[str], expected: str) -> None:
    """Exit code 2 with what is missing; nothing was sent anywhere."""
    done = stack.consent("send", written(tmp_path, event("jo@example.org")), *words)
    assert (done.returncode, expected in done.stderr, done.stdout) == (2, True, ""), done.stderr
    assert [stack.sandbox(vendor)["call_count"] for vendor in ("dinamize", "mailchimp", "webhook")] == [0, 0, 0]


def test_a_file_that_has_nothing_for_it_says_so(stack: Stack, tmp_path: Path) -> None:
    """No event is routed there, or one before it cannot be read: named by its place and path, without its value."""
    file = written(tmp_path, event("kim@example.org", purpose="marketing-sms"))
    done = stack.consent("send", file, "--only", "dinamize-news", "--test")
    assert (done.returncode, done.stderr) == (1, "Error: of 1 event of web-forms the routing sends none to dinamize-news\n")
    done = stack.consent("send", written(tmp_path, event("no-address"), event("kim@example.org")), "--only", "dinamize-news", "--test")
    assert (done.returncode, f"{tmp_path}/events.json: event 1: subject.email: " in done.stderr, "no-address" in done.stderr) == (1, True, False)
    assert stack.sandbox("dinamize")["call_count"] == 0


def test_the_body_of_another_source_is_read_as_its_own(stack: Stack, tmp_path: Path) -> None:
    """--source privacy-tools: its own words, and its own purposes."""
    body = json.loads((CHECKOUT / "samples/privacy-tools-import.json").read_text())
    (tmp_path / "import.json").write_text(json.dumps(body))
    done = stack.consent("send", str(tmp_path / "import.json"), "--source", "privacy-tools", "--only", "crm-webhook", "--test")
    assert (done.returncode, "applied: taken" in done.stdout) == (0, True), done.stdout + done.stderr
    assert stack.sandbox("webhook")["call_count"] == 1


def test_a_consent_is_not_tried_where_a_source_would_hear_it(tmp_path: Path) -> None:
    """The example's Mailchimp has a source that speaks for it: refused without a call; a withdrawal is told, saying who may hear of it."""
    with start_sandboxes(["mailchimp"]) as sandbox:
        mine = {
            "CONSENT_SANDBOX_PORT": str(sandbox.port),
            "CONSENT_STATE_DIR": str(tmp_path / "state"),
            "CONSENT_SAMPLE_MAILCHIMP_KEY_SHA256": "sha256:" + "ab" * 32,
        }
        words = ("--only", "mailchimp-main", "--test", "--without-ledger")
        refused = alone(written(tmp_path, event("ana@example.org")), *words, **mine)
        assert (refused.returncode, refused.stdout, sandbox.state("mailchimp")["call_count"]) == (1, "", 0)
        assert "consent: mailchimp-webhooks would hear this from mailchimp-main as the person's own consent, and everybody would be told: " in refused.stderr
        told = alone(written(tmp_path, event("ana@example.org", "withdrawn")), *words, **mine)
        assert (told.returncode, sandbox.state("mailchimp")["contacts"] != {}) == (0, True), told.stderr
        assert "No event of this is in the ledger, and mailchimp-webhooks may hear of it and tell the others." in told.stdout


def alone(*words: str, **values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "workers.cli", "send", *words], env=PLAIN | values, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )


def test_without_a_ledger_it_must_be_said(tmp_path: Path) -> None:
    """None configured, or one that cannot be reached: refused with the reason, and told after --without-ledger, saying that nobody was asked."""
    file = written(tmp_path, event("ana@example.org"))
    away = {"CONSENT_REDIS_URL": "redis://127.0.0.1:1/0", "CONSENT_SUBJECT_PEPPER": new_pepper(), "CONSENT_VAULT_KEYS": new_vault_key()}
    with start_sandboxes(["dinamize"]) as sandbox:
        mine = {"CONSENT_SANDBOX_PORT": str(sandbox.port), "CONSENT_STATE_DIR": str(tmp_path / "state")}
        for number, (values, reason) in enumerate((({}, "CONSENT_REDIS_URL is not set"), (away, "the ledger cannot be reached")), start=1):
            refused = alone(file, "--only", "dinamize-news", "--test", **mine, **values)
            assert (refused.returncode, reason in refused.stderr, "--without-ledger tells the destination all the same" in refused.stderr) == (2, True, True)
            assert sandbox.state("dinamize")["call_count"] == number - 1
            told = alone(file, "--only", "dinamize-news", "--test", "--without-ledger", **mine, **values)
            assert (told.returncode, "applied: taken" in told.stdout, f"no ledger was asked: {reason}" in told.stderr) == (0, True, True), told.stderr
            assert sandbox.state("dinamize")["call_count"] == number


def test_a_ledger_of_another_pepper_is_no_missing_ledger(tmp_path: Path) -> None:
    """It is there, and cannot say who this person is: --without-ledger does not help."""
    values = {"CONSENT_SUBJECT_PEPPER": new_pepper(), "CONSENT_VAULT_KEYS": new_vault_key()}
    with valkey_server() as url, start_sandboxes(["dinamize"]) as sandbox:
        mine = {"CONSENT_SANDBOX_PORT": str(sandbox.port), "CONSENT_STATE_DIR": str(tmp_path / "state"), "CONSENT_REDIS_URL": url, **values}
        words = (written(tmp_path, event("ana@example.org")), "--only", "dinamize-news", "--test")
        assert alone(*words, **mine).returncode == 0
        refused = alone(*words, "--without-ledger", **mine | {"CONSENT_SUBJECT_PEPPER": new_pepper()})
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith("consent: the ledger was made with another CONSENT_SUBJECT_PEPPER")
        assert sandbox.state("dinamize")["call_count"] == 1
