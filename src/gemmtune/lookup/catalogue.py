"""What a database holds for lookups, read once per version of the file through sqlite3."""

from __future__ import annotations

import os
from contextlib import closing
from itertools import compress
from operator import itemgetter

from gemmtune.device import Device
from gemmtune.errors import StoreError
from gemmtune.forest import Forest
from gemmtune.kernels import FAMILIES
from gemmtune.light import loads
from gemmtune.lookup.leader import Leader, traffic_or_none
from gemmtune.lookup.predict import Speed
from gemmtune.schema import (
    FASTEST_QUERY,
    FOREST_QUERY,
    FORESTS,
    LEARNED_QUERY,
    LEARNED_TABLE,
    LEARNED_TRIGGERS,
    PROBLEMS_QUERY,
    TIMES_OF_QUERY,
    TIMES_QUERY,
    UNSEEN_QUERY,
    USUAL_POLICY,
    connect_read_only,
    foreign,
    require_schema,
    translated,
)
from gemmtune.ties import TIE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

BUSY_TIMEOUT_S = 5.0
"""How long a lookup waits for a database that another process holds."""

_READS = 3  # of a file that changes while it is read

Signature = tuple[int, ...]
_Query = tuple[str, "Mapping[str, str | int | None]"]


def signature_of(path: str | Path) -> Signature | None:
    """What changes when the database does; None where there is nothing in it."""
    try:
        main = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if main.st_size == 0:
        return None
    try:
        log = os.stat(f"{path}-wal")
    except FileNotFoundError:
        return (main.st_mtime_ns, main.st_size, main.st_ino)
    return (main.st_mtime_ns, main.st_size, main.st_ino, log.st_mtime_ns, log.st_size)


_KEY, _KIND, _FAMILY, _TEXT, _TIME, _TEMPLATE, _POLICY = map(
    Leader._fields.index,
    ("key", "kind", "family", "text", "time_ns", "generator_hash", "policy"),
)


def _leading(rows: list[tuple[Any, ...]], device: Device) -> Iterator[Leader]:
    """Of times that are ordered, those of configs that lead somewhere: that are tied for the
    fastest of a problem with these dtypes, among those of its family, template and policy.
    """
    contest, config = itemgetter(_KEY, _FAMILY, _TEMPLATE, _POLICY), itemgetter(_TEXT, _POLICY)
    fastest: dict[tuple[str, ...], float] = {}
    leads = [row[_TIME] <= (1 + TIE) * fastest.setdefault(contest(row), row[_TIME]) for row in rows]
    names = [(row[_KIND].partition(":")[0], *config(row)) for row in rows]
    leading = set(compress(names, leads))
    made = Leader._make
    for row, name, it in zip(rows, names, leads, strict=True):
        if name in leading and row[_FAMILY] in FAMILIES:
            yield made((*row, device, it))


class Catalogue:
    """What one database holds, read once; one device's rows when they are first needed."""

    def __init__(
        self,
        path: str | Path,
        signature: Signature,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        first: tuple[str | None, str] = (None, ""),
    ) -> None:
        """Of the file at ``path`` while it has that `signature_of`.

        Args:
            path: the database.
            signature: see `signature_of`.
            busy_timeout_s: how long to wait for who holds it.
            first: a device and a problem, by their keys, that are asked about next.
        """
        self._busy_timeout_s = busy_timeout_s
        self.path = path
        self.signature = signature
        texts, rows = self._read(
            ("SELECT json FROM devices ORDER BY key", {}), (TIMES_OF_QUERY, _wanted(*first))
        )
        devices = [_device(row[0]) for row in texts]
        self.devices = {device.key: device for device in devices if device is not None}
        self._first = first, rows
        self.asked = 0
        """How often `winners` were."""
        self._leaders: dict[tuple[str, str | None], tuple[Leader, ...]] = {}
        self._speeds: dict[str, Speed] = {}

    def winners(self, device_key: str, problem_key: str) -> tuple[Leader, ...]:
        """Of one device and problem, those that `Leader.leads` is said of: all that are the fastest
        of their families, or as fast. The other leaders, which `leaders` has too, won elsewhere.
        """
        if device_key not in self.devices:
            return ()
        self.asked += 1
        first, rows = self._first
        if first != (device_key, problem_key):
            (rows,) = self._read((TIMES_OF_QUERY, _wanted(device_key, problem_key)))
        return tuple(one for one in _leading(rows, self.devices[device_key]) if one.leads)

    def leaders(self, device_key: str, dtypes: str | None = None) -> tuple[Leader, ...]:
        """Of one device, the fastest first.

        Args:
            device_key: `Device.key`.
            dtypes: only of problems with these, as `Gemm.kind` begins; the others are not read.
        """
        if device_key not in self.devices:
            return ()
        if (device_key, dtypes) not in self._leaders:
            device = self.devices[device_key]
            (rows,) = self._read((TIMES_QUERY, {"device": device_key, "dtypes": dtypes}))
            self._leaders[device_key, dtypes] = tuple(_leading(rows, device))
        return self._leaders[device_key, dtypes]

    def learned(self, device_key: str, dtypes: str) -> tuple[list[tuple[Any, ...]], ...]:
        """What the database keeps of what was learned from these rows, and the problems that it is
        about, as `lookup.learned` reads them; nothing where it keeps nothing.
        """
        wanted = {"device": device_key, "dtypes": dtypes}
        return tuple(self._read((LEARNED_QUERY, wanted), (PROBLEMS_QUERY, wanted)))

    def forest(self, device_key: str, kind: str) -> tuple[Forest, int] | None:
        """Which configs to take first for problems of a `Gemm.kind`, and the number up to which all
        measurements here are known to it; None where none is kept, or it cannot be read.
        """
        (rows,) = self._read((FOREST_QUERY, {"device": device_key, "kind": kind}))
        try:
            return (Forest.from_row(*rows[0][:-1]), rows[0][-1]) if rows else None
        except (ValueError, TypeError):
            return None

    def unseen(
        self, device_key: str, kind: str, newest: str, known: int
    ) -> list[tuple[int, int, int, int]]:
        """Sizes and batch of problems with verified measurements after a time, which none is that
        has at most the number that is known.
        """
        wanted: dict[str, str | int | None] = {"device": device_key, "kind": kind}
        wanted |= {"newest": newest, "known": known}
        return self._read((UNSEEN_QUERY, wanted))[0]

    def speed(self, device_key: str) -> Speed:
        """What the results of one device say of it as a whole."""
        if device_key not in self._speeds:
            rows: list[tuple[Any, ...]] = []
            for policy in (USUAL_POLICY, None) if device_key in self.devices else ():
                wanted = {"device": device_key, "policy": policy}
                rows = rows or self._read((FASTEST_QUERY, wanted))[0]
            known = [(bytes_, row[-1]) for row in rows if (bytes_ := traffic_or_none(row[:-1]))]
            kind = self.devices[device_key].adapter_type if rows else ""
            self._speeds[device_key] = Speed.of(kind, known)
        return self._speeds[device_key]

    def _read(self, *queries: _Query) -> list[list[tuple[Any, ...]]]:
        """The rows of queries. Again where the file was replaced or folded meanwhile."""
        for attempt in range(_READS):
            before = signature_of(self.path)
            try:
                rows = self._read_once(queries)
            except StoreError:
                if attempt == _READS - 1 or signature_of(self.path) == before:
                    raise
                continue
            if signature_of(self.path) == before:
                break
        return rows

    def _read_once(self, queries: tuple[_Query, ...]) -> list[list[tuple[Any, ...]]]:
        with (
            translated(self.path),
            closing(connect_read_only(self.path, self._busy_timeout_s)) as connection,
        ):
            connection.execute("BEGIN")
            tables = dict(connection.execute("SELECT lower(name), sql FROM sqlite_master"))
            if not tables:
                return [[] for _ in queries]  # made, and killed before the first table
            if not {"meta", "measurements"} <= tables.keys():
                raise foreign(str(self.path))
            number = connection.execute("SELECT MAX(schema) FROM meta").fetchone()[0]
            require_schema(number, str(self.path))
            # With other columns it is another gemmtune's.
            learned = tables.get("learned") == LEARNED_TABLE.strip()
            absent = set()
            if not learned or not LEARNED_TRIGGERS.keys() <= tables.keys():
                absent.add(LEARNED_QUERY)
            if FORESTS not in tables:
                absent.add(FOREST_QUERY)
            return [
                [] if text in absent else connection.execute(text, wanted).fetchall()
                for text, wanted in queries
            ]


def _wanted(device_key: str | None, problem_key: str) -> dict[str, str | None]:
    return {"device": device_key, "problem": problem_key}


# One row that cannot be read, of another version of gemmtune or damaged, never hides the others;
# `gemmtune db check` names it.


def _device(text: str) -> Device | None:
    try:
        return Device.from_json(loads(text))
    except (ValueError, TypeError, AttributeError):
        return None
