"""Opening a database and bringing its tables up to date."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, table, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql import column

from diptych.core.errors import Unavailable

HEAD = "0003"
"""The newest migration; a test holds it against the migrations folder. Known here so that a start that finds an
up-to-date database need not import Alembic."""
BUSY_MILLISECONDS = 10_000
CONNECT_SECONDS = 5
IDLE_SECONDS = 5.0
_READ_ONLY = "diptych_read_only"


class Database:
    """One engine. `write` and `read` are transactions; SQLite takes its write lock at the start of `write`, so that
    no transaction has to give up half-way."""

    def __init__(self, url: str) -> None:
        try:
            self.engine: Engine = _engine(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            # The URL itself is not told: it may hold a password.
            raise Unavailable(
                f"database_url is no SQLAlchemy URL of a database that can be used here "
                f"({str(error).splitlines()[0] if isinstance(error, NoSuchModuleError) else type(error).__name__}); "
                "an example: sqlite:////folder/diptych.sqlite3", param="database_url", code="database") from error
        if self.engine.dialect.name not in ("sqlite", "postgresql"):
            raise Unavailable(
                f"database_url names {self.engine.dialect.name!r}; Diptych uses SQLite, as in "
                "sqlite:////folder/diptych.sqlite3, or PostgreSQL, as in postgresql+psycopg://user:password@host/name",
                param="database_url", code="database")
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._writing = threading.Lock()
        if self.is_sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write. Raises Unavailable when the database is locked, full or gone."""
        with self._turn(), _told(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def each(self) -> Iterator[Connection]:
        """For one statement that may write. Where the database allows, every statement is a transaction of its own, and
        nobody waits for a BEGIN and a COMMIT."""
        if self.is_sqlite:
            with self.write() as connection:
                yield connection
            return
        with _told(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite has one writer at a time; its own way of waiting for the other sleeps too long and starves some."""
        if not self.is_sqlite:
            yield
            return
        if not self._writing.acquire(timeout=BUSY_MILLISECONDS / 1000):
            raise Unavailable("the database could not be used: it is locked", code="database")
        try:
            yield
        finally:
            self._writing.release()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        # PostgreSQL gives every statement a view of its own anyway: no BEGIN and no ROLLBACK to wait for.
        options: dict[str, Any] = {_READ_ONLY: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        with _told(), self.engine.connect().execution_options(**options) as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the tables to `HEAD`. Raises Unavailable when the database was written by a newer Diptych."""
        with _told():
            version = self._version()
            if version == HEAD:
                return
            if version is not None and version > HEAD:
                raise Unavailable(
                    f"the database is of a newer Diptych (tables {version}, known {HEAD}): update Diptych, or name "
                    "another data folder")
            self._upgrade()

    def close(self) -> None:
        self.engine.dispose()

    def _version(self) -> str | None:
        with self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.scalar(select(column("version_num")).select_from(table("alembic_version")))

    def _upgrade(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.begin() as connection:
            if not self.is_sqlite:
                # Two gateways that start at once must not both create the tables.
                connection.execute(text("SELECT pg_advisory_xact_lock(20261121)"))
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn the driver's errors into one clear line."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
        raise Unavailable(f"the database could not be used: {reason}", code="database") from error
    except PoolTimeout as error:
        raise Unavailable("the database could not be used: all connections are busy", code="database") from error


def _engine(url: str) -> Engine:
    made = make_url(url)  # parameters are hidden from errors: a prompt must not reach the log
    if made.get_backend_name() != "postgresql":
        return create_engine(made, hide_parameters=True)
    # Who waits longer for a lock or an answer is told so, and tries again.
    arguments = {"connect_timeout": CONNECT_SECONDS, "options": f"-c lock_timeout={BUSY_MILLISECONDS}"}
    engine = create_engine(made, hide_parameters=True, pool_timeout=CONNECT_SECONDS, connect_args=arguments)
    event.listen(engine, "checkin", _note_time)
    event.listen(engine, "checkout", _ask_whether_alive)
    return engine


def _note_time(connection: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _ask_whether_alive(connection: Any, record: Any, proxy: Any) -> None:
    """A connection that lay idle may be dead: then it is replaced. One that was just used is not asked every time."""
    if time.monotonic() - record.info.get("used", time.monotonic()) < IDLE_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Exception as error:
        raise DisconnectionError from error


def _set_up_sqlite(connection: Any, record: Any) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # transactions begin in _begin_sqlite
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
