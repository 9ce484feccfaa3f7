"""Settings: every one listed once, overridden by exact names, refused when wrong or unsafe."""

import base64
import dataclasses
import re

import pytest

from config.celery import celery_settings, transport_options
from config.ledger_url import parse
from config.logging import mask
from config.settings import CHECKOUT, DEFAULTS_FILE, SettingsError, check_invariants, load_settings
from workers.app import create_app
from workers.servers import ledger_servers
from workers.state import StateFolder
from workers.wiring import Parts

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.urlsafe_b64encode(bytes([255] * 32)).decode()


def test_the_defaults_are_safe():
    """With an empty environment every promise holds."""
    check_invariants(load_settings({}))


def test_every_default_has_a_comment_and_a_field():
    """Each line of defaults.toml that sets something explains itself, and each section's fields are exactly its keys."""
    lines = [line for line in DEFAULTS_FILE.read_text().splitlines() if re.match(r"\w+ = ", line)]
    assert [line for line in lines if " # " not in line] == []
    settings = load_settings({})
    count = sum(
        len(dataclasses.fields(value)) if dataclasses.is_dataclass(value) else 1
        for value in (getattr(settings, item.name) for item in dataclasses.fields(settings))
    )
    assert len(lines) == count


@pytest.mark.parametrize(
    "variable,value,section,key,expected",
    [
        ("CONSENT_INGEST_HOST", "0.0.0.0", "ingest", "host", "0.0.0.0"),
        ("CONSENT_INGEST_PORT", "9999", "ingest", "port", 9999),
        ("CONSENT_FLOWER_PORT", " 7 ", "flower", "port", 7),
        ("CONSENT_FLOWER_LOGIN", "a:b", "flower", "login", "a:b"),
        ("CONSENT_SANDBOX_PORT", "9001", "sandbox", "port", 9001),
        ("CONSENT_DELIVER_CHUNK_SECONDS", "2.5", "deliver", "chunk_seconds", 2.5),
        ("CONSENT_RETRY_WAITS_SECONDS", "1, 2.5,3", "retry", "waits_seconds", (1.0, 2.5, 3.0)),
        ("CONSENT_INGEST_PORT", "", "ingest", "port", 8080),
    ],
)
def test_a_variable_overrides_its_setting(variable, value, section, key, expected):
    """CONSENT_<SECTION>_<KEY> is read as the type of the default; an empty one counts as unset."""
    assert getattr(getattr(load_settings({variable: value}), section), key) == expected


@pytest.mark.parametrize(
    "variable,value,message",
    [
        ("CONSENT_DELIVER_CHUNK_SIZ", "1", "CONSENT_DELIVER_CHUNK_SIZ is no setting; did you mean CONSENT_DELIVER_CHUNK_SIZE?"),
        ("CONSENT_REDIS_ULR", "redis://", "CONSENT_REDIS_ULR is no setting; did you mean CONSENT_REDIS_URL?"),
        ("CONSENT_LEDGER_ZZZZZZZZZZZZZZ", "1", "CONSENT_LEDGER_ZZZZZZZZZZZZZZ is no setting; config/defaults.toml lists them all"),
        ("CONSENT_INGEST_PORT", "http", "CONSENT_INGEST_PORT: a whole number was expected"),
        ("CONSENT_DELIVER_CHUNK_SIZE", "1.5", "CONSENT_DELIVER_CHUNK_SIZE: a whole number was expected"),
        ("CONSENT_DELIVER_CHUNK_SECONDS", "nan", "CONSENT_DELIVER_CHUNK_SECONDS: a number was expected"),
        ("CONSENT_RETRY_WAITS_SECONDS", "1;2", "CONSENT_RETRY_WAITS_SECONDS: numbers separated by commas was expected"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(variable, value, message):
    """The text names the variable and what was expected, and never repeats the value."""
    with pytest.raises(SettingsError) as caught:
        load_settings({variable: value})
    assert str(caught.value) == message


def test_variables_of_the_routing_file_are_left_alone():
    """Names that resemble no setting may serve the routing file; others are none of our business."""
    load_settings({"CONSENT_SAMPLE_KEY_SHA256": "x", "CONSENT_KEY": "y", "MAILCHIMP_API_KEY": "z"})


@pytest.mark.parametrize(
    "variable,value,reason",
    [
        ("CONSENT_DELIVER_LEASE_SECONDS", "4", "deliver.lease_seconds must be 5 or more"),
        ("CONSENT_DELIVER_LATE_WRITE_SECONDS", "19", "deliver.late_write_seconds must be exchange.total_timeout_seconds or more"),
        ("CONSENT_LEDGER_PUSH_RESCUE_SECONDS", "1", "ledger.push_rescue_seconds must exceed 1"),
        ("CONSENT_WORKER_THREADS", "4", "deliver.threads_reserved_for_withdrawals must be less than worker.threads"),
        ("CONSENT_LIMITS_WITHDRAWAL_RESERVE_SHARE", "1", "limits.withdrawal_reserve_share must be below 1"),
        ("CONSENT_CELERY_MAX_CONNECTIONS", "23", "celery.max_connections must be worker.threads + 8 or more"),
        ("CONSENT_EXCHANGE_TRANSPORT", "aiohttp", "exchange.transport must be one of curl, requests"),
        ("CONSENT_LEDGER_DURABILITY", "maybe", "ledger.durability must be one of auto, fsync, waitaof"),
        ("CONSENT_LEDGER_DURABILITY", "none", "ledger.durability must be one of auto, fsync, waitaof"),
        ("CONSENT_INGEST_PORT", "65536", "ingest.port must be a port"),
        ("CONSENT_LEDGER_PARTITIONS", "-1", "ledger.partitions must be above 0"),
        ("CONSENT_RETRY_WAITS_SECONDS", "5,0", "retry.waits_seconds must be one or more numbers above 0"),
        ("CONSENT_LEDGER_DEDUP_DAYS", "29", "ledger.dedup_days must not be less than payload_days"),
        ("CONSENT_LIMITS_BREAKER_WAIT_MAX_SECONDS", "4", "limits.breaker_wait_max_seconds must not be less"),
        ("CONSENT_EXCHANGE_CONNECT_TIMEOUT_SECONDS", "31", "exchange.connect_timeout_seconds must not exceed"),
    ],
)
def test_unsafe_settings_stop_the_start_with_the_reason(variable, value, reason):
    """Each promise is checked at its exact border."""
    with pytest.raises(SettingsError, match=re.escape(reason)) as caught:
        check_invariants(load_settings({variable: value}))
    assert len(str(caught.value).splitlines()) == 2


def test_secrets_have_no_default_and_say_how_to_make_them():
    """A single command cannot start with a made-up pepper or key."""
    settings = load_settings({})
    for read, name in ((settings.pepper, "CONSENT_SUBJECT_PEPPER"), (settings.keys_of_vault, "CONSENT_VAULT_KEYS")):
        with pytest.raises(SettingsError, match=f"{name} is not set.*consent keys secret"):
            read()


def test_secrets_are_read_and_hidden():
    """Vault keys are base64 of either alphabet, newest first; no repr shows a secret or a URL."""
    settings = load_settings(
        {
            "CONSENT_VAULT_KEYS": f"{KEY}, {OTHER_KEY}",
            "CONSENT_SUBJECT_PEPPER": "p" * 32,
            "CONSENT_REDIS_URL": "redis://:hush@h/0",
            "CONSENT_FLOWER_LOGIN": "admin:hush",
        }
    )
    assert settings.keys_of_vault() == (bytes(range(32)), bytes([255] * 32))
    assert settings.pepper() == b"p" * 32
    assert not [secret for secret in ("hush", KEY, OTHER_KEY, "pppp") if secret in repr(settings)]


@pytest.mark.parametrize("text", ["short", KEY + ",", f"{KEY},{KEY}", base64.b64encode(b"x" * 31).decode()])
def test_a_bad_vault_key_is_refused_without_being_shown(text):
    """Wrong length, wrong alphabet, an empty place or a key given twice."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"CONSENT_VAULT_KEYS": text}).keys_of_vault()
    assert KEY not in str(caught.value)


def test_a_short_pepper_is_refused():
    """31 characters are one too few."""
    with pytest.raises(SettingsError, match="too short"):
        load_settings({"CONSENT_SUBJECT_PEPPER": "p" * 31}).pepper()


@pytest.mark.parametrize(
    "url,expected",
    [
        ("redis://h:1", "redis://h:1/1"),
        ("redis://:p@h:1/0", "redis://:p@h:1/1"),
        ("redis://me:p%40ss@h?db=3&max_connections=9", "redis://me:p%40ss@h/4"),
        ("rediss://h/3?ssl_ca_certs=/ca.pem", "rediss://h/4"),
    ],
)
def test_the_broker_is_the_next_database_by_default(url, expected):
    """Same server, so one login and one place to watch; options of the ledger's client are not kombu's."""
    assert load_settings({"CONSENT_REDIS_URL": url}).celery_broker_url() == expected


@pytest.mark.parametrize("variable", ["CONSENT_REDIS_URL", "CONSENT_BROKER_URL"])
@pytest.mark.parametrize(
    "options,checked",
    [
        ("", {"ssl_cert_reqs": "required"}),
        ("?ssl_ca_certs=/etc/a+b/ca.pem", {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/a+b/ca.pem"}),
        ("?ssl_certfile=/c&ssl_keyfile=/k", {"ssl_cert_reqs": "required", "ssl_certfile": "/c", "ssl_keyfile": "/k"}),
        ("?ssl_check_hostname=false", {"ssl_cert_reqs": "required", "ssl_check_hostname": False}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
    ],
)
@pytest.mark.parametrize("servers", ["rediss://h/0", "rediss+sentinel://a,b/service/0"])
def test_the_brokers_certificate_is_checked(servers, options, checked, variable):
    """As the ledger's is, unless the URL says otherwise: kombu by itself would take any, and show it the password."""
    found = celery_settings(load_settings({variable: servers + options}))
    assert found["broker_use_ssl"] == checked
    assert "ssl_" not in found["broker_url"]
    if "sentinel" in servers:
        assert {"ssl": True, **checked}.items() <= found["broker_transport_options"]["sentinel_kwargs"].items()


def test_several_brokers_over_tls_are_checked_too():
    """kombu's own list of URLs is left as it is."""
    found = celery_settings(load_settings({"CONSENT_BROKER_URL": "rediss://a/1;rediss://b/1"}))
    assert (found["broker_url"], found["broker_use_ssl"]) == ("rediss://a/1;rediss://b/1", {"ssl_cert_reqs": "required"})
    assert celery_settings(load_settings({"CONSENT_REDIS_URL": "redis://h"}))["broker_use_ssl"] is None


@pytest.mark.parametrize(
    "url,expected,checked",
    [
        ("amqp://me:p%40ss@h//", "amqp://me:p%40ss@h//", None),
        ("amqps://h//", "amqps://h//", {"ssl_cert_reqs": "required"}),
        ("AMQPS://h/v?heartbeat=9&ssl_ca_certs=/a+b/ca.pem", "AMQPS://h/v?heartbeat=9", {"ssl_cert_reqs": "required", "ssl_ca_certs": "/a+b/ca.pem"}),
        ("amqps://h?ssl_certfile=/c&ssl_keyfile=/k", "amqps://h", {"ssl_cert_reqs": "required", "ssl_certfile": "/c", "ssl_keyfile": "/k"}),
        ("amqps://h?ssl_cert_reqs=none", "amqps://h", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
        ("amqps://a//?ssl_ca_certs=/c; amqps://b//?ssl_ca_certs=/c", "amqps://a//;amqps://b//", {"ssl_cert_reqs": "required", "ssl_ca_certs": "/c"}),
    ],
)
def test_rabbitmqs_certificate_is_checked_as_the_ledgers_is(url, expected, checked):
    """The options are ours to read: kombu would hand them on under names that nobody knows."""
    found = celery_settings(load_settings({"CONSENT_BROKER_URL": url}))
    assert (found["broker_url"], found["broker_use_ssl"]) == (expected, checked)


@pytest.mark.parametrize(
    "url,text",
    [
        ("amqp://hush//?ssl_ca_certs=/c", "only with TLS: amqps://"),
        ("amqps://hush//?ssl_ca_cert=/c", "nothing else that begins with ssl_"),
        ("amqps://hush//?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of"),
        ("amqps://hush//;amqp://b//", "all are amqps://, or none is"),
        ("amqps://hush//?ssl_ca_certs=/c;amqps://b//", "the same ssl_ options after each"),
    ],
)
def test_an_amqps_url_that_would_be_checked_otherwise_than_it_says_is_refused(url, text):
    """With the reason, and without quoting it."""
    with pytest.raises(SettingsError, match=text) as raised:
        celery_settings(load_settings({"CONSENT_BROKER_URL": url}))
    assert "hush" not in str(raised.value)


def test_the_sentinels_have_a_login_of_their_own():
    """Given after the ?; it is theirs alone, and is shown nowhere."""
    url = "sentinel://me:data@a:1,b:2/consent?sentinel_username=watcher&sentinel_password=wat%26ch+"
    settings = load_settings({"CONSENT_REDIS_URL": url})
    asked = transport_options(settings)["sentinel_kwargs"]
    assert (asked["username"], asked["password"], "ssl" in asked) == ("watcher", "wat&ch+", False)
    assert "wat&ch+" not in repr(settings.ledger_address())
    assert mask(f"no answer from {url}") == "no answer from sentinel://**@a:1,b:2/consent?sentinel_username=watcher&sentinel_password=**"
    alone = transport_options(load_settings({"CONSENT_REDIS_URL": "sentinel://a:1/consent?sentinel_password=x"}))["sentinel_kwargs"]
    assert ("username" in alone, alone["password"]) == (False, "x")


def test_the_broker_is_at_the_ledgers_server_unless_it_is_named():
    """One variable is enough; a second one wins."""
    given = {"CONSENT_REDIS_URL": "redis://h:1/0"}
    assert load_settings(given).celery_broker_url() == "redis://h:1/1"
    assert load_settings(given | {"CONSENT_BROKER_URL": "amqp://b"}).celery_broker_url() == "amqp://b"


@pytest.mark.parametrize(
    "url,text",
    [
        ("sentinel://hush:26379", "needs the service's name"),
        ("sentinel://a:1,b:2/hush/x", "needs the service's name"),
        ("sentinel://a:1,/hush", "host:port"),
        ("sentinel://a:hush/service", "was expected"),
        ("sentinel://a:1/service?role=replica", "a replica may not know of a withdrawal yet"),
        ("redis+cluster://hush:7000/1", "only database 0"),
        ("redis+cluster://hush:7000?read_from_replicas=true", "a replica may not know of a withdrawal yet"),
        ("unix:///hush", "unix:// is not supported"),
        ("hush", "a URL such as redis://127.0.0.1:6379/0, sentinel"),
        ("redis", "a URL such as redis://127.0.0.1:6379/0, sentinel"),
        ("http://hush", "a URL such as redis://127.0.0.1:6379/0, sentinel"),
        ("redis://h/hush", "the database after the / is a number"),
        ("redis://h?ssl_ca_certs=hush", "only with TLS"),
        ("sentinel://a/service?ssl_ca_certs=hush", "only with TLS"),
        ("rediss://h?ssl_cert_reqs=hush", "ssl_cert_reqs is one of"),
        ("redis+cluster://h?sentinel_password=hush", "takes no options"),
        ("redis://h:hush", "a URL such as redis://127.0.0.1:6379/0, sentinel"),
    ],
)
def test_a_ledger_that_names_no_servers_is_refused(url, text):
    """By the setting's name and without its value, which may carry a password."""
    with pytest.raises(SettingsError, match=rf"^CONSENT_REDIS_URL: .*{re.escape(text)}") as caught:
        load_settings({"CONSENT_REDIS_URL": url}).ledger_url()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense://hush", "hush", "amqp://h:hush", "sqs://hush"])
def test_a_broker_that_cannot_be_used_is_refused(url):
    """Before anything starts, whichever process asks; without the value."""
    for start in (lambda: create_app(load_settings({"CONSENT_BROKER_URL": url}), ()), lambda: Parts({"CONSENT_BROKER_URL": url})):
        with pytest.raises(SettingsError, match=r"^CONSENT_BROKER_URL: ") as caught:
            start()
        assert "hush" not in str(caught.value)


def test_an_unreadable_option_of_the_url_is_refused():
    """redis-py's own text would quote it."""
    with pytest.raises(SettingsError, match=r"^CONSENT_REDIS_URL: an option after the \?") as caught:
        ledger_servers(load_settings({"CONSENT_REDIS_URL": "redis://h?max_connections=hush"}))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_state_directory_that_cannot_be_made_is_refused(path, tmp_path):
    """A file in its place, or above it; the file stays as it is."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingsError, match=r"^CONSENT_STATE_DIR: .*cannot be used"):
        StateFolder(tmp_path / path).lock()
    assert (tmp_path / "file").read_text() == "mine"


def test_several_servers_are_read_from_one_url():
    """Sentinels or nodes with commas between them, a login for the data servers, a service and a database; ports may be left out."""
    sentinel = parse("sentinel://me:s%40crit@a:26379,[::1]:26380,b/consent/3")
    assert (sentinel.kind, sentinel.hosts) == ("sentinel", (("a", 26379), ("::1", 26380), ("b", 26379)))
    assert (sentinel.service, sentinel.database, sentinel.username, sentinel.password, sentinel.tls) == ("consent", 3, "me", "s@crit", False)
    assert "s@crit" not in repr(sentinel)
    cluster = parse("rediss+cluster://:secret@a:7000,b")
    assert (cluster.kind, cluster.hosts, cluster.password, cluster.tls) == ("cluster", (("a", 7000), ("b", 6379)), "secret", True)


def test_the_broker_behind_sentinel_is_the_next_database_there():
    """kombu wants a URL for each Sentinel, and the service's name as an option."""
    settings = load_settings({"CONSENT_REDIS_URL": "sentinel://:s%40crit@a:1,b:2/consent/4"})
    assert settings.celery_broker_url() == "sentinel://:s%40crit@a:1/5;sentinel://:s%40crit@b:2/5"
    assert transport_options(settings)["master_name"] == "consent"
    apart = load_settings({"CONSENT_REDIS_URL": "redis+cluster://h:7000", "CONSENT_BROKER_URL": "sentinel://a:1,b:2/queues/1"})
    assert (apart.celery_broker_url(), transport_options(apart)["master_name"]) == ("sentinel://a:1/1;sentinel://b:2/1", "queues")


def test_sentinel_without_a_replica_to_wait_for_is_refused():
    """A primary that is cut off would go on accepting."""
    with pytest.raises(SettingsError, match=r"ledger\.min_replicas must be 1 or more with Sentinel"):
        check_invariants(load_settings({"CONSENT_REDIS_URL": "sentinel://a:1/consent", "CONSENT_LEDGER_MIN_REPLICAS": "0"}))
    check_invariants(load_settings({"CONSENT_REDIS_URL": "redis://a", "CONSENT_LEDGER_MIN_REPLICAS": "0"}))


def test_a_cluster_needs_its_broker_named():
    """A cluster has only one database; whichever process is started says so first of all."""
    with pytest.raises(SettingsError, match="CONSENT_BROKER_URL is not set"):
        load_settings({"CONSENT_REDIS_URL": "redis+cluster://h:7000"}).celery_broker_url()
    with pytest.raises(SettingsError, match="CONSENT_BROKER_URL is not set"):
        Parts({"CONSENT_REDIS_URL": "redis+cluster://h:7000"})


def test_default_paths_lie_in_the_checkout_and_given_ones_with_the_caller(tmp_path, monkeypatch):
    """Commands work from any directory; what the caller names is relative to where they stand."""
    monkeypatch.chdir(tmp_path)
    assert load_settings({}).routing_path() == CHECKOUT / "config/consent.yaml"
    assert load_settings({"CONSENT_CONFIG": "mine.yaml"}).routing_path() == tmp_path / "mine.yaml"
    assert load_settings({"CONSENT_STATE_DIR": str(tmp_path / "s")}).state_path() == tmp_path / "s"
