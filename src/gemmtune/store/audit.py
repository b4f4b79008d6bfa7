"""Whether a database says what it should: every finding is one line. Repairs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import Connection, RowMapping, select

from gemmtune.device import Device
from gemmtune.errors import ConfigError, ProblemError
from gemmtune.generators import generator_hash
from gemmtune.job import FAILURE_KINDS
from gemmtune.kernels import FAMILIES
from gemmtune.problem import Gemm
from gemmtune.schema import parse_config
from gemmtune.store.database import integrity
from gemmtune.store.journal import orphans
from gemmtune.store.rows import Status
from gemmtune.store.tables import BEST, DEVICES, MEASUREMENTS, PROBLEMS


def check(connection: Connection, now: datetime | None) -> list[str]:
    """Everything that is wrong, a line each; empty for a sound database."""
    damage = integrity(connection)
    if damage:
        return damage  # what is read from a damaged file says nothing
    return [
        *_devices(connection),
        *_problems(connection),
        *_measurements(connection),
        *_best(connection),
        *_orphans(connection, now),
    ]


def _devices(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(DEVICES)).mappings():
        try:
            device = Device.from_json(json.loads(row["json"]))
        except (ValueError, TypeError, AttributeError) as error:
            yield f"device {row['key']} is not readable: {error}"
            continue
        if (device.key, device.hardware_key) != (row["key"], row["hardware_key"]):
            yield f"device {row['key']} holds the values of {device.key}"


def _problems(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(PROBLEMS)).mappings():
        try:
            gemm = Gemm.from_json(json.loads(row["json"]))
        except (ValueError, TypeError, ProblemError) as error:
            yield f"problem {row['key']} is not readable: {error}"
            continue
        sizes = (gemm.m, gemm.n, gemm.k, gemm.batch)
        if (gemm.key, gemm.kind) != (row["key"], row["kind"]) or sizes != tuple(
            row[name] for name in ("m", "n", "k", "batch")
        ):
            yield f"problem {row['key']} holds the values of {gemm.key}"


def _measurements(connection: Connection) -> Iterator[str]:
    seen: dict[tuple[str, str, str, str], str | None] = {}
    for row in connection.execute(select(MEASUREMENTS).order_by(MEASUREMENTS.c.id)).mappings():
        identity = (row["family"], row["config"], row["config_key"], row["generator_hash"])
        if identity not in seen:
            seen[identity] = _config(*identity)
        reason = seen[identity] or _status(row)
        if reason:
            yield f"measurement {row['id']}: {reason}"


def _config(family: str, config: str, config_key: str, template: str) -> str | None:
    """What is wrong with a config. One of an older template may have other fields: no fault."""
    try:
        key = parse_config(family, config).key
    except ConfigError as error:
        older = family in FAMILIES and template != generator_hash(family)
        return None if older and _is_json(config) else str(error)
    return None if key == config_key else f"its config is {key} and its key says {config_key}"


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def _status(row: RowMapping) -> str | None:
    if row["status"] not in get_args(Status):
        return f"its status is {row['status']!r}"
    if row["status"] == "ok" and not (row["time_ns"] or 0.0) > 0.0:
        return "it is ok and has no time"
    if row["status"] == "failed" and row["failure_kind"] not in FAILURE_KINDS:
        return f"it failed with the unknown kind {row['failure_kind']!r}"
    return None


def _best(connection: Connection) -> Iterator[str]:
    """The view against the same thing worked out from every row."""
    columns = [
        MEASUREMENTS.c[name]
        for name in (
            *("device_id", "problem_id", "policy"),
            *("time_ns", "family", "config_key", "uuid", "id"),
        )
    ]
    fastest: dict[tuple[int, int, str], tuple[Any, ...]] = {}
    for device, problem, policy, *order in connection.execute(
        select(*columns).where(MEASUREMENTS.c.status == "ok", MEASUREMENTS.c.time_ns.is_not(None))
    ).all():
        here = (device, problem, policy)
        fastest[here] = min(fastest.get(here, tuple(order)), tuple(order))
    view = select(BEST.c.device_id, BEST.c.problem_id, BEST.c.policy, BEST.c.measurement_id)
    shown = {tuple(where): row for *where, row in connection.execute(view)}
    for here in sorted(set(fastest) | set(shown)):
        expected = fastest[here][-1] if here in fastest else None
        if shown.get(here) != expected:
            yield f"best shows measurement {shown.get(here)} where {expected} is the fastest"


def _orphans(connection: Connection, now: datetime | None) -> Iterator[str]:
    for row in orphans(connection, now):
        yield (
            f"measurement {row.id} is marked running by process {row.owner.pid} of "
            f"{row.owner.host}, which is gone; the next `gemmtune tune` clears it up"
        )
