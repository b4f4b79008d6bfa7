"""What a database holds, in numbers. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from gemmtune.store.tables import BEST, DEVICES, MEASUREMENTS, META, PROBLEMS


@dataclass(frozen=True, slots=True, kw_only=True)
class BestInfo:
    """The fastest of those that were timed in one way; times of different ways do not compare."""

    policy: str
    """Key of the measurement policy."""
    time_ns: float
    """Median time of one whole GEMM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemInfo:
    """One problem on one device."""

    key: str
    """`Gemm.key`."""
    ok: int
    """Configs verified and timed."""
    failed: int
    """Configs with a reason instead."""
    running: int
    """Configs not ended."""
    best: tuple[BestInfo, ...]
    """The fastest time under each policy, by policy; empty without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """One device."""

    key: str
    """`Device.key`."""
    first_seen: str
    """UTC, ISO 8601."""
    problems: tuple[ProblemInfo, ...]
    """By key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """One database."""

    where: str
    """Path or URL."""
    size_bytes: int
    """Of the file and its log; 0 where there is no file."""
    schema: int
    """Its number."""
    created_by: str
    """Version of the gemmtune that made it."""
    created_at: str
    """UTC, ISO 8601."""
    ok: int
    """Measurements."""
    failed: int
    """Failures."""
    running: int
    """Neither yet."""
    failures: tuple[tuple[str, int], ...]
    """Kinds of failure and how many, most first."""
    devices: tuple[DeviceInfo, ...]
    """By key."""


def info(connection: Connection, where: str, size_bytes: int, schema: int) -> Info:
    """Count everything."""
    meta = connection.execute(select(META)).mappings().one()
    counts = func.count().label("count")
    kinds = connection.execute(
        select(MEASUREMENTS.c.failure_kind, counts)
        .where(MEASUREMENTS.c.status == "failed")
        .group_by(MEASUREMENTS.c.failure_kind)
    ).all()
    by_status = select(MEASUREMENTS.c.status, counts).group_by(MEASUREMENTS.c.status)
    totals: dict[str, int] = {row[0]: row[1] for row in connection.execute(by_status)}
    return Info(
        where=where,
        size_bytes=size_bytes,
        schema=schema,
        created_by=meta["created_by"],
        created_at=meta["created_at"],
        ok=totals.get("ok", 0),
        failed=totals.get("failed", 0),
        running=totals.get("running", 0),
        failures=tuple(sorted(((k, n) for k, n in kinds), key=lambda pair: (-pair[1], pair[0]))),
        devices=_devices(connection),
    )


def _devices(connection: Connection) -> tuple[DeviceInfo, ...]:
    counted = (
        select(
            MEASUREMENTS.c.device_id,
            PROBLEMS.c.key,
            MEASUREMENTS.c.status,
            func.count(),
        )
        .join(PROBLEMS, PROBLEMS.c.id == MEASUREMENTS.c.problem_id)
        .group_by(MEASUREMENTS.c.device_id, PROBLEMS.c.key, MEASUREMENTS.c.status)
    )
    counts: dict[tuple[int, str], dict[str, int]] = {}
    for device, problem, status, count in connection.execute(counted).all():
        counts.setdefault((device, problem), {})[status] = count
    columns = (BEST.c.device_id, BEST.c.problem, BEST.c.policy, BEST.c.time_ns)
    times: dict[tuple[int, str], list[BestInfo]] = {}
    for device, problem, policy, ns in connection.execute(select(*columns).order_by(*columns)):
        times.setdefault((device, problem), []).append(BestInfo(policy=policy, time_ns=ns))
    return tuple(
        DeviceInfo(
            key=device["key"],
            first_seen=device["first_seen"],
            problems=tuple(
                ProblemInfo(
                    key=problem,
                    ok=by_status.get("ok", 0),
                    failed=by_status.get("failed", 0),
                    running=by_status.get("running", 0),
                    best=tuple(times.get((number, problem), ())),
                )
                for (number, problem), by_status in sorted(counts.items())
                if number == device["id"]
            ),
        )
        for device in connection.execute(select(DEVICES).order_by(DEVICES.c.key)).mappings()
    )
