"""docker-compose.yml: valid by the Compose Specification, hardened, and every service's command is one that starts."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from config.settings import CHECKOUT, load_settings

HERE = Path(__file__).parent
COMPOSE = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "valkey"}
READERS = {"ingest", "worker", "beat"}
"""Processes that read the routing file."""


def test_it_is_valid_by_the_compose_specification():
    """Checked against the specification's own schema; files of variables that may be missing came into it later (Compose 2.24)."""
    schema = json.loads((HERE / "compose_spec" / "compose-spec.json").read_text())
    optional = {
        "type": "object",
        "required": ["path"],
        "properties": {"path": {"type": "string"}, "required": {"type": "boolean"}},
        "additionalProperties": False,
    }
    schema["definitions"]["service"]["properties"]["env_file"] = {"type": "array", "items": optional}
    jsonschema.Draft201909Validator(schema).validate(COMPOSE)


def test_all_services_are_there():
    """The sandbox runs only with its profile."""
    assert set(SERVICES) == {"valkey", "ingest", "worker", "beat", "flower", "sandbox"}
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {"sandbox": ["sandbox"]}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_hardened(name):
    """No root, no writable image, no capabilities, a bounded log, time to stop."""
    service = SERVICES[name]
    assert service["user"] not in ("0", "0:0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    assert service["stop_grace_period"]


def test_what_was_seen_of_the_ledger_outlives_containers():
    """The state directory of the image is on a volume of all processes that look at the ledger, and belongs to the user they run as."""
    image = (HERE.parent.parent / "Dockerfile").read_text()
    assert "CONSENT_STATE_DIR=/var/lib/consent" in image
    assert "install -d -o 10001 -g 10001 -m 700 /var/lib/consent" in image
    assert "relay-state" in COMPOSE["volumes"]
    assert {name for name, service in OURS.items() if "relay-state:/var/lib/consent" in service["volumes"]} >= READERS


def test_health_is_checked():
    """Every service but the sandbox says whether it works, and all wait for a healthy server."""
    assert [name for name, service in SERVICES.items() if "healthcheck" not in service] == ["sandbox"]
    waiting = {name for name, service in SERVICES.items() if service.get("depends_on") == {"valkey": {"condition": "service_healthy"}}}
    assert waiting == {"ingest", "worker", "beat", "flower"}


def test_the_server_is_durable_and_never_evicts():
    """And its password is not among its arguments."""
    script = SERVICES["valkey"]["command"][2]
    for words in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert words in script
    assert "--requirepass" not in script
    assert SERVICES["valkey"]["volumes"] == ["valkey-data:/data"]


def test_secrets_come_from_the_environment_and_have_no_default():
    """`${NAME:?...}` stops the start where one is missing."""
    text = (CHECKOUT / "docker-compose.yml").read_text()
    for name in ("VALKEY_PASSWORD", "CONSENT_SUBJECT_PEPPER", "CONSENT_VAULT_KEYS", "CONSENT_FLOWER_LOGIN"):
        used = re.findall(rf"\$\{{{name}(.)", text) + re.findall(rf"\$\{{{name}:(.)", text)
        assert set(used) == {":", "?"}


def test_the_directory_of_the_routing_file_is_mounted():
    """A mounted file would stay the old one when an editor replaces it; nobody in a container can write there."""
    for service in OURS.values():
        assert service["volumes"][0] == "${CONSENT_ROUTING_DIRECTORY:-./config}:/etc/consent:ro"
    assert all(SERVICES[name]["environment"]["CONSENT_CONFIG"] == "/etc/consent/consent.yaml" for name in READERS)


def test_variables_of_the_routing_file_reach_whoever_reads_it_and_nobody_else():
    """From a file that may be missing; a variable that compose sets itself would hide the one in there."""
    assert {name for name, service in SERVICES.items() if "env_file" in service} == READERS
    named = set(re.findall(r"\$\{([A-Za-z_]\w*)", (CHECKOUT / "config" / "consent.yaml").read_text())) - {"CONSENT_SANDBOX_PORT"}
    for name in READERS:
        assert SERVICES[name]["env_file"] == [{"path": "routing.env", "required": False}]
        assert not named & set(SERVICES[name]["environment"])


def test_files_with_secrets_stay_out_of_the_repository_and_the_image():
    """Both are named where git and the image builder look."""
    for ignored in (".gitignore", ".dockerignore"):
        assert {".env", "routing.env"} <= set((CHECKOUT / ignored).read_text().split())


def test_ports_are_open_on_this_machine_only():
    """Whoever wants more puts a proxy with TLS in front."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:${CONSENT_INGEST_PORT:-8080}:8080", "127.0.0.1:${CONSENT_FLOWER_PORT:-5555}:5555"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_is_a_setting(name):
    """The settings are read with the names this service is given, values that compose fills in aside."""
    given = {variable: value for variable, value in OURS[name]["environment"].items() if "${" not in value}
    names = dict.fromkeys(OURS[name]["environment"], "")
    load_settings({**names, **given})


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_is_one_of_ours(name):
    """The exact words, with --help: they exist and import."""
    command = OURS[name]["command"]
    words = shlex.split(command) if isinstance(command, str) else command
    assert words[0] == "consent"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers.cli", *words[1:], "--help"],
        check=False,
        cwd="/",
        env={"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: consent {words[1]}")


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_health_checks_are_commands_of_ours(name):
    """`consent doctor` knows the options."""
    check = SERVICES[name]["healthcheck"]["test"]
    assert check == ["CMD", "consent", "doctor", f"--{name}"]


def test_a_stop_is_given_longer_than_the_work_under_way_may_take():
    """Docker kills after stop_grace_period."""
    defaults = tomllib.loads((CHECKOUT / "config" / "defaults.toml").read_text())
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > defaults["worker"]["stop_seconds"]
    assert int(SERVICES["ingest"]["stop_grace_period"].removesuffix("s")) > defaults["ingest"]["stop_seconds"]


def test_the_image_is_not_root_and_has_no_secret():
    """The Dockerfile copies folders by name and sets no secret."""
    text = (CHECKOUT / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert "COPY . " not in text
    assert not re.search(r"(PEPPER|VAULT|PASSWORD|LOGIN)=", text)
