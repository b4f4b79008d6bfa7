"""The database behind ``--storage``: its URL checked, its errors as ours. Optuna writes into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Engine, create_engine, func, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from gemmtune.errors import MissingExtraError, StoreError, UsageError
from gemmtune.store.tables import MEASUREMENTS, META

_PREPARING = 0x6F707475  # "optu", a number of ours among the server's advisory locks


def storage_url(text: str) -> URL:
    """The URL of a database that Optuna can use and that outlives this process.

    Raises:
        UsageError: it is none.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise UsageError(
            f"--storage {text.split('://')[0]!r} is not a database URL; write "
            "postgresql://user@host/name or sqlite:///FILE"
        ) from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise UsageError(f"--storage {text} keeps nothing; give a file: sqlite:///FILE")
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")  # else it would be psycopg2
    return url


@contextmanager
def preparing(url: URL) -> Iterator[None]:
    """Inside, the database is reachable, and nobody else makes tables in it.

    Raises:
        StoreError: it cannot be used.
        UsageError: it is a file that holds results.
        MissingExtraError: the package that speaks to it is not installed.
    """
    where = url.render_as_string(hide_password=True)
    engine = _engine(url)
    try:
        with storage_errors(where), engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            if engine.dialect.name == "sqlite" and {META.name, MEASUREMENTS.name} & tables:
                raise UsageError(
                    f"--storage {where} is a file with results, as --db takes; the search needs "
                    "a file of its own"
                )
            if engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_PREPARING)))
            else:
                connection.rollback()
            yield
    finally:
        engine.dispose()


def _engine(url: URL) -> Engine:
    try:
        return create_engine(url)
    except NoSuchModuleError as error:
        raise UsageError(
            f"SQLAlchemy knows no database {url.drivername!r}; write "
            "postgresql://user@host/name or sqlite:///FILE"
        ) from error
    except ModuleNotFoundError as error:
        ours = url.drivername == "postgresql+psycopg"
        hint = "pip install 'gemmtune[postgres]'" if ours else "install what brings it"
        raise MissingExtraError(
            f"--storage {url.drivername}:// needs the package {error.name}: {hint}"
        ) from error


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """What SQLAlchemy raises leaves as a StoreError about ``where``."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise StoreError(
            f"--storage {where} cannot be used: {str(cause).strip()}; see that it is there and "
            "that you may write to it"
        ) from error
