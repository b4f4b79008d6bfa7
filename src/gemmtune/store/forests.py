"""Decision trees that say which configs to take first, beside the results that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, inspect, select

from gemmtune.store.tables import FORESTS, MEASUREMENTS


def read(connection: Connection) -> list[Mapping[Any, Any]]:
    """All rows of the table; none where there is no table."""
    if not inspect(connection).has_table(FORESTS.name):
        return []
    query = select(FORESTS).order_by(FORESTS.c.device, FORESTS.c.kind)
    return list(connection.execute(query).mappings())


def write(connection: Connection, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Add them; of two of a device and kind the one that knows of newer measurements stays, of
    equal ones the one that comes. The caller commits.
    """
    newest = {(row["device"], row["kind"]): row["newest"] for row in read(connection)}
    for row in rows:
        where = (row["device"], row["kind"])
        if row["newest"] < newest.get(where, ""):
            continue
        FORESTS.create(connection, checkfirst=True)
        same = (FORESTS.c.device == row["device"], FORESTS.c.kind == row["kind"])
        connection.execute(delete(FORESTS).where(*same))
        known = _known(connection, row["newest"])
        connection.execute(insert(FORESTS).values(dict(row) | {"known": known}))


def _known(connection: Connection, newest: str) -> int:
    """The number up to which all measurements are no newer."""
    ids = MEASUREMENTS.c.id
    newer = select(func.min(ids)).where(MEASUREMENTS.c.finished_at > newest)
    first: int | None = connection.execute(newer).scalar()
    last: int | None = connection.execute(select(func.max(ids))).scalar()
    return first - 1 if first else last or 0
