"""Copying the history of one database into another; both keep what they had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from gemmtune.store import forests
from gemmtune.store.tables import DEVICES, MEASUREMENTS, PROBES, PROBLEMS, insert_if_new
from gemmtune.ties import TIE


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What came into the database."""

    source: str
    """Where from: a path, or a URL without its password."""
    devices: int
    """New devices."""
    problems: int
    """New problems."""
    measurements: int
    """New measurements."""
    present: int
    """Measurements that were there already."""
    running: int
    """Left out because they have not ended; merge again later."""
    slower: int
    """Left out because enough others of the same problem and device are faster, and some everywhere
    else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All rows of a database."""

    devices: Sequence[Mapping[Any, Any]]
    """Of table devices."""
    problems: Sequence[Mapping[Any, Any]]
    """Of table problems."""
    measurements: Sequence[Mapping[Any, Any]]
    """Of table measurements, oldest first."""
    probes: Sequence[Mapping[Any, Any]] = ()
    """Of table probes."""
    forests: Sequence[Mapping[Any, Any]] = ()
    """Of the table of forests."""

    def fastest(self, top: int) -> History:
        """Only the ``top`` fastest rows of each problem on each device, of each family and policy,
        and the other times of the fastest of them: lookups predict from these.

        Of each family, because not every program can use what the fastest one needs.
        """
        kinds = {problem["id"]: problem["kind"].partition(":")[0] for problem in self.problems}
        timed = [row for row in self.measurements if row["time_ns"] is not None]
        fastest: dict[tuple[int, int, str, str], float] = {}
        taken: Counter[tuple[int, int, str, str]] = Counter()
        kept: set[int] = set()
        leading: set[tuple[object, ...]] = set()

        def config_of(row: Mapping[Any, Any]) -> tuple[object, ...]:
            names = ("device_id", "family", "config_key", "policy")
            return (kinds[row["problem_id"]], *(row[name] for name in names))

        for row in sorted(timed, key=lambda row: (row["time_ns"], row["id"])):
            where = (row["device_id"], row["problem_id"], row["family"], row["policy"])
            if row["time_ns"] <= fastest.setdefault(where, row["time_ns"]) * (1.0 + TIE):
                leading.add(config_of(row))
            if taken[where] < top:
                taken[where] += 1
                kept.add(row["id"])
        kept |= {row["id"] for row in timed if config_of(row) in leading}
        return replace(self, measurements=[row for row in self.measurements if row["id"] in kept])


def read(source: Connection) -> History:
    """Everything in ``source`` at one moment."""
    return History(
        devices=source.execute(select(DEVICES)).mappings().all(),
        problems=source.execute(select(PROBLEMS)).mappings().all(),
        measurements=source.execute(select(MEASUREMENTS).order_by(MEASUREMENTS.c.id))
        .mappings()
        .all(),
        probes=source.execute(select(PROBES)).mappings().all(),
        forests=forests.read(source),
    )


def write(target: Connection, whole: History, source: str, top: int | None = None) -> MergeReport:
    """Add what ``target`` has not, or only the ``top`` fastest of it. The caller commits."""
    history = whole if top is None else whole.fastest(top)
    devices, new_devices = _copy_keyed(target, history.devices, DEVICES)
    problems, new_problems = _copy_keyed(target, history.problems, PROBLEMS)
    _describe(target, history.devices)
    _copy_probes(target, history.probes, devices)
    query = select(MEASUREMENTS.c.uuid, MEASUREMENTS.c.finished_at)
    here: dict[str, str | None] = {row.uuid: row.finished_at for row in target.execute(query)}
    _renew(target, history.measurements, here)
    claims = set(target.execute(select(MEASUREMENTS.c.claim)).scalars())
    unknown = [row for row in history.measurements if row["uuid"] not in here]
    ended = [row for row in unknown if row["status"] != "running"]
    new = [
        _without_id(row)
        | {
            "device_id": devices[row["device_id"]],
            "problem_id": problems[row["problem_id"]],
            # Both sides measured the same config: both histories stay, one holds the claim.
            "claim": None if row["claim"] in claims else row["claim"],
        }
        for row in ended
    ]
    if new:
        target.execute(insert(MEASUREMENTS), new)
    forests.write(target, history.forests)
    return MergeReport(
        source=source,
        devices=new_devices,
        problems=new_problems,
        measurements=len(new),
        present=len(history.measurements) - len(unknown),
        running=len(unknown) - len(ended),
        slower=len(whole.measurements) - len(history.measurements),
    )


def _renew(
    target: Connection, rows: Sequence[Mapping[Any, Any]], here: Mapping[str, str | None]
) -> None:
    """Give rows that both sides have the newer measurement: leaders are measured again."""
    kept = ("id", "uuid", "claim", "device_id", "problem_id")
    for row in rows:
        if row["status"] != "running" and row["finished_at"] > (here.get(row["uuid"], "~") or ""):
            newer = {str(name): value for name, value in row.items() if name not in kept}
            target.execute(
                update(MEASUREMENTS).where(MEASUREMENTS.c.uuid == row["uuid"]).values(newer)
            )


def _copy_keyed(
    target: Connection, rows: Sequence[Mapping[Any, Any]], table: Table
) -> tuple[dict[int, int], int]:
    """The source's numbers to the target's numbers of the same keys; how many keys were new."""
    before = set(target.execute(select(table.c.key)).scalars())
    new = [_without_id(row) for row in rows if row["key"] not in before]
    if new:
        target.execute(insert_if_new(target, table), new)
    ids = {key: number for number, key in target.execute(select(table.c.id, table.c.key))}
    return {row["id"]: ids[row["key"]] for row in rows}, len(new)


def _describe(target: Connection, devices: Sequence[Mapping[Any, Any]]) -> None:
    """Give devices that both sides know the newer description of the two."""
    for row in devices:
        older = (DEVICES.c.key == row["key"], DEVICES.c.described_at < row["described_at"])
        newer = {"json": row["json"], "described_at": row["described_at"]}
        target.execute(update(DEVICES).where(*older).values(newer))


def _copy_probes(
    target: Connection, probes: Sequence[Mapping[Any, Any]], devices: Mapping[int, int]
) -> None:
    """Add the answers to questions that the target has not asked."""
    here = set(target.execute(select(PROBES.c.claim)).scalars())
    new = [
        _without_id(row) | {"device_id": devices[row["device_id"]]}
        for row in probes
        if row["claim"] not in here and row["status"] != "running"
    ]
    if new:
        target.execute(insert(PROBES), new)


def _without_id(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items() if name != "id"}
