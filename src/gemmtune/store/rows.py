"""One measurement as a value, and its way from and to a row of the table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, Select, select

from gemmtune.job import Failure, Measurement, Outcome, Versions
from gemmtune.kernels.base import Config
from gemmtune.schema import Fingerprints, parse_config
from gemmtune.store.owner import Owner
from gemmtune.store.tables import DEVICES, MEASUREMENTS, PROBLEMS

Status = Literal["running", "ok", "failed"]
"""running: dispatched, or about to be. ok: verified and timed. failed: has a reason instead."""

MESSAGE_LIMIT = 8000
"""Characters of a failure's message that are kept; some compilers repeat the whole shader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One config on one problem on one device: its time, its failure, or that it is running."""

    id: int
    """Number in this database, growing; never used twice."""
    uuid: str
    """The same in every copy of the database."""
    device_key: str
    """`Device.key`."""
    problem_key: str
    """`Gemm.key`."""
    family: str
    """Name of the kernel family."""
    config_key: str
    """`Config.key`."""
    config_json: str
    """The config as JSON text, as it was written; `config` reads it."""
    status: Status
    """See `Status`."""
    result: Measurement | Failure | None
    """What came back; None while running."""
    compile_s: float
    """Wall time of compilation."""
    verify_s: float
    """Wall time of verification, with making inputs and reference."""
    measure_s: float
    """Wall time of timing, with warm-up."""
    seed: int
    """Of the inputs."""
    versions: Versions
    """The software below the kernel."""
    generator_hash: str
    """Of template and generator."""
    policy: str
    """Key of the measurement policy."""
    started_at: str
    """UTC, ISO 8601."""
    finished_at: str | None
    """UTC, ISO 8601; None while running."""
    owner: Owner
    """The process that measured it."""
    deadline: str
    """UTC, ISO 8601; a row still running then belongs to a tuner that died."""
    granted_at: str | None
    """UTC, ISO 8601: when it was given the device; None before."""
    claim: str | None
    """The same for every attempt at the same thing; None where another row has it."""

    @property
    def time_ns(self) -> float | None:
        """Median time of one whole GEMM; None without a measurement."""
        return self.result.time_ns if isinstance(self.result, Measurement) else None

    @property
    def config(self) -> Config:
        """The config itself.

        Raises:
            ConfigError: this gemmtune has no such family, or it has other fields by now.
        """
        return parse_config(self.family, self.config_json)

    def demotions(
        self, versions: Versions, generator_hash: str, policy_key: str
    ) -> tuple[str, ...]:
        """Why this row is only a hint for who runs ``versions`` and so on; empty when it counts."""
        now = fingerprints(versions, generator_hash, policy_key)
        return fingerprints(self.versions, self.generator_hash, self.policy).demotions(now)


def fingerprints(versions: Versions, generator_hash: str, policy_key: str) -> Fingerprints:
    """All that must be the same for two times to compare."""
    return Fingerprints(
        driver=versions.driver,
        backend=versions.backend,
        wgpu=versions.wgpu,
        compiler=versions.compiler,
        generator_hash=generator_hash,
        policy=policy_key,
    )


def to_json_text(data: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no blanks: equal values, equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def select_rows() -> Select[Any]:
    """Every column of every measurement, with the keys of its device and problem."""
    return (
        select(
            MEASUREMENTS,
            DEVICES.c.key.label("device_key"),
            PROBLEMS.c.key.label("problem_key"),
        )
        .join(DEVICES, DEVICES.c.id == MEASUREMENTS.c.device_id)
        .join(PROBLEMS, PROBLEMS.c.id == MEASUREMENTS.c.problem_id)
    )


def read_rows(connection: Connection, query: Select[Any]) -> list[Row]:
    """The rows of a `select_rows` that was narrowed."""
    return [_row_of(values) for values in connection.execute(query).mappings()]


def _row_of(values: RowMapping) -> Row:
    """The value of one result of `select_rows`."""
    names = {f.name for f in fields(Row)} & {str(name) for name in values}
    seconds: dict[str, Any] = {
        name: values[name] or 0.0 for name in ("compile_s", "verify_s", "measure_s")
    }
    return Row(
        **{name: values[name] for name in names - set(seconds)},
        **seconds,
        config_json=values["config"],
        result=_result_of(values),
        versions=Versions(**{f.name: values[f.name] for f in fields(Versions)}),
        owner=owner_of(values),
    )


def owner_of(values: RowMapping) -> Owner:
    """The owner columns as a value."""
    return Owner(**{f.name: values[f"owner_{f.name}"] for f in fields(Owner)})


def _result_of(values: RowMapping) -> Measurement | Failure | None:
    if values["status"] == "ok":
        # SQLite keeps a NaN as NULL.
        numbers: dict[str, Any] = {f.name: values[f.name] for f in fields(Measurement)}
        numbers |= {name: math.nan for name, value in numbers.items() if value is None}
        return Measurement(**numbers)
    if values["status"] == "failed":
        return Failure(kind=values["failure_kind"], message=values["failure_message"] or "")
    return None


def owner_columns(owner: Owner) -> dict[str, str | int]:
    """The owner as columns."""
    return {f"owner_{name}": value for name, value in asdict(owner).items()}


def outcome_columns(outcome: Outcome) -> dict[str, Any]:
    """The columns that an outcome fills."""
    times = outcome.kept_s
    if isinstance(outcome.result, Measurement):
        if not 0.0 < outcome.result.time_ns < math.inf:
            raise ValueError(f"a measurement's time is {outcome.result.time_ns} ns")
        cleared = {"failure_kind": None, "failure_message": None}
        return {"status": "ok"} | asdict(outcome.result) | cleared | times
    # A config may have had a time before, and fail when it is measured again.
    none: dict[str, Any] = {f.name: None for f in fields(Measurement)}
    return {"status": "failed"} | none | failure_columns(outcome.result) | times


def failure_columns(failure: Failure) -> dict[str, str]:
    """Kind and message; the message cut, and without what a database cannot hold as text."""
    text = failure.message.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    if len(text) > MESSAGE_LIMIT:
        text = text[:MESSAGE_LIMIT] + " [cut]"
    return {"failure_kind": failure.kind, "failure_message": text}
