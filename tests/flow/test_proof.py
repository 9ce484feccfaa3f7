"""Proofs of a running relay: what real workers told real HTTP servers, archived by beat, asked for and checked on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.accounting import gaps, recorded_in, webhook_calls
from tests.support.stack import Stack, wait_until

PERSON = {"email": "proof.person@example.org", "phone": "+5511987650001"}


def test_what_was_told_is_proven(stack: Stack, tmp_path: Path) -> None:
    """A consent and its withdrawal at three vendors: beat archives them, every call is on record, and the proof is checked without the relay."""
    given = stack.accept("given", minute=1, **PERSON)
    withdrawn = stack.accept("withdrawn", minute=2, **PERSON)
    stack.wait_complete([given, withdrawn], 60)
    wait_until(lambda: stack.get(f"/v1/consent-events/{withdrawn}/proof").status_code == 200, 30)
    calls = {about: count for about, count in webhook_calls(stack).items() if about[0] in (given, withdrawn)}
    assert calls[withdrawn, "crm-webhook"] == 1
    assert gaps(recorded_in(stack, {given, withdrawn}), [given, withdrawn], calls) == []

    file, page = tmp_path / "proof.json", tmp_path / "proof.html"
    made = stack.consent("proof", "--subject", "-", "--output", str(file), "--html", str(page), input=json.dumps(PERSON))
    assert made.returncode == 0, made.stderr
    document = json.loads(file.read_text())
    assert [event["event_id"] for event in document["events"]] == [given, withdrawn]
    told = {each["party_id"]: (each["last"], each["status"], each["status_code"]) for each in document["events"][1]["recipients"]}
    assert told == {
        "crm-webhook": ("answered", "delivered", 204),
        "dinamize-news": ("answered", "delivered", 200),
        "mailchimp-main": ("answered", "delivered", 200),
    }
    for text in (file.read_text(), page.read_text()):
        assert "proof.person" not in text
        assert "11987650001" not in text

    root = stack.consent("evidence", "anchor").stdout.strip()
    anchored = stack.consent("proof", "--event", withdrawn)
    checked = stack.consent("verify", "-", "--root", root, input=anchored.stdout)
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "holds"), checked
    forged = stack.consent("verify", "-", "--root", root, input=anchored.stdout.replace('"withdrawn"', '"given"'))
    assert forged.returncode == 1
    assert stack.consent("proof", "--event", "unknown").returncode == 1
    assert "evidence_not_archived" not in stack.log()
