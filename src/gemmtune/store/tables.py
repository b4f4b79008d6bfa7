"""The tables of the schema in SQLAlchemy's words. Holds no results, runs no statements itself."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Insert,
    Integer,
    MetaData,
    String,
    Table,
    TableClause,
    Text,
    column,
    insert,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

from gemmtune import schema
from gemmtune.schema import BEST_VIEW, SCHEMA

METADATA = MetaData()

_ID = BigInteger().with_variant(Integer(), "sqlite")

META = Table(
    "meta",
    METADATA,
    Column("schema", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

DEVICES = Table(
    "devices",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("hardware_key", Text, nullable=False),
    Column("json", Text, nullable=False),
    Column("first_seen", Text, nullable=False),
    # When json was last written; a merge takes the newer description. New in schema 2.
    Column("described_at", Text),
)

PROBLEMS = Table(
    "problems",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("m", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("k", BigInteger, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("json", Text, nullable=False),
)

MEASUREMENTS = Table(
    "measurements",
    METADATA,
    Column("id", _ID, primary_key=True),
    # The same row in every copy of the database.
    Column("uuid", String(32), nullable=False, unique=True),
    # One config is measured once per set of fingerprints (`claim_of`).
    # NULL: merged in beside another that has the claim.
    Column("claim", String(32), unique=True),
    Column("device_id", _ID, ForeignKey("devices.id"), nullable=False),
    Column("problem_id", _ID, ForeignKey("problems.id"), nullable=False),
    Column("family", Text, nullable=False),
    Column("config_key", Text, nullable=False),
    Column("config", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("failure_kind", Text),
    Column("failure_message", Text),
    Column("time_ns", Double),
    Column("spread", Double),
    Column("min_ns", Double),
    Column("repetitions", Integer),
    Column("clock", Text),
    Column("max_abs_error", Double),
    Column("max_rel_error", Double),
    Column("tolerance", Double),
    Column("compile_s", Double),
    Column("verify_s", Double),
    Column("measure_s", Double),
    Column("seed", BigInteger, nullable=False),
    Column("driver", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("wgpu", Text, nullable=False),
    Column("compiler", Text, nullable=False),
    Column("gemmtune", Text, nullable=False),
    Column("generator_hash", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("owner_host", Text, nullable=False),
    Column("owner_pid", BigInteger, nullable=False),
    Column("owner_start", Text, nullable=False),
    Column("owner_run", Text, nullable=False),
    Column("deadline", Text, nullable=False),
    # When the device was given to it; NULL: it was waiting or compiling. New in schema 2.
    Column("granted_at", Text),
    # What its kernel asks of a device, as JSON; NULL: not written down. New in schema 2.
    Column("needs", Text),
    CheckConstraint("status IN ('running', 'ok', 'failed')", name="known_status"),
    CheckConstraint("(status = 'ok') = (time_ns IS NOT NULL)", name="ok_has_time"),
    CheckConstraint("(status = 'failed') = (failure_kind IS NOT NULL)", name="failed_has_kind"),
    Index("measurements_by_problem", "device_id", "problem_id", "status"),
    # Without it SQLite gives the number of a deleted row to the next one.
    sqlite_autoincrement=True,
)

INTERRUPTED = Table(
    "interrupted",
    METADATA,
    # Of a config whose tuner died once before the config was given the device. New in schema 2.
    Column("claim", String(32), primary_key=True),
    Column("died_at", Text, nullable=False),
)

PROBES = Table(
    "probes",
    METADATA,
    Column("id", _ID, primary_key=True),
    # One question is answered once per device and basis. New in schema 2.
    Column("claim", String(32), nullable=False, unique=True),
    Column("device_id", _ID, ForeignKey("devices.id"), nullable=False),
    # What the answer depends on beside the device and its driver, as JSON.
    Column("basis", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("number", BigInteger),
    Column("detail", Text),
    Column("failure_kind", Text),
    Column("failure_message", Text),
    Column("started_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("owner_host", Text, nullable=False),
    Column("owner_pid", BigInteger, nullable=False),
    Column("owner_start", Text, nullable=False),
    Column("owner_run", Text, nullable=False),
    CheckConstraint("status IN ('running', 'ok', 'failed')", name="known_probe_status"),
    CheckConstraint("(status = 'ok') = (number IS NOT NULL)", name="answer_has_number"),
    CheckConstraint("(status = 'failed') = (failure_kind IS NOT NULL)", name="probe_has_kind"),
)

FORESTS = Table(
    schema.FORESTS,
    MetaData(),  # not made with the others: most databases have none
    Column("device", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("newest", Text, nullable=False),
    # Measurements up to this number are no newer, which spares lookups most of the table.
    Column("known", BigInteger, nullable=False),
    # Family and config of each number in the trees, and the trees, as JSON.
    Column("configs", Text, nullable=False),
    Column("trees", Text, nullable=False),
)

BEST = TableClause(
    "best",
    *(
        column(name)
        for name in (
            "measurement_id",
            "device_id",
            "problem_id",
            "device",
            "problem",
            "policy",
            "time_ns",
        )
    ),
)
"""The view, as far as it is used here."""


def create_all(connection: Connection, created_by: str) -> None:
    """Make every table and view; the caller's transaction makes that all or nothing."""
    METADATA.create_all(connection)
    connection.execute(text(BEST_VIEW))
    connection.execute(
        insert(META).values(schema=SCHEMA, created_by=created_by, created_at=utc(None))
    )


def insert_if_new(connection: Connection, table: Table) -> Insert:
    """INSERT that does nothing where a unique value is taken already, also by another process."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def utc(moment: datetime | None) -> str:
    """``moment`` (None: now) as ISO text of one fixed width, so that text order is time order."""
    moment = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def claim_of(*parts: str) -> str:
    """Short text that is the same for the same identity of a measurement."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
