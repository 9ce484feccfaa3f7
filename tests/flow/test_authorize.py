"""`consent authorize` as people run it: a real process against the sandbox, at a terminal and in a pipe."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
import requests

from config.settings import CHECKOUT
from tests.sandboxes import start_sandboxes

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("CONSENT_", "DINAMIZE_"))} | {"PYTHONPATH": str(CHECKOUT)}
APPLICATION = "test-dinamize-application-homologation"
OWNER = "owner@example.org"


@pytest.fixture
def sandbox():
    with start_sandboxes(["dinamize"]) as handle:
        yield handle


def command(*words):
    return [sys.executable, "-P", "-m", "workers.cli", "authorize", *words]


def environment(sandbox, **values):
    """As after a first look at the vendor's page: no token yet."""
    given = {"CONSENT_SANDBOX_PORT": str(sandbox.port), "DINAMIZE_AUTHORIZATION_URL": f"{sandbox.url('dinamize')}/connection-token"}
    return PLAIN | given | {"DINAMIZE_REDIRECT_URL": "https://example.org/done"} | values


def authorize(sandbox, *words, lines=(), **values):
    text = "".join(f"{line}\n" for line in lines)
    return subprocess.run(command(*words), env=environment(sandbox, **values), cwd="/", input=text, capture_output=True, text=True, timeout=60, check=False)


def approved(sandbox):
    """The owner approves by the control interface and reads the e-mail."""
    until = time.monotonic() + 20
    while not (answer := requests.post(f"http://127.0.0.1:{sandbox.port}/_sandbox/dinamize/approve", json={}, timeout=5)).ok:
        assert time.monotonic() < until, answer.text
        time.sleep(0.1)
    return answer.json()


class Terminal:
    """A person at a terminal of their own."""

    def __init__(self, words, given):
        self.seen = ""
        self.screen, inside = pty.openpty()
        self.process = subprocess.Popen(words, env=given, cwd="/", stdin=inside, stdout=inside, stderr=inside, start_new_session=True)
        os.close(inside)

    def wait_for(self, text):
        until = time.monotonic() + 40
        while text not in self.seen:
            assert time.monotonic() < until, self.seen
            self.read()

    def read(self):
        if select.select([self.screen], [], [], 0.2)[0]:
            try:
                self.seen += os.read(self.screen, 4096).decode()
            except OSError:
                return False
        return True

    def type(self, text):
        os.write(self.screen, f"{text}\n".encode())

    def exit_code(self):
        until = time.monotonic() + 40
        while self.read():
            assert time.monotonic() < until, self.seen
        os.close(self.screen)
        return self.process.wait(20)


def test_the_whole_way_at_a_terminal(sandbox):
    """Ask, approve, paste, search: exit code 0; what is hidden while it is typed is nowhere on the screen, and no contact was read or written."""
    terminal = Terminal(command("dinamize", "--destination", "dinamize-news"), environment(sandbox, DINAMIZE_APPLICATION_TOKEN=APPLICATION))
    terminal.wait_for("login e-mail of the account's owner")
    terminal.type(OWNER)
    terminal.wait_for("The Consent-Token then arrives")
    mail = approved(sandbox)
    assert mail["to"] == OWNER
    terminal.wait_for("(Enter: later)")
    terminal.type(mail["consent_token"])
    assert terminal.exit_code() == 0, terminal.seen
    assert "Dinamize accepts this token." in terminal.seen
    assert 'credentials: {token: "${DINAMIZE_TOKEN}"}' in terminal.seen
    assert [secret for secret in (APPLICATION, mail["consent_token"], "test-connection-") if secret in terminal.seen] == []
    state = sandbox.state("dinamize")
    assert [call["operation"] for call in state["calls"]] == ["connection-token", "emkt/contact/search"]
    assert state["contacts"] == {}


def test_in_a_pipe_secrets_are_lines_and_the_token_can_wait(sandbox):
    """Two lines ask; the token is tried later, and only --show prints it, as one line for an environment file."""
    asked = authorize(sandbox, "dinamize", "--destination", "dinamize-news", lines=[APPLICATION, OWNER])
    assert (asked.returncode, asked.stdout) == (0, ""), asked.stderr
    assert "once it has come: consent authorize dinamize --check-only" in asked.stderr
    token = approved(sandbox)["consent_token"]
    tried = authorize(sandbox, "dinamize", "--destination", "dinamize-news", "--check-only", "--show", lines=[token])
    assert (tried.returncode, tried.stdout) == (0, f"DINAMIZE_TOKEN={token}\n")
    quiet = authorize(sandbox, "dinamize", "--destination", "dinamize-news", "--check-only", lines=[token])
    assert (quiet.returncode, quiet.stdout, token in quiet.stderr) == (0, "", False)


def test_without_a_destination_its_options_are_given(sandbox):
    """The vendor's own address is used then, so a list's code is enough; a missing one is named before anything is asked."""
    missing = authorize(sandbox, "dinamize", "--check-only", lines=["test-token"])
    assert (missing.returncode, missing.stderr) == (2, "consent: missing option 'list_code': code of the contact list\n")
    both = authorize(sandbox, "dinamize", "--check-only", "--destination", "dinamize-news", "--option", "list_code=1", lines=["test-token"])
    assert (both.returncode, "not both" in both.stderr) == (2, True)
    assert sandbox.state("dinamize")["call_count"] == 0


@pytest.mark.parametrize(
    "words, values, expected",
    [
        (["--url", ""], {"DINAMIZE_AUTHORIZATION_URL": ""}, "Dinamize does not publish the address of this step: ask for it there, then give it as --url"),
        ([], {"DINAMIZE_REDIRECT_URL": ""}, "no page to return to after approving: --redirect-url or DINAMIZE_REDIRECT_URL"),
        (["--url", "http://dinamize.example/connect"], {}, "--url must begin with https://"),
        (["--url", "http://203.0.113.300/connect"], {}, "--url must begin with https://"),
        (["--url", "ftp://dinamize.example"], {}, "--url is not usable"),
        (["--url", "https://user:test-secret@dinamize.example"], {}, "--url is not usable"),
        (["--destination", "mailchimp-main"], {}, "no destination 'mailchimp-main' of dinamize can be read; there is dinamize-news"),
        (["--check-only"], {}, "no token was given to check"),
        ([], {}, "nothing was given for DINAMIZE_APPLICATION_TOKEN, DINAMIZE_CONNECTION_ID"),
    ],
)
def test_what_is_missing_or_unsafe_is_said_before_anything_is_sent(sandbox, words, values, expected):
    """Exit code 2, no traceback, no call."""
    done = authorize(sandbox, "dinamize", "--destination", "dinamize-news", *words, **values)
    assert (done.returncode, done.stdout, expected in done.stderr, "Traceback" in done.stderr) == (2, "", True, False), done.stderr
    assert "test-secret" not in done.stderr
    assert sandbox.state("dinamize")["call_count"] == 0


def test_a_refusal_is_exit_code_1_in_our_words(sandbox):
    """A wrong application token asks nobody; a wrong Consent-Token is not accepted, and neither is repeated."""
    wrong = authorize(sandbox, "dinamize", "--destination", "dinamize-news", lines=["test-wrong-application", OWNER])
    assert (wrong.returncode, wrong.stderr) == (1, "Error: Dinamize did not take the request: misconfigured (token_refused)\n")
    wrong = authorize(sandbox, "dinamize", "--destination", "dinamize-news", "--check-only", "--show", lines=["test-wrong-consent"])
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "Error: Dinamize does not accept this token: misconfigured (token_refused)\n"


def test_a_private_address_is_refused_unless_it_is_allowed(sandbox, tmp_path):
    """Without the word of the destination or of the command, nothing is dialled on this machine."""
    routing = (CHECKOUT / "config/consent.yaml").read_text()
    closed = re.sub(r"(base_url: .*/dinamize\"[^\n]*\n)    allow_private_network: true[^\n]*\n", r"\1", routing)
    assert closed != routing
    (tmp_path / "routing.yaml").write_text(closed)
    words, config = ("dinamize", "--destination", "dinamize-news", "--check-only"), {"CONSENT_CONFIG": str(tmp_path / "routing.yaml")}
    refused = authorize(sandbox, *words, lines=["test-dinamize-token"], **config)
    assert (refused.returncode, "must begin with https://" in refused.stderr) == (2, True)
    assert sandbox.state("dinamize")["call_count"] == 0
    assert authorize(sandbox, *words, "--allow-private-network", lines=["test-dinamize-token"], **config).returncode == 0


@pytest.mark.parametrize("vendor, credential", [("mailchimp", "api_key"), ("maileon", "api_key"), ("webhook", "secret"), ("privacy_tools", "public_key")])
def test_other_vendors_say_where_their_credentials_come_from(sandbox, vendor, credential):
    """In words, with the section of their page; exit code 0."""
    done = authorize(sandbox, vendor)
    page = (CHECKOUT / f"docs/vendors/{vendor}.md").read_text()
    assert (done.returncode, f"  {credential}: " in done.stdout, f"docs/vendors/{vendor}.md has more." in done.stdout) == (0, True, True)
    assert page.split("## How to get credentials\n", 1)[1].split("\n## ")[0].strip() in done.stdout


def test_an_unknown_vendor_is_named_with_the_known_ones(sandbox):
    """Exit code 2."""
    done = authorize(sandbox, "dynamize")
    assert (done.returncode, done.stderr.startswith("consent: unknown vendor 'dynamize'; known are ")) == (2, True)
    assert json.dumps(sandbox.state("dinamize")["calls"]) == "[]"
