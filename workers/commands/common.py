"""What the commands share: the environment they work in, their parts, and how errors become exit codes."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from config.settings import Settings
    from workers.wiring import Parts

FAILED, WRONG = 1, 2
"""Exit codes: the thing failed; usage or configuration is wrong."""


class Group(click.Group):
    """A group whose commands report expected errors in one line and as an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from config.settings import SettingsError
        from pipeline.errors import ConfigurationError, ConsentRelayError, LedgerMismatch
        from workers.embedded import ServerFailed
        from workers.supervisor import StartFailed

        try:
            return super().invoke(ctx)
        except (SettingsError, ConfigurationError, LedgerMismatch) as error:
            code, text = WRONG, str(error)
        except (StartFailed, ServerFailed, ConsentRelayError) as error:
            code, text = FAILED, str(error)
        click.echo(f"consent: {text}", err=True)
        raise SystemExit(code)


def environment(*, of_running: bool = False) -> dict[str, str]:
    """The environment of the command; with `of_running` and no CONSENT_REDIS_URL, completed by that of a running `consent up` of the same state directory.

    What the caller has set wins, but for ports: 0 let `up` choose one.
    """
    own = dict(os.environ)
    if not of_running or own.get("CONSENT_REDIS_URL"):
        return own
    given = {name: value for name, value in own.items() if value and not name.endswith("_PORT")}
    return {**own, **_of_running(own), **given}


def _of_running(own: Mapping[str, str]) -> dict[str, str]:
    from config.settings import load_settings
    from workers.state import ENVIRONMENT_FILE, StateFolder

    folder = StateFolder(load_settings(own).state_path())
    found = folder.recall(ENVIRONMENT_FILE) if folder.is_locked() else ""
    return dict(json.loads(found)) if found else {}


def _refuse_without_running() -> None:
    """Say at once that nothing is there to look at; a missing variable is only half of that."""
    from config.settings import SettingsError, load_settings

    found = environment(of_running=True)
    if not found.get("CONSENT_REDIS_URL"):
        raise SettingsError(
            f"no `consent up` is running on {load_settings(found).state_path()}: start one, name the directory of the running one in CONSENT_STATE_DIR, "
            "or set CONSENT_REDIS_URL, CONSENT_SUBJECT_PEPPER and CONSENT_VAULT_KEYS"
        )


def settings(*, of_running: bool = False) -> Settings:
    """The settings, checked."""
    from config.settings import check_invariants, load_settings

    found = load_settings(environment(of_running=of_running))
    check_invariants(found)
    return found


def parts(role: str, *, of_running: bool = False, looks_only: bool = False) -> Parts:
    """The parts of a command's process, with its logging set up; a command about what is running makes no ledger where there is none."""
    from config.logging import setup_logging
    from workers.wiring import Parts

    built = Parts(environment(of_running=of_running), looks_only=looks_only)
    built.makes_ledger = not of_running
    setup_logging(built.settings, role)
    return built


def console(*, to_error: bool = False) -> Console:
    """A terminal that knows its width; elsewhere (a file, a pipe) lines are wide enough for ids."""
    from rich.console import Console

    found = Console(stderr=to_error, highlight=False)
    return found if found.is_terminal else Console(stderr=to_error, highlight=False, width=150)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table whose ids are never cut; where it has no room, lines."""
    from workers.commands.whole import WholeTable

    return WholeTable(title, columns, rows)


def show(value: Mapping[str, Any], *, as_json: bool, pretty: Callable[[], None]) -> None:
    """Print for programs or for people."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))
    else:
        pretty()


def set_up_logging(found: Settings, role: str) -> None:
    """Logging of a process that runs on."""
    from config.logging import setup_logging

    setup_logging(found, role)


@contextmanager
def opened(role: str, *, looks_only: bool = False) -> Iterator[Parts]:
    """The parts of a short command, which may look at a running `consent up`; its log lines are warnings only.

    With `looks_only` it does without the secrets that the routing file names.
    """
    _refuse_without_running()
    built = parts(role, of_running=True, looks_only=looks_only)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        yield built
    finally:
        built.close()


def refuse_unknown_destination(name: str, known: Iterable[str]) -> None:
    """Refuse a name that is none, so that a typing error is not taken for nothing to do."""
    names = sorted(known)
    if name not in names:
        raise click.UsageError(f"no destination {name!r}; there is {', '.join(names) or 'none'}")


def is_sure(question: str) -> bool:
    """Whether a person says yes. Raises Abort where nobody can answer; the question's line ends before that is said."""
    try:
        return click.confirm(question, err=True)
    except (click.Abort, RuntimeError):  # the latter without any standard input
        click.echo(err=True)
        raise click.Abort from None


def confirm(question: str) -> None:
    """Go on only with a yes. Raises Abort."""
    if not is_sure(question):
        raise click.Abort


def as_dict(value: Any) -> Any:
    """A report as plain values, whether it is a mapping, a dataclass or knows how to say itself."""
    if hasattr(value, "as_json"):
        return value.as_json()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
