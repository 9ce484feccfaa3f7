"""A withdrawal that goes by file, the whole way: accepted, dead, exported, confirmed, and told apart from the next one."""

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running_stack
from tests.support.world import SHORT

pytestmark = pytest.mark.timeout(180)

ROUTING = """
version: 1
sources:
  web-forms: {kind: native, keys: ["${CONSENT_SAMPLE_KEY_SHA256:-}"], scopes: [ingest, read, replay], country: BR}
purposes:
  advertising: {title: Advertising}
destinations:
  retargetly-crm:
    vendor: retargetly
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/retargetly"
    allow_private_network: true
    credentials: {public_key: test-retargetly-key}
    options: {segment_ids: [13600], country: BR, removal_device_types: {ml: email, mb: external_id}}
triggers:
  - {purposes: [advertising], deliver_to: [retargetly-crm]}
"""
HASH = hashlib.sha256(b"ana@example.org").hexdigest()
COMMAND = ("export", "retargetly-removals")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack(routing=ROUTING, environment=SHORT | {"CONSENT_WORKER_PROCESSES": "1"}) as running:
        yield running


def accept(stack: Stack, state: str, minute: int) -> str:
    event_id = stack.accept(state, minute=minute, purpose="advertising", email="ana@example.org")
    stack.wait_complete([event_id])
    return event_id


def listed(stack: Stack) -> list[str]:
    return [each["event_id"] for each in json.loads(stack.consent("dead", "list", "--json").stdout)["items"]]


def hand_over(stack: Stack, file: Path) -> dict[str, int]:
    """What the vendor did with the file."""
    return dict(stack.session.post(f"{stack.sandbox_url}/_sandbox/retargetly/file", data=file.read_bytes(), timeout=10).json())


def test_withdrawn_dead_exported_confirmed(stack: Stack, tmp_path: Path) -> None:
    """Dead and alerting until the confirmation; then `dead list` is empty, the event says exported, and doctor is content."""
    nothing = stack.consent(*COMMAND)
    assert (nothing.returncode, nothing.stdout) == (0, "no withdrawal waits for a file\n"), nothing.stderr
    accept(stack, "given", 1)
    assert list(stack.sandbox("retargetly")["contacts"]) == [f"13600/ml_sh2:{HASH}"]
    event_id = accept(stack, "withdrawn", 2)
    calls = stack.sandbox("retargetly")["call_count"]
    assert stack.deliveries(event_id) == {"retargetly-crm": ("dead", "cannot_express_withdrawn")}
    name = f"{event_id}.retargetly-crm"

    dry = stack.consent(*COMMAND, "--dry-run", "--output", str(tmp_path / "feed.tsv"))
    assert (dry.returncode, dry.stdout) == (0, "retargetly-crm: 1 withdrawal would go into 1 row\n"), dry.stderr
    assert list(tmp_path.iterdir()) == []

    written = stack.consent(*COMMAND, "--output", str(tmp_path / "feed.tsv"))
    assert written.returncode == 0, written.stderr
    file, manifest = tmp_path / "feed.tsv", tmp_path / "feed.tsv.manifest.json"
    assert file.read_text() == f"device_type\tdevice_id\tsegments\tremove_segments\tcountry_code\nemail\t{HASH}\t\t13600\tBR\n"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (file, manifest)] == [0o600, 0o600]
    assert [each["delivery_id"] for each in json.loads(manifest.read_text())["letters"]] == [name]
    assert [word for word in ("ana@example.org", HASH, "test-retargetly-key") if word in written.stdout + written.stderr + manifest.read_text()] == []
    assert listed(stack) == [event_id]
    assert stack.consent("doctor").returncode == 1
    assert stack.consent(*COMMAND, "--output", str(file)).returncode == 2
    assert hand_over(stack, file) == {"rows": 1, "unreadable": 0, "removed": 1}
    assert stack.sandbox("retargetly")["contacts"] == {}

    only = stack.consent(*COMMAND, "--confirm", str(manifest), "--dry-run")
    assert (only.returncode, only.stdout) == (0, "retargetly-crm: 1 dead withdrawal would be closed as exported in feed.tsv\n")
    assert listed(stack) == [event_id]
    confirmed = stack.consent(*COMMAND, "--confirm", str(manifest), "--json")
    assert confirmed.returncode == 0, confirmed.stderr
    assert json.loads(confirmed.stdout)["destinations"][0]["closed"] == [name]
    assert stack.consent("dead", "list").stdout == "no dead letters\n"
    (delivery,) = stack.event(event_id)["deliveries"]
    assert [delivery[key] for key in ("status", "outcome", "reason", "vendor_reference")] == ["delivered", "applied", "exported", "feed.tsv"]
    assert stack.consent("doctor").returncode == 0
    assert stack.metric("consent_unaccounted") == 0
    assert stack.metric("consent_oldest_untold_withdrawal_seconds", destination="retargetly-crm") == 0

    again = stack.consent(*COMMAND, "--confirm", str(manifest))
    assert (again.returncode, f"{name}: closed by an earlier confirmation" in again.stderr) == (0, True)
    assert stack.sandbox("retargetly")["call_count"] == calls


def test_the_next_withdrawal_is_a_new_one(stack: Stack, tmp_path: Path) -> None:
    """Given again goes out by call, withdrawn again is dead again; a manifest of the first file closes nothing of it."""
    first = accept(stack, "withdrawn", 10)
    assert stack.consent(*COMMAND, "--output", str(tmp_path / "first.tsv.gz")).returncode == 0
    accept(stack, "given", 11)
    assert len(stack.sandbox("retargetly")["contacts"]) == 1
    assert hand_over(stack, tmp_path / "first.tsv.gz")["removed"] == 1
    second = accept(stack, "withdrawn", 12)
    assert sorted(listed(stack)) == sorted([first, second])
    assert stack.consent(*COMMAND, "--confirm", str(tmp_path / "first.tsv.gz.manifest.json")).returncode == 0
    assert listed(stack) == [second]
    accept(stack, "given", 13)
    left_out = stack.consent(*COMMAND, "--output", str(tmp_path / "second.tsv"))
    assert (left_out.returncode, f"{second}.retargetly-crm: left out, because a newer word or a written rule says otherwise" in left_out.stderr) == (0, True)
    assert not (tmp_path / "second.tsv").exists()
    assert stack.consent("dead", "replay", f"{second}.retargetly-crm").returncode == 1
    stack.wait_complete([second])
    assert stack.deliveries(second) == {"retargetly-crm": ("superseded", "newer_word")}


def test_wrong_usage_is_said_and_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    """Exit code 2 each, one line of reason."""
    accept(stack, "withdrawn", 30)
    before = listed(stack)
    (tmp_path / "no.json").write_text("{}")
    for words, expected in (
        (["--output", str(tmp_path / "two words.tsv")], "without spaces, and end in .tsv or .tsv.gz"),
        (["--output", "/dev/stdout"], "without spaces, and end in .tsv or .tsv.gz"),
        (["--destination", "nobody"], "no destination 'nobody'; there is retargetly-crm"),
        (["--confirm", str(tmp_path / "no.json")], "is no manifest of an export"),
        (["--confirm", str(tmp_path / "no.json"), "--destination", "retargetly-crm"], "--confirm takes destination and file from the manifest"),
    ):
        done = stack.consent(*COMMAND, *words)
        assert (done.returncode, expected in done.stderr, done.stdout) == (2, True, ""), done.stderr
    assert listed(stack) == before


def test_a_manifest_of_another_ledger_or_a_changed_file_confirms_nothing(stack: Stack, tmp_path: Path) -> None:
    """Nobody knows what the vendor took then."""
    accept(stack, "withdrawn", 40)
    before = listed(stack)
    assert stack.consent(*COMMAND, "--output", str(tmp_path / "feed.tsv")).returncode == 0
    manifest = tmp_path / "feed.tsv.manifest.json"
    content = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(content) | {"ledger_id": "another"}))
    other = stack.consent(*COMMAND, "--confirm", str(manifest))
    assert (other.returncode, "was made from another ledger (another)" in other.stderr) == (2, True)
    manifest.write_text(content)
    (tmp_path / "feed.tsv").write_text("device_type\n")
    changed = stack.consent(*COMMAND, "--confirm", str(manifest))
    assert (changed.returncode, "feed.tsv is not the file that was written" in changed.stderr) == (2, True)
    assert listed(stack) == before


def test_a_person_whom_the_file_cannot_name_is_said(stack: Stack, tmp_path: Path) -> None:
    """A national id has no device type here: exit code 1, its delivery named, nothing of it written, and it stays dead."""
    event_id = stack.accept("withdrawn", minute=50, purpose="advertising", national_id="12345678909")
    stack.wait_complete([event_id])
    done = stack.consent(*COMMAND, "--output", str(tmp_path / "feed.tsv"))
    assert (done.returncode, f"{event_id}.retargetly-crm: not written, the file cannot name a person by national_id" in done.stderr) == (1, True)
    assert event_id in listed(stack)
    assert "12345678909" not in done.stdout + done.stderr
