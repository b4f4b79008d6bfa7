"""Decision trees that say which configs to take first, beside the results that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, inspect, select

from gemmtune.store.tables import FORESTS


def read(connection: Connection) -> list[Mapping[Any, Any]]:
    """All rows of the table; none where there is no table."""
    if not inspect(connection).has_table(FORESTS.name):
        return []
    query = select(FORESTS).order_by(FORESTS.c.device, FORESTS.c.kind)
    return list(connection.execute(query).mappings())


def write(connection: Connection, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Add them; of two of a device and kind the one that knows of newer measurements stays. The
    caller commits.
    """
    newest = {(row["device"], row["kind"]): row["newest"] for row in read(connection)}
    for row in rows:
        where = (row["device"], row["kind"])
        if row["newest"] <= newest.get(where, ""):
            continue
        FORESTS.create(connection, checkfirst=True)
        same = (FORESTS.c.device == row["device"], FORESTS.c.kind == row["kind"])
        connection.execute(delete(FORESTS).where(*same))
        connection.execute(insert(FORESTS).values(dict(row)))
