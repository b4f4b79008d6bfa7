"""What was probed of a device: a row per question, committed before the driver meets it.

Functions over a connection; transactions are the caller's. Asks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select

from gemmtune.device import Device
from gemmtune.job import Failure
from gemmtune.probes import Answer, Finding
from gemmtune.store.journal import device_id
from gemmtune.store.owner import Owner
from gemmtune.store.rows import failure_columns, owner_columns, owner_of
from gemmtune.store.tables import DEVICES, PROBES, claim_of, utc

CRASH_MESSAGE = (
    "the process or the machine died of this probe, so it is not tried again; "
    "`gemmtune db retry` takes that back"
)


def findings(connection: Connection, device: Device, basis: str) -> dict[str, Finding]:
    """By question. One that a process is still at is not known; one that outlived it is a crash."""
    query = (
        select(PROBES)
        .join(DEVICES, DEVICES.c.id == PROBES.c.device_id)
        .where(DEVICES.c.key == device.key, PROBES.c.basis == basis)
    )
    known = {}
    for row in connection.execute(query).mappings():
        finding = _finding(row)
        if finding is not None:
            known[row["question"]] = finding
    return known


def _finding(row: RowMapping) -> Finding | None:
    if row["status"] == "ok":
        return Answer(number=row["number"], detail=row["detail"] or "")
    if row["status"] == "failed":
        return Failure(kind=row["failure_kind"], message=row["failure_message"] or "")
    # Of another host's process it cannot be seen; asking again is the lesser evil there.
    died = owner_of(row).alive() is False
    return Failure(kind="crash", message=CRASH_MESSAGE) if died else None


def begin(
    connection: Connection,
    device: Device,
    basis: str,
    question: str,
    owner: Owner,
    now: datetime | None,
) -> None:
    """Insert the running row, in place of what another process may have begun."""
    _put(connection, device, basis, question, owner, now, {"status": "running"})


def finish(
    connection: Connection,
    device: Device,
    basis: str,
    question: str,
    finding: Finding,
    owner: Owner,
    now: datetime | None,
) -> None:
    """Write the finding over the running row."""
    values: dict[str, Any] = {"finished_at": utc(now)}
    if isinstance(finding, Failure):
        values |= {"status": "failed"} | failure_columns(finding)
    else:
        values |= {"status": "ok"} | asdict(finding)
    _put(connection, device, basis, question, owner, now, values)


def _put(
    connection: Connection,
    device: Device,
    basis: str,
    question: str,
    owner: Owner,
    now: datetime | None,
    values: Mapping[str, Any],
) -> None:
    claim = claim_of(device.key, basis, question)
    connection.execute(delete(PROBES).where(PROBES.c.claim == claim))
    connection.execute(
        insert(PROBES).values(
            claim=claim,
            device_id=device_id(connection, device, now, known_better=True),
            basis=basis,
            question=question,
            started_at=utc(now),
            **owner_columns(owner),
            **values,
        )
    )


def retry(connection: Connection, kinds: Sequence[str], device_key: str | None) -> int:
    """Delete the failures of these kinds; returns how many."""
    rows = connection.execute(
        select(PROBES, DEVICES.c.key.label("device_key")).join(
            DEVICES, DEVICES.c.id == PROBES.c.device_id
        )
    ).mappings()
    gone = [
        row["id"]
        for row in rows
        if device_key in (None, row["device_key"])
        and isinstance(finding := _finding(row), Failure)
        and finding.kind in kinds
    ]
    connection.execute(delete(PROBES).where(PROBES.c.id.in_(gone)))
    return len(gone)
