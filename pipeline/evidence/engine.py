"""The archive's database: SQLite or PostgreSQL by URL, brought to the newest schema when it is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from pipeline.errors import ArchiveUnavailable, ConfigurationError

HEAD: Final = "0003"
"""The newest revision in `migrations`."""
MIGRATIONS: Final = Path(__file__).with_name("migrations")
LOCK: Final = 7_305_808_863_110_501_221
"""One who writes at a time: the number of PostgreSQL's advisory lock."""
BUSY_SECONDS: Final = 10.0


def open_engine(url: str) -> Engine:
    """An engine for an archive's URL. Raises ConfigurationError for one that is none; its text never repeats the URL, which may carry a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "CONSENT_EVIDENCE_URL: a URL was expected, such as postgresql://relay@db.example.org/evidence or sqlite:////var/lib/e.sqlite"
        ) from None
    kind = parsed.get_backend_name()
    if kind in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    elif kind != "sqlite":
        raise ConfigurationError("CONSENT_EVIDENCE_URL: only postgresql:// and sqlite:/// are supported")
    try:
        engine = create_engine(parsed, pool_pre_ping=kind != "sqlite", hide_parameters=True, connect_args=_connect_args(kind))
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise ConfigurationError("CONSENT_EVIDENCE_URL: an option of it cannot be used") from None
    if kind == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _connect_args(kind: str) -> dict[str, Any]:
    return {"timeout": BUSY_SECONDS} if kind == "sqlite" else {"connect_timeout": 5}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Transactions begin where we say, readers never wait for the writer, and a commit is on the disk when it returns."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction of the one who writes; another waits. Raises ArchiveUnavailable."""
    with _translated(), engine.connect().execution_options(writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{int(BUSY_SECONDS)}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK})
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one moment, whatever is written meanwhile. Raises ArchiveUnavailable."""
    with _translated(), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901 - the same connection, told how
        with connection.begin():
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # Its text may quote values or the address.
        raise ArchiveUnavailable(
            f"the evidence archive cannot be used ({type(error).__name__}): check CONSENT_EVIDENCE_URL, its server and its disk"
        ) from error


def migrate(engine: Engine) -> None:
    """Bring the schema to this release's. Raises ArchiveUnavailable, and ConfigurationError for an archive of a newer release."""
    with _translated(), engine.connect() as connection:
        found = _version(connection)
    if found == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise ConfigurationError(f"the evidence archive has schema {found}, this release works with {HEAD}: use the newer release") from None


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("evidence_version"):
        return None
    return connection.execute(text("SELECT version_num FROM evidence_version")).scalar()
