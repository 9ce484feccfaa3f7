"""Reads the settings: `defaults.toml` lists each one once, `CONSENT_<SECTION>_<KEY>` in the environment overrides it.

A variable that looks like a setting and is none is refused, so that a typing error cannot leave a default in place unseen.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final

from config import amqp_url, sections
from config.ledger_url import BROKER_PREFIXES, Address, UnusableUrl, parse

CHECKOUT: Final = Path(__file__).resolve().parent.parent
DEFAULTS_FILE: Final = Path(__file__).with_name("defaults.toml")
PREFIX: Final = "CONSENT_"
EVIDENCE_FILE: Final = "evidence.sqlite"
"""The archive of evidence in a state directory."""


class SettingsError(ValueError):
    """A setting is missing, unknown, unreadable or unsafe; the text names it and says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, read once at the start of a process; secrets and URLs (which may carry passwords) are hidden from repr."""

    redis_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    config: str
    state_dir: str
    subject_pepper: str = field(repr=False)
    vault_keys: str = field(repr=False)
    ledger: sections.Ledger
    deliver: sections.Deliver
    exchange: sections.Exchange
    limits: sections.Limits
    retry: sections.Retry
    ingest: sections.Ingest
    worker: sections.Worker
    celery: sections.Celery
    beat: sections.Beat
    listen: sections.Listen
    reconcile: sections.Reconcile
    evidence: sections.Evidence
    flower: sections.Flower
    sandbox: sections.Sandbox
    alerts: sections.Alerts
    retention: sections.Retention
    log: sections.Log

    def routing_path(self) -> Path:
        """The routing file's path."""
        return self._path(self.config, "config")

    def state_path(self) -> Path:
        """The state directory's path; it need not exist."""
        return self._path(self.state_dir, "state_dir")

    def evidence_url(self) -> str:
        """The URL of the evidence archive; empty if no evidence is kept."""
        section = self.evidence
        if section.enabled == "off" or (section.enabled == "auto" and not section.url):
            return ""
        return section.url or f"sqlite:///{self.state_path().resolve() / EVIDENCE_FILE}"

    def ledger_url(self) -> str:
        """The ledger's URL; refuses where none is given."""
        return self.ledger_address().url

    def ledger_address(self) -> Address:
        """The ledger's servers; refuses what names none."""
        if not self.redis_url:
            raise SettingsError("CONSENT_REDIS_URL is not set: a URL such as redis://127.0.0.1:6379/0 was expected (`consent up` runs its own server)")
        try:
            return parse(self.redis_url)
        except UnusableUrl as error:
            raise SettingsError(f"CONSENT_REDIS_URL: {error}") from None

    def celery_broker_url(self) -> str:
        """The broker's URL as kombu reads it; by default the next database of the ledger's servers."""
        address = self.broker_address()
        return address.broker_url(address.database) if address else self._other_broker()[0]

    def broker_tls(self) -> Mapping[str, Any] | None:
        """How TLS to the broker is checked; None without TLS."""
        address = self.broker_address()
        if address is None:
            return self._other_broker()[1]
        return address.tls_options if address.tls else None

    def broker_address(self) -> Address | None:
        """The broker's servers where they are Redis or Valkey, else None; by default the ledger's."""
        if self.broker_url:
            if not self.broker_url.lower().startswith(BROKER_PREFIXES) or ";" in self.broker_url:
                return None
            try:
                return parse(self.broker_url)
            except UnusableUrl as error:
                raise SettingsError(f"CONSENT_BROKER_URL: {error}") from None
        address = self.ledger_address()
        if address.kind == "cluster":
            raise SettingsError("CONSENT_BROKER_URL is not set: with a cluster as ledger the broker must be named, a cluster has no second database")
        return replace(address, database=address.database + 1)

    def _other_broker(self) -> tuple[str, Mapping[str, Any] | None]:
        """The URL of a broker that `broker_address` does not know, as kombu reads it, and how TLS to it is checked."""
        if not amqp_url.speaks_amqp(self.broker_url):
            return self.broker_url, {"ssl_cert_reqs": "required"} if self.broker_url.startswith("rediss://") else None
        try:
            return amqp_url.parse(self.broker_url)
        except UnusableUrl as error:
            raise SettingsError(f"CONSENT_BROKER_URL: {error}") from None

    def pepper(self) -> bytes:
        """The pepper; refuses where none is given or it is short."""
        if not self.subject_pepper:
            raise SettingsError(f"CONSENT_SUBJECT_PEPPER is not set: {_HOW_TO_MAKE}")
        if len(self.subject_pepper) < 32:
            raise SettingsError(f"CONSENT_SUBJECT_PEPPER is too short, 32 characters or more were expected: {_HOW_TO_MAKE}")
        return self.subject_pepper.encode()

    def keys_of_vault(self) -> tuple[bytes, ...]:
        """The vault's keys, newest first; refuses where none is given or one is not 32 bytes of base64."""
        if not self.vault_keys:
            raise SettingsError(f"CONSENT_VAULT_KEYS is not set: {_HOW_TO_MAKE}")
        keys = tuple(_vault_key(text.strip(), place) for place, text in enumerate(self.vault_keys.split(","), start=1))
        if len(set(keys)) < len(keys):
            raise SettingsError("CONSENT_VAULT_KEYS names the same key twice")
        return keys

    def _path(self, value: str, key: str) -> Path:
        """A default lies in the checkout, so that commands work from any directory; a given path is the caller's."""
        path = Path(value).expanduser()
        return path if path.is_absolute() else (CHECKOUT if value == _defaults()[key] else Path.cwd()) / path


_HOW_TO_MAKE: Final = "`consent keys secret` prints a new one of each; keep them where your secrets live and give the same ones to every process"


def _defaults() -> dict[str, Any]:
    return tomllib.loads(DEFAULTS_FILE.read_text(encoding="utf-8"))


def _vault_key(text: str, place: int) -> bytes:
    try:
        key = base64.b64decode(text, altchars=b"-_" if {"-", "_"} & set(text) else None, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise SettingsError(f"CONSENT_VAULT_KEYS: key {place} is not 32 bytes in base64: {_HOW_TO_MAKE}")
    return key


def load_settings(environment: Mapping[str, str]) -> Settings:
    """The settings from the defaults and `environment`. Raises SettingsError; does not judge them, see `check_invariants`."""
    defaults = _defaults()
    _refuse_unknown(environment, _variables(defaults))
    values = {}
    for name, kind in typing.get_type_hints(Settings).items():
        if is_dataclass(kind):
            values[name] = _section(typing.cast("type[Any]", kind), name, defaults[name], environment)
        else:
            values[name] = environment.get(f"{PREFIX}{name.upper()}") or defaults[name]
    return Settings(**values)


def _section(kind: type[Any], section: str, defaults: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for item in fields(kind):
        variable = f"{PREFIX}{section}_{item.name}".upper()
        given = environment.get(variable)
        values[item.name] = _read(variable, given, hints[item.name]) if given else _frozen(defaults[item.name])
    return kind(**values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read(variable: str, text: str, kind: Any) -> Any:
    """A variable's value as the type its section declares."""
    if kind is str:
        return text.strip()
    if kind is not int and kind is not float:
        return tuple(_number(variable, part, float, "numbers separated by commas") for part in text.split(","))
    return _number(variable, text, kind, "a whole number" if kind is int else "a number")


def _number(variable: str, text: str, kind: type[int | float], expected: str) -> float:
    try:
        number = kind(text.strip())
    except ValueError:
        number = float("nan")
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124 - only NaN differs from itself
        raise SettingsError(f"{variable}: {expected} was expected")
    return number


def _variables(defaults: Mapping[str, Any]) -> set[str]:
    top = {f"{PREFIX}{key}".upper() for key, value in defaults.items() if not isinstance(value, dict)}
    return top | {f"{PREFIX}{name}_{key}".upper() for name, section in defaults.items() if isinstance(section, dict) for key in section}


def _refuse_unknown(environment: Mapping[str, str], known: set[str]) -> None:
    """Refuse what names a section of ours or nearly names a setting; other CONSENT_ variables serve the routing file."""
    prefixes = tuple(f"{PREFIX}{name}_".upper() for name in typing.get_type_hints(Settings) if name in _SECTIONS)
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in known:
            continue
        near = difflib.get_close_matches(variable, known, n=1, cutoff=0.6 if variable.startswith(prefixes) else 0.9)
        if near or variable.startswith(prefixes):
            raise SettingsError(f"{variable} is no setting" + (f"; did you mean {near[0]}?" if near else "; config/defaults.toml lists them all"))


_SECTIONS: Final = frozenset(name for name, kind in typing.get_type_hints(Settings).items() if is_dataclass(kind))


def check_invariants(settings: Settings) -> None:
    """Refuse settings that would break a promise. Raises SettingsError listing every one with its reason."""
    problems = [reason for holds, reason in sections.promises(settings) if not holds]
    if problems:
        raise SettingsError("unsafe settings:\n" + "\n".join(f"  {problem}" for problem in problems))
