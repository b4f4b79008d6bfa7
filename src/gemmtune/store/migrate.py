"""From older schemas to the one this code writes, inside a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text, update

from gemmtune.schema import BEST_VIEW, SCHEMA
from gemmtune.store.tables import INTERRUPTED, META, PROBES


def migrate(connection: Connection, number: int) -> None:
    """Bring a database of schema ``number`` up to date; the results in it stay as they are."""
    for step in _STEPS[number - 1 :]:
        step(connection)
    connection.execute(update(META).values(schema=SCHEMA))


def _to_2(connection: Connection) -> None:
    """Probes; who had the device; what kernels need; a best that keeps hot and cold apart."""
    for statement in (
        "ALTER TABLE devices ADD COLUMN described_at TEXT",
        "UPDATE devices SET described_at = first_seen",
        "ALTER TABLE measurements ADD COLUMN granted_at TEXT",
        "ALTER TABLE measurements ADD COLUMN needs TEXT",
        # Whether these had the device was not written down; it is safer to take it that they had.
        "UPDATE measurements SET granted_at = started_at WHERE status = 'running'",
        "DROP VIEW best",
        BEST_VIEW,
    ):
        connection.execute(text(statement))
    INTERRUPTED.create(connection)
    PROBES.create(connection)


_STEPS: tuple[Callable[[Connection], None], ...] = (_to_2,)
"""The step at index i leads from schema i + 1 to i + 2."""
