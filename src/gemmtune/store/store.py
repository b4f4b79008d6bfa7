"""The store: one object over one database, for tuning, looking through and merging."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import select

from gemmtune.device import Device
from gemmtune.errors import StoreError
from gemmtune.forest import Forest
from gemmtune.job import FailureKind, Outcome, Policy, Versions
from gemmtune.kernels.base import Config, Needs
from gemmtune.probes import Finding
from gemmtune.problem import Gemm
from gemmtune.store import audit, journal, merge, probes
from gemmtune.store import forests as table_of_forests
from gemmtune.store.arrivals import Arrival, history
from gemmtune.store.database import Database
from gemmtune.store.info import Info, info
from gemmtune.store.merge import MergeReport
from gemmtune.store.owner import Owner
from gemmtune.store.rows import Row, read_rows, select_rows, to_json_text
from gemmtune.store.tables import BEST, DEVICES, MEASUREMENTS, PROBES, PROBLEMS


class Store:
    """An open database. May be used from several threads and, the file, by several processes.

    Every method is one transaction: it is on the disk when the method returns, or nothing
    happened. ``now`` is for tests; None is the present.

    Raises (any method):
        StoreError: the database cannot be used; the subclass says why. It is left as it was.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(
        cls,
        path_or_url: str | Path,
        *,
        create: bool = True,
        read_only: bool = False,
        busy_timeout_s: float = 30.0,
    ) -> Store:
        """Open a path (SQLite) or an SQLAlchemy URL; to be closed, e.g. by ``with``.

        Args:
            path_or_url: a file, or anything with ``://``.
            create: make the database where there is none, or an empty file.
            read_only: change nothing, not even beside the file.
            busy_timeout_s: how long to wait for another process's transaction.

        Raises:
            StoreError: there is none, or it cannot be used; the subclass says why.
        """
        return cls(
            Database(path_or_url, create=create, read_only=read_only, busy_timeout_s=busy_timeout_s)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; a file is then complete in itself. May be called twice."""
        self._database.close()

    @property
    def where(self) -> str:
        """The path, or the URL without its password."""
        return self._database.where

    @property
    def path(self) -> Path | None:
        """The SQLite file; None behind any other URL."""
        return self._database.path

    @property
    def unused(self) -> bool:
        """Nothing has been measured or probed for it yet."""
        queries = (select(table.c.id).limit(1) for table in (MEASUREMENTS, PROBES))
        with self._database.transaction() as connection:
            return all(connection.execute(query).first() is None for query in queries)

    # Journal

    def begin(
        self,
        device: Device,
        gemm: Gemm,
        family: str,
        config: Config,
        *,
        generator_hash: str,
        policy: Policy,
        versions: Versions,
        seed: int,
        owner: Owner,
        deadline_s: float,
        needs: Needs | None = None,
        now: datetime | None = None,
    ) -> int | None:
        """Write down that ``config`` is about to run; to be called before it is dispatched.

        Returns:
            The number of the row; None when it has been measured under the same versions, template
            and policy already, or someone is at it.
        """
        entry = journal.Entry(
            device=device,
            gemm=gemm,
            family=family,
            config=config,
            generator_hash=generator_hash,
            policy=policy.key,
            versions=versions,
            seed=seed,
            owner=owner,
            deadline_s=deadline_s,
            needs=None if needs is None else to_json_text(needs.to_json()),
        )
        with self._database.transaction(write=True) as connection:
            return journal.begin(connection, entry, now)

    def grant(self, row_id: int, *, now: datetime | None = None) -> None:
        """Write down that a config is about to have the device; to be called before it has."""
        with self._database.transaction(write=True) as connection:
            journal.grant(connection, row_id, now)

    def finish(self, row_id: int, outcome: Outcome, *, now: datetime | None = None) -> bool:
        """Write down what came of it; False when the row has been taken back meanwhile.

        Raises:
            ValueError: a measurement without a finite time above 0.
        """
        with self._database.transaction(write=True) as connection:
            return journal.finish(connection, row_id, outcome, now)

    def abandon(self, row_ids: Collection[int]) -> int:
        """Take back rows of jobs that were cancelled; finished ones stay. Returns how many."""
        with self._database.transaction(write=True) as connection:
            return journal.abandon(connection, row_ids)

    def reap(self, *, now: datetime | None = None) -> list[Row]:
        """Clear up what is running by a process that is gone; returns those rows as they were.

        What had the device is marked as crashed. What had not is taken back, the first time.
        A process of another host counts as gone when the row's deadline has passed.
        """
        with self._database.transaction(write=True) as connection:
            return journal.reap(connection, now)

    def retry(
        self,
        *,
        kinds: Sequence[FailureKind] = ("crash",),
        device_key: str | None = None,
        problem_key: str | None = None,
    ) -> int:
        """Delete failures of these kinds, so that their configs run again. Returns how many.

        Without ``problem_key``, failed probes are taken back too.
        """
        with self._database.transaction(write=True) as connection:
            count = journal.retry(connection, kinds, device_key, problem_key)
            if problem_key is None:
                count += probes.retry(connection, kinds, device_key)
            return count

    # What was probed; see `gemmtune.probes.Memory`

    def findings(self, device: Device, basis: str) -> dict[str, Finding]:
        """What was found out about a device on this basis, by question."""
        with self._database.transaction() as connection:
            return probes.findings(connection, device, basis)

    def begin_probe(self, device: Device, basis: str, question: str) -> None:
        """Write down that a question is about to be put to the driver."""
        owner = Owner.current("probe")
        with self._database.transaction(write=True) as connection:
            probes.begin(connection, device, basis, question, owner, None)

    def finish_probe(self, device: Device, basis: str, question: str, finding: Finding) -> None:
        """Write down what came of it."""
        owner = Owner.current("probe")
        with self._database.transaction(write=True) as connection:
            probes.finish(connection, device, basis, question, finding, owner, None)

    def describe(self, device: Device) -> None:
        """Write down what a device was found to be."""
        with self._database.transaction(write=True) as connection:
            journal.device_id(connection, device, None)

    # Reading

    def measurements(
        self,
        device_key: str,
        problem_key: str,
        *,
        since_id: int = 0,
        but: Collection[int] = (),
    ) -> list[Row]:
        """Every row of a problem on a device with a number above ``since_id``, oldest first.

        Args:
            device_key: which device.
            problem_key: which problem.
            since_id: number of a row.
            but: numbers of rows to leave out.
        """
        query = (
            select_rows()
            .where(DEVICES.c.key == device_key, PROBLEMS.c.key == problem_key)
            .where(MEASUREMENTS.c.id > since_id)
            .order_by(MEASUREMENTS.c.id)
        )
        if but:
            query = query.where(MEASUREMENTS.c.id.not_in(but))
        with self._database.transaction() as connection:
            return read_rows(connection, query)

    def best(self, device_key: str | None = None, problem_key: str | None = None) -> list[Row]:
        """The fastest row of each problem on each device under each policy, or of those named."""
        query = select_rows().join(BEST, BEST.c.measurement_id == MEASUREMENTS.c.id)
        for table, key in ((DEVICES, device_key), (PROBLEMS, problem_key)):
            if key is not None:
                query = query.where(table.c.key == key)
        query = query.order_by(DEVICES.c.key, PROBLEMS.c.key, MEASUREMENTS.c.policy)
        with self._database.transaction() as connection:
            return read_rows(connection, query)

    def devices(self) -> list[Device]:
        """Every device, by key."""
        query = select(DEVICES.c.json).order_by(DEVICES.c.key)
        with self._database.transaction() as connection:
            texts = connection.execute(query).scalars().all()
        return [Device.from_json(json.loads(text)) for text in texts]

    def problems(self, device_key: str | None = None) -> list[Gemm]:
        """Every problem, or those that ``device_key`` has rows of, by size."""
        query = select(PROBLEMS.c.json).order_by(
            *(PROBLEMS.c[name] for name in ("kind", "m", "n", "k", "batch", "key"))
        )
        if device_key is not None:
            rows = select(MEASUREMENTS.c.problem_id).join(
                DEVICES, DEVICES.c.id == MEASUREMENTS.c.device_id
            )
            query = query.where(PROBLEMS.c.id.in_(rows.where(DEVICES.c.key == device_key)))
        with self._database.transaction() as connection:
            texts = connection.execute(query).scalars().all()
        return [Gemm.from_json(json.loads(text)) for text in texts]

    def forests(self, device_key: str) -> dict[str, Forest]:
        """Which configs to take first on a device, by `Gemm.kind`."""
        with self._database.transaction() as reading:
            rows = [row for row in table_of_forests.read(reading) if row["device"] == device_key]
        return {
            row["kind"]: Forest.from_row(row["newest"], row["configs"], row["trees"])
            for row in rows
        }

    def info(self) -> Info:
        """What the database holds, in numbers."""
        path = self._database.path
        files = [path, path.with_name(path.name + "-wal")] if path else []
        size_bytes = sum(file.stat().st_size for file in files if file.exists())
        with self._database.transaction() as connection:
            return info(connection, self.where, size_bytes, self._database.schema)

    def check(self, *, now: datetime | None = None) -> list[str]:
        """What is wrong with the database, a line each; empty when it is sound."""
        with self._database.transaction() as connection:
            return audit.check(connection, now)

    # Whole databases

    def merge(self, other: str | Path, *, top: int | None = None) -> MergeReport:
        """Take in what another database holds. It is only read; doing it again changes nothing.

        Args:
            other: path or URL.
            top: only so many of the fastest rows of each problem, family and device, e.g. to ship,
                and the other times of the fastest, from which lookups predict.

        Raises:
            StoreError: ``other`` cannot be read, or is this database.
        """
        with Store.open(other, create=False, read_only=True) as source:
            if self.path and source.path and self.path.samefile(source.path):
                raise StoreError(f"{other} is the database to merge into; give another one")
            with source._database.transaction() as reading:
                history = merge.read(reading)
        with self._database.transaction(write=True) as writing:
            return merge.write(writing, history, source.where, top)

    def take_in(
        self,
        device: Device,
        arrivals: Sequence[Arrival],
        source: str,
        forests: Mapping[str, Forest] | None = None,
    ) -> MergeReport:
        """Add measurements that come from elsewhere; those that are here already stay as they are.

        Args:
            device: where they were taken.
            arrivals: the measurements.
            source: what the report calls the place they come from.
            forests: what to take first there, by `Gemm.kind`; older ones stay out.

        Raises:
            ValueError: a measurement without a finite time above 0.
        """
        whole = history(device, arrivals, forests or {})
        with self._database.transaction(write=True) as writing:
            return merge.write(writing, whole, source)

    def compact(self) -> None:
        """Make the file small and free of its log, e.g. to ship it; only while nobody else uses it.

        Raises:
            StoreLockedError: somebody does.
        """
        self._database.compact()
