"""Opening a database: engine, transactions, schema, and its errors in one place."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from gemmtune.errors import (
    MissingExtraError,
    StoreError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreVersionError,
)
from gemmtune.schema import (
    SCHEMA,
    connect_read_only,
    foreign,
    header_of,
    require_file,
    require_schema,
    store_error,
    translated,
)
from gemmtune.store.migrate import migrate
from gemmtune.store.tables import MEASUREMENTS, META, create_all

_PREPARING = 0x67656D6D  # "gemm", a number of ours among the server's advisory locks


class Database:
    """An open database: gives transactions and turns what goes wrong into StoreErrors.

    SQLite files run in WAL mode, so readers and one writer at a time do not wait for each other.
    Every commit reaches the disk before it returns: the journal has to survive the machine.
    """

    where: str
    """What messages call it: the path, or the URL without its password."""
    path: Path | None
    """The SQLite file; None behind any other URL."""
    read_only: bool
    """Nothing can be written through it."""
    schema: int
    """Number of the schema that it had when it was opened."""

    def __init__(
        self, path_or_url: str | Path, *, create: bool, read_only: bool, busy_timeout_s: float
    ) -> None:
        self.path, url = _target(path_or_url)
        self.where = str(self.path) if self.path else url.render_as_string(hide_password=True)
        self.read_only = read_only
        self._busy_timeout_s = busy_timeout_s
        if self.path is None:
            self._engine = _server_engine(url)
        else:
            if read_only or not create or self.path.is_dir():
                require_file(self.path)
            if self.path.exists():
                with self.errors():
                    header_of(self.path)
            self._engine = self._sqlite_engine(self.path)
        with ExitStack() as failed:
            failed.callback(self._engine.dispose)
            self._prepare(create=create and not read_only)
            failed.pop_all()

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """All that happens inside is committed together, or not at all.

        Raises:
            StoreError: one of its subclasses where there is a fitting one; nothing was changed.
        """
        if write and self.read_only:
            raise StoreReadOnlyError(f"{self.where} was opened for reading only")
        with self.errors(), self._engine.connect() as plain:
            connection = plain.execution_options(gemmtune_write=write)
            with connection.begin():
                yield connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What SQLAlchemy, SQLite or the system raises leaves as a StoreError."""
        try:
            if self.path is None:
                yield
            else:
                with translated(self.path):
                    yield
        except DBAPIError as error:
            if self.path is None or error.orig is None:
                raise StoreError(f"{self.where} cannot be used: {error.orig}") from error
            raise store_error(error.orig, self.path) from error

    def close(self) -> None:
        """Let go of the file; SQLite folds the log into it when its last user leaves."""
        self._engine.dispose()

    def compact(self) -> None:
        """Make the file as small as it can be and independent of WAL, e.g. to ship it."""
        if self.path is None:
            return
        if self.read_only:
            raise StoreReadOnlyError(f"{self.where} was opened for reading only")
        self._engine.dispose()
        with translated(self.path):
            connection = self._connect(self.path)
            try:
                connection.execute("PRAGMA journal_mode = DELETE").close()
                connection.execute("VACUUM").close()
            finally:
                connection.close()

    def _sqlite_engine(self, path: Path) -> Engine:
        pool = NullPool if self.read_only else QueuePool
        engine = create_engine("sqlite://", creator=lambda: self._connect(path), poolclass=pool)

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A transaction that starts with a read and then writes can fail without waiting for
            # the busy timeout: https://www.sqlite.org/isolation.html
            write = connection.get_execution_options().get("gemmtune_write")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

        return engine

    def _connect(self, path: Path) -> sqlite3.Connection:
        if self.read_only:
            connection = connect_read_only(path, self._busy_timeout_s)
        else:
            connection = sqlite3.connect(
                path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
            )
        connection.execute("PRAGMA foreign_keys = ON").close()
        return connection

    def _prepare(self, *, create: bool) -> None:
        """Leave with the right schema in place, or raise before anything is written."""
        with self.transaction() as connection:
            known = self._schema_of(connection)
        if not known and not create:
            raise StoreError(f"{self.where} is empty; `gemmtune tune` fills it")
        self.schema = known or SCHEMA
        if self.read_only:
            if self.schema < SCHEMA:
                self._read_a_migrated_copy()
            return
        if self.path is not None:
            self._use_wal(self.path)
        # Asked again under the write lock: another process may have been first. It also finds
        # out now, not after minutes of measuring, that nothing can be written.
        with self.transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":
                # Readers and writers do not wait for each other there; those who make tables must.
                connection.execute(select(func.pg_advisory_xact_lock(_PREPARING)))
            known = self._schema_of(connection)
            if not known:
                create_all(connection, _created_by())
            elif known < SCHEMA:
                migrate(connection, known)
        self.schema = SCHEMA

    def _read_a_migrated_copy(self) -> None:
        """From now on, read the older file as it is now, in memory and in today's schema."""
        if self.path is None:
            raise StoreVersionError(
                f"{self.where} has schema {self.schema}, which is older than {SCHEMA}: "
                f"`gemmtune tune` and `gemmtune db merge` bring it up to date"
            )
        with self.errors(), closing(self._connect(self.path)) as source:
            image = _migrated(source, self.schema)

        def copy() -> sqlite3.Connection:
            memory = _in_memory()
            memory.deserialize(image)
            return memory

        self._engine.dispose()
        self._engine = create_engine("sqlite://", creator=copy, poolclass=NullPool)

    def _schema_of(self, connection: Connection) -> int:
        """The schema's number where this is a database of ours that this code reads; 0: it is new.

        Raises:
            StoreError: it is somebody else's, or of a later gemmtune.
        """
        tables = set(inspect(connection).get_table_names())
        ours = {META.name, MEASUREMENTS.name}
        if not ours <= tables:
            if tables and self.path is not None:
                raise foreign(self.where)
            return 0
        numbers = connection.execute(select(META.c.schema)).scalars().all()
        number = numbers[0] if len(numbers) == 1 else 0
        require_schema(number, self.where)
        return number

    def _use_wal(self, path: Path) -> None:
        """Switch to WAL; SQLite does not wait for others by itself while it does that."""
        until = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                with self.errors():
                    connection = self._connect(path)
                    try:
                        connection.execute("PRAGMA journal_mode = WAL").close()
                    finally:
                        connection.close()
            except StoreLockedError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.01)
            else:
                return


def _target(path_or_url: str | Path) -> tuple[Path | None, URL]:
    """The SQLite file, or None and the URL of something else."""
    if isinstance(path_or_url, os.PathLike) or "://" not in path_or_url:
        path = Path(path_or_url).expanduser()
        return path, URL.create("sqlite", database=str(path))
    try:
        url = make_url(path_or_url)
    except ArgumentError as error:
        raise StoreError(f"{path_or_url.split('://')[0]}://... is not a database URL") from error
    if url.get_backend_name() != "sqlite":
        return None, url
    if url.database in (None, "", ":memory:"):
        raise StoreError(f"{path_or_url} keeps nothing; give the path of a file")
    return Path(str(url.database)), url


def _server_engine(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise StoreError(
            f"results go into no database {url.get_backend_name()!r}; "
            "give a file, or a postgresql:// URL"
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")  # else it would be psycopg2
    try:
        return create_engine(url)
    except NoSuchModuleError as error:
        raise StoreError(f"SQLAlchemy knows no database {url.drivername!r}") from error
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{url.drivername} needs the package {error.name}: pip install 'gemmtune[postgres]'"
        ) from error


def _in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _migrated(source: sqlite3.Connection, number: int) -> bytes:
    """The database ``source`` of schema ``number`` in today's schema, as SQLite serializes it."""
    memory = _in_memory()
    source.backup(memory)
    engine = create_engine("sqlite://", creator=lambda: memory, poolclass=StaticPool)
    with engine.begin() as connection:
        migrate(connection, number)
    image = bytearray(memory.serialize())
    engine.dispose()
    # There is no write-ahead log in memory: https://www.sqlite.org/fileformat.html#ffvnum
    image[18:20] = b"\1\1"
    return bytes(image)


def _created_by() -> str:
    from gemmtune import __version__

    return __version__


def integrity(connection: Connection) -> list[str]:
    """What SQLite finds wrong with its file; empty when nothing, or it is another database."""
    if connection.dialect.name != "sqlite":
        return []
    try:
        found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    except DBAPIError as error:
        return [f"the file is damaged: {error.orig}"]
    problems = [f"the file is damaged: {text}" for text in found if text != "ok"]
    return problems + [
        f"{row[0]} row {row[1]} points at a missing row of {row[2]}" for row in broken
    ]
