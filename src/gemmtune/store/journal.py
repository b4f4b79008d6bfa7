"""Writing: a row per config, committed before it runs, finished or explained afterwards.

Functions over a connection; transactions are the caller's. Decides nothing about what to measure.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Table, delete, select, update

from gemmtune.device import Device
from gemmtune.job import Failure, Outcome, Versions
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.store.owner import Owner
from gemmtune.store.rows import (
    Row,
    failure_columns,
    outcome_columns,
    owner_columns,
    read_rows,
    select_rows,
    to_json_text,
)
from gemmtune.store.tables import (
    DEVICES,
    INTERRUPTED,
    MEASUREMENTS,
    PROBLEMS,
    claim_of,
    insert_if_new,
    utc,
)

CRASH_MESSAGE = (
    "the tuner or the machine died while this config was {doing}, so it is skipped from now on; "
    "`gemmtune db retry` takes it back"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What `begin` writes down before a config runs."""

    device: Device
    """Where."""
    gemm: Gemm
    """What is multiplied."""
    family: str
    """Name of the kernel family."""
    config: Config
    """The point of its space."""
    generator_hash: str
    """Of template and generator."""
    policy: str
    """Key of the measurement policy."""
    versions: Versions
    """The software below the kernel."""
    seed: int
    """Of the inputs."""
    owner: Owner
    """Who runs it."""
    deadline_s: float
    """It has ended by then, one way or the other."""
    needs: str | None = None
    """What the kernel asks of a device, as JSON."""

    @property
    def claim(self) -> str:
        """The same for every attempt at the same thing."""
        return claim_of(
            *(self.device.key, self.gemm.key, self.family, self.config.key),
            *(self.generator_hash, self.policy),
            *(self.versions.driver, self.versions.backend),
            *(self.versions.wgpu, self.versions.compiler),
        )


def begin(connection: Connection, entry: Entry, now: datetime | None) -> int | None:
    """Insert the running row; None where the claim is taken."""
    started = datetime.now(UTC) if now is None else now
    versions = entry.versions
    name = uuid.uuid4().hex
    connection.execute(
        insert_if_new(connection, MEASUREMENTS).values(
            uuid=name,
            claim=entry.claim,
            device_id=device_id(connection, entry.device, started),
            problem_id=problem_id(connection, entry.gemm),
            family=entry.family,
            config_key=entry.config.key,
            config=to_json_text(entry.config.to_json()),
            status="running",
            seed=entry.seed,
            driver=versions.driver,
            backend=versions.backend,
            wgpu=versions.wgpu,
            compiler=versions.compiler,
            gemmtune=versions.gemmtune,
            generator_hash=entry.generator_hash,
            policy=entry.policy,
            started_at=utc(started),
            deadline=utc(started + timedelta(seconds=entry.deadline_s)),
            needs=entry.needs,
            **owner_columns(entry.owner),
        )
    )
    query = select(MEASUREMENTS.c.id).where(MEASUREMENTS.c.uuid == name)
    found: int | None = connection.execute(query).scalar_one_or_none()
    return found


def grant(connection: Connection, row_id: int, now: datetime | None) -> None:
    """Mark the row as about to have the device: from now on a death is laid at its door."""
    connection.execute(
        update(MEASUREMENTS).where(MEASUREMENTS.c.id == row_id).values(granted_at=utc(now))
    )


def finish(connection: Connection, row_id: int, outcome: Outcome, now: datetime | None) -> bool:
    """Fill the row; False where it is gone. An outcome also overrules a reaper's guess."""
    done = connection.execute(
        update(MEASUREMENTS)
        .where(MEASUREMENTS.c.id == row_id)
        .values(finished_at=utc(now), **outcome_columns(outcome))
    )
    return done.rowcount == 1


def abandon(connection: Connection, row_ids: Collection[int]) -> int:
    """Delete those of the rows that are still running."""
    done = connection.execute(
        delete(MEASUREMENTS).where(
            MEASUREMENTS.c.id.in_(row_ids), MEASUREMENTS.c.status == "running"
        )
    )
    return done.rowcount


def orphans(connection: Connection, now: datetime | None) -> list[Row]:
    """Running rows whose process is gone, or, where that cannot be seen, past their deadline."""
    query = select_rows().where(MEASUREMENTS.c.status == "running").order_by(MEASUREMENTS.c.id)
    rows = read_rows(connection, query)
    moment = utc(now)
    alive = {owner: owner.alive() for owner in {row.owner for row in rows}}
    return [
        row
        for row in rows
        if alive[row.owner] is False or (alive[row.owner] is None and row.deadline < moment)
    ]


def reap(connection: Connection, now: datetime | None) -> list[Row]:
    """Clear up what dead tuners left running; returns those rows as they were.

    One that had the device is now a failure of kind crash. One that was waiting or compiling is
    taken back, to run again, unless that has happened to it before: a compiler may take the
    machine down as well.
    """
    dead = orphans(connection, now)
    again = set(connection.execute(select(INTERRUPTED.c.claim)).scalars())
    for row in dead:
        if row.granted_at is not None or row.claim in again:
            doing = "running" if row.granted_at is not None else "compiling, for the second time"
            failure = Failure(kind="crash", message=CRASH_MESSAGE.format(doing=doing))
            values = {"status": "failed", "finished_at": utc(now)} | failure_columns(failure)
            connection.execute(
                update(MEASUREMENTS).where(MEASUREMENTS.c.id == row.id).values(values)
            )
        else:
            connection.execute(delete(MEASUREMENTS).where(MEASUREMENTS.c.id == row.id))
            if row.claim is not None:
                connection.execute(
                    insert_if_new(connection, INTERRUPTED).values(claim=row.claim, died_at=utc(now))
                )
    return dead


def retry(
    connection: Connection, kinds: Sequence[str], device_key: str | None, problem_key: str | None
) -> int:
    """Delete failed rows of these kinds, so that they may run again."""
    wanted: list[ColumnElement[bool]] = [
        MEASUREMENTS.c.status == "failed",
        MEASUREMENTS.c.failure_kind.in_(kinds),
    ]
    for table, column, key in (
        (DEVICES, MEASUREMENTS.c.device_id, device_key),
        (PROBLEMS, MEASUREMENTS.c.problem_id, problem_key),
    ):
        if key is not None:
            wanted.append(column.in_(select(table.c.id).where(table.c.key == key)))
    if "crash" in kinds:
        connection.execute(delete(INTERRUPTED))
    return connection.execute(delete(MEASUREMENTS).where(*wanted)).rowcount


def device_id(
    connection: Connection, device: Device, now: datetime | None, *, known_better: bool = False
) -> int:
    """The row of ``device``, made or brought up to date.

    Args:
        connection: of a transaction that writes.
        device: what it is.
        now: for tests; None is the present.
        known_better: what is known of the device already stays: this one is not yet probed.
    """
    columns = device_columns(device) | {"described_at": utc(now)}
    connection.execute(insert_if_new(connection, DEVICES).values(**columns, first_seen=utc(now)))
    if not known_better:
        outdated = (DEVICES.c.key == device.key, DEVICES.c.json != columns["json"])
        connection.execute(update(DEVICES).where(*outdated).values(columns))
    return _id(connection, DEVICES, device.key)


def problem_id(connection: Connection, gemm: Gemm) -> int:
    """The row of ``gemm``, made if need be."""
    connection.execute(insert_if_new(connection, PROBLEMS).values(**problem_columns(gemm)))
    return _id(connection, PROBLEMS, gemm.key)


def device_columns(device: Device) -> dict[str, str]:
    """What a device's row says of it."""
    text = to_json_text(device.to_json())
    return {"key": device.key, "hardware_key": device.hardware_key, "json": text}


def problem_columns(gemm: Gemm) -> dict[str, str | int]:
    """What a problem's row says of it."""
    sizes = {"m": gemm.m, "n": gemm.n, "k": gemm.k, "batch": gemm.batch}
    return sizes | {"key": gemm.key, "kind": gemm.kind, "json": to_json_text(gemm.to_json())}


def _id(connection: Connection, table: Table, key: str) -> int:
    found: int = connection.execute(select(table.c.id).where(table.c.key == key)).scalar_one()
    return found
