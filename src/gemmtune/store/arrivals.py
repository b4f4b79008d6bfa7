"""Measurements that come from elsewhere than a database, e.g. from an exported document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gemmtune.device import Device
from gemmtune.forest import Forest
from gemmtune.job import Outcome, Versions
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.store.journal import Entry, device_columns, problem_columns
from gemmtune.store.merge import History
from gemmtune.store.owner import Owner
from gemmtune.store.rows import outcome_columns, owner_columns, to_json_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One finished measurement, with all of a row but its number and owner."""

    uuid: str
    """The same in every copy of the database."""
    gemm: Gemm
    """What was multiplied."""
    family: str
    """Name of the kernel family."""
    config: Config
    """The point of its space."""
    outcome: Outcome
    """What came of it."""
    versions: Versions
    """The software below the kernel."""
    generator_hash: str
    """Of template and generator."""
    policy: str
    """Key of the measurement policy."""
    seed: int
    """Of the inputs."""
    started_at: str
    """UTC, ISO 8601."""
    finished_at: str
    """UTC, ISO 8601."""


def history(device: Device, arrivals: Sequence[Arrival], forests: Mapping[str, Forest]) -> History:
    """The arrivals as rows of tables, as a database would hold them that has nothing else.

    Raises:
        ValueError: a measurement without a finite time above 0.
    """
    first = min((one.started_at for one in arrivals), default="")
    gemms = {one.gemm.key: one.gemm for one in arrivals}
    numbers = {key: number for number, key in enumerate(gemms, start=1)}
    owner = Owner.current("import")
    claims: set[str] = set()
    measurements: dict[str, dict[str, Any]] = {}
    for one in arrivals:
        claim = _entry(one, device, owner).claim
        measurements.setdefault(
            one.uuid,
            _columns(one)
            | owner_columns(owner)
            | {"id": len(measurements) + 1, "device_id": 1, "problem_id": numbers[one.gemm.key]}
            | {"claim": None if claim in claims else claim},
        )
        claims.add(claim)
    return History(
        devices=[{"id": 1, "first_seen": first, "described_at": first} | device_columns(device)],
        problems=[{"id": numbers[key]} | problem_columns(gemm) for key, gemm in gemms.items()],
        measurements=list(measurements.values()),
        forests=[{"device": device.key, "kind": k} | one.to_row() for k, one in forests.items()],
    )


def _entry(one: Arrival, device: Device, owner: Owner) -> Entry:
    return Entry(
        device=device,
        gemm=one.gemm,
        family=one.family,
        config=one.config,
        generator_hash=one.generator_hash,
        policy=one.policy,
        versions=one.versions,
        seed=one.seed,
        owner=owner,
        deadline_s=0.0,
    )


def _columns(one: Arrival) -> dict[str, Any]:
    """The columns that the arrival itself fills."""
    same = ("uuid", "family", "generator_hash", "policy", "seed", "started_at", "finished_at")
    return (
        {name: getattr(one, name) for name in same}
        | asdict(one.versions)
        | outcome_columns(one.outcome)
        | {
            "config_key": one.config.key,
            "config": to_json_text(one.config.to_json()),
            "deadline": one.finished_at,
        }
    )
